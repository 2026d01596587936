"""Read a piece of a file, and nothing of another that took its name.

What is not the file that the caller expects, or became another while it was read, gives nothing.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, TypeVar

from daemon.disk import FileKind
from daemon.fs_below import kind_of, stat_of
from daemon.fs_direct import read_past_cache

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.disk import Buffer, Stat

T = TypeVar("T")
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def read_at(directory: int, name: bytes, offset: int, length: int, expected: Stat | None) -> bytes:
    """Read a piece of a file by name. Raises OSError (ENOENT if it is not the `expected` one)."""
    return _read_by(read_fully, directory, name, offset, length, expected)


def read_once_at(
    directory: int, name: bytes, offset: int, length: int, expected: Stat | None
) -> Buffer:
    """Read as read_at does; what is not in the page cache is not brought there, if possible."""
    return _read_by(_read_once, directory, name, offset, length, expected)


def _read_by(  # noqa: PLR0917 - that of read_at
    read: Callable[[int, int, int], T],
    directory: int,
    name: bytes,
    offset: int,
    length: int,
    expected: Stat | None,
) -> T:
    if kind_of(os.stat(name, dir_fd=directory, follow_symlinks=False)) is not FileKind.FILE:
        raise OSError(errno.ENOENT, "is no file (any more)")
    opened = os.open(name, READ, dir_fd=directory)
    try:
        _check_same(opened, expected)
        content = read(opened, offset, length)
        _check_same(opened, expected)  # else it was written to meanwhile: torn, perhaps
        return content
    finally:
        os.close(opened)


def _check_same(opened: int, expected: Stat | None) -> None:
    if expected is None:
        return
    found = stat_of(os.fstat(opened), FileKind.FILE)
    if (found.inode, found.size, found.mtime_ns) != (
        expected.inode,
        expected.size,
        expected.mtime_ns,
    ):
        raise OSError(errno.ENOENT, "another file stands there now")


def _read_once(opened: int, offset: int, length: int) -> Buffer:
    piece = read_past_cache(opened, offset, length)
    if piece is None:
        return read_fully(opened, offset, length)
    missing = length - len(piece)
    return piece if not missing else bytes(piece) + read_fully(opened, offset + len(piece), missing)


def read_fully(opened: int, offset: int, length: int) -> bytes:
    """Read `length` bytes at an offset, or as many as there are. Raises OSError."""
    piece = os.pread(opened, length, offset)
    if len(piece) == length or not piece:
        return piece
    pieces = [piece]
    total = len(piece)
    while total < length:
        piece = os.pread(opened, length - total, offset + total)
        if not piece:
            break
        pieces.append(piece)
        total += len(piece)
    return b"".join(pieces)
