"""Fetch a snapshot only as long as somebody really gives it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from peers import beginning
from peers.beginning import NoSnapshots, fetch_and_begin
from peers.wire import Data
from store.events import Content
from store.ids import BlobHash, FolderId

if TYPE_CHECKING:
    from peers.asks import RangeAsk

FOLDER = FolderId(bytes(32))


class Shelf(NoSnapshots):
    """Counts what is kept."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.has_begun = False

    async def keep(self, folder: FolderId, blob: BlobHash, no: int, piece: bytes) -> None:
        assert no == len(self.pieces)
        self.pieces.append(piece)

    async def begin(
        self, folder: FolderId, checkpoint: object, *, catches_up: bool = False
    ) -> bool:
        self.has_begun = True
        return True


class Lane:
    """A peer that gives so many pieces."""

    def __init__(self, gives: int) -> None:
        self.gives = gives
        self.cancelled: list[int] = []
        self.asked = 0

    def ask(self, ask: RangeAsk) -> int:
        self.asked += 1
        if self.asked <= self.gives:
            data = Data(self.asked, ask.offset, bytes(ask.length))
            asyncio.get_running_loop().call_soon(ask.take, data)
        return self.asked

    def cancel(self, number: int) -> None:
        self.cancelled.append(number)


async def fetched(lane: Lane, shelf: Shelf, size: int) -> bool:
    content = (Content(bytes(32), size), 0)
    return await fetch_and_begin(shelf, cast("Any", lane), FOLDER, cast("Any", None), content)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginning, "PIECE_BYTES", 10)


async def test_a_snapshot_comes_piece_by_piece() -> None:
    shelf = Shelf()

    assert await fetched(Lane(3), shelf, 25)

    assert (list(map(len, shelf.pieces)), shelf.has_begun) == ([10, 10, 5], True)


async def test_A16_who_trickles_a_snapshot_does_not_keep_a_joiner_from_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(beginning, "LONGEST_S", 0.05)
    shelf, lane = Shelf(), Lane(3)

    assert not await fetched(lane, shelf, 10**9)

    assert len(shelf.pieces) == 3
    assert lane.cancelled == [4]
    assert not shelf.has_begun
