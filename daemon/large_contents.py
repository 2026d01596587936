"""Write large contents, each by itself, and keep their downloads in tmp apart.

A download has a stage with a name of its own, so that a restart resumes it. What came to nothing
is removed once nothing is left to be applied.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from daemon.ahead import Staged
from daemon.content_tools import ContentTools
from daemon.disk import DiskError, Stage
from daemon.intents import intent_of
from daemon.leftovers import FETCH_PREFIX
from daemon.places import Earlier
from daemon.runs import Run
from daemon.site import Job
from daemon.steps import WriteFile
from peers.cancelling import to_its_end
from store.ids import BlobHash
from store.records import BlobRef

_AT_ONCE = 16  # each has a file open, and up to 16 MiB asked of each peer


class LargeContents:
    """The large contents of one folder's plans, and the downloads in its tmp."""

    def __init__(self, tools: ContentTools) -> None:
        """Begin with nothing under way."""
        self._tools = tools
        self._putting = tools.putting
        self._gate = asyncio.Semaphore(_AT_ONCE)  # of all plans together
        self._fetching: set[bytes] = set()
        self._may_have_left = True  # downloads in tmp that came to nothing

    @property
    def in_use(self) -> frozenset[bytes]:
        """The names in tmp that somebody writes to."""
        return frozenset(self._fetching)

    async def write(self, step: WriteFile, run: Run) -> None:
        """Fetch a content, make it durable and put it in place."""
        entry = step.claim.entry
        async with self._gate, self._fetch_name(entry.value) as name:
            if not self._tools.runs.live([step], run):
                return
            old_path = run.placer.path_of_place(step.claim.place) if step.before else None
            damages = self._putting.damages
            try:
                stage = await self._tools.runner.run(self._tools.disk.open_stage, name, entry.size)
            except DiskError as cause:
                run.fail([Job(step)], cause)
                return
            try:
                ref = BlobRef(hash=BlobHash(entry.value), size=entry.size)
                old = None if old_path is None else Earlier(old_path, step.before[0])
                if not await self._tools.blobs.large(ref, stage, old):
                    run.applied.postponed.append(run.away(step))
                    return
                await to_its_end(self._tools.runner.run(_dress, stage, step, old_path))
                job = Job(step, intent_of(self._tools.names, step, stage), stage)
                await self._finish(Staged([job], [], damages), run)
            except DiskError as cause:
                run.fail([Job(step)], cause)
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

    async def _finish(self, staged: Staged, run: Run) -> None:
        """Make a content durable and put it in place."""
        if not await self._putting.sync_data(staged, run):
            return
        async with self._putting.placing:
            await self._putting.place(self._tools.runs.live_jobs(staged.jobs, run), run)

    async def forget_downloads(self) -> None:
        """Remove downloads that came to nothing, once nothing is left to be applied.

        Those of contents that are superseded; who still waits for one calls this not yet. No
        apply may begin meanwhile. What cannot be removed stays until the next time.
        """
        if self._may_have_left:
            self._may_have_left = False
            await self._tools.runner.run(self._remove_downloads)

    def _remove_downloads(self) -> None:
        with suppress(DiskError):
            for name, _ in self._tools.disk.list_stages():
                if name.startswith(FETCH_PREFIX) and name not in self._fetching:
                    self._tools.disk.remove_stage(name)


def _dress(stage: Stage, step: WriteFile, old_path: bytes | None) -> None:
    entry = step.claim.entry
    stage.finish(is_executable=bool(entry.mode), mtime_ns=entry.mtime_ns, like=old_path)
