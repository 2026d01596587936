"""Call the other members whenever no connection to them is there, with growing pauses.

Whom to call follows from the folders at work and from those whose end is to be told. What comes of
a connection, and who may call us, is not decided here.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from daemon.ended import EndedFolder
from daemon.folder_work import FolderWork
from daemon.peer_book import PeerBook
from daemon.traffic import Traffic
from peers.address import Address, parse_all
from peers.backoff import Offences, Reconnection
from peers.crossing import Crossing
from peers.invite import Invite
from peers.link import Link, Purpose
from store.errors import DizzyError, TryLater
from store.ids import AgentId, FolderId, short

logger = logging.getLogger(__name__)

CALM_S = 1.0  # a session that lasted so long was a success: the next call comes soon
NO_ADDRESS_S = 5.0


class Network(Protocol):
    """How this node calls others; calls of others come to daemon.links."""

    async def dial(
        self,
        addresses: Sequence[Address],
        agent: AgentId,
        purpose: Purpose,
        *,
        invite: Invite | None = None,
    ) -> Link:
        """Reach the agent at one of the addresses. Raises TryLater (NoAnswer) and DizzyError."""


class Calling:
    """Who is called, and where. Owned by the loop."""

    def __init__(
        self,
        *,
        agent: AgentId,
        network: Network,
        book: PeerBook,
        crossing: Crossing,
        traffic: Traffic,
        rng: random.Random,
        offences: Offences,
        works: Mapping[FolderId, FolderWork],
        ended: Mapping[FolderId, EndedFolder],
        serve: Callable[[Link], Awaitable[None]],
    ) -> None:
        """`works` and `ended` are looked at each time anew; `serve` keeps a link for its life.

        Whom `offences` leave alone is not called meanwhile.
        """
        self._agent = agent
        self._network = network
        self._book = book
        self._crossing = crossing
        self._traffic = traffic
        self._rng = rng
        self._offences = offences
        self._works = works
        self._ended = ended
        self._serve = serve
        self._tasks: asyncio.TaskGroup | None = None
        self._dial_tasks: dict[AgentId, asyncio.Task[None]] = {}
        self._nudges: dict[AgentId, asyncio.Event] = {}
        self._called: set[AgentId] = set()  # once at least, and nobody answered
        self._resting: set[AgentId] = set()  # nobody needs them called

    async def run(self, tasks: asyncio.TaskGroup) -> None:
        """Begin to call, as tasks of the group."""
        self._tasks = tasks
        await self.call_members()

    async def call_members(self) -> None:
        """See to it that somebody calls every other member."""
        wanted = self._wanted()
        for agent in sorted(wanted & self._resting):
            self.nudge(agent)
        for agent in sorted(wanted - self._dial_tasks.keys()):
            if self._tasks is not None:
                self._nudges[agent] = asyncio.Event()
                self._dial_tasks[agent] = self._tasks.create_task(self._keep_calling(agent))
        self._tell_unanswered()

    def network_changed(self) -> None:
        """Call everybody at once: addresses changed, or the machine woke up."""
        for nudge in self._nudges.values():
            nudge.set()

    def nudge(self, agent: AgentId) -> None:
        """Look anew whether this agent is to be called: its connection ended."""
        event = self._nudges.get(agent)
        if event is not None:
            event.set()

    async def open_bulk(self, agent: AgentId) -> Link:
        """Open a connection of its own for contents, to where the peer is connected now."""
        peer = self._book.get(agent)
        places = list(peer.places())
        current = self._crossing.link_of(agent)
        if current is not None and current.is_dialler:
            places[:0] = parse_all([current.address])
        if not places:
            raise TryLater("bulk", "no address of that peer is known")
        try:
            link = await self._network.dial(places, agent, Purpose.BULK)
        except DizzyError as failure:
            raise OSError(str(failure)) from failure
        self._traffic.add(link)
        return link

    def _wanted(self) -> set[AgentId]:
        """Say whom to call: the members of our folders, and who has to hear that one ended."""
        wanted: set[AgentId] = set()
        for work in self._works.values():
            wanted.update(work.members)
            wanted.update(self._book.sources(work.folder_no))
        for ended in self._ended.values():
            wanted.update(ended.untold)
        wanted.discard(self._agent)
        return wanted

    def _tell_unanswered(self) -> None:
        """Tell folders whose other members were all called in vain: nobody is to be waited for."""
        for work in self._works.values():
            others = {*work.members, *self._book.sources(work.folder_no)}
            if others - {self._agent} <= self._called:
                work.tail.nobody_answers()

    async def _keep_calling(self, agent: AgentId) -> None:
        """Call a member whenever no connection to it is there, with growing pauses."""
        pauses = Reconnection(self._rng)
        nudge = self._nudges[agent]
        loop = asyncio.get_running_loop()
        while True:
            nudge.clear()
            self._resting.discard(agent)
            if self._crossing.link_of(agent) is not None:
                pauses.reset()
                pause_s = None
            elif agent not in self._wanted():
                self._resting.add(agent)
                pause_s = None
            else:
                places = self._book.get(agent).places()
                began_s = loop.time()
                is_linked = bool(places) and await self._call(agent, places)
                if not is_linked and agent not in self._called:
                    self._called.add(agent)
                    self._tell_unanswered()
                nudge.clear()  # the end of our own call is no news of the peer
                if is_linked and loop.time() - began_s > CALM_S:
                    pauses.reset()
                pause_s = pauses.next_delay_s() if places else NO_ADDRESS_S
                pause_s = max(pause_s, self._offences.wait_s(agent, loop.time()))
            try:
                async with asyncio.timeout(pause_s):
                    await nudge.wait()
                if pause_s is None and agent not in self._resting:
                    offence_s = self._offences.wait_s(agent, loop.time())
                    await asyncio.sleep(max(pauses.next_delay_s(), offence_s))
            except TimeoutError:
                pass

    async def _call(self, agent: AgentId, places: Sequence[Address]) -> bool:
        try:
            link = await self._network.dial(places, agent, Purpose.CONTROL)
        except DizzyError as failure:
            logger.debug("no answer agent=%s why=%s", short(agent), failure.why)
            return False
        self._traffic.add(link)
        await self._serve(link)
        return True
