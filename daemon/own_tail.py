"""Decide when a folder may write its own log: after others were asked what they know of it.

A home that was restored, or a machine that was set back, knows less of its own log than its
peers do. What it lost comes back through the exchange like any other batch; until then, for a
bounded time, nothing is looked at and nothing written, and what is written next opens a new
epoch (store.folder). It asks nobody itself: what peers say comes in. A head is a claim, only the
batches prove it: who claims what never comes is not waited for again (A12).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from store.ids import AgentId, BatchId, LogId

if TYPE_CHECKING:
    from daemon.core import Runner
    from daemon.shelf import Shelf
    from peers.heads import Heads
    from store.signing import SignedBatch

COMPARE_S: Final = 1.5  # so long the first own write waits for somebody to compare with
GATHER_S: Final = 1.0  # others may be about to connect, and know more
ALONE_S: Final = 20.0  # nobody answers: a new epoch makes it safe to go on
STUCK_S: Final = 30.0  # who is heard sends nothing any more
LONGEST_S: Final = 600.0  # or sends something now and then, as if to keep us waiting
_WRITTEN_KEPT: Final = 1024


class OwnTail:
    """What one folder waits for before it writes. Owned by the loop."""

    def __init__(self, shelf: Shelf, core: Runner, folder_no: int) -> None:
        """Begin with nothing known; start() when the folder goes to work."""
        self._shelf = shelf
        self._core = core
        self._folder_no = folder_no
        self.is_lagging = False  # what others have of our log is not all here
        self._since_s = 0.0
        self._progress = (-1, 0.0)  # batches known, and since when
        self._known: BatchId | None = None  # of our log, named by a peer and here: spares asking
        self._claims: dict[AgentId, set[BatchId]] = {}  # of our log, named and not here
        self._doubted: dict[AgentId, set[BatchId]] = {}  # claims that did not come true yet
        self._compared = asyncio.Event()

    async def start(self, now_s: float) -> None:
        """Begin to wait; a folder with a new epoch to come takes its tail back first."""
        self._since_s = now_s

        def read() -> bool:
            return self._shelf[self._folder_no].next_epoch is not None

        if await self._core.run(read):
            self._lag(now_s)

    def _lag(self, now_s: float) -> None:
        self.is_lagging = True
        self._since_s = now_s
        self._progress = (-1, now_s)

    async def heard(self, agent: AgentId, heads: Heads, now_s: float) -> bool:
        """Compare what a peer says that it has of our log; True where it begins to lag."""
        own = self._shelf[self._folder_no].own_log
        named = [
            (LogId(head.log), BatchId(head.batch))
            for head in heads.heads
            if head.log == own and head.batch != self._known
        ]
        if not named:
            self._compared.set()
            return False

        def compare() -> bool:
            stored = self._shelf[self._folder_no]
            if not stored.lacks_own(named):
                return False
            if all(map(stored.log.has, self._doubted.get(agent, ()))):
                self._doubted.pop(agent, None)
            if agent not in self._doubted and stored.next_epoch is None:
                stored.renew_epoch(self._shelf.new_epoch())
            return True

        is_outrun = await self._core.run(compare)
        self._compared.set()
        if not is_outrun and len(named) == 1:
            self._known = named[0][1]
        if not is_outrun or agent in self._doubted:
            return False
        self._claims[agent] = {batch for _, batch in named}
        if self.is_lagging:
            return False  # who claims more and more meanwhile is waited for no longer
        self._lag(now_s)
        return True

    def nobody_answers(self) -> None:
        """Everybody was called once and nobody is there: nothing to compare with."""
        self._compared.set()

    async def until_compared(self, now_s: float) -> bool:
        """Wait, for a moment after the start at most; whether the folder may write now."""
        if not self._compared.is_set():
            try:
                async with asyncio.timeout(max(0.0, self._since_s + COMPARE_S - now_s)):
                    await self._compared.wait()
            except TimeoutError:
                self._compared.set()  # who comes later finds a fork, and that is handled
        return not self.is_lagging

    async def look(self, theirs: Sequence[Heads], now_s: float, *, has_others: bool) -> bool:
        """Find out whether the tail is back, or waited for long enough; True when it ends."""
        if not self.is_lagging or now_s - self._since_s < GATHER_S:
            return False
        wanted = [head.batch for heads in theirs for head in heads.heads]
        if not theirs:
            self.is_lagging = has_others and now_s - self._since_s < ALONE_S
            return await self._has_ended()

        def count() -> tuple[int, int]:
            log = self._shelf[self._folder_no].log
            return sum(not log.has(BatchId(batch)) for batch in wanted), log.batches

        missing, batches = await self._core.run(count)
        if batches != self._progress[0]:
            self._progress = (batches, now_s)
        is_coming = now_s - self._progress[1] < STUCK_S and now_s - self._since_s < LONGEST_S
        self.is_lagging = bool(missing) and is_coming
        return await self._has_ended()

    async def _has_ended(self) -> bool:
        """Whether the wait is over; then note whose claims did not come true."""
        if self.is_lagging:
            return False
        claims, self._claims = self._claims, {}

        def unproven() -> dict[AgentId, set[BatchId]]:
            log = self._shelf[self._folder_no].log
            return {one: named for one, named in claims.items() if not all(map(log.has, named))}

        self._doubted.update(await self._core.run(unproven))
        return True


class OwnBatches:
    """Remember what this process wrote, to tell a twin that lives at the same time.

    Who names a batch of ours that this process wrote, signs with our key, and is not we, has
    our key and runs now. Owned by the database thread.
    """

    def __init__(self) -> None:
        """Begin with nothing written."""
        self._written: deque[BatchId] = deque(maxlen=_WRITTEN_KEPT)
        self.has_twin = False

    def wrote(self, batches: Iterable[SignedBatch]) -> None:
        """Note batches that this process wrote."""
        self._written.extend(signed.id for signed in batches)

    def took(self, agent: AgentId, batches: Sequence[SignedBatch]) -> None:
        """Look at batches that others brought."""
        for signed in batches:
            header = signed.header
            if header.agent == agent and any(
                parent in self._written for parent in (header.prev, *header.deps)
            ):
                self.has_twin = True
