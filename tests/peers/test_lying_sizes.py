"""What is said of a size, a list or a difference costs memory only as far as it can be true."""

from __future__ import annotations

from peers import wire
from peers.asks import LIST_LIMIT, DifferenceAsk, longest_list
from peers.difference import Copy
from peers.large import COPY_BYTES, UNIT_BYTES, Filling
from store.ids import blob_hash
from store.records import BlobRef
from tests.peers.replicas import FOLDER
from tests.peers.test_fetch import Memory, Piece


def test_A20_a_content_that_claims_2_to_the_62_bytes_costs_no_memory() -> None:
    filling = Filling(BlobRef(hash=blob_hash(b"x"), size=2**62), Memory())

    assert filling.take() == (0, UNIT_BYTES)
    assert filling.take() == (UNIT_BYTES, UNIT_BYTES)
    filling.give_back(0, UNIT_BYTES)
    assert filling.take() == (0, UNIT_BYTES)
    assert longest_list(2**62) == LIST_LIMIT


async def test_A20_stretches_that_speak_of_no_chunk_are_not_gathered() -> None:
    ask = DifferenceAsk(FOLDER, BlobRef(hash=blob_hash(b"x"), size=2**40), blob_hash(b"old"))
    ask.message(1)
    nothing = wire.Stretch((), b"", 0, 0, 0, 1)
    one = wire.Stretch((), b"", 0, 1, 0, 1)

    ask.take(wire.Difference(1, 0, 100, (one, *[nothing] * 1000)))

    assert not ask.stretches
    assert not await ask.wait()


def test_A20_copies_that_claim_2_to_the_50_bytes_are_cut_as_they_are_taken() -> None:
    filling = Filling(BlobRef(hash=blob_hash(b"x"), size=2**50), Memory())
    whole = Copy(COPY_BYTES - 10, 0, 2**50 - COPY_BYTES + 10)

    filling.begin_from(Piece(b""), [whole], [(0, COPY_BYTES - 10)])

    first, *others = filling.take_copies()
    assert first == Copy(COPY_BYTES - 10, 0, 10)
    assert [one.offset for one in others] == [n * COPY_BYTES for n in (1, 2, 3)]
    assert [one.source for one in others] == [10 + n * COPY_BYTES for n in (0, 1, 2)]
    assert filling.is_copying
    assert filling.take_copies()[0].offset == 4 * COPY_BYTES
