"""Turn state into unique paths: the view, a pure function of state, equal on every node.

Every name is decided in its slot: all visible objects that are placed at one name in one
directory (directories that share a path count as one). Conflict names are virtual: they cost
no event and nobody ever emits one to repair a view. The rules are those of docs/design.md,
section 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from store.access import Member
from store.db import Database, chunked
from store.events import ObjectCreated
from store.ids import AgentId, Kind
from store.objects import MANY, Changes, HeadRow, ObjectRow
from store.objects import OBJECT_COLUMNS as _COLUMNS
from store.paths import conflict_name
from store.records import PRIMARY, Entry
from store.state import FolderState
from store.unions import class_of

_CONFLICT_MARK = b" (conflict "
_HEX_DIGITS = 8

Place = tuple[int, bytes]  # (representative of the parent directory, name)


class View:
    """Answers what should stand where; reads state, writes nothing."""

    def __init__(
        self, database: Database, state: FolderState, members: Mapping[AgentId, Member]
    ) -> None:
        """Look at a state; `members` give the labels in conflict names."""
        self._db = database
        self._state = state
        self._members = members
        self._classes: dict[int, list[int]] = {}

    def entries(
        self, changes: Changes, known: Mapping[int, ObjectRow] | None = None
    ) -> tuple[set[int], list[Entry]]:
        """Give the objects whose place in the view may have changed, and all their entries.

        An object without an entry is not visible. Every object that shares a slot with a changed
        one is considered too, since the slot decides for all. `known` rows are those of now,
        which need not be read again.
        """
        rows = self._considered(changes, known or {})
        slots: dict[Place, list[ObjectRow]] = {}
        for row in rows.values():
            if self._state.is_visible(row):
                slots.setdefault((self._class(row.parent_no)[0], row.name), []).append(row)
        found: list[Entry] = []
        for place, members in slots.items():
            if len(members) == 1 and not members[0].flags & MANY:
                found.append(self._entry(members[0], place))
            else:
                found.extend(self._resolve(place, members))
        return set(rows) | changes.objects, found

    def all_entries(self) -> list[Entry]:
        """Give the whole view: for checks, not for the hot path."""
        return self.entries(Changes(set(self._state.object_nos()), set()))[1]

    # -- which objects ------------------------------------------------------------------------

    def _considered(
        self, changes: Changes, known: Mapping[int, ObjectRow]
    ) -> dict[int, ObjectRow]:
        state = self._state
        rows = {no: known[no] for no in changes.objects & known.keys()}
        rows.update(state.rows(list(changes.objects - known.keys())))
        rows.pop(state.root_no, None)
        # What stands in the slots of these rows is found with them, below.
        self._add_at_slots(rows, changes.slots - {(r.parent_no, r.name) for r in rows.values()})
        self._add_slot_mates(rows)
        marked = {r.parent_no for r in rows.values() if _CONFLICT_MARK in r.name}
        marked.update(parent_no for parent_no, name in changes.slots if _CONFLICT_MARK in name)
        for parent_no in marked:
            self._add_conflicted(rows, parent_no)
        if marked:
            self._add_slot_mates(rows)
        return rows

    def _add_at(self, rows: dict[int, ObjectRow], parent_no: int, name: bytes) -> None:
        for member in self._class(parent_no):
            for row in self._db.execute(
                f"SELECT {_COLUMNS} FROM object WHERE parent_no = ? AND name = ?", (member, name)
            ):
                rows.setdefault(row[0], ObjectRow(*row))

    def _add_at_slots(self, rows: dict[int, ObjectRow], slots: Iterable[tuple[int, bytes]]) -> None:
        names_of: dict[int, list[bytes]] = {}
        for parent_no, name in slots:
            for member in self._class(parent_no):
                names_of.setdefault(member, []).append(name)
        found: set[int] = set()
        for parent_no, names in names_of.items():
            for marks, part in chunked(names):
                # The index alone answers: most of them are what changed, and here already.
                found.update(
                    no
                    for (no,) in self._db.execute(
                        f"SELECT no FROM object WHERE parent_no = ? AND name IN ({marks})",
                        (parent_no, *part),
                    )
                )
        rows.update(self._state.rows(list(found - rows.keys())))

    def _add_slot_mates(self, rows: dict[int, ObjectRow]) -> None:
        columns = ", ".join("b." + column.strip() for column in _COLUMNS.split(","))
        mates: dict[int, ObjectRow] = {}
        for marks, part in chunked(list(rows)):
            for row in self._db.execute(
                f"SELECT {columns} FROM object a JOIN object b ON b.parent_no = a.parent_no"
                f" AND b.name = a.name AND b.no != a.no WHERE a.no IN ({marks})",
                part,
            ):
                mates[row[0]] = ObjectRow(*row)
        shared = {row.parent_no for row in rows.values() if len(self._class(row.parent_no)) > 1}
        if shared:
            for row in list(rows.values()):
                if row.parent_no in shared:
                    self._add_at(mates, row.parent_no, row.name)
        for no, mate in mates.items():
            rows.setdefault(no, mate)

    def _add_conflicted(self, rows: dict[int, ObjectRow], parent_no: int) -> None:
        """Consider all conflicts of a directory: a real name may equal a conflict name."""
        members = self._class(parent_no)
        marks = ",".join("?" * len(members))
        for row in self._db.execute(
            f"SELECT {_COLUMNS} FROM object WHERE parent_no IN ({marks}) AND (flags & {MANY} OR"
            f" name IN (SELECT name FROM object WHERE parent_no IN ({marks})"
            " GROUP BY name HAVING count(*) > 1))",
            (*members, *members),
        ):
            rows.setdefault(row[0], ObjectRow(*row))

    def _class(self, no: int) -> list[int]:
        members = self._classes.get(no)
        if members is None:
            members = class_of(self._state.directories, no) or [no]
            self._classes[no] = members
        return members

    # -- one slot -----------------------------------------------------------------------------

    def _resolve(self, place: Place, members: list[ObjectRow]) -> list[Entry]:
        """Name everything in a slot: directories first, then the least placement key, then id."""
        members.sort(key=lambda row: (row.kind != Kind.DIRECTORY, row.place_key or b"", row.id))
        taken: set[bytes] = set()
        shown: dict[tuple[int, bytes], bytes] = {}  # (kind, value) -> name
        found: list[Entry] = []
        for row in members:
            content = (row.kind, row.value if row.kind != Kind.DIRECTORY else b"")
            if content in shown:
                found.append(self._entry(row, (place[0], shown[content]), collapsed=True))
            else:
                name = place[1] if not shown else self._loser_name(place, row, taken)
                shown[content] = name
                taken.add(name)
                found.append(self._entry(row, (place[0], name)))
            if row.flags & MANY and row.kind != Kind.DIRECTORY:
                found.extend(self._copies(place, row, taken))
        return found

    def _entry(self, row: ObjectRow, place: Place, *, collapsed: bool = False) -> Entry:
        events = row.head_event
        if row.flags & MANY:
            events = b"".join(
                sorted(
                    head.event_id
                    for head in self._state.heads(row.no)
                    if head.is_head and (head.is_deletion or head.value == row.value)
                )
            )
        return Entry(
            object_no=row.no,
            copy=PRIMARY,
            parent_no=place[0],
            name=place[1],
            kind=Kind(row.kind),
            value=row.value,
            size=row.size,
            mtime_ns=row.mtime_ns,
            mode=row.mode,
            events=events,
            placement=row.last_move or b"",
            collapsed=collapsed,
        )

    def _copies(self, place: Place, row: ObjectRow, taken: set[bytes]) -> list[Entry]:
        """Show the other values of an object beside it, each under its conflict name."""
        groups: dict[bytes, list[HeadRow]] = {}
        for head in self._state.heads(row.no):
            if head.is_shown and head.value != row.value:
                groups.setdefault(head.value, []).append(head)
        found = []
        for value, heads in groups.items():
            first = heads[0]  # the greatest key: heads() gives them in that order
            name = self._conflict_name(place, row.name, first.event_id, first.key, taken)
            taken.add(name)
            found.append(
                Entry(
                    object_no=row.no,
                    copy=first.event_id,
                    parent_no=place[0],
                    name=name,
                    kind=Kind(row.kind),
                    value=value,
                    size=first.size,
                    mtime_ns=first.mtime_ns,
                    mode=row.mode,
                    events=b"".join(sorted(head.event_id for head in heads)),
                    placement=row.last_move or b"",
                )
            )
        return found

    def _loser_name(self, place: Place, row: ObjectRow, taken: set[bytes]) -> bytes:
        """Name the loser of a collision after the event that placed it."""
        if row.place_event is not None and row.place_key is not None:
            return self._conflict_name(place, row.name, row.place_event, row.place_key, taken)
        created = min(
            (f for f in self._state.facts(row.no) if isinstance(f.event, ObjectCreated)),
            key=lambda fact: fact.key,
        )
        return self._conflict_name(place, row.name, created.event_id, created.key, taken)

    def _conflict_name(
        self, place: Place, name: bytes, event: bytes, key: bytes, taken: set[bytes]
    ) -> bytes:
        agent, wall_ms = self._state.author_of(key)
        member = self._members.get(AgentId(agent))
        label = member.label if member is not None else b""
        day = datetime.fromtimestamp(_clamped_s(wall_ms), tz=UTC).strftime("%Y-%m-%d")
        hexed = event.hex()
        for digits in range(_HEX_DIGITS, len(hexed) + 1):
            candidate = conflict_name(name, label, day, hexed[:digits])
            if candidate not in taken and not self._is_real(place[0], candidate):
                return candidate
        return conflict_name(name, label, day, hexed)

    def _is_real(self, parent_no: int, name: bytes) -> bool:
        """Whether something visible is placed at that name."""
        rows: dict[int, ObjectRow] = {}
        self._add_at(rows, parent_no, name)
        return any(self._state.is_visible(row) for row in rows.values())


_LAST_SECOND = 253402300799  # 9999-12-31T23:59:59Z: the last that a date can show


def _clamped_s(wall_ms: int) -> int:
    return max(0, min(wall_ms // 1000, _LAST_SECOND))
