"""Read what a folder's logs are when it is opened, at a cost that hardly knows their length.

A log of a million batches is one walk over one index here, 30 ms; nothing reads headers but the
branches of a forked log. It decides nothing and writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from store.codec import decode_header
from store.db import Database
from store.ids import ID_BYTES, AgentId, BatchId, Epoch, LogId
from store.signing import SignedBatch, WireBatch, verify

_NUMBER_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LogHead:
    """The newest stored batch of one branch of one log."""

    log: LogId
    agent: AgentId
    epoch: Epoch
    seq: int
    batch: BatchId


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownLogs:
    """The logs of a folder: their numbers here, their heads, and how many batches they have."""

    numbers: dict[LogId, int]
    heads: dict[BatchId, LogHead]
    batches: int


def restored(database: Database, folder_no: int) -> tuple[int, tuple[BatchId, ...]]:
    """Give the number of the last batch that came with a snapshot, 0 if none; and its frontier."""
    noted = database.meta(f"restored/{folder_no}")
    if noted is None:
        return 0, ()
    starts = range(_NUMBER_BYTES, len(noted), ID_BYTES)
    frontier = tuple(BatchId(noted[start : start + ID_BYTES]) for start in starts)
    return int.from_bytes(noted[:_NUMBER_BYTES], "big"), frontier


def note_restored(
    database: Database, folder_no: int, batch_no: int, frontier: Sequence[bytes]
) -> None:
    """Remember what came with a snapshot: its last batch, and those that nothing of it names."""
    noted = batch_no.to_bytes(_NUMBER_BYTES, "big") + b"".join(frontier)
    database.set_meta(f"restored/{folder_no}", noted)


def known_logs(database: Database, folder_no: int, restored_no: int) -> KnownLogs:
    """Read the heads of all logs of a folder; batches up to `restored_no` came with a snapshot.

    A batch is stored after its prev. So a log with as many batches as its greatest seq says has
    one branch, and that batch is its head.
    """
    numbers: dict[LogId, int] = {}
    heads: dict[BatchId, LogHead] = {}
    batches = 0
    for no, log, agent, epoch in database.execute(
        "SELECT no, id, agent, epoch FROM log WHERE folder_no = ?", (folder_no,)
    ).fetchall():
        numbers[LogId(log)] = no
        number, last_seq = database.execute(
            "SELECT count(*), max(seq) FROM batch WHERE log_no = ?", (no,)
        ).fetchone()
        batches += number
        if number == (last_seq or 0) + 1:
            ends = database.execute(
                "SELECT id, seq FROM batch WHERE log_no = ? AND seq = ?", (no, last_seq)
            ).fetchall()
        else:
            ends = _ends_of_branches(database, no, restored_no)
        for batch, seq in ends:
            heads[batch] = LogHead(log=log, agent=agent, epoch=epoch, seq=seq, batch=batch)
    return KnownLogs(numbers=numbers, heads=heads, batches=batches)


def _ends_of_branches(
    database: Database, log_no: int, restored_no: int
) -> list[tuple[BatchId, int]]:
    """Find the batches of a log that no other of it names as its prev; it reads all headers.

    What a stub names is the batch before it that came with the same snapshot: no log had forked
    that has stubs in it.
    """
    seqs: dict[BatchId, int] = {}
    named: set[bytes] = set()
    before = b""
    for no, batch, seq, header in database.execute(
        "SELECT no, id, seq, header FROM batch WHERE log_no = ? ORDER BY no", (log_no,)
    ):
        seqs[batch] = seq
        named.add((decode_header(header).prev or b"") if header else before)
        before = batch if no <= restored_no else b""
    return [(batch, seq) for batch, seq in seqs.items() if batch not in named]


def unapplied(database: Database, folder_no: int) -> list[tuple[int, SignedBatch]]:
    """Read what is stored and has no effect yet, in (lamport, batch id) order."""
    return [
        (no, verify(WireBatch(header=header, signature=signature, body=body)))
        for no, header, signature, body in database.execute(
            "SELECT no, header, signature, body FROM batch"
            " WHERE folder_no = ? AND is_applied = 0 ORDER BY lamport, id",
            (folder_no,),
        ).fetchall()
    ]


class EventCount:
    """Counts the events of a folder's stored batches; what was counted once is remembered.

    The count stands in `meta`, with the number of the last batch in it; numbers only grow.
    """

    _NOTED_EVERY = 1000  # batches

    def __init__(self, database: Database, folder_no: int) -> None:
        """Know nothing until asked."""
        self._db = database
        self._folder_no = folder_no
        self._key = f"events/{folder_no}"
        self._total: int | None = None
        self._noted_no = 0

    def total(self) -> int:
        """Give the number; the first time it reads the headers that were not counted yet."""
        if self._total is None:
            noted = self._db.meta(self._key)
            if noted is not None and len(noted) == 16:  # noqa: PLR2004 - two numbers of 8 bytes
                self._noted_no = int.from_bytes(noted[:8], "big")
                self._total = int.from_bytes(noted[8:], "big")
            headers = self._db.execute(
                "SELECT header FROM batch WHERE folder_no = ? AND no > ?",
                (self._folder_no, self._noted_no),
            )
            self._total = sum(
                (decode_header(header).count for (header,) in headers if header),
                self._total or 0,
            )
        return self._total

    def add(self, batch_no: int, count: int) -> None:
        """Count a batch that is being stored, inside its transaction; now and then note it."""
        if self._total is None:
            return
        self._total += count
        if batch_no >= self._noted_no + self._NOTED_EVERY:
            both = batch_no.to_bytes(8, "big") + self._total.to_bytes(8, "big")
            self._db.set_meta(self._key, both)
            self._noted_no = batch_no
