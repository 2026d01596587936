"""Tell a name from another one that a disk takes for the same.

Such a disk finds `Notes.txt` by `notes.txt`. Names compare as exact bytes all the same: who asks
by path asks here whether that very name is there. It changes nothing.
"""

from __future__ import annotations

from daemon.disk import Disk, DiskError, RootLost


def is_by_this_name(disk: Disk, path: bytes) -> bool:
    """Whether what is found at a path has that very name, in the directory that is found there.

    True of everything where the disk folds no names, and where that cannot be told.
    """
    if not disk.folds_names():
        return True
    parent, _, name = path.rpartition(b"/")
    try:
        listed = disk.list_directory(parent)
    except RootLost:
        raise
    except DiskError:
        return True
    return any(other == name for other, _ in listed)


def folded(name: bytes) -> bytes:
    """Give the same for two names that every disk of that kind takes for one.

    Simple lower case: what a disk does beyond it (other forms of one letter, say) it tells when
    it is asked. Only the order of steps, and what is looked at, may depend on it.
    """
    return name.decode("utf-8", "surrogateescape").lower().encode("utf-8", "surrogateescape")
