"""Hold what all sessions of a node share: who is connected, what is asked of whom, what is new.

The owner tells it what happened here (a batch was made, contents arrived, members changed); it
passes that on to the sessions that it concerns. It stores nothing and opens no connection.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from peers import heads, wire
from peers.beginning import (
    PATIENCE_WITH_LOG_S,
    Beginnings,
    NoSnapshots,
    SnapshotShelf,
    fetch_and_begin,
)
from peers.exchange import Exchange
from peers.lane import loop_time_s
from peers.limits import RateLimit
from peers.outbox import Outbox
from peers.packing import pack
from peers.serve import BlobServer, Remembered, serve_link
from peers.session import Session
from peers.work import WorkBudget
from store.errors import Malformed
from store.ids import AgentId, BatchId, BlobHash, FolderId

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from peers.fetch import Fetcher
    from peers.link import Link
    from peers.replica import Contents, Replica, Runner
    from store.events import Content
    from store.signing import SignedBatch

RELAY_LIMIT_BYTES: Final = 64 * 1024  # larger batches of others are announced, not pushed on
PACKED_LIMIT: Final = 8  # batches of at most 1 MiB that are kept ready to be sent
REMEMBERED_PEERS_LIMIT: Final = 256
PUSHED_LIMIT: Final = 64  # small contents that are sent without being asked for again
WANTED_AGAIN_LIMIT: Final = 256  # wants of one peer that are looked up each time we settle


class Sessions:
    """All sessions of a node, and what they share. Owned by the loop."""

    def __init__(
        self,
        replica: Replica,
        runner: Runner,
        fetcher: Fetcher,
        *,
        upload: RateLimit | None = None,
        snapshots: SnapshotShelf | None = None,
    ) -> None:
        """Begin without a session; `fetcher` gets each one as a source."""
        self.snapshots = snapshots or NoSnapshots()
        self.beginnings = Beginnings(self.snapshots)
        self.replica = replica
        self.runner = runner
        self.fetcher = fetcher
        fetcher.on_wrong = self._wrong_content
        fetcher.on_available = replica.note_available
        self.upload = upload or RateLimit()
        self.lists = fetcher.lists
        self.rejected: Counter[str] = Counter()
        self._sessions: dict[AgentId, Session] = {}
        self._exchanges: dict[FolderId, Exchange] = {}
        self._packed: dict[BatchId, wire.PackedBatch] = {}
        self._remembered: dict[AgentId, Remembered] = {}
        self._budgets: dict[AgentId, WorkBudget] = {}
        self.new_budget: Callable[[], WorkBudget] = WorkBudget

    # -- who is connected ---------------------------------------------------------------------

    def session(self, agent: AgentId) -> Session | None:
        """Find the session of a connected peer."""
        return self._sessions.get(agent)

    def all(self) -> list[Session]:
        """List the running sessions."""
        return list(self._sessions.values())

    def open(self, link: Link) -> Session:
        """Make the session of a link; it begins when its run() is awaited.

        Of two links to one peer the later one stays, the earlier session ends.
        """
        return Session(link, self)

    def joined(self, session: Session) -> Session | None:
        """Take a session that begins; give the one that it replaces, whose link is to be closed."""
        former = self._sessions.get(session.agent)
        if former is not None:
            session.follow(former)
            self.left(former)
        self._sessions[session.agent] = session
        self.fetcher.joined(session.lane, session.shares)
        return former

    def left(self, session: Session) -> None:
        """Let go of a session that has ended; one that was replaced is gone already."""
        if self._sessions.get(session.agent) is not session:
            return
        del self._sessions[session.agent]
        self.fetcher.left(session.lane)
        self.beginnings.gone(session.agent)
        for exchange in self._exchanges.values():
            exchange.gone(session.agent)
        self.replica.note_gone(session.agent)

    def pack(self, signed: SignedBatch) -> wire.PackedBatch:
        """Make a fresh batch ready to be sent, once for all sessions."""
        packed = self._packed.get(signed.id)
        if packed is None:
            packed = self._packed[signed.id] = pack(signed.wire)
            if len(self._packed) > PACKED_LIMIT:
                del self._packed[next(iter(self._packed))]
        return packed

    def _wrong_content(self, agent: AgentId) -> None:
        session = self._sessions.get(agent)
        if session is not None:
            session.strike_content()

    def exchange(self, folder: FolderId) -> Exchange:
        """Give the account of who has what of a folder."""
        return self._exchanges.setdefault(folder, Exchange())

    def remembered(self, agent: AgentId) -> Remembered:
        """Give the wants of a peer that could not be served; they outlive its session."""
        found = self._remembered.pop(agent, None)
        self._remembered[agent] = found if found is not None else Remembered()
        while len(self._remembered) > REMEMBERED_PEERS_LIMIT:
            del self._remembered[next(iter(self._remembered))]
        return self._remembered[agent]

    def budget(self, agent: AgentId) -> WorkBudget:
        """Give the work that one peer may cause over all its links; it outlives its session."""
        found = self._budgets.pop(agent, None)
        self._budgets[agent] = found if found is not None else self.new_budget()
        while len(self._budgets) > REMEMBERED_PEERS_LIMIT:
            del self._budgets[next(iter(self._budgets))]
        return self._budgets[agent]

    async def serve_bulk(self, link: Link) -> None:
        """Serve contents over a bulk link that a peer opened, until it closes.

        A peer that sends what is no message is counted and cut off.
        """
        outbox = Outbox()
        server = BlobServer(
            link.agent,
            self.replica,
            self.runner,
            outbox,
            upload=self.upload,
            lists=self.lists,
            remember=self.remembered(link.agent).add,
            budget=self.budget(link.agent),
        )
        try:
            await serve_link(link, server, outbox)
        except Malformed:
            self.rejected["malformed"] += 1

    # -- what happened here -------------------------------------------------------------------

    def announce(
        self, folder: FolderId, batches: Sequence[SignedBatch], contents: Contents | None = None
    ) -> None:
        """Push own fresh batches, durable already, to every peer that lacks them.

        Small contents go along as far as 64 KiB together reach. A peer that is too far behind
        is told the heads instead and asks for what it lacks.
        """
        self.exchange(folder).stored(batches)
        inline = _inline(contents or {})
        for session in self._sessions.values():
            if session.shares(folder):
                session.push(folder, batches, inline)
                session.announce_heads(folder)

    def relay(
        self,
        folder: FolderId,
        batches: Sequence[SignedBatch],
        source: AgentId,
        contents: Contents,
    ) -> None:
        """Pass batches of others on, but not to whom they came from; large ones by heads."""
        small = [one for one in batches if len(one.body) <= RELAY_LIMIT_BYTES]
        for session in self._sessions.values():
            if not session.shares(folder):
                continue
            if session.agent != source:
                session.push(folder, small, contents)
            session.announce_heads(folder)

    def heads_changed(self, folder: FolderId) -> None:
        """Tell all peers of a folder what this node has now (heads, root, importing)."""
        for session in self._sessions.values():
            session.announce_heads(folder)

    def offer_again(self, folder: FolderId) -> None:
        """Offer every peer of a folder the snapshot that there is by now."""
        for session in self._sessions.values():
            session.offer_again(folder)

    async def folders_changed(self) -> None:
        """Tell each peer which folders are shared with it now."""
        for session in list(self._sessions.values()):
            await session.announce_folders()

    async def addresses_changed(self, records: Sequence[wire.SignedAddresses]) -> None:
        """Tell every peer addresses that are new here."""
        for session in self._sessions.values():
            session.tell_addresses(records)

    def pass_on_addresses(self, records: Sequence[wire.SignedAddresses], source: AgentId) -> None:
        """Tell every peer but the source."""
        for session in self._sessions.values():
            if session.agent != source:
                session.tell_addresses(records)

    def announce_fork(self, fork: wire.Fork, source: AgentId | None = None) -> None:
        """Pass on the proof that an agent signed twice."""
        for session in self._sessions.values():
            if session.agent != source and session.shares(FolderId(fork.folder)):
                session.send(fork)

    def blob_arrived(self, folder: FolderId, blobs: Sequence[BlobHash]) -> None:
        """Serve wants that were answered not-have before these contents were here."""
        for session in self._sessions.values():
            small, large = self.remembered(session.agent).take(folder, blobs)
            if not session.shares(folder):
                continue
            if len(small) <= PUSHED_LIMIT:
                session.server.push(folder, small)
            else:
                large += small  # it asks for them as fast as it can take them
            for start in range(0, len(large), wire.WANTED_LIMIT):
                part = tuple(large[start : start + wire.WANTED_LIMIT])
                session.send(wire.Have(folder, part))

    def wanted(self, folder: FolderId) -> list[BlobHash]:
        """List the latest wants of connected peers that were answered not-have."""
        return [
            blob
            for agent in self._sessions
            for blob in self.remembered(agent).latest(folder, WANTED_AGAIN_LIMIT)
        ]

    # -- how to begin -------------------------------------------------------------------------

    async def begin(
        self,
        session: Session,
        folder: FolderId,
        checkpoint: SignedBatch,
        wanted: tuple[Content, int],
        claim: object,
        *,
        catches_up: bool,
    ) -> None:
        """Begin with the snapshot that a peer offers; then, and if not, ask for the log."""
        try:
            await fetch_and_begin(
                self.snapshots, session.lane, folder, checkpoint, wanted, catches_up=catches_up
            )
        finally:
            self.beginnings.release(folder, claim)
        self.exchange(folder).begun_anew()
        self.heads_changed(folder)
        await self.ask(folder)

    # -- what to ask next ---------------------------------------------------------------------

    async def ask(self, folder: FolderId) -> None:
        """Ask for what this node lacks of a folder, of whoever has it."""
        if self.beginnings.is_under_way(folder):
            return
        exchange = self.exchange(folder)
        ours = heads.by_log((await self.replica.heads(folder)).heads)
        unsure = exchange.unsure(ours)
        absent: Collection[bytes] = ()
        if unsure:
            absent = set(await self.replica.unknown_batches(folder, unsure))
            exchange.learn_known(batch for batch in unsure if batch not in absent)
        for ask in exchange.plan(ours, absent, loop_time_s()):
            session = self._sessions.get(ask.agent)
            if session is None or not session.shares(folder):
                exchange.settled(ask.request, ask.agent)
            else:
                session.get(folder, ask)
        if exchange.stuck_s(ours, absent, loop_time_s()) > PATIENCE_WITH_LOG_S:
            await self._catch_up(folder)

    async def _catch_up(self, folder: FolderId) -> None:
        """Go on with a snapshot: who is connected has let go of what this node lacks."""
        chosen = await self.beginnings.choose(folder)
        session = None if chosen is None else self._sessions.get(chosen.agent)
        if chosen is not None and session is not None and session.shares(folder):
            session.bring(folder, chosen.checkpoint, chosen.wanted, catches_up=True)


def _inline(contents: Contents) -> Contents:
    total = 0
    inline: dict[BlobHash, bytes] = {}
    for blob, content in contents.items():
        if total + len(content) <= wire.INLINE_LIMIT_BYTES and len(inline) < wire.WANTED_LIMIT:
            inline[blob] = content
            total += len(content)
    return inline
