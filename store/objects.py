"""Define the rows of objects in the state, and write them in bulk.

What changes them is store.applying; store.state and store.view read them.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter

from msgspec import Struct
from msgspec.structs import astuple

from store.db import Database
from store.fold import Folded
from store.ids import ObjectId
from store.placement import Slot

ALIVE = 1  # some version is shown
MANY = 2  # versions stand in `head`
HAD_DELETION = 4  # some deletion stands among its events
TAGGED = 8

OBJECT_COLUMNS = (
    "no, id, kind, parent_no, name, place_event, place_key, last_move, base_parent_no, base_name,"
    " latest_lamport, head_event, head_key, value, size, mtime_ns, mode, flags"
)
_MOVE_COLUMNS = slice(5, 10)  # place_event to base_name: NULL until a move
_NOT_MOVED = (None,) * 5
_BASE_COLUMNS = (
    "no, id, kind, parent_no, name, latest_lamport, head_event, head_key, value, size, mtime_ns,"
    " mode, flags"
)
# What later events change of a row: where it is placed, and what it is.
_PLACEMENT = (
    "parent_no",
    "name",
    "place_event",
    "place_key",
    "last_move",
    "base_parent_no",
    "base_name",
)
_VERSION = (
    "latest_lamport",
    "head_event",
    "head_key",
    "value",
    "size",
    "mtime_ns",
    "mode",
    "flags",
)
placement_of = attrgetter(*_PLACEMENT)  # of a row
_version_of = attrgetter(*_VERSION)


class ObjectRow(Struct, gc=False):
    """The row of one object; the fields are the columns of store.tables.Object."""

    no: int
    id: ObjectId
    kind: int
    parent_no: int
    name: bytes
    place_event: bytes | None
    place_key: bytes | None
    last_move: bytes | None
    base_parent_no: int | None
    base_name: bytes | None
    latest_lamport: int
    head_event: bytes
    head_key: bytes
    value: bytes
    size: int
    mtime_ns: int
    mode: int
    flags: int


class HeadRow(Struct, frozen=True, gc=False):
    """One version of an object with several; the columns of store.tables.Head."""

    event_id: bytes
    key: bytes
    is_deletion: int
    is_head: int
    is_shown: int
    value: bytes
    size: int
    mtime_ns: int


class Changes(Struct):
    """What the view must be asked again about."""

    objects: set[int]
    slots: set[Slot]  # places that somebody left: who stays there may get the name

    def __bool__(self) -> bool:
        """Whether anything changed."""
        return bool(self.objects or self.slots)


def heads_of(database: Database, object_no: int) -> list[HeadRow]:
    """Read the versions of an object with several (flag MANY), greatest key first."""
    return [
        HeadRow(*row)
        for row in database.execute(
            "SELECT event_id, key, is_deletion, is_head, is_shown, value, size, mtime_ns"
            " FROM head WHERE object_no = ? ORDER BY key DESC",
            (object_no,),
        )
    ]


def insert_rows(database: Database, folder_no: int, rows: Iterable[ObjectRow]) -> None:
    """Write the rows of new objects."""
    at_base: list[tuple[object, ...]] = []
    moved: list[tuple[object, ...]] = []
    for row in rows:
        values = (*astuple(row), folder_no)
        if values[_MOVE_COLUMNS] == _NOT_MOVED:
            at_base.append(values[: _MOVE_COLUMNS.start] + values[_MOVE_COLUMNS.stop :])
        else:
            moved.append(values)
    database.insert(f"INSERT INTO object ({_BASE_COLUMNS}, folder_no)", at_base)
    database.insert(f"INSERT INTO object ({OBJECT_COLUMNS}, folder_no)", moved)


def update_rows(
    database: Database, known: Iterable[ObjectRow], displaced: Iterable[ObjectRow]
) -> None:
    """Write what known objects are now, and where those of them are that have another place."""
    database.update("object", _VERSION, "no", [(*_version_of(row), row.no) for row in known])
    database.update("object", _PLACEMENT, "no", [(*placement_of(row), row.no) for row in displaced])


def write_folded(database: Database, row: ObjectRow, folded: Folded) -> None:
    """Bring a row in line with what all events of its object fold to; write its versions and tags.

    The row itself is for update_rows(), its placement for the caller.
    """
    if row.flags & MANY:
        database.execute("DELETE FROM head WHERE object_no = ?", (row.no,))
    is_many = len(folded.heads) > 1 or (folded.shown != folded.heads and folded.is_alive)
    shown = folded.shown[0] if folded.shown else folded.heads[0]
    row.head_event, row.head_key = shown.event_id, shown.key
    row.value, row.size = shown.value, shown.size
    row.mode, row.mtime_ns = folded.mode, folded.mtime_ns
    row.last_move = folded.last_move
    row.latest_lamport = folded.latest_lamport
    row.flags = (
        (ALIVE if folded.is_alive else 0)
        | (MANY if is_many else 0)
        | (HAD_DELETION if folded.void_deletions or folded.valid_deletions else 0)
        | (TAGGED if folded.tags else 0)
    )
    if is_many:
        _write_heads(database, row.no, folded)
    database.execute("DELETE FROM object_tag WHERE object_no = ?", (row.no,))
    database.executemany(
        "INSERT INTO object_tag VALUES (?, ?)", [(row.no, tag) for tag in folded.tags]
    )


def _write_heads(database: Database, object_no: int, folded: Folded) -> None:
    heads = {head.event_id for head in folded.heads}
    versions = {head.event_id: head for head in (*folded.heads, *folded.shown)}
    shown = {head.event_id for head in folded.shown}
    database.executemany(
        "INSERT INTO head VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                object_no,
                head.event_id,
                head.key,
                head.is_deletion,
                head.event_id in heads,
                head.event_id in shown,
                head.value,
                head.size,
                head.mtime_ns,
            )
            for head in versions.values()
        ],
    )
