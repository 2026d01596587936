"""Tell which forks of logs are over: their author knew both branches and went on in another log.

Both branches of a fork stay in the log and both count, for ever. What a person may have to do
about it ends with the author's own word: an epoch of its own that was opened with all branches in
its past is written by a node that saw what had happened. It reads the log and writes nothing.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from store.codec import decode_header
from store.db import Database
from store.ids import LogId
from store.opening import LogHead

_BATCHES_LIMIT: Final = 10_000  # between a fork and the epoch that ends it; beyond, it goes on


def find_forks(db: Database, heads: Sequence[LogHead]) -> dict[LogId, bool]:
    """Name the logs of a folder that have several heads, and whether their fork is over."""
    branches: defaultdict[LogId, list[LogHead]] = defaultdict(list)
    for head in heads:
        branches[head.log].append(head)
    forked = {log: ends for log, ends in branches.items() if len(ends) > 1}
    return {
        log: any(
            _knew_all(db, other, ends)
            for other, [last, *more] in branches.items()
            if other != log and last.agent == ends[0].agent and not more
        )
        for log, ends in forked.items()
    }


def _knew_all(db: Database, log: LogId, ends: Sequence[LogHead]) -> bool:
    """Whether the first batch of a log has all these heads in its past."""
    row = db.execute(
        "SELECT b.id FROM batch b JOIN log l ON l.no = b.log_no WHERE l.id = ? AND b.seq = 0",
        (log,),
    ).fetchone()
    return row is not None and _has_in_past(db, row[0], {bytes(end.batch) for end in ends})


def _has_in_past(db: Database, batch: bytes, wanted: set[bytes]) -> bool:
    """Walk back from a batch, newest first, as far as the oldest of the wanted ones."""
    floor = min(_lamport(db, each) for each in wanted)
    waiting = [(-_lamport(db, batch), batch)]
    seen = {batch}
    missing = set(wanted)
    for _ in range(_BATCHES_LIMIT):
        if not waiting or not missing:
            break
        _, one = heapq.heappop(waiting)
        missing.discard(one)
        for parent in _parents(db, one) - seen:
            seen.add(parent)
            lamport = _lamport(db, parent)
            if lamport >= floor:
                heapq.heappush(waiting, (-lamport, parent))
    return not missing


def _lamport(db: Database, batch: bytes) -> int:
    row = db.execute("SELECT lamport FROM batch WHERE id = ?", (batch,)).fetchone()
    return -1 if row is None else int(row[0])


def _parents(db: Database, batch: bytes) -> set[bytes]:
    """Give prev and deps; of what a snapshot left out nothing is known."""
    row = db.execute("SELECT header FROM batch WHERE id = ?", (batch,)).fetchone()
    if row is None or not row[0]:
        return set()
    header = decode_header(row[0])
    return {bytes(dep) for dep in header.deps} | ({bytes(header.prev)} if header.prev else set())
