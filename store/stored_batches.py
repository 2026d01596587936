"""Read stored batches back, byte for byte as they came.

Who may have them is not asked here (peers.replica); nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from store.db import Database, chunked
from store.decoding import is_whole
from store.signing import WireBatch

Range = tuple[int, int | None, int]  # number of the log, after seq or None for the start, through


def read_batches(
    db: Database,
    folder_no: int,
    ranges: Iterable[Range],
    ids: Sequence[bytes],
    *,
    restored_no: int,
    limit_bytes: int,
) -> tuple[list[WireBatch], bool]:
    """Read batches in (lamport, batch id) order, up to about `limit_bytes` (at least one).

    The second value says whether more would have followed. Up to `restored_no` a snapshot brought
    them: what it left something out of is passed over.
    """
    wanted: dict[bytes, tuple[int, int, int]] = {}  # id -> lamport, no, size
    for log_no, after, through in ranges:
        for batch, lamport, batch_no, size in db.execute(
            "SELECT id, lamport, no, length(body) FROM batch"
            " WHERE log_no = ? AND seq > ? AND seq <= ?",
            (log_no, -1 if after is None else after, through),
        ):
            wanted[batch] = (lamport, batch_no, size)
    for marks, part in chunked(list(ids)):
        for batch, lamport, batch_no, size in db.execute(
            "SELECT id, lamport, no, length(body) FROM batch"
            f" WHERE id IN ({marks}) AND folder_no = ?",
            (*part, folder_no),
        ):
            wanted[batch] = (lamport, batch_no, size)
    order = sorted(wanted.items(), key=lambda item: (item[1][0], item[0]))
    found: list[WireBatch] = []
    total = 0
    for _, (_, batch_no, size) in order:
        if found and total + size > limit_bytes:
            return found, True
        header, signature, body = db.execute(
            "SELECT header, signature, body FROM batch WHERE no = ?", (batch_no,)
        ).fetchone()
        if batch_no <= restored_no and not is_whole(header, body):
            continue  # a snapshot left something out of it: it cannot be proven
        found.append(WireBatch(header=header, signature=signature, body=body))
        total += size
    return found, False


def all_applied(db: Database, folder_no: int) -> Iterable[tuple[int, WireBatch, bool]]:
    """Give all applied batches (no, bytes, is_void) in the order they were applied.

    Those of a snapshot may be thinned; stubs are passed over.
    """
    nos = db.execute(
        "SELECT no FROM batch WHERE folder_no = ? AND is_applied = 1 ORDER BY lamport, id",
        (folder_no,),
    ).fetchall()
    for (no,) in nos:
        header, signature, body, is_void = db.execute(
            "SELECT header, signature, body, is_void FROM batch WHERE no = ?", (no,)
        ).fetchone()
        if header:
            yield no, WireBatch(header=header, signature=signature, body=body), bool(is_void)
