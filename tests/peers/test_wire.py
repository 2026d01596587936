"""Show that frames and messages round-trip, and that nothing too large or malformed gets in."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from random import Random

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from peers import wire
from peers.framing import (
    FRAME_HEADER_BYTES,
    FRAME_LIMIT_BYTES,
    MESSAGE_LIMIT_BYTES,
    STREAMS_LIMIT,
    Assembler,
    cut,
)
from peers.packing import pack, unpack
from peers.wire import Data, frames, parse
from store.errors import Malformed
from store.signing import WireBatch

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "wire-messages-1.json").read_text())
H = bytes(range(32))
S = bytes(64)

ONE_OF_EACH: list[wire.Message] = [
    wire.Folders((H,)),
    wire.HeadsSaid(H, (wire.Head(H, 7, H),), None, 1, False, True, True),
    wire.Get(1, H, (wire.Range(H, None, 7),), (H,), 1024),
    wire.Batches(1, H, (wire.PackedBatch(b"header", S, b"body", None),), True, False),
    wire.News(
        H, (wire.PackedBatch(b"header", S, b"body", None),), (wire.SmallContent(H, b"content"),)
    ),
    wire.Addresses((wire.SignedAddresses(H, 3, (b"192.0.2.7:7499",), S),)),
    wire.Fork(H, b"one", S, b"other", S),
    wire.Want(2, H, H, 5, 1024),
    wire.WantSmall(2, H, (H,)),
    wire.Cancel(2),
    wire.Data(2, 5, b"piece"),
    wire.Small(2, H, (wire.SmallContent(H, b"content"),)),
    wire.NotHave(2, (H,)),
    wire.Have(H, (H,)),
    wire.WantChunks(3, H, H, 0),
    wire.Chunks(3, 0, 1, (wire.ChunkLine(H, 65536),)),
    wire.WantDifference(4, H, H, bytes(32), 0),
    wire.Difference(4, 0, 3, (wire.Stretch((wire.ChunkLine(H, 65536),), bytes(18), 1, 2, 9, 9),)),
    wire.Offer(
        H,
        wire.PackedBatch(b"first", bytes(64), b"body", None),
        wire.PackedBatch(b"header", bytes(64), b"body", None),
    ),
    wire.Ping(9),
    wire.Pong(9),
    wire.Error(1, b"frame"),
]


def through(message: wire.Message, stream: int = 1) -> wire.Message | None:
    assembler = Assembler(parse)
    result = None
    for frame in frames(message, stream):
        assert len(frame) <= FRAME_LIMIT_BYTES
        result = assembler.accept(frame)
    return result


@pytest.mark.parametrize("message", ONE_OF_EACH, ids=lambda one: type(one).__name__)
def test_message_round_trips(message: wire.Message) -> None:
    got = through(message)

    if isinstance(got, Data):
        got = Data(got.request, got.offset, bytes(got.piece))
    assert got == message


@pytest.mark.parametrize("message", ONE_OF_EACH, ids=lambda one: type(one).__name__)
def test_bytes_of_a_frame_are_frozen(message: wire.Message) -> None:
    assert frames(message, 258)[0].hex() == VECTORS["frames"][type(message).__name__]


def test_every_kind_has_a_vector_and_stands_in_the_document() -> None:
    text = (Path(__file__).parents[2] / "docs" / "wire.md").read_text()
    listed = {
        int(kind): name for kind, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", text, re.MULTILINE)
    }

    kinds = {frames(one, 0)[0][0]: type(one).__name__ for one in ONE_OF_EACH}
    assert kinds == listed
    assert set(VECTORS["frames"]) == set(kinds.values())


@pytest.mark.parametrize("message", ONE_OF_EACH, ids=lambda one: type(one).__name__)
def test_cut_or_lengthened_messages_are_refused(message: wire.Message) -> None:
    frame = frames(message, 1)[0]
    kind, payload = frame[0], frame[FRAME_HEADER_BYTES :]

    if kind == 11:
        with pytest.raises(Malformed):
            parse(kind, payload[:12])
        return
    with pytest.raises(Malformed):
        parse(kind, payload + b"\x00")
    for size in range(len(payload)):
        with pytest.raises(Malformed):
            parse(kind, payload[:size])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_raises_malformed_and_nothing_else(frame: bytes) -> None:
    with suppress(Malformed):
        Assembler(parse).accept(frame)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ONE_OF_EACH), st.integers(0, 400), st.integers(0, 255))
def test_one_changed_byte_raises_malformed_and_nothing_else(
    message: wire.Message, place: int, byte: int
) -> None:
    frame = bytearray(frames(message, 1)[0])
    frame[place % len(frame)] = byte
    with suppress(Malformed):
        Assembler(parse).accept(bytes(frame))


def large() -> wire.Batches:
    body = Random(1).randbytes(1024 * 1024)
    return wire.Batches(1, H, (wire.PackedBatch(bytes(40_000), S, body, None),), True, False)


def test_largest_batch_fits_in_a_message() -> None:
    assert through(large()) == large()
    assert len(frames(large(), 1)) == 5


def test_frames_arrive_in_any_order_and_between_those_of_others() -> None:
    assembler = Assembler(parse)
    mixed = [
        frame
        for stream in range(1, 6)
        for frame in frames(wire.Folders((bytes([stream]) * 32,) * 1), stream)
        + frames(large(), stream + 100)
    ]
    Random(3).shuffle(mixed)

    got = [message for frame in mixed if (message := assembler.accept(frame)) is not None]

    assert sum(isinstance(one, wire.Batches) for one in got) == 5
    assert sum(isinstance(one, wire.Folders) for one in got) == 5
    assert assembler.open_streams == 0


def test_A1_message_that_claims_too_many_frames_is_refused_before_anything_is_kept() -> None:
    for index, more in ((0, 255), (255, 255), (5, 0), (4, 1)):
        assembler = Assembler(parse)
        with pytest.raises(Malformed):
            assembler.accept(b"\x04" + bytes(4) + bytes((index, more)) + b"x")
        assert assembler.open_streams == 0


def test_A1_message_beyond_the_limit_is_refused() -> None:
    payload = bytes(MESSAGE_LIMIT_BYTES + 1)
    with pytest.raises(Malformed):
        cut(4, 1, payload)
    pieces = [payload[at : at + 262_137] for at in range(0, len(payload), 262_137)]
    assembler = Assembler(parse)
    given = [b"\x04" + bytes(4) + bytes((n, 4 - n)) + piece for n, piece in enumerate(pieces)]
    for frame in given[:-1]:
        assembler.accept(frame)
    with pytest.raises(Malformed):
        assembler.accept(given[-1])


def test_A1_unfinished_messages_are_bounded() -> None:
    assembler = Assembler(parse)
    first = frames(large(), 1)[0]
    for stream in range(100):
        assembler.accept(first[:1] + stream.to_bytes(4, "big") + first[5:])
    assert assembler.open_streams == STREAMS_LIMIT
    assert assembler.lost == 92


def test_A1_short_frame_in_the_middle_is_refused() -> None:
    frame = frames(large(), 1)[0]
    with pytest.raises(Malformed):
        Assembler(parse).accept(frame[:-1])


@pytest.mark.parametrize("size_bytes", [b"\xff" * 4, b"\x80\x00\x00\x00", b"\x7f\xff\xff\xff"])
def test_A1_lengths_inside_messages_are_checked_before_allocation(size_bytes: bytes) -> None:
    for mark in (b"\xc6", b"\xdd", b"\xdb", b"\xdf"):  # bin32, array32, str32, map32
        for kind in wire._KINDS:
            with pytest.raises(Malformed):
                parse(kind, b"\x92" + mark + size_bytes)


def test_unknown_optional_kind_is_passed_over_and_an_unknown_mandatory_one_refused() -> None:
    assert parse(67, b"whatever") == wire.Unknown(67)
    with pytest.raises(Malformed):
        parse(63, b"whatever")


BODY = b"event " * 10_000


def test_body_is_compressed_where_that_pays() -> None:
    batch = WireBatch(b"header", S, BODY)
    packed = pack(batch)
    assert packed.inflated_size == len(BODY)
    assert len(packed.body) < 1000
    assert unpack(packed) == batch

    noise = WireBatch(b"header", S, Random(1).randbytes(60_000))
    assert pack(noise).inflated_size is None
    assert unpack(pack(noise)) == noise
    assert pack(batch, is_compressed=False).inflated_size is None


def deflated(raw: bytes, *, write_content_size: bool = True) -> bytes:
    compressor = zstandard.ZstdCompressor(level=1, write_content_size=write_content_size)
    return compressor.compress(raw)


@pytest.mark.parametrize(
    ("body", "inflated_size"),
    [
        (deflated(BODY), len(BODY) - 1),
        (deflated(BODY), len(BODY) + 1),
        (deflated(BODY, write_content_size=False), len(BODY)),
        (deflated(bytes(2**30)), 1024 * 1024),
        (deflated(BODY)[:-1], len(BODY)),
        (deflated(BODY) + b"x", len(BODY)),
        (deflated(b"") * 100_000, 1),
        (deflated(deflated(BODY)), len(BODY)),
        (b"no zstd at all", 14),
        (b"", 1),
    ],
)
def test_A4_compressed_bodies_that_lie_are_refused(body: bytes, inflated_size: int) -> None:
    with pytest.raises(Malformed):
        unpack(wire.PackedBatch(b"header", S, body, inflated_size))


def test_A4_declared_size_beyond_a_batch_is_refused_by_the_parser() -> None:
    packed = wire.PackedBatch(b"h", S, b"b", 1024 * 1024 + 1)
    payload = msgspec.msgpack.encode(wire.Batches(1, H, (packed,), True, False))
    with pytest.raises(Malformed):
        parse(4, payload)
