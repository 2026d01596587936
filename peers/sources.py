"""Know the connected peers as sources of contents, and the lanes on which each can be asked.

A peer has its session's own lane, and one over a link for contents alone, opened when much is
wanted, so that contents delay no small save. It fetches nothing; who waits for a lane to be
opened waits OPEN_PATIENCE_S, for the session's own is there all the time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from peers import wire
from peers.cancelling import TaskGroup
from peers.framing import Assembler
from peers.lane import Lane, loop_time_s
from peers.link import Link, LinkClosed
from peers.outbox import Outbox, Rank
from peers.serve import send_all
from peers.wire import Chunks, Data, Difference, NotHave, Small
from store.errors import DizzyError, Malformed
from store.ids import AgentId, FolderId

OPEN_S: Final = 5.0  # how long a link may take to be opened
OPEN_PATIENCE_S: Final = 0.5
REST_S: Final = 30.0
RETRY_S: Final = 10.0
SHORT_S: Final = 1.0  # a link that ends sooner is not opened again at once

OpenBulk = Callable[[AgentId], Awaitable[Link]]
HasFolder = Callable[[FolderId], bool]
OnWrong = Callable[[AgentId], None]


class _Peer:
    """A connected peer."""

    def __init__(self, lane: Lane, has_folder: HasFolder) -> None:
        self.control = lane
        self.has_folder = has_folder
        self.bulk: Lane | None = None
        self.opened: asyncio.Future[None] | None = None  # done when opening came to an end
        self.opening_since_s = 0.0
        self.not_before_s = 0.0
        self.keeping: asyncio.Task[None] | None = None

    def lanes(self, *, is_bulk: bool) -> list[Lane]:
        """Give the open lanes, the one to be asked first."""
        ways = [self.bulk, self.control] if is_bulk else [self.control, self.bulk]
        return [lane for lane in ways if lane is not None and lane.is_open]


class Sources:
    """All connected peers. Owned by the loop."""

    def __init__(
        self, open_bulk: OpenBulk | None, on_stray: Callable[[AgentId, Small], None]
    ) -> None:
        """Links for contents are opened by `open_bulk`, if it is given and `keep` was called.

        `on_stray` gets contents that come when nobody asks for them on that lane any more.
        """
        self.open_bulk = open_bulk
        self._on_stray = on_stray
        self.on_wrong: OnWrong = lambda _: None
        self.wrongs: Counter[AgentId] = Counter()
        self._peers: dict[AgentId, _Peer] = {}
        self._tasks: asyncio.TaskGroup | None = None

    def keep(self, tasks: asyncio.TaskGroup | None) -> None:
        """Open links for contents as tasks of this group; without one no more are opened."""
        self._tasks = tasks

    # -- who is connected -----------------------------------------------------------------------

    def joined(self, lane: Lane, has_folder: HasFolder) -> None:
        """Take a session's lane as a source for the folders that are exchanged over it."""
        self._heed(lane)
        self._peers[lane.agent] = _Peer(lane, has_folder)

    def left(self, lane: Lane) -> bool:
        """Lose a session's lane, and the link for contents with it; False if it was replaced."""
        lane.close()
        peer = self._peers.get(lane.agent)
        if peer is None or peer.control is not lane:
            return False
        del self._peers[lane.agent]
        if peer.bulk is not None:
            peer.bulk.close()
        if peer.keeping is not None:
            peer.keeping.cancel()
        return True

    def wrong(self, agent: AgentId) -> None:
        """Count a peer that sent other bytes than it was asked for."""
        self.wrongs[agent] += 1
        self.on_wrong(agent)

    def agents(self, folder: FolderId) -> list[AgentId]:
        """List the connected peers that share a folder."""
        return [agent for agent, peer in self._peers.items() if peer.has_folder(folder)]

    # -- lanes ----------------------------------------------------------------------------------

    def control_lanes(self, folder: FolderId) -> list[Lane]:
        """Give the sessions' own lanes to the peers that share a folder."""
        return [peer.control for peer in self._peers.values() if peer.has_folder(folder)]

    async def lanes(self, folder: FolderId, *, is_bulk: bool) -> list[list[Lane]]:
        """Give for each peer that shares a folder its lanes, the one to be asked first first.

        For much (`is_bulk`) a link of its own is opened, and waited for, though not for long.
        """
        peers = [peer for peer in self._peers.values() if peer.has_folder(folder)]
        if is_bulk:
            await self._open(peers)
        return [lanes for peer in peers if (lanes := peer.lanes(is_bulk=is_bulk))]

    async def _open(self, peers: list[_Peer]) -> None:
        now_s = loop_time_s()
        waited_for: list[asyncio.Future[None]] = []
        until_s = now_s
        for peer in peers:
            self._begin_bulk(peer)
            if peer.opened is not None and now_s < peer.opening_since_s + OPEN_PATIENCE_S:
                waited_for.append(peer.opened)
                until_s = max(until_s, peer.opening_since_s + OPEN_PATIENCE_S)
        if waited_for:
            await asyncio.wait(waited_for, timeout=until_s - now_s)

    def _begin_bulk(self, peer: _Peer) -> None:
        is_there = peer.bulk is not None and peer.bulk.is_open
        is_soon = loop_time_s() < peer.not_before_s
        if is_there or is_soon or peer.opened is not None or self._tasks is None:
            return
        if self.open_bulk is None or not peer.control.is_open:
            return
        peer.opened = asyncio.get_running_loop().create_future()
        peer.opening_since_s = loop_time_s()
        peer.keeping = self._tasks.create_task(self._keep_bulk(peer, peer.opened))

    async def _keep_bulk(self, peer: _Peer, opened: asyncio.Future[None]) -> None:
        """Open a link for contents and receive over it for as long as it is used."""
        try:
            link = await self._dial(peer.control.agent)
            if link is None:
                peer.not_before_s = loop_time_s() + RETRY_S
                return
            await self._use_bulk(peer, link, opened)
        except Malformed:
            self.wrong(peer.control.agent)
        finally:
            self._end_opening(peer, opened)

    async def _use_bulk(self, peer: _Peer, link: Link, opened: asyncio.Future[None]) -> None:
        outbox = Outbox()
        lane = Lane(
            link.agent,
            lambda message: outbox.put(Rank.CONTROL, message),
            loop_time_s,
            lambda: link.received_bytes,
        )
        self._heed(lane)
        began_s = loop_time_s()
        try:
            peer.bulk = lane
            self._end_opening(peer, opened)
            await _run_bulk(link, lane, outbox)
        finally:
            if loop_time_s() - began_s < SHORT_S:  # it was not wanted there
                peer.not_before_s = loop_time_s() + RETRY_S
            lane.close()  # before the goodbye: what was asked is wanted elsewhere at once
            await link.close()

    def _end_opening(self, peer: _Peer, opened: asyncio.Future[None]) -> None:
        if not opened.done():
            opened.set_result(None)
        if peer.opened is opened:
            peer.opened = None

    async def _dial(self, agent: AgentId) -> Link | None:
        if self.open_bulk is None:
            return None
        try:
            async with asyncio.timeout(OPEN_S):
                return await self.open_bulk(agent)
        except (DizzyError, OSError):  # TimeoutError is an OSError
            return None

    def _heed(self, lane: Lane) -> None:
        agent = lane.agent
        lane.on_stray = lambda small: self._on_stray(agent, small)


async def _run_bulk(link: Link, lane: Lane, outbox: Outbox) -> None:
    """Receive answers over a link for contents until it closes or rests. Raises Malformed."""
    assembler = Assembler(wire.parse)

    async def receive() -> None:
        while lane.is_open:
            try:
                async with asyncio.timeout(REST_S):
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
            tasks.create_task(outbox.failure())
    except* LinkClosed:
        pass
    except* Malformed as group:
        raise group.exceptions[0] from None
