"""Name activities: each run of a listener, from its start to its end or failure.

An activity's id is a UUIDv7, made before anything is emitted about it, so that whoever refers
to it need not ask who numbered it. What is told about activities goes to an engine of its own,
which has no activities: watching never makes more to watch. Nothing here decides what runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NewType, Protocol

ActivityId = NewType("ActivityId", bytes)  # 16 bytes: a UUIDv7 (RFC 9562, 5.7)

_RANDOM_BITS = 74
_RANDOM_BYTES = 10
_RANDOM_MASK: Final = (1 << _RANDOM_BITS) - 1
_LOW_BITS = 62
_LOW_MASK: Final = (1 << _LOW_BITS) - 1
_VERSION: Final = 0x7 << 76
_VARIANT: Final = 0b10 << 62
_NS_PER_MS = 1_000_000


class Clock(Protocol):
    """Tells time; the real one in the daemon, a virtual one in tests."""

    def now_ns(self) -> int:
        """Wall clock: nanoseconds since 1970. May jump either way."""

    def monotonic_s(self) -> float:
        """Seconds since some moment; never goes back."""


class ActivityIds:
    """Makes ids that sort in the order in which this object made them.

    Several processes need no agreement: within a millisecond an id counts up from 74 random
    bits. A wall clock that goes back does not bring an id back. Not for several threads.
    """

    __slots__ = ("_clock", "_last_ms", "_random", "_random_bytes")

    def __init__(self, clock: Clock, random_bytes: Callable[[int], bytes]) -> None:
        """Take a clock and a source of random bytes, such as os.urandom."""
        self._clock = clock
        self._random_bytes = random_bytes
        self._last_ms = -1
        self._random = 0

    def make(self) -> ActivityId:
        """Make the next id."""
        now_ms = self._clock.now_ns() // _NS_PER_MS
        if now_ms > self._last_ms:
            self._last_ms = now_ms
            self._random = int.from_bytes(self._random_bytes(_RANDOM_BYTES), "big") & _RANDOM_MASK
        else:
            self._random += 1
            if self._random > _RANDOM_MASK:
                self._random = 0
                self._last_ms += 1
        # 48 bits of milliseconds, 4 of version, 12 random, 2 of variant, 62 random = 128
        return ActivityId(
            (
                (self._last_ms & 0xFFFF_FFFF_FFFF) << 80
                | _VERSION
                | (self._random >> _LOW_BITS) << 64
                | _VARIANT
                | (self._random & _LOW_MASK)
            ).to_bytes(16, "big")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One activity: which listener runs on which event, and why.

    `correlation` is the same for all that follows from one first event; `causation` is the
    activity that emitted the event, absent where it came from outside the engine. `attempt`
    counts from 1; a further attempt is the same activity.
    """

    activity: ActivityId
    listener: str
    event: object
    correlation: ActivityId
    causation: ActivityId | None
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityStarted:
    """A listener began to run."""

    run: Run
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityEnded:
    """A listener returned, its transaction is committed, and what it emitted is released."""

    run: Run
    at_ns: int
    emitted: tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityFailed:
    """A run was undone, with all it emitted; it comes again in `retry_in_s`, or never if None.

    A projection has no retry of its own: it runs again with what it observes.
    """

    run: Run
    at_ns: int
    why: str
    retry_in_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A run of a persistent policy that is owed, as the journal keeps it."""

    activity: ActivityId
    listener: str
    event: object
    correlation: ActivityId
    causation: ActivityId | None


class ActivityJournal(Protocol):
    """Remembers across restarts which runs of persistent policies are owed.

    `begin` and `end` are called inside a transaction of the engine and must take part in it.
    """

    def begin(self, begun: Begun) -> None:
        """Keep it until `end`; once committed, it will run, whatever happens."""

    def end(self, activity: ActivityId) -> None:
        """Forget it, in the transaction that holds all that it did."""

    def unfinished(self) -> Iterable[Begun]:
        """Give what began and did not end, oldest first."""
