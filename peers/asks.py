"""Hold one question about a large content while its answer comes in parts.

Questions know what they asked and take only what fits it; what an answer is worth is for others
to judge. They are put on a `peers.lane.Lane` and owned by the loop.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from peers import wire
from peers.difference import chunks_in
from peers.framing import Buffer
from peers.wire import (
    ChunkLine,
    Chunks,
    Data,
    Difference,
    NotHave,
    Stretch,
    Want,
    WantChunks,
    WantDifference,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from peers.lane import Answer
    from store.ids import BlobHash, FolderId
    from store.records import BlobRef

CHUNKS_PER_BYTE: Final = 64 * 1024  # no list is longer than the size divided by this, plus one

LIST_LIMIT: Final = 1024 * 1024  # chunks, of 256 GiB on average: some 150 MB in memory


def longest_list(size: int) -> int:
    """Give the greatest number of chunks that a list of a content of `size` bytes may have.

    Beyond LIST_LIMIT no list is taken: the content is fetched whole, for the size may be a lie.
    """
    return min(size // CHUNKS_PER_BYTE + 1, LIST_LIMIT)


class RangeAsk:
    """A range of a content under way at one peer."""

    __slots__ = (
        "_blob",
        "_done",
        "_folder",
        "_on_refused",
        "arrived",
        "is_refused",
        "length",
        "number",
        "offset",
        "pieces",
    )

    def __init__(
        self,
        folder: FolderId,
        blob: BlobHash,
        offset: int,
        length: int,
        *,
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        """Ask for `length` bytes from `offset` on; `on_refused` is called as the peer says no."""
        self._folder = folder
        self._blob = blob
        self._on_refused = on_refused
        self.number = 0  # on its lane, once it is asked
        self.offset = offset
        self.length = length
        self.arrived = 0
        self.is_refused = False
        self.pieces: list[Buffer] = []
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
        if isinstance(answer, NotHave):
            self.is_refused = True
            self._on_refused()
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


class _Coming:
    """Whether the part of an answer that was asked for last has come."""

    def __init__(self) -> None:
        self._came: asyncio.Future[bool] | None = None

    def begin(self) -> None:
        self._came = asyncio.get_running_loop().create_future()

    def end(self, *, is_good: bool) -> None:
        if self._came is not None and not self._came.done():
            self._came.set_result(is_good)

    async def wait(self) -> bool:
        if self._came is None:
            return False
        return await asyncio.shield(self._came)


class ChunksAsk:
    """A chunk list under way at one peer, in parts."""

    def __init__(self, folder: FolderId, ref: BlobRef) -> None:
        """Ask for the list of `ref` from its first chunk on."""
        self._folder = folder
        self._ref = ref
        self.lines: list[ChunkLine] = []
        self._total: int | None = None
        self._coming = _Coming()

    def message(self, number: int) -> wire.Message:
        """Give the want for the next part."""
        self._coming.begin()
        return WantChunks(number, self._folder, self._ref.hash, len(self.lines))

    def take(self, answer: Answer) -> bool:
        """Take a part of the list."""
        is_good = (
            isinstance(answer, Chunks)
            and answer.first == len(self.lines)
            and bool(answer.chunks)
            and self._total in {None, answer.total}
            and answer.total <= longest_list(self._ref.size)
            and len(self.lines) + len(answer.chunks) <= answer.total
        )
        if is_good and isinstance(answer, Chunks):
            self._total = answer.total
            self.lines.extend(answer.chunks)
        self._coming.end(is_good=is_good)
        return True

    def lose(self) -> None:
        """Give up."""
        self._coming.end(is_good=False)

    async def wait(self) -> bool:
        """Wait for the part that was asked for; False if it will not come."""
        return await self._coming.wait()

    @property
    def is_whole(self) -> bool:
        """Whether all parts are here."""
        return self._total is not None and len(self.lines) == self._total

    @property
    def is_right(self) -> bool:
        """Whether the chunks together are as long as the content."""
        return sum(line.length for line in self.lines) == self._ref.size


class DifferenceAsk:
    """How a content differs from an older one, under way at one peer, in parts."""

    def __init__(self, folder: FolderId, ref: BlobRef, old: BlobHash) -> None:
        """Ask for all of it."""
        self._folder = folder
        self._ref = ref
        self._old = old
        self.stretches: list[Stretch] = []
        self._chunks = 0
        self._total: int | None = None
        self._coming = _Coming()

    def message(self, number: int) -> wire.Message:
        """Give the want for the next part."""
        self._coming.begin()
        return WantDifference(number, self._folder, self._ref.hash, self._old, self._chunks)

    def take(self, answer: Answer) -> bool:
        """Take a part."""
        is_good = False
        if isinstance(answer, Difference) and answer.first == self._chunks:
            chunks = chunks_in(answer.stretches)
            is_good = (
                # what speaks of no chunk would cost memory and be counted nowhere
                all(one.chunks or one.count for one in answer.stretches)
                and chunks > 0
                and self._total in {None, answer.total}
                and self._chunks + chunks <= answer.total <= longest_list(self._ref.size)
            )
            if is_good:
                self._total = answer.total
                self._chunks += chunks
                self.stretches.extend(answer.stretches)
        self._coming.end(is_good=is_good)
        return True

    def lose(self) -> None:
        """Give up."""
        self._coming.end(is_good=False)

    async def wait(self) -> bool:
        """Wait for the part that was asked for; False if it will not come."""
        return await self._coming.wait()

    @property
    def is_whole(self) -> bool:
        """Whether all parts are here."""
        return self._total is not None and self._chunks == self._total
