"""Deliver to a node what inotify would say of its folder: late, in bunches, and not always.

It knows no more than inotify: a hint may be dropped, delayed, or drowned in an overflow, and
nothing is told of `.dizzyd`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.hints import Hint, HintKind, Watcher, WatchState

if TYPE_CHECKING:
    from asyncio import TimerHandle
    from collections.abc import Callable
    from random import Random

    from tests.sim.files import Files
    from tests.sim.loop import VirtualLoop


class MemoryWatcher:
    """Watches one folder from start to stop."""

    def __init__(
        self,
        files: Files,
        loop: VirtualLoop,
        random: Random,
        *,
        delay_s: float = 0.001,
        drop_rate: float = 0.0,
        queue_limit: int = 16_384,
    ) -> None:
        """Deliver up to `delay_s` late, losing a share of the hints in silence."""
        self.delay_s = delay_s
        self.drop_rate = drop_rate
        self.queue_limit = queue_limit
        self.state = WatchState.FULL
        self.delivered = 0
        self._files = files
        self._loop = loop
        self._random = random
        self._deliver: Callable[[list[Hint]], None] | None = None
        self._queue: list[Hint] = []
        self._timer: TimerHandle | None = None

    def start(self, deliver: Callable[[list[Hint]], None]) -> None:
        """Begin."""
        self._deliver = deliver
        self._files.observers.append(self._note)

    def stop(self) -> None:
        """End; no hint is delivered after this returned."""
        if self._deliver is not None:
            self._deliver = None
            self._files.observers.remove(self._note)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._queue.clear()

    def unwatched(self) -> list[bytes]:
        """Nothing is left to polling."""
        return []

    def overflow(self) -> None:
        """Lose all that waits, and say so, as IN_Q_OVERFLOW does."""
        if self._deliver is not None:
            self._queue = [Hint(kind=HintKind.LOST, path=b"")]
            self._arm()

    def _note(self, hint: Hint) -> None:
        if self.drop_rate and self._random.random() < self.drop_rate:
            return
        if len(self._queue) >= self.queue_limit:
            self.overflow()
            return
        if not self._queue or self._queue[-1] != hint:  # inotify merges equal neighbours
            self._queue.append(hint)
        self._arm()

    def _arm(self) -> None:
        if self._timer is None:
            delay_s = self._random.random() * self.delay_s
            self._timer = self._loop.call_later(delay_s, self._flush)

    def _flush(self) -> None:
        self._timer = None
        hints, self._queue = self._queue, []
        if self._deliver is not None and hints:
            self.delivered += len(hints)
            self._deliver(hints)


def _is_a_watcher(watcher: MemoryWatcher) -> Watcher:
    """Let the type checker hold this class to the interface."""
    return watcher
