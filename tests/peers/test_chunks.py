"""Show that contents are cut alike everywhere, for ever, and that little changes with a little."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.chunks import CHUNK_MAX_BYTES, CHUNK_MIN_BYTES, Cutter

if TYPE_CHECKING:
    from peers.wire import ChunkLine

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "chunks-1.json").read_text())
CONTENT = blake3(b"dizzyd/test/chunks").digest(length=8 * 1024 * 1024 + 777)


def cut(content: bytes, step: int = 8 * 1024 * 1024) -> list[ChunkLine]:
    cutter = Cutter()
    lines: list[ChunkLine] = []
    for start in range(0, len(content), step):
        lines += cutter.feed(content[start : start + step])
    return lines + cutter.finish()


def test_cuts_are_frozen() -> None:
    assert [[line.length, line.hash.hex()] for line in cut(CONTENT)] == VECTORS["noise"]
    zeros = cut(bytes(3 * 1024 * 1024 + 5))
    assert [[line.length, line.hash.hex()] for line in zeros] == VECTORS["zeros"]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3_000_000))
def test_cuts_do_not_depend_on_how_the_content_is_fed(step: int) -> None:
    step = max(step, 50_000)
    assert cut(CONTENT, step) == cut(CONTENT)


def test_chunks_cover_the_content_within_their_bounds() -> None:
    lines = cut(CONTENT)
    offset = 0
    for line in lines:
        assert blake3(CONTENT[offset : offset + line.length]).digest() == line.hash
        assert line.length <= CHUNK_MAX_BYTES
        offset += line.length
    assert offset == len(CONTENT)
    assert min(line.length for line in lines[:-1]) >= CHUNK_MIN_BYTES
    assert cut(b"") == []


def test_insertion_changes_few_chunks() -> None:
    before = {line.hash for line in cut(CONTENT)}
    after = cut(CONTENT[:3_000_000] + b"!" + CONTENT[3_000_000:])
    assert sum(line.length for line in after if line.hash not in before) < 2 * 1024 * 1024
