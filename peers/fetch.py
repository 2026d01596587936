"""Fetch contents from whichever peers have them.

Small ones come whole, many in a message (peers.small_fetch); large ones by ranges from several
peers at once, after local chunks were used (peers.large_fetch). Nothing is believed: a content
that does not hash to its name is thrown away, its sender counted, another source tried (A16).
What nobody at hand had is asked for again after short pauses, and when anything changes at a peer.
It writes only into the sink that it is given, and decides nothing about where a content belongs.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from peers.away import Away
from peers.chunk_lists import ChunkLists, MemoryChunkLists
from peers.lane import Lane, loop_time_s
from peers.large import LocalPiece, Sink
from peers.large_fetch import LargeFetch, learn_list
from peers.limits import RateLimit
from peers.small_fetch import SmallFetch
from peers.sources import HasFolder, OnWrong, OpenBulk, Sources
from store.ids import AgentId, BlobHash, FolderId

if TYPE_CHECKING:
    from peers.replica import Contents, Runner
    from peers.wire import Small
    from store.records import BlobRef

__all__ = ["Fetcher", "LocalPiece", "Sink"]

CACHE_LIMIT_BYTES: Final = 16 * 1024 * 1024
UNLISTED_LIMIT: Final = 1000  # large contents whose chunk lists are still to be learnt

OnAvailable = Callable[[FolderId, Sequence[BlobHash]], None]


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
        self.download = download or RateLimit()
        self.lists: ChunkLists = lists or MemoryChunkLists()
        self.sources = Sources(open_bulk, self._take_stray)
        self.on_available: OnAvailable = lambda *_: None  # set by Sessions, like on_wrong
        self._away = Away()
        self._has_away = asyncio.Event()
        self._small: dict[SmallFetch, None] = {}  # under way
        self._cache: OrderedDict[BlobHash, bytes] = OrderedDict()
        self._cached_bytes = 0
        self.received_bytes = 0
        self._is_running = False
        self._unlisted: deque[tuple[FolderId, BlobRef]] = deque()
        self._has_unlisted = asyncio.Event()

    async def run(self) -> None:
        """Keep links for contents, and ask again for what was away, until cancelled.

        Without it contents come over the sessions' links, and nothing is asked for again.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                self._is_running = True
                self.sources.keep(tasks)
                tasks.create_task(self._learn_lists())
                tasks.create_task(self._ask_again())
        finally:
            self._is_running = False
            self.sources.keep(None)

    # -- sources ----------------------------------------------------------------------------

    @property
    def on_wrong(self) -> OnWrong:
        """Who is told of a peer that sent other bytes than it was asked for."""
        return self.sources.on_wrong

    @on_wrong.setter
    def on_wrong(self, told: OnWrong) -> None:
        self.sources.on_wrong = told

    @property
    def wrongs(self) -> Counter[AgentId]:
        """How often each peer sent other bytes than it was asked for."""
        return self.sources.wrongs

    def wrong(self, agent: AgentId) -> None:
        """Count a peer that sent other bytes than it was asked for."""
        self.sources.wrong(agent)

    def joined(self, lane: Lane, has_folder: HasFolder) -> None:
        """Take a session's lane as a source for the folders that are exchanged over it."""
        self.sources.joined(lane, has_folder)
        self._away.begin_anew()

    def left(self, lane: Lane) -> None:
        """Lose a session's lane, and the bulk link that went with it."""
        if self.sources.left(lane):
            self._away.gone(lane.agent)

    def lanes(self, folder: FolderId) -> list[Lane]:
        """Give the lanes of the connected peers that share a folder, for small questions."""
        return self.sources.control_lanes(folder)

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
    ) -> None:
        """Take contents, or word of `blobs`, that the peer did not have when it was asked.

        Those that are still awaited are told as available. What nobody awaits is passed over, so
        that a peer cannot fill the cache unasked.
        """
        awaited = self._away.awaited(folder, contents)
        self.offer({blob: contents[blob] for blob in awaited})
        here = [blob for blob in awaited if blob in self._cache]
        here += self._away.awaited(folder, blobs)
        if here:
            self._away.may_be_at(agent, here)
            self._away.fetched(folder, here)
            self.on_available(folder, here)

    def may_have_more(self, agent: AgentId, folder: FolderId) -> None:
        """Ask a peer again for what it did not have: it came to rest after a change."""
        blobs = self._away.may_have_more(agent, folder, loop_time_s())
        if blobs:
            self.on_available(folder, blobs)

    def _take_stray(self, agent: AgentId, small: Small) -> None:
        """Take contents that come after they were given up there."""
        folder = FolderId(small.folder)
        late: dict[BlobHash, bytes] = {}
        for one in small.contents:
            blob = BlobHash(one.hash)
            for job in self._small:
                if job.folder == folder and job.take_stray(blob, one.content):
                    break
            else:
                late[blob] = one.content
        if late:
            self.arrived_late(agent, folder, late, ())

    async def _ask_again(self) -> None:
        """Tell what is due as available; whoever wants it fetches it anew then."""
        while True:
            self._has_away.clear()
            try:
                async with asyncio.timeout_at(self._away.next_due_s):
                    await self._has_away.wait()
            except TimeoutError:
                for folder, blobs in self._away.take_due(loop_time_s()).items():
                    if self.sources.agents(folder):  # else there is nobody to ask
                        self.on_available(folder, blobs)

    def _left_out(self, folder: FolderId, blobs: Collection[BlobHash]) -> None:
        if blobs:
            was_asked = bool(self.sources.agents(folder))
            self._away.left_out(folder, blobs, loop_time_s(), was_asked=was_asked)
            self._has_away.set()

    # -- small contents -----------------------------------------------------------------------

    async def fetch_small(self, folder: FolderId, refs: Sequence[BlobRef]) -> dict[BlobHash, bytes]:
        """Fetch contents of at most 1 MiB each; what no connected peer has is left out.

        Every content given is checked. The caller bounds how much it asks for at once: all of
        it is held in memory. Those left out are remembered, and Replica.note_available is
        called when a peer may have them.
        """
        wanted = {ref.hash: ref.size for ref in refs}
        found = self._take_cached(wanted)
        if found:
            wanted = {blob: size for blob, size in wanted.items() if blob not in found}
        if not wanted:
            return found
        job = SmallFetch(self.sources, self._away, folder, wanted)
        self._small[job] = None
        try:
            await job.run(self.download)
        finally:
            del self._small[job]
            self.received_bytes += job.received_bytes
        found.update(job.found)
        left = [blob for blob in wanted if blob not in found]
        if left:  # it may have come while others were waited for
            found.update(self._take_cached(left))
            left = [blob for blob in left if blob not in found]
        self._away.fetched(folder, found)
        self._left_out(folder, left)
        return found

    def _take_cached(self, wanted: Collection[BlobHash]) -> dict[BlobHash, bytes]:
        found: dict[BlobHash, bytes] = {}
        for blob in wanted:
            content = self._cache.pop(blob, None)
            if content is not None:
                self._cached_bytes -= len(content)
                found[blob] = content
        return found

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
        if is_right:
            self._away.fetched(folder, (ref.hash,))
            if self._is_running and len(self._unlisted) < UNLISTED_LIMIT:
                self._unlisted.append((folder, ref))
                self._has_unlisted.set()
        else:
            self._left_out(folder, (ref.hash,))
        return bool(is_right)

    def refused(self, agent: AgentId, folder: FolderId, blob: BlobHash) -> None:
        """Remember that a peer does not have a large content now."""
        self._away.refused(agent, folder, (blob,), loop_time_s())

    def is_refused(self, agent: AgentId, blob: BlobHash) -> bool:
        """Whether a peer said a short while ago that it does not have this."""
        return self._away.is_refused(agent, blob, loop_time_s())

    async def _learn_lists(self) -> None:
        """Learn the chunk lists of what was fetched, behind it: for the version after it."""
        while True:
            while not self._unlisted:
                self._has_unlisted.clear()
                await self._has_unlisted.wait()
            await learn_list(self, *self._unlisted.popleft())
