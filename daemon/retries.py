"""Remember which objects are planned again later, and when.

What failed is tried again after a delay that doubles; what no peer at hand has, once somebody may
have it: word of that may come while a plan is still under way, and counts for it. Pure but for
the time that is handed in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FIRST_S = 0.05
LONGEST_S = 5.0
AWAY_S = 10.0
CALLED_LIMIT = 20_000


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
        self._away: dict[bytes, set[int]] = {}  # by content
        self._away_due_s = 0.0
        self._calls = 0
        self._all_called = 0  # the last call that was for everything
        self._called: OrderedDict[bytes, int] = OrderedDict()  # and for single contents

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._waiting or self._away)

    @property
    def objects(self) -> set[int]:
        """Everything that waits."""
        return set(self._waiting).union(*self._away.values())

    @property
    def next_due_s(self) -> float | None:
        """When something is due; None if nothing waits."""
        due_s = [retry.due_s for retry in self._waiting.values()]
        if self._away:
            due_s.append(self._away_due_s)
        return min(due_s, default=None)

    @property
    def calls(self) -> int:
        """How often was called back until now; a plan that begins remembers it."""
        return self._calls

    def take_due(self, now_s: float) -> list[int]:
        """Take what is due now."""
        due = [no for no, retry in self._waiting.items() if retry.due_s <= now_s]
        for no in due:
            self._delays[no] = self._waiting.pop(no).delay_s
        return due

    def put(self, objects: Iterable[int], now_s: float, first_s: float = FIRST_S) -> None:
        """Try again after `first_s`, or twice as late as the last time."""
        for no in objects:
            delay_s = max(first_s, min(2 * self._delays.pop(no, 0.0), LONGEST_S))
            self._waiting[no] = _Retry(now_s + delay_s, delay_s)

    def hasten(self, objects: Iterable[int], due_s: float) -> None:
        """Try those of them that wait at this time, if they would wait longer."""
        for no in objects:
            if no in self._waiting:
                self._waiting[no].due_s = min(self._waiting[no].due_s, due_s)

    def succeeded(self, objects: Iterable[int]) -> None:
        """Forget the delays of what is done."""
        for no in objects:
            self._delays.pop(no, None)

    def put_away(self, objects: Sequence[int], content: bytes, now_s: float, *, since: int) -> None:
        """Wait until a peer may have the content; `since` is `calls` as the plan began."""
        if self._all_called > since or self._called.get(content, 0) > since:
            self._waiting.update((no, _Retry(now_s, FIRST_S)) for no in objects)
            return
        if not self._away:
            self._away_due_s = now_s + AWAY_S
        self._away.setdefault(content, set()).update(objects)

    def is_away_due(self, now_s: float) -> bool:
        """Whether what no peer had is to be asked for once more."""
        return bool(self._away) and self._away_due_s <= now_s

    def call_back(self, contents: Sequence[bytes] | None = None) -> bool:
        """Make what waits for these contents, or for any, due at once; whether there was some."""
        self._calls += 1
        if contents is None:
            self._all_called = self._calls
            self._called.clear()
            contents = list(self._away)
        else:
            self._note_called(contents)
        found = [self._away.pop(content) for content in contents if content in self._away]
        for objects in found:
            self._waiting.update((no, _Retry(0.0, FIRST_S)) for no in sorted(objects))
        return bool(found)

    def _note_called(self, contents: Sequence[bytes]) -> None:
        for content in contents:
            self._called.pop(content, None)
            self._called[content] = self._calls
        while len(self._called) > CALLED_LIMIT:
            self._called.popitem(last=False)
