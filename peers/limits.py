"""Keep a rate: let so many bytes a second pass, in bursts of at most one second.

It counts by the loop's time and drops nothing.
"""

from __future__ import annotations

import asyncio


class RateLimit:
    """A token bucket in bytes; without a rate everything passes at once."""

    def __init__(self, bytes_per_s: float | None = None) -> None:
        """Begin with a full bucket."""
        self._bytes_per_s = bytes_per_s
        self._free_at_s = 0.0

    def change(self, bytes_per_s: float | None) -> None:
        """Set another rate; what waits now still waits by the old one."""
        self._bytes_per_s = bytes_per_s
        self._free_at_s = 0.0

    async def take(self, size: int) -> None:
        """Wait until `size` bytes may pass; order among waiters is kept."""
        if self._bytes_per_s is None:
            return
        now_s = asyncio.get_running_loop().time()
        start_s = max(self._free_at_s, now_s - 1.0)
        self._free_at_s = start_s + size / self._bytes_per_s
        if self._free_at_s > now_s:
            await asyncio.sleep(self._free_at_s - now_s)
