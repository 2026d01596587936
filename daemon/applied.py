"""Say what apply needs of others, and what became of a plan.

Interfaces and values; daemon.journal and daemon.contents keep the one, daemon.apply gives the
other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from msgspec import Struct, field

from daemon.disk import Stage
from daemon.outcomes import Agreed, Bundle, Displaced, Failed, Intent, Outcome, Postponed, Watch
from daemon.places import Earlier
from store.ids import BlobHash
from store.records import BlobRef


class Journal(Protocol):
    """Keeps synced, intents and watches; each call is one durable transaction."""

    async def begin(self, intents: Sequence[Intent]) -> None:
        """Make the intents durable: steps that rename, replace or remove are about to begin."""

    async def commit(self, outcomes: Sequence[Outcome]) -> None:
        """Change synced, close intents, keep watches and record displaced changes, at once.

        In order; of one Agreed the keys `gone` first. Postponed and Failed change nothing.
        """

    async def open_intents(self) -> Sequence[Intent]:
        """Give the intents that are not closed, in the order in which they were begun."""

    async def watches(self, due_ns: int) -> Sequence[Watch | Bundle]:
        """Give the watches whose look is due at this time of the wall clock."""


class Blobs(Protocol):
    """Finds contents: here, or at peers."""

    async def small(self, refs: Sequence[BlobRef]) -> dict[BlobHash, bytes]:
        """Get contents of up to 1 MiB that hash to their names; leave out what is not to be had."""

    async def large(self, ref: BlobRef, stage: Stage, old: Earlier | None) -> bool:
        """Fill a stage, which may hold a part already; `old` is the version it replaces.

        True once the whole content is there and its hash is right.
        """


class Applied(Struct):
    """What became of a plan. All of it is committed already."""

    agreed: int = 0
    displaced: list[Displaced] = field(default_factory=list)
    postponed: list[Postponed] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Count outcomes."""
        for outcome in outcomes:
            match outcome:
                case Agreed():
                    self.agreed += 1
                case Postponed():
                    self.postponed.append(outcome)
                case Failed():
                    self.failed.append(outcome)
                case Displaced():
                    self.displaced.append(outcome)
                case _:
                    pass

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to be planned again."""
        return not self.postponed and not self.failed
