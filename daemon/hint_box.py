"""Hand hints from the watcher's thread to the event loop; one call wakes it for many bunches.

Nothing is judged here, and nothing is dropped: the watcher bounds what it gives.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from daemon.hints import Hint


class HintBox:
    """What the watcher saw and the loop did not take yet."""

    def __init__(self, take: Callable[[list[Hint]], None]) -> None:
        """Give all hints to `take`, on the loop that `open` is called on."""
        self._take = take
        self._lock = threading.Lock()
        self._hints: list[Hint] = []
        self._is_announced = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Begin to deliver to the running loop."""
        self._loop = asyncio.get_running_loop()

    def put(self, hints: list[Hint]) -> None:
        """Take hints, from any thread."""
        with self._lock:
            self._hints.extend(hints)
            is_announced, self._is_announced = self._is_announced, True
        if not is_announced and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            hints, self._hints = self._hints, []
            self._is_announced = False
        self._take(hints)
