"""Read a piece of a file, and nothing of another that took its name.

What is not the file that the caller expects, or became another while it was read, gives nothing.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from daemon.disk import FileKind
from daemon.fs_below import kind_of, stat_of

if TYPE_CHECKING:
    from daemon.disk import Stat

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def read_at(directory: int, name: bytes, offset: int, length: int, expected: Stat | None) -> bytes:
    """Read a piece of a file by name. Raises OSError (ENOENT if it is not the `expected` one)."""
    if kind_of(os.stat(name, dir_fd=directory, follow_symlinks=False)) is not FileKind.FILE:
        raise OSError(errno.ENOENT, "is no file (any more)")
    opened = os.open(name, READ, dir_fd=directory)
    try:
        _check_same(opened, expected)
        content = read_fully(opened, offset, length)
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
