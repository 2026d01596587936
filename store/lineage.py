"""Know the batches that a batch follows, and what it may say of itself by them.

Whether a batch is let in, waits or takes effect is store.log's to decide; nothing is written here.
"""

from __future__ import annotations

from collections.abc import Iterable

from store.access_sets import AccessSets
from store.db import Database
from store.ids import BatchId
from store.signing import SignedBatch


class Lineage:
    """The stored batches of one folder, as those that follow them see them."""

    def __init__(self, database: Database, folder_no: int, access: AccessSets) -> None:
        """Prepare; nothing is read."""
        self._db = database
        self._folder_no = folder_no
        self._access = access

    def stored(self, batch: bytes) -> tuple[int, int, int] | None:
        """Look a stored batch up: (no, is_applied, access_no)."""
        row: tuple[int, int, int] | None = self._db.execute(
            "SELECT no, is_applied, access_no FROM batch WHERE id = ?", (batch,)
        ).fetchone()
        return row

    def lamport(self, batch: bytes) -> int:
        """Give the lamport of a stored batch."""
        return int(
            self._db.execute("SELECT lamport FROM batch WHERE id = ?", (batch,)).fetchone()[0]
        )

    def past(self, batches: Iterable[bytes]) -> tuple[int, ...]:
        """List the membership batches that these and those before them know of, sorted."""
        nos: set[int] = set()
        for batch in batches:
            row = self.stored(batch)
            if row is not None:
                nos.update(self._access.get(row[2]))
        return tuple(sorted(nos))

    def has_applied_parents(self, signed: SignedBatch) -> bool:
        """Whether all that a batch follows has taken effect."""
        return all((self.stored(p) or (0, 0, 0))[1] for p in parents_of(signed))

    def broken_rule(self, signed: SignedBatch, log_no: int | None) -> str:
        """Name the rule that a batch breaks whose parents are all stored; empty if none.

        `log_no` is the number of its log, None if no batch of it is stored.
        """
        header = signed.header
        lamport = 0
        if header.prev is None:
            if header.seq != 0:
                return "bad-seq"
        else:
            row = self._db.execute(
                "SELECT log_no, seq, lamport FROM batch WHERE id = ?", (header.prev,)
            ).fetchone()
            if row[0] != log_no or row[1] + 1 != header.seq:
                return "bad-prev"
            lamport = row[2]
        for dep in header.deps:
            row = self._db.execute(
                "SELECT lamport, folder_no FROM batch WHERE id = ?", (dep,)
            ).fetchone()
            if row[1] != self._folder_no:
                return "bad-deps"
            lamport = max(lamport, row[0])
        return "" if header.lamport == lamport + 1 else "bad-lamport"


def parents_of(signed: SignedBatch) -> list[BatchId]:
    """List what a batch follows: its prev and its deps."""
    header = signed.header
    return list(header.deps) if header.prev is None else [header.prev, *header.deps]
