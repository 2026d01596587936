"""Say what a scan asks of others: workers, the clock, and what synced has at paths of this disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from store.records import SyncedRow

P = ParamSpec("P")
T = TypeVar("T")


class Runner(Protocol):
    """Runs blocking calls away from the loop."""

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `fn` in a worker and give what it returns or raises."""


class Clock(Protocol):
    """Tells the time."""

    def now_ns(self) -> int:
        """Give the wall clock, in nanoseconds."""


class SyncedTree(Protocol):
    """What synced says, by the paths of this disk. Answers are of the moment they are given."""

    async def rows_in(self, directories: Sequence[bytes]) -> list[list[SyncedRow]]:
        """Give, for each directory path, the rows of all names that stand in it."""

    async def rows_at(self, paths: Sequence[bytes]) -> list[list[SyncedRow]]:
        """Give, for each path, the rows that stand there (several where collapsed)."""
