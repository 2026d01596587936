"""Gather hints into bunches that say each thing once, in the order in which it happened.

Pure. It refuses to judge: only repetitions go, and what a rename carried away is named where it
is now. Nothing that was hinted is left without any hint.
"""

from __future__ import annotations

from daemon.hints import Hint, HintKind

_CLOSED, _APPEARED, _CHANGED = HintKind.CLOSED, HintKind.APPEARED, HintKind.CHANGED
# Said twice of one path, the stronger word stays: whole now, new, touched.
_STRENGTH = {_CHANGED: 0, _APPEARED: 1, _CLOSED: 2}


class HintBunch:
    """Hints not yet delivered. One owner."""

    def __init__(self) -> None:
        """Begin empty."""
        self._hints: list[Hint | None] = []
        self._touched: dict[bytes, int] = {}  # path: where in the list its one touch stands
        self._arrived: set[bytes] = set()

    def __bool__(self) -> bool:
        """Whether there is anything to deliver."""
        return bool(self._hints)

    def __len__(self) -> int:
        """Count the hints, those that were withdrawn included."""
        return len(self._hints)

    def touch(self, kind: HintKind, path: bytes, *, is_directory: bool = False) -> None:
        """Say that a path appeared, changed or was closed."""
        place = self._touched.get(path)
        if place is None:
            self._touched[path] = len(self._hints)
            self._hints.append(Hint(kind, path, is_directory))
            return
        before = self._hints[place]
        if before is None or _STRENGTH[kind] > _STRENGTH[before.kind]:
            self._hints[place] = Hint(kind, path, is_directory)

    def go(self, path: bytes, *, is_directory: bool = False) -> None:
        """Say that a name is gone."""
        self._withdraw(path)
        self._arrived.discard(path)
        self._hints.append(Hint(HintKind.GONE, path, is_directory))

    def move(self, path: bytes, source: bytes | None, *, is_directory: bool = False) -> None:
        """Say that a rename put a name here."""
        self._withdraw(path)
        if source is not None:
            self._withdraw(source)
        carried = self._below(source) if is_directory and source is not None else []
        self._arrived.add(path)
        self._hints.append(Hint(HintKind.MOVED_HERE, path, is_directory, source))
        for hint in carried:
            self._withdraw(hint.path)
            moved = path + hint.path[len(source or b"") :]
            self.touch(hint.kind, moved, is_directory=hint.is_directory)

    def lose(self, path: bytes) -> None:
        """Say that a tree must be scanned."""
        self._hints.append(Hint(HintKind.LOST, path, is_directory=True))

    def is_hinted(self, path: bytes) -> bool:
        """Whether this bunch leads to a look at the path anyway."""
        return path in self._touched or path in self._arrived

    def take(self) -> list[Hint]:
        """Give what has gathered, and begin anew."""
        hints = [hint for hint in self._hints if hint is not None]
        self._hints = []
        self._touched = {}
        self._arrived = set()
        return hints

    def _withdraw(self, path: bytes) -> None:
        place = self._touched.pop(path, None)
        if place is not None:
            self._hints[place] = None

    def _below(self, directory: bytes) -> list[Hint]:
        prefix = directory + b"/"
        places = [place for path, place in self._touched.items() if path.startswith(prefix)]
        return [hint for place in places if (hint := self._hints[place]) is not None]
