"""Read the events of one object back from the batches that hold them.

The few batches read last are kept split, since objects that were changed together are folded
together. It writes nothing and judges nothing: what an event means is for store.fold.
"""

from __future__ import annotations

from collections import OrderedDict

from msgspec import Struct

from store.codec import decode_header, split_thinned
from store.db import Database
from store.events import decode
from store.fold import Buried, Fact
from store.ids import LogId, event_id, order_key

_CACHED_BATCHES = 32


class BatchEvents(Struct, frozen=True):
    """A stored batch, split: what fold needs of it. What was left out of it is empty."""

    batch: bytes
    log: LogId
    seq: int
    lamport: int
    events: list[bytes]


class FactReader:
    """Reads facts over one connection, for whoever owns that."""

    def __init__(self, database: Database) -> None:
        """Begin with nothing kept."""
        self._db = database
        self._cache: OrderedDict[int, BatchEvents] = OrderedDict()

    def facts(self, object_no: int) -> list[Fact]:
        """Load all events of an object that take effect."""
        places = self._db.execute(
            "SELECT batch_no, position FROM event WHERE object_no = ?", (object_no,)
        ).fetchall()
        return [self.fact(batch_no, position) for batch_no, position in places]

    def fact(self, batch_no: int, position: int) -> Fact:
        """Load one event by its place."""
        stored = self._batch(batch_no)
        raw = stored.events[position]
        return Fact(
            event_id(stored.log, stored.seq, position, raw),
            order_key(stored.lamport, stored.batch, position),
            decode(raw),
        )

    def _batch(self, batch_no: int) -> BatchEvents:
        stored = self._cache.get(batch_no)
        if stored is None:
            header_bytes, body, batch, log = self._db.execute(
                "SELECT b.header, b.body, b.id, l.id FROM batch b JOIN log l ON l.no = b.log_no"
                " WHERE b.no = ?",
                (batch_no,),
            ).fetchone()
            header = decode_header(header_bytes)
            stored = BatchEvents(
                batch, log, header.seq, header.lamport, split_thinned(body, header.count)
            )
            self._cache[batch_no] = stored
            if len(self._cache) > _CACHED_BATCHES:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(batch_no)
        return stored


def buried_of(database: Database, object_no: int) -> Buried:
    """Read the marks of the versions of an object that a snapshot left out."""
    marks = database.execute(
        "SELECT event, value FROM buried WHERE object_no = ?", (object_no,)
    ).fetchall()
    return Buried(frozenset(mark[0] for mark in marks), frozenset(mark[1] for mark in marks))
