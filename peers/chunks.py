"""Cut contents where their bytes say so, so that an insertion changes one chunk, not all.

FastCDC 2020 with 64 KiB, 256 KiB and 1 MiB; the parameters are frozen (tests/vectors), because
both sides must cut alike. Chunk lists are advice, never identity: the whole content's BLAKE3
decides. Nothing is read or written here.
"""

from __future__ import annotations

from typing import Final

from blake3 import blake3
from pyfastcdc import FastCDC

from peers.wire import ChunkLine

CHUNK_MIN_BYTES: Final = 64 * 1024
CHUNK_AVERAGE_BYTES: Final = 256 * 1024
CHUNK_MAX_BYTES: Final = 1024 * 1024
NORMALIZATION: Final = 1
FEED_BYTES: Final = 8 * 1024 * 1024  # a good size for one feed


class Cutter:
    """Cuts one content that is fed from its start to its end."""

    def __init__(self) -> None:
        """Begin at offset 0."""
        self._cdc = FastCDC(
            CHUNK_AVERAGE_BYTES,
            min_size=CHUNK_MIN_BYTES,
            max_size=CHUNK_MAX_BYTES,
            normalized_chunking=NORMALIZATION,
            seed=0,
        )
        self._rest = b""

    def feed(self, piece: bytes) -> list[ChunkLine]:
        """Take the next bytes; give the chunks that are certain now."""
        return self._cut(self._rest + piece, keep_bytes=CHUNK_MAX_BYTES)

    def finish(self) -> list[ChunkLine]:
        """Give the remaining chunks of the content."""
        return self._cut(self._rest, keep_bytes=0)

    def _cut(self, buffer: bytes, keep_bytes: int) -> list[ChunkLine]:
        # a cut depends only on the bytes since the last one and on up to CHUNK_MAX_BYTES more
        view = memoryview(buffer)
        lines: list[ChunkLine] = []
        done = 0
        for chunk in self._cdc.cut_buf(view):
            if len(view) - done < max(keep_bytes, 1):
                break
            end = done + chunk.length
            lines.append(ChunkLine(blake3(view[done:end]).digest(), chunk.length))
            done = end
        self._rest = bytes(view[done:])
        return lines
