"""Lend buffers for large frames, and lend them again once nobody looks at what they held.

Memory that is asked for anew for each frame is new to the kernel too: a tenth of what receiving
cost. Nobody gives anything back: as long as a view of a buffer is left, it is not lent again.
"""

from __future__ import annotations

from collections import deque
from typing import Final

LENT_LIMIT: Final = 64  # of which something is known here: what a window of contents fills
FREE_LIMIT: Final = 8
_TRIES: Final = 2


class Rooms:
    """Buffers of one size, for one connection."""

    def __init__(self, size_bytes: int) -> None:
        """Begin with none."""
        self._size_bytes = size_bytes
        self._lent: deque[bytearray] = deque(maxlen=LENT_LIMIT)  # what falls out is used up
        self._free: list[bytearray] = []

    def take(self) -> memoryview:
        """Give a buffer that nobody else looks at; what it holds is old."""
        self._take_back()
        room = self._free.pop() if self._free else bytearray(self._size_bytes)
        self._lent.append(room)
        return memoryview(room)

    def forget(self) -> None:
        """Let go of all memory that is not in use."""
        self._lent.clear()
        self._free.clear()

    def _take_back(self) -> None:
        for _ in range(min(_TRIES, len(self._lent))):
            room = self._lent.popleft()
            if _is_viewed(room):
                self._lent.append(room)
            elif len(self._free) < FREE_LIMIT:
                self._free.append(room)


def _is_viewed(room: bytearray) -> bool:
    """Whether a view of it is left: then its size cannot change."""
    try:
        room.append(0)
    except BufferError:
        return True
    room.pop()
    return False
