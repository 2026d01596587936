"""Bring back what was: `restore`, in place or to another path.

What is brought back is daemon.wanted's to say, how it gets into a folder daemon.reinstating's. In
place, what is there already stays, what differs goes to history first, and what came later is
left alone and named. Elsewhere nothing may stand there.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Final

from daemon.answers import RestoreLine
from daemon.contents import FolderContents
from daemon.exporting import Exporting
from daemon.ignore import is_private
from daemon.look_set import LookSet
from daemon.reinstating import Reinstating
from daemon.returning import join_paths
from daemon.terminal import counted
from daemon.wanted import Choice, Choosing, Wanted
from store.errors import EXIT_FAILED, EXIT_TRY_LATER, DizzyError, TryLater, UsageError
from store.ids import Kind

if TYPE_CHECKING:
    from daemon.apply import Applier
    from daemon.disk import Disk
    from daemon.folder_work import FolderWork
    from daemon.node import Node
    from store.folder import StoredFolder

_NAMED_LIMIT: Final = 20  # of what came later and stays, so many are named


class Restoring:
    """One restore, from the asking to the last line."""

    def __init__(self, node: Node, work: FolderWork, path: bytes) -> None:
        """Restore a path of a folder; the empty one is the whole folder."""
        self._node = node
        self._work = work
        self._path = path
        self._missing = 0
        self._failed = 0

    async def run(
        self, at_ms: int | None, digits: str | None, target: tuple[FolderWork | None, bytes] | None
    ) -> AsyncIterator[RestoreLine]:
        """Restore; the last line is the summary.

        `target` is where to, in place without one: a path in a folder, or outside of all (None).
        Raises DizzyError for what is wrong before anything was done.
        """
        into, path = target or (self._work, self._path)
        if into is not None:
            await self._ready(into, path, is_in_place=target is None)
        choosing = Choosing(self._node, self._work, self._path)
        async for done, total in choosing.steps(at_ms, digits):
            yield RestoreLine(kind="log", done=done, total=total)
        choice = choosing.choice
        lines = (
            self._outside(choice, path)
            if into is None
            else self._inside(choice, into, path, is_in_place=target is None)
        )
        async for line in lines:
            yield line

    def _count(self, line: RestoreLine) -> None:
        self._missing += line.kind == "missing"
        self._failed += line.kind == "failed"

    async def _ready(self, into: FolderWork, path: bytes, *, is_in_place: bool) -> None:
        """See to it that the target may be written, and that what is there is recorded."""
        shown = os.fsdecode(path) or "the folder"
        if into.trouble.root is not None:
            raise DizzyError(f"restore {shown}", into.trouble.root[0], hint=into.trouble.root[1])
        disk, _ = _at_work(into, shown)
        await into.refresh_members()
        if not into.standing.may_write:
            raise DizzyError(
                f"restore {shown}",
                "this node may only read there",
                hint="give --to DEST outside of the folder",
            )
        if is_private(path):
            raise UsageError(f"restore to {shown}", "that is dizzyd's own")
        if is_in_place:
            trees = (path,) if path else ()
            await into.look_now(
                LookSet(paths=(path,), trees=trees) if path else LookSet(is_full=True)
            )
            return
        pool = self._node.world.pool
        parent = path.rpartition(b"/")[0]
        if await pool.run(disk.stat, path) is not None:
            raise DizzyError(
                f"restore to {shown}",
                "something stands there already",
                hint="give another --to; without it the present version goes to history",
            )
        if parent and await pool.run(disk.stat, parent) is None:
            raise DizzyError(
                f"restore to {shown}",
                f"there is no directory {os.fsdecode(parent)}",
                hint="make it first",
            )

    # -- into a folder ------------------------------------------------------------------------

    async def _inside(
        self, choice: Choice, into: FolderWork, path: bytes, *, is_in_place: bool
    ) -> AsyncIterator[RestoreLine]:
        disk, applier = _at_work(into, os.fsdecode(path))
        reinstating = Reinstating(self._node, into, disk, applier)
        async for line in reinstating.run(choice.wanted, path, _contents(self._node, self._work)):
            self._count(line)
            yield line
        await into.look_now(_where(choice, path, reinstating.highest_made))
        left: list[bytes] = []
        if is_in_place and choice.is_tree:
            stored = self._node.shelf[into.folder_no]
            left = await self._node.world.core.run(_came_later, stored, path, choice.wanted)
            for name in left[:_NAMED_LIMIT]:
                yield RestoreLine(kind="left", text=os.fsdecode(name))
        yield self._summary(choice, path, reinstating.restored, reinstating.unchanged, len(left))

    # -- elsewhere ----------------------------------------------------------------------------

    async def _outside(self, choice: Choice, target: bytes) -> AsyncIterator[RestoreLine]:
        contents = _contents(self._node, self._work)
        exporting = Exporting(choice, self._path, contents, self._node.world.pool)
        async for line in exporting.run(target):
            self._count(line)
            yield line
        yield self._summary(choice, target, exporting.restored, 0, 0)

    # -- the end ------------------------------------------------------------------------------

    def _summary(
        self, choice: Choice, target: bytes, restored: int, unchanged: int, left: int
    ) -> RestoreLine:
        parts = [f"{os.fsdecode(target) or 'the folder'}: {choice.which}"]
        parts.append(f"{counted(restored, 'name')} restored" if restored else "nothing to restore")
        if unchanged:
            parts.append(f"{unchanged} unchanged")
        if left:
            parts.append(f"{left} that came later left")
        if self._missing:
            parts.append(f"{counted(self._missing, 'content')} at no node at hand")
        if self._failed:
            parts.append(f"{self._failed} failed")
        return RestoreLine(kind="summary", text=", ".join(parts), exit_code=self._exit_code())

    def _exit_code(self) -> int:
        if self._failed:
            return EXIT_FAILED
        if not self._missing:
            return 0
        work, sessions = self._work, self._node.sessions
        others = work.members.keys() - {self._node.key.agent}
        is_somebody_away = any(sessions.session(agent) is None for agent in others)
        return EXIT_TRY_LATER if is_somebody_away else EXIT_FAILED


def _at_work(work: FolderWork, shown: str) -> tuple[Disk, Applier]:
    disk, applier = work.disk, work.applier
    if disk is None or applier is None or work.standing.is_joining:
        raise TryLater(
            f"restore {shown}", "the folder is not open yet", hint="`dizzyd status` says why"
        )
    return disk, applier


def _contents(node: Node, work: FolderWork) -> FolderContents:
    disk, _ = _at_work(work, "")
    return FolderContents(
        places=node.places,
        pool=node.world.pool,
        disk=disk,
        folder_no=work.folder_no,
        folder=work.folder,
        fetcher=node.fetcher,
    )


def _where(choice: Choice, path: bytes, made: bytes | None) -> LookSet:
    """Say where to look for what was restored: from the highest directory that was made."""
    if made is not None:
        return LookSet(trees=(made,))
    if not choice.is_tree:
        return LookSet(paths=(path,), settled=frozenset((path,)))
    return LookSet(trees=(path,)) if path else LookSet(is_full=True)


def _came_later(stored: StoredFolder, base: bytes, wanted: Sequence[Wanted]) -> list[bytes]:
    """List what stands below a directory now and was not there then."""
    was_there = {join_paths(base, one.path) for one in wanted}
    found: list[bytes] = []
    waiting = [base]
    while waiting:
        directory = waiting.pop()
        for row in stored.synced.rows_in(directory):
            path = join_paths(directory, row.name)
            if path not in was_there:
                found.append(path)
            elif row.kind is Kind.DIRECTORY:
                waiting.append(path)
    return sorted(set(found))
