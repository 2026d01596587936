"""Answer what peers ask of this node and take in what they bring.

It stands between the sessions on the loop and the shelf on the database thread: membership is
read from copies that are replaced whole, everything else is asked of the thread in units. Who
may not read and what is not here get the same answer.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from msgspec.structs import replace

from daemon.core import Runner
from daemon.disk import Disk
from daemon.engine import Engine
from daemon.peer_book import PeerBook
from daemon.places import Places
from daemon.procedures import AdmitBatches, Procedures
from daemon.serving import Serving
from daemon.shelf import Shelf
from peers.heads import Heads, sayable
from peers.wire import HEADS_LIMIT, Fork, Head, Range, SignedAddresses
from store.access import Member
from store.admitted import Admitted
from store.codec import decode_header
from store.ids import AgentId, BatchId, BlobHash, Epoch, FolderId, log_id, short
from store.signing import SignedBatch, WireBatch, has_signed_twice
from store.state import STATE_VERSION

FORKS_LIMIT = 1024  # logs

logger = logging.getLogger(__name__)


ReadSnapshot = Callable[[FolderId, BlobHash, int, int], Awaitable[bytes | None]]


class Clock(Protocol):
    """Tells the time."""

    def now_ns(self) -> int:
        """Give the wall clock, in nanoseconds."""

    def monotonic_s(self) -> float:
        """Give a clock that never goes back."""


class SharedFolder(Protocol):
    """What the replica needs of a folder at work; implemented by daemon.folder_work."""

    @property
    def folder_no(self) -> int:
        """Its local number."""

    @property
    def members(self) -> dict[AgentId, Member]:
        """Everybody's role, as of the last membership event."""

    @property
    def disk(self) -> Disk | None:
        """Its files, None while the root is lost."""

    @property
    def is_importing(self) -> bool:
        """Whether the first scan still goes on and makes progress."""

    @property
    def has_work(self) -> bool:
        """Whether anything waits to be looked at, recorded or applied."""

    def peer_has(self, agent: AgentId, heads: Heads) -> None:
        """Note what a peer has of this folder."""

    async def compare(self, agent: AgentId, heads: Heads) -> None:
        """See whether a peer knows more of our own log than we do."""

    def contents_available(self, blobs: Sequence[BlobHash]) -> None:
        """Note that contents that nobody had can be fetched now."""


class NodeReplica:
    """The Replica (peers.replica) of a running node."""

    def __init__(
        self,
        *,
        shelf: Shelf,
        engine: Engine,
        procedures: Procedures,
        core: Runner,
        pool: Runner,
        places: Places,
        clock: Clock,
        book: PeerBook,
        folders: dict[FolderId, SharedFolder],
        on_connection: Callable[[], None],
        read_snapshot: ReadSnapshot,
    ) -> None:
        """Serve these folders; `on_connection` is called when who is connected changes."""
        self._read_snapshot = read_snapshot
        self._shelf = shelf
        self._engine = engine
        self._procedures = procedures
        self._core = core
        self._serving = Serving(places, pool)
        self._clock = clock
        self._book = book
        self._folders = folders
        self._on_connection = on_connection
        self.forks: dict[bytes, Fork] = {}

    # -- who may --------------------------------------------------------------------------------

    def folders_shared_with(self, agent: AgentId) -> Sequence[FolderId]:
        """List the folders that both this node and the agent are members of."""
        return [folder for folder in self._folders if self.may_read(agent, folder)]

    def may_read(self, agent: AgentId, folder: FolderId) -> bool:
        """Whether the agent has a role in the folder now; expiry by our own clock."""
        work = self._folders.get(folder)
        member = work.members.get(agent) if work is not None else None
        if member is None:
            return work is not None and self._is_source(agent, work)
        return member.expires_ms is None or member.expires_ms > self._clock.now_ns() // 1_000_000

    def _is_source(self, agent: AgentId, work: SharedFolder) -> bool:
        """Whether it brings us the log of a folder, of which we have not yet what let us in.

        Whoever let us in may be none of the members that we know until then.
        """
        is_let_in = self._shelf.key.agent in work.members
        return not is_let_in and agent in self._book.sources(work.folder_no)

    # -- the log --------------------------------------------------------------------------------

    async def heads(self, folder: FolderId) -> Heads:
        """Say what this node has of a folder: nothing of one that was left meanwhile."""
        work = self._folders.get(folder)
        if work is None:
            return _nothing()
        had_work = work.has_work
        read = await self._core.run(self._read_heads, work.folder_no, work.is_importing, had_work)
        if had_work or not work.has_work:
            return read
        return replace(read, state_root=None, is_applied=False)  # work came with what was read

    def _read_heads(self, folder_no: int, is_importing: bool, has_work: bool) -> Heads:  # noqa: FBT001
        """Read heads; while there is work to do the root would be hashed for nothing."""
        stored = self._shelf.get(folder_no)
        if stored is None:
            return _nothing()
        is_behind = bool(stored.state.changes) and stored.ending is None
        has_work = has_work or is_behind  # what was admitted just now was not told yet
        if not has_work:
            self._shelf.db.settle()  # who hears that we applied it may let go of it
        return Heads(
            heads=sayable(
                ((one.agent, Head(one.log, one.seq, one.batch)) for one in stored.log.heads()),
                HEADS_LIMIT,
            ),
            state_root=None if is_importing or has_work else stored.state.root(),
            state_version=STATE_VERSION,
            is_importing=is_importing,
            is_applied=not has_work and not stored.log.has_unapplied(),
        )

    async def unknown_batches(self, folder: FolderId, ids: Sequence[BatchId]) -> Sequence[BatchId]:
        """List those of the ids that are not stored: all, for a folder that was left meanwhile."""
        work = self._folders.get(folder)

        def unknown() -> list[BatchId]:
            stored = None if work is None else self._shelf.get(work.folder_no)
            return [batch for batch in ids if stored is None or not stored.log.has(batch)]

        return await self._core.run(unknown)

    async def read_batches(
        self, folder: FolderId, ranges: Sequence[Range], ids: Sequence[bytes], limit_bytes: int
    ) -> tuple[list[WireBatch], bool]:
        """Read batches in (lamport, batch id) order, and whether the limit left some out.

        A folder that was left meanwhile has none.
        """
        work = self._folders.get(folder)

        def read() -> tuple[list[WireBatch], bool]:
            stored = None if work is None else self._shelf.get(work.folder_no)
            if stored is None:
                return [], False
            wanted = [(r.log, r.after_seq, r.through_seq) for r in ranges]
            return stored.log.read(wanted, ids, limit_bytes)

        return await self._core.run(read)

    async def admit(
        self, folder: FolderId, source: AgentId, batches: Sequence[SignedBatch]
    ) -> Admitted:
        """Store verified batches and let them take effect; durable with what follows of it.

        What comes for a folder that was left meanwhile is dropped: it is asked for again.
        """
        work = self._folders.get(folder)
        if work is None:
            return Admitted()
        command = AdmitBatches(folder_no=work.folder_no, source=source, batches=tuple(batches))

        def admit() -> Admitted:
            if self._shelf.get(command.folder_no) is None:
                return Admitted()
            # Lost, it is sent again; before any of it is put in place it is durable (Journal).
            with self._shelf.db.lazily(is_owed=True):
                admitted = self._engine.perform(self._procedures.admit, command)
            self._engine.run_until_idle()
            return admitted

        return await self._core.run(admit)

    # -- contents -------------------------------------------------------------------------------

    async def read_blob(
        self, agent: AgentId, folder: FolderId, blob: BlobHash, offset: int, length: int
    ) -> bytes | None:
        """Read a piece of a content for a peer, shorter only at its end."""
        work = self._readable(agent, folder)
        if work is None:
            return None
        part = await self._read_snapshot(folder, blob, offset, length)
        if part is not None:
            return part
        return await self._serving.read_blob(work, folder, blob, offset, length)

    async def read_small(
        self, agent: AgentId, folder: FolderId, blobs: Sequence[BlobHash], limit_bytes: int
    ) -> list[bytes | None]:
        """Read many contents of at most 1 MiB whole, in order, in one go."""
        work = self._readable(agent, folder)
        if work is None:
            return [None] * len(blobs)
        return await self._serving.read_small(work, blobs, limit_bytes)

    def _readable(self, agent: AgentId, folder: FolderId) -> SharedFolder | None:
        """Give the folder if its files can be read and the agent may read them."""
        work = self._folders.get(folder)
        if work is None or work.disk is None or not self.may_read(agent, folder):
            return None
        return work

    async def which_are_here(self, folder: FolderId, blobs: Sequence[BlobHash]) -> list[BlobHash]:
        """List those contents that stand here as far as is known; a read may still fail."""
        work = self._folders.get(folder)
        if work is None or work.disk is None:
            return []
        return await self._serving.which_are_here(work, blobs)

    # -- addresses, forks, notes ----------------------------------------------------------------

    async def addresses(self) -> Sequence[SignedAddresses]:
        """List the newest signed addresses of all agents known, our own among them."""
        return self._book.records()

    async def learn_addresses(
        self, source: AgentId, records: Sequence[SignedAddresses]
    ) -> Sequence[SignedAddresses]:
        """Check and keep addresses of members; give those that were news here."""
        known = {agent for work in self._folders.values() for agent in work.members}
        known.add(source)
        return await self._book.learn([record for record in records if record.agent in known])

    async def learn_fork(self, source: AgentId, fork: Fork) -> bool:
        """Keep the proof that an agent signed twice, one for each log; tell whether it was news.

        What proves nothing is passed over, and told to nobody.
        """
        one = WireBatch(fork.header, fork.signature, b"")
        other = WireBatch(fork.other_header, fork.other_signature, b"")
        folder = FolderId(fork.folder)
        if not has_signed_twice(folder, one, other):
            return False
        header = decode_header(fork.header)
        key = log_id(folder, AgentId(header.agent), Epoch(header.epoch))
        if key in self.forks or len(self.forks) >= FORKS_LIMIT:
            return False
        self.forks[key] = fork
        logger.warning("fork told by=%s", short(source))
        return True

    async def note_heads(self, agent: AgentId, folder: FolderId, heads: Heads) -> None:
        """Note what a peer has, for status and for what counts as heard of."""
        work = self._folders.get(folder)
        if work is not None:
            work.peer_has(agent, heads)
            await work.compare(agent, heads)

    def note_connected(self, agent: AgentId, folders: Sequence[FolderId]) -> None:
        """Note which folders are now exchanged with a connected peer."""
        logger.info("peer connected agent=%s folders=%d", short(agent), len(folders))
        self._on_connection()

    def note_gone(self, agent: AgentId) -> None:
        """Note that a peer is disconnected."""
        logger.info("peer gone agent=%s", short(agent))
        self._on_connection()

    def note_available(self, folder: FolderId, blobs: Sequence[BlobHash]) -> None:
        """Note that contents which no peer at hand had are to be tried again now."""
        work = self._folders.get(folder)
        if work is not None:
            work.contents_available(blobs)


def _nothing() -> Heads:
    """Give the heads of a folder that was left: a session tells them to nobody."""
    return Heads(
        heads=(),
        state_root=None,
        state_version=STATE_VERSION,
        is_importing=False,
        is_applied=False,
    )
