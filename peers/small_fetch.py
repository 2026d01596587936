"""Fetch many small contents together, from whichever peers have them.

They are asked for in groups, each of one peer at a time. A group whose lane ends or falls silent
is asked elsewhere at once; what a peer does not have, or sent wrong, is not asked of it again.
Nothing is believed: every content is checked by its BLAKE3 (A16). It keeps what it found until
its caller takes it, and nothing longer.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from blake3 import blake3
from msgspec import Struct

from peers import wire
from peers.lane import ANSWER_S, CHECK_EVERY_S, Answer, Lane, loop_time_s
from peers.wire import NotHave, Small, WantSmall
from store.ids import AgentId, BlobHash, FolderId

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from peers.away import Away
    from peers.limits import RateLimit
    from peers.sources import Sources

GROUP_BYTES: Final = 1024 * 1024  # expected in the answer to one question
GROUP_LIMIT: Final = 1024
GROUPS_AT_ONCE: Final = 4  # of one fetch, on one lane
BULK_FROM_BYTES: Final = 256 * 1024
LOST_LIMIT: Final = 3  # lanes to one peer that ended or fell silent over one group


class _Group(Struct, frozen=True):
    """Contents that are asked for together."""

    hashes: Sequence[BlobHash]
    spent: frozenset[AgentId] = frozenset()  # do not have them, or sent others
    lost: tuple[Lane, ...] = ()  # ended or fell silent before they answered


class _Ask:
    """A group under way on one lane."""

    __slots__ = ("answered_at_s", "failed", "group", "job", "lane", "left", "number")

    def __init__(self, job: SmallFetch, lane: Lane, group: _Group) -> None:
        self.job = job
        self.lane = lane
        self.group = group
        self.number = 0
        self.answered_at_s = loop_time_s()
        self.left = set(group.hashes)
        self.failed: set[BlobHash] = set()

    def message(self, number: int) -> wire.Message:
        return WantSmall(number, self.job.folder, tuple(self.group.hashes))

    def take(self, answer: Answer) -> bool:
        self.answered_at_s = loop_time_s()
        if isinstance(answer, Small):
            for one in answer.contents:
                self._take_content(BlobHash(one.hash), one.content)
        elif isinstance(answer, NotHave):
            absent = self.left.intersection(BlobHash(blob) for blob in answer.hashes)
            self.job.refused(self.lane.agent, [one for one in answer.hashes if one in absent])
            self.left -= absent
            self.failed |= absent
        if self.left:
            return False
        self.job.done(self)
        return True

    def _take_content(self, blob: BlobHash, content: bytes) -> None:
        if blob not in self.left:
            return
        self.left.discard(blob)
        if not self.job.take(blob, content):
            self.failed.add(blob)
            self.job.wrong(self.lane.agent)

    def lose(self) -> None:
        self.job.done(self)


class SmallFetch:
    """One call for small contents."""

    def __init__(
        self, sources: Sources, away: Away, folder: FolderId, wanted: Mapping[BlobHash, int]
    ) -> None:
        """Fetch what is `wanted`: hashes with their sizes."""
        self.folder = folder
        self.found: dict[BlobHash, bytes] = {}
        self._sources = sources
        self._away = away
        self._wanted = wanted
        self._is_bulk = sum(wanted.values()) >= BULK_FROM_BYTES
        self._groups: deque[_Group] = deque()
        self._asks: dict[_Ask, None] = {}
        self._changed = asyncio.Event()
        self.received_bytes = 0

    async def run(self, download: RateLimit) -> None:
        """Ask until all is found, or what is left nobody at hand has."""
        try:
            for part in _parts(self._wanted):
                if download.is_limited:
                    size = sum(self._wanted[blob] for blob in part)
                    await download.take(size, may_owe=size <= wire.INLINE_LIMIT_BYTES)
                    self._groups.append(_Group(part))
                    await self._assign()
                else:
                    self._groups.append(_Group(part))
            while len(self.found) < len(self._wanted):
                await self._assign()
                if not self._asks:
                    return
                await self._wait()
        finally:
            for ask in list(self._asks):
                ask.lane.cancel(ask.number)

    # -- what comes -----------------------------------------------------------------------------

    def take(self, blob: BlobHash, content: bytes) -> bool:
        """Keep a content; False if it is not the one of that hash."""
        if blob not in self._wanted or blake3(content).digest() != blob:
            return False
        self.found[blob] = content
        self.received_bytes += len(content)
        return True

    def take_stray(self, blob: BlobHash, content: bytes) -> bool:
        """Keep a content that comes when it is not asked for any more, if it still lacks."""
        if blob in self.found or not self.take(blob, content):
            return False
        self._changed.set()
        return True

    def refused(self, agent: AgentId, blobs: Iterable[bytes]) -> None:
        """Note what a peer does not have."""
        self._away.refused(agent, self.folder, map(BlobHash, blobs), loop_time_s())

    def wrong(self, agent: AgentId) -> None:
        """Note that a peer sent other bytes."""
        self._sources.wrong(agent)

    def done(self, ask: _Ask) -> None:
        """Let what an ask did not bring be asked elsewhere."""
        self._asks.pop(ask, None)
        group = ask.group
        if ask.failed:
            spent = group.spent | {ask.lane.agent}
            self._groups.append(_Group(_those(group.hashes, ask.failed), spent, group.lost))
        if ask.left:
            left = _those(group.hashes, ask.left)
            self._groups.append(_Group(left, group.spent, (*group.lost, ask.lane)))
        self._changed.set()

    # -- who is asked ---------------------------------------------------------------------------

    async def _assign(self) -> None:
        """Put groups to peers, as many at once as each may have; drop what nobody has."""
        peers = await self._sources.lanes(self.folder, is_bulk=self._is_bulk)
        load = Counter(ask.lane for ask in self._asks)
        waiting: deque[_Group] = deque()
        while self._groups:
            group = self._without_found(self._groups.popleft())
            lane = self._lane_for(group, peers, load) if group.hashes else None
            if lane is None:
                continue
            if load[lane] >= GROUPS_AT_ONCE:
                waiting.append(group)
                continue
            now_s, agent = loop_time_s(), lane.agent
            refused = [one for one in group.hashes if self._away.is_refused(agent, one, now_s)]
            if refused:
                self._groups.append(_Group(refused, group.spent | {agent}, group.lost))
                group = _Group(_without(group.hashes, refused), group.spent, group.lost)
            if group.hashes:
                self._ask(lane, group)
                load[lane] += 1
        self._groups = waiting

    def _without_found(self, group: _Group) -> _Group:
        if group.lost and any(blob in self.found for blob in group.hashes):
            return _Group(_without(group.hashes, self.found), group.spent, group.lost)
        return group

    def _ask(self, lane: Lane, group: _Group) -> None:
        ask = _Ask(self, lane, group)
        self._asks[ask] = None
        ask.number = lane.ask(ask)

    @staticmethod
    def _lane_for(
        group: _Group, peers: Sequence[Sequence[Lane]], load: Mapping[Lane, int]
    ) -> Lane | None:
        """Choose a lane to a peer that may have a group; None if there is none."""
        lost = Counter(lane.agent for lane in group.lost)
        best: Lane | None = None
        for lanes in peers:
            agent = lanes[0].agent
            if agent in group.spent or lost[agent] >= LOST_LIMIT:
                continue
            usable = [one for one in lanes if one.is_open and one not in group.lost]
            lane = min(usable, key=lambda one: one.lapses, default=None)
            if lane is not None and (
                best is None or (lane.lapses, load[lane]) < (best.lapses, load[best])
            ):
                best = lane
        return best

    async def _wait(self) -> None:
        """Wait for an answer; take back what is asked on a lane that has been silent for long."""
        self._changed.clear()
        try:
            async with asyncio.timeout(CHECK_EVERY_S):
                await self._changed.wait()
        except TimeoutError:
            await self._give_up_silent()

    async def _give_up_silent(self) -> None:
        peers = await self._sources.lanes(self.folder, is_bulk=self._is_bulk)
        lapsed: dict[Lane, bool] = {}
        for ask in list(self._asks):
            lane, group = ask.lane, ask.group
            if lane not in lapsed:
                elsewhere = _Group(group.hashes, group.spent, (*group.lost, lane))
                other = self._lane_for(elsewhere, peers, Counter())
                lapsed[lane] = lane.has_lapsed(has_other=other is not None and not other.lapses)
                lane.lapses += lapsed[lane]
            # one that is passed over while others are answered has lapsed too
            if lapsed[lane] or loop_time_s() - ask.answered_at_s > ANSWER_S:
                lane.cancel(ask.number)
                ask.lose()


def _those(hashes: Iterable[BlobHash], some: Collection[BlobHash]) -> list[BlobHash]:
    return [blob for blob in hashes if blob in some]


def _without(hashes: Iterable[BlobHash], some: Collection[BlobHash]) -> list[BlobHash]:
    return [blob for blob in hashes if blob not in some]


def _parts(wanted: Mapping[BlobHash, int]) -> Iterable[list[BlobHash]]:
    part: list[BlobHash] = []
    size = 0
    for blob, length in wanted.items():
        if part and (size + length > GROUP_BYTES or len(part) >= GROUP_LIMIT):
            yield part
            part, size = [], 0
        part.append(blob)
        size += length
    if part:
        yield part
