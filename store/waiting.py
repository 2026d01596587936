"""Let batches wait in memory for those that they follow, bounded for each peer that sent them.

Nothing that waits is stored (docs/decisions/0006-batches-that-wait-are-kept-in-memory.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from store.admitted import Admitted
from store.ids import BatchId
from store.signing import SignedBatch

PENDING_LIMIT = 10_000  # batches that wait for others, for each peer that sent them
PENDING_LIMIT_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class _Waiting:
    signed: SignedBatch
    source: bytes


class WaitingRoom:
    """The batches of one folder that came before what they follow."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._waiting: dict[BatchId, _Waiting] = {}
        self._waited_for: dict[bytes, set[BatchId]] = {}
        self._waiting_of: dict[bytes, tuple[int, int]] = {}

    def __len__(self) -> int:
        """Count what waits."""
        return len(self._waiting)

    def __contains__(self, batch: BatchId) -> bool:
        """Whether a batch waits."""
        return batch in self._waiting

    def missing(self) -> set[bytes]:
        """List the ids of batches that are waited for and do not wait themselves."""
        return {batch for batch in self._waited_for if batch not in self._waiting}

    def forget(self, source: bytes) -> None:
        """Drop what a peer sent."""
        for batch in [b for b, waiting in self._waiting.items() if waiting.source == source]:
            self._take(batch)

    def put(self, signed: SignedBatch, source: bytes, missing: Iterable[bytes]) -> bool:
        """Let a batch wait for these; False if the room of its source is full."""
        count, size = self._waiting_of.get(source, (0, 0))
        if count >= PENDING_LIMIT or size + len(signed.body) > PENDING_LIMIT_BYTES:
            return False
        self._waiting_of[source] = (count + 1, size + len(signed.body))
        self._waiting[signed.id] = _Waiting(signed, source)
        for parent in missing:
            self._waited_for.setdefault(parent, set()).add(signed.id)
        return True

    def _take(self, batch: BatchId) -> SignedBatch:
        waiting = self._waiting.pop(batch)
        count, size = self._waiting_of[waiting.source]
        self._waiting_of[waiting.source] = (count - 1, size - len(waiting.signed.body))
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
