"""Put contents back into a folder, as a careful user would: beside apply, never over unseen bytes.

Every round is made in `.dizzyd/tmp`, durable before it is put in place. What stands there makes
way to history, covered by an intent, and is looked at: bytes that synced did not know become a
change of their own. No event is made here: the next look finds what a restore did, as it finds any
edit. A crash in the middle leaves whole files; a name that waited for its new file has the old one
again after the next start.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from daemon.answers import RestoreLine
from daemon.contents import FolderContents
from daemon.disk import DiskError, NewFile, Stage
from daemon.headroom import missing_bytes, shortage
from daemon.journal import FolderJournal
from daemon.leftovers import FETCH_PREFIX
from daemon.outcomes import Intent, SetAside
from daemon.returning import Done, Job, Returning, What, failed, join_paths
from peers.cancelling import to_its_end
from store.ids import BlobHash, Kind
from store.records import BlobRef

if TYPE_CHECKING:
    from daemon.apply import Applier
    from daemon.disk import Disk
    from daemon.folder_work import FolderWork
    from daemon.node import Node
    from daemon.wanted import Wanted
    from store.records import SyncedRow

ROUND_FILES: Final = 256
ROUND_BYTES: Final = 64 << 20
SMALL_BYTES: Final = 1 << 20  # contents up to this size travel whole
_LOOKED_AT_ONCE: Final = 512

T = TypeVar("T")


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
        self._names = node.names
        self._journal = FolderJournal(node.shelf, node.engine, node.world.core, work.folder_no)
        self._returning = Returning(disk, self._names, self._clock)
        self.unchanged = 0
        self.total_bytes = 0

    @property
    def restored(self) -> int:
        """How many names were made, replaced or got other attributes."""
        return self._returning.restored

    @property
    def highest_made(self) -> bytes | None:
        """The highest directory above that had to be made, if any."""
        return self._returning.highest_made

    async def run(
        self, wanted: Sequence[Wanted], base: bytes, contents: FolderContents
    ) -> AsyncIterator[RestoreLine]:
        """Put all of it at `base` and below; directories above it are made.

        What fails or is not to be had is a line, and the rest goes on. Raises RootLost.
        """
        self.total_bytes = sum(one.size for one in wanted if one.kind is Kind.FILE)
        await self._finish(self._returning.make_above, _above(base))
        directories = [one for one in wanted if one.kind is Kind.DIRECTORY]
        for line in await self._make_directories(await self._compare(directories, base)):
            yield line
        others = [one for one in wanted if one.kind is not Kind.DIRECTORY]
        for start in range(0, len(others), _LOOKED_AT_ONCE):
            part = others[start : start + _LOOKED_AT_ONCE]
            jobs = await self._compare(part, base)
            async for line in self._do(jobs, contents):
                yield line
            yield self._progress()

    def _progress(self) -> RestoreLine:
        return RestoreLine(kind="progress", done=self._returning.done_bytes, total=self.total_bytes)

    # -- what is to be done -------------------------------------------------------------------

    async def _compare(self, wanted: Sequence[Wanted], base: bytes) -> list[Job]:
        paths = [join_paths(base, one.path) for one in wanted]
        known = await self._rows_at(paths)
        whats = await self._pool.run(self._returning.compare_all, wanted, paths, known)
        return [
            Job(one, path, what, row)
            for one, path, what, row in zip(wanted, paths, whats, known, strict=True)
        ]

    async def _rows_at(self, paths: Sequence[bytes]) -> list[SyncedRow | None]:
        """Give what synced says of each path."""
        return [at[0] if at else None for at in await self._work.rows_at(paths)]

    # -- doing it -----------------------------------------------------------------------------

    async def _make_directories(self, jobs: Sequence[Job]) -> list[RestoreLine]:
        why = "something stands there that cannot be moved away"
        lines = [failed(job.path, why) for job in jobs if job.what is What.BLOCKED]
        missing_now = [job for job in jobs if job.what in (What.NEW, What.OVER)]
        return [*lines, *await self._place(missing_now, self._applier.damages)]

    async def _do(
        self, jobs: Sequence[Job], contents: FolderContents
    ) -> AsyncIterator[RestoreLine]:
        plain: list[Job] = []
        small: list[Job] = []
        large: list[Job] = []
        for job in jobs:
            if job.what is What.NOTHING:
                self.unchanged += 1
                self._returning.done_bytes += job.wanted.size
            elif job.what is What.BLOCKED:
                yield failed(job.path, "a directory stands there now: give --to DEST")
            elif job.what is What.ATTRIBUTES or job.wanted.kind is Kind.SYMLINK:
                plain.append(job)
            else:
                (small if job.wanted.size <= SMALL_BYTES else large).append(job)
        for line in await self._place(plain, self._applier.damages):
            yield line
        jobs_of = {id(job.wanted): job for job in small}
        for part in rounds([job.wanted for job in small]):
            async for line in self._do_small([jobs_of[id(one)] for one in part], contents):
                yield line
        for job in large:
            async for line in self._do_large(job, contents):
                yield line

    async def _lines_without_room(self, jobs: Sequence[Job]) -> list[RestoreLine]:
        """Say of each that it would go below `min_free` of the disk; nothing where there is room.

        What a restore replaces stays in history, so that all of it is needed beside.
        """
        needed = sum(job.wanted.size for job in jobs)
        space = await self._pool.run(self._disk.space)
        missing_now = missing_bytes(self._node.config.history, space, needed)
        if not missing_now:
            return []
        why, _ = shortage(missing_now, 0, 0)
        return [failed(job.path, f"{why}: free space, then restore again") for job in jobs]

    async def _do_small(
        self, jobs: Sequence[Job], contents: FolderContents
    ) -> AsyncIterator[RestoreLine]:
        if no_room := await self._lines_without_room(jobs):
            for line in no_room:
                yield line
            return
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
            NewFile(found[BlobHash(job.wanted.value)], bool(job.wanted.mode), job.wanted.mtime_ns)
            for job in there
        ]
        damages = self._applier.damages
        try:
            stages = await self._pool.run(self._disk.stage_many, files)
        except DiskError as cause:
            for job in there:
                yield failed(job.path, str(cause))
            return
        staged = [
            Job(job.wanted, job.path, job.what, job.row, stage)
            for job, stage in zip(there, stages, strict=True)
        ]
        for line in await self._place(staged, damages):
            yield line
        yield self._progress()

    async def _do_large(self, job: Job, contents: FolderContents) -> AsyncIterator[RestoreLine]:
        for line in (no_room := await self._lines_without_room([job])):
            yield line
        if no_room:
            return
        value = job.wanted.value.hex().encode()
        name = FETCH_PREFIX + b"%b-restore-%d" % (value, self._names.moment_ns())
        with self._applier.holding(name):
            for line in await self._fetch_and_place(job, name, contents):
                yield line

    async def _fetch_and_place(
        self, job: Job, name: bytes, contents: FolderContents
    ) -> list[RestoreLine]:
        wanted = job.wanted
        damages = self._applier.damages
        try:
            stage = await self._pool.run(self._disk.open_stage, name, wanted.size)
        except DiskError as cause:
            return [failed(job.path, str(cause))]
        is_used = False
        try:
            ref = BlobRef(hash=BlobHash(wanted.value), size=wanted.size)
            if not await contents.large(ref, stage, None):
                return [missing(job.path, wanted.value)]
            await self._pool.run(_dress, stage, wanted, job.path)
            is_used = True
            staged = Job(wanted, job.path, job.what, job.row, stage)
            return [*await self._place([staged], damages), self._progress()]
        except DiskError as cause:
            return [failed(job.path, str(cause))]
        finally:
            stage.close()
            if not is_used:
                await self._pool.run(self._disk.remove_stage, name)

    async def _place(self, jobs: Sequence[Job], damages: int) -> list[RestoreLine]:
        """Put a round in place, and say so in the journal what was displaced by it."""
        if not jobs:
            return []
        try:
            await self._applier.make_durable()
            if self._applier.damages == damages:
                covered = await self._pool.run(self._returning.cover, jobs)
                intents = [job.intent for job in covered if job.intent is not None]
                return await self._finish(self._returning.place_all, covered, intents)
            return [failed(job.path, "an earlier sync failed") for job in jobs]
        except DiskError as cause:
            return [failed(job.path, str(cause)) for job in jobs]
        finally:
            for job in jobs:
                if job.stage is not None:
                    job.stage.close()

    async def _finish(
        self,
        act: Callable[[Sequence[T]], Done],
        things: Sequence[T],
        intents: Sequence[Intent] = (),
    ) -> list[RestoreLine]:
        """Act on the disk alone, to the end even if nobody waits for it any more."""
        return await to_its_end(self._act(act, things, intents))

    async def _act(
        self, act: Callable[[Sequence[T]], Done], things: Sequence[T], intents: Sequence[Intent]
    ) -> list[RestoreLine]:
        lines: list[RestoreLine] = []

        async def change() -> bool:
            done = await self._pool.run(act, things)
            lines.extend(done.lines)
            if done.outcomes:
                await self._applier.make_durable()  # history has it before the journal says so
                self._journal.wall_ms = self._clock.now_ns() // 1_000_000
                await self._journal.commit(done.outcomes)
            return not done.is_unfinished

        paths = [one.step.path for one in intents if isinstance(one.step, SetAside)]
        try:
            await self._applier.yield_to(intents, paths, change)
        finally:
            if self._applier.is_in_doubt:  # who applies tries again to bring back what made way
                self._work.changed()
        return lines



def _dress(stage: Stage, wanted: Wanted, path: bytes) -> None:
    stage.finish(is_executable=bool(wanted.mode), mtime_ns=wanted.mtime_ns, like=path)


def rounds(wanted: Sequence[Wanted]) -> Iterable[list[Wanted]]:
    """Cut files into rounds of at most 256 and 64 MiB."""
    found: list[Wanted] = []
    size = 0
    for one in wanted:
        if found and (len(found) == ROUND_FILES or size + one.size > ROUND_BYTES):
            yield found
            found, size = [], 0
        found.append(one)
        size += one.size
    if found:
        yield found


def _above(path: bytes) -> list[bytes]:
    """List the directories above a path, the highest first, without the root."""
    names = path.split(b"/")[:-1]
    return [b"/".join(names[: count + 1]) for count in range(len(names))]


def missing(path: bytes, value: bytes) -> RestoreLine:
    """Name a content that nobody at hand has."""
    return RestoreLine(kind="missing", text=f"{os.fsdecode(path)}: {value.hex()}")
