"""Put in place what is durable, make that durable, and have synced say so: in this order.

All plans of a folder take turns here. Between an intent and its commit everything is in doubt:
what does not come through is left to recovery, and no look may judge it. What is put in place,
and when, is daemon.apply's and daemon.rounds' part.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

from msgspec import Struct

from daemon.ahead import Staged
from daemon.applied import Journal
from daemon.core import Runner
from daemon.disk import Disk, DiskError
from daemon.displaced import Names
from daemon.echoes import Echoes
from daemon.intents import new_names
from daemon.outcomes import Begun, Failed, Intent, Outcome, Postponed, Settled
from daemon.runs import Run
from daemon.site import Job, Placed
from peers.cancelling import to_its_end


class Put(Struct):
    """Jobs that were done on disk; their names are not durable yet, synced does not know."""

    jobs: Sequence[Job]
    placed: Placed
    is_waiting: bool = False


class Putting:
    """The one hand that changes the tree of a folder for what others did."""

    def __init__(self, disk: Disk, runner: Runner, journal: Journal, names: Names) -> None:
        """Begin with nothing under way."""
        self._disk = disk
        self._runner = runner
        self._journal = journal
        self._names = names
        self.placing = asyncio.Lock()  # never held while waiting for the network
        self.hands = asyncio.Lock()  # two threads of short calls trade the interpreter at each
        self.echoes = Echoes()
        self.busy: set[bytes] = set()  # paths, each from before it is touched to the commit
        self.is_in_doubt = False  # something is half done that recovery has not seen to yet
        self.damages = 0  # syncs that failed: what was staged before one that failed is in doubt
        # Rounds that are in place and wait for the next sync to be committed.
        self._waiting: list[tuple[Put, Run]] = []
        self._none_waits = asyncio.Event()
        self._none_waits.set()

    def busy_above(self, path: bytes) -> bytes | None:
        """Give what makes a path busy: itself or a directory above it."""
        busy = self.busy
        if not busy:
            return None
        while path not in busy:
            path, slash, _ = path.rpartition(b"/")
            if not slash:
                return None
        return path

    async def rest(self, limit_s: float) -> bool:
        """Wait until nothing is being put in place, or for so long; whether that came.

        Nobody is hurried by it: each hint asks.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while True:
                    await self._none_waits.wait()
                    async with self.placing:
                        if not self._waiting:
                            return True
        return False

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Keep apply from putting anything in place meanwhile; never held over the network.

        All that stands in the tree by us is in synced then: a round that waits is committed
        now, since a long plan has one that waits until it ends.
        """
        async with self.placing:
            for put, run in list(self._waiting):
                await to_its_end(self._settle(put, run))
            yield

    async def yield_to(
        self, intents: Sequence[Intent], paths: Iterable[bytes], act: Callable[[], Awaitable[bool]]
    ) -> None:
        """Let somebody else change the tree, covered by intents as a step of ours is.

        `act` closes them, and says whether none is left open; what is, and what it does not come
        through, is recovery's matter. No look judges `paths` meanwhile.
        """
        async with self.alone():
            with self._in_doubt():
                if intents:
                    await self._journal.begin(intents)
                self.busy.update(paths)
                is_finished = await act()
            self.is_in_doubt = self.is_in_doubt or not is_finished
            if not self.is_in_doubt:
                self.busy.clear()

    async def make_durable(self) -> None:
        """Make all that was staged durable.

        The kernel reports a lost write once, to whoever syncs first, so that whoever staged
        meanwhile compares `damages`. Raises DiskError.
        """
        try:
            await self._runner.run(self._disk.sync)
        except DiskError:
            self.damages += 1
            raise

    async def sync_data(self, staged: Staged, run: Run) -> bool:
        """Make staged contents durable; a failed sync fails every round that was under way."""
        try:
            await self.make_durable()
        except DiskError as cause:
            run.fail(staged.jobs, cause)
            return False
        if staged.damages == self.damages:
            return True
        run.fail(staged.jobs, DiskError("make durable", "an earlier sync failed"))
        return False

    async def place(self, jobs: Sequence[Job], run: Run) -> None:
        """Do jobs whose contents are durable: intents, disk, durable again, synced."""
        if not jobs:
            return
        put = await self.put(jobs, run)
        try:
            with self._in_doubt():
                await self._runner.run(self._make_durable, put.placed)
        except DiskError as cause:
            self.damages += 1
            run.is_unfinished = True
            run.fail(jobs, cause)
            return
        await self.commit(put, run)

    @contextmanager
    def _in_doubt(self) -> Iterator[None]:
        """Leave to recovery what the block does not come through."""
        had_trouble, self.is_in_doubt = self.is_in_doubt, True
        yield
        self.is_in_doubt = had_trouble

    async def put(self, jobs: Sequence[Job], run: Run, waiting: Put | None = None) -> Put:
        """Do jobs whose contents are durable: intents, then the disk.

        A round that waited, durable by now, is committed together with the intents, unless
        somebody did it already.
        """
        if waiting is not None and not waiting.is_waiting:
            waiting = None
        intents = [job.intent for job in jobs if job.intent is not None]
        new = new_names(self._names, [job.step for job in jobs])
        if new is not None:  # behind those of the directories that they come into
            intents.append(new)
        if waiting is not None:
            await self.commit(waiting, run, intents)
        with self._in_doubt():
            if waiting is None:
                await self._journal.begin(intents)
            async with self.hands:
                # What people did may have been recorded since the plan was made.
                jobs, late = run.part_late(jobs)
                placed = await to_its_end(self._runner.run(run.placer.execute, jobs))
        placed.outcomes += [Settled(job.intent.number) for job in late if job.intent is not None]
        if new is not None:
            placed.outcomes.append(Settled(new.number))
        if placed.is_unfinished:
            run.is_unfinished = self.is_in_doubt = True
        return Put(jobs, placed)

    async def commit(self, put: Put, run: Run, intents: Sequence[Intent] = ()) -> None:
        """Have synced say what was done and is durable by now; `intents` are what comes next."""
        done = put.placed.outcomes
        outcomes: list[Outcome] = [
            outcome for outcome in done if not isinstance(outcome, Postponed | Failed)
        ]
        outcomes += map(Begun, intents)
        with self._in_doubt():
            if outcomes:
                await self._journal.commit(outcomes)
        run.placer.committed()
        run.note_committed(done)
        run.applied.add(done)
        self.echoes.note(put.placed.new)
        self._end_waiting(put)
        if not self.is_in_doubt and not self._waiting:  # else no look may judge
            self.busy.clear()

    def _make_durable(self, placed: Placed) -> None:
        # One sync of the whole file system also makes the names in tmp and history durable.
        if placed.displaces:
            self._disk.sync()
            return
        if placed.files:
            self._disk.sync_files(placed.files)
        self._disk.sync_directories(sorted(placed.directories))

    async def settle(self, waiting: Put, run: Run) -> None:
        """Commit a round that waits, after a sync of its own, unless somebody did it already."""
        async with self.placing:
            if waiting.is_waiting:
                await self._settle(waiting, run)

    async def _settle(self, waiting: Put, run: Run) -> None:
        try:
            await self._runner.run(self._make_durable, waiting.placed)
        except DiskError as cause:
            self.damages += 1
            self.give_up(waiting, cause, run)
        else:
            await self.commit(waiting, run)

    def give_up(self, put: Put, cause: DiskError, run: Run) -> None:
        """Fail a round, if it waits still: a sync that its names needed failed."""
        if not put.is_waiting:
            return
        run.is_unfinished = self.is_in_doubt = True
        run.fail(put.jobs, cause)
        self._end_waiting(put)

    def _end_waiting(self, put: Put) -> None:
        if put.is_waiting:
            put.is_waiting = False
            self._waiting = [each for each in self._waiting if each[0] is not put]
            if not self._waiting:
                self._none_waits.set()

    def wait_for_sync(self, put: Put, run: Run) -> Put:
        """Have a round wait for the next sync to be committed."""
        put.is_waiting = True
        self._waiting.append((put, run))
        self._none_waits.clear()
        return put

    def abandon(self, put: Put) -> None:
        """Leave a round, if it waits still, to recovery: its apply was stopped."""
        if put.is_waiting:
            self.is_in_doubt = True
            self._end_waiting(put)
