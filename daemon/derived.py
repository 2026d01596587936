"""Read what else is folded from a log, beside the objects, without local numbers.

So that the node's database and one folded anew can be compared row by row, and what this disk
agreed to (synced) with the events that it names. It repairs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from store.db import Database, chunked
from store.events import Content, ContentChanged, ObjectCreated
from store.ids import Kind
from store.records import PRIMARY, SyncedRow

if TYPE_CHECKING:
    from store.fold import Fact
    from store.folder import StoredFolder
    from store.objects import ObjectRow

Rows = frozenset[tuple[object, ...]]

_ID_BYTES = 32
# What each table says of a folder, by ids instead of local numbers.
_LOG_TABLES = {
    "log": "SELECT id, agent, epoch FROM log WHERE folder_no = ?",
    "frontier": "SELECT batch_id FROM frontier WHERE folder_no = ?",
}
_STATE_TABLES = {
    "directory_move": "SELECT m.key, o.id, p.id, m.name, m.event_id FROM directory_move m"
    " LEFT JOIN object o ON o.no = m.object_no LEFT JOIN object p ON p.no = m.parent_no"
    " WHERE m.folder_no = ?",
    "void_deletion": "SELECT v.event_id, o.id FROM void_deletion v"
    " JOIN object o ON o.no = v.object_no WHERE o.folder_no = ?",
    "along_deletion": "SELECT a.directory_event, o.id FROM along_deletion a"
    " JOIN object o ON o.no = a.object_no WHERE o.folder_no = ?",
    "waiting_event": "SELECT w.object_id, b.id, w.position FROM waitingevent w"
    " LEFT JOIN batch b ON b.no = w.batch_no WHERE w.folder_no = ?",
}
_BURIED = (
    "SELECT o.id, b.event, b.value FROM buried b JOIN object o ON o.no = b.object_no"
    " WHERE o.folder_no = ?"
)


def log_tables(db: Database, folder_no: int) -> dict[str, Rows]:
    """Read what is known of logs and roles: tables that only the log itself makes anew."""
    found = {
        table: frozenset(db.execute(query, (folder_no,)).fetchall())
        for table, query in _LOG_TABLES.items()
    }
    ids = dict(db.execute("SELECT no, id FROM batch WHERE folder_no = ?", (folder_no,)).fetchall())
    sets = {
        no: tuple(sorted(_ids_of(joined, ids)))
        for no, joined in db.execute(
            "SELECT no, batches FROM access_set WHERE folder_no = ?", (folder_no,)
        )
    }
    found["access_set"] = frozenset(
        (batch, *sets.get(access_no, ()))
        for batch, access_no in db.execute(
            "SELECT id, access_no FROM batch WHERE folder_no = ? AND is_applied = 1", (folder_no,)
        )
    )
    return found


def _ids_of(joined: bytes, ids: dict[int, bytes]) -> Iterator[bytes]:
    for start in range(0, len(joined), 8):
        yield ids.get(int.from_bytes(joined[start : start + 8], "big"), b"")


def state_tables(db: Database, folder_no: int) -> dict[str, Rows]:
    """Read what the state keeps beside its objects."""
    found = {
        table: frozenset(db.execute(query, (folder_no,)).fetchall())
        for table, query in _STATE_TABLES.items()
    }
    # A database of an older dizzyd that is only read has no such table, and nothing for it.
    is_restored = db.meta(f"restored/{folder_no}") is not None
    found["buried"] = frozenset(db.execute(_BURIED, (folder_no,)).fetchall() if is_restored else ())
    return found


def differing_tables(one: dict[str, Rows], other: dict[str, Rows]) -> list[str]:
    """Name the tables in which two databases differ."""
    return [table for table in sorted(one) if one[table] != other[table]]


def events_of(db: Database, object_nos: Sequence[int]) -> dict[int, list[tuple[object, ...]]]:
    """Read where the events of objects stand: (batch id, position), sorted."""
    found: dict[int, list[tuple[object, ...]]] = {}
    for marks, part in chunked(object_nos):
        for no, batch, position in db.execute(
            "SELECT e.object_no, b.id, e.position FROM event e LEFT JOIN batch b"
            f" ON b.no = e.batch_no WHERE e.object_no IN ({marks}) ORDER BY 1, 2, 3",
            part,
        ):
            found.setdefault(no, []).append((batch, position))
    return found


def wrong_records(stored: StoredFolder, directories: Sequence[bytes]) -> list[SyncedRow]:
    """List the rows of synced below some directories that no event of their objects explains."""
    wrong: list[SyncedRow] = []
    for directory in directories:
        rows = [row for row in stored.synced.rows_in(directory) if row.object_no > 0]
        states = stored.state.rows([row.object_no for row in rows])
        for row in rows:
            state = states.get(row.object_no)
            if (
                state is None
                or state.kind != row.kind
                or not _is_named_so(row, state)
                or not _is_explained(stored, row)
            ):
                wrong.append(row)
    return wrong


def _is_named_so(row: SyncedRow, state: ObjectRow) -> bool:
    """Whether a row has the name of the placement that it names, or one that the view gives."""
    if row.placement != (state.last_move or b"") or row.leftover:
        return True
    return row.name == state.name or b" (conflict " in row.name


def homeless_records(stored: StoredFolder) -> list[SyncedRow]:
    """List the rows of synced whose directory synced does not know, or that are another's."""
    nos = [
        row[0]
        for row in stored.db.execute(
            "SELECT s.object_no FROM synced s LEFT JOIN object o ON o.no = s.object_no"
            " WHERE s.object_no > 0 AND (s.folder_no = ?1 OR o.folder_no = ?1)"
            " AND (s.folder_no != ?1 OR (s.parent_no != ?2 AND NOT EXISTS"
            " (SELECT 1 FROM synced p WHERE p.object_no = s.parent_no AND p.kind = 1)))",
            (stored.no, stored.root_no),
        )
    ]
    return stored.synced.rows_of(nos)


def _is_explained(stored: StoredFolder, row: SyncedRow) -> bool:
    """Whether the events that a row names are its object's, and say what it says."""
    if row.mode not in {0, 1} or row.leftover not in {0, 1}:
        return False
    if row.leftover and row.kind is not Kind.DIRECTORY:
        return False
    facts: dict[bytes, Fact] = {fact.event_id: fact for fact in stored.state.facts(row.object_no)}
    named = [row.events[at : at + _ID_BYTES] for at in range(0, len(row.events), _ID_BYTES)]
    if row.placement and row.placement not in facts:
        return False
    if row.copy != PRIMARY and row.copy not in facts:
        return False
    if any(event not in facts for event in named):
        return False
    values = {value for event in named for value in _values(facts[event])}
    return not row.value or not values or row.value in values


def _values(fact: Fact) -> Iterator[bytes]:
    if isinstance(fact.event, ObjectCreated | ContentChanged):
        content = fact.event.content
        yield content.hash if isinstance(content, Content) else content or b""
