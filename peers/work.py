"""Bound the work that one peer can cause by short questions, over all its links together.

Honest use stays far below it: a list is worked out once and kept, and a difference is asked for
once for each edit. Whoever asks for more waits; nobody else waits with it, and nothing is refused.
"""

from __future__ import annotations

import asyncio
from typing import Final

RATE_BYTES_PER_S: Final = 64 * 1024 * 1024  # read and cut: about a tenth of one processor
CREDIT_BYTES: Final = 4 * 1024 * 1024 * 1024  # what may be done at once after a rest
LINE_BYTES: Final = 256  # what a line of a kept list costs, in bytes that are read and cut


class WorkBudget:
    """The work done for one agent, in bytes that were read and cut for it."""

    def __init__(
        self, bytes_per_s: float = RATE_BYTES_PER_S, credit_bytes: float = CREDIT_BYTES
    ) -> None:
        """Begin with all of the credit."""
        self._bytes_per_s = bytes_per_s
        self._credit_s = credit_bytes / bytes_per_s
        self._free_at_s = float("-inf")

    async def take(self, size: int) -> None:
        """Pay for so much work, and wait until what was paid for is earned."""
        loop = asyncio.get_running_loop()
        start_s = max(self._free_at_s, loop.time() - self._credit_s)
        self._free_at_s = start_s + size / self._bytes_per_s
        wait_s = self._free_at_s - loop.time()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
