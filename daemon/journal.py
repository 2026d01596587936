"""Make durable what apply does: intents before it renames, synced and history after.

One transaction for each call, on the database thread, through the engine. A user's bytes that
apply displaced are recorded here as that user's change, with prev = what synced held before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from daemon.core import Runner
from daemon.disk import FileKind
from daemon.displaced import parse_history_name
from daemon.engine import Engine
from daemon.outcomes import (
    Agreed,
    Begun,
    Bundle,
    Displaced,
    Intent,
    Kept,
    Outcome,
    Reopened,
    Settled,
    Unwatched,
    Watch,
    Watched,
)
from daemon.previous import prev_of
from daemon.shelf import Shelf
from daemon.signals import BatchesCommitted, ObjectsChanged
from daemon.steps import Key
from daemon.subscription import Emit
from store.access import may_write
from store.db import Database
from store.events import Content, ContentChanged, encode
from store.folder import StoredFolder
from store.records import SyncedRow

_encode = msgspec.msgpack.Encoder().encode
_intents = msgspec.msgpack.Decoder(Intent)
_watches = msgspec.msgpack.Decoder(Watch)
_bundles = msgspec.msgpack.Decoder(Bundle)
_ARRAY = 0x90  # how msgpack begins a Bundle; a Watch is a map


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitSteps:
    """Bring synced, history and log in line with what apply did."""

    folder_no: int
    outcomes: tuple[Outcome, ...]
    wall_ms: int


class FolderJournal:
    """The journal of one folder, as daemon.apply wants it."""

    def __init__(self, shelf: Shelf, engine: Engine, core: Runner, folder_no: int) -> None:
        """Write about this folder; the shelf and the engine belong to the database thread."""
        self._shelf = shelf
        self._engine = engine
        self._core = core
        self._folder_no = folder_no
        self.wall_ms = 0  # set by the owner before each commit

    async def begin(self, intents: Sequence[Intent]) -> None:
        """Make intents durable, and all that was committed before; none of them is done yet."""
        await self._core.run(self._begin, intents)

    def _begin(self, intents: Sequence[Intent]) -> None:
        db = self._shelf.db
        if not intents:
            db.settle()
            return
        with db.transaction():
            _write_intents(db, self._folder_no, intents)

    async def commit(self, outcomes: Sequence[Outcome]) -> None:
        """Make outcomes durable in one transaction."""
        if outcomes:
            await self._core.run(self._commit, tuple(outcomes))

    def _commit(self, outcomes: tuple[Outcome, ...]) -> None:
        command = CommitSteps(folder_no=self._folder_no, outcomes=outcomes, wall_ms=self.wall_ms)
        self._engine.perform(self.commit_steps, command)
        self._engine.run_until_idle()

    async def open_intents(self) -> Sequence[Intent]:
        """Give what was begun and not closed, in the order of its beginning."""
        return await self._core.run(self._open_intents)

    def _open_intents(self) -> list[Intent]:
        rows = self._shelf.db.execute(
            "SELECT record FROM intent WHERE folder_no = ? ORDER BY rowid", (self._folder_no,)
        ).fetchall()
        return [_intents.decode(record) for (record,) in rows]

    async def watches(self, due_ns: int) -> Sequence[Watch | Bundle]:
        """Give the watches that are due at this time."""
        return await self._core.run(self._due_watches, due_ns)

    def _due_watches(self, due_ns: int) -> list[Watch | Bundle]:
        rows = self._shelf.db.execute(
            "SELECT record FROM displaced WHERE folder_no = ?", (self._folder_no,)
        ).fetchall()
        found = [_watch_of(record) for (record,) in rows]
        return [watch for watch in found if watch.due_ns <= due_ns]

    # -- the procedure --------------------------------------------------------------------------

    def commit_steps(
        self, command: CommitSteps, emit: Emit[BatchesCommitted | ObjectsChanged]
    ) -> None:
        """Store what apply did; the last word on each key counts."""
        stored = self._shelf[command.folder_no]
        with stored.change():
            events = _Writing(stored).write(command.outcomes)
            if events and may_write(stored.own_member()):
                batches = stored.append(events, command.wall_ms)
                emit(BatchesCommitted(folder_no=stored.no, batches=tuple(batches), is_own=True))
        if stored.state.changes:
            emit(ObjectsChanged(folder_no=stored.no))


def _write_intents(db: Database, folder_no: int, intents: Sequence[Intent]) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO intent (id, folder_no, record) VALUES (?, ?, ?)",
        [(intent.number, folder_no, _encode(intent)) for intent in intents],
    )


def _watch_of(record: bytes) -> Watch | Bundle:
    is_bundle = record[0] & 0xF0 == _ARRAY
    return _bundles.decode(record) if is_bundle else _watches.decode(record)


def names_watched(db: Database, folder_no: int) -> frozenset[bytes]:
    """Name the displaced files of a folder that are to be looked at again."""
    rows = db.execute("SELECT record FROM displaced WHERE folder_no = ?", (folder_no,)).fetchall()
    found = [_watch_of(record) for (record,) in rows]
    return frozenset(
        watch.name
        for each in found
        for watch in (each.watches if isinstance(each, Bundle) else (each,))
    )


def was_displaced_since(db: Database, folder_no: int, row: SyncedRow) -> bool:
    """Whether we took away ourselves what synced last saw standing there: a restore did.

    Then what stands there since is what a person asked us for, told by synced once it is looked at.
    """
    kept = db.execute(
        "SELECT name FROM kept WHERE value = ? AND folder_no = ? AND object_no = ?",
        (row.value, folder_no, row.object_no),
    ).fetchall()
    parsed = [parse_history_name(name) for (name,) in kept]
    return any(each is not None and each.at_ns > row.looked_at_ns for each in parsed)


class _Writing:
    """The rows of one commit, gathered and written in bulk."""

    def __init__(self, stored: StoredFolder) -> None:
        self._stored = stored
        self._begun: list[Intent] = []
        self._rows: dict[Key, SyncedRow] = {}
        self._gone: set[Key] = set()
        self._closed: list[tuple[bytes]] = []
        self._reopened: list[tuple[bytes, bytes]] = []
        self._kept: list[tuple[int, bytes, int, bytes, int]] = []
        self._events: list[bytes] = []
        self._watched: dict[bytes, bytes] = {}
        self._unwatched: list[tuple[bytes]] = []

    def write(self, outcomes: Sequence[Outcome]) -> list[bytes]:
        """Write all of it; gives the events that users' displaced bytes make."""
        stored, db = self._stored, self._stored.db
        for outcome in outcomes:
            self._take(outcome)
        stored.synced.remove(self._gone - self._rows.keys())
        stored.synced.put(list(self._rows.values()))
        db.executemany("DELETE FROM displaced WHERE name = ?", self._unwatched)
        db.executemany(
            "INSERT OR REPLACE INTO displaced (name, folder_no, record) VALUES (?, ?, ?)",
            [(name, stored.no, record) for name, record in self._watched.items()],
        )
        db.executemany("DELETE FROM intent WHERE id = ?", self._closed)
        _write_intents(db, stored.no, self._begun)
        db.executemany("UPDATE intent SET record = ? WHERE id = ?", self._reopened)
        db.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?)", self._kept)
        return self._events

    def _take(self, outcome: Outcome) -> None:  # noqa: C901 - one branch for each outcome
        match outcome:
            case Agreed(rows=rows, gone=gone, intent=intent):
                for key in gone:
                    self._gone.add(key)
                    self._rows.pop(key, None)
                for row in rows:
                    self._rows[row.object_no, row.copy] = row
                if intent:
                    self._closed.append((intent,))
            case Settled(intent=intent):
                self._closed.append((intent,))
            case Begun(intent=begun):
                self._begun.append(begun)
            case Reopened(intent=reopened):
                self._reopened.append((_encode(reopened), reopened.number))
            case Kept(history_name=name, row=row):
                self._keep(name, row, row.value, row.size)
            case Displaced():
                self._take_displaced(outcome)
            case Watched(watch=watch):
                self._watched[watch.name] = _encode(watch)
            case Unwatched(name=name):
                self._watched.pop(name, None)
                self._unwatched.append((name,))
            case _:
                pass  # postponed and failed steps changed nothing

    def _keep(self, name: bytes, row: SyncedRow, value: bytes, size: int) -> None:
        self._kept.append((self._stored.no, name, row.object_no, value, size))

    def _take_displaced(self, displaced: Displaced) -> None:
        row, looked = displaced.row, displaced.looked
        self._keep(displaced.kept, row, looked.value, looked.stat.size)
        if row.object_no <= 0:  # never shared (daemon.reverting), or nobody knew it: only kept
            return
        is_link = looked.stat.kind is FileKind.SYMLINK
        self._events.append(
            encode(
                ContentChanged(
                    object=self._stored.id_of(row.object_no),
                    content=looked.value
                    if is_link
                    else Content(hash=looked.value, size=looked.stat.size),
                    mtime_ns=looked.stat.mtime_ns,
                    # A second look at one file follows the first: its row has those bytes.
                    prev=prev_of(self._stored.state, row),
                )
            )
        )
