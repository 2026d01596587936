"""Remember which objects are planned again later, and when.

What failed is tried again after a delay that doubles; what no peer at hand has, once somebody may
have it. Pure but for the time that is handed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FIRST_S = 0.05
LONGEST_S = 5.0
AWAY_S = 10.0


@dataclass(slots=True)
class _Retry:
    due_s: float
    delay_s: float


class Retries:
    """Objects that wait for another try."""

    def __init__(self) -> None:
        """Begin with none."""
        self._waiting: dict[int, _Retry] = {}
        self._delays: dict[int, float] = {}  # of what is being tried again just now
        self._away: set[int] = set()
        self._away_due_s = 0.0

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._waiting or self._away)

    @property
    def objects(self) -> set[int]:
        """Everything that waits."""
        return self._away.union(self._waiting)

    @property
    def next_due_s(self) -> float | None:
        """When something is due; None if nothing waits."""
        due_s = [retry.due_s for retry in self._waiting.values()]
        if self._away:
            due_s.append(self._away_due_s)
        return min(due_s, default=None)

    def take_due(self, now_s: float) -> list[int]:
        """Take what is due now."""
        due = [no for no, retry in self._waiting.items() if retry.due_s <= now_s]
        for no in due:
            self._delays[no] = self._waiting.pop(no).delay_s
        return due

    def put(self, objects: Iterable[int], now_s: float, first_s: float = FIRST_S) -> None:
        """Try again after `first_s`, or twice as late as the last time."""
        for no in objects:
            delay_s = min(max(first_s, 2 * self._delays.pop(no, 0.0)), LONGEST_S)
            self._waiting[no] = _Retry(now_s + delay_s, delay_s)

    def succeeded(self, objects: Iterable[int]) -> None:
        """Forget the delays of what is done."""
        for no in objects:
            self._delays.pop(no, None)

    def put_away(self, objects: Sequence[int], now_s: float) -> None:
        """Wait until a peer may have the content."""
        if not self._away:
            self._away_due_s = now_s + AWAY_S
        self._away.update(objects)

    def is_away_due(self, now_s: float) -> bool:
        """Whether what no peer had is to be asked for once more."""
        return bool(self._away) and self._away_due_s <= now_s

    def call_back(self) -> bool:
        """Make what no peer had due at once; whether there was anything."""
        if not self._away:
            return False
        self._waiting.update((no, _Retry(0.0, FIRST_S)) for no in self._away)
        self._away.clear()
        return True
