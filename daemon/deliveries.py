"""Keep the events of one engine that are on their way: the queue, and what comes again later.

Bounded, but drops nothing that was accepted. Who hears an event, and how, is daemon.engine's.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from daemon.activity import ActivityId, Clock
from daemon.registry import Registered
from daemon.subscription import EMISSIONS_LIMIT
from store.errors import DizzyError

QUEUE_LIMIT = 10_000
ATTEMPTS_LIMIT = 10
RETRY_FIRST_S = 0.2
RETRY_LONGEST_S = 60.0


class QueueFull(DizzyError):
    """The engine holds as many events as it may; come again when it has worked some off."""


@dataclass(slots=True, eq=False)
class Delivery:
    """An event on its way: to all who hear it, or (`only`) to one policy.

    `owed` holds the activity ids of persistent policies that the journal already knows.
    """

    event: object
    correlation: ActivityId
    causation: ActivityId | None
    projected: bool = False
    owed: dict[str, ActivityId] | None = None
    only: Registered | None = None
    activity: ActivityId | None = None
    attempt: int = 1


class Deliveries:
    """What waits, in the order of release; a failed one waits beside it until it is due."""

    __slots__ = ("_clock", "_limit", "_queue", "_retries", "_retry_order", "peak")

    def __init__(self, clock: Clock, limit: int) -> None:
        """Begin empty; sources are refused at the limit."""
        self._clock = clock
        self._limit = limit
        self._queue: deque[Delivery] = deque()
        self._retries: list[tuple[float, int, Delivery]] = []
        self._retry_order = 0
        self.peak = 0  # the greatest depth so far

    @property
    def depth(self) -> int:
        """How many wait, those to be tried again included."""
        return len(self._queue) + len(self._retries)

    @property
    def is_pressed(self) -> bool:
        """Whether more than three quarters of the limit are taken: sources should wait."""
        return self.depth * 4 > self._limit * 3

    def check_source(self) -> None:
        """Raise QueueFull where a source may hand in nothing more."""
        if self.depth >= self._limit:
            raise QueueFull("engine", f"{self.depth} events wait")

    def check_room(self, count: int) -> None:
        """Fail a run of a runaway chain before it commits what could not be queued.

        Sources are held back at the limit, what follows from their events is not: two that each
        need the other's room would never end. So there is room for one full outbox more.
        """
        if count and self.depth + count > self._limit + EMISSIONS_LIMIT:
            raise QueueFull("engine", f"{self.depth} events wait, {count} more came of one run")

    def add(self, deliveries: Iterable[Delivery]) -> None:
        """Put some at the end."""
        self._queue.extend(deliveries)
        self.peak = max(self.peak, self.depth)

    def retry(self, delivery: Delivery, failed_attempt: int) -> float | None:
        """Have a failed one come again; give in how many seconds, None after the last attempt."""
        if failed_attempt >= ATTEMPTS_LIMIT:
            return None
        retry_in_s: float = min(RETRY_FIRST_S * 2 ** (failed_attempt - 1), RETRY_LONGEST_S)
        delivery.attempt = failed_attempt + 1
        self._retry_order += 1
        due_s = self._clock.monotonic_s() + retry_in_s
        heapq.heappush(self._retries, (due_s, self._retry_order, delivery))
        self.peak = max(self.peak, self.depth)
        return retry_in_s

    def take(self) -> Delivery | None:
        """Take what is next: what is due again first; None if there is nothing to do now."""
        if self._retries and self._retries[0][0] <= self._clock.monotonic_s():
            return heapq.heappop(self._retries)[2]
        return self._queue.popleft() if self._queue else None

    def next_due_s(self) -> float | None:
        """Seconds until there is one: 0 if there is now, None if only new ones bring some."""
        if self._queue:
            return 0.0
        if not self._retries:
            return None
        return max(0.0, self._retries[0][0] - self._clock.monotonic_s())
