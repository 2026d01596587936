"""Keep the account of one large content that is being fetched: what is here, what is lacking.

It asks nobody; `peers.fetch` does. Calls on sinks and local pieces block: those functions here
that make them say so, and are run beside the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from blake3 import blake3

from peers import wire
from peers.chunks import FEED_BYTES, Cutter
from peers.wire import ChunkLine, Chunks, Data, NotHave, Want, WantChunks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peers.lane import Answer
    from store.ids import AgentId, BlobHash, FolderId
    from store.records import BlobRef

UNIT_BYTES: Final = 8 * wire.DATA_PIECE_BYTES  # 1.94 MiB: asked for, read and written at once
CHUNKS_PER_BYTE: Final = 64 * 1024  # no list is longer than the size divided by this, plus one


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

    def size(self) -> int:
        """Give its number of bytes. Blocks."""

    def read(self, offset: int, length: int) -> bytes:
        """Read a piece, shorter only at the end. Blocks."""


class RangeAsk:
    """A range of a content under way at one peer."""

    __slots__ = ("_blob", "_done", "_folder", "arrived", "is_refused", "length", "offset", "pieces")

    def __init__(self, folder: FolderId, blob: BlobHash, offset: int, length: int) -> None:
        """Ask for `length` bytes from `offset` on."""
        self._folder = folder
        self._blob = blob
        self.offset = offset
        self.length = length
        self.arrived = 0
        self.is_refused = False
        self.pieces: list[wire.Buffer] = []
        self._done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def message(self, number: int) -> wire.Message:
        """Give the want."""
        return Want(number, self._folder, self._blob, self.offset, self.length)

    def take(self, answer: Answer) -> bool:
        """Take the next piece; anything else ends it."""
        if isinstance(answer, Data):
            is_next = answer.offset == self.offset + self.arrived
            if is_next and self.arrived + len(answer.piece) <= self.length:
                self.pieces.append(answer.piece)
                self.arrived += len(answer.piece)
                if self.arrived == self.length:
                    self._end(is_whole=True)
                    return True
                return False
            if answer.offset < self.offset + self.arrived:
                return False  # a piece sent twice
        self.is_refused = isinstance(answer, NotHave)
        self._end(is_whole=False)
        return True

    @property
    def is_whole(self) -> bool:
        """Whether all of it is here."""
        return self.arrived == self.length

    def lose(self) -> None:
        """Keep what arrived; nothing more will."""
        self._end(is_whole=False)

    def _end(self, *, is_whole: bool) -> None:
        if not self._done.done():
            self._done.set_result(is_whole)

    async def wait(self) -> bool:
        """Wait until all of it is here (True) or no more comes (False)."""
        return await asyncio.shield(self._done)


class ChunksAsk:
    """A chunk list under way at one peer, in parts."""

    def __init__(self, folder: FolderId, ref: BlobRef) -> None:
        """Ask for the list of `ref` from its first chunk on."""
        self._folder = folder
        self._ref = ref
        self.lines: list[ChunkLine] = []
        self._total: int | None = None
        self._came: asyncio.Future[bool] | None = None

    def message(self, number: int) -> wire.Message:
        """Give the want for the next part."""
        self._came = asyncio.get_running_loop().create_future()
        return WantChunks(number, self._folder, self._ref.hash, len(self.lines))

    def take(self, answer: Answer) -> bool:
        """Take a part of the list."""
        is_good = (
            isinstance(answer, Chunks)
            and answer.first == len(self.lines)
            and bool(answer.chunks)
            and self._total in {None, answer.total}
            and answer.total <= self._ref.size // CHUNKS_PER_BYTE + 1
            and len(self.lines) + len(answer.chunks) <= answer.total
        )
        if is_good and isinstance(answer, Chunks):
            self._total = answer.total
            self.lines.extend(answer.chunks)
        self._end(is_good=is_good)
        return True

    def lose(self) -> None:
        """Give up."""
        self._end(is_good=False)

    def _end(self, *, is_good: bool) -> None:
        if self._came is not None and not self._came.done():
            self._came.set_result(is_good)

    async def wait(self) -> bool:
        """Wait for the part that was asked for; False if it will not come."""
        if self._came is None:
            return False
        return await asyncio.shield(self._came)

    @property
    def is_whole(self) -> bool:
        """Whether all parts are here."""
        return self._total is not None and len(self.lines) == self._total

    @property
    def is_right(self) -> bool:
        """Whether the chunks together are as long as the content."""
        return sum(line.length for line in self.lines) == self._ref.size


class Filling:
    """What of one content is here and what is lacking."""

    def __init__(self, ref: BlobRef, sink: Sink) -> None:
        """Begin with all of it lacking."""
        self.ref = ref
        self.sink = sink
        self.sources: list[AgentId] = []
        self.has_reused = False
        self._units: deque[tuple[int, int]] = deque()
        self._hasher = blake3()
        self._hashed = 0
        self.restart()

    def restart(self) -> None:
        """Take all of it for lacking, and forget who sent what."""
        self.sources = []
        self.begin([(0, self.ref.size)] if self.ref.size else [], has_reused=False)

    def begin(self, spans: Sequence[tuple[int, int]], *, has_reused: bool) -> None:
        """Take only these (offset, length) for lacking."""
        self.has_reused = has_reused
        self._hasher = blake3()
        self._hashed = 0
        self._units.clear()
        for offset, length in spans:
            for start in range(offset, offset + length, UNIT_BYTES):
                self._units.append((start, min(UNIT_BYTES, offset + length - start)))

    @property
    def is_lacking(self) -> bool:
        """Whether something is neither here nor under way."""
        return bool(self._units)

    def take(self) -> tuple[int, int] | None:
        """Take out the next (offset, length) to be asked for."""
        return self._units.popleft() if self._units else None

    def give_back(self, offset: int, length: int) -> None:
        """Let a range be asked of another; the lowest first, so that sinks grow from the start."""
        self._units.appendleft((offset, length))

    def write(self, offset: int, pieces: Sequence[wire.Buffer]) -> None:
        """Write pieces that follow each other, and hash them if nothing before them is open.

        Blocks.
        """
        for piece in pieces:
            self.sink.write(offset, piece)
            if offset == self._hashed:
                self._hasher.update(piece)
                self._hashed += len(piece)
            offset += len(piece)

    def write_all(self, ranges: Sequence[tuple[int, Sequence[wire.Buffer]]]) -> None:
        """Write several ranges. Blocks."""
        for offset, pieces in ranges:
            self.write(offset, pieces)

    def is_right(self) -> bool:
        """Whether the sink holds the very content. Blocks: may read all of it again."""
        if self.sink.size() != self.ref.size:
            return False
        if self._hashed == self.ref.size:
            return self._hasher.digest() == self.ref.hash
        return self.sink.hash() == self.ref.hash


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
