"""Remember what looks cannot read, and what they skip, until a later look finds it well.

For `status`, and to tell where a look does more than to compare; nothing is concluded from what
cannot be read. A root that cannot be read at all is daemon.folder_work's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from daemon.differences import Problem, ProblemKind
from daemon.folder_tools import Trouble
from daemon.hints import Hint, HintKind
from daemon.look_set import LookSet


class FoundProblems:
    """The names of one folder of which a look could make nothing."""

    def __init__(self, trouble: Trouble) -> None:
        """Begin with none; what cannot be read stands with the folder's other troubles."""
        self._trouble = trouble
        self.skipped: dict[bytes, ProblemKind] = {}

    def paths(self) -> Iterator[bytes]:
        """Give each path about which something is known."""
        yield from self.skipped
        yield from self._trouble.unreadable

    def forget(self, where: LookSet) -> None:
        """Forget what was wrong where a look begins; what still is wrong is found again."""
        unreadable = self._trouble.unreadable
        if where.is_full:
            unreadable.clear()
            self.skipped.clear()
            return
        looked = {*where.paths, *where.trees}
        below = tuple(tree + b"/" for tree in where.trees)
        for path in list(unreadable):
            is_listed = path.rpartition(b"/")[0] in where.directories
            if path in looked or is_listed or path.startswith(below):
                del unreadable[path]

    def forget_gone(self, hints: Sequence[Hint]) -> None:
        """Forget what was wrong under names that went: they are not looked at again."""
        unreadable = self._trouble.unreadable
        if not unreadable:
            return
        went = {hint.path for hint in hints if hint.kind is HintKind.GONE}
        went.update(hint.source for hint in hints if hint.source)
        below = tuple(path + b"/" for path in went)
        for path in list(unreadable):
            if path in went or path.startswith(below):
                del unreadable[path]

    def note(self, problems: Iterable[Problem]) -> None:
        """Note what a look found wrong."""
        for problem in problems:
            if problem.kind is ProblemKind.UNREADABLE:
                self._trouble.unreadable[problem.path] = problem.why
            else:
                self.skipped[problem.path] = problem.kind
