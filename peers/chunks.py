"""Cut contents where their bytes say so, so that an insertion changes one chunk, not all.

FastCDC 2020 in two sizes: chunks (64 KiB, 256 KiB, 1 MiB), and fine ones (2, 8 and 64 KiB) that
refine what changed. The parameters are frozen (tests/vectors), because both sides must cut alike.
Chunk lists are advice, never identity: the whole content's BLAKE3 decides. Nothing is read or
written here; cutting and hashing release the interpreter's lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from blake3 import blake3
from msgspec import Struct
from pyfastcdc import FastCDC

from peers.wire import FINE_HASH_BYTES, FINE_LINE_BYTES, ChunkLine
from store.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from peers.framing import Buffer

CHUNK_MIN_BYTES: Final = 64 * 1024
CHUNK_AVERAGE_BYTES: Final = 256 * 1024
CHUNK_MAX_BYTES: Final = 1024 * 1024
FINE_MIN_BYTES: Final = 2 * 1024
FINE_AVERAGE_BYTES: Final = 8 * 1024
FINE_MAX_BYTES: Final = 64 * 1024
NORMALIZATION: Final = 1
FEED_BYTES: Final = 8 * 1024 * 1024  # a good size for one feed

# a kept line = hash 32 ‖ length u32: 32 + 4 = 36 bytes, 147 KB for a GiB
_KEPT_LINE_BYTES: Final = 36
_HASH_BYTES: Final = 32


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

    def feed(self, piece: Buffer) -> list[ChunkLine]:
        """Take the next bytes, which may change afterwards; give the chunks certain now."""
        view = memoryview(piece)
        lines: list[ChunkLine] = []
        start = 0
        if self._rest:
            # Only the chunks that begin in the rest need it joined to what follows it.
            rest_bytes = len(self._rest)
            joined = memoryview(b"".join((self._rest, view[: 2 * CHUNK_MAX_BYTES])))
            is_all = len(joined) == rest_bytes + len(view)
            done = self._cut(joined, lines, keep_bytes=CHUNK_MAX_BYTES, until=rest_bytes)
            if done < rest_bytes or is_all:
                done = self._cut(joined, lines, keep_bytes=CHUNK_MAX_BYTES, start=done)
                self._rest = bytes(joined[done:])
                return lines
            start = done - rest_bytes
        done = self._cut(view, lines, keep_bytes=CHUNK_MAX_BYTES, start=start)
        self._rest = bytes(view[done:])
        return lines

    def finish(self) -> list[ChunkLine]:
        """Give the remaining chunks of the content."""
        lines: list[ChunkLine] = []
        self._cut(memoryview(self._rest), lines, keep_bytes=1)
        self._rest = b""
        return lines

    def _cut(
        self,
        view: memoryview,
        lines: list[ChunkLine],
        *,
        keep_bytes: int,
        start: int = 0,
        until: int | None = None,
    ) -> int:
        """Cut from `start` while chunks begin before `until`; gives where the last one ends.

        A cut depends only on the bytes since the last one and on up to CHUNK_MAX_BYTES more.
        """
        done = start
        if start >= len(view):
            return done
        for chunk in self._cdc.cut_buf(view[start:]):
            if len(view) - done < keep_bytes or (until is not None and done >= until):
                break
            end = done + chunk.length
            lines.append(ChunkLine(blake3(view[done:end]).digest(), chunk.length))
            done = end
        return done


class FineChunk(Struct, frozen=True, gc=False):
    """A piece of what changed: the first 16 bytes of its BLAKE3, where it stands, its length."""

    hash: bytes
    offset: int
    length: int


def fine_chunks(content: Buffer, offset: int) -> list[FineChunk]:
    """Cut a whole span that stands at `offset`; a span is cut from its start to its end."""
    if not content:
        return []
    view = memoryview(content)
    cdc = FastCDC(
        FINE_AVERAGE_BYTES,
        min_size=FINE_MIN_BYTES,
        max_size=FINE_MAX_BYTES,
        normalized_chunking=NORMALIZATION,
        seed=0,
    )
    chunks: list[FineChunk] = []
    done = 0
    for chunk in cdc.cut_buf(view):
        end = done + chunk.length
        hash_ = blake3(view[done:end]).digest(length=FINE_HASH_BYTES)
        chunks.append(FineChunk(hash_, offset + done, chunk.length))
        done = end
    return chunks


def pack_fine(chunks: Iterable[FineChunk]) -> bytes:
    """Write fine chunks as they travel: 18 bytes each, length less one in the last two."""
    return b"".join(one.hash + (one.length - 1).to_bytes(2, "big") for one in chunks)


def unpack_fine(packed: bytes, offset: int) -> Iterator[FineChunk]:
    """Read fine chunks that follow each other from `offset` on. Raises Malformed."""
    if len(packed) % FINE_LINE_BYTES:
        raise Malformed("fine chunks", f"are {len(packed)} bytes")
    for start in range(0, len(packed), FINE_LINE_BYTES):
        hash_ = packed[start : start + FINE_HASH_BYTES]
        length = int.from_bytes(packed[start + FINE_HASH_BYTES : start + FINE_LINE_BYTES], "big")
        yield FineChunk(hash_, offset, length + 1)
        offset += length + 1


def pack_list(lines: Sequence[ChunkLine]) -> bytes:
    """Write a chunk list as it is kept, 36 bytes a chunk."""
    return b"".join(line.hash + line.length.to_bytes(4, "big") for line in lines)


def unpack_list(packed: bytes) -> tuple[ChunkLine, ...]:
    """Read a chunk list that pack_list wrote."""
    return tuple(
        ChunkLine(
            packed[start : start + _HASH_BYTES],
            int.from_bytes(packed[start + _HASH_BYTES : start + _KEPT_LINE_BYTES], "big"),
        )
        for start in range(0, len(packed), _KEPT_LINE_BYTES)
    )
