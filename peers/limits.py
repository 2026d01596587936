"""Keep a rate: let so many bytes a second pass, evenly, over all peers together.

It counts by the loop's time and drops nothing. Bytes are paid for before they pass: what was not
used in an idle time is lost but for BURST_S, so that the rate holds over any second.
"""

from __future__ import annotations

import asyncio
from typing import Final

BURST_S: Final = 0.05
OWED_S: Final = 1.0  # what may not wait passes on credit, as long as no more than this is owed
LEAST_SHARE_BYTES: Final = 16 * 1024


class RateLimit:
    """A token bucket in bytes; without a rate everything passes at once."""

    def __init__(self, bytes_per_s: float | None = None) -> None:
        """Begin with an idle line."""
        self._turn = asyncio.Lock()
        self._bytes_per_s = bytes_per_s
        self._free_at_s = 0.0

    @property
    def is_limited(self) -> bool:
        """Whether there is a rate."""
        return self._bytes_per_s is not None

    def change(self, bytes_per_s: float | None) -> None:
        """Set another rate; what waits passes."""
        self._bytes_per_s = bytes_per_s
        self._free_at_s = 0.0

    def share(self, size: int) -> int:
        """Say how much of that to take at once, so that nobody waits for long behind it."""
        if self._bytes_per_s is None:
            return size
        return min(size, max(LEAST_SHARE_BYTES, int(self._bytes_per_s * BURST_S)))

    async def take(self, size: int, *, may_owe: bool = False) -> None:
        """Wait until `size` bytes may pass; order among waiters is kept.

        What `may_owe` passes at once and is paid for by what comes after it.
        """
        if self._bytes_per_s is None:
            return
        if may_owe and self._free_at_s - self._now_s() <= OWED_S:
            self._charge(size)
            return
        async with self._turn:
            self._charge(size)
            # Looked at again and again: what others owe moves the moment.
            while (wait_s := self._free_at_s - self._now_s()) > 0:  # noqa: ASYNC110 - a time is awaited
                await asyncio.sleep(min(wait_s, BURST_S))

    def _charge(self, size: int) -> None:
        if self._bytes_per_s is not None:
            start_s = max(self._free_at_s, self._now_s() - BURST_S)
            self._free_at_s = start_s + size / self._bytes_per_s

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()
