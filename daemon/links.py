"""Serve the links that peers have to this node, each for its life.

Of two calls that cross one stays, who offends is left alone for a while, and no fault of one link
ends the node. What is said over a link is peers.sessions' part; whom to call daemon.calling's.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping

from daemon.calling import CALM_S
from daemon.core import Runner
from daemon.displaced import Clock
from daemon.folder_work import FolderWork
from daemon.peer_book import PeerBook
from daemon.shelf import Shelf
from daemon.traffic import Traffic
from daemon.troubles import innermost, told
from peers.backoff import Offences
from peers.crossing import Crossing
from peers.link import Link, Purpose
from peers.sessions import Sessions
from store.ids import AgentId, FolderId, short

logger = logging.getLogger(__name__)

BULK_LINKS_LIMIT = 4  # that one peer may have open to us; it needs one


class Links:
    """All links of one node, called or calling. Owned by the loop."""

    def __init__(
        self,
        *,
        core: Runner,
        clock: Clock,
        shelf: Shelf,
        book: PeerBook,
        crossing: Crossing,
        traffic: Traffic,
        offences: Offences,
        sessions: Sessions,
        works: Mapping[FolderId, FolderWork],
        spawn: Callable[[Coroutine[object, object, object]], None],
        call_soon: Callable[[AgentId], None],
    ) -> None:
        """Begin with no link; `spawn` owns the tasks of those that come."""
        self._core = core
        self._clock = clock
        self._shelf = shelf
        self._book = book
        self._crossing = crossing
        self._traffic = traffic
        self._offences = offences
        self._sessions = sessions
        self._works = works
        self._spawn = spawn
        self._call_soon = call_soon
        self._bulk_links: dict[AgentId, deque[Link]] = {}  # the oldest first
        self.rejected: Counter[str] = Counter()
        self.clones_seen: set[AgentId] = set()

    def take(self, link: Link) -> None:
        """Take a proven link, called or calling, and serve it for its life."""
        self._traffic.add(link)
        if link.purpose is Purpose.BULK:
            self._spawn(self._serve_bulk(link))
        else:
            self._spawn(self.serve(link))

    async def _serve_bulk(self, link: Link) -> None:
        """Serve contents over one of the few links that a peer may have for them.

        A further one ends the oldest, which may be a connection that broke and does not know it:
        whoever calls again after a cut is no attacker, so that nothing is counted.
        """
        links = self._bulk_links.setdefault(link.agent, deque())
        links.append(link)
        try:
            if len(links) > BULK_LINKS_LIMIT:
                await links.popleft().close()
            await self._sessions.serve_bulk(link)
        except Exception as failure:  # noqa: BLE001 - a fault of one link must not end the node
            _tell_fault(link, failure)
            await link.close()
        finally:
            if link in links:
                links.remove(link)
            if not links and self._bulk_links.get(link.agent) is links:
                del self._bulk_links[link.agent]

    async def serve(self, link: Link) -> None:
        """Talk over a link for its life; of two with one peer one stays."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        if self._offences.wait_s(link.agent, began_s):
            await link.close()
            return
        meeting = self._crossing.meet(link)
        logger.debug(
            "link agent=%s is_dialler=%s is=%s", short(link.agent), link.is_dialler, meeting.value
        )
        if meeting.is_clone:
            self.clones_seen.add(link.agent)
        if not meeting.keeps_new:
            await link.close()
            return
        try:
            await self._note_seen(link)
            ended = await self._sessions.open(link).run()
            logger.debug("session ended agent=%s why=%s", short(link.agent), ended.reason)
            if ended.is_struck:
                self.rejected["struck-off"] += 1
                self._offences.note(link.agent, loop.time())
            elif loop.time() - began_s > CALM_S:
                self._offences.forgive(link.agent)
        except Exception as failure:  # noqa: BLE001 - a fault of one session must not end the node
            self._offences.note(link.agent, loop.time())
            _tell_fault(link, failure)
            await link.close()
        finally:
            self._crossing.forget(link)
            await self._core.run(self._forget_waiting, link.agent)
            if self._crossing.link_of(link.agent) is None:
                for work in self._works.values():
                    work.peer_gone(link.agent)
            self._call_soon(link.agent)
            await self._note_end(link)

    async def _note_end(self, link: Link) -> None:
        """Note that a peer was here until now: a link may have lasted for days."""
        try:
            await self._note_seen(link)
        except sqlite3.Error as failure:
            _tell_fault(link, failure)

    async def _note_seen(self, link: Link) -> None:
        label = link.label.decode("utf-8", "replace")
        await self._book.note_seen(link.agent, label, self._clock.now_ns() // 1_000_000)

    def _forget_waiting(self, agent: AgentId) -> None:
        for stored in self._shelf:
            stored.log.forget_waiting(agent)


def _tell_fault(link: Link, failure: Exception) -> None:
    why = f"link failed agent={short(link.agent)}"
    if isinstance(innermost(failure), sqlite3.Error):
        logger.error("%s why=%s", why, told(failure)[0])
    else:
        logger.error(why, exc_info=failure)
