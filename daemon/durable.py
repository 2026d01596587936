"""Make durable on disk what events are about to say, before they say it.

So after a power cut the log is never ahead of the disk (docs/design.md, 5). Called in a worker
thread; it writes nothing of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from daemon.acts import Act, Created, Deleted, Edited, Moved, Touched
from daemon.disk import Disk, DiskError, FileKind
from store.ids import BlobHash, blob_hash

_INLINE_LIMIT_BYTES = 64 * 1024


def names_facts(act: Act) -> bool:
    """Whether an event may come of an act; of a file that is as it was read before, none will."""
    if not isinstance(act, Touched):
        return True
    stat = act.looked.stat
    return any(
        row.mtime_ns != stat.mtime_ns or row.mode != int(stat.is_executable) for row in act.rows
    )


def make_durable(disk: Disk, acts: Sequence[Act]) -> dict[BlobHash, bytes]:
    """Make durable what the events of these acts will name (docs/design.md, 5).

    Gives the contents of a small change, to go with the news of it.
    """
    files: list[bytes] = []
    directories: set[bytes] = set()
    for act in acts:
        path = act.target if isinstance(act, Moved) else act.path
        if isinstance(act, Deleted) or act.looked.stat.kind is not FileKind.FILE:
            directories.add(path.rpartition(b"/")[0])
        else:
            files.append(path)
        if isinstance(act, Moved):
            directories.add(act.source.rpartition(b"/")[0])
    # A directory that a deletion names is synced as any file: one syncfs from 16 names on.
    disk.sync_files([*files, *sorted(directories)])
    return _contents_of(disk, acts)


def _contents_of(disk: Disk, acts: Sequence[Act]) -> dict[BlobHash, bytes]:
    found: dict[BlobHash, bytes] = {}
    looks = [
        (act.path, act.looked)
        for act in acts
        if isinstance(act, Created | Edited) and act.looked.stat.kind is FileKind.FILE
    ]
    if sum(looked.stat.size for _, looked in looks) > _INLINE_LIMIT_BYTES:
        return found
    for path, looked in looks:
        try:
            content = disk.read(path, 0, looked.stat.size, looked.stat)
        except DiskError:
            continue
        if blob_hash(content) == looked.value:
            found[BlobHash(looked.value)] = content
    return found
