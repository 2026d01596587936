"""Bring the lacking ranges of one large content over the lanes of all peers that have it.

Each peer is asked on one lane, a window at a time. What a lane that ends, falls silent or is slow
had under way is asked elsewhere; a peer that comes later takes part. What arrived is kept, to the
last piece. Whether the bytes are right is for others to judge.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from peers.asks import RangeAsk
from peers.cancelling import TaskGroup
from peers.lane import ANSWER_S, CHECK_EVERY_S, Lane, loop_time_s
from store.errors import DizzyError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from peers.large import Filling
    from peers.limits import RateLimit
    from peers.replica import P, T
    from peers.sources import Sources
    from store.ids import AgentId, BlobHash, FolderId

WINDOW: Final = 8  # ranges of 2 MiB under way at one peer for one content: 16 MiB
SLOW_LOOKS: Final = 8  # 10 s for one range, while somebody else has nothing to do
LANDED_AT_ONCE: Final = 4  # ranges written by one call: a hop to another thread is not free


class Asking(Protocol):
    """What peers.fetch knows of the peers."""

    download: RateLimit
    received_bytes: int
    sources: Sources

    def refused(self, agent: AgentId, folder: FolderId, blob: BlobHash) -> None:
        """Remember for a while that a peer does not have a content."""

    def is_refused(self, agent: AgentId, blob: BlobHash) -> bool:
        """Whether a peer said so a short while ago."""


class Beside(Protocol):
    """Runs calls on a sink beside the loop."""

    async def __call__(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Give what the function returns, once it has ended."""


class _Pull:
    """One lane at work on a content."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.window: deque[RangeAsk] = deque()
        self.arrived = 0  # bytes of ranges that were asked here, as of moved_at_s
        self.moved_at_s = loop_time_s()
        self.slow_looks = 0  # at it since a range was whole, while another lane was idle
        self.is_ending = False  # asks for nothing more
        self.has_failed = False

    @property
    def is_waiting(self) -> bool:
        """Whether something that was asked is still to come."""
        return any(ask.number and not ask.is_whole for ask in self.window)

    def has_stopped(self) -> bool:
        """Whether nothing came for what is asked here, whatever else the lane brings."""
        arrived = sum(ask.arrived for ask in self.window)
        if arrived != self.arrived or not self.is_waiting:
            self.arrived, self.moved_at_s = arrived, loop_time_s()
        return loop_time_s() - self.moved_at_s > ANSWER_S

    def give_up(self) -> None:
        """Take back all that is under way; what arrived stays."""
        for ask in self.window:
            self.lane.cancel(ask.number)
            ask.lose()

    def shed(self) -> list[RangeAsk]:
        """Take back the latter half of what is under way, as far as nothing of it arrived."""
        latter = list(self.window)[(len(self.window) + 1) // 2 :]
        shed = [ask for ask in latter if ask.number and not ask.arrived]
        for ask in shed:
            self.window.remove(ask)
            self.lane.cancel(ask.number)
        return shed


class Pulling:
    """The lacking ranges of one content on their way."""

    def __init__(
        self,
        asking: Asking,
        folder: FolderId,
        filling: Filling,
        beside: Beside,
        on_written: Callable[[], None],
    ) -> None:
        """Fill `filling` with what peers send; `on_written` is called as it grows."""
        self._asking = asking
        self._folder = folder
        self._filling = filling
        self._blob = filling.ref.hash
        self._beside = beside
        self._on_written = on_written
        self._ways: list[Lane] = []  # all on which the content can be asked for

    async def run(self, only: AgentId | None) -> bool:
        """Pull until nothing lacks; False if nobody at hand has the rest.

        With `only` one peer alone is asked. Raises the DizzyError of a sink.
        """
        try:
            async with TaskGroup() as tasks:
                return await self._pull_all(only, tasks)
        except* DizzyError as group:
            raise group.exceptions[0] from None
        raise AssertionError("unreachable")

    async def _pull_all(self, only: AgentId | None, tasks: asyncio.TaskGroup) -> bool:
        failed: set[Lane] = set()
        pulls: dict[asyncio.Task[None], _Pull] = {}
        looked_at_s = loop_time_s()
        while True:
            lanes = await self._usable(only, failed)
            self._begin(lanes, pulls, tasks)
            if not pulls:
                return not self._filling.is_lacking
            done, _ = await asyncio.wait(
                pulls, timeout=CHECK_EVERY_S, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                pull = pulls.pop(task)
                if pull.has_failed:
                    failed.add(pull.lane)
            if not done or loop_time_s() - looked_at_s > CHECK_EVERY_S:
                looked_at_s = loop_time_s()
                self._look_at(list(pulls.values()), lanes)

    async def _usable(self, only: AgentId | None, failed: set[Lane]) -> list[Lane]:
        """Give one lane for each peer that may have the content."""
        usable = []
        self._ways.clear()
        for lanes in await self._asking.sources.lanes(self._folder, is_bulk=True):
            agent = lanes[0].agent
            ways = [one for one in lanes if one not in failed]
            if not ways or (only is not None and agent != only):
                continue
            if not self._asking.is_refused(agent, self._blob):
                usable.append(ways[0])
                self._ways += ways
        return usable

    def _begin(
        self,
        lanes: Sequence[Lane],
        pulls: dict[asyncio.Task[None], _Pull],
        tasks: asyncio.TaskGroup,
    ) -> None:
        """Let each lane pull; one that was the better one before asks for nothing more."""
        at_work = {pull.lane for pull in pulls.values()}
        for pull in pulls.values():
            pull.is_ending = pull.lane not in lanes
        for lane in lanes:
            if lane not in at_work and self._filling.is_lacking:
                pull = _Pull(lane)
                pulls[tasks.create_task(self._pull(pull))] = pull

    def _look_at(self, pulls: Sequence[_Pull], lanes: Sequence[Lane]) -> None:
        """Give up lanes that are silent; let an idle one have what a slow one is slow with."""
        at_work = {pull.lane for pull in pulls}
        has_idle = not self._filling.is_lacking and any(lane not in at_work for lane in lanes)
        for pull in pulls:
            others = [lane for lane in self._ways if lane is not pull.lane and not lane.lapses]
            pull.slow_looks = pull.slow_looks + 1 if has_idle else 0
            if pull.is_waiting and pull.lane.has_lapsed(has_other=bool(others)):
                pull.lane.lapses += 1
                pull.give_up()
            elif pull.slow_looks > SLOW_LOOKS or pull.has_stopped():
                pull.give_up()
            elif pull.slow_looks > 1:
                for ask in reversed(pull.shed()):
                    self._filling.give_back(ask.offset, ask.length)

    # -- one lane -------------------------------------------------------------------------------

    async def _pull(self, pull: _Pull) -> None:
        """Bring ranges over one lane, a window at a time, until none is left or it fails."""
        lane, window = pull.lane, pull.window
        try:
            while True:
                await self._top_up(pull)
                if not window:
                    return
                if not await window[0].wait():
                    break
                ready: list[RangeAsk] = []
                while window and window[0].is_whole and len(ready) < LANDED_AT_ONCE:
                    ready.append(window.popleft())
                if not self._asking.download.is_limited:
                    await self._top_up(pull)  # under way while these land
                await self._land(pull, ready)
            pull.has_failed = not window[0].is_refused
            pull.give_up()
            rest = list(window)
            window.clear()
            await self._land(pull, rest)
        finally:
            for ask in window:
                lane.cancel(ask.number)
                self._filling.give_back(ask.offset, ask.length)

    async def _top_up(self, pull: _Pull) -> None:
        """Ask for ranges until WINDOW of them are under way or none is left.

        Under a limit that may take minutes: what came meanwhile is written first.
        """
        window, lane = pull.window, pull.lane
        while len(window) < WINDOW and not pull.is_ending and lane.is_open:
            if self._asking.download.is_limited and window and window[0].is_whole:
                return
            unit = self._filling.take()
            if unit is None:
                return
            ask = RangeAsk(self._folder, self._blob, *unit, on_refused=self._refused_by(lane))
            window.append(ask)
            await self._asking.download.take(unit[1])
            ask.number = lane.ask(ask)

    def _refused_by(self, lane: Lane) -> Callable[[], None]:
        return lambda: self._asking.refused(lane.agent, self._folder, self._blob)

    async def _land(self, pull: _Pull, asks: Sequence[RangeAsk]) -> None:
        """Write what came of ranges, in one go; what did not come is lacking again."""
        arrived = [(ask.offset, ask.pieces) for ask in asks if ask.arrived]
        try:
            if arrived:
                pull.slow_looks = 0
                self._filling.sources.append(pull.lane.agent)
                is_hashing = self._filling.may_hash(arrived)
                await self._beside(self._filling.write_all, arrived, is_hashing=is_hashing)
                self._filling.wrote(arrived, is_hashed=is_hashing)
                self._on_written()
                self._asking.received_bytes += sum(ask.arrived for ask in asks)
        finally:
            for ask in reversed(asks):
                if ask.arrived < ask.length:
                    self._filling.give_back(ask.offset + ask.arrived, ask.length - ask.arrived)
