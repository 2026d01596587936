"""Put things back on the disk of a folder, and keep what stood there: what a restore does there.

Runs in a worker thread, while apply puts nothing in place. Contents are staged and durable
already, and so are the intents of all that makes way: where the new one does not come, recovery
brings the old one back. Everything that is displaced goes to history and is looked at; nothing is
committed here and nothing is made durable.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field
from msgspec.structs import replace

from daemon.answers import RestoreLine
from daemon.disk import Disk, DiskError, FileKind, Looked, NameMissing, NameTaken, Stage, Stat
from daemon.displaced import Clock, Names, history_name, row_of_kind, settle, stranger_row
from daemon.outcomes import Intent, Outcome, SetAside, Settled
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
    BLOCKED = 4  # something stands there that cannot make way: a directory for a file, a device


class Job(Struct, frozen=True, gc=False):
    """One thing to be put at a path; `row` is what synced says of the path.

    `intent` covers what has to make way for it (Returning.cover).
    """

    wanted: Wanted
    path: bytes
    what: What
    row: SyncedRow | None
    stage: Stage | None = None
    intent: Intent | None = None


class Done(Struct):
    """What a round did; `is_unfinished` where an intent is left open."""

    outcomes: list[Outcome] = field(default_factory=list)
    lines: list[RestoreLine] = field(default_factory=list)
    is_unfinished: bool = False


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
        if wanted.kind is Kind.DIRECTORY and stat.kind is FileKind.DIRECTORY:
            return What.NOTHING
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

    def cover(self, jobs: Sequence[Job]) -> list[Job]:
        """Give the jobs with an intent each where something has to make way, as it stands now."""
        return [self._covered(job) if job.what is What.OVER else job for job in jobs]

    def _covered(self, job: Job) -> Job:
        stat = self._disk.stat(job.path)
        if stat is None:
            return replace(job, what=What.NEW)
        seen = Looked(stat, b"", 0)
        row = stranger_row(job.path.rpartition(b"/")[2], seen)
        row = row if job.row is None else row_of_kind(job.row, seen)
        value = job.wanted.value if job.wanted.kind is Kind.FILE else b""
        at_ns = self._names.moment_ns()
        intent = Intent(
            b"intent-%d" % at_ns,
            SetAside(job.path, row, value),
            b"displaced-tmp-%d" % at_ns,
            history_name(at_ns, row),
            (job.stage.name or b"") if job.stage is not None else b"",
        )
        return replace(job, row=row, intent=intent)

    def place_all(self, jobs: Sequence[Job]) -> Done:
        """Put a round in place, directories above before those below.

        What fails once its intent is durable is left open: what made way comes back by that.
        """
        done = Done()
        for job in jobs:
            try:
                self._place_one(job, done)
            except NameTaken:
                self._fail(job, "something appeared there meanwhile", done)
            except DiskError as cause:
                self._fail(job, str(cause), done)
            else:
                self.restored += 1
                if job.intent is not None:
                    done.outcomes.append(Settled(job.intent.number))
            self.done_bytes += job.wanted.size
        return done

    def _fail(self, job: Job, why: str, done: Done) -> None:
        done.lines.append(failed(job.path, why))
        done.is_unfinished = done.is_unfinished or job.intent is not None

    def _place_one(self, job: Job, done: Done) -> None:
        wanted, path = job.wanted, job.path
        if job.what is What.ATTRIBUTES:
            self._disk.set_attributes(
                path, is_executable=bool(wanted.mode), mtime_ns=wanted.mtime_ns
            )
        elif job.stage is not None:
            self._place_file(job.stage, job, done)
        elif wanted.kind is not Kind.FILE:
            displaced = self._take_away(job)
            if wanted.kind is Kind.DIRECTORY:
                self._disk.make_directory(path)
            else:
                self._disk.make_symlink(wanted.value, path, wanted.mtime_ns)
            self._keep(job, displaced, done)

    def _place_file(self, stage: Stage, job: Job, done: Done) -> None:
        if job.intent is not None:
            with suppress(NameMissing):  # it went meanwhile: then nothing is displaced
                _, displaced = self._disk.place_over(stage, job.path, job.intent.keep_as)
                self._keep(job, displaced, done)
                return
        self._disk.place_new(stage, job.path)

    def _take_away(self, job: Job) -> Stat | None:
        if job.intent is None:
            return None
        with suppress(NameMissing):  # likewise
            return self._disk.take_away(job.path, job.intent.keep_as)
        return None

    def _keep(self, job: Job, displaced: Stat | None, done: Done) -> None:
        """Look at what was displaced and move it to history; who writes to it is waited for."""
        if displaced is None or job.intent is None or job.row is None:
            return
        done.outcomes += settle(
            self._disk,
            self._names,
            job.intent.keep_as,
            job.path,
            row_of_kind(job.row, Looked(displaced, b"", 0)),
            history=job.intent.history_name,
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
