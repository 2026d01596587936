"""Carry out plans: fetch what is missing, make it durable, put it in place, then say so.

Names come first, in segments of steps, each covered by durable intents; contents follow in
rounds of up to 512 files or 32 MiB, the next of which are fetched and staged while one is made
durable; large files come each by itself, beside the others. Synced is committed only after the
disk is durable. Nothing is overwritten unlooked; what must wait or failed is an outcome, and the
other work goes on. When to plan again is the owner's part.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

from msgspec import Struct

from daemon.ahead import FETCHED_AHEAD, Ahead, Staged
from daemon.applied import Applied, Blobs, Journal
from daemon.core import Runner
from daemon.disk import Disk, DiskError, NewFile, RootLost, Stage
from daemon.displaced import Clock, Names, history_name
from daemon.echoes import Echoes
from daemon.outcomes import (
    Agreed,
    Failed,
    Intent,
    Outcome,
    Postponed,
    Why,
    failure,
)
from daemon.places import Earlier
from daemon.placing import Placer
from daemon.portions import parts, segments
from daemon.portions import rounds as rounds_of
from daemon.recovery import FETCH_PREFIX, Recovery
from daemon.site import Job, Placed
from daemon.steps import (
    Bind,
    Claim,
    MakeLink,
    Plan,
    RemoveFile,
    RemoveTree,
    Renumber,
    Step,
    WriteFile,
    key_of,
    numbers_of,
    place_of,
    row_for,
)
from daemon.whereabouts import DirectoryPaths
from peers.cancelling import TaskGroup
from store.ids import BlobHash, Kind
from store.records import BlobRef

__all__ = ["Applied", "Applier", "Blobs", "DirectoryPaths", "Journal"]

_LARGE_AT_ONCE = 16  # each has a file open, and up to 16 MiB asked of each peer


class _Put(Struct):
    """Jobs that were done on disk; their names are not durable yet, synced does not know."""

    jobs: Sequence[Job]
    placed: Placed
    is_waiting: bool = False


class _Run(Struct):
    """One plan on its way."""

    number: int
    placer: Placer
    applied: Applied
    is_unfinished: bool = False  # an error came in the middle of a step


class Applier:
    """Applies the plans of one folder. Several may be under way; they touch the disk in turn."""

    def __init__(  # noqa: PLR0917 - the parts of one folder, wired once
        self,
        disk: Disk,
        runner: Runner,
        journal: Journal,
        blobs: Blobs,
        clock: Clock,
        paths: DirectoryPaths,
        *,
        names: Names,
        is_ignored: Callable[[bytes, bool], bool] = lambda _path, _is_directory: False,
    ) -> None:
        """`is_ignored(path, is_directory)` is asked for what keeps a directory from leaving."""
        self._disk = disk
        self._runner = runner
        self._journal = journal
        self._blobs = blobs
        self._clock = clock
        self._paths = paths
        self._is_ignored = is_ignored
        self._names = names
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)  # of all plans together
        self._placing = asyncio.Lock()  # never held while waiting for the network
        self._hands = asyncio.Lock()  # two threads of short calls trade the interpreter at each
        self.echoes = Echoes()
        self._latest: dict[int, int] = {}  # object -> the newest plan that is about it
        self._runs = 0
        self._running: set[int] = set()
        self._damages = 0
        self._needs_recovery = False
        self._busy: set[bytes] = set()
        self._fetching: set[bytes] = set()
        self._may_have_left = True  # downloads in tmp that came to nothing
        self._waiting = 0  # rounds that are in place and wait for the next sync to be committed
        self._none_waits = asyncio.Event()
        self._none_waits.set()

    def is_busy(self, path: bytes) -> bool:
        """Whether the path, or a directory above it, is being changed by us right now.

        What a scanner saw there says nothing until this is False again: look once more then.
        """
        return self.busy_above(path) is not None

    def busy_above(self, path: bytes) -> bytes | None:
        """Give what makes a path busy: itself or a directory above it."""
        busy = self._busy
        if not busy:
            return None
        while path not in busy:
            path, slash, _ = path.rpartition(b"/")
            if not slash:
                return None
        return path

    async def rest(self, limit_s: float) -> bool:
        """Wait until nothing is being put in place, or for so long; whether that came."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                async with self.alone():
                    return True
        return False

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Keep apply from putting anything in place meanwhile; never held over the network.

        All that stands in the tree by us is in synced then.
        """
        while True:
            await self._none_waits.wait()
            async with self._placing:
                if not self._waiting:
                    yield
                    return

    @property
    def is_in_doubt(self) -> bool:
        """Whether an error left something half done that recovery has not seen to yet."""
        return self._needs_recovery

    @property
    def damages(self) -> int:
        """How many syncs failed so far: what was staged before one that failed is in doubt."""
        return self._damages

    async def make_durable(self) -> None:
        """Make all that was staged durable.

        The kernel reports a lost write once, to whoever syncs first, so that whoever staged
        meanwhile compares `damages`. Raises DiskError.
        """
        try:
            await self._runner.run(self._disk.sync)
        except DiskError:
            self._damages += 1
            raise

    async def recover(self, is_wanted: Callable[[BlobHash], bool] = lambda _hash: True) -> Applied:
        """Finish every open intent, then clean tmp but for downloads that `is_wanted` resumes.

        At start, before anything is scanned. Raises RootLost, DiskError.
        """
        async with self.alone():
            outcomes = await self._recover(is_wanted)
        applied = Applied()
        applied.add(outcomes)
        return applied

    async def _recover(self, is_wanted: Callable[[BlobHash], bool]) -> Sequence[Outcome]:
        intents = list(await self._journal.open_intents())
        watches = list(await self._journal.watches(1 << 62))
        recovery = Recovery(self._disk, self._paths, self._clock, self._names)
        in_use = frozenset(self._fetching) | {watch.name for watch in watches}
        outcomes = await self._runner.run(recovery.finish, intents, in_use, is_wanted)
        await self._runner.run(self._disk.sync)
        await self._journal.commit(outcomes)
        await self._runner.run(recovery.sweep)
        self._needs_recovery = False
        self._busy.clear()
        return outcomes

    async def _recover_within(self, run: _Run) -> bool:
        """Finish what an error left half done; its objects are planned again.

        Whether synced says anything else now.
        """
        async with self.alone():
            outcomes = await self._recover(lambda _hash: True) if self._needs_recovery else ()
        objects = {
            no
            for outcome in outcomes
            if isinstance(outcome, Agreed)
            for no, _ in (*map(key_of, outcome.rows), *outcome.gone)
        }
        if objects:
            again = Postponed(b"", tuple(sorted(objects)), Why.BLOCKED)
            run.applied.postponed.append(again)
        return bool(objects)

    async def forget_downloads(self) -> None:
        """Remove downloads that came to nothing, once nothing is left to be applied.

        Those of contents that are superseded; who still waits for one calls this not yet. No
        apply may begin meanwhile. What cannot be removed stays until the next time.
        """
        if self._may_have_left:
            self._may_have_left = False
            await self._runner.run(self._remove_downloads)

    def _remove_downloads(self) -> None:
        with suppress(DiskError):
            for name, _ in self._disk.list_stages():
                if name.startswith(FETCH_PREFIX) and name not in self._fetching:
                    self._disk.remove_stage(name)

    def begin(self, plan: Plan) -> int:
        """Let a plan supersede all that began before it, for its objects; give its number.

        For who applies it later: plans decide in the order in which they were made, not in that
        in which their tasks come to run. What was begun has to be applied.
        """
        self._runs += 1
        for object_no in plan.objects:
            self._latest[object_no] = self._runs
        self._running.add(self._runs)
        return self._runs

    async def apply(self, plan: Plan, number: int | None = None) -> Applied:
        """Carry out a plan as far as can be; it begins now, unless it has a `number` already.

        Raises RootLost, and what the journal raises: the next apply then recovers first.
        """
        if number is None:
            number = self.begin(plan)
        run = _Run(number, self._placer(plan), Applied())
        try:
            if self._needs_recovery:
                try:
                    is_stale = await self._recover_within(run)
                except RootLost:
                    raise
                except DiskError as cause:  # once more with the next try
                    self._fail([Job(step) for step in plan.steps], cause, run)
                    return run.applied
                if is_stale:  # the plan went out from what synced said before
                    self._postpone(plan, run)
                    return run.applied
            await self._carry_out(plan, run)
            if run.is_unfinished:
                await self._finish_at_once(run)
        finally:
            self._running.discard(run.number)
            if not self._running:
                self._latest.clear()
        return run.applied

    def _postpone(self, plan: Plan, run: _Run) -> None:
        path_of = run.placer.path_of_place
        run.applied.postponed += [
            Postponed(path_of(place_of(step)) or b"", numbers_of(step), Why.BLOCKED)
            for step in plan.steps
        ]

    async def _finish_at_once(self, run: _Run) -> None:
        """See to what an error left half done: until then no look may judge those paths.

        Where that fails too, the next apply begins with it.
        """
        with suppress(DiskError):
            await self._recover_within(run)

    def _placer(self, plan: Plan) -> Placer:
        return Placer(
            self._disk,
            self._paths,
            self._clock,
            self._names,
            steps=plan.steps,
            is_ignored=self._is_ignored,
            busy=self._busy,
        )

    async def _carry_out(self, plan: Plan, run: _Run) -> None:
        for blocked in plan.blocked:
            path = run.placer.path_of_place(blocked.place) or b""
            objects = tuple(sorted({*blocked.object_nos, *blocked.by}))
            run.applied.postponed.append(Postponed(path, objects, Why.BLOCKED))
        names, small, large, rest = parts(plan.steps)
        await self._do_segments(names, run)
        try:
            async with TaskGroup() as group:
                for step in large:
                    group.create_task(self._do_large(step, run))
                await self._do_rounds(small, run, group)
                await self._do_segments(rest, run)
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None

    # -- names ---------------------------------------------------------------------------------

    async def _do_segments(self, steps: Sequence[Step], run: _Run) -> None:
        for segment in segments(steps):
            async with self._placing:
                live = self._live(segment, run)
                jobs = [Job(step, self._intent(step)) for step in await self._parted(live, run)]
                await self._place(jobs, run)

    async def _parted(self, steps: Sequence[Step], run: _Run) -> list[Step]:
        """Have directories that hold anything else than synced says removed name by name."""
        if not any(isinstance(step, RemoveTree) for step in steps):
            return list(steps)
        return await self._runner.run(_part, steps, run.placer)

    def _live(self, steps: Iterable[Step], run: _Run) -> list[Step]:
        """Leave out what a later plan decides."""
        if run.number == self._runs:
            return list(steps)
        latest, number = self._latest, run.number
        return [
            step
            for together in steps
            for step in (together.singly if isinstance(together, RemoveTree) else (together,))
            if all(latest.get(no, number) <= number for no in numbers_of(step))
        ]

    def _intent(self, step: Step, stage: Stage | None = None) -> Intent | None:
        """Cover what replaces, renames or removes.

        New files and links need none: nothing stood there, and what a crash leaves is what a
        head says, so that it binds. A directory that gets a number has one, since the steps
        after it name it.
        """
        match step:
            case Bind(Claim(entry), rows, _) if rows and entry.kind is Kind.DIRECTORY:
                return Intent(b"intent-%d" % self._names.moment_ns(), step)
            case Bind() | Renumber() | WriteFile(_, ()) | MakeLink(_, ()):
                return None
            case RemoveFile(rows, _) | WriteFile(_, rows, _) | MakeLink(_, rows):
                at_ns = self._names.moment_ns()
                key = key_of(rows[0]) if isinstance(step, RemoveFile) else key_of(step.claim.entry)
                return Intent(
                    b"intent-%d" % at_ns,
                    step,
                    b"displaced-tmp-%d" % at_ns,
                    history_name(at_ns, row_for(key, rows)),
                    (stage.name or b"") if stage is not None else b"",
                )
            case RemoveTree():
                at_ns = self._names.moments_ns(len(step.inside) + 1)
                return Intent(b"intent-%d" % at_ns, step, b"displaced-tmp-%d" % at_ns)
            case _:
                return Intent(b"intent-%d" % self._names.moment_ns(), step)

    # -- small contents ------------------------------------------------------------------------

    async def _do_rounds(
        self, steps: Sequence[WriteFile], run: _Run, group: asyncio.TaskGroup
    ) -> None:
        rounds = list(rounds_of(steps))
        if not rounds:
            return
        ahead = Ahead(len(rounds))
        group.create_task(self._stage_rounds(rounds, ahead, run, group))
        waiting: _Put | None = None
        try:
            while ahead.left:
                if waiting is not None and not ahead.has_some:
                    # Nothing to sync together with it yet, perhaps for long.
                    await self._settle(waiting, run)
                    waiting = None
                staged = await ahead.take()
                try:
                    waiting = await self._do_round(staged, waiting, run)
                finally:
                    await self._runner.run(_close, staged.jobs)
            if waiting is not None:
                await self._settle(waiting, run)
                waiting = None
        finally:
            if waiting is not None:  # stopped in between: what stands there is recovery's matter
                self._needs_recovery = True
                self._end_waiting(waiting)
            if ahead.has_some:
                await self._runner.run(_close, ahead.take_all().jobs)

    async def _stage_rounds(
        self,
        rounds: Sequence[Sequence[WriteFile]],
        ahead: Ahead,
        run: _Run,
        group: asyncio.TaskGroup,
    ) -> None:
        """Fetch and stage round after round, as far ahead as may be."""
        fetched: deque[asyncio.Task[dict[BlobHash, bytes]]] = deque()
        for number, steps in enumerate(rounds):
            for each in rounds[number + len(fetched) : number + FETCHED_AHEAD]:
                fetched.append(group.create_task(self._fetch(each)))
            contents = await fetched.popleft()
            await ahead.may_stage()
            damages = self._damages
            async with self._hands:
                jobs, outcomes = await self._runner.run(
                    self._stage_all, steps, contents, run.placer
                )
            ahead.put(Staged(jobs, outcomes, damages))
            del contents  # rather than keep them while the next are awaited

    async def _do_round(self, staged: Staged, waiting: _Put | None, run: _Run) -> _Put | None:
        """Put a round in place; one sync makes its data durable and the names of the one before.

        Gives the round, to be committed after the next sync.
        """
        run.applied.add(staged.outcomes)
        if not staged.jobs:
            if waiting is not None:
                await self._settle(waiting, run)
            return None
        is_durable = await self._sync_data(staged, run)
        async with self._placing:
            if waiting is not None and is_durable:
                await self._commit(waiting, run)
            elif waiting is not None:
                self._give_up(waiting, DiskError("make durable", "a sync failed"), run)
            if not is_durable:
                return None
            live = set(map(id, self._live([job.step for job in staged.jobs], run)))
            put = await self._put([job for job in staged.jobs if id(job.step) in live], run)
            put.is_waiting = True
            self._waiting += 1
            self._none_waits.clear()
            return put

    async def _settle(self, waiting: _Put, run: _Run) -> None:
        """Commit a round that waits, after a sync of its own."""
        async with self._placing:
            try:
                await self._runner.run(self._make_durable, waiting.placed)
            except DiskError as cause:
                self._damages += 1
                self._give_up(waiting, cause, run)
            else:
                await self._commit(waiting, run)

    def _give_up(self, put: _Put, cause: DiskError, run: _Run) -> None:
        run.is_unfinished = self._needs_recovery = True
        self._fail(put.jobs, cause, run)
        self._end_waiting(put)

    def _end_waiting(self, put: _Put) -> None:
        if put.is_waiting:
            put.is_waiting = False
            self._waiting -= 1
            if not self._waiting:
                self._none_waits.set()

    async def _fetch(self, steps: Sequence[WriteFile]) -> dict[BlobHash, bytes]:
        """Fetch the contents of a round; those that nobody at hand has are left out."""
        refs = {
            step.claim.entry.value: BlobRef(
                hash=BlobHash(step.claim.entry.value), size=step.claim.entry.size
            )
            for step in steps
            if step.claim.entry.size
        }
        return await self._blobs.small(list(refs.values())) if refs else {}

    def _stage_all(
        self, steps: Sequence[WriteFile], contents: dict[BlobHash, bytes], placer: Placer
    ) -> tuple[list[Job], list[Outcome]]:
        there: list[WriteFile] = []
        files: list[NewFile] = []
        outcomes: list[Outcome] = []
        for step in steps:
            entry = step.claim.entry
            content = contents.get(BlobHash(entry.value)) if entry.size else b""
            if content is None:
                path = placer.path_of_place(step.claim.place) or b""
                outcomes.append(_away(path, step))
                continue
            there.append(step)
            files.append(NewFile(content, bool(entry.mode), entry.mtime_ns))
        try:
            stages = self._disk.stage_many(files)
        except DiskError:
            return self._stage_each(there, files, placer, outcomes)
        jobs = [
            Job(step, self._intent(step), stage) for step, stage in zip(there, stages, strict=True)
        ]
        return jobs, outcomes

    def _stage_each(
        self,
        steps: Sequence[WriteFile],
        files: Sequence[NewFile],
        placer: Placer,
        outcomes: list[Outcome],
    ) -> tuple[list[Job], list[Outcome]]:
        """Find out which of them fail."""
        jobs = []
        for step, file in zip(steps, files, strict=True):
            try:
                (stage,) = self._disk.stage_many([file])
            except DiskError as cause:
                path = placer.path_of_place(step.claim.place) or b""
                outcomes.append(failure(path, numbers_of(step), cause))
            else:
                jobs.append(Job(step, self._intent(step), stage))
        return jobs, outcomes

    async def _finish(self, staged: Staged, run: _Run) -> None:
        """Make a round durable and put it in place."""
        run.applied.add(staged.outcomes)
        if not staged.jobs:
            return
        if not await self._sync_data(staged, run):
            return
        async with self._placing:
            live = set(map(id, self._live([job.step for job in staged.jobs], run)))
            await self._place([job for job in staged.jobs if id(job.step) in live], run)

    async def _sync_data(self, staged: Staged, run: _Run) -> bool:
        """Make staged contents durable; a failed sync fails every round that was under way."""
        try:
            await self.make_durable()
        except DiskError as cause:
            self._fail(staged.jobs, cause, run)
            return False
        if staged.damages == self._damages:
            return True
        self._fail(staged.jobs, DiskError("make durable", "an earlier sync failed"), run)
        return False

    def _fail(self, jobs: Sequence[Job], cause: DiskError, run: _Run) -> None:
        for job in jobs:
            path = run.placer.path_of_place(place_of(job.step)) or b""
            run.applied.failed.append(failure(path, numbers_of(job.step), cause))

    # -- large contents ------------------------------------------------------------------------

    async def _do_large(self, step: WriteFile, run: _Run) -> None:
        entry = step.claim.entry
        async with self._large, self._fetch_name(entry.value) as name:
            if not self._live([step], run):
                return
            old_path = run.placer.path_of_place(step.claim.place) if step.before else None
            damages = self._damages
            try:
                stage = await self._runner.run(self._disk.open_stage, name, entry.size)
            except DiskError as cause:
                self._fail([Job(step)], cause, run)
                return
            try:
                ref = BlobRef(hash=BlobHash(entry.value), size=entry.size)
                old = None if old_path is None else Earlier(old_path, step.before[0])
                if not await self._blobs.large(ref, stage, old):
                    path = run.placer.path_of_place(step.claim.place) or b""
                    run.applied.postponed.append(_away(path, step))
                    return
                await self._runner.run(_dress, stage, step, old_path)
                job = Job(step, self._intent(step, stage), stage)
                await self._finish(Staged([job], [], damages), run)
            except DiskError as cause:
                self._fail([Job(step)], cause, run)
            finally:
                stage.close()

    @asynccontextmanager
    async def _fetch_name(self, value: bytes) -> AsyncIterator[bytes]:
        """Give a stage name of its own to each download, the same after a restart."""
        count = 0
        while (name := FETCH_PREFIX + b"%b-%d" % (value.hex().encode(), count)) in self._fetching:
            count += 1
        with self.holding(name):
            yield name

    @contextmanager
    def holding(self, name: bytes) -> Iterator[None]:
        """Leave a download in tmp alone meanwhile, whoever it is for."""
        self._fetching.add(name)
        self._may_have_left = True
        try:
            yield
        finally:
            self._fetching.discard(name)

    # -- placing -------------------------------------------------------------------------------

    async def _place(self, jobs: Sequence[Job], run: _Run) -> None:
        """Do jobs whose contents are durable: intents, disk, durable again, synced."""
        if not jobs:
            return
        put = await self._put(jobs, run)
        try:
            with self._in_doubt():
                await self._runner.run(self._make_durable, put.placed)
        except DiskError as cause:
            self._damages += 1
            run.is_unfinished = True
            self._fail(jobs, cause, run)
            return
        await self._commit(put, run)

    @contextmanager
    def _in_doubt(self) -> Iterator[None]:
        """Leave to recovery what the block does not come through."""
        had_trouble, self._needs_recovery = self._needs_recovery, True
        yield
        self._needs_recovery = had_trouble

    async def _put(self, jobs: Sequence[Job], run: _Run) -> _Put:
        """Do jobs whose contents are durable: intents, then the disk."""
        intents = [job.intent for job in jobs if job.intent is not None]
        with self._in_doubt():
            await self._journal.begin(intents)
            async with self._hands:
                placed = await self._runner.run(run.placer.execute, jobs)
        if placed.is_unfinished:
            run.is_unfinished = self._needs_recovery = True
        return _Put(jobs, placed)

    async def _commit(self, put: _Put, run: _Run) -> None:
        """Have synced say what was done and is durable by now."""
        done = put.placed.outcomes
        outcomes = [outcome for outcome in done if not isinstance(outcome, Postponed | Failed)]
        with self._in_doubt():
            if outcomes:
                await self._journal.commit(outcomes)
        run.placer.committed()
        run.applied.add(done)
        self.echoes.note(put.placed.new)
        self._end_waiting(put)
        if not self._needs_recovery and not self._waiting:  # else no look may judge
            self._busy.clear()

    def _make_durable(self, placed: Placed) -> None:
        # One sync of the whole file system also makes the names in tmp and history durable.
        if placed.displaces:
            self._disk.sync()
            return
        if placed.files:
            self._disk.sync_files(placed.files)
        self._disk.sync_directories(sorted(placed.directories))


def _part(steps: Sequence[Step], placer: Placer) -> list[Step]:
    parted: list[Step] = []
    for step in steps:
        if isinstance(step, RemoveTree) and not placer.is_whole(step):
            parted += step.singly
        else:
            parted.append(step)
    return parted


def _away(path: bytes, step: WriteFile) -> Postponed:
    return Postponed(path, numbers_of(step), Why.CONTENT_AWAY, step.claim.entry.value)


def _dress(stage: Stage, step: WriteFile, old_path: bytes | None) -> None:
    entry = step.claim.entry
    stage.finish(is_executable=bool(entry.mode), mtime_ns=entry.mtime_ns, like=old_path)


def _close(jobs: Iterable[Job]) -> None:
    for job in jobs:
        if job.stage is not None:
            job.stage.close()
