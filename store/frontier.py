"""Keep the frontier of a folder: the applied batches that no other applied one names.

It is what the next batch of ours rests on, and what the end of a folder cuts at.
"""

from __future__ import annotations

from collections.abc import Sequence

from store.codec import DEPS_LIMIT
from store.db import Database
from store.events import CutPoint
from store.ids import BatchId
from store.lineage import parents_of
from store.signing import SignedBatch


class Frontier:
    """The frontier of one folder. Owned by the database thread; it is written where it changes."""

    def __init__(self, database: Database, folder_no: int) -> None:
        """Read it."""
        self._db = database
        self._folder_no = folder_no
        self.lamports: dict[BatchId, int] = dict(
            database.execute(
                "SELECT f.batch_id, b.lamport FROM frontier f JOIN batch b ON b.id = f.batch_id"
                " WHERE f.folder_no = ?",
                (folder_no,),
            )
        )

    def deps(self, prev: BatchId | None) -> tuple[BatchId, ...]:
        """Give what the next batch names beside its prev: the frontier, as far as it has room.

        Somebody with thousands of logs shall not keep us from writing; what finds no room now
        is named by later batches.
        """
        lamports = self.lamports
        open_heads = [batch for batch in lamports if batch != prev]
        if len(open_heads) > DEPS_LIMIT:
            open_heads.sort(key=lambda batch: (lamports[batch], batch), reverse=True)
        return tuple(sorted(open_heads[:DEPS_LIMIT]))

    def advance(self, signed: SignedBatch) -> None:
        """Take in a batch that takes effect; what it names is passed."""
        passed = [parent for parent in parents_of(signed) if self.lamports.pop(parent, None)]
        self._forget(passed)
        self.lamports[signed.id] = signed.header.lamport
        self._db.execute("INSERT INTO frontier VALUES (?, ?)", (self._folder_no, signed.id))

    def keep(self, batches: Sequence[bytes]) -> None:
        """Pass all but these."""
        kept = set(batches)
        passed = [batch for batch in self.lamports if batch not in kept]
        self._forget(passed)
        for batch in passed:
            del self.lamports[batch]

    def cut_points(self) -> list[CutPoint]:
        """Give where each batch of it stands in its log, oldest first."""
        lamports, points = self.lamports, []
        for batch in sorted(lamports, key=lambda batch: (lamports[batch], batch)):
            log, seq = self._db.execute(
                "SELECT l.id, b.seq FROM batch b JOIN log l ON l.no = b.log_no WHERE b.id = ?",
                (batch,),
            ).fetchone()
            points.append(CutPoint(log=log, seq=seq, batch=batch))
        return points

    def _forget(self, batches: Sequence[BatchId]) -> None:
        self._db.executemany(
            "DELETE FROM frontier WHERE folder_no = ? AND batch_id = ?",
            [(self._folder_no, batch) for batch in batches],
        )
