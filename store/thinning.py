"""Find the events of a log that can have no effect any more, whatever comes yet.

It judges from newest to oldest, in one pass, by events and verdicts alone; it removes nothing,
and it reads no state. What it leaves out, no later fold misses:

- events of batches whose author had not the role: that verdict rests on their past, which is
  fixed;
- executable bits, times and tags that a settled event of the same kind set later. Settled is
  what the owner's log rests on: the end of a folder is the owner's act and never cuts it off.

Versions, moves and deletions all stay: a batch of somebody who was away may still name them in
its prev. So does all about the folder.
"""

from __future__ import annotations

from collections.abc import Sequence

from store.codec import Header
from store.db import scratch_database
from store.events import AttributesChanged, Tagged, Untagged, decode, tag_of
from store.ids import AgentId, BatchId
from store.log import RULED_OUT

_ATTRIBUTES, _TAGGED, _UNTAGGED = 5, 6, 7
_MODE, _MTIME, _TAG = b"\0", b"\1", b"\2"


class Thinning:
    """One pass over the applied batches of a folder, newest first by (lamport, batch id)."""

    def __init__(self, owner: AgentId | None) -> None:
        """Begin; without an owner nothing is settled. close() when done."""
        self._owner = owner
        self._settled: set[BatchId] = set()  # named by what is settled, and still to come
        self._db = scratch_database()
        self._db.execute("CREATE TABLE later (what BLOB PRIMARY KEY) WITHOUT ROWID")

    def close(self) -> None:
        """Let go of what was remembered."""
        self._db.connection.close()

    def left_out(
        self, batch: BatchId, header: Header, events: Sequence[bytes], verdict: int
    ) -> frozenset[int]:
        """Give the positions in the next batch whose events have no effect any more.

        `verdict` is 0 where the batch counts (store.tables.Batch.is_void). Batches about the
        folder are whole: they pass through settles() instead.
        """
        is_settled = self.settles(batch, header)
        if verdict == RULED_OUT:
            return frozenset(range(len(events)))
        lost = []
        for position in range(len(events) - 1, -1, -1):
            what = _set_by(events[position])
            if what and self._are_set_later(what):
                lost.append(position)
            elif what and is_settled and not verdict:
                self._db.executemany(
                    "INSERT OR IGNORE INTO later VALUES (?)", [(one,) for one in what]
                )
        return frozenset(lost)

    def settles(self, batch: BatchId, header: Header) -> bool:
        """Whether the next batch is settled, which what it rests on then is too."""
        if header.agent != self._owner and batch not in self._settled:
            return False
        self._settled.discard(batch)
        self._settled.update(header.deps)
        if header.prev is not None:
            self._settled.add(header.prev)
        return True

    def _are_set_later(self, what: Sequence[bytes]) -> bool:
        return all(
            self._db.execute("SELECT 1 FROM later WHERE what = ?", (one,)).fetchone()
            for one in what
        )


def _set_by(event: bytes) -> list[bytes]:
    """Name what an event sets whose last writer wins; nothing for all other events."""
    if not event or tag_of(event) not in (_ATTRIBUTES, _TAGGED, _UNTAGGED):
        return []
    fact = decode(event)
    if isinstance(fact, Tagged | Untagged):
        return [_TAG + fact.object + fact.tag]
    if not isinstance(fact, AttributesChanged):
        return []
    fields = ((_MODE, fact.mode), (_MTIME, fact.mtime_ns))
    return [register + fact.object for register, value in fields if value is not None]
