"""Keep back what looks new and is a known object that was renamed while a look was under way.

A listing finds the new name before the hint of the rename is read, and does not look at the old
one: recorded as it is found, one file would be a new object here, and a deletion of the known one
later, which somebody else may have renamed meanwhile and who keeps it. So what is new by its name
is compared with synced by what cannot be new: its inode, and its content or, of a directory, its
own mtime, which a rename leaves alone. What agrees, and is at its known place no more, is judged by
a look at both names. It concludes nothing by itself and keeps each pair of names back once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from daemon.acts import Act, Created, Moved
from daemon.disk import DiskError, FileKind
from daemon.look_set import parent_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from daemon.disk import Disk
    from store.synced import FolderSynced

PATIENCE_S = 5.0  # a pair of names that is found again after so long is another rename

Rename = tuple[bytes, bytes]  # the name that synced has, and the one that was found


class KeptBack(NamedTuple):
    """What may be recorded of a look, and the renames that are to be judged as a whole first."""

    acts: list[Act]
    renames: list[Rename]


class LateMoves:
    """What was kept back lately, for one folder. Owned by the event loop."""

    def __init__(self) -> None:
        """Begin with nothing kept back."""
        self._kept_back_s: dict[Rename, float] = {}  # when

    def keep_back(self, acts: list[Act], renames: Collection[Rename], now_s: float) -> KeptBack:
        """Part what is found at the new names of `renames`, or below them, from the rest.

        A pair that was kept back just before is not again: what its look found is what there is.
        """
        kept_back_s = self._kept_back_s
        for rename in [one for one, at_s in kept_back_s.items() if at_s < now_s - PATIENCE_S]:
            del kept_back_s[rename]
        fresh = [rename for rename in renames if kept_back_s.pop(rename, None) is None]
        kept_back_s.update(dict.fromkeys(fresh, now_s))
        targets = {target for _, target in fresh}
        kept: list[Act] = []
        for act in acts:
            if not isinstance(act, (Created, Moved)) or not _is_within(_place(act), targets):
                kept.append(act)
            elif isinstance(act, Moved):
                fresh.append((act.source, act.target))
        return KeptBack(kept, fresh)


def suspects(acts: Iterable[Act]) -> list[Created]:
    """Give what is new by its name but perhaps not by itself.

    Who writes a file sets both of its times; a rename, or who sets the mtime, parts them.
    """
    return [
        act
        for act in acts
        if isinstance(act, Created)
        and act.looked.stat.mtime_ns != act.looked.stat.ctime_ns
        and (act.looked.stat.kind is FileKind.DIRECTORY or _may_be_known(act))
    ]


def known_elsewhere(synced: FolderSynced, news: Sequence[Created]) -> list[Rename]:
    """Find what synced has at another path and is the same by its inode and one thing more."""
    files = [act for act in news if act.looked.stat.kind is not FileKind.DIRECTORY]
    directories = [act for act in news if act.looked.stat.kind is FileKind.DIRECTORY]
    rows = synced.rows_with_values([act.looked.value for act in files]) if files else []
    if directories:
        rows += synced.directories_with_inodes({act.looked.stat.inode for act in directories})
    by_inode = {(act.looked.stat.inode, int(act.looked.stat.kind)): act for act in news}
    found: dict[Rename, None] = {}
    for row in rows:
        act = by_inode.get((row.inode, int(row.kind)))
        if act is None:
            continue
        stat = act.looked.stat
        is_directory = stat.kind is FileKind.DIRECTORY
        if row.mtime_ns != stat.mtime_ns if is_directory else row.value != act.looked.value:
            continue
        path = synced.path_of_row(row)
        if path is not None and path != act.path:
            found[path, act.path] = None
    return list(found)


def gone_from_there(disk: Disk, renames: Iterable[Rename]) -> list[Rename]:
    """Give those whose known name is not on disk: another file there would be an edit of it."""
    gone: list[Rename] = []
    for source, target in renames:
        try:
            if disk.stat(source) is None:
                gone.append((source, target))
        except DiskError:
            continue  # nothing is known of it: what was found is recorded as it looks
    return gone


def _may_be_known(act: Created) -> bool:
    stat = act.looked.stat
    # Of empty ones the content says nothing, and there may be thousands; several names of one
    # file are hard links, each an object.
    return stat.links == 1 and stat.size > 0


def _place(act: Created | Moved) -> bytes:
    return act.target if isinstance(act, Moved) else act.path


def _is_within(path: bytes, targets: Collection[bytes]) -> bool:
    while path:
        if path in targets:
            return True
        path = parent_of(path)
    return False
