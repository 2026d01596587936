"""Know what apply put in place itself, so that hints of it need no look.

A hint is silenced only if its path has, after the hint came, inode, size and both times of what
apply put there and synced agrees on: a look would find nothing. Whatever else stands there, what
is too fresh to be told from a write of the same instant, and every hint that says more than
"something is here" goes on to the schedule. Forgetting costs a look, never truth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from daemon.disk import Disk, DiskError, Stat
from daemon.hints import Hint, HintKind
from daemon.ignore import is_private

LIMIT = 8192  # files: about 2 MB, until their hints come


class Echoes:
    """Files that are committed and whose hints are still to come. Owned by the event loop."""

    def __init__(self) -> None:
        """Begin with none."""
        self._placed: dict[bytes, Stat] = {}

    def note(self, placed: Iterable[tuple[bytes, Stat]]) -> None:
        """Take files that synced agrees on by now; the oldest are forgotten above a limit."""
        self._placed.update(placed)
        while len(self._placed) > LIMIT:
            del self._placed[next(iter(self._placed))]

    def among(self, hints: Iterable[Hint]) -> dict[bytes, Stat]:
        """Give, and forget, those of the files that the hints may be about."""
        placed = self._placed
        if not placed:
            return {}
        return {
            hint.path: placed.pop(hint.path)
            for hint in hints
            if hint.path in placed and is_only_a_place(hint)
        }


def silenced(disk: Disk, hints: Sequence[Hint], placed: dict[bytes, Stat]) -> list[Hint]:
    """Leave out the hints of files that stand as apply put them. Blocking."""
    try:
        same = disk.standing(placed)
    except DiskError:
        return list(hints)
    return [hint for hint in hints if hint.path not in same or not is_only_a_place(hint)]


def is_only_a_place(hint: Hint) -> bool:
    """Whether a hint says no more than where to look."""
    if hint.is_directory:
        return False
    if hint.kind is HintKind.MOVED_HERE:
        return hint.source is None or is_private(hint.source)
    return hint.kind in (HintKind.APPEARED, HintKind.CHANGED)
