"""Put things back on the disk of a folder, and keep what stood there: what a restore does there.

Runs in a worker thread, while apply puts nothing in place. Contents are staged and durable
already. Everything that is displaced goes to history and is looked at; nothing is committed here
and nothing is made durable.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field

from daemon.answers import RestoreLine
from daemon.disk import Disk, DiskError, FileKind, Looked, NameMissing, NameTaken, Stage, Stat
from daemon.displaced import Clock, Names, history_name, settle, stranger_row
from daemon.outcomes import Outcome
from store.errors import DizzyError
from store.ids import Kind
from store.records import SyncedRow

if TYPE_CHECKING:
    from daemon.wanted import Wanted

_RACY_NS: Final = 2_000_000_000  # a file written so shortly before it was read is read again


class What(Enum):
    """What has to be done to have one thing as wanted."""

    NOTHING = 0
    NEW = 1
    OVER = 2  # something else stands there and goes to history
    ATTRIBUTES = 3
    BLOCKED = 4  # a directory stands where a file is wanted


class Job(Struct, frozen=True, gc=False):
    """One thing to be put at a path; `row` is what synced says of the path."""

    wanted: Wanted
    path: bytes
    what: What
    row: SyncedRow | None
    stage: Stage | None = None


class Done(Struct):
    """What a round did."""

    outcomes: list[Outcome] = field(default_factory=list)
    lines: list[RestoreLine] = field(default_factory=list)


class Returning:
    """What one restore does to one disk."""

    def __init__(self, disk: Disk, names: Names, clock: Clock) -> None:
        """Put things on this disk."""
        self._disk = disk
        self._names = names
        self._clock = clock
        self.restored = 0
        self.done_bytes = 0
        self.highest_made: bytes | None = None  # the directory above, if it had to be made

    def compare_all(
        self,
        wanted: Sequence[Wanted],
        paths: Sequence[bytes],
        rows: Sequence[SyncedRow | None],
    ) -> list[What]:
        """Say of each thing what has to be done to have it as wanted."""
        return [
            self._compare_one(one, path, row)
            for one, path, row in zip(wanted, paths, rows, strict=True)
        ]

    def _compare_one(self, wanted: Wanted, path: bytes, row: SyncedRow | None) -> What:
        stat = self._disk.stat(path)
        if stat is None:
            return What.NEW
        if stat.kind not in (FileKind.FILE, FileKind.SYMLINK):
            return What.BLOCKED
        if int(stat.kind) != int(wanted.kind):
            return What.OVER
        if row is not None and _is_as_seen(stat, row):
            value = row.value
        else:
            (looked,) = self._disk.look([path])
            value = looked.value if isinstance(looked, Looked) else b""
        if value != wanted.value:
            return What.OVER
        is_same = stat.mtime_ns == wanted.mtime_ns and (
            wanted.kind is not Kind.FILE or stat.is_executable == bool(wanted.mode)
        )
        return What.NOTHING if is_same else What.ATTRIBUTES

    def make_above(self, paths: Sequence[bytes]) -> Done:
        """Make directories that are missing, the highest first; nothing makes way for them."""
        done = Done()
        for path in paths:
            stat = self._disk.stat(path)
            if stat is None:
                self._disk.make_directory(path)
                self.highest_made = self.highest_made or path
            elif stat.kind is not FileKind.DIRECTORY:
                raise DizzyError(
                    f"restore into {os.fsdecode(path)}",
                    "it is no directory now",
                    hint="give --to DEST",
                )
        return done

    def make_directories(self, known: Sequence[tuple[bytes, SyncedRow | None]]) -> Done:
        """Make directories, those above before those below; a file in the way goes to history.

        Each path comes with what synced says of it.
        """
        done = Done()
        for path, row in known:
            try:
                self._make_directory(path, row, done)
            except DiskError as cause:
                done.lines.append(failed(path, str(cause)))
        return done

    def _make_directory(self, path: bytes, row: SyncedRow | None, done: Done) -> None:
        stat = self._disk.stat(path)
        if stat is not None and stat.kind in (FileKind.FILE, FileKind.SYMLINK):
            self._take_away(path, row, done)
            stat = None
        if stat is None:
            self._disk.make_directory(path)
            self.restored += 1
        elif stat.kind is not FileKind.DIRECTORY:
            done.lines.append(failed(path, "something stands there that cannot be moved away"))

    def place_all(self, jobs: Sequence[Job]) -> Done:
        """Put a round in place."""
        done = Done()
        for job in jobs:
            try:
                self._place_one(job, done)
            except NameTaken:
                done.lines.append(failed(job.path, "something appeared there meanwhile"))
            except DiskError as cause:
                done.lines.append(failed(job.path, str(cause)))
            else:
                self.restored += 1
            self.done_bytes += job.wanted.size
        return done

    def _place_one(self, job: Job, done: Done) -> None:
        wanted, path = job.wanted, job.path
        if job.what is What.ATTRIBUTES:
            self._disk.set_attributes(
                path, is_executable=bool(wanted.mode), mtime_ns=wanted.mtime_ns
            )
        elif wanted.kind is Kind.SYMLINK:
            if job.what is What.OVER:
                self._take_away(path, job.row, done)
            self._disk.make_symlink(wanted.value, path, wanted.mtime_ns)
        elif job.stage is not None:
            self._place_file(job.stage, job, done)

    def _place_file(self, stage: Stage, job: Job, done: Done) -> None:
        if job.what is What.OVER:
            keep_as = b"displaced-tmp-%d" % self._names.moment_ns()
            with suppress(NameMissing):  # it went meanwhile: then nothing is displaced
                _, displaced = self._disk.place_over(stage, job.path, keep_as)
                self._keep(keep_as, job.path, job.row, displaced, done)
                return
        self._disk.place_new(stage, job.path)

    def _take_away(self, path: bytes, row: SyncedRow | None, done: Done) -> None:
        keep_as = b"displaced-tmp-%d" % self._names.moment_ns()
        with suppress(NameMissing):
            displaced = self._disk.take_away(path, keep_as)
            self._keep(keep_as, path, row, displaced, done)

    def _keep(
        self, name: bytes, path: bytes, row: SyncedRow | None, displaced: Stat, done: Done
    ) -> None:
        """Look at what was displaced and move it to history; who writes to it is waited for."""
        if row is None or int(row.kind) != int(displaced.kind):
            row = stranger_row(path.rpartition(b"/")[2], Looked(displaced, b"", 0))
        done.outcomes += settle(
            self._disk,
            self._names,
            name,
            path,
            row,
            history=history_name(self._names.moment_ns(), row),
            is_unchanged=False,
            now_ns=self._clock.now_ns(),
        )


def _is_as_seen(stat: Stat, row: SyncedRow) -> bool:
    return (stat.inode, stat.size, stat.mtime_ns, stat.ctime_ns) == (
        row.inode,
        row.size,
        row.mtime_ns,
        row.ctime_ns,
    ) and row.looked_at_ns - row.mtime_ns > _RACY_NS


def join_paths(base: bytes, path: bytes) -> bytes:
    """Put two relative paths together; either may be empty."""
    return base + b"/" + path if base and path else base or path


def failed(path: bytes, why: str) -> RestoreLine:
    """Say that something could not be restored."""
    return RestoreLine(kind="failed", text=f"{os.fsdecode(path)}: {why}")
