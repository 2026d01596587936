"""Let batches wait in memory for those that they follow, bounded for each peer that sent them.

Nothing that waits is stored (docs/decisions/0006-batches-that-wait-are-kept-in-memory.md).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

from store.admitted import Admitted
from store.ids import BatchId
from store.signing import SignedBatch

PENDING_LIMIT = 10_000  # batches that wait for others, for each peer that sent them
PENDING_IDS_LIMIT = 4 * PENDING_LIMIT  # that they wait for, together: one may name 1,024
PENDING_LIMIT_BYTES = 64 * 1024 * 1024  # of headers and bodies


class _Cost(NamedTuple):
    """What waiting batches take of the room of their source."""

    batches: int = 0
    ids: int = 0
    size: int = 0

    def plus(self, other: _Cost, sign: int = 1) -> _Cost:
        return _Cost(*(mine + sign * theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def is_too_much(self) -> bool:
        return (
            self.batches > PENDING_LIMIT
            or self.ids > PENDING_IDS_LIMIT
            or self.size > PENDING_LIMIT_BYTES
        )


@dataclass(slots=True)
class _Waiting:
    signed: SignedBatch
    source: bytes
    cost: _Cost


class WaitingRoom:
    """The batches of one folder that came before what they follow."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._waiting: dict[BatchId, _Waiting] = {}
        self._waited_for: dict[bytes, set[BatchId]] = {}
        self._cost_of: dict[bytes, _Cost] = {}
        self._missing: set[bytes] | None = None  # what missing() gave, until something changes

    def __len__(self) -> int:
        """Count what waits."""
        return len(self._waiting)

    def __contains__(self, batch: BatchId) -> bool:
        """Whether a batch waits."""
        return batch in self._waiting

    def missing(self) -> set[bytes]:
        """List the ids of batches that are waited for and do not wait themselves."""
        if self._missing is None:
            self._missing = {one for one in self._waited_for if one not in self._waiting}
        return self._missing

    def forget(self, source: bytes) -> None:
        """Drop what a peer sent."""
        for batch in [b for b, waiting in self._waiting.items() if waiting.source == source]:
            self._take(batch)

    def put(self, signed: SignedBatch, source: bytes, missing: Collection[bytes]) -> bool:
        """Let a batch wait for these; False if the room of its source is full."""
        size = len(signed.wire.header) + len(signed.body)
        waiting = _Waiting(signed, source, _Cost(1, len(missing), size))
        cost = self._cost_of.get(source, _Cost()).plus(waiting.cost)
        if cost.is_too_much:
            return False
        self._cost_of[source] = cost
        self._waiting[signed.id] = waiting
        self._missing = None
        for parent in missing:
            self._waited_for.setdefault(parent, set()).add(signed.id)
        return True

    def _take(self, batch: BatchId) -> SignedBatch:
        waiting = self._waiting.pop(batch)
        self._missing = None
        self._cost_of[waiting.source] = self._cost_of[waiting.source].plus(waiting.cost, -1)
        header = waiting.signed.header
        for parent in (*header.deps, header.prev):
            if parent is not None and parent in self._waited_for:
                self._waited_for[parent].discard(batch)
                if not self._waited_for[parent]:
                    del self._waited_for[parent]
        return waiting.signed

    def released_by(
        self, batch: BatchId, missing_parents: Callable[[SignedBatch], list[bytes]]
    ) -> list[SignedBatch]:
        """Take out what waited for a batch that is stored now, and for nothing else."""
        waiters = self._waited_for.pop(batch, set())
        self._missing = None
        ready = [waiter for waiter in waiters if not missing_parents(self._waiting[waiter].signed)]
        released = [self._take(waiter) for waiter in ready]
        return sorted(released, key=lambda one: (one.header.lamport, one.id))

    def drop_waiters(self, batch: BatchId, result: Admitted) -> None:
        """Drop everything that can never apply because `batch` was refused."""
        refused = [batch]  # a list: a chain of waiting batches can be thousands long
        while refused:
            for waiter in list(self._waited_for.get(refused.pop(), ())):
                self._take(waiter)
                result.refuse("parent-refused")
                refused.append(waiter)
