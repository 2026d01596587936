"""Let one batch take effect on the state: rows read once, changed in memory, written in bulk.

It takes the short way where an event plainly follows what is known, and folds an object from all
its events (store.fold) where it does not. Both ways give the same rows; `rebuild` proves it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from store.admitted import AppliedBatch
from store.db import Database, chunked
from store.events import (
    AttributesChanged,
    ContentChanged,
    Event,
    ObjectCreated,
    ObjectDeleted,
    ObjectMoved,
)
from store.fold import Fact, Folded, fold, value_of
from store.ids import KINDS, FolderId, Kind, ObjectId, object_id
from store.objects import (
    ALIVE,
    HAD_DELETION,
    MANY,
    ObjectRow,
    insert_rows,
    placement_of,
    update_rows,
    write_folded,
)
from store.placement import Directory, DirectoryMove

if TYPE_CHECKING:
    from store.state import FolderState


class Work:
    """The work on one batch: load() and take() its events, then finish()."""

    def __init__(self, state: FolderState, applied: AppliedBatch) -> None:
        """Begin with nothing read; made anew for each batch."""
        self._state = state
        self._db: Database = state.db
        self._batch_no = applied.no
        self._fresh = applied.fresh  # ids that are known to have no row
        self._made = dict(applied.made)  # by event id: what a create makes
        self._rows: dict[bytes, ObjectRow] = {}
        self._by_no: dict[int, ObjectRow] = {}
        self._before: dict[int, tuple[bool, int, bytes]] = {}  # alive, parent, name
        self._places: dict[int, tuple[object, ...]] = {}  # what was written of the placement
        self._new: list[ObjectRow] = []
        self._event_rows: list[tuple[int, int, int]] = []
        self._along_rows: list[tuple[bytes, int]] = []
        self._moves: list[DirectoryMove] = []
        self._refold: set[int] = set()
        self.created_ids: list[bytes] = []

    def load(self, facts: Iterable[Fact]) -> None:
        """Read the rows of all objects that these events name."""
        folder, made = self._state.folder, self._made
        wanted: set[bytes] = set()
        for fact in facts:
            event = fact.event
            if isinstance(event, ObjectCreated):
                identity = made.get(fact.event_id)
                if identity is None:
                    identity = made[fact.event_id] = created_id(folder, event)
                wanted.add(identity)
            else:
                wanted.add(event.object)  # type: ignore[union-attr]
        missing = wanted - self._rows.keys() - self._fresh
        lent = self._state.at_hand
        for known in missing & lent.keys():
            self._remember(lent[known])
        for row in self._state.rows_by_id(list(missing - lent.keys())).values():
            self._remember(row)

    def _remember(self, row: ObjectRow) -> None:
        self._rows[row.id] = row
        self._by_no[row.no] = row
        self._before[row.no] = (bool(row.flags & ALIVE), row.parent_no, row.name)
        self._places[row.no] = placement_of(row)

    def _row(self, no: int) -> ObjectRow:
        row = self._by_no.get(no)
        if row is None:
            row = self._state.rows([no])[no]
            row = self._state.at_hand.get(row.id, row)
            self._remember(row)
        return row

    def take(self, position: int, fact: Fact, batch_no: int | None = None) -> None:
        """Let one event take effect, or wait, or be ignored."""
        at = (self._batch_no if batch_no is None else batch_no, position)
        event = fact.event
        if isinstance(event, ObjectCreated):
            self._create(at, fact, event)
            return
        identity = event.object  # type: ignore[union-attr]
        row = self._rows.get(identity)
        if row is None or row.no == self._state.root_no:
            if row is None:
                self._wait(identity, at)
            else:
                self._state.ignored_events += 1
            return
        if isinstance(event, ObjectMoved):
            parent_no = self._directory_no(event.parent, at)
            if parent_no is None:
                return
            if row.kind == Kind.DIRECTORY:
                self._moves.append(
                    DirectoryMove(fact.key, row.no, parent_no, event.name, fact.event_id)
                )
                self._refold.add(row.no)
        self._event_rows.append((row.no, *at))
        if isinstance(event, ObjectDeleted) and event.along_with is not None:
            self._along_rows.append((event.along_with, row.no))
        if row.no in self._refold:
            return
        if not self._take_short_way(row, fact, event):
            self._refold.add(row.no)

    def _directory_no(self, identity: bytes, at: tuple[int, int]) -> int | None:
        """Find the directory that an event names as parent, or let the event wait."""
        no = self._state.directory_nos.get(identity)
        if no is None:
            row = self._rows.get(identity) or self._state.rows_by_id([identity]).get(identity)
            if row is None:
                self._wait(identity, at)
            else:
                self._state.ignored_events += 1  # a parent that is no directory
        return no

    def _wait(self, identity: bytes, at: tuple[int, int]) -> None:
        self._state.has_waiting = True
        self._db.execute(
            "INSERT OR IGNORE INTO waitingevent VALUES (?, ?, ?, ?)",
            (self._state.folder_no, identity, *at),
        )

    def _create(self, at: tuple[int, int], fact: Fact, event: ObjectCreated) -> None:
        state = self._state
        fitting = value_of(KINDS[event.kind], event.content)
        if fitting is None:
            state.ignored_events += 1
            return
        parent_no = self._directory_no(event.parent, at)
        if parent_no is None:
            return
        identity = self._made[fact.event_id]
        self._fresh.discard(identity)
        row = self._rows.get(identity)
        if row is not None:
            self._event_rows.append((row.no, *at))
            self._refold.add(row.no)
            return
        no = state.new_no(identity)
        value, size = fitting
        row = ObjectRow(
            no,
            identity,
            event.kind,
            parent_no,
            event.name,
            None,
            None,
            None,
            None,
            None,
            int.from_bytes(fact.key[:8], "big"),
            fact.event_id,
            fact.key,
            value,
            size,
            event.mtime_ns,
            event.mode,
            ALIVE,
        )
        self._rows[identity] = row
        self._by_no[no] = row
        self._new.append(row)
        self._event_rows.append((no, *at))
        if event.kind == Kind.DIRECTORY:
            state.directories.add(
                Directory(no, identity, parent_no, event.name, None, None, is_alive=True)
            )
            state.directory_nos[identity] = no
        if state.has_waiting:
            self.created_ids.append(identity)

    def _take_short_way(self, row: ObjectRow, fact: Fact, event: Event) -> bool:
        """Change the row where the event plainly follows everything known; else False."""
        lamport = int.from_bytes(fact.key[:8], "big")
        if lamport <= row.latest_lamport or row.flags & MANY:
            return False
        if isinstance(event, AttributesChanged):
            row.mode = row.mode if event.mode is None else event.mode
            row.mtime_ns = row.mtime_ns if event.mtime_ns is None else event.mtime_ns
        elif row.kind == Kind.DIRECTORY or row.flags & HAD_DELETION:
            return False
        elif isinstance(event, ContentChanged):
            fitting = value_of(KINDS[row.kind], event.content)
            if fitting is None or event.prev != (row.head_event,):
                return False
            row.value, row.size = fitting
            row.head_event, row.head_key = fact.event_id, fact.key
            row.mtime_ns = event.mtime_ns
        elif isinstance(event, ObjectMoved):
            row.parent_no = self._state.directory_nos[event.parent]
            row.name = event.name
            row.place_event, row.place_key = fact.event_id, fact.key
            row.last_move = fact.event_id
        elif isinstance(event, ObjectDeleted):
            if (
                event.prev != (row.head_event,)
                or event.placement_seen != row.last_move
                or event.along_with in self._state.void
            ):
                return False
            row.value, row.size = b"", 0
            row.head_event, row.head_key = fact.event_id, fact.key
            row.flags = (row.flags | HAD_DELETION) & ~ALIVE
        else:
            return False
        row.latest_lamport = lamport
        return True

    # -- the end of a batch -------------------------------------------------------------------

    def finish(self) -> None:
        """Merge moves, fold what needs folding, count what is visible, write the rows."""
        db, state = self._db, self._state
        if self._along_rows:
            db.insert("INSERT OR IGNORE INTO along_deletion", self._along_rows)
        db.insert("INSERT OR IGNORE INTO event", self._event_rows)
        self._merge_moves()
        self._fold_all()
        self._write_rows()
        self._settle()
        marked = [state.buckets.mark(row.id) for row in self._by_no.values()]
        for marks, part in chunked([no for no in marked if no is not None]):
            db.execute(
                f"DELETE FROM bucket WHERE folder_no = ? AND no IN ({marks})",
                (state.folder_no, *part),
            )
        state.buckets.save()

    def _merge_moves(self) -> None:
        if not self._moves:
            return
        state = self._state
        self._db.executemany(
            "INSERT OR IGNORE INTO directory_move VALUES (?, ?, ?, ?, ?, ?)",
            [
                (state.folder_no, m.key, m.object_no, m.parent_no, m.name, m.event_id)
                for m in self._moves
            ],
        )
        for no in state.directories.merge(self._moves):
            row = self._row(no)
            directory = state.directories[no]
            if row.base_parent_no is None:
                row.base_parent_no, row.base_name = row.parent_no, row.name
            row.parent_no, row.name = directory.parent_no, directory.name
            row.place_event, row.place_key = directory.place_event, directory.place_key

    def _fold_all(self) -> None:
        """Fold objects from all their events; a deletion that turns (not) void spreads."""
        state = self._state
        waiting = sorted(self._refold)
        while waiting:
            no = waiting.pop()
            row = self._row(no)
            kind = KINDS[row.kind]
            is_void = state.void.__contains__
            folded = fold(kind, state.facts(no), is_void, state.buried(no))
            for deletion in self._turn_void(no, folded):
                waiting.extend(
                    along
                    for (along,) in self._db.execute(
                        "SELECT object_no FROM along_deletion WHERE directory_event = ?",
                        (deletion,),
                    ).fetchall()
                    if along != no
                )
            self._set(row, folded)

    def _turn_void(self, no: int, folded: Folded) -> list[bytes]:
        """Keep which deletions of an object are void; give those that turned."""
        void = self._state.void
        valid = [deletion for deletion in folded.valid_deletions if deletion in void]
        newly = [deletion for deletion in folded.void_deletions if deletion not in void]
        void.difference_update(valid)
        void.update(newly)
        self._db.executemany(
            "DELETE FROM void_deletion WHERE event_id = ?", [(deletion,) for deletion in valid]
        )
        self._db.executemany(
            "INSERT INTO void_deletion VALUES (?, ?)", [(deletion, no) for deletion in newly]
        )
        return [*valid, *newly]

    def _set(self, row: ObjectRow, folded: Folded) -> None:
        state = self._state
        write_folded(self._db, row, folded)
        if row.kind == Kind.DIRECTORY:
            state.directories[row.no].is_alive = folded.is_alive
        elif folded.placed is not None:
            move = folded.placed.event
            row.parent_no = state.directory_nos[move.parent]  # type: ignore[union-attr]
            row.name = move.name  # type: ignore[union-attr]
            row.place_event, row.place_key = folded.placed.event_id, folded.placed.key

    def _write_rows(self) -> None:
        new = {row.no for row in self._new}
        known = [row for row in self._by_no.values() if row.no not in new]
        displaced = [row for row in known if self._places[row.no] != placement_of(row)]
        insert_rows(self._db, self._state.folder_no, self._new)
        update_rows(self._db, known, displaced)

    def _settle(self) -> None:
        """Count what appeared and went, and note whose names may have changed."""
        state = self._state
        changes, directories = state.changes, state.directories
        recount: list[int] = []
        arrived: Counter[int] = Counter()  # files made just now, by directory
        changes.objects.update(self._by_no)
        for row in self._by_no.values():
            before = self._before.get(row.no)
            is_alive = bool(row.flags & ALIVE)
            if before is None and row.kind != Kind.DIRECTORY:
                arrived[row.parent_no] += is_alive
                continue
            was_alive, old_parent, old_name = before or (False, 0, b"")
            if old_parent and (is_alive, row.parent_no, row.name) != (
                was_alive,
                old_parent,
                old_name,
            ):
                changes.slots.add((old_parent, old_name))
            if row.kind == Kind.DIRECTORY:
                directories[row.no].is_alive = is_alive
                recount.append(row.no)
            elif (was_alive, old_parent) != (is_alive, row.parent_no):
                if was_alive:
                    state.count_child(old_parent, -1, recount)
                if is_alive:
                    state.count_child(row.parent_no, 1, recount)
        for parent_no, count in arrived.items():
            state.count_child(parent_no, count, recount)
        placed = [no for no in recount if no in self._by_no]
        touched = state.recount(recount).union(placed)
        self._mark_below(state.unions.parted_or_met(touched))

    def _mark_below(self, nos: Iterable[int]) -> None:
        """Ask the view again about everything below directories whose path is, or was, shared."""
        changes = self._state.changes
        waiting = list(nos)
        seen = set(waiting)
        while waiting:
            parent_no = waiting.pop()
            self._state.unions.note(parent_no)
            changes.objects.add(parent_no)
            for child_no, kind in self._db.execute(
                "SELECT no, kind FROM object WHERE parent_no = ?", (parent_no,)
            ):
                changes.objects.add(child_no)
                if kind == Kind.DIRECTORY and child_no not in seen:
                    seen.add(child_no)
                    waiting.append(child_no)


def created_id(folder: FolderId, event: ObjectCreated) -> ObjectId:
    """Give the id of the object that an event creates."""
    parent = ObjectId(event.parent)
    return object_id(folder, parent, event.kind, event.generation, event.name)
