"""Remember which files are being written without a rest: they are not shared until they rest.

For status alone: it decides nothing about when to look (daemon.looks) or what to publish.
"""

from __future__ import annotations

from collections.abc import Iterable

from daemon.look_set import Again, AgainReason, LookSet, parent_of

RESTLESS_S = 5.0  # a file that is written for so long is worth a word


class Restless:
    """The files of one folder that changed at every look so far, and since when."""

    def __init__(self) -> None:
        """Begin with none."""
        self._since_s: dict[bytes, float] = {}
        self._looked_at: set[bytes] = set()

    def begin(self, where: LookSet) -> None:
        """Note where a look goes: what it does not find changing has come to rest, or is gone."""
        self._looked_at = {path for path in self._since_s if _is_within(path, where)}

    def note(self, agains: Iterable[Again], now_s: float) -> None:
        """Note what a look found changing."""
        for again in agains:
            if again.reason is AgainReason.CHANGING:
                self._since_s.setdefault(again.path, now_s)
                self._looked_at.discard(again.path)

    def end(self) -> None:
        """Forget what the look that ended did not find changing."""
        for path in self._looked_at:
            self._since_s.pop(path, None)
        self._looked_at.clear()

    def named(self, now_s: float) -> list[bytes]:
        """List, sorted, what has been changing for RESTLESS_S."""
        return sorted(p for p, since_s in self._since_s.items() if now_s - since_s >= RESTLESS_S)


def _is_within(path: bytes, where: LookSet) -> bool:
    return (
        where.is_full
        or path in where.paths
        or parent_of(path) in where.directories
        or any(path == tree or path.startswith(tree + b"/") for tree in where.trees)
    )
