"""Show that differences of chunk lists say what is so, and that those that do not are refused."""

from __future__ import annotations

import ast
import json
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from peers import wire
from peers.chunks import (
    FINE_MAX_BYTES,
    FINE_MIN_BYTES,
    fine_chunks,
    pack_fine,
    pack_list,
    unpack_fine,
    unpack_list,
)
from peers.difference import (
    PART_CHUNKS,
    Copy,
    chunks_in,
    compare,
    gaps,
    joined,
    layout,
    part,
    rebuilt,
    refine,
)
from peers.framing import MESSAGE_LIMIT_BYTES
from peers.wire import ChunkLine, Stretch
from store.errors import Malformed
from tests.vectors import difference_reader, make_difference
from tests.vectors.make_difference import INSERTED, INSERTED_AT, PATH, REQUEST, cut, noise

if TYPE_CHECKING:
    from collections.abc import Sequence

VECTORS = json.loads(PATH.read_text("ascii"))
OLD = noise()
NEW = OLD[:INSERTED_AT] + INSERTED + OLD[INSERTED_AT:]


def lines(names: str) -> list[ChunkLine]:
    """Make a list of small chunks, one a letter; a letter says its bytes and its length."""
    return [ChunkLine(name.encode() * 32, ord(name)) for name in names]


def spelt(names: str) -> bytes:
    return b"".join(name.encode() * ord(name) for name in names)


def described(stretches: Sequence[Stretch], old: bytes, new: bytes) -> bytes:
    """Put the new content together from what a difference says."""
    copies, spans = layout(stretches, len(new), len(old))
    made = bytearray(len(new))
    for one in copies:
        made[one.offset : one.offset + one.length] = old[one.source : one.source + one.length]
    for span in spans:
        made[span.offset : span.offset + span.length] = new[span.offset : span.offset + span.length]
    return bytes(made)


def test_formats_are_as_they_were() -> None:
    assert make_difference.make() == VECTORS


def check(frame: bytes) -> int:
    return difference_reader.check(frame, REQUEST, OLD, VECTORS["noise"], NEW)


def test_reader_accepts_the_vector() -> None:
    assert check(bytes.fromhex(VECTORS["frame"])) == len(VECTORS["edited"])


def test_reader_refuses_every_changed_byte() -> None:
    frame = bytearray.fromhex(VECTORS["frame"])
    for place in range(len(frame)):
        frame[place] ^= 1
        with pytest.raises(difference_reader.Refused):
            check(bytes(frame))
        frame[place] ^= 1


def test_reader_imports_nothing_of_dizzyd() -> None:
    tree = ast.parse((PATH.parent / "difference_reader.py").read_text())
    names = {
        node.module.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
    }
    assert not names & {"store", "peers", "daemon"}


@settings(max_examples=300, deadline=None)
@given(st.text("ABCDEF", max_size=40), st.text("ABCDEFXY", max_size=40))
def test_difference_gives_the_new_list_and_the_new_bytes(old: str, new: str) -> None:
    placed = compare(lines(old), lines(new))
    stretches = [one.stretch for one in placed]

    assert rebuilt(stretches, lines(old), len(new)) == tuple(lines(new))
    assert described(stretches, spelt(old), spelt(new)) == spelt(new)
    assert chunks_in(stretches) == len(new)
    assert not any(line in lines(old) for one in stretches for line in one.chunks)


def test_difference_of_a_long_list_comes_in_parts_that_follow_each_other() -> None:
    random = Random(1)
    old = [ChunkLine(random.randbytes(32), 100) for _ in range(30_000)]
    new = [random.choice((line, ChunkLine(random.randbytes(32), 100))) for line in old]
    placed = compare(old, new)

    parts = []
    first = 0
    while first < len(new):
        taken = part(placed, first)
        assert taken[0].number == first
        assert sum(len(one.stretch.chunks) for one in taken) <= PART_CHUNKS
        parts += taken
        first += sum(one.chunks for one in taken)

    assert parts == placed
    assert part(placed, len(new)) == []


def test_gaps_are_what_no_copy_uses() -> None:
    copies = [Copy(0, 10, 5), Copy(5, 30, 10), Copy(15, 12, 10)]

    assert list(gaps(copies, 50)) == [(0, 10), (22, 8), (40, 10)]
    assert list(gaps([], 0)) == []


def test_copies_that_follow_each_other_are_one() -> None:
    copies = [Copy(10, 110, 5), Copy(0, 100, 10), Copy(15, 100, 5)]

    assert joined(copies) == [Copy(0, 100, 15), Copy(15, 100, 5)]


def test_only_fine_chunks_that_differ_lack() -> None:
    placed = compare(cut(OLD), cut(NEW))
    stretches = []
    for one in placed:
        span = NEW[one.offset : one.offset + one.fresh_bytes]
        stretches.append(replace(one.stretch, fine=pack_fine(fine_chunks(span, one.offset))))
    copies, spans = layout(stretches, len(NEW), len(OLD))
    known = {
        chunk.hash: chunk
        for start, length in gaps(copies, len(OLD))
        for chunk in fine_chunks(OLD[start : start + length], start)
    }

    refined, lacking = refine(spans, known)

    assert sum(length for _, length in lacking) <= FINE_MAX_BYTES
    made = bytearray(len(NEW))
    for copy in joined([*copies, *refined]):
        made[copy.offset : copy.offset + copy.length] = OLD[copy.source : copy.source + copy.length]
    for offset, length in lacking:
        made[offset : offset + length] = NEW[offset : offset + length]
    assert made == NEW


def test_fine_chunks_cover_a_span_within_their_bounds() -> None:
    chunks = fine_chunks(OLD, 1000)

    assert sum(one.length for one in chunks) == len(OLD)
    assert chunks[0].offset == 1000
    assert all(FINE_MIN_BYTES <= one.length <= FINE_MAX_BYTES for one in chunks[:-1])
    assert list(unpack_fine(pack_fine(chunks), 1000)) == chunks
    assert len(OLD) / len(chunks) == pytest.approx(8 * 1024, rel=0.5)
    assert fine_chunks(b"", 0) == []


def test_kept_list_reads_back() -> None:
    assert unpack_list(pack_list(cut(OLD))) == tuple(cut(OLD))
    assert len(pack_list(cut(OLD))) == 36 * len(cut(OLD))


H = bytes(32)
GOOD = Stretch((ChunkLine(H, 10),), b"", 0, 2, 5, 20)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(GOOD, offset=31),
        replace(GOOD, length=21),
        replace(GOOD, length=19),
        replace(GOOD, offset=2**63 - 1),
        replace(GOOD, fine=b"x"),
        replace(GOOD, fine=bytes(16) + b"\x00\x08"),
        replace(GOOD, chunks=(), fine=bytes(18), length=30),
        replace(GOOD, chunks=(ChunkLine(H, 11),)),
    ],
)
def test_A16_difference_that_does_not_fit_is_refused(wrong: Stretch) -> None:
    assert layout([GOOD], 30, 50)

    with pytest.raises(Malformed):
        layout([wrong], 30, 50)


def test_A16_list_is_not_rebuilt_from_what_does_not_fit() -> None:
    old = [ChunkLine(H, 10)] * 3

    assert rebuilt([GOOD], old, 3) is not None
    assert rebuilt([GOOD], old, 2) is None
    assert rebuilt([replace(GOOD, first=2)], old, 3) is None
    assert rebuilt([replace(GOOD, length=30)], old, 3) is None


def test_a_part_of_fine_chunks_at_its_bounds_fits_in_a_message() -> None:
    chunk = ChunkLine(H, 1024 * 1024)
    stretch = Stretch((chunk,) * 17, bytes(18) * (17 * 512), 2**32 - 1, 2**32 - 1, 2**62, 2**62)
    largest = wire.Difference(2**32 - 1, 0, 2**32 - 1, (stretch,) * 4)

    assert sum(map(len, wire.frames(largest, 0))) < MESSAGE_LIMIT_BYTES
