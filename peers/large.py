"""Keep the account of one large content that is being fetched: what is here, what is lacking.

It asks nobody; `peers.large_fetch` does. Calls on sinks and local pieces block: those functions
here that make them say so, and are run beside the loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from blake3 import blake3
from msgspec.structs import astuple

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
from peers.framing import Buffer

if TYPE_CHECKING:
    from peers.wire import ChunkLine, Stretch
    from store.ids import AgentId, BlobHash
    from store.records import BlobRef

UNIT_BYTES: Final = 8 * wire.DATA_PIECE_BYTES  # 1.94 MiB: asked for, read and written at once
COPY_BYTES: Final = 2 * 1024 * 1024  # read and written by one system call
COPIES_AT_ONCE: Final = 4  # by one call: 8 MiB, so that a small file waits for no more
HELD_BYTES: Final = 32 * 1024 * 1024  # written and not hashed yet, in memory
HASHED_AT_ONCE_BYTES: Final = 16 * 1024 * 1024

Ranges = Sequence[tuple[int, Sequence[Buffer]]]


class Sink(Protocol):
    """Where a content is put together: random writes, blocking (see daemon.disk.Stage)."""

    def write(self, offset: int, *pieces: Buffer) -> None:
        """Write all of the pieces, one behind the other, from `offset` on."""

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

    def read(self, offset: int, length: int) -> Buffer:
        """Read a piece, shorter only at the end or where it cannot be read. Blocks."""


class Filling:
    """What of one content is here and what is lacking.

    The account belongs to the loop; what is said to block is run beside it, several calls at
    once, and touches the account nowhere. All of it is hashed in order by one call at a time:
    what arrives in order from memory, the rest is read back.
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
        self._is_hashing = False
        self._hashed = 0
        self._ahead: list[tuple[int, int]] = []  # (start, end) written beyond what is hashed
        self._held: dict[int, Buffer] = {}  # of that, by offset: need not be read back
        self._held_bytes = 0
        self.restart()

    def restart(self) -> None:
        """Take all of it for lacking, and forget who sent what."""
        self.sources = []
        self.begin([(0, self.ref.size)] if self.ref.size else [], has_reused=False)

    def begin(self, spans: Iterable[tuple[int, int]], *, has_reused: bool) -> None:
        """Take only these (offset, length) for lacking; no call may be under way."""
        self.has_reused = has_reused
        self._hasher = blake3()
        self._is_hashing = False
        self._hashed = 0
        self._ahead.clear()
        self._held.clear()
        self._held_bytes = 0
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
        # cut as they are taken: a size may be a lie (A20)
        self._copies.extend(one for one in copies if one.length)

    # -- what lacks -------------------------------------------------------------------------------

    @property
    def is_lacking(self) -> bool:
        """Whether something is neither here nor under way."""
        return bool(self._units)

    def take(self) -> tuple[int, int] | None:
        """Take out the next (offset, length) to be asked for, UNIT_BYTES at most."""
        if not self._units:
            return None
        offset, length = self._units.popleft()
        if length > UNIT_BYTES:
            self._units.appendleft((offset + UNIT_BYTES, length - UNIT_BYTES))
        return offset, min(UNIT_BYTES, length)

    def give_back(self, offset: int, length: int) -> None:
        """Let a range be asked of another; the lowest first, so that sinks grow from the start."""
        self._units.appendleft((offset, length))

    def _lack(self, offset: int, length: int) -> None:
        self._units.append((offset, length))  # cut as it is taken: a size may be a lie (A20)

    def may_hash(self, ranges: Ranges) -> bool:
        """Whether to hash these as they are written; then nothing else may until wrote()."""
        offset = self._hashed
        for start, pieces in ranges:
            if self._is_hashing or start != offset:
                return False
            offset += sum(map(len, pieces))
        self._is_hashing = True
        return True

    def write_all(self, ranges: Ranges, *, is_hashing: bool) -> None:
        """Write several ranges, each of pieces that follow each other. Blocks."""
        for offset, pieces in _together(ranges):
            if is_hashing:
                for piece in pieces:
                    self._hasher.update(piece)
            self.sink.write(offset, *pieces)

    def wrote(self, ranges: Ranges, *, is_hashed: bool) -> None:
        """Note what write_all has done."""
        end = 0
        for offset, pieces in ranges:
            end = offset
            for piece in pieces:
                if not is_hashed:
                    self._hold(end, piece)
                end += len(piece)
            self._add(offset, end - offset)
        if is_hashed:
            self.hashed(end)  # what stands behind it may have been written before

    # -- what is copied ---------------------------------------------------------------------------

    @property
    def is_copying(self) -> bool:
        """Whether something is still to be copied."""
        return bool(self._copies)

    def take_copies(self) -> list[Copy]:
        """Take out what one call is to copy, cut where a disk writes whole blocks."""
        taken: list[Copy] = []
        while self._copies and len(taken) < COPIES_AT_ONCE:
            offset, source, length = astuple(self._copies.popleft())
            first = min(COPY_BYTES - offset % COPY_BYTES, length)
            taken.append(Copy(offset, source, first))
            if first < length:
                self._copies.appendleft(Copy(offset + first, source + first, length - first))
        return taken

    def copy(self, copies: Sequence[Copy]) -> list[Buffer | None]:
        """Copy from the old content; give the bytes, None for what it does not hold any more.

        Blocks.
        """
        pieces: list[Buffer | None] = []
        for one in copies:
            piece = b"" if self._old is None else self._old.read(one.source, one.length)
            if len(piece) == one.length:
                self.sink.write(one.offset, piece)
                pieces.append(piece)
            else:
                pieces.append(None)
        return pieces

    def copied(self, copies: Sequence[Copy], pieces: Sequence[Buffer | None]) -> None:
        """Note what was copied; the rest is lacking."""
        for one, piece in zip(copies, pieces, strict=True):
            if piece is None:
                self._lack(one.offset, one.length)
                continue
            self._add(one.offset, one.length)
            self._hold(one.offset, piece)

    def _hold(self, offset: int, piece: Buffer) -> None:
        """Keep a piece to be hashed, where there is room: it need not be read back then."""
        if self._held_bytes + len(piece) <= HELD_BYTES:
            self._held[offset] = piece
            self._held_bytes += len(piece)

    # -- what is hashed ---------------------------------------------------------------------------

    def take_span(self) -> tuple[int, int, list[Buffer]] | None:
        """Take what is to be hashed next, until hashed() is called: start, end, pieces.

        The pieces are all of it, or none: then it is to be read.
        """
        if self._is_hashing or not self._ahead or self._ahead[0][0] != self._hashed:
            return None
        self._is_hashing = True
        start = end = self._hashed
        limit = min(self._ahead[0][1], start + HASHED_AT_ONCE_BYTES)
        pieces: list[Buffer] = []
        while end < limit and end in self._held:
            pieces.append(self._held.pop(end))
            end += len(pieces[-1])
        self._held_bytes -= end - start
        if not pieces:
            end = min([limit, *(at for at in self._held if at > start)])
        return start, end, pieces

    def hash_span(self, start: int, end: int, pieces: Sequence[Buffer]) -> bool:
        """Hash pieces, or what stands in the sink; False if it does not stand there. Blocks."""
        for piece in pieces:
            self._hasher.update(piece)
        for offset in range(start, start if pieces else end, COPY_BYTES):
            piece = self.sink.read(offset, min(COPY_BYTES, end - offset))
            if len(piece) != min(COPY_BYTES, end - offset):
                return False
            self._hasher.update(piece)
        return True

    def hashed(self, end: int) -> None:
        """Note up to where the content is hashed."""
        self._is_hashing = False
        self._hashed = end
        last = self._ahead[0][1]
        self._ahead[:1] = [(end, last)] if last > end else []

    def is_right(self) -> bool:
        """Whether the sink holds the very content. Blocks: may read all of it again."""
        if self.sink.size() != self.ref.size:
            return False
        if self._hashed == self.ref.size:
            return self._hasher.digest() == self.ref.hash
        return self.sink.hash() == self.ref.hash

    def _add(self, start: int, length: int) -> None:
        """Note that a range stands in the sink."""
        end = start + length
        place = bisect_left(self._ahead, (start, 0))
        if place < len(self._ahead) and self._ahead[place][0] == end:
            end = self._ahead.pop(place)[1]
        if place and self._ahead[place - 1][1] == start:
            start = self._ahead.pop(place - 1)[0]
            place -= 1
        self._ahead.insert(place, (start, end))


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


def _together(ranges: Ranges) -> Ranges:
    """Make one of ranges that follow each other: a disk likes to write much at once."""
    runs: list[tuple[int, list[Buffer]]] = []
    end = -1
    for offset, pieces in ranges:
        if offset == end:
            runs[-1][1].extend(pieces)
        else:
            runs.append((offset, list(pieces)))
        end = offset + sum(map(len, pieces))
    return runs


def _merged(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for offset, length in spans:
        if merged and sum(merged[-1]) == offset:
            merged[-1] = (merged[-1][0], merged[-1][1] + length)
        else:
            merged.append((offset, length))
    return merged
