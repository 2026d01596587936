"""Count the CPU seconds and the statements of stages of one thread's work."""

from __future__ import annotations

import cProfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stages:
    """CPU seconds and statements by stage; an inner stage does not count for the outer one."""

    def __init__(self, profiled: str = "", *, is_counting: bool = False) -> None:
        """Profile the stage of this name, if any."""
        self.is_counting = is_counting  # statements; it costs time
        self.cpu_s: defaultdict[str, float] = defaultdict(float)
        self.statements: Counter[str] = Counter()
        self.profile = cProfile.Profile(time.thread_time)
        self._profiled = profiled
        self._now = ""
        self._since_s = 0.0

    def count(self, _statement: str) -> None:
        """Count one statement, as SQLite's trace callback."""
        self.statements[self._now] += 1

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what the block does for this stage."""
        outer = self._enter(name)
        try:
            yield
        finally:
            self._enter(outer)

    def _enter(self, name: str) -> str:
        self.profile.disable()
        now_s = time.thread_time()
        outer, self._now = self._now, name
        self.cpu_s[outer] += now_s - self._since_s
        self._since_s = now_s
        if name and name == self._profiled:
            self.profile.enable()
        return outer
