"""Turn what became of known files and directories into events: edits, moves, deletions, touches.

What equals a head, or what the view says already, binds and is no event. Acts on a conflict copy
make a file of its own, or end the version that the copy shows (docs/design.md, 4).
"""

from __future__ import annotations

import msgspec

from daemon.acts import Deleted, Edited, Moved, Touched
from daemon.creations import Creations, content_of
from daemon.disk import Looked
from daemon.draft import Draft
from daemon.previous import Previous, split_ids
from store.events import (
    AttributesChanged,
    ContentChanged,
    ObjectCreated,
    ObjectDeleted,
    ObjectMoved,
)
from store.ids import EventId, Kind
from store.objects import ALIVE, HAD_DELETION, MANY
from store.records import PRIMARY, Entry, SyncedRow

_UNHEARD_MS = 10 * 60 * 1000  # so long a rename of what no peer has heard of is a new name


class Alterations:
    """Records what became of known objects in one bunch of acts."""

    def __init__(self, draft: Draft, creations: Creations) -> None:
        """Write into this draft."""
        self._draft = draft
        self._creations = creations
        self._previous = Previous(draft)
        self._deleted_directories: dict[bytes, dict[int, EventId]] = {}  # path -> deletions

    def edit(self, act: Edited) -> None:
        """Record that a known path holds another content."""
        rows = self._draft.by_precedence(act.rows)
        bound = [row for row in rows if self._binds_head(row, act.looked)]
        if bound:
            if self._draft.may_write:  # the other objects of this path have no file any more
                for row in rows:
                    if row not in bound:
                        self._delete_row(row)
            return
        if self._draft.is_refused(act.path):
            return
        for index, row in enumerate(rows):
            if row.copy != PRIMARY:
                if index == 0:
                    self._creations.at(act.path, act.looked)
                self._delete_row(row)
            elif index == 0:
                self._previous.keep_others(row)
                event = self._draft.add(
                    ContentChanged(
                        object=self._draft.id_of(row.object_no),
                        content=content_of(act.looked),
                        mtime_ns=act.looked.stat.mtime_ns,
                        prev=self._previous.of(row),
                    )
                )
                mtime_ns = act.looked.stat.mtime_ns
                self._draft.put(row, act.looked, events=event, shared_mtime_ns=mtime_ns)
                self._note_mode(row, act.looked)
            else:
                self._delete_row(row)

    def _binds_head(self, row: SyncedRow, looked: Looked) -> bool:
        """Bind an edit to a current head of the same bytes: somebody made it already."""
        if row.copy != PRIMARY:
            return False
        current = self._draft.state.rows([row.object_no]).get(row.object_no)
        if current is None or not current.flags & ALIVE:
            return False
        if current.value == row.value:
            return False  # the view wanted what stood here: somebody decided for other bytes
        events = b""
        mtime_ns = current.mtime_ns
        if current.flags & MANY:
            events = b"".join(
                sorted(
                    head.event_id
                    for head in self._draft.state.heads(row.object_no)
                    if head.is_head and not head.is_deletion and head.value == looked.value
                )
            )
        elif current.value == looked.value:
            events = current.head_event
        if not events:
            return False
        self._draft.put(row, looked, events=events, shared_mtime_ns=mtime_ns)
        self._draft.result.bound += 1
        return True

    def move(self, act: Moved) -> None:
        """Record that a known object stands elsewhere."""
        parent_path, _, name = act.target.rpartition(b"/")
        parents = self._draft.directories_at(parent_path)
        if not parents:
            if self._draft.may_write:
                self._draft.result.moves_again.append((act.source, act.target))
            else:
                self._draft.result.local_changes.append(act.target)
            return
        is_first = True
        for row in self._draft.by_precedence(act.rows):
            entry = self._draft.entries.get(row.object_no, {}).get(row.copy)
            if entry is not None and self._stands_at(entry, parent_path, name):
                self._rebind_place(row, act, entry)
                continue
            if self._draft.is_refused(act.target):
                return
            if row.copy != PRIMARY or self._is_unheard(row):
                if is_first:
                    self._creations.at(act.target, act.looked)
                self._delete_row(row)
            else:
                event = self._draft.add(
                    ObjectMoved(
                        object=self._draft.id_of(row.object_no),
                        parent=parents[0],
                        name=name,
                        prev=self._previous.of(row),
                    )
                )
                self._draft.moved_away.add(row.object_no)
                moved = msgspec.structs.replace(
                    row,
                    parent_no=self._draft.folder.number_of(parents[0]),
                    name=name,
                    placement=event,
                )
                self._after_move(moved, act.looked)
            is_first = False

    def _after_move(self, row: SyncedRow, looked: Looked) -> None:
        if row.kind != Kind.DIRECTORY and looked.value != row.value:
            self._previous.keep_others(row)
            event = self._draft.add(
                ContentChanged(
                    object=self._draft.id_of(row.object_no),
                    content=content_of(looked),
                    mtime_ns=looked.stat.mtime_ns,
                    prev=self._previous.of(row),
                )
            )
            self._draft.put(row, looked, events=event, shared_mtime_ns=looked.stat.mtime_ns)
            self._note_mode(row, looked)
            return
        self._attributes(row, looked)

    def _rebind_place(self, row: SyncedRow, act: Moved, entry: Entry) -> None:
        """Take a move for what it is: state says the same already."""
        moved = msgspec.structs.replace(
            row, parent_no=entry.parent_no, name=entry.name, placement=entry.placement
        )
        self._draft.result.bound += 1
        has_new_bytes = row.kind != Kind.DIRECTORY and act.looked.value != row.value
        if has_new_bytes and self._draft.is_refused(act.target):
            return
        self._after_move(moved, act.looked)

    def _stands_at(self, entry: Entry, parent_path: bytes, name: bytes) -> bool:
        if entry.name != name:
            return False
        nos = self._draft.synced.directories_at(parent_path)
        return entry.parent_no in nos

    def _is_unheard(self, row: SyncedRow) -> bool:
        """Whether no peer can know this object yet: then a rename makes another one.

        Two people's `New Folder`, each renamed at once, must not become one object. Only for a
        file or an empty directory that we created in the last ten minutes.
        """
        current = self._draft.state.rows([row.object_no]).get(row.object_no)
        if (
            current is None
            or current.last_move is not None
            or current.flags & (MANY | HAD_DELETION)
            or not current.flags & ALIVE
        ):
            return False
        if row.kind == Kind.DIRECTORY and self._draft.folder.has_anything_in([row.object_no]):
            return False
        for fact in self._draft.state.facts(row.object_no):
            own = self._draft.folder.own_batch(fact.key)
            if own is None or own[0] <= self._draft.covered_seq:
                return False
            is_recent = 0 <= self._draft.wall_ms - own[1] < _UNHEARD_MS
            if isinstance(fact.event, ObjectCreated) and not is_recent:
                return False
        return True

    def delete(self, act: Deleted) -> None:
        """Record that a known object is nowhere any more."""
        along = self._deleted_directories.get(act.path.rpartition(b"/")[0], {})
        for row in self._draft.by_precedence(act.rows):
            if row.leftover or self._is_gone(row):
                self._draft.remove(row)  # state says so already
                continue
            if self._draft.is_refused(act.path):
                return
            event = self._delete_row(row, self._along(row, along))
            if row.kind == Kind.DIRECTORY:
                deletions = self._deleted_directories.setdefault(act.path, {})
                deletions[row.object_no] = event

    def _is_gone(self, row: SyncedRow) -> bool:
        """Whether the view has nothing of what this row stood for."""
        if row.copy == PRIMARY:  # what is visible has an entry
            known = self._draft.known.get(row.object_no)
            return known is None or not self._draft.state.is_visible(known)
        entries = self._draft.entries.get(row.object_no)
        if not entries:
            return True
        if row.copy in entries:
            return False
        # The copy may stand under another name by now, or have become the file itself.
        shown = {head.event_id for head in self._draft.state.heads(row.object_no) if head.is_shown}
        shown.update(split_ids(entries[PRIMARY].events))
        return shown.isdisjoint(split_ids(row.events))

    def _along(self, row: SyncedRow, deletions: dict[int, EventId]) -> EventId | None:
        """Give the deletion of the directory that holds an object, of all at its path."""
        if len(deletions) > 1:
            current = self._draft.state.rows([row.object_no]).get(row.object_no)
            if current is not None and current.parent_no in deletions:
                return deletions[current.parent_no]
        return next(iter(deletions.values()), None)

    def _delete_row(self, row: SyncedRow, along: EventId | None = None) -> EventId:
        event = self._draft.add(
            ObjectDeleted(
                object=self._draft.id_of(row.object_no),
                prev=self._previous.of_deletion(row),
                placement_seen=row.placement or None,
                along_with=along,
            )
        )
        self._draft.remove(row)
        if row.copy == PRIMARY:
            self._draft.deleted[row.object_no] = event
        return event

    def touch(self, act: Touched) -> None:
        """Record other attributes of a known file."""
        for row in act.rows:
            self._attributes(row, act.looked)

    def _attributes(self, row: SyncedRow, looked: Looked) -> None:
        """Record a changed executable bit or time; the rest of stat is only noted."""
        mode = int(looked.stat.is_executable)
        entry = self._draft.entries.get(row.object_no, {}).get(row.copy)
        is_file = row.kind == Kind.FILE and row.copy == PRIMARY and entry is not None
        new_mode = mode if is_file and mode != row.mode else None
        new_mtime = (
            looked.stat.mtime_ns
            if row.kind != Kind.DIRECTORY
            and row.copy == PRIMARY
            and entry is not None
            and looked.stat.mtime_ns != row.mtime_ns
            else None
        )
        shared_mtime_ns = row.shared_mtime_ns
        if entry is not None:
            if new_mode == entry.mode:
                new_mode = None
            if new_mtime == entry.mtime_ns:
                new_mtime, shared_mtime_ns = None, entry.mtime_ns
        if (new_mode is not None or new_mtime is not None) and self._draft.may_write:
            self._draft.add(
                AttributesChanged(
                    object=self._draft.id_of(row.object_no),
                    mode=new_mode,
                    mtime_ns=new_mtime,
                    extended=None,
                )
            )
            if new_mtime is not None:
                shared_mtime_ns = new_mtime
        self._draft.put(row, looked, events=row.events, shared_mtime_ns=shared_mtime_ns)

    def _note_mode(self, row: SyncedRow, looked: Looked) -> None:
        mode = int(looked.stat.is_executable)
        if row.kind == Kind.FILE and mode != row.mode:
            self._draft.add(
                AttributesChanged(
                    object=self._draft.id_of(row.object_no), mode=mode, mtime_ns=None, extended=None
                )
            )
