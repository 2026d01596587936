"""Keep the account of one large content that is being fetched: what is here, what is lacking.

It asks nobody; `peers.large_fetch` does. Calls on sinks and local pieces block: those functions
here that make them say so, and are run beside the loop, one at a time for each content.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from blake3 import blake3

from peers import wire
from peers.chunks import FEED_BYTES, Cutter, FineChunk, fine_chunks
from peers.difference import (
    REFINED_BYTES,
    STRETCH_BYTES,
    Copy,
    gaps,
    joined,
    layout,
    refine,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from peers.wire import ChunkLine, Stretch
    from store.ids import AgentId, BlobHash
    from store.records import BlobRef

UNIT_BYTES: Final = 8 * wire.DATA_PIECE_BYTES  # 1.94 MiB: asked for, read and written at once
COPY_BYTES: Final = 4 * 1024 * 1024  # read and written by one call
CATCH_UP_BYTES: Final = 32 * 1024 * 1024  # hashed at once while more arrives


class Sink(Protocol):
    """Where a content is put together: random writes, blocking (see daemon.disk.Stage)."""

    def write(self, offset: int, chunk: wire.Buffer) -> None:
        """Write all of `chunk` at `offset`."""

    def read(self, offset: int, length: int) -> bytes:
        """Read back up to `length` bytes."""

    def size(self) -> int:
        """Give the number of bytes up to the highest written one."""

    def hash(self) -> BlobHash:
        """Give the BLAKE3 of all of it as it stands."""


class LocalPiece(Protocol):
    """A file here that may hold chunks of what is wanted: an earlier version, any other file."""

    @property
    def blob(self) -> BlobHash | None:
        """Which content it is, if that is known."""

    def size(self) -> int:
        """Give its number of bytes. Blocks."""

    def read(self, offset: int, length: int) -> bytes:
        """Read a piece, shorter only at the end or where it cannot be read. Blocks."""


class Filling:
    """What of one content is here and what is lacking.

    All of it is hashed in order as it comes; what came out of order is read back for that.
    """

    def __init__(self, ref: BlobRef, sink: Sink) -> None:
        """Begin with all of it lacking."""
        self.ref = ref
        self.sink = sink
        self.sources: list[AgentId] = []
        self.has_reused = False
        self._units: deque[tuple[int, int]] = deque()
        self._copies: deque[Copy] = deque()
        self._old: LocalPiece | None = None
        self._hasher = blake3()
        self._hashed = 0
        self._ahead: list[tuple[int, int]] = []  # (start, end) written beyond what is hashed
        self.restart()

    def restart(self) -> None:
        """Take all of it for lacking, and forget who sent what."""
        self.sources = []
        self.begin([(0, self.ref.size)] if self.ref.size else [], has_reused=False)

    def begin(self, spans: Iterable[tuple[int, int]], *, has_reused: bool) -> None:
        """Take only these (offset, length) for lacking."""
        self.has_reused = has_reused
        self._hasher = blake3()
        self._hashed = 0
        self._ahead.clear()
        self._copies.clear()
        self._units.clear()
        for offset, length in spans:
            self._lack(offset, length)

    def begin_from(
        self, old: LocalPiece, copies: Iterable[Copy], spans: Iterable[tuple[int, int]]
    ) -> None:
        """Take some for lacking and the rest for what `old` holds."""
        self.begin(spans, has_reused=True)
        self._old = old
        self._copies.extend(copies)
        self._hasher = blake3(max_threads=blake3.AUTO)  # for pieces as long as copies are

    @property
    def is_lacking(self) -> bool:
        """Whether something is neither here nor under way."""
        return bool(self._units)

    @property
    def is_copying(self) -> bool:
        """Whether something is still to be copied."""
        return bool(self._copies)

    def take(self) -> tuple[int, int] | None:
        """Take out the next (offset, length) to be asked for."""
        return self._units.popleft() if self._units else None

    def give_back(self, offset: int, length: int) -> None:
        """Let a range be asked of another; the lowest first, so that sinks grow from the start."""
        self._units.appendleft((offset, length))

    def write_all(self, ranges: Sequence[tuple[int, Sequence[wire.Buffer]]]) -> None:
        """Write several ranges, each of pieces that follow each other. Blocks."""
        for offset, pieces in ranges:
            at = offset
            for piece in pieces:
                self._write(at, piece)
                at += len(piece)
        self._catch_up(CATCH_UP_BYTES)

    def copy(self, limit_bytes: int) -> None:
        """Copy from the old content; what it does not give is lacking. Blocks."""
        while self._copies and self._old is not None and limit_bytes > 0:
            one = self._copies.popleft()
            length = min(one.length, COPY_BYTES)
            content = self._old.read(one.source, length)
            if len(content) < length:
                self._lack(one.offset, one.length)
                continue
            self._write(one.offset, content)
            limit_bytes -= length
            if length < one.length:
                rest = Copy(one.offset + length, one.source + length, one.length - length)
                self._copies.appendleft(rest)
        self._catch_up(CATCH_UP_BYTES)

    def is_right(self) -> bool:
        """Whether the sink holds the very content. Blocks: may read all of it again."""
        if self.sink.size() != self.ref.size:
            return False
        self._catch_up(self.ref.size)
        if self._hashed == self.ref.size:
            return self._hasher.digest() == self.ref.hash
        return self.sink.hash() == self.ref.hash

    def _lack(self, offset: int, length: int) -> None:
        for start in range(offset, offset + length, UNIT_BYTES):
            self._units.append((start, min(UNIT_BYTES, offset + length - start)))

    def _write(self, offset: int, piece: wire.Buffer) -> None:
        self.sink.write(offset, piece)
        if offset == self._hashed:
            self._hasher.update(piece)
            self._hashed += len(piece)
            return
        place = bisect_left(self._ahead, (offset, 0))
        start, end = offset, offset + len(piece)
        if place < len(self._ahead) and self._ahead[place][0] == end:
            end = self._ahead.pop(place)[1]
        if place and self._ahead[place - 1][1] == start:
            place -= 1
            start = self._ahead.pop(place)[0]
        self._ahead.insert(place, (start, end))

    def _catch_up(self, limit_bytes: int) -> None:
        """Hash what stands behind what is hashed."""
        while self._ahead and self._ahead[0][0] <= self._hashed and limit_bytes > 0:
            end = self._ahead[0][1]
            if end <= self._hashed:
                del self._ahead[0]
                continue
            piece = self.sink.read(self._hashed, min(COPY_BYTES, end - self._hashed))
            if not piece:
                return
            self._hasher.update(piece)
            self._hashed += len(piece)
            limit_bytes -= len(piece)


def prepare(filling: Filling, stretches: Sequence[Stretch], old: LocalPiece) -> None:
    """Let a filling begin with what a difference says that `old` holds.

    Blocks: what of the old content is used by no stretch is cut finely, up to REFINED_BYTES.
    Raises Malformed where the difference does not fit.
    """
    copies, spans = layout(stretches, filling.ref.size, old.size())
    known: dict[bytes, FineChunk] = {}
    if any(span.fine for span in spans):
        left_bytes = REFINED_BYTES
        for offset, length in gaps(copies, old.size()):
            end = offset + min(length, left_bytes)
            left_bytes -= end - offset
            for start in range(offset, end, STRETCH_BYTES):
                content = old.read(start, min(STRETCH_BYTES, end - start))
                for chunk in fine_chunks(content, start):
                    known.setdefault(chunk.hash, chunk)
    refined, lacking = refine(spans, known)
    filling.begin_from(old, joined([*copies, *refined]), _merged(lacking))


def reuse(
    lines: Sequence[ChunkLine], sink: Sink, old: Sequence[LocalPiece], held: int
) -> list[tuple[int, int]]:
    """Fill a sink with the chunks that are here already; give the spans that are not.

    What stands in the sink (up to `held`) at its place stays; chunks of the old pieces are
    copied, each checked as it is read. Blocks.
    """
    lacking: dict[bytes, list[tuple[int, int]]] = {}
    offset = 0
    for line in lines:
        stands = offset + line.length <= held
        if not stands or blake3(sink.read(offset, line.length)).digest() != line.hash:
            lacking.setdefault(line.hash, []).append((offset, line.length))
        offset += line.length
    for piece in old:
        if not lacking:
            break
        _copy_chunks(piece, lacking, sink)
    return _merged(sorted(span for spans in lacking.values() for span in spans))


def _copy_chunks(
    piece: LocalPiece, lacking: dict[bytes, list[tuple[int, int]]], sink: Sink
) -> None:
    cutter = Cutter()
    read = start = 0
    while lacking:
        buffer = piece.read(read, FEED_BYTES)
        read += len(buffer)
        for line in cutter.feed(buffer) if buffer else cutter.finish():
            if line.hash in lacking:
                content = piece.read(start, line.length)
                if blake3(content).digest() == line.hash:
                    for offset, _ in lacking.pop(line.hash):
                        sink.write(offset, content)
            start += line.length
        if not buffer:
            return


def _merged(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for offset, length in spans:
        if merged and sum(merged[-1]) == offset:
            merged[-1] = (merged[-1][0], merged[-1][1] + length)
        else:
            merged.append((offset, length))
    return merged
