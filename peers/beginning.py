"""Begin a folder with a snapshot that a peer offers, instead of with the whole log.

Who has nothing of a folder yet asks for no batch while the snapshot is on its way, piece by piece
over the link that offered it. Whatever goes wrong, the log is asked for as ever: nothing waits for
a snapshot. It proves nothing; that is for the shelf.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from peers.asks import RangeAsk
from store.ids import BlobHash

if TYPE_CHECKING:
    from peers.lane import Lane
    from store.events import Content
    from store.ids import FolderId
    from store.signing import SignedBatch

PIECE_BYTES: Final = 1024 * 1024  # as they are kept (store.snapshot)
PATIENCE_S: Final = 30.0  # without a whole piece
LONGEST_S: Final = 3600.0  # nobody is asked for the log meanwhile: a slow peer is not to hold us


class SnapshotShelf(Protocol):
    """Where snapshots are kept, those to be offered and those on their way."""

    async def to_offer(self, folder: FolderId) -> tuple[SignedBatch, SignedBatch] | None:
        """Give what founded the folder, and the checkpoint whose snapshot this node can give."""

    async def wanted(
        self, folder: FolderId, founding: SignedBatch, checkpoint: SignedBatch
    ) -> tuple[Content, int] | None:
        """Say whether to begin with what a peer offers: the content, and its pieces here."""

    async def keep(self, folder: FolderId, blob: BlobHash, no: int, piece: bytes) -> None:
        """Keep a piece; durable soon."""

    async def begin(self, folder: FolderId, checkpoint: SignedBatch) -> bool:
        """Prove the snapshot whose pieces are all kept, and begin with it; False if refused."""


class NoSnapshots:
    """Offers none and wants none."""

    async def to_offer(self, folder: FolderId) -> tuple[SignedBatch, SignedBatch] | None:
        """Offer nothing."""

    async def wanted(
        self, folder: FolderId, founding: SignedBatch, checkpoint: SignedBatch
    ) -> tuple[Content, int] | None:
        """Want nothing."""

    async def keep(self, folder: FolderId, blob: BlobHash, no: int, piece: bytes) -> None:
        """Keep nothing."""

    async def begin(self, folder: FolderId, checkpoint: SignedBatch) -> bool:
        """Begin with nothing."""
        return False


async def fetch_and_begin(
    shelf: SnapshotShelf,
    lane: Lane,
    folder: FolderId,
    checkpoint: SignedBatch,
    wanted: tuple[Content, int],
) -> bool:
    """Fetch the pieces that lack and begin with them; False where that did not come about."""
    try:
        async with asyncio.timeout(LONGEST_S):
            is_here = await _fetch(shelf, lane, folder, wanted)
    except TimeoutError:
        return False
    return is_here and await shelf.begin(folder, checkpoint)


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
