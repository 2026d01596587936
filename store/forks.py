"""Tell which forks of logs are over: their author knew both branches and went on in another log.

Both branches of a fork stay in the log and both count, for ever. What a person may have to do
about it ends with the author's own word: an epoch of its own that was opened with all branches in
its past is written by a node that saw what had happened. It reads the log and writes nothing.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from store.codec import decode_header
from store.db import Database
from store.ids import LogId
from store.opening import LogHead

# Looked at for one author, between its forks and the epochs that end them; beyond, they go on.
_BATCHES_LIMIT: Final = 10_000


def find_forks(db: Database, heads: Sequence[LogHead]) -> dict[LogId, bool]:
    """Name the logs of a folder that have several heads, and whether their fork is over."""
    branches: defaultdict[LogId, list[LogHead]] = defaultdict(list)
    for head in heads:
        branches[head.log].append(head)
    forked = {log: ends for log, ends in branches.items() if len(ends) > 1}
    authors = {ends[0].agent: _Author() for ends in forked.values()}
    for log, [last, *more] in branches.items():
        if not more and last.agent in authors:
            authors[last.agent].add_log(db, log)
    return {log: authors[ends[0].agent].knew_all(db, ends) for log, ends in forked.items()}


class _Author:
    """What an author of forked logs wrote besides. The work for all its forks is bounded."""

    def __init__(self) -> None:
        self._first: list[tuple[int, bytes]] = []  # lamport and id, of each log that has not forked
        self._steps = iter(range(_BATCHES_LIMIT))

    def add_log(self, db: Database, log: LogId) -> None:
        row = db.execute(
            "SELECT b.lamport, b.id FROM batch b JOIN log l ON l.no = b.log_no"
            " WHERE l.id = ? AND b.seq = 0",
            (log,),
        ).fetchone()
        if row is not None:
            self._first.append((row[0], row[1]))

    def knew_all(self, db: Database, ends: Sequence[LogHead]) -> bool:
        """Whether the first batch of one of its logs has all these heads in its past."""
        wanted = {bytes(end.batch) for end in ends}
        lamports = {batch: _lamport(db, batch) for batch in wanted}
        floor, top = min(lamports.values()), max(lamports.values())
        # The log that was begun soonest after the fork is the shortest way back to it.
        return any(
            _has_in_past(db, batch, wanted, floor, self._steps)
            for lamport, batch in sorted(self._first)
            if lamport > top
        )


def _has_in_past(
    db: Database, batch: bytes, wanted: set[bytes], floor: int, steps: Iterator[int]
) -> bool:
    """Walk back from a batch, newest first, as far as the oldest of the wanted ones."""
    waiting = [(-_lamport(db, batch), batch)]
    seen = {batch}
    missing = set(wanted)
    while waiting and missing and next(steps, None) is not None:
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
