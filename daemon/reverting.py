"""Take back what people did here and what is not to be shared: local changes, held deletions.

It moves no file itself. Synced is brought in line with what a fresh scan found, as if it were
what we put there; the planner then sees the difference to the view and does the rest, by steps
that keep every byte in history and outlive a crash. What nobody ever shared gets a row under a
negative number for as long as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from daemon.acts import Act, Created, Deleted, Edited, Moved, Touched
from daemon.differences import Differences
from daemon.look_set import EVERYTHING, parent_of
from daemon.matching import match
from daemon.scanner import scan
from store.errors import DizzyError, TryLater
from store.ids import Kind
from store.records import PRIMARY, SyncedRow

if TYPE_CHECKING:
    from daemon.disk import Disk, Looked
    from daemon.folder_work import FolderWork
    from daemon.node import Node
    from store.folder import StoredFolder

_ROUNDS = 5  # scans, until nothing changed between a look and its transaction


async def revert_local_changes(node: Node, work: FolderWork) -> None:
    """Let a reader's own changes go to history, and the shared state come back.

    When this returns that is decided durably; the files follow as contents arrive. Raises
    DizzyError where this node may write: its changes are shared already.
    """
    name = node.shelf[work.folder_no].name
    await work.refresh_members()
    if work.standing.may_write:
        raise DizzyError(
            f"revert {name}",
            "this node may write there: its changes are shared, none is only local",
            hint="`dizzyd history PATH` lists what a file was before",
        )
    disk = _disk_of(work, f"revert {name}")
    try:
        await _take_back(node, work, disk, f"revert {name}", lambda acts: acts)
        work.standing.local.paths.clear()
        work.held.release()
    finally:
        work.standing.local.objects.clear()
        await plan_again(node, work)


def refuse_unheld(what: str, work: FolderWork) -> None:
    """Raise DizzyError where nothing waits for a person's word."""
    if not work.held and not work.standing.reverted:
        raise DizzyError(what, "nothing is held", hint="`dizzyd status` shows what is held")


async def put_back_deleted(node: Node, work: FolderWork) -> None:
    """Let what held deletions took away come back, and newer versions of what is held as older.

    They come from history or from peers; the older ones go to history. Raises DizzyError where
    nothing is held.
    """
    name = node.shelf[work.folder_no].name
    refuse_unheld(f"undo-deletions {name}", work)
    disk = _disk_of(work, f"undo-deletions {name}")
    try:
        await _take_back(
            node,
            work,
            disk,
            f"undo-deletions {name}",
            lambda acts: [
                act
                for act in acts
                if (isinstance(act, Deleted) and act.path in work.held)
                or (isinstance(act, Edited) and work.standing.reverted.holds(act))
            ],
        )
        work.held.release()
        work.standing.reverted.release()
    finally:
        await plan_again(node, work)


async def plan_again(node: Node, work: FolderWork) -> None:
    """Queue all that synced and state disagree about; a restart would find the same."""

    def queue() -> None:
        stored = node.shelf[work.folder_no]
        stored.state.changes.objects |= stored.unsynced.find().objects

    await node.world.core.run(queue)
    work.changed()


def _disk_of(work: FolderWork, what: str) -> Disk:
    if work.disk is None:
        raise TryLater(what, "the folder is not open yet", hint="`dizzyd status` says why")
    return work.disk


async def _take_back(
    node: Node,
    work: FolderWork,
    disk: Disk,
    what: str,
    choose: Callable[[Sequence[Act]], Sequence[Act]],
) -> None:
    """Scan and take what was found into synced, until nothing is left."""
    world = node.world
    for _ in range(_ROUNDS):
        bunches: list[Differences] = []
        async for bunch in scan(disk, work, work.ignore, world.pool, world.clock, EVERYTHING):
            bunches.append(bunch)  # noqa: PERF401 - ruff knows no asynchronous extend
        acts = choose([act for bunch in bunches for act in match(bunch)])
        is_whole = await world.core.run(take_all, node.shelf[work.folder_no], acts)
        if is_whole:
            return
    raise TryLater(what, "files change all the time", hint="again, once they rest")


def take_all(stored: StoredFolder, acts: Sequence[Act]) -> bool:
    """Take acts into synced in one transaction; False if it changed since the look."""
    with stored.change():
        taking = _Taking(stored)
        for act in acts:
            taking.take(act)
    return taking.is_whole


class _Taking:
    """Brings synced in line with what stands on disk."""

    def __init__(self, stored: StoredFolder) -> None:
        self._synced = stored.synced
        row = stored.db.execute("SELECT min(object_no) FROM synced").fetchone()
        self._last_no = min(0, row[0] or 0)
        self.is_whole = True

    def take(self, act: Act) -> None:
        """Take one act; those that rest on outdated rows are left for another scan."""
        if isinstance(act, Created):
            self._create(act)
            return
        current = {
            (row.object_no, row.copy): row
            for row in self._synced.rows_of([row.object_no for row in act.rows])
        }
        if any(current.get((row.object_no, row.copy)) != row for row in act.rows):
            self.is_whole = False
            return
        match act:
            case Edited():
                self._synced.put([_seen(row, act.looked) for row in act.rows])
            case Touched():
                self._synced.put([_seen(row, act.looked) for row in act.rows])
            case Moved():
                self._move(act)
            case Deleted():
                self._synced.remove((row.object_no, row.copy) for row in act.rows)

    def _create(self, act: Created) -> None:
        """Know something that no state knows: the planner lets it leave, into history."""
        parents = self._synced.directories_at(parent_of(act.path))
        if not parents or self._synced.rows_at(act.path):
            self.is_whole = False
            return
        self._last_no -= 1
        stat = act.looked.stat
        row = SyncedRow(
            object_no=self._last_no,
            copy=PRIMARY,
            parent_no=parents[0],
            name=act.path.rpartition(b"/")[2],
            kind=Kind(int(stat.kind)),
            value=b"",
            inode=0,
            size=0,
            mtime_ns=0,
            ctime_ns=0,
            mode=0,
            looked_at_ns=0,
            shared_mtime_ns=0,
            events=b"",
            placement=b"",
        )
        self._synced.put([_seen(row, act.looked)])

    def _move(self, act: Moved) -> None:
        parents = self._synced.directories_at(parent_of(act.target))
        if not parents:
            self.is_whole = False
            return
        name = act.target.rpartition(b"/")[2]
        self._synced.put(
            [replace(_seen(row, act.looked), parent_no=parents[0], name=name) for row in act.rows]
        )


def _seen(row: SyncedRow, looked: Looked) -> SyncedRow:
    """Give the row of what stands on disk now.

    Other bytes than the shared ones materialise no event, so `events` is empty then: a restart
    finds that, and an edit that came meanwhile would replace nothing.
    """
    stat = looked.stat
    is_directory = row.kind is Kind.DIRECTORY
    value = b"" if is_directory else looked.value
    is_touched = not is_directory and stat.mtime_ns != row.mtime_ns
    return replace(
        row,
        value=value,
        inode=stat.inode,
        size=0 if is_directory else stat.size,
        mtime_ns=stat.mtime_ns,
        ctime_ns=stat.ctime_ns,
        mode=int(stat.is_executable) if row.kind is Kind.FILE else row.mode,
        looked_at_ns=looked.looked_at_ns,
        shared_mtime_ns=stat.mtime_ns if is_touched else row.shared_mtime_ns,
        events=row.events if value == row.value else b"",
    )
