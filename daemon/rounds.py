"""Write small contents: fetched, staged, made durable and put in place, round after round.

The next rounds are fetched and staged while one is made durable (daemon.ahead); one sync does for
the data of a round and for the names of the one before. How a round is put in place and committed
is daemon.putting's part.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence

from daemon.ahead import FETCHED_AHEAD, Ahead, Staged
from daemon.content_tools import ContentTools
from daemon.disk import DiskError, NewFile
from daemon.intents import intent_of
from daemon.outcomes import Outcome, failure
from daemon.portions import rounds as rounds_of
from daemon.putting import Put
from daemon.runs import Run
from daemon.site import Job
from daemon.steps import WriteFile, numbers_of
from store.ids import BlobHash
from store.records import BlobRef


class Rounds:
    """The small contents of one folder's plans."""

    def __init__(self, tools: ContentTools) -> None:
        """Begin with nothing under way."""
        self._tools = tools
        self._putting = tools.putting

    async def write(self, steps: Sequence[WriteFile], run: Run, group: asyncio.TaskGroup) -> None:
        """Write all of these; what it starts meanwhile belongs to the group."""
        rounds = list(rounds_of(steps))
        if not rounds:
            return
        ahead = Ahead(len(rounds))
        group.create_task(self._stage_rounds(rounds, ahead, run, group))
        waiting: Put | None = None
        try:
            while ahead.left:
                if waiting is not None and not ahead.has_some:
                    # Nothing to sync together with it yet, perhaps for long.
                    await self._putting.settle(waiting, run)
                    waiting = None
                staged = await ahead.take()
                try:
                    waiting = await self._do_round(staged, waiting, run)
                finally:
                    await self._tools.runner.run(_close, staged.jobs)
            if waiting is not None:
                await self._putting.settle(waiting, run)
                waiting = None
        finally:
            if waiting is not None:  # stopped in between: what stands there is recovery's matter
                self._putting.abandon(waiting)
            if ahead.has_some:
                await self._tools.runner.run(_close, ahead.take_all().jobs)

    async def _stage_rounds(
        self,
        rounds: Sequence[Sequence[WriteFile]],
        ahead: Ahead,
        run: Run,
        group: asyncio.TaskGroup,
    ) -> None:
        """Fetch and stage round after round, as far ahead as may be."""
        fetched: deque[asyncio.Task[dict[BlobHash, bytes]]] = deque()
        for number, steps in enumerate(rounds):
            for each in rounds[number + len(fetched) : number + FETCHED_AHEAD]:
                fetched.append(group.create_task(self._fetch(each)))
            contents = await fetched.popleft()
            await ahead.may_stage()
            damages = self._putting.damages
            async with self._putting.hands:
                jobs, outcomes = await self._tools.runner.run(self._stage_all, steps, contents, run)
            ahead.put(Staged(jobs, outcomes, damages))
            del contents  # rather than keep them while the next are awaited

    async def _do_round(self, staged: Staged, waiting: Put | None, run: Run) -> Put | None:
        """Put a round in place; one sync makes its data durable and the names of the one before.

        Gives the round, to be committed after the next sync.
        """
        run.applied.add(staged.outcomes)
        if not staged.jobs:
            if waiting is not None:
                await self._putting.settle(waiting, run)
            return None
        is_durable = await self._putting.sync_data(staged, run)
        async with self._putting.placing:
            if is_durable:
                jobs = self._tools.runs.live_jobs(staged.jobs, run)
                put = await self._putting.put(jobs, run, waiting)
                return self._putting.wait_for_sync(put, run)
            if waiting is not None:
                self._putting.give_up(waiting, DiskError("make durable", "a sync failed"), run)
            return None

    async def _fetch(self, steps: Sequence[WriteFile]) -> dict[BlobHash, bytes]:
        """Fetch the contents of a round; those that nobody at hand has are left out."""
        refs = {
            step.claim.entry.value: BlobRef(
                hash=BlobHash(step.claim.entry.value), size=step.claim.entry.size
            )
            for step in steps
            if step.claim.entry.size
        }
        return await self._tools.blobs.small(list(refs.values())) if refs else {}

    def _stage_all(
        self, steps: Sequence[WriteFile], contents: dict[BlobHash, bytes], run: Run
    ) -> tuple[list[Job], list[Outcome]]:
        there: list[WriteFile] = []
        files: list[NewFile] = []
        outcomes: list[Outcome] = []
        for step in steps:
            entry = step.claim.entry
            content = contents.get(BlobHash(entry.value)) if entry.size else b""
            if content is None:
                outcomes.append(run.away(step))
                continue
            there.append(step)
            files.append(NewFile(content, bool(entry.mode), entry.mtime_ns))
        try:
            stages = self._tools.disk.stage_many(files)
        except DiskError:
            return self._stage_each(there, files, run, outcomes)
        jobs = [
            Job(step, intent_of(self._tools.names, step), stage)
            for step, stage in zip(there, stages, strict=True)
        ]
        return jobs, outcomes

    def _stage_each(
        self,
        steps: Sequence[WriteFile],
        files: Sequence[NewFile],
        run: Run,
        outcomes: list[Outcome],
    ) -> tuple[list[Job], list[Outcome]]:
        """Find out which of them fail."""
        jobs = []
        for step, file in zip(steps, files, strict=True):
            try:
                (stage,) = self._tools.disk.stage_many([file])
            except DiskError as cause:
                path = run.placer.path_of_place(step.claim.place) or b""
                outcomes.append(failure(path, numbers_of(step), cause))
            else:
                jobs.append(Job(step, intent_of(self._tools.names, step), stage))
        return jobs, outcomes


def _close(jobs: Iterable[Job]) -> None:
    for job in jobs:
        if job.stage is not None:
            job.stage.close()
