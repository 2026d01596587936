"""Begin a folder with a snapshot that a peer offers, instead of with the whole log.

Who has nothing of a folder yet asks for no batch while the snapshot is on its way, piece by piece
over the link that offered it. Whatever goes wrong, the log is asked for as ever: nothing waits for
a snapshot. Who has a part of the log takes a snapshot only where nobody connected has given more
of it for a while: they let go of what it lacks. It proves nothing; that is for the shelf.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from peers.asks import RangeAsk
from store.ids import BlobHash

if TYPE_CHECKING:
    from peers.lane import Lane
    from store.events import Content
    from store.ids import AgentId, FolderId
    from store.signing import SignedBatch

PIECE_BYTES: Final = 1024 * 1024  # as they are kept (store.snapshot)
PATIENCE_S: Final = 30.0  # without a whole piece
PATIENCE_WITH_LOG_S: Final = 4.0  # in which nobody gives more of it: then a snapshot may
LONGEST_S: Final = 3600.0  # nobody is asked for the log meanwhile: a slow peer is not to hold us


class SnapshotShelf(Protocol):
    """Where snapshots are kept, those to be offered and those on their way."""

    async def to_offer(self, folder: FolderId) -> tuple[SignedBatch, SignedBatch] | None:
        """Give what founded the folder, and the checkpoint whose snapshot this node can give."""

    async def wanted(
        self,
        folder: FolderId,
        founding: SignedBatch,
        checkpoint: SignedBatch,
        *,
        catches_up: bool = False,
    ) -> tuple[Content, int] | None:
        """Say whether to begin with what a peer offers: the content, and its pieces here.

        `catches_up`: a part of the log is here, and nobody gives the rest.
        """

    async def keep(self, folder: FolderId, blob: BlobHash, no: int, piece: bytes) -> None:
        """Keep a piece; durable soon."""

    async def begin(
        self, folder: FolderId, checkpoint: SignedBatch, *, catches_up: bool = False
    ) -> bool:
        """Prove the snapshot whose pieces are all kept, and begin with it; False if refused."""


class NoSnapshots:
    """Offers none and wants none."""

    async def to_offer(self, folder: FolderId) -> tuple[SignedBatch, SignedBatch] | None:
        """Offer nothing."""

    async def wanted(
        self,
        folder: FolderId,
        founding: SignedBatch,
        checkpoint: SignedBatch,
        *,
        catches_up: bool = False,
    ) -> tuple[Content, int] | None:
        """Want nothing."""

    async def keep(self, folder: FolderId, blob: BlobHash, no: int, piece: bytes) -> None:
        """Keep nothing."""

    async def begin(
        self, folder: FolderId, checkpoint: SignedBatch, *, catches_up: bool = False
    ) -> bool:
        """Begin with nothing."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A snapshot that is to be fetched: whose checkpoint, and how much of it is here."""

    agent: AgentId
    checkpoint: SignedBatch
    wanted: tuple[Content, int]


class Beginnings:
    """Who offered a snapshot of what, and which folders are brought by one just now."""

    def __init__(self, shelf: SnapshotShelf) -> None:
        """Begin with no offer; one is kept for each folder and peer."""
        self.shelf = shelf
        self._claims: dict[FolderId, object] = {}
        self._offers: dict[FolderId, dict[AgentId, tuple[SignedBatch, SignedBatch]]] = {}

    def offered(
        self, folder: FolderId, agent: AgentId, founding: SignedBatch, checkpoint: SignedBatch
    ) -> None:
        """Remember what a peer offers, until it offers another or is gone."""
        self._offers.setdefault(folder, {})[agent] = (founding, checkpoint)

    def gone(self, agent: AgentId) -> None:
        """Forget the offers of a peer."""
        for of_folder in self._offers.values():
            of_folder.pop(agent, None)

    def offers(self, folder: FolderId) -> list[tuple[AgentId, SignedBatch, SignedBatch]]:
        """List who offers what: the peer, what founded the folder, and the checkpoint."""
        return [(agent, *offer) for agent, offer in self._offers.get(folder, {}).items()]

    async def choose(self, folder: FolderId) -> Chosen | None:
        """Choose what to go on with where nobody gives more of the log."""
        for agent, founding, checkpoint in self.offers(folder):
            wanted = await self.shelf.wanted(folder, founding, checkpoint, catches_up=True)
            if wanted is not None:
                return Chosen(agent=agent, checkpoint=checkpoint, wanted=wanted)
        return None

    def is_under_way(self, folder: FolderId) -> bool:
        """Whether a snapshot is on its way, with which the folder is to begin or to go on."""
        return folder in self._claims

    def claim(self, folder: FolderId) -> object | None:
        """Let nothing else bring the folder until release(); None if somebody claimed it already.

        At once, for what the peer says next may be asked about before a task gets its turn.
        """
        if folder in self._claims:
            return None
        claim = self._claims[folder] = object()
        return claim

    def release(self, folder: FolderId, claim: object) -> None:
        """Let the log be asked for again; nothing if another holds the claim by now."""
        if self._claims.get(folder) is claim:
            del self._claims[folder]


async def fetch_and_begin(
    shelf: SnapshotShelf,
    lane: Lane,
    folder: FolderId,
    checkpoint: SignedBatch,
    wanted: tuple[Content, int],
    *,
    catches_up: bool = False,
) -> bool:
    """Fetch the pieces that lack and begin with them; False where that did not come about."""
    is_here = await fetch_pieces(shelf, lane, folder, wanted)
    return is_here and await shelf.begin(folder, checkpoint, catches_up=catches_up)


async def fetch_pieces(
    shelf: SnapshotShelf, lane: Lane, folder: FolderId, wanted: tuple[Content, int]
) -> bool:
    """Fetch the pieces that lack, to be kept; False where that did not come about."""
    try:
        async with asyncio.timeout(LONGEST_S):
            return await _fetch(shelf, lane, folder, wanted)
    except TimeoutError:
        return False


async def _fetch(
    shelf: SnapshotShelf, lane: Lane, folder: FolderId, wanted: tuple[Content, int]
) -> bool:
    content, no = wanted
    blob = BlobHash(content.hash)
    while no * PIECE_BYTES < content.size:
        offset = no * PIECE_BYTES
        ask = RangeAsk(folder, blob, offset, min(PIECE_BYTES, content.size - offset))
        number = lane.ask(ask)
        try:
            async with asyncio.timeout(PATIENCE_S):
                is_whole = await ask.wait()
        finally:
            if not ask.is_whole:
                lane.cancel(number)
        if not is_whole:
            return False
        await shelf.keep(folder, blob, no, b"".join(ask.pieces))
        no += 1
    return True
