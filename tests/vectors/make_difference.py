"""Write difference-1.json: `python -m tests.vectors.make_difference`; only a new version may."""

from __future__ import annotations

import json
from pathlib import Path

from blake3 import blake3

from peers import wire
from peers.chunks import Cutter, fine_chunks, pack_fine
from peers.difference import compare
from peers.wire import ChunkLine

PATH = Path(__file__).with_name("difference-1.json")
NOISE_BYTES = 2 * 1024 * 1024
INSERTED_AT = 700_000
INSERTED = b"inserted"
FINE_BYTES = 200_000
REQUEST = 7


def noise() -> bytes:
    """Give the bytes of the older content."""
    return blake3(b"dizzyd/test/difference").digest(length=NOISE_BYTES)


def cut(content: bytes) -> list[ChunkLine]:
    """Give the chunk list of a content."""
    cutter = Cutter()
    return cutter.feed(content) + cutter.finish()


def make() -> dict[str, object]:
    """Cut a content and an edited one, and say the difference in a message."""
    old = noise()
    new = old[:INSERTED_AT] + INSERTED + old[INSERTED_AT:]
    stretches = []
    for one in compare(cut(old), cut(new)):
        span = new[one.offset : one.offset + one.fresh_bytes]
        fine = pack_fine(fine_chunks(span, one.offset))
        stretch = one.stretch
        stretches.append(
            wire.Stretch(
                stretch.chunks, fine, stretch.first, stretch.count, stretch.offset, stretch.length
            )
        )
    message = wire.Difference(REQUEST, 0, len(cut(new)), tuple(stretches))
    (frame,) = wire.frames(message, 1)
    return {
        "noise": [line.length for line in cut(old)],
        "edited": [line.length for line in cut(new)],
        "fine": [[one.length, one.hash.hex()] for one in fine_chunks(old[:FINE_BYTES], 0)],
        "frame": frame.hex(),
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(make(), indent=1) + "\n", "ascii")
