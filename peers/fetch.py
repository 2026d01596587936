"""Fetch contents from whichever peers have them.

Small ones come whole, many in a message; large ones by ranges from several peers at once, after
local chunks were used. Nothing is believed: a content that does not hash to its name is thrown
away, its sender counted, another source tried (A16). It writes only into the sink that it is
given, and decides nothing about where a content belongs.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from peers import wire
from peers.cancelling import TaskGroup
from peers.chunk_lists import ChunkLists, MemoryChunkLists
from peers.lane import Answer, Lane, loop_time_s
from peers.large import LocalPiece, Sink
from peers.large_fetch import IDLE_S, LargeFetch, learn_list
from peers.limits import RateLimit
from peers.link import Link, LinkClosed
from peers.outbox import Outbox, Rank
from peers.serve import send_all
from peers.wire import Chunks, Data, Difference, NotHave, Small, WantSmall
from store.errors import DizzyError, Malformed
from store.ids import AgentId, BlobHash, FolderId

if TYPE_CHECKING:
    from peers.replica import Contents, Runner
    from store.records import BlobRef

__all__ = ["Fetcher", "LocalPiece", "Sink"]

GROUP_BYTES: Final = 1024 * 1024  # expected in the answer to one question
GROUP_LIMIT: Final = 1024
GROUPS_AT_ONCE: Final = 4  # of one fetch, at one peer
BULK_FROM_BYTES: Final = 256 * 1024
BULK_OPEN_S: Final = 5.0
BULK_REST_S: Final = 30.0
BULK_RETRY_S: Final = 10.0
BULK_SHORT_S: Final = 1.0  # a link that ends sooner is not opened again at once
CACHE_LIMIT_BYTES: Final = 16 * 1024 * 1024
AWAITED_LIMIT: Final = 10_000
REFUSED_LIMIT: Final = 20_000
REFUSED_S: Final = 30.0
UNLISTED_LIMIT: Final = 1000  # large contents whose chunk lists are still to be learnt

OpenBulk = Callable[[AgentId], Awaitable[Link]]
OnWrong = Callable[[AgentId], None]


class _Peer:
    """A connected peer as a source."""

    def __init__(self, lane: Lane, has_folder: Callable[[FolderId], bool]) -> None:
        self.control = lane
        self.has_folder = has_folder
        self.bulk: Lane | None = None
        self.opening: asyncio.Future[Lane | None] | None = None
        self.bulk_not_before_s = 0.0


class _Group:
    """Small contents that are asked for together."""

    __slots__ = ("hashes", "tried")

    def __init__(self, hashes: Sequence[BlobHash], tried: frozenset[AgentId]) -> None:
        self.hashes = hashes
        self.tried = tried


class _SmallJob:
    """One call of fetch_small."""

    def __init__(self, folder: FolderId, groups: Iterable[_Group]) -> None:
        self.folder = folder
        self.found: dict[BlobHash, bytes] = {}
        self.groups = deque(groups)
        self.asks: dict[_SmallAsk, int] = {}
        self.changed = asyncio.Event()

    def done(self, ask: _SmallAsk, failed: set[BlobHash]) -> None:
        self.asks.pop(ask, None)
        if failed:
            left = [blob for blob in ask.hashes if blob in failed]
            self.groups.append(_Group(left, ask.tried | {ask.lane.agent}))
        self.changed.set()


class _SmallAsk:
    """A group under way at one peer."""

    __slots__ = ("failed", "fetcher", "hashes", "job", "lane", "left", "tried")

    def __init__(
        self,
        fetcher: Fetcher,
        job: _SmallJob,
        lane: Lane,
        hashes: Sequence[BlobHash],
        tried: frozenset[AgentId],
    ) -> None:
        self.fetcher = fetcher
        self.job = job
        self.lane = lane
        self.hashes = hashes
        self.left = set(hashes)
        self.tried = tried
        self.failed: set[BlobHash] = set()

    def message(self, number: int) -> wire.Message:
        return WantSmall(number, self.job.folder, tuple(self.hashes))

    def take(self, answer: Answer) -> bool:
        if isinstance(answer, Small):
            self._take_contents(answer)
        elif isinstance(answer, NotHave):
            absent = self.left.intersection(BlobHash(blob) for blob in answer.hashes)
            self.fetcher.refused(self.lane.agent, absent)
            self.left -= absent
            self.failed |= absent
        if self.left:
            return False
        self.job.done(self, self.failed)
        return True

    def _take_contents(self, answer: Small) -> None:
        for one in answer.contents:
            blob = BlobHash(one.hash)
            if blob not in self.left:
                continue
            self.left.discard(blob)
            if blake3(one.content).digest() == blob:
                self.job.found[blob] = one.content
                self.fetcher.received_bytes += len(one.content)
            else:
                self.failed.add(blob)
                self.fetcher.wrong(self.lane.agent)

    def lose(self) -> None:
        self.job.done(self, self.failed | self.left)


class Fetcher:
    """Fetches for the whole node, over the links of all sessions."""

    def __init__(
        self,
        runner: Runner,
        *,
        open_bulk: OpenBulk | None = None,
        download: RateLimit | None = None,
        lists: ChunkLists | None = None,
    ) -> None:
        """Fetch by the sessions that join; blocking calls on sinks go through `runner`.

        Without `open_bulk` everything comes over the session's own link. Without `lists` the
        chunk lists of large contents, fetched and served, are kept in memory.
        """
        self._runner = runner
        self._open_bulk = open_bulk
        self.on_wrong: OnWrong | None = None  # set by Sessions
        self.download = download or RateLimit()
        self._peers: dict[AgentId, _Peer] = {}
        self._cache: OrderedDict[BlobHash, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._awaited: OrderedDict[tuple[FolderId, BlobHash], None] = OrderedDict()
        self._refused: OrderedDict[tuple[AgentId, BlobHash], float] = OrderedDict()
        self._tasks: asyncio.TaskGroup | None = None
        self.wrongs: Counter[AgentId] = Counter()
        self.received_bytes = 0
        self.lists: ChunkLists = lists or MemoryChunkLists()
        self._unlisted: deque[tuple[FolderId, BlobRef]] = deque()
        self._has_unlisted = asyncio.Event()

    async def run(self) -> None:
        """Keep bulk links until cancelled; without it contents come over the sessions' links."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self._learn_lists())
                await asyncio.get_running_loop().create_future()
        finally:
            self._tasks = None

    # -- sources ----------------------------------------------------------------------------

    def joined(self, lane: Lane, has_folder: Callable[[FolderId], bool]) -> None:
        """Take a session's lane as a source for the folders that are exchanged over it."""
        self._peers[lane.agent] = _Peer(lane, has_folder)

    def left(self, lane: Lane) -> None:
        """Lose a session's lane, and the bulk link that went with it."""
        lane.close()
        peer = self._peers.get(lane.agent)
        if peer is None or peer.control is not lane:
            return
        del self._peers[lane.agent]
        if peer.bulk is not None:
            peer.bulk.close()
        for key in [key for key in self._refused if key[0] == lane.agent]:
            del self._refused[key]

    def wrong(self, agent: AgentId) -> None:
        """Count a peer that sent other bytes than it was asked for."""
        self.wrongs[agent] += 1
        if self.on_wrong is not None:
            self.on_wrong(agent)

    def refused(self, agent: AgentId, blobs: Iterable[BlobHash]) -> None:
        """Remember for a while that a peer does not have these."""
        now_s = loop_time_s()
        for blob in blobs:
            self._refused[agent, blob] = now_s
        while len(self._refused) > REFUSED_LIMIT:
            self._refused.popitem(last=False)

    def is_refused(self, agent: AgentId, blob: BlobHash) -> bool:
        """Whether a peer said a short while ago that it does not have this."""
        at_s = self._refused.get((agent, blob))
        return at_s is not None and loop_time_s() - at_s < REFUSED_S

    def lanes(self, folder: FolderId) -> list[Lane]:
        """Give the lanes of the connected peers that share a folder, for small questions."""
        return [peer.control for peer in self._peers.values() if peer.has_folder(folder)]

    def agents(self, folder: FolderId) -> list[AgentId]:
        """List the connected peers that share a folder."""
        return [agent for agent, peer in self._peers.items() if peer.has_folder(folder)]

    async def bulk_lanes(self, folder: FolderId) -> list[Lane]:
        """Give the lanes for large questions; links for them are opened where they can be."""
        return await self._lanes(folder, is_bulk=True)

    async def _lanes(self, folder: FolderId, *, is_bulk: bool) -> list[Lane]:
        if not is_bulk or self._open_bulk is None or self._tasks is None:
            return self.lanes(folder)
        peers = [peer for peer in self._peers.values() if peer.has_folder(folder)]
        for peer in peers:
            self._begin_bulk(peer)
        opening = [peer.opening for peer in peers if peer.opening is not None]
        if opening:
            await asyncio.wait(opening, return_when=asyncio.ALL_COMPLETED)
        return [
            peer.bulk if peer.bulk is not None and peer.bulk.is_open else peer.control
            for peer in peers
            if peer.control.is_open
        ]

    def _begin_bulk(self, peer: _Peer) -> None:
        is_there = peer.bulk is not None and peer.bulk.is_open
        is_soon = loop_time_s() < peer.bulk_not_before_s
        if is_there or is_soon or peer.opening is not None or self._tasks is None:
            return
        peer.opening = asyncio.get_running_loop().create_future()
        self._tasks.create_task(self._keep_bulk(peer, peer.opening))

    async def _keep_bulk(self, peer: _Peer, opened: asyncio.Future[Lane | None]) -> None:
        lane: Lane | None = None
        try:
            link = await self._dial_bulk(peer)
            if link is None:
                return
            try:
                outbox = Outbox()
                lane = Lane(
                    link.agent, lambda message: outbox.put(Rank.CONTROL, message), loop_time_s
                )
                peer.bulk, peer.opening = lane, None
                opened.set_result(lane)
                began_s = loop_time_s()
                await _run_bulk(link, lane, outbox)
                if loop_time_s() - began_s < BULK_SHORT_S:  # it was not wanted there
                    peer.bulk_not_before_s = loop_time_s() + BULK_RETRY_S
            finally:
                await link.close()
        except Malformed:
            self.wrong(peer.control.agent)
        finally:
            if lane is not None:
                lane.close()
            if not opened.done():
                opened.set_result(None)
            if peer.opening is opened:
                peer.opening = None

    async def _dial_bulk(self, peer: _Peer) -> Link | None:
        if self._open_bulk is None:
            return None
        try:
            async with asyncio.timeout(BULK_OPEN_S):
                return await self._open_bulk(peer.control.agent)
        except (DizzyError, OSError):  # TimeoutError is an OSError
            peer.bulk_not_before_s = loop_time_s() + BULK_RETRY_S
            return None

    # -- what comes unasked -------------------------------------------------------------------

    def offer(self, contents: Contents) -> None:
        """Keep contents that came with news until they are fetched (bounded). They are checked."""
        for blob, content in contents.items():
            if blob in self._cache or blake3(content).digest() != blob:
                continue
            self._cache[blob] = content
            self._cached_bytes += len(content)
        while self._cached_bytes > CACHE_LIMIT_BYTES:
            self._cached_bytes -= len(self._cache.popitem(last=False)[1])

    def arrived_late(
        self, agent: AgentId, folder: FolderId, contents: Contents, blobs: Iterable[BlobHash]
    ) -> list[BlobHash]:
        """Take contents, or word of `blobs`, that the peer did not have when it was asked.

        Gives those that are still awaited: they can be fetched now. What nobody awaits is
        passed over, so that a peer cannot fill the cache unasked.
        """
        awaited = {b: c for b, c in contents.items() if (folder, b) in self._awaited}
        self.offer(awaited)
        here = [blob for blob in awaited if blob in self._cache]
        here += [blob for blob in blobs if (folder, blob) in self._awaited]
        for blob in here:
            self._awaited.pop((folder, blob), None)
            self._refused.pop((agent, blob), None)
        return here

    def _await(self, folder: FolderId, blobs: Iterable[BlobHash]) -> None:
        for blob in blobs:
            self._awaited[folder, blob] = None
        while len(self._awaited) > AWAITED_LIMIT:
            self._awaited.popitem(last=False)

    # -- small contents -----------------------------------------------------------------------

    async def fetch_small(self, folder: FolderId, refs: Sequence[BlobRef]) -> dict[BlobHash, bytes]:
        """Fetch contents of at most 1 MiB each; what no connected peer has is left out.

        Every content given is checked. The caller bounds how much it asks for at once: all of
        it is held in memory. Those left out are remembered, and Replica.note_available is
        called when a peer has them.
        """
        wanted = {ref.hash: ref.size for ref in refs}
        found = self._take_cached(wanted)
        groups = [_Group(part, frozenset()) for part in _groups(wanted, found)]
        if not groups:
            return found
        job = _SmallJob(folder, () if self.download.is_limited else groups)
        is_bulk = sum(wanted.values()) >= BULK_FROM_BYTES
        try:
            if self.download.is_limited:
                for group in groups:
                    size = sum(wanted[blob] for blob in group.hashes)
                    await self.download.take(size, may_owe=size <= wire.INLINE_LIMIT_BYTES)
                    job.groups.append(group)
                    self._assign(job, await self._lanes(folder, is_bulk=is_bulk))
            while True:
                self._assign(job, await self._lanes(folder, is_bulk=is_bulk))
                if not job.asks:
                    break
                await self._wait_small(job)
        finally:
            for ask, number in list(job.asks.items()):
                ask.lane.cancel(number)
        found.update(job.found)
        self._await(folder, [blob for blob in wanted if blob not in found])
        return found

    def _take_cached(self, wanted: Collection[BlobHash]) -> dict[BlobHash, bytes]:
        found: dict[BlobHash, bytes] = {}
        for blob in wanted:
            content = self._cache.pop(blob, None)
            if content is not None:
                self._cached_bytes -= len(content)
                found[blob] = content
        return found

    def _assign(self, job: _SmallJob, lanes: Sequence[Lane]) -> None:
        load = Counter(ask.lane for ask in job.asks)
        open_lanes = [lane for lane in lanes if lane.is_open]
        for _ in range(len(job.groups)):
            group = job.groups.popleft()
            untried = [lane for lane in open_lanes if lane.agent not in group.tried]
            if not untried:
                continue  # nobody has these
            lane = min(untried, key=lambda one: load[one])
            if load[lane] >= GROUPS_AT_ONCE:
                job.groups.append(group)
                continue
            refused = [blob for blob in group.hashes if self.is_refused(lane.agent, blob)]
            if refused:
                job.groups.append(_Group(refused, group.tried | {lane.agent}))
            if len(refused) < len(group.hashes):
                asked = [b for b in group.hashes if b not in refused] if refused else group.hashes
                ask = _SmallAsk(self, job, lane, asked, group.tried)
                job.asks[ask] = 0
                number = lane.ask(ask)
                if ask in job.asks:  # not lost at once
                    job.asks[ask] = number
                load[lane] += 1
        if not job.asks and job.groups and open_lanes:
            self._assign(job, lanes)

    async def _wait_small(self, job: _SmallJob) -> None:
        job.changed.clear()
        try:
            async with asyncio.timeout(IDLE_S / 2):
                await job.changed.wait()
        except TimeoutError:
            now_s = loop_time_s()
            for ask, number in list(job.asks.items()):
                if now_s - ask.lane.last_arrival_s >= IDLE_S:
                    ask.lane.cancel(number)
                    ask.lose()

    # -- large contents -----------------------------------------------------------------------

    async def fetch_large(
        self, folder: FolderId, ref: BlobRef, sink: Sink, old: Sequence[LocalPiece] = ()
    ) -> bool:
        """Fill a sink with one content; True if its BLAKE3 is right in the end.

        What the sink holds already is used where it is, chunks of the `old` pieces next, and
        the rest comes from all peers that have it. After False the sink keeps what arrived: call
        again with it when a peer is there, and at most one chunk is sent twice (P47).
        """
        fetch = LargeFetch(self, self._runner, folder, ref, sink)
        is_right = await fetch.run(old)
        if is_right is None:
            self._await(folder, (ref.hash,))
        elif is_right and self._tasks is not None and len(self._unlisted) < UNLISTED_LIMIT:
            self._unlisted.append((folder, ref))
            self._has_unlisted.set()
        return bool(is_right)

    async def _learn_lists(self) -> None:
        """Learn the chunk lists of what was fetched, behind it: for the version after it."""
        while True:
            while not self._unlisted:
                self._has_unlisted.clear()
                await self._has_unlisted.wait()
            await learn_list(self, *self._unlisted.popleft())


async def _run_bulk(link: Link, lane: Lane, outbox: Outbox) -> None:
    """Receive answers over a bulk link until it closes or rests. Raises Malformed."""
    assembler = wire.Assembler()

    async def receive() -> None:
        while lane.is_open:
            try:
                async with asyncio.timeout(BULK_REST_S):
                    frame = await link.receive()
            except TimeoutError:
                if not lane.waiting:
                    break
                continue
            message = assembler.accept(frame)
            if isinstance(message, Data | Small | NotHave | Chunks | Difference):
                lane.arrived(message)
        raise LinkClosed("bulk link", "rests")

    try:
        async with TaskGroup() as tasks:
            tasks.create_task(receive())
            tasks.create_task(send_all(link, outbox))
    except* LinkClosed:
        pass
    except* Malformed as group:
        raise group.exceptions[0] from None


def _groups(wanted: dict[BlobHash, int], found: Collection[BlobHash]) -> Iterable[list[BlobHash]]:
    group: list[BlobHash] = []
    size = 0
    for blob, length in wanted.items():
        if blob in found:
            continue
        if group and (size + length > GROUP_BYTES or len(group) >= GROUP_LIMIT):
            yield group
            group, size = [], 0
        group.append(blob)
        size += length
    if group:
        yield group
