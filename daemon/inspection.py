"""Read one folder back: its log, its state, its files and what history keeps.

It repairs nothing. Other bytes than those recorded are damage only where nothing else about the
file changed: what a user did is for the scanner to find. Each part is a stream of lines; work
goes to the core and to the pool in units of a few megabytes.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from daemon.answers import VerifyLine
from daemon.damages import Damages, LostVersion, RottenFile
from daemon.derived import (
    Rows,
    differing_tables,
    homeless_records,
    log_tables,
    state_tables,
    wrong_records,
)
from daemon.differences import is_row_racy
from daemon.disk import Disk, DiskError, FileKind, Looked, LookFailure, Stat
from daemon.scratch import KeptBatch, ObjectPage, Scratch, differing, read_objects
from daemon.terminal import counted, size
from store.ids import Kind
from store.records import SyncedRow

if TYPE_CHECKING:
    from daemon.folder_work import FolderWork
    from daemon.node import Node

UNIT_BYTES = 32 << 20
UNIT_FILES = 256
LOG_UNIT_BYTES = 1 << 20
OBJECTS_AT_ONCE = 1000
DIRECTORIES_AT_ONCE = 64
BUCKETS_LIMIT = 1024  # more would hold the database thread for long; the rows tell enough
NAMED_LIMIT = 20  # findings of one kind that are told one by one
_CATCH_UPS = 50
_SHORT = 8

Lines = AsyncGenerator[VerifyLine, None]
Group = list[tuple[bytes, list[SyncedRow]]]


def finding(where: str, text: str) -> VerifyLine:
    """Say what is damaged, and where."""
    return VerifyLine(kind="finding", text=f"{where}: {text}")


def progress(done_bytes: int) -> VerifyLine:
    """Say that so many more bytes were read."""
    return VerifyLine(kind="progress", done_bytes=done_bytes)


class Inspection:
    """Reads back one folder, in parts that do not need each other."""

    def __init__(self, node: Node, work: FolderWork, cursor: bytes = b"") -> None:
        """Look at a folder at work, or of a stopped node; at files after a directory alone."""
        self.cursor = cursor  # the last directory whose files were read
        self._world = node.world
        self._work = self.work = work
        self.damages = Damages()
        self._stored = node.shelf[work.folder_no]
        self.name = self._stored.name

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
        finally:
            await self._world.pool.run(scratch.close)

    async def _read_log(self, scratch: Scratch) -> Lines:
        """Take in all batches that were stored after those that scratch has."""
        while batches := await self._world.core.run(self._batches, scratch.through_no):
            for text in await self._world.pool.run(scratch.admit, batches):
                self.damages.log.append(text)
                yield finding(self.name, text)
            yield progress(sum(len(kept.body) for kept in batches))

    def _batches(self, after_no: int) -> list[KeptBatch]:
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
            if total >= LOG_UNIT_BYTES or len(found) >= UNIT_FILES:
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
                yield VerifyLine(
                    kind="pending", text=f"{self.name}: the state changes too fast to be compared"
                )
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
        if stored.state.dirty_buckets > BUCKETS_LIMIT:
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

    # -- files ------------------------------------------------------------------------------------

    async def files(self) -> Lines:
        """Read every file that synced knows."""
        files, amount = await self._world.core.run(self._stored.count_missing)
        if files:
            text = f"{self.name}: {counted(files, 'file')}, {size(amount)} still on the way"
            yield VerifyLine(kind="pending", text=text)
        disk = self._work.disk
        is_own = disk is None
        if disk is None:
            disk = await self._world.pool.run(
                self._world.open_disk, self._work.path, self._work.folder, None
            )
        try:
            async for line in self._read_files(disk):
                yield line
        finally:
            if is_own:
                await self._world.pool.run(self._world.close_disk, disk)

    async def _read_files(self, disk: Disk) -> Lines:
        known = await self._world.core.run(self._stored.synced.all_directories)
        directories = sorted(path for path in known if not self.cursor or path > self.cursor)
        absent: list[bytes] = []
        for start in range(0, len(directories), DIRECTORIES_AT_ONCE):
            part = directories[start : start + DIRECTORIES_AT_ONCE]
            for group in _groups(part, await self._work.rows_in(part)):
                looks = await self._world.pool.run(
                    _look_between_checks, disk, [path for path, _ in group]
                )
                for (path, rows), look in zip(group, looks, strict=True):
                    if look is LookFailure.GONE:
                        absent.append(path)
                    elif text := await self._judge(disk, path, rows, look):
                        yield finding(self.name, text)
                yield progress(sum(rows[0].size for _, rows in group))
            self.cursor = part[-1]
        for line in self._tell_absent(absent):
            yield line

    async def _judge(
        self, disk: Disk, path: bytes, rows: list[SyncedRow], look: Looked | LookFailure
    ) -> str:
        """Say whether a file is damaged: other bytes, and nothing else about it changed."""
        shown = os.fsdecode(path)
        if look is LookFailure.UNREADABLE:
            self.damages.other.append(f"{shown}: cannot be read")
            return f"{shown}: cannot be read"
        if not isinstance(look, Looked) or not _is_other(rows, look):
            return ""
        # A commit may have come between row and look: only a second pair is proof.
        [now] = await self._work.rows_at([path])
        [again] = await self._world.pool.run(_look_between_checks, disk, [path])
        if now != rows or not isinstance(again, Looked) or not _is_other(rows, again):
            return ""
        self.damages.files.append(RottenFile(path=path, rows=rows, looked=again))
        if rows[0].kind is Kind.SYMLINK:
            return f"{shown}: the link leads elsewhere than recorded"
        return (
            f"{shown}: its bytes are not those recorded"
            f" ({again.value.hex()[:_SHORT]} for {rows[0].value.hex()[:_SHORT]})"
        )

    def _tell_absent(self, absent: Sequence[bytes]) -> Iterator[VerifyLine]:
        """Tell what is not there: deleted by its user, and no scan has come by yet."""
        for path in absent[:NAMED_LIMIT]:
            yield VerifyLine(
                kind="pending", text=f"{self.name}: {os.fsdecode(path)}: is not on disk any more"
            )
        if len(absent) > NAMED_LIMIT:
            more = counted(len(absent) - NAMED_LIMIT, "more file")
            yield VerifyLine(kind="pending", text=f"{self.name}: {more} not on disk any more")

    # -- history ----------------------------------------------------------------------------------

    async def history(self) -> Lines:
        """Read every version that was kept."""
        disk = self._work.disk
        is_own = disk is None
        if disk is None:
            try:
                disk = await self._world.pool.run(
                    self._world.open_disk, self._work.path, self._work.folder, None
                )
            except DiskError:
                return  # told with the files
        try:
            async for line in self._read_history(disk):
                yield line
        finally:
            if is_own:
                await self._world.pool.run(self._world.close_disk, disk)

    async def _read_history(self, disk: Disk) -> Lines:
        after = b""
        while kept := await self._world.core.run(self._kept, after):
            after = kept[-1][0]
            looks = await self._world.pool.run(_look_history, disk, [name for name, _, _ in kept])
            for (name, value, amount), look in zip(kept, looks, strict=True):
                if isinstance(look, Looked) and look.value == value:
                    continue
                if await self._world.core.run(self._is_settled, name, value):
                    self.damages.history.append(
                        LostVersion(name=name, value=value, size=amount, look=look)
                    )
                    yield finding(self.name, _history_text(name, look))
            yield progress(sum(amount for _, _, amount in kept))

    def _kept(self, after: bytes) -> list[tuple[bytes, bytes, int]]:
        found: list[tuple[bytes, bytes, int]] = []
        total = 0
        for name, value, amount in self._stored.db.execute(
            "SELECT name, value, size FROM kept WHERE folder_no = ? AND name > ? ORDER BY name",
            (self._stored.no, after),
        ):
            found.append((name, value, amount))
            total += amount
            if total >= UNIT_BYTES or len(found) >= UNIT_FILES:
                break
        return found

    def _is_settled(self, name: bytes, value: bytes) -> bool:
        """Whether a kept version still counts, and nobody may be writing to it."""
        row = self._stored.db.execute(
            "SELECT value FROM kept WHERE folder_no = ? AND name = ?", (self._stored.no, name)
        ).fetchone()
        # By itself, or in the one row of all that a directory held.
        is_watched = self._stored.db.execute(
            "SELECT 1 FROM displaced WHERE name = ? OR (folder_no = ? AND instr(record, ?))",
            (name, self._stored.no, name),
        ).fetchone()
        return row is not None and row[0] == value and is_watched is None


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


def _groups(directories: Sequence[bytes], rows_in: Sequence[list[SyncedRow]]) -> Iterator[Group]:
    """Cut files into groups to be read in one go."""
    group: Group = []
    total = 0
    for directory, rows in zip(directories, rows_in, strict=True):
        by_name: dict[bytes, list[SyncedRow]] = {}
        for row in rows:
            if row.kind is not Kind.DIRECTORY:
                by_name.setdefault(row.name, []).append(row)
        for name, same in by_name.items():
            group.append((directory + b"/" + name if directory else name, same))
            total += same[0].size
            if total >= UNIT_BYTES or len(group) >= UNIT_FILES:
                yield group
                group, total = [], 0
    if group:
        yield group


def _look_between_checks(disk: Disk, paths: Sequence[bytes]) -> list[Looked | LookFailure]:
    """Look at files of a healthy root. Raises RootLost."""
    disk.check_root()
    looks = disk.look(paths)
    disk.check_root()
    return looks


def _look_history(disk: Disk, names: Sequence[bytes]) -> list[Looked | LookFailure]:
    return [disk.look_history(name) for name in names]


def _is_other(rows: Sequence[SyncedRow], look: Looked) -> bool:
    """Whether a file holds other bytes than its rows say although it never changed since."""
    return any(
        look.value != row.value and _is_untouched(row, look.stat) and not is_row_racy(row)
        for row in rows
    )


def _is_untouched(row: SyncedRow, stat: Stat) -> bool:
    return int(stat.kind) == int(row.kind) and (
        stat.inode,
        stat.mtime_ns,
        stat.ctime_ns,
        stat.size,
    ) == (row.inode, row.mtime_ns, row.ctime_ns, row.size)


def _history_text(name: bytes, look: Looked | LookFailure) -> str:
    shown = os.fsdecode(name)
    if look is LookFailure.GONE:
        return f"history: {shown}: is gone"
    if isinstance(look, Looked) and look.stat.kind in (FileKind.FILE, FileKind.SYMLINK):
        return f"history: {shown}: its bytes are not those that were kept"
    return f"history: {shown}: cannot be read"
