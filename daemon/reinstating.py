"""Put contents back into a folder, as a careful user would: beside apply, never over unseen bytes.

Every round is made in `.dizzyd/tmp`, durable before it is put in place, and what stood there goes
to history first and is looked at: bytes that synced did not know become a change of their own. No
event is made here: the next look finds what a restore did, as it finds any edit. A crash in the
middle leaves whole files, and what was displaced for the recovery to find in tmp.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeVar

from msgspec import Struct, field

from daemon.answers import RestoreLine
from daemon.contents import FolderContents
from daemon.disk import (
    DiskError,
    FileKind,
    Looked,
    NameMissing,
    NameTaken,
    NewFile,
    Stage,
    Stat,
)
from daemon.displaced import Names, history_name, settle, stranger_row
from daemon.journal import FolderJournal
from daemon.outcomes import Outcome
from store.errors import DizzyError
from store.ids import BlobHash, Kind
from store.records import BlobRef, SyncedRow

if TYPE_CHECKING:
    from daemon.apply import Applier
    from daemon.disk import Disk
    from daemon.folder_work import FolderWork
    from daemon.node import Node
    from daemon.wanted import Wanted

ROUND_FILES: Final = 256
ROUND_BYTES: Final = 64 << 20
SMALL_BYTES: Final = 1 << 20  # contents up to this size travel whole
_LOOKED_AT_ONCE: Final = 512
_RACY_NS: Final = 2_000_000_000  # a file written so shortly before it was read is read again

T = TypeVar("T")


class _What(Enum):
    """What has to be done to have one thing as wanted."""

    NOTHING = 0
    NEW = 1
    OVER = 2  # something else stands there and goes to history
    ATTRIBUTES = 3
    BLOCKED = 4  # a directory stands where a file is wanted


class _Job(Struct, frozen=True, gc=False):
    """One thing to be put at a path; `row` is what synced says of the path."""

    wanted: Wanted
    path: bytes
    what: _What
    row: SyncedRow | None
    stage: Stage | None = None


class _Done(Struct):
    """What a round did."""

    outcomes: list[Outcome] = field(default_factory=list)
    lines: list[RestoreLine] = field(default_factory=list)


class Reinstating:
    """One restore into one folder."""

    def __init__(self, node: Node, work: FolderWork, disk: Disk, applier: Applier) -> None:
        """Put into this folder."""
        self._node = node
        self._work = work
        self._disk = disk
        self._applier = applier
        self._pool = node.world.pool
        self._clock = node.world.clock
        self._names = Names(node.world.clock)
        self._journal = FolderJournal(
            node.shelf, node.engine, node.world.core, work.folder_no
        )
        self.restored = 0
        self.unchanged = 0
        self.done_bytes = 0
        self.total_bytes = 0
        self.highest_made: bytes | None = None  # the directory above, if it had to be made

    async def run(
        self, wanted: Sequence[Wanted], base: bytes, contents: FolderContents
    ) -> AsyncIterator[RestoreLine]:
        """Put all of it at `base` and below; directories above it are made.

        What fails or is not to be had is a line, and the rest goes on. Raises RootLost.
        """
        self.total_bytes = sum(one.size for one in wanted if one.kind is Kind.FILE)
        await self._finish(self._make_above, _above(base))
        directories = [join_paths(base, w.path) for w in wanted if w.kind is Kind.DIRECTORY]
        for line in await self._finish(self._make_directories, directories):
            yield line
        others = [w for w in wanted if w.kind is not Kind.DIRECTORY]
        for start in range(0, len(others), _LOOKED_AT_ONCE):
            part = others[start : start + _LOOKED_AT_ONCE]
            jobs = await self._compare(part, base)
            async for line in self._do(jobs, contents):
                yield line
            yield RestoreLine(kind="progress", done=self.done_bytes, total=self.total_bytes)

    # -- what is to be done -------------------------------------------------------------------

    async def _compare(self, wanted: Sequence[Wanted], base: bytes) -> list[_Job]:
        paths = [join_paths(base, one.path) for one in wanted]
        rows = await self._work.rows_at(paths)
        known = [at[0] if at else None for at in rows]
        whats = await self._pool.run(self._compare_all, wanted, paths, known)
        return [
            _Job(one, path, what, row)
            for one, path, what, row in zip(wanted, paths, whats, known, strict=True)
        ]

    def _compare_all(
        self,
        wanted: Sequence[Wanted],
        paths: Sequence[bytes],
        rows: Sequence[SyncedRow | None],
    ) -> list[_What]:
        return [
            self._compare_one(one, path, row)
            for one, path, row in zip(wanted, paths, rows, strict=True)
        ]

    def _compare_one(self, wanted: Wanted, path: bytes, row: SyncedRow | None) -> _What:
        stat = self._disk.stat(path)
        if stat is None:
            return _What.NEW
        if stat.kind not in (FileKind.FILE, FileKind.SYMLINK):
            return _What.BLOCKED
        if int(stat.kind) != int(wanted.kind):
            return _What.OVER
        if row is not None and _is_as_seen(stat, row):
            value = row.value
        else:
            (looked,) = self._disk.look([path])
            value = looked.value if isinstance(looked, Looked) else b""
        if value != wanted.value:
            return _What.OVER
        is_same = stat.mtime_ns == wanted.mtime_ns and (
            wanted.kind is not Kind.FILE or stat.is_executable == bool(wanted.mode)
        )
        return _What.NOTHING if is_same else _What.ATTRIBUTES

    # -- doing it -----------------------------------------------------------------------------

    async def _do(
        self, jobs: Sequence[_Job], contents: FolderContents
    ) -> AsyncIterator[RestoreLine]:
        plain: list[_Job] = []
        small: list[_Job] = []
        large: list[_Job] = []
        for job in jobs:
            if job.what is _What.NOTHING:
                self.unchanged += 1
                self.done_bytes += job.wanted.size
            elif job.what is _What.BLOCKED:
                yield _failed(job.path, "a directory stands there now: give --to DEST")
            elif job.what is _What.ATTRIBUTES or job.wanted.kind is Kind.SYMLINK:
                plain.append(job)
            else:
                (small if job.wanted.size <= SMALL_BYTES else large).append(job)
        for line in await self._place(plain, self._applier.damages):
            yield line
        for part in _rounds(small):
            async for line in self._do_small(part, contents):
                yield line
        for job in large:
            async for line in self._do_large(job, contents):
                yield line

    async def _do_small(
        self, jobs: Sequence[_Job], contents: FolderContents
    ) -> AsyncIterator[RestoreLine]:
        refs = {
            job.wanted.value: BlobRef(hash=BlobHash(job.wanted.value), size=job.wanted.size)
            for job in jobs
        }
        found = await contents.small(list(refs.values()))
        for job in jobs:
            if job.wanted.value not in found:
                yield missing(job.path, job.wanted.value)
        there = [job for job in jobs if job.wanted.value in found]
        files = [
            NewFile(
                found[BlobHash(job.wanted.value)], bool(job.wanted.mode), job.wanted.mtime_ns
            )
            for job in there
        ]
        damages = self._applier.damages
        try:
            stages = await self._pool.run(self._disk.stage_many, files)
        except DiskError as cause:
            for job in there:
                yield _failed(job.path, str(cause))
            return
        staged = [
            _Job(job.wanted, job.path, job.what, job.row, stage)
            for job, stage in zip(there, stages, strict=True)
        ]
        for line in await self._place(staged, damages):
            yield line
        yield RestoreLine(kind="progress", done=self.done_bytes, total=self.total_bytes)

    async def _do_large(self, job: _Job, contents: FolderContents) -> AsyncIterator[RestoreLine]:
        wanted = job.wanted
        name = b"fetch-tmp-%b-restore-%d" % (wanted.value.hex().encode(), self._names.moment_ns())
        damages = self._applier.damages
        try:
            stage = await self._pool.run(self._disk.open_stage, name)
        except DiskError as cause:
            yield _failed(job.path, str(cause))
            return
        is_used = False
        try:
            ref = BlobRef(hash=BlobHash(wanted.value), size=wanted.size)
            if not await contents.large(ref, stage, None):
                yield missing(job.path, wanted.value)
                return
            await self._pool.run(_dress, stage, wanted, job.path)
            is_used = True
            staged = _Job(wanted, job.path, job.what, job.row, stage)
            for line in await self._place([staged], damages):
                yield line
            yield RestoreLine(kind="progress", done=self.done_bytes, total=self.total_bytes)
        except DiskError as cause:
            yield _failed(job.path, str(cause))
        finally:
            stage.close()
            if not is_used:
                await self._pool.run(self._disk.remove_stage, name)

    async def _place(self, jobs: Sequence[_Job], damages: int) -> list[RestoreLine]:
        """Put a round in place, and say so in the journal what was displaced by it."""
        if not jobs:
            return []
        try:
            await self._applier.make_durable()
            if self._applier.damages == damages:
                return await self._finish(self._place_all, jobs)
            return [_failed(job.path, "an earlier sync failed") for job in jobs]
        except DiskError as cause:
            return [_failed(job.path, str(cause)) for job in jobs]
        finally:
            for job in jobs:
                if job.stage is not None:
                    job.stage.close()

    async def _finish(
        self, act: Callable[[Sequence[T]], _Done], things: Sequence[T]
    ) -> list[RestoreLine]:
        """Act on the disk alone, to the end even if nobody waits for it any more."""
        running = asyncio.ensure_future(self._act(act, things))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise

    async def _act(
        self, act: Callable[[Sequence[T]], _Done], things: Sequence[T]
    ) -> list[RestoreLine]:
        async with self._applier.alone():
            done = await self._pool.run(act, things)
            if done.outcomes:
                await self._applier.make_durable()  # history has it before the journal says so
                self._journal.wall_ms = self._clock.now_ns() // 1_000_000
                await self._journal.commit(done.outcomes)
        return done.lines

    # -- on the disk: in a worker thread --------------------------------------------------------

    def _make_above(self, paths: Sequence[bytes]) -> _Done:
        done = _Done()
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

    def _make_directories(self, paths: Sequence[bytes]) -> _Done:
        done = _Done()
        for path in paths:
            try:
                self._make_directory(path, done)
            except DiskError as cause:
                done.lines.append(_failed(path, str(cause)))
        return done

    def _make_directory(self, path: bytes, done: _Done) -> None:
        stat = self._disk.stat(path)
        if stat is not None and stat.kind in (FileKind.FILE, FileKind.SYMLINK):
            self._take_away(path, None, done)
            stat = None
        if stat is None:
            self._disk.make_directory(path)
            self.restored += 1
        elif stat.kind is not FileKind.DIRECTORY:
            done.lines.append(_failed(path, "something stands there that cannot be moved away"))

    def _place_all(self, jobs: Sequence[_Job]) -> _Done:
        done = _Done()
        for job in jobs:
            try:
                self._place_one(job, done)
            except NameTaken:
                done.lines.append(_failed(job.path, "something appeared there meanwhile"))
            except DiskError as cause:
                done.lines.append(_failed(job.path, str(cause)))
            else:
                self.restored += 1
            self.done_bytes += job.wanted.size
        return done

    def _place_one(self, job: _Job, done: _Done) -> None:
        wanted, path = job.wanted, job.path
        if job.what is _What.ATTRIBUTES:
            self._disk.set_attributes(
                path, is_executable=bool(wanted.mode), mtime_ns=wanted.mtime_ns
            )
        elif wanted.kind is Kind.SYMLINK:
            if job.what is _What.OVER:
                self._take_away(path, job.row, done)
            self._disk.make_symlink(wanted.value, path, wanted.mtime_ns)
        elif job.stage is not None:
            self._place_file(job.stage, job, done)

    def _place_file(self, stage: Stage, job: _Job, done: _Done) -> None:
        if job.what is _What.OVER:
            keep_as = b"displaced-tmp-%d" % self._names.moment_ns()
            with suppress(NameMissing):  # it went meanwhile: then nothing is displaced
                self._disk.place_over(stage, job.path, keep_as)
                self._keep(keep_as, job.path, job.row, done)
                return
        self._disk.place_new(stage, job.path)

    def _take_away(self, path: bytes, row: SyncedRow | None, done: _Done) -> None:
        keep_as = b"displaced-tmp-%d" % self._names.moment_ns()
        with suppress(NameMissing):
            self._disk.take_away(path, keep_as)
            self._keep(keep_as, path, row, done)

    def _keep(self, name: bytes, path: bytes, row: SyncedRow | None, done: _Done) -> None:
        """Look at what was displaced and move it to history; what cannot be read stays in tmp."""
        looked = self._disk.look_stage(name)
        if not isinstance(looked, Looked):
            return
        if row is None or int(row.kind) != int(looked.stat.kind):
            row = stranger_row(path.rpartition(b"/")[2], looked)
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


def _dress(stage: Stage, wanted: Wanted, path: bytes) -> None:
    stage.finish(is_executable=bool(wanted.mode), mtime_ns=wanted.mtime_ns, like=path)


def _is_as_seen(stat: Stat, row: SyncedRow) -> bool:
    return (stat.inode, stat.size, stat.mtime_ns, stat.ctime_ns) == (
        row.inode,
        row.size,
        row.mtime_ns,
        row.ctime_ns,
    ) and row.looked_at_ns - row.mtime_ns > _RACY_NS


def _rounds(jobs: Sequence[_Job]) -> Iterable[list[_Job]]:
    """Cut into rounds of at most 256 files and 64 MiB."""
    found: list[_Job] = []
    size = 0
    for job in jobs:
        if found and (len(found) == ROUND_FILES or size + job.wanted.size > ROUND_BYTES):
            yield found
            found, size = [], 0
        found.append(job)
        size += job.wanted.size
    if found:
        yield found


def join_paths(base: bytes, path: bytes) -> bytes:
    """Put two relative paths together; either may be empty."""
    return base + b"/" + path if base and path else base or path


def _above(path: bytes) -> list[bytes]:
    """List the directories above a path, the highest first, without the root."""
    names = path.split(b"/")[:-1]
    return [b"/".join(names[: count + 1]) for count in range(len(names))]


def _failed(path: bytes, why: str) -> RestoreLine:
    return RestoreLine(kind="failed", text=f"{os.fsdecode(path)}: {why}")


def missing(path: bytes, value: bytes) -> RestoreLine:
    """Name a content that nobody at hand has."""
    return RestoreLine(kind="missing", text=f"{os.fsdecode(path)}: {value.hex()}")
