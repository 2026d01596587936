"""Say what a session asks of this node.

Interfaces only: the daemon implements Replica over its database thread; the tests have their
own. Nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

from store.ids import AgentId, BatchId, BlobHash, FolderId

if TYPE_CHECKING:
    from peers.heads import Heads
    from peers.wire import Fork, Range, SignedAddresses
    from store.admitted import Admitted
    from store.signing import SignedBatch, WireBatch

P = ParamSpec("P")
T = TypeVar("T")


class Runner(Protocol):
    """Runs what blocks, or computes for long, beside the loop."""

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Give what the function returns; what it raises is raised."""


class Replica(Protocol):
    """What peers may read of this node and what it takes from them."""

    def folders_shared_with(self, agent: AgentId) -> Sequence[FolderId]:
        """List the folders that both this node and the agent are members of."""

    def may_read(self, agent: AgentId, folder: FolderId) -> bool:
        """Whether the agent has a role in the folder now."""

    async def heads(self, folder: FolderId) -> Heads:
        """Say what this node has of a folder."""

    async def unknown_batches(self, folder: FolderId, ids: Sequence[BatchId]) -> Sequence[BatchId]:
        """List those of the ids that are not stored."""

    async def read_batches(
        self, folder: FolderId, ranges: Sequence[Range], ids: Sequence[bytes], limit_bytes: int
    ) -> tuple[list[WireBatch], bool]:
        """Read batches in (lamport, batch id) order, and whether the limit left some out.

        At least one is given where any matches. Unknown logs and ids are passed over.
        """

    async def admit(
        self, folder: FolderId, source: AgentId, batches: Sequence[SignedBatch]
    ) -> Admitted:
        """Store verified batches and let them take effect (see store.log.FolderLog.admit)."""

    async def read_blob(
        self, agent: AgentId, folder: FolderId, blob: BlobHash, offset: int, length: int
    ) -> bytes | None:
        """Read a piece of a content for a peer, shorter only at its end.

        None if it is not here, or if the agent may not read the folder, or if the folder does
        not refer to it: the caller cannot tell which.
        """

    async def read_small(
        self, agent: AgentId, folder: FolderId, blobs: Sequence[BlobHash], limit_bytes: int
    ) -> list[bytes | None]:
        """Read many contents of at most 1 MiB whole, in order, in one go.

        Gives as many, from the first on and at least one, as fit in the limit; None for each
        that read_blob would not give, and for one that is larger than 1 MiB.
        """

    async def addresses(self) -> Sequence[SignedAddresses]:
        """List the newest signed addresses of all agents known, our own among them."""

    async def learn_addresses(
        self, source: AgentId, records: Sequence[SignedAddresses]
    ) -> Sequence[SignedAddresses]:
        """Check and keep addresses; give those that were news here."""

    async def learn_fork(self, source: AgentId, fork: Fork) -> bool:
        """Check and keep the proof that an agent signed twice; tell whether it was news."""

    async def note_heads(self, agent: AgentId, folder: FolderId, heads: Heads) -> None:
        """Note what a peer has, for status."""

    def note_connected(self, agent: AgentId, folders: Sequence[FolderId]) -> None:
        """Note which folders are now exchanged with a connected peer."""

    def note_gone(self, agent: AgentId) -> None:
        """Note that a peer is disconnected: batches that it sent and that wait are dropped."""

    def note_available(self, folder: FolderId, blobs: Sequence[BlobHash]) -> None:
        """Note that contents which no peer at hand had are to be tried again now."""


Contents = Mapping[BlobHash, bytes]
