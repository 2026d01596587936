"""Give back to the system what an import left behind in the allocator, once there is rest.

Whether that is worth a call is decided here; it touches no memory itself.
"""

from __future__ import annotations

from collections.abc import Callable

GROWTH_BYTES = 16 * 1024 * 1024


class Memory:
    """The memory of this process, as it was when it was last given back."""

    def __init__(self, resident_bytes: Callable[[], int], give_back: Callable[[], None]) -> None:
        """Begin with what a process has that did nothing yet; two calls of the system are used."""
        self._resident_bytes = resident_bytes
        self._give_back = give_back
        self._rested_bytes = resident_bytes()

    def rested(self) -> None:
        """Note that nothing is to be done now: what grew meanwhile is garbage for the most part.

        Small saves grow nothing, so that they never pay for it (1 to 6 ms after 20,000 files).
        """
        if self._resident_bytes() < self._rested_bytes + GROWTH_BYTES:
            return
        self._give_back()
        self._rested_bytes = self._resident_bytes()
