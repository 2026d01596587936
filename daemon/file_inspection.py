"""Read the files of one folder back, and what its history keeps.

It repairs nothing. Other bytes than those recorded are damage only where nothing else about the
file changed: what a user did is for the scanner to find. Files go to the pool in units of some
megabytes.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from msgspec.structs import replace

from daemon.damages import Damages, LostVersion, RottenFile
from daemon.differences import is_row_racy
from daemon.disk import Disk, FileKind, Looked, LookFailure, Stat
from daemon.findings import NAMED_LIMIT, Lines, finding, pending, progress
from daemon.positions import Position
from daemon.terminal import counted, size
from store.ids import Kind
from store.records import SyncedRow

if TYPE_CHECKING:
    from daemon.answers import VerifyLine
    from daemon.folder_work import FolderWork
    from daemon.node import Node

UNIT_BYTES = 32 << 20
UNIT_FILES = 256
DIRECTORIES_AT_ONCE = 64
_SHORT = 8

Group = list[tuple[bytes, list[SyncedRow]]]


class FileInspection:
    """Reads back the files of one folder, and the versions that were kept."""

    def __init__(self, node: Node, work: FolderWork, damages: Damages, position: Position) -> None:
        """Look at a folder at work, or of a stopped node; at what comes after `position` alone."""
        self.position = position  # all well up to here
        self._world = node.world
        self._work = work
        self._damages = damages
        self._stored = node.shelf[work.folder_no]
        self._name = self._stored.name

    # -- files ------------------------------------------------------------------------------------

    async def files(self) -> Lines:
        """Read every file that synced knows."""
        files, amount = await self._world.core.run(self._stored.unsynced.count_missing)
        if files:
            text = f"{counted(files, 'file')}, {size(amount)} still on the way"
            yield pending(self._name, text)
        async with self._disk() as disk:
            async for line in self._read_files(disk):
                yield line

    @asynccontextmanager
    async def _disk(self) -> AsyncIterator[Disk]:
        """Use the disk of a folder at work; open that of another. Raises DiskError."""
        if self._work.disk is not None:
            yield self._work.disk
            return
        world = self._world
        disk = await world.pool.run(world.open_disk, self._work.path, self._work.folder, None)
        try:
            yield disk
        finally:
            await world.pool.run(world.close_disk, disk)

    def _passed(self, read_bytes: int, **through: bytes) -> VerifyLine:
        """Count bytes that were read, and move on, but never past what was found damaged."""
        damages = self._damages
        if not (damages.files or damages.history or damages.other):
            total = self.position.read_bytes + read_bytes
            self.position = replace(self.position, read_bytes=total, **through)
        return progress(read_bytes)

    async def _read_files(self, disk: Disk) -> Lines:
        known = await self._world.core.run(self._stored.synced.all_directories)
        after = self.position
        directories = sorted(path for path in known if path >= after.directory)
        absent: list[bytes] = []
        for start in range(0, len(directories), DIRECTORIES_AT_ONCE):
            part = directories[start : start + DIRECTORIES_AT_ONCE]
            for group in _groups(part, await self._work.rows_in(part), after):
                looks = await self._world.pool.run(
                    _look_between_checks, disk, [path for path, _ in group]
                )
                for (path, rows), look in zip(group, looks, strict=True):
                    if look is LookFailure.GONE:
                        absent.append(path)
                    elif text := await self._judge(disk, path, rows, look):
                        yield finding(self._name, text)
                directory, _, name = group[-1][0].rpartition(b"/")
                amount = sum(rows[0].size for _, rows in group)
                yield self._passed(amount, directory=directory, name=name)
        for line in self._tell_absent(absent):
            yield line

    async def _judge(
        self, disk: Disk, path: bytes, rows: list[SyncedRow], look: Looked | LookFailure
    ) -> str:
        """Say whether a file is damaged: other bytes, and nothing else about it changed."""
        shown = os.fsdecode(path)
        if look is LookFailure.UNREADABLE:
            self._damages.other.append(f"{shown}: cannot be read")
            return f"{shown}: cannot be read"
        if not isinstance(look, Looked) or not _is_other(rows, look):
            return ""
        # A commit may have come between row and look: only a second pair is proof.
        [now] = await self._work.rows_at([path])
        [again] = await self._world.pool.run(_look_between_checks, disk, [path])
        if now != rows or not isinstance(again, Looked) or not _is_other(rows, again):
            return ""
        self._damages.files.append(RottenFile(path=path, rows=rows, looked=again))
        if rows[0].kind is Kind.SYMLINK:
            return f"{shown}: the link leads elsewhere than recorded"
        return (
            f"{shown}: its bytes are not those recorded"
            f" ({again.value.hex()[:_SHORT]} for {rows[0].value.hex()[:_SHORT]})"
        )

    def _tell_absent(self, absent: Sequence[bytes]) -> Iterator[VerifyLine]:
        """Tell what is not there: deleted by its user, and no scan has come by yet."""
        for path in absent[:NAMED_LIMIT]:
            yield pending(self._name, f"{os.fsdecode(path)}: is not on disk any more")
        if len(absent) > NAMED_LIMIT:
            more = counted(len(absent) - NAMED_LIMIT, "more file")
            yield pending(self._name, f"{more} not on disk any more")

    # -- history ----------------------------------------------------------------------------------

    async def history(self) -> Lines:
        """Read every version that was kept."""
        async with self._disk() as disk:
            async for line in self._read_history(disk):
                yield line

    async def _read_history(self, disk: Disk) -> Lines:
        after = self.position.history
        while kept := await self._world.core.run(self._kept, after):
            after = kept[-1][0]
            looks = await self._world.pool.run(_look_history, disk, [name for name, _, _ in kept])
            for (name, value, amount), look in zip(kept, looks, strict=True):
                if isinstance(look, Looked) and look.value == value:
                    continue
                if await self._world.core.run(self._is_settled, name, value):
                    self._damages.history.append(
                        LostVersion(name=name, value=value, size=amount, look=look)
                    )
                    yield finding(self._name, _history_text(name, look))
            yield self._passed(sum(amount for _, _, amount in kept), history=after)

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


def _groups(
    directories: Sequence[bytes], rows_in: Sequence[list[SyncedRow]], after: Position
) -> Iterator[Group]:
    """Cut the files after a position into groups to be read in one go, in order of their names."""
    group: Group = []
    total = 0
    for directory, rows in zip(directories, rows_in, strict=True):
        by_name: dict[bytes, list[SyncedRow]] = {}
        for row in rows:
            if row.kind is not Kind.DIRECTORY:
                by_name.setdefault(row.name, []).append(row)
        for name, same in sorted(by_name.items()):
            if (directory, name) <= (after.directory, after.name):
                continue
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
