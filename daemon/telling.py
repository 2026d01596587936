"""Tell middleware and the second engine about each run: what went in, came out, or failed.

Telling never changes what is told: only a middleware's `before` and `after` can fail a run, and
nothing here stops the work. What ended inside a transaction is kept back until it is committed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from daemon.activity import ActivityEnded, ActivityFailed, ActivityStarted, Clock, Run

logger = logging.getLogger(__name__)

_STEPS_LIMIT = 10_000  # of the second engine after one run of the first


class Middleware(Protocol):
    """Sees every run from both sides.

    `before` and `after` are called inside the run's transaction and may fail the run by
    raising. `failed` is called once the run was undone; what it raises is only logged.
    """

    def before(self, run: Run) -> None:
        """See the input."""

    def after(self, run: Run, emitted: Sequence[object]) -> None:
        """See the outputs, before they are committed and released."""

    def failed(self, run: Run, error: Exception) -> None:
        """See why it was undone."""


class SecondEngine(Protocol):
    """What telling needs of the engine that hears of activities."""

    @property
    def has_listeners(self) -> bool:
        """Whether anybody hears anything there."""

    def post(self, event: object) -> object:
        """Take an event."""

    def run_until_idle(self, *, steps_limit: int | None = None) -> int:
        """Carry events to their listeners."""


class Telling:
    """What one engine says about its runs."""

    __slots__ = ("_clock", "_ended", "_middleware", "_second", "failures")

    def __init__(
        self, clock: Clock, middleware: Sequence[Middleware], second: SecondEngine | None
    ) -> None:
        """Begin with nothing told."""
        self._clock = clock
        self._middleware = tuple(middleware)
        self._second = second
        self._ended: list[ActivityEnded] = []
        self.failures = 0

    @property
    def has_second(self) -> bool:
        """Whether runs are told on a second engine."""
        return self._second is not None

    @property
    def _is_heard(self) -> bool:
        return self._second is not None and self._second.has_listeners

    def start(self, run: Run) -> None:
        """Say that a run begins; a middleware may raise."""
        if self._is_heard:
            self._post(ActivityStarted(run=run, at_ns=self._clock.now_ns()))
        for middleware in self._middleware:
            middleware.before(run)

    def show_outputs(self, run: Run, emitted: Sequence[object]) -> None:
        """Show what a run emitted before it is committed; a middleware may raise."""
        for middleware in self._middleware:
            middleware.after(run, emitted)

    def end(self, run: Run, emitted: Sequence[object]) -> None:
        """Say that a run ended, once `flush` is called."""
        if self._is_heard:
            now_ns = self._clock.now_ns()
            self._ended.append(ActivityEnded(run=run, at_ns=now_ns, emitted=tuple(emitted)))

    def mark(self) -> int:
        """Give the place to which `undo` returns."""
        return len(self._ended)

    def undo(self, mark: int, error: Exception) -> None:
        """Turn the ends since the mark into failures: their transaction was undone."""
        undone = self._ended[mark:]
        del self._ended[mark:]
        for ended in undone:
            self._post_failed(ended.run, f"undone with {describe(error)}", None)

    def fail(self, run: Run, error: Exception, retry_in_s: float | None) -> None:
        """Say that a run was undone; never fails, whatever error, hooks or listeners do."""
        self.failures += 1
        why = describe(error)
        logger.warning(
            "listener failed listener=%s event=%s attempt=%d why=%r",
            run.listener,
            type(run.event).__name__,
            run.attempt,
            why,
            exc_info=error if logger.isEnabledFor(logging.DEBUG) else None,
        )
        for middleware in self._middleware:
            try:
                middleware.failed(run, error)
            except Exception as second:  # noqa: BLE001 - recording must not fail
                logger.warning("middleware failed why=%r", describe(second))
        if self._is_heard:
            self._post_failed(run, why, retry_in_s)

    def flush(self) -> None:
        """Let the second engine run; to be called when no transaction is open."""
        if self._second is None or not self._is_heard:
            return
        for ended in self._ended:
            self._post(ended)
        self._ended.clear()
        self._second.run_until_idle(steps_limit=_STEPS_LIMIT)

    def _post_failed(self, run: Run, why: str, retry_in_s: float | None) -> None:
        now_ns = self._clock.now_ns()
        self._post(ActivityFailed(run=run, at_ns=now_ns, why=why, retry_in_s=retry_in_s))

    def _post(self, told: object) -> None:
        assert self._second is not None
        try:
            self._second.post(told)
        except Exception as error:  # noqa: BLE001 - observation never stops the work
            logger.warning("activity not told why=%r", describe(error))


def describe(error: BaseException) -> str:
    """Say what an error is, also one whose own words fail."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - __str__ of a stranger
        return type(error).__name__
