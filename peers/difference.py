"""Say how the chunks of a content differ from those of an older one, and use what was said.

Pure: lists in, values out; `peers.serve` says it and `peers.large` uses it. Nothing that a peer
said is believed: offsets are checked against sizes here, and what they lead to by the final hash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from peers.chunks import FineChunk, unpack_fine
from peers.wire import ChunkLine, Stretch
from store.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

STRETCH_BYTES: Final = 16 * 1024 * 1024  # of new chunks in one stretch
STRETCH_CHUNKS: Final = 1024
PART_BYTES: Final = 64 * 1024 * 1024  # of new chunks in one message, so it takes bounded work
PART_CHUNKS: Final = 4096
PART_STRETCHES: Final = 8192
REFINED_BYTES: Final = 256 * 1024 * 1024  # where more is new, whole chunks travel


class Copy(Struct, frozen=True, gc=False):
    """Bytes that stand in the old content at `source` and belong at `offset`."""

    offset: int
    source: int
    length: int


class Placed(Struct, frozen=True, gc=False):
    """A stretch, not refined yet, and where its new chunks stand."""

    stretch: Stretch
    number: int  # of its first chunk
    offset: int
    fresh_bytes: int

    @property
    def chunks(self) -> int:
        """How many chunks it speaks of."""
        return len(self.stretch.chunks) + self.stretch.count


def compare(old: Sequence[ChunkLine], new: Sequence[ChunkLine]) -> list[Placed]:
    """Give the stretches that make up the new list, in order."""
    offsets = _offsets(old)
    numbers: dict[bytes, int] = {}
    for number, line in enumerate(old):
        numbers.setdefault(line.hash, number)
    placed: list[Placed] = []
    fresh: list[ChunkLine] = []
    number = offset = begin = fresh_bytes = 0

    def close(first: int, count: int, length: int) -> None:
        nonlocal begin, fresh_bytes
        source = offsets[first] if count else 0
        stretch = Stretch(tuple(fresh), b"", first, count, source, length)
        placed.append(Placed(stretch, begin, offset - fresh_bytes, fresh_bytes))
        begin += len(fresh) + count
        fresh_bytes = 0
        fresh.clear()

    while number < len(new):
        first = numbers.get(new[number].hash)
        if first is None or old[first].length != new[number].length:
            if fresh_bytes >= STRETCH_BYTES or len(fresh) >= STRETCH_CHUNKS:
                close(0, 0, 0)
            fresh.append(new[number])
            fresh_bytes += new[number].length
            offset += new[number].length
            number += 1
            continue
        count = length = 0
        while (
            number + count < len(new)
            and first + count < len(old)
            and new[number + count] == old[first + count]
        ):
            length += new[number + count].length
            count += 1
        close(first, count, length)
        number += count
        offset += length
    if fresh:
        close(0, 0, 0)
    return placed


def is_worth_refining(placed: Sequence[Placed]) -> bool:
    """Whether fine chunks may save more than they cost."""
    fresh_bytes = sum(one.fresh_bytes for one in placed)
    return fresh_bytes <= REFINED_BYTES and any(one.stretch.count for one in placed)


def part(placed: Sequence[Placed], first: int) -> list[Placed]:
    """Give what goes into one message, beginning with the stretch that begins at chunk `first`."""
    taken: list[Placed] = []
    chunks = fresh_bytes = 0
    for one in placed:
        if one.number < first:
            continue
        chunks += len(one.stretch.chunks)
        fresh_bytes += one.fresh_bytes
        if taken and (
            chunks > PART_CHUNKS or fresh_bytes > PART_BYTES or len(taken) >= PART_STRETCHES
        ):
            break
        taken.append(one)
    return taken


def chunks_in(stretches: Iterable[Stretch]) -> int:
    """Count the chunks that stretches speak of."""
    return sum(len(one.chunks) + one.count for one in stretches)


class Fresh(Struct, frozen=True, gc=False):
    """A span that the old content has not as a chunk, and what refines it (perhaps nothing)."""

    offset: int
    length: int
    fine: tuple[FineChunk, ...]


def layout(
    stretches: Sequence[Stretch], size: int, old_size: int
) -> tuple[list[Copy], list[Fresh]]:
    """Say which bytes are to be copied and which spans are new.

    Raises Malformed where what was said does not fit the sizes.
    """
    copies: list[Copy] = []
    spans: list[Fresh] = []
    offset = 0
    for one in stretches:
        length = sum(line.length for line in one.chunks)
        if length:
            fine = tuple(unpack_fine(one.fine, offset))
            if fine and sum(chunk.length for chunk in fine) != length:
                raise Malformed("difference", "has fine chunks of another length")
            spans.append(Fresh(offset, length, fine))
        elif one.fine:
            raise Malformed("difference", "refines nothing")
        offset += length
        if one.offset + one.length > old_size:
            raise Malformed("difference", "names bytes beyond the end of the old content")
        if one.length:
            copies.append(Copy(offset, one.offset, one.length))
            offset += one.length
        if offset > size:
            break
    if offset != size:
        raise Malformed("difference", f"describes {offset} bytes of {size}")
    return copies, spans


def gaps(copies: Sequence[Copy], old_size: int) -> Iterator[tuple[int, int]]:
    """Give the (offset, length) of the old content that no copy uses."""
    end = 0
    for one in sorted(copies, key=lambda one: one.source):
        if one.source > end:
            yield end, one.source - end
        end = max(end, one.source + one.length)
    if end < old_size:
        yield end, old_size - end


def refine(
    spans: Sequence[Fresh], known: Mapping[bytes, FineChunk]
) -> tuple[list[Copy], list[tuple[int, int]]]:
    """Say what of new spans is in the old content after all, and which (offset, length) lack."""
    copies: list[Copy] = []
    lacking: list[tuple[int, int]] = []
    for span in spans:
        if not span.fine:
            lacking.append((span.offset, span.length))
        for chunk in span.fine:
            old = known.get(chunk.hash)
            if old is not None and old.length == chunk.length:
                copies.append(Copy(chunk.offset, old.offset, chunk.length))
            else:
                lacking.append((chunk.offset, chunk.length))
    return copies, lacking


def joined(copies: Iterable[Copy]) -> list[Copy]:
    """Give copies in order of their offset, those that follow each other on both sides as one."""
    result: list[Copy] = []
    for one in sorted(copies, key=lambda one: one.offset):
        last = result[-1] if result else None
        if last is not None and (
            (last.offset + last.length, last.source + last.length) == (one.offset, one.source)
        ):
            result[-1] = replace(last, length=last.length + one.length)
        else:
            result.append(one)
    return result


def rebuilt(
    stretches: Sequence[Stretch], old: Sequence[ChunkLine], limit: int
) -> tuple[ChunkLine, ...] | None:
    """Give the new chunk list, at most `limit` long; None if it does not fit the old one."""
    lines: list[ChunkLine] = []
    for one in stretches:
        lines += one.chunks
        if one.first + one.count > len(old) or len(lines) + one.count > limit:
            return None
        same = old[one.first : one.first + one.count]
        if sum(line.length for line in same) != one.length:
            return None
        lines += same
    return tuple(lines)


def _offsets(lines: Sequence[ChunkLine]) -> list[int]:
    offsets: list[int] = []
    offset = 0
    for line in lines:
        offsets.append(offset)
        offset += line.length
    return offsets
