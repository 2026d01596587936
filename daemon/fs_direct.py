"""Write and read large contents past the page cache.

Gigabytes in the cache would push out what others read, cost a fresh page of memory for each page,
and leave so much to be written that whoever syncs anything on that disk waits behind it. Whole
blocks pass between the disk and a buffer of ours; what is none, at the ends of a range, goes
through the cache. Of durability it says nothing: a sync is needed as after any write.
"""

from __future__ import annotations

import errno
import mmap
import os
from typing import TYPE_CHECKING

from daemon import syscalls

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from daemon.disk import Buffer

DIRECT_FROM_BYTES = 64 << 20  # smaller contents may be read soon: they stay in the cache
BLOCK_BYTES = 4096  # of memory, offset and length: no disk asks for more
_BUFFER_BYTES = 4 << 20  # what one call writes
_LEAST_BYTES = 1 << 20  # read by one call; below this a cache is no worse
_NOT_SO = (errno.EINVAL, errno.EOPNOTSUPP)


def write_all(descriptor: int, offset: int, chunk: Buffer) -> None:
    """Write every byte, or raise OSError."""
    written = os.pwrite(descriptor, chunk, offset)
    if written == len(chunk):
        return
    view = memoryview(chunk).cast("B")
    while written < len(view):
        written += os.pwrite(descriptor, view[written:], offset + written)


class DirectWriter:
    """Writes one open file; several threads may, each its own range."""

    def __init__(self, opened: int) -> None:
        """Write the file that `opened`, which stays the caller's, holds.

        Raises OSError where its file system has no writes past the cache.
        """
        self._opened = opened
        flags = os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC
        self._direct = os.open(b"/proc/self/fd/%d" % opened, flags)
        self._is_refused = False
        self._buffers: list[mmap.mmap] = []  # free ones: as many as threads ever wrote at once

    def write(self, offset: int, pieces: Sequence[Buffer]) -> None:
        """Write pieces that follow each other, all of them, or raise OSError."""
        rest = _parts(pieces)
        end = offset + sum(map(len, pieces))
        at = min(-(-offset // BLOCK_BYTES) * BLOCK_BYTES, end)
        self._write_cached(rest, offset, at)
        blocks_end = max(at, end // BLOCK_BYTES * BLOCK_BYTES)
        while at < blocks_end:
            length = min(_BUFFER_BYTES, blocks_end - at)
            self._write_blocks(rest, at, length)
            at += length
        self._write_cached(rest, at, end)

    def _write_cached(self, rest: _Rest, start: int, end: int) -> None:
        for part in _take(rest, end - start):
            write_all(self._opened, start, part)
            start += len(part)

    def _write_blocks(self, rest: _Rest, at: int, length: int) -> None:
        if self._is_refused:
            self._write_cached(rest, at, at + length)
            return
        buffer = self._buffers.pop() if self._buffers else mmap.mmap(-1, _BUFFER_BYTES)
        filled = 0
        for part in _take(rest, length):
            buffer[filled : filled + len(part)] = part
            filled += len(part)
        with memoryview(buffer) as whole, whole[:length] as blocks:
            self._put(blocks, at)
        self._buffers.append(buffer)

    def _put(self, blocks: memoryview, at: int) -> None:
        written = 0
        try:
            written = os.pwrite(self._direct, blocks, at)
        except OSError as cause:
            if cause.errno not in _NOT_SO:
                raise
            self._is_refused = True  # it let us open it so, all the same
        if written < len(blocks):
            write_all(self._opened, at + written, blocks[written:])

    def close(self) -> None:
        """Let go of the second descriptor and the buffers; no write may be under way."""
        os.close(self._direct)
        for buffer in self._buffers:
            buffer.close()
        self._buffers.clear()


def read_past_cache(opened: int, offset: int, length: int) -> Buffer | None:
    """Read up to `length` bytes, or give None: where they are cached, or cannot be read so.

    Fewer come only at the end of the file. Raises OSError.
    """
    try:
        if length < _LEAST_BYTES or syscalls.cached_pages(opened, offset, length):
            return None
        direct = os.open(b"/proc/self/fd/%d" % opened, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return None
    skipped = offset % BLOCK_BYTES
    blocks = -(-(skipped + length) // BLOCK_BYTES) * BLOCK_BYTES
    buffer = mmap.mmap(-1, blocks, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    buffer.madvise(mmap.MADV_HUGEPAGE)
    try:
        count = os.preadv(direct, (buffer,), offset - skipped)
    except OSError as cause:
        if cause.errno not in _NOT_SO:
            raise
        return None
    finally:
        os.close(direct)
    # Less is the end of the file, or a signal: who needs more reads on through the cache.
    return memoryview(buffer)[skipped : min(skipped + length, max(skipped, count))]


_Rest = list[memoryview]  # what is left of pieces, the next one last


def _parts(pieces: Sequence[Buffer]) -> _Rest:
    return [memoryview(piece).cast("B") for piece in reversed(pieces)]


def _take(rest: _Rest, length: int) -> Iterator[memoryview]:
    """Take out the next `length` bytes, in as many parts as they stand in."""
    while length:
        part = rest.pop()
        if len(part) > length:
            rest.append(part[length:])
            part = part[:length]
        length -= len(part)
        yield part
