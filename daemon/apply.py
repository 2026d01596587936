"""Carry out plans: fetch what is missing, make it durable, put it in place, then say so.

Names come first, in segments of steps, each covered by durable intents; contents follow in
rounds of up to 512 files or 32 MiB, the next of which are fetched and staged while one is made
durable; large files come each by itself, beside the others. Synced is committed only after the
disk is durable. Nothing is overwritten unlooked; what must wait or failed is an outcome, and the
other work goes on. When to plan again is the owner's part.
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager, suppress

from daemon.applied import Applied, Blobs, Journal
from daemon.content_tools import ContentTools
from daemon.core import Runner
from daemon.disk import Disk, DiskError, RootLost
from daemon.displaced import Clock, Names
from daemon.echoes import Echoes
from daemon.intents import intent_of
from daemon.large_contents import LargeContents
from daemon.outcomes import Intent, Outcome
from daemon.placing import Placer
from daemon.portions import parts, segments
from daemon.putting import Putting
from daemon.recovery import Recovery
from daemon.rounds import Rounds
from daemon.runs import Run, Runs
from daemon.site import Job
from daemon.steps import Plan, RemoveTree, Step
from daemon.whereabouts import DirectoryPaths
from peers.cancelling import TaskGroup
from store.ids import BlobHash

__all__ = ["Applied", "Applier", "Blobs", "DirectoryPaths", "Journal"]


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
        self._clock = clock
        self._paths = paths
        self._is_ignored = is_ignored
        self._names = names
        self._runs = Runs()
        self._putting = Putting(disk, runner, journal, names)
        tools = ContentTools(
            disk=disk,
            runner=runner,
            blobs=blobs,
            names=names,
            runs=self._runs,
            putting=self._putting,
        )
        self._rounds = Rounds(tools)
        self._large = LargeContents(tools)

    # -- what others ask ---------------------------------------------------------------------

    def is_busy(self, path: bytes) -> bool:
        """Whether the path, or a directory above it, is being changed by us right now.

        What a scanner saw there says nothing until this is False again: look once more then.
        """
        return self._putting.busy_above(path) is not None

    @property
    def is_placing(self) -> bool:
        """Whether any path is busy."""
        return bool(self._putting.busy)

    @contextmanager
    def leaving_alone(self, object_nos: Collection[int]) -> Iterator[None]:
        """Begin no step about these objects meanwhile: what people did to them is recorded."""
        with self._runs.holding(object_nos):
            yield

    def busy_above(self, path: bytes) -> bytes | None:
        """Give what makes a path busy: itself or a directory above it."""
        return self._putting.busy_above(path)

    async def rest(self, limit_s: float) -> bool:
        """Wait until nothing is being put in place, or for so long; whether that came."""
        return await self._putting.rest(limit_s)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Keep apply from putting anything in place meanwhile; never held over the network.

        All that stands in the tree by us is in synced then.
        """
        async with self._putting.alone():
            yield

    async def yield_to(
        self, intents: Sequence[Intent], paths: Iterable[bytes], act: Callable[[], Awaitable[bool]]
    ) -> None:
        """Let a restore change the tree, covered by intents that `act` closes.

        It says whether none is left open: those are seen to at once, as after a crash. No look
        judges `paths` meanwhile.
        """
        try:
            await self._putting.yield_to(intents, paths, act)
        except DiskError:
            with suppress(DiskError):
                await self.finish_doubts()
            raise
        with suppress(DiskError):
            await self.finish_doubts()

    @property
    def is_in_doubt(self) -> bool:
        """Whether an error left something half done that recovery has not seen to yet."""
        return self._putting.is_in_doubt

    @property
    def damages(self) -> int:
        """How many syncs failed so far: what was staged before one that failed is in doubt."""
        return self._putting.damages

    @property
    def echoes(self) -> Echoes:
        """What was put in place and the watcher is still to tell of."""
        return self._putting.echoes

    async def make_durable(self) -> None:
        """Make all that was staged durable.

        The kernel reports a lost write once, to whoever syncs first, so that whoever staged
        meanwhile compares `damages`. Raises DiskError.
        """
        await self._putting.make_durable()

    @contextmanager
    def holding(self, name: bytes) -> Iterator[None]:
        """Leave a download in tmp alone meanwhile, whoever it is for."""
        with self._large.holding(name):
            yield

    async def forget_downloads(self) -> None:
        """Remove downloads that came to nothing, once nothing is left to be applied.

        Those of contents that are superseded; who still waits for one calls this not yet. No
        apply may begin meanwhile. What cannot be removed stays until the next time.
        """
        await self._large.forget_downloads()

    # -- after an error or a crash -------------------------------------------------------------

    async def recover(self, is_wanted: Callable[[BlobHash], bool] = lambda _hash: True) -> Applied:
        """Finish every open intent, then clean tmp but for downloads that `is_wanted` resumes.

        At start, before anything is scanned. Raises RootLost, DiskError.
        """
        async with self.alone():
            outcomes = await self._recover(is_wanted)
        applied = Applied()
        applied.add(outcomes)
        return applied

    async def finish_doubts(self) -> None:
        """Finish what an error left half done, if anything is. Raises RootLost, DiskError."""
        if self._putting.is_in_doubt:
            async with self.alone():
                if self._putting.is_in_doubt:
                    await self._recover(lambda _hash: True)

    async def _recover(self, is_wanted: Callable[[BlobHash], bool]) -> Sequence[Outcome]:
        intents = list(await self._journal.open_intents())
        watches = list(await self._journal.watches(1 << 62))
        recovery = Recovery(self._disk, self._paths, self._clock, self._names)
        in_use = self._large.in_use | {watch.name for watch in watches}
        outcomes = await self._runner.run(recovery.finish, intents, in_use, is_wanted)
        await self._putting.make_durable()  # what other plans have staged hears of a lost write
        await self._journal.commit(outcomes)
        await self._runner.run(recovery.sweep)
        self._putting.is_in_doubt = False
        self._putting.busy.clear()
        return outcomes

    async def _recover_within(self, run: Run) -> bool:
        """Finish what an error left half done; its objects are planned again.

        Whether synced says anything else now.
        """
        async with self.alone():
            outcomes = await self._recover(lambda _hash: True) if self._putting.is_in_doubt else ()
        return run.plan_again(outcomes)

    async def _finish_at_once(self, run: Run) -> None:
        """See to what an error left half done: until then no look may judge those paths.

        Where that fails too, the next apply begins with it.
        """
        with suppress(DiskError):
            await self._recover_within(run)

    # -- plans ---------------------------------------------------------------------------------

    def begin(self, plan: Plan) -> int:
        """Let a plan supersede all that began before it, for its objects; give its number.

        For who applies it later. What was begun has to be applied, or put off.
        """
        return self._runs.begin(plan)

    def put_off(self, number: int) -> None:
        """Say that a plan which was begun is not applied after all."""
        self._runs.end(number)

    async def apply(self, plan: Plan, number: int | None = None) -> Applied:
        """Carry out a plan as far as can be; it begins now, unless it has a `number` already.

        Raises RootLost, and what the journal raises: the next apply then recovers first.
        """
        if number is None:
            number = self.begin(plan)
        run = Run(number, self._runs, self._placer(plan), Applied())
        try:
            if self._putting.is_in_doubt:
                try:
                    is_stale = await self._recover_within(run)
                except RootLost:
                    raise
                except DiskError as cause:  # once more with the next try
                    run.fail([Job(step) for step in plan.steps], cause)
                    return run.applied
                if is_stale:  # the plan went out from what synced said before
                    run.postpone(plan)
                    return run.applied
            await self._carry_out(plan, run)
            if run.is_unfinished:
                await self._finish_at_once(run)
        finally:
            self._runs.end(number)
        return run.applied

    def _placer(self, plan: Plan) -> Placer:
        return Placer(
            self._disk,
            self._paths,
            self._clock,
            self._names,
            steps=plan.steps,
            is_ignored=self._is_ignored,
            busy=self._putting.busy,
        )

    async def _carry_out(self, plan: Plan, run: Run) -> None:
        run.note_blocked(plan)
        names, small, large, rest = parts(plan.steps)
        await self._do_segments(names, run)
        try:
            async with TaskGroup() as group:
                for step in large:
                    group.create_task(self._large.write(step, run))
                await self._rounds.write(small, run, group)
                await self._do_segments(rest, run)
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None

    async def _do_segments(self, steps: Sequence[Step], run: Run) -> None:
        for segment in segments(steps):
            async with self._putting.placing:
                live = self._runs.live(segment, run)
                parted = await self._parted(live, run)
                jobs = [Job(step, intent_of(self._names, step)) for step in parted]
                await self._putting.place(jobs, run)

    async def _parted(self, steps: Sequence[Step], run: Run) -> list[Step]:
        """Have directories that hold anything else than synced says removed name by name."""
        if not any(isinstance(step, RemoveTree) for step in steps):
            return list(steps)
        return await self._runner.run(_part, steps, run.placer)


def _part(steps: Sequence[Step], placer: Placer) -> list[Step]:
    parted: list[Step] = []
    for step in steps:
        if isinstance(step, RemoveTree) and not placer.is_whole(step):
            parted += step.singly
        else:
            parted.append(step)
    return parted
