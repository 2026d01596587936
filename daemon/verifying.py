"""Read everything back, and tell what is not as it was recorded.

The parts are daemon.inspection's; here they are put in order, counted and kept apart, so that
what cannot be read at all is a finding too and the rest goes on. Nothing is repaired.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from daemon.answers import VerifyLine
from daemon.findings import NAMED_LIMIT, Lines, finding, progress
from daemon.inspection import Inspection
from daemon.positions import Position, Positions
from daemon.terminal import counted, size
from store.db import open_database
from store.errors import DizzyError

if TYPE_CHECKING:
    from daemon.folder_work import FolderWork
    from daemon.node import Node
    from store.db import Database

NOTE_EVERY_BYTES: Final = 64 << 20
_KIND: Final = "verify"


async def verify(node: Node, works: Sequence[FolderWork]) -> Lines:
    """Read back the folders at work here; the last line is the summary.

    One that was cut short within a day goes on in the files and in history where it was. Works
    beside a running node and on a stopped one. Raises nothing but cancellation: what cannot be
    read is a finding.
    """
    kept = Positions(node.shelf.db, _KIND)
    run = node.world.core.run
    folder_nos = [work.folder_no for work in works]
    before = await run(kept.read, now_ms(node))
    verification = Verification(node, {no: before[no] for no in folder_nos if no in before})
    noted_bytes = verification.before_bytes
    is_whole = False
    try:
        async with aclosing(verification.lines(works)) as lines:
            async for line in lines:
                if line.done_bytes - noted_bytes >= NOTE_EVERY_BYTES:
                    noted_bytes = line.done_bytes
                    await run(kept.note, verification.positions())
                yield line
        is_whole = True
    finally:
        if is_whole:
            await run(kept.forget, folder_nos)
        else:
            await run(kept.note, verification.positions())
    summary = verification.summary(len(works))
    if not summary.findings and len(works) == len(node.works):
        node.found_damage = ()
    yield summary


class Verification:
    """One run over some folders."""

    def __init__(self, node: Node, begun: Mapping[int, Position] | None = None) -> None:
        """Prepare; lines() reads. `begun` (by folder) says how far others came before."""
        self._node = node
        self._begun = begun or {}
        self._findings = 0
        self.before_bytes = sum(position.read_bytes for position in self._begun.values())
        self._done_bytes = self.before_bytes
        self._total_bytes = 0
        self.folders: list[Inspection] = []
        self.structure: list[str] = []  # what SQLite finds wrong with its own pages
        self.unknown: list[str] = []  # folders of config.toml that the database does not know

    async def lines(self, works: Sequence[FolderWork]) -> Lines:
        """Read everything back; lines in the order of the parts, without a summary."""
        if len(works) == len(self._node.works):
            for line in self._unknown_folders():
                yield line
        async for line in self._guarded("the database", self._database()):
            yield line
        start = Position(now_ms(self._node))
        folders = self.folders = [
            Inspection(self._node, work, self._begun.get(work.folder_no, start)) for work in works
        ]
        for folder in folders:
            async for line in self._guarded(folder.name, self._measure(folder)):
                yield line
        for folder in folders:
            for part in (folder.log, folder.records, folder.reading.files, folder.reading.history):
                async for line in self._guarded(folder.name, part()):
                    yield line

    def positions(self) -> dict[int, Position]:
        """Say how far the files and the history of each folder were read, all well."""
        return {folder.work.folder_no: folder.reading.position for folder in self.folders}

    async def _guarded(self, where: str, lines: Lines) -> Lines:
        """Count lines; what cannot be read at all is a finding, and the other parts go on."""
        try:
            async with aclosing(lines):
                async for line in lines:
                    yield self._count(line)
        except sqlite3.ProgrammingError:
            raise
        except sqlite3.DatabaseError as damaged:
            self.structure.append(str(damaged))
            yield self._count(finding(where, f"the database cannot be read: {damaged}"))
        except DizzyError as failure:
            yield self._count(finding(where, str(failure)))

    def _count(self, line: VerifyLine) -> VerifyLine:
        if line.kind == "progress":
            self._done_bytes += line.done_bytes
            return VerifyLine(
                kind="progress",
                done_bytes=self._done_bytes,
                total_bytes=max(self._total_bytes, self._done_bytes),
            )
        self._findings += line.kind == "finding"
        return line

    def summary(self, folders: int) -> VerifyLine:
        """Say how much was read and found."""
        read = f"{size(self._done_bytes)} read in {counted(folders, 'folder')}"
        if self.before_bytes:
            read += f" ({size(self.before_bytes)} before it was cut short)"
        text = f"{read}: {counted(self._findings, 'finding')}"
        return VerifyLine(
            kind="summary",
            text=text if self._findings else f"{read}: all is well",
            done_bytes=self._done_bytes,
            total_bytes=max(self._total_bytes, self._done_bytes),
            findings=self._findings,
        )

    def _unknown_folders(self) -> Iterator[VerifyLine]:
        for name, folder in self._node.config.folders.items():
            if folder.id is not None and folder.id not in self._node.works:
                self.unknown.append(name)
                yield self._count(
                    finding(name, "config.toml names it, and the database does not know it")
                )

    async def _measure(self, folder: Inspection) -> Lines:
        self._total_bytes += await self._node.world.core.run(folder.measure)
        yield progress(0)

    async def _database(self) -> Lines:
        """Let SQLite check its own structure, over a connection of its own that only reads."""
        world = self._node.world
        path = await world.core.run(_path_of, self._node.shelf.db)
        if path:
            told = await world.pool.run(_check_file, Path(path))
        else:
            told = await world.core.run(_check, self._node.shelf.db)
        self.structure += told
        for text in told:
            yield finding("the database", text)


def now_ms(node: Node) -> int:
    """Give the wall clock."""
    return node.world.clock.now_ns() // 1_000_000


def _path_of(db: Database) -> str:
    return str(db.execute("PRAGMA database_list").fetchone()[2])


def _check_file(path: Path) -> list[str]:
    db = open_database(path, read_only=True)
    try:
        return _check(db)
    finally:
        db.connection.close()


def _check(db: Database) -> list[str]:
    told = [str(row[0]) for row in db.execute(f"PRAGMA integrity_check({NAMED_LIMIT})")]
    return [] if told == ["ok"] else told
