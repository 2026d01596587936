"""Speak inotify with the kernel: what it is asked to watch, and its events as it tells them.

Nothing is concluded here; which directory a watch stands for is the caller's to know.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from daemon import syscalls

if TYPE_CHECKING:
    from collections.abc import Iterator

IN_MODIFY = 0x2
IN_ATTRIB = 0x4
IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_UNMOUNT = 0x2000
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x1000000
IN_EXCL_UNLINK = 0x4000000
IN_ISDIR = 0x40000000

WATCHED = (
    IN_MODIFY
    | IN_ATTRIB
    | IN_CLOSE_WRITE
    | IN_MOVED_FROM
    | IN_MOVED_TO
    | IN_CREATE
    | IN_DELETE
    | IN_ONLYDIR
    | IN_EXCL_UNLINK
)
WATCHED_ROOT = WATCHED | IN_DELETE_SELF | IN_MOVE_SELF
WATCHED_PRIVATE = IN_MOVED_FROM | IN_MOVED_TO | IN_ONLYDIR

_HEADER = struct.Struct("iIII")  # watch 4, mask 4, cookie 4, length of the name 4: sum 16
_READ_BYTES = 64 << 10


class Inotify:
    """One inotify instance of the kernel."""

    def __init__(self) -> None:
        """Open it. Raises OSError: EMFILE at the limit of instances."""
        self.descriptor = syscalls.inotify_init()

    def add(self, path: bytes, mask: int) -> int:
        """Watch a directory; an already watched inode gives the same number again."""
        return syscalls.inotify_add(self.descriptor, path, mask)

    def remove(self, watch: int) -> None:
        """Stop a watch; no error if it is gone."""
        syscalls.inotify_remove(self.descriptor, watch)

    def read(self) -> bytes:
        """Give whole events, nothing if there are none now."""
        try:
            return os.read(self.descriptor, _READ_BYTES)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """End it and all its watches."""
        os.close(self.descriptor)


def parse(events: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Give each event of what was read, as watch, mask, cookie and name (which may be empty)."""
    offset, end = 0, len(events)
    unpack = _HEADER.unpack_from
    while offset < end:
        watch, mask, cookie, length = unpack(events, offset)
        offset += 16
        name = events[offset : offset + length].rstrip(b"\0") if length else b""
        offset += length
        yield watch, mask, cookie, name
