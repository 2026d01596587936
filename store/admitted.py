"""Define what becomes of batches: what a delivery came to, and what the fold receives.

These are values; store.log makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from store.events import Event
from store.ids import AgentId, BatchId, EventId, ObjectId
from store.signing import SignedBatch


@dataclass(slots=True, kw_only=True)
class Admitted:
    """What became of a delivery."""

    stored: list[SignedBatch] = field(default_factory=list)
    applied: list[BatchId] = field(default_factory=list)
    missing: set[bytes] = field(default_factory=set)
    known: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    forked: set[AgentId] = field(default_factory=set)

    def refuse(self, reason: str) -> None:
        """Count one refusal."""
        self.refused[reason] = self.refused.get(reason, 0) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedBatch:
    """A batch that takes effect now, as the fold receives it."""

    no: int
    signed: SignedBatch
    is_void: bool
    fresh: set[bytes] = field(default_factory=set)  # objects known to be new; what is made leaves
    made: Mapping[EventId, ObjectId] = field(default_factory=dict)  # what some events create
    decoded: Sequence[Event | None] = ()  # of signed.events, None for unknown kinds; or nothing


Fold = Callable[[AppliedBatch], None]
