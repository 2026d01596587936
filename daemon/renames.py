"""Remember the renames that were hinted, each as one from where synced has the name to where it is.

It forgets what is judged; a rename that is forgotten is found by the inode all the same.
"""

from __future__ import annotations

from typing import TypeVar

from daemon.folding import folded

_REMEMBERED_LIMIT = 4096

_T = TypeVar("_T")


class Renames:
    """The renames that wait to be judged."""

    def __init__(self) -> None:
        """Begin with none."""
        self.origins: dict[bytes, bytes] = {}  # where a path came from
        self._targets: dict[bytes, bytes] = {}  # and the other way
        self._came_from: dict[bytes, bytes] = {}  # the latest renames, known or not

    def __len__(self) -> int:
        """Count them."""
        return len(self.origins)

    def note(self, origin: bytes, target: bytes) -> None:
        """Remember a rename of a known name; one back to where it was is none."""
        if origin != target:
            self.origins[target] = origin
            self._targets[origin] = target

    def has_left(self, source: bytes) -> bool:
        """Whether what synced has at a path was renamed to somewhere."""
        return source in self._targets

    def came_back(self, source: bytes, target: bytes) -> bool:
        """Note any rename; whether the latest one to `source` was from `target`.

        Or from a name that a disk may take for it: who renames spells it in a way of his own,
        and the kernel may tell either spelling.
        """
        former = self._came_from.get(source)
        remember(self._came_from, target, source)
        return former is not None and (former == target or folded(former) == folded(target))

    def is_carried(self, target: bytes, source: bytes) -> bool:
        """Whether the rename of a directory above says the same already."""
        while target and source:
            cut_target, cut_source = target.rfind(b"/"), source.rfind(b"/")
            if target[cut_target + 1 :] != source[cut_source + 1 :]:
                return False
            if cut_target < 0 or cut_source < 0:
                return False
            target, source = target[:cut_target], source[:cut_source]
            if self.origins.get(target) == source:
                return True
        return False

    def carry(self, source: bytes, target: bytes) -> None:
        """Follow a directory that we renamed: what came to a path below it is elsewhere now."""
        prefix = source + b"/"
        for path in [path for path in self.origins if path.startswith(prefix)]:
            self.note(self.origins.pop(path), target + path[len(source) :])

    def forget(self, target: bytes) -> bytes | None:
        """Forget the rename to a path; gives where it was from."""
        origin = self.origins.pop(target, None)
        if origin is not None:
            self._targets.pop(origin, None)
        return origin

    def take(self, origin: bytes) -> bytes | None:
        """Take out the rename of what stood at a path; gives where it went."""
        target = self._targets.pop(origin, None)
        if target is not None:
            self.origins.pop(target, None)
        return target

    def take_all(self) -> dict[bytes, bytes]:
        """Take out all: for each path where it came from."""
        taken, self.origins = self.origins, {}
        self._targets.clear()
        return taken


def remember(table: dict[bytes, _T], path: bytes, value: _T) -> None:
    """Keep a bounded memory: the oldest entry goes first."""
    table.pop(path, None)
    table[path] = value
    if len(table) > _REMEMBERED_LIMIT:
        del table[next(iter(table))]
