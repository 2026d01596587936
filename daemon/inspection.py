"""Read one folder back: its log, its state, and what this disk agreed to.

It repairs nothing. Each part is a stream of lines; work goes to the core and to the pool in units
of a few megabytes. Files and history are daemon.file_inspection's.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from daemon.damages import Damages
from daemon.derived import (
    Rows,
    differing_tables,
    homeless_records,
    log_tables,
    state_tables,
    wrong_records,
)
from daemon.file_inspection import FileInspection
from daemon.findings import NAMED_LIMIT, Lines, finding, pending, progress
from daemon.positions import Position
from daemon.scratch import KeptBatch, ObjectPage, Scratch, differing, read_objects
from daemon.snapshot_parts import carry_snapshot
from daemon.terminal import counted
from store.errors import Malformed, TryLater

if TYPE_CHECKING:
    from daemon.answers import VerifyLine
    from daemon.folder_work import FolderWork
    from daemon.node import Node

LOG_UNIT_BYTES = 1 << 20
LOG_UNIT_BATCHES = 256
OBJECTS_AT_ONCE = 1000
DIRECTORIES_AT_ONCE = 64
BUCKETS_LIMIT = 1024  # more would hold the database thread for long; the rows tell enough
_CATCH_UPS = 50
_SHORT = 8


class Inspection:
    """Reads back one folder, in parts that do not need each other."""

    def __init__(self, node: Node, work: FolderWork, position: Position) -> None:
        """Look at a folder at work, or of a stopped node; at files after a position alone."""
        self._world = node.world
        self._work = self.work = work
        self.damages = Damages()
        self._restored_no = 0  # what came with a snapshot, when the reading began
        self._stored = node.shelf[work.folder_no]
        self.name = self._stored.name
        self.reading = FileInspection(node, work, self.damages, position)

    def measure(self) -> int:
        """Sum the bytes to be read."""
        stored = self._stored
        (log_bytes,) = stored.db.execute(
            "SELECT coalesce(sum(length(body)), 0) FROM batch WHERE folder_no = ?", (stored.no,)
        ).fetchone()
        (kept_bytes,) = stored.db.execute(
            "SELECT coalesce(sum(size), 0) FROM kept WHERE folder_no = ?", (stored.no,)
        ).fetchone()
        return int(log_bytes + kept_bytes + stored.synced.file_bytes)

    # -- log and state ----------------------------------------------------------------------------

    async def log(self) -> Lines:
        """Prove every batch, fold them anew, and compare with the state in use."""
        scratch = await self._world.pool.run(Scratch, self._work.folder)
        try:
            for text in await self._begin(scratch):
                self.damages.log.append(text)
                yield finding(self.name, text)
            async for line in self._read_log(scratch):
                yield line
            for text in await self._world.pool.run(scratch.finish):
                self.damages.log.append(text)
                yield finding(self.name, text)
            if scratch.damaged:
                return  # what the state should be, a damaged log cannot say
            async for line in self._compare_objects(scratch):
                yield line
            async for line in self._compare_tables(scratch):
                yield line
            async for line in self._compare_roots(scratch):
                yield line
        except TryLater as later:
            yield pending(self.name, f"{later.why}: run it again")
        finally:
            await self._world.pool.run(scratch.close)

    async def _begin(self, scratch: Scratch) -> list[str]:
        """Begin where the log here does: with a snapshot, if the folder was joined by one."""
        core, pool = self._world.core, self._world.pool
        self._restored_no = restored_no = self._stored.log.restored_no
        if not restored_no:
            return []
        try:
            checkpoint = await carry_snapshot(core, pool, self._stored, scratch.snapshot)
        except Malformed as missing:
            scratch.damaged += 1
            return [str(missing)]
        return await pool.run(scratch.begin_with, checkpoint, restored_no)

    async def _read_log(self, scratch: Scratch) -> Lines:
        """Take in all batches that were stored after those that scratch has."""
        while batches := await self._world.core.run(self._batches, scratch.through_no):
            for text in await self._world.pool.run(scratch.admit, batches):
                self.damages.log.append(text)
                yield finding(self.name, text)
            yield progress(sum(len(kept.body) for kept in batches))

    def _batches(self, after_no: int) -> list[KeptBatch]:
        if self._stored.log.restored_no != self._restored_no:
            raise TryLater("verify", "the log began anew with a snapshot while it was read")
        rows = self._stored.db.execute(
            "SELECT b.no, b.id, l.id, b.seq, b.lamport, b.is_applied, b.is_void, b.header,"
            " b.signature, b.body FROM batch b LEFT JOIN log l ON l.no = b.log_no"
            " WHERE b.folder_no = ? AND b.no > ? ORDER BY b.no",
            (self._stored.no, after_no),
        )
        found: list[KeptBatch] = []
        total = 0
        for row in rows:
            found.append(KeptBatch(*row))
            total += len(found[-1].body)
            if total >= LOG_UNIT_BYTES or len(found) >= LOG_UNIT_BATCHES:
                break
        return found

    async def _compare_objects(self, scratch: Scratch) -> Lines:
        after, wrong = b"", 0
        while True:
            page: ObjectPage | None = None
            async for line in self._caught_up(scratch, partial(self._page, after)):
                if isinstance(line, ObjectPage):
                    page = line
                else:
                    yield line
            if page is None:
                yield pending(self.name, "the state changes too fast to be compared")
                return
            through = None if page.is_last else max(page.objects)
            expected = await self._world.pool.run(scratch.objects, after, through)
            for text in _differences(scratch, page.objects, expected):
                wrong += 1
                self.damages.state.append(text)
                if wrong <= NAMED_LIMIT:
                    yield finding(self.name, text)
            if through is None:
                break
            after = through
        if wrong > NAMED_LIMIT:
            yield finding(self.name, f"{wrong - NAMED_LIMIT} more objects are not as the log says")

    def _page(self, after: bytes) -> ObjectPage:
        stored = self._stored
        return read_objects(stored.db, stored.no, stored.root_no, after, None, OBJECTS_AT_ONCE)

    async def _caught_up(
        self, scratch: Scratch, read: Callable[[], ObjectPage]
    ) -> AsyncGenerator[VerifyLine | ObjectPage, None]:
        """Read a page of the state when scratch has folded the very batches that it has."""
        for _ in range(_CATCH_UPS):
            page = await self._world.core.run(read)
            if page.through_no <= scratch.through_no:
                yield page
                return
            async for line in self._read_log(scratch):
                yield line

    async def _compare_tables(self, scratch: Scratch) -> Lines:
        """Compare what else is folded from the log."""
        for _ in range(_CATCH_UPS):
            logs, states, through_no = await self._world.core.run(self._tables)
            if through_no <= scratch.through_no:
                break
            async for line in self._read_log(scratch):
                yield line
        else:
            return
        wrong = differing_tables(logs, await self._world.pool.run(scratch.log_tables))
        for table in wrong:
            text = f"the table {table} is not what the log says"
            self.damages.log.append(text)
            yield finding(self.name, text)
        for table in differing_tables(states, await self._world.pool.run(scratch.state_tables)):
            text = f"the table {table} is not what the log says"
            self.damages.state.append(text)
            yield finding(self.name, text)

    def _tables(self) -> tuple[dict[str, Rows], dict[str, Rows], int]:
        stored = self._stored
        (newest,) = stored.db.execute(
            "SELECT coalesce(max(no), 0) FROM batch WHERE folder_no = ?", (stored.no,)
        ).fetchone()
        return log_tables(stored.db, stored.no), state_tables(stored.db, stored.no), newest

    async def _compare_roots(self, scratch: Scratch) -> Lines:
        for _ in range(_CATCH_UPS):
            root, through_no = await self._world.core.run(self._root)
            if root is None:
                return
            if through_no <= scratch.through_no:
                expected = await self._world.pool.run(scratch.root)
                if root != expected:
                    self.damages.state.append("its root")
                    yield finding(
                        self.name,
                        f"the state root is {root.hex()[:16]}, the log says {expected.hex()[:16]}",
                    )
                return
            async for line in self._read_log(scratch):
                yield line

    def _root(self) -> tuple[bytes | None, int]:
        stored = self._stored
        if stored.state.buckets.dirty > BUCKETS_LIMIT:
            return None, 0
        (newest,) = stored.db.execute(
            "SELECT coalesce(max(no), 0) FROM batch WHERE folder_no = ?", (stored.no,)
        ).fetchone()
        return stored.state.root(), newest

    # -- records ----------------------------------------------------------------------------------

    async def records(self) -> Lines:
        """Hold what this disk agreed to against the log; a damaged one explains nothing."""
        if self.damages.log:
            return
        if await self._world.core.run(lambda: self._stored.is_epoch_astray):
            yield pending(self.name, "our next change begins a new log: no log has our epoch")
        directories = await self._world.core.run(self._stored.synced.all_directories)
        for start in range(0, len(directories), DIRECTORIES_AT_ONCE):
            part = directories[start : start + DIRECTORIES_AT_ONCE]
            wrong = await self._world.core.run(wrong_records, self._stored, part)
            self.damages.records += wrong
            for row in wrong:
                text = f"{os.fsdecode(row.name)}: its record is not what the log says"
                yield finding(self.name, text)
        lost = await self._world.core.run(homeless_records, self._stored)
        self.damages.records += lost
        if lost:
            records = counted(len(lost), "record")
            yield finding(self.name, f"{records} in no directory of the folder")


def _differences(
    scratch: Scratch,
    found: dict[bytes, tuple[object, ...]],
    expected: dict[bytes, tuple[object, ...]],
) -> Iterator[str]:
    """Say which objects are not as the log says."""
    for identity in sorted(found.keys() | expected.keys()):
        here, there = found.get(identity), expected.get(identity)
        if here == there:
            continue
        if there is None:
            yield f"object {identity.hex()[:_SHORT]} stands in the state, not in the log"
            continue
        path = scratch.path_of(identity) or b""
        shown = os.fsdecode(path)
        if here is None:
            yield f"{shown}: is missing in the state"
        else:
            yield f"{shown}: its state is not what the log says ({differing(here, there)})"
