"""Decide how long to wait before calling again, and before answering again.

Pure: time and randomness are arguments. Nobody is ever banned: the longest wait is seconds, a
connection that merely closed is no offence, and an address from which a member came is not
delayed at all, whatever else comes from there.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

FIRST_DELAY_S: Final = 0.2
LONGEST_DELAY_S: Final = 10.0


def delay_s(failures: int, rng: Random) -> float:
    """Give the wait after so many failed calls in a row: 0.2 s doubling to 10 s, with jitter.

    The jitter takes away up to half, so that nodes which lost one another together do not come
    back together. No failures, no wait.
    """
    if failures <= 0:
        return 0.0
    longest = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(failures - 1, 10))
    return longest * (1.0 - rng.random() / 2.0)


class Reconnection:
    """The schedule of calls to one agent."""

    __slots__ = ("_failures", "_rng")

    def __init__(self, rng: Random) -> None:
        """Begin without failures: the first call is made at once."""
        self._rng = rng
        self._failures = 0

    @property
    def failures(self) -> int:
        """How many calls failed, or were cut, since the last reset."""
        return self._failures

    def next_delay_s(self) -> float:
        """Count one more failed call and say how long to wait before the next."""
        self._failures += 1
        return delay_s(self._failures, self._rng)

    def reset(self) -> None:
        """Start over: a call succeeded, the network changed, the machine woke, or they called."""
        self._failures = 0


class Offences:
    """Whom to leave alone for a while: sessions with them ended by a fault, or by a strike.

    The first costs next to nothing, each further one doubles the wait, up to 10 s; a session that
    ended well after CALM_S makes up for all. Bounded: the oldest are forgotten.
    """

    __slots__ = ("_limit", "_rng", "_since")

    def __init__(self, rng: Random, limit: int = 1024) -> None:
        """Remember at most `limit` peers."""
        self._rng = rng
        self._limit = limit
        self._since: OrderedDict[bytes, tuple[int, float]] = OrderedDict()

    def note(self, agent: bytes, now_s: float) -> None:
        """Count one more."""
        number, _ = self._since.pop(agent, (0, 0.0))
        self._since[agent] = (number + 1, now_s + delay_s(number + 1, self._rng))
        if len(self._since) > self._limit:
            self._since.popitem(last=False)

    def forgive(self, agent: bytes) -> None:
        """Forget what was: a session with it went well."""
        self._since.pop(agent, None)

    def wait_s(self, agent: bytes, now_s: float) -> float:
        """Say for how long it is still to be left alone."""
        _, until_s = self._since.get(agent, (0, now_s))
        return max(0.0, until_s - now_s)


_FREE_FAILURES: Final = 8
_FIRST_STRANGER_DELAY_S: Final = 0.05
_LONGEST_STRANGER_DELAY_S: Final = 1.0
_FORGET_S: Final = 60.0
_PROVEN_S: Final = 3600.0


class StrangerDelays:
    """How long to let callers from one address wait before TLS begins; bounded memory.

    The first few failures from an address cost nothing; then each doubles the wait, up to a
    second, until a quiet minute. A proven member lifts it for an hour.
    """

    __slots__ = ("_failures", "_limit", "_proven")

    def __init__(self, limit: int = 1024) -> None:
        """Remember at most `limit` addresses of each sort, the most recent ones."""
        self._limit = limit
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._proven: OrderedDict[str, float] = OrderedDict()

    def delay_s(self, host: str, now_s: float) -> float:
        """Say how long a caller from there has to wait now."""
        if now_s - self._proven.get(host, -_PROVEN_S) < _PROVEN_S:
            return 0.0
        failures, failed_at_s = self._failures.get(host, (0, now_s))
        excess = failures - _FREE_FAILURES
        if excess <= 0 or now_s - failed_at_s > _FORGET_S:
            return 0.0
        return min(_LONGEST_STRANGER_DELAY_S, _FIRST_STRANGER_DELAY_S * 2.0 ** min(excess - 1, 10))

    def note_failure(self, host: str, now_s: float) -> None:
        """Count a caller that proved nothing."""
        failures, failed_at_s = self._failures.pop(host, (0, now_s))
        if now_s - failed_at_s > _FORGET_S:
            failures = 0
        self._failures[host] = (failures + 1, now_s)
        if len(self._failures) > self._limit:
            self._failures.popitem(last=False)

    def note_proof(self, host: str, now_s: float) -> None:
        """Remember that a member came from there."""
        self._failures.pop(host, None)
        self._proven.pop(host, None)
        self._proven[host] = now_s
        if len(self._proven) > self._limit:
            self._proven.popitem(last=False)
