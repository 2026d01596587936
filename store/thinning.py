"""Find what of a log can have no effect any more, whatever comes yet.

It judges events and verdicts alone and removes nothing. What it leaves out, no later fold misses:

- events of batches whose author had not the role: that verdict rests on their past, which is
  fixed;
- executable bits, times and tags that an event of the same kind set later;
- replaced versions of files that are buried (store.burial);
- the rest of a batch whose every event is left out, but for its place in the log.

All that it judges by must be settled: in the past of the owner's checkpoint. The end of a folder
is the owner's act and never cuts that off. Moves and deletions all stay, so does all about the
folder, and so does the newest batch of each log, and every batch of a log that has forked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from msgspec import Struct

from store.access_sets import RULED_OUT
from store.burial import burials
from store.codec import decode_header, split_thinned
from store.db import Database, scratch_database
from store.events import (
    FIRST_FOLDER_TAG,
    FIRST_OPTIONAL_TAG,
    AttributesChanged,
    Tagged,
    Untagged,
    decode,
    tag_of,
)
from store.facts import FactReader, buried_of
from store.ids import BatchId, Kind

_ATTRIBUTES, _TAGGED, _UNTAGGED = 5, 6, 7
_MODE, _MTIME, _TAG = b"\0", b"\1", b"\2"
_TABLES = """
CREATE TABLE later (what BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE grave (object BLOB, event BLOB, value BLOB, PRIMARY KEY (object, event)) WITHOUT ROWID;
CREATE TABLE gone (batch_no INTEGER, position INTEGER, PRIMARY KEY (batch_no, position))
    WITHOUT ROWID;
CREATE TABLE record (place INTEGER PRIMARY KEY, batch_no INTEGER, lost BLOB, is_stub INTEGER);
"""
TABLE_LIMIT: Final = 0x10000  # logs, and sets of members, that stubs can name
_NUMBER_LIMIT = 1 << 32  # of seq and lamport in a stub
SET_LIMIT: Final = 1024  # members that a stub's author could know of


class Record(Struct, frozen=True, gc=False):
    """One batch of a snapshot: which of its events are lost, or its place if all are."""

    no: int
    id: BatchId
    lost: frozenset[int]
    stub: tuple[int, int, int, int] | None  # number of log, seq, lamport, number of set


class _Placed(Struct, frozen=True, gc=False):
    log_no: int
    seq: int
    lamport: int
    verdict: int
    access_no: int


@contextmanager
def thinned(database: Database, folder_no: int) -> Iterator[Thinned]:
    """Thin what is applied of a folder, beside; the database must not change meanwhile."""
    scratch = scratch_database()
    try:
        yield Thinned(database, folder_no, scratch)
    finally:
        scratch.connection.close()


class Thinned:
    """What is left of a log. Exhaust work() first; it yields now and then, so that it can rest."""

    def __init__(self, database: Database, folder_no: int, scratch: Database) -> None:
        """Note whose batches can be stubs; use thinned()."""
        self._db = database
        self._folder_no = folder_no
        self._scratch = scratch
        scratch.connection.executescript(_TABLES)
        self.logs: list[tuple[bytes, bytes]] = []  # agent and epoch, of stubs
        self.sets: list[tuple[int, ...]] = []  # positions among the batches about the folder
        self.batches = 0
        self._log_at: dict[int, int] = {}
        self._set_at: dict[int, int] = {}
        self._about_folder: list[int] = []
        self._newest = {
            log_no: seq
            for log_no, number, seq in database.execute(
                "SELECT log_no, count(*), max(seq) FROM batch"
                " WHERE folder_no = ? AND is_applied = 1 GROUP BY log_no",
                (folder_no,),
            )
            if number == seq + 1 < _NUMBER_LIMIT
        }

    @property
    def graves(self) -> int:
        """How many files have something buried."""
        (number,) = self._scratch.execute("SELECT count(DISTINCT object) FROM grave").fetchone()
        return int(number)

    def work(self) -> Iterator[None]:
        """Judge all files, then all batches from newest to oldest."""
        yield from self._dig()
        yield from self._judge_batches()
        self._number_tables()

    def buried(self) -> Iterator[tuple[bytes, list[bytes]]]:
        """Give each file's id with its marks, event and bytes joined, in order."""
        objects = self._scratch.execute("SELECT DISTINCT object FROM grave ORDER BY object")
        for (identity,) in objects.fetchall():
            marks = self._scratch.execute(
                "SELECT event, value FROM grave WHERE object = ? ORDER BY event", (identity,)
            ).fetchall()
            yield identity, [event + value for event, value in marks]

    def records(self) -> Iterator[Record]:
        """Give all batches, oldest first."""
        for no, lost, is_stub in self._scratch.execute(
            "SELECT batch_no, lost, is_stub FROM record ORDER BY place DESC"
        ):
            batch, log_no, seq, lamport, access_no = self._db.execute(
                "SELECT id, log_no, seq, lamport, access_no FROM batch WHERE no = ?", (no,)
            ).fetchone()
            stub = None
            if is_stub:
                stub = (self._log_at[log_no], seq, lamport, self._set_at[access_no])
            yield Record(no, batch, _positions(lost), stub)

    # -- files ------------------------------------------------------------------------------------

    def _dig(self) -> Iterator[None]:
        reader = FactReader(self._db)
        files = self._db.execute(
            "SELECT o.no, o.id FROM object o WHERE o.folder_no = ? AND o.kind = ?"
            " AND ((SELECT count(*) FROM event e WHERE e.object_no = o.no) > 1"
            " OR EXISTS (SELECT 1 FROM buried b WHERE b.object_no = o.no))",
            (self._folder_no, int(Kind.FILE)),
        )
        for no, identity in files:
            before = buried_of(self._db, no)
            facts = reader.facts(no)
            self._scratch.executemany(
                "INSERT OR IGNORE INTO grave VALUES (?, ?, ?)",
                [
                    (identity, event, value)
                    for event, value in self._db.execute(
                        "SELECT event, value FROM buried WHERE object_no = ?", (no,)
                    )
                ],
            )
            yield
            going: set[bytes] = set()
            for one in burials(Kind.FILE, facts, before):
                self._scratch.execute(
                    "INSERT OR IGNORE INTO grave VALUES (?, ?, ?)", (identity, *one.marks)
                )
                if one.can_go:
                    going.add(one.event_id)
            places = self._db.execute(
                "SELECT batch_no, position FROM event WHERE object_no = ?", (no,)
            ).fetchall()
            self._scratch.executemany(
                "INSERT INTO gone VALUES (?, ?)",
                [
                    place
                    for place, fact in zip(places, facts, strict=True)
                    if fact.event_id in going
                ],
            )
            yield

    # -- batches ----------------------------------------------------------------------------------

    def _judge_batches(self) -> Iterator[None]:
        newest_first = self._db.execute(
            "SELECT no FROM batch WHERE folder_no = ? AND is_applied = 1"
            " ORDER BY lamport DESC, id DESC",
            (self._folder_no,),
        )
        for (no,) in newest_first:
            header, body, *place = self._db.execute(
                "SELECT header, body, log_no, seq, lamport, is_void, access_no FROM batch"
                " WHERE no = ?",
                (no,),
            ).fetchone()
            lost, is_stub = self._judge(no, header, body, _Placed(*place))
            packed = b"".join(position.to_bytes(2, "big") for position in sorted(lost))
            self._scratch.execute(
                "INSERT INTO record VALUES (?, ?, ?, ?)", (self.batches, no, packed, is_stub)
            )
            self.batches += 1
            yield

    def _judge(
        self, no: int, header: bytes, body: bytes, place: _Placed
    ) -> tuple[frozenset[int], bool]:
        if not header:  # it came as a stub
            return frozenset(), self._note_stub(place)
        events = split_thinned(body, decode_header(header).count)
        if events[0] and FIRST_FOLDER_TAG <= tag_of(events[0]) < FIRST_OPTIONAL_TAG:
            self._about_folder.append(no)
            return frozenset(), False
        lost = self._left_out(no, events, place.verdict)
        is_empty = all(not event or at in lost for at, event in enumerate(events))
        return lost, is_empty and self._can_be_stub(place) and self._note_stub(place)

    def _left_out(self, no: int, events: Sequence[bytes], verdict: int) -> frozenset[int]:
        if verdict == RULED_OUT:
            return frozenset(range(len(events)))
        lost = {
            position
            for (position,) in self._scratch.execute(
                "SELECT position FROM gone WHERE batch_no = ?", (no,)
            )
        }
        for position in range(len(events) - 1, -1, -1):
            what = _set_by(events[position])
            if what and self._are_set_later(what):
                lost.add(position)
            elif what and not verdict:
                self._scratch.executemany(
                    "INSERT OR IGNORE INTO later VALUES (?)", [(one,) for one in what]
                )
        return frozenset(lost)

    def _are_set_later(self, what: Sequence[bytes]) -> bool:
        return all(
            self._scratch.execute("SELECT 1 FROM later WHERE what = ?", (one,)).fetchone()
            for one in what
        )

    def _can_be_stub(self, place: _Placed) -> bool:
        newest = self._newest.get(place.log_no)
        if newest is None or place.seq == newest or place.lamport >= _NUMBER_LIMIT:
            return False
        if place.log_no not in self._log_at and len(self._log_at) >= TABLE_LIMIT:
            return False
        if place.access_no in self._set_at:
            return True
        return len(self._set_at) < TABLE_LIMIT and len(self._members(place.access_no)) <= SET_LIMIT

    def _note_stub(self, place: _Placed) -> bool:
        self._log_at[place.log_no] = 0
        self._set_at[place.access_no] = 0
        return True

    def _members(self, access_no: int) -> tuple[int, ...]:
        row = self._db.execute(
            "SELECT batches FROM access_set WHERE no = ?", (access_no,)
        ).fetchone()
        joined = b"" if row is None else row[0]
        return tuple(
            int.from_bytes(joined[start : start + 8], "big") for start in range(0, len(joined), 8)
        )

    def _number_tables(self) -> None:
        """Give the logs and sets of stubs numbers that are equal on every node."""
        logs = sorted(
            (
                self._db.execute("SELECT agent, epoch FROM log WHERE no = ?", (no,)).fetchone(),
                no,
            )
            for no in self._log_at
        )
        self.logs = [log for log, _ in logs]
        self._log_at = {no: at for at, (_, no) in enumerate(logs)}
        positions = {no: at for at, no in enumerate(reversed(self._about_folder))}
        members = sorted(
            (tuple(sorted(positions[one] for one in self._members(no))), no) for no in self._set_at
        )
        self.sets = sorted({one for one, _ in members})
        numbers = {one: at for at, one in enumerate(self.sets)}
        self._set_at = {no: numbers[one] for one, no in members}


def _positions(packed: bytes) -> frozenset[int]:
    return frozenset(
        int.from_bytes(packed[start : start + 2], "big") for start in range(0, len(packed), 2)
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
