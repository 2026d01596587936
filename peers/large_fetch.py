"""Fetch one large content: what is here first, the rest by ranges from all peers that have it.

Where an older version is here, a peer is asked how its chunks differ (one round trip, fine chunks
included); what lacks then flows while the rest is copied. Nothing is believed: the BLAKE3 of the
whole decides, and a peer that sent what is wrong is counted (A16). It knows of no small content.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from peers.asks import ChunksAsk, DifferenceAsk, RangeAsk, longest_list
from peers.cancelling import TaskGroup
from peers.difference import rebuilt
from peers.lane import Lane, loop_time_s
from peers.large import Filling, LocalPiece, Sink, prepare, reuse
from store.errors import DizzyError, Malformed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from peers.chunk_lists import ChunkLists
    from peers.limits import RateLimit
    from peers.replica import P, Runner, T
    from peers.wire import ChunkLine, Stretch
    from store.ids import AgentId, BlobHash, FolderId
    from store.records import BlobRef

WINDOW: Final = 8  # ranges of 2 MiB under way at one peer for one content: 16 MiB
LANDED_AT_ONCE: Final = 4  # ranges written by one call: a hop to another thread is not free
COPIERS: Final = 2  # a copy is the kernel's work, page by page: two processors do it in half
IDLE_S: Final = 20.0  # a peer that sends nothing for so long is not waited for
LIST_BYTES_PER_S: Final = 100 * 1024 * 1024  # a slow peer works a chunk list out at this rate


class Sources(Protocol):
    """The connected peers, as peers.fetch knows them."""

    download: RateLimit
    received_bytes: int
    lists: ChunkLists

    async def bulk_lanes(self, folder: FolderId) -> list[Lane]:
        """Give a lane for large questions to each peer that has the folder."""

    def agents(self, folder: FolderId) -> list[AgentId]:
        """List those peers."""

    def wrong(self, agent: AgentId) -> None:
        """Count a peer that sent other bytes than it was asked for."""

    def refused(self, agent: AgentId, blobs: Iterable[BlobHash]) -> None:
        """Remember for a while that a peer does not have these."""

    def is_refused(self, agent: AgentId, blob: BlobHash) -> bool:
        """Whether a peer said so a while ago."""


class LargeFetch:
    """One content on its way into one sink."""

    def __init__(
        self,
        sources: Sources,
        runner: Runner,
        folder: FolderId,
        ref: BlobRef,
        sink: Sink,
    ) -> None:
        """Fetch `ref` from `sources`; blocking calls go through `runner`."""
        self._sources = sources
        self._runner = runner
        self._folder = folder
        self._ref = ref
        self._filling = Filling(ref, sink)
        self._wrote = asyncio.Event()
        self._is_written = False

    async def run(self, old: Sequence[LocalPiece]) -> bool | None:
        """Fill the sink; True if its BLAKE3 is right, None if nobody at hand has the rest."""
        filling = self._filling
        held = await self._run(filling.sink.size)
        stretches = None if held else await self._begin_from_difference(old)
        if stretches is None and (held or old):
            await self._reuse(old, held)
        if not await self._fill(only=None):
            return None
        if await self._run(filling.is_right):
            await self._keep_list(stretches, old)
            return True
        if stretches is not None:
            # A lie, or a list that was one, or a file that changed: see what is wrong by chunks.
            await self._reuse((), await self._run(filling.sink.size))
            if await self._fill(only=None) and await self._run(filling.is_right):
                return True
        suspects = list(dict.fromkeys(filling.sources))
        others = [one for one in self._sources.agents(self._folder) if one not in suspects]
        if len(suspects) == 1 and not filling.has_reused:
            self._sources.wrong(suspects.pop())
        return await self._fill_from_one(others + suspects)

    async def _fill_from_one(self, agents: Sequence[AgentId]) -> bool:
        """Fetch all of it from one peer after the other: so the one that lies is known."""
        for agent in agents:
            self._filling.restart()
            if not await self._fill(only=agent):
                continue
            if await self._run(self._filling.is_right):
                return True
            if self._filling.sources:
                self._sources.wrong(agent)
        return False

    # -- what is here ---------------------------------------------------------------------------

    async def _begin_from_difference(self, old: Sequence[LocalPiece]) -> list[Stretch] | None:
        """Take for copied what an older version here holds; None if no peer can tell."""
        piece = next((one for one in old if one.blob is not None), None)
        if piece is None or piece.blob is None:
            return None
        for lane in await self._sources.bulk_lanes(self._folder):
            ask = DifferenceAsk(self._folder, self._ref, piece.blob)
            if not await _hear(lane, ask, self._ref.size):
                continue
            try:
                await self._run(prepare, self._filling, ask.stretches, piece)
            except Malformed:
                self._sources.wrong(lane.agent)
                self._filling.restart()
                continue
            return ask.stretches
        return None

    async def _reuse(self, old: Sequence[LocalPiece], held: int) -> None:
        """Use the chunks that stand in the sink or in an old piece, by the list of a peer."""
        for lane in await self._sources.bulk_lanes(self._folder):
            lines = await _chunk_list(lane, self._folder, self._ref)
            if lines is not None:
                spans = await self._run(reuse, lines, self._filling.sink, old, held)
                self._filling.begin(spans, has_reused=True)
                return

    async def _keep_list(
        self, stretches: Sequence[Stretch] | None, old: Sequence[LocalPiece]
    ) -> None:
        """Keep the new version's chunk list where the old one's and the difference make it."""
        piece = next((one for one in old if one.blob is not None), None)
        if stretches is None or piece is None or piece.blob is None:
            return
        lines = await self._sources.lists.get(self._folder, piece.blob)
        if lines is None:
            return
        made = await self._run(rebuilt, stretches, lines, longest_list(self._ref.size))
        if made is not None:
            await self._sources.lists.keep(self._folder, self._ref.hash, made)

    # -- what is not ----------------------------------------------------------------------------

    async def _fill(self, *, only: AgentId | None) -> bool:
        """Copy, pull and hash until nothing lacks; False if nobody at hand has the rest."""
        while self._filling.is_lacking or self._filling.is_copying:
            try:
                async with TaskGroup() as tasks:
                    tasks.create_task(self._hash())
                    pulling = tasks.create_task(self._pull_all(only))
                    copying = [tasks.create_task(self._copy()) for _ in range(COPIERS)]
                    await asyncio.wait([pulling, *copying])
                    self._is_written = True
                    self._wrote.set()
            except* DizzyError as group:  # the sink's: a full disk is the caller's to handle
                raise group.exceptions[0] from None
            if not pulling.result():
                return False
        return True

    async def _copy(self) -> None:
        filling = self._filling
        while copies := filling.take_copies():
            filling.copied(copies, await self._run(filling.copy, copies))
            self._wrote.set()

    async def _hash(self) -> None:
        """Hash what was written, beside the writing, until all of it is written."""
        self._is_written = False
        while True:
            span = self._filling.take_span()
            if span is not None:
                if not await self._run(self._filling.hash_span, *span):
                    return  # never: is_right() reads all of it again then
                self._filling.hashed(span[1])
            elif self._is_written:
                return
            else:
                self._wrote.clear()
                await self._wrote.wait()

    async def _pull_all(self, only: AgentId | None) -> bool:
        failed: set[Lane] = set()
        while self._filling.is_lacking:
            lanes = [
                lane
                for lane in await self._sources.bulk_lanes(self._folder)
                if lane not in failed
                and (only is None or lane.agent == only)
                and not self._sources.is_refused(lane.agent, self._ref.hash)
            ]
            if not lanes:
                return False
            try:
                async with TaskGroup() as tasks:
                    for lane in lanes:
                        tasks.create_task(self._pull(lane, failed))
            except* DizzyError as group:
                raise group.exceptions[0] from None
        return True

    async def _pull(self, lane: Lane, failed: set[Lane]) -> None:
        """Bring ranges over one lane, a window at a time, until none is left or it fails."""
        window: deque[tuple[int, RangeAsk]] = deque()
        try:
            while True:
                await self._top_up(lane, window)
                if not window:
                    return
                if not await self._wait_range(lane, window[0][1]):
                    break
                ready: list[RangeAsk] = []
                while window and window[0][1].is_whole and len(ready) < LANDED_AT_ONCE:
                    ready.append(window.popleft()[1])
                await self._top_up(lane, window)  # under way while these land
                await self._land(lane, ready)
            failed.add(lane)
            if any(ask.is_refused for _, ask in window):
                self._sources.refused(lane.agent, (self._ref.hash,))
            for number, _ in window:
                lane.cancel(number)
            rest = [ask for _, ask in window]
            await self._land(lane, rest)
            window.clear()
        finally:
            for number, ask in window:
                lane.cancel(number)
                self._filling.give_back(ask.offset, ask.length)

    async def _top_up(self, lane: Lane, window: deque[tuple[int, RangeAsk]]) -> None:
        """Ask for ranges until WINDOW of them are under way or none is left."""
        while len(window) < WINDOW and (unit := self._filling.take()) is not None:
            ask = RangeAsk(self._folder, self._ref.hash, *unit)
            window.append((0, ask))
            await self._sources.download.take(unit[1])
            window[-1] = (lane.ask(ask), ask)

    async def _land(self, lane: Lane, asks: Sequence[RangeAsk]) -> None:
        """Write what came of ranges, in one go; what did not come is lacking again."""
        arrived = [(ask.offset, ask.pieces) for ask in asks if ask.arrived]
        if arrived:
            self._filling.sources.append(lane.agent)
            is_hashing = self._filling.may_hash(arrived)
            await self._run(self._filling.write_all, arrived, is_hashing=is_hashing)
            self._filling.wrote(arrived, is_hashed=is_hashing)
            self._wrote.set()
            self._sources.received_bytes += sum(ask.arrived for ask in asks)
        for ask in reversed(asks):
            if ask.arrived < ask.length:
                self._filling.give_back(ask.offset + ask.arrived, ask.length - ask.arrived)

    async def _run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call on a sink to its end even if cancelled: its owner may close it then."""
        running = asyncio.ensure_future(self._runner.run(fn, *args, **kwargs))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise

    async def _wait_range(self, lane: Lane, ask: RangeAsk) -> bool:
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    return await ask.wait()
            except TimeoutError:
                if loop_time_s() - lane.last_arrival_s >= IDLE_S:
                    return False


async def learn_list(sources: Sources, folder: FolderId, ref: BlobRef) -> None:
    """Ask for the chunk list of what was fetched, and keep it: an edit may follow."""
    if await sources.lists.get(folder, ref.hash) is not None:
        return
    for lane in await sources.bulk_lanes(folder):
        lines = await _chunk_list(lane, folder, ref)
        if lines is not None:
            await sources.lists.keep(folder, ref.hash, lines)
            return


async def _chunk_list(lane: Lane, folder: FolderId, ref: BlobRef) -> list[ChunkLine] | None:
    ask = ChunksAsk(folder, ref)
    return ask.lines if await _hear(lane, ask, ref.size) and ask.is_right else None


async def _hear(lane: Lane, ask: ChunksAsk | DifferenceAsk, size: int) -> bool:
    """Put a question until all parts of the answer are here; False if one will not come."""
    while not ask.is_whole:
        number = lane.ask(ask)
        try:
            async with asyncio.timeout(IDLE_S + size / LIST_BYTES_PER_S):
                if not await ask.wait():
                    return False
        except TimeoutError:
            return False
        finally:
            lane.cancel(number)
    return True
