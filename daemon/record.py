"""Turn what people did to files into events of our own log: the procedure of the local side.

Runs in the database thread, in one transaction with the log, the state and synced. `prev` is
always what was materialised on this disk (synced), never what the log happens to contain: this
rule prevents silent lost updates (docs/design.md, section 4). What is on disk and equals a head
binds and is no event. It decides nothing about when to look or what moved: daemon.matching did.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from daemon.acts import Act, Created, Deleted, Edited, Moved, Touched
from daemon.disk import FileKind, Looked, Stat
from store.access import may_write
from store.events import (
    AttributesChanged,
    Content,
    ContentChanged,
    ObjectCreated,
    ObjectDeleted,
    ObjectMoved,
    encode,
)
from store.folder import StoredFolder
from store.ids import EventId, Kind, ObjectId, object_id
from store.log import OwnWriter
from store.objects import ALIVE, HAD_DELETION, MANY, Changes, HeadRow, ObjectRow
from store.records import PRIMARY, Entry, SyncedRow
from store.signing import SignedBatch
from store.state import FolderState

_UNHEARD_MS = 10 * 60 * 1000  # so long a rename of what no peer has heard of is a new name
_KINDS = tuple(Kind)  # by number
_PREV_LIMIT = 256  # what an event's prev may hold (store.events.Prev)


@dataclass(slots=True, kw_only=True)
class Recorded:
    """What became of a bunch of acts."""

    batches: list[SignedBatch] = field(default_factory=list)
    look_again: list[bytes] = field(default_factory=list)  # synced changed under the look
    local_changes: list[bytes] = field(default_factory=list)  # a reader's: not recorded
    bound: int = 0


class _New(Struct, frozen=True, gc=False):
    """A name that becomes an object."""

    name: bytes
    identity: ObjectId
    no: int
    generation: int
    prev: tuple[bytes, ...]
    is_unknown: bool  # state has no row of it


class Recorder:
    """Records one bunch of acts. Made anew for each bunch; use record()."""

    def __init__(self, folder: StoredFolder, wall_ms: int, covered_seq: int) -> None:
        """Look at the folder as it is now, inside a transaction.

        `covered_seq` is the greatest seq of our own log that any peer is known to have (-1: none).
        """
        self._folder = folder
        self._state = folder.state
        self._synced = folder.synced
        self._wall_ms = wall_ms
        self._covered_seq = covered_seq
        self._may_write = may_write(folder.own_member())
        self._writer: OwnWriter = folder.writer()
        self._rows: list[SyncedRow] = []
        self._removed: list[tuple[int, bytes]] = []
        self._known: dict[int, ObjectRow] = {}  # of the objects that the acts are about
        self._moves_paths = False  # whether a directory is among the rows
        self._new_rows: list[SyncedRow] = []  # of objects that state does not know yet
        self._made: dict[int, bytes] = {}  # directories made in this bunch: number -> id
        self._deleted_directories: dict[bytes, dict[int, EventId]] = {}  # path -> deletions
        self._deleted: dict[int, EventId] = {}  # objects deleted in this bunch
        self._kept_heads: dict[int, dict[bytes, EventId]] = {}  # object -> value -> made a head
        self._moved_away: set[int] = set()  # objects moved in this bunch
        self._entries: dict[int, dict[bytes, Entry]] = {}
        self.result = Recorded()

    def record(self, acts: Sequence[Act]) -> Recorded:
        """Record acts in their order and bring log, state and synced in line."""
        acts = self._fresh(acts)
        nos = {row.object_no for act in acts if not isinstance(act, Created) for row in act.rows}
        self._known = self._state.rows(sorted(nos))  # state stays as it is until _finish()
        self._entries = self._view_of(
            {
                row.object_no
                for act in acts
                if not isinstance(act, Created)
                for row in act.rows
                if row.copy != PRIMARY or not isinstance(act, Deleted)  # see _is_gone()
            }
        )
        creates: list[Created] = []
        for act in acts:
            if isinstance(act, Created) and act.looked.stat.kind != FileKind.DIRECTORY:
                creates.append(act)
                continue
            if creates and isinstance(act, Created):
                self._create_all(creates)
                creates = []
            self._take(act)
        self._create_all(creates)
        self._finish()
        return self.result

    # -- freshness ----------------------------------------------------------------------------

    def _fresh(self, acts: Sequence[Act]) -> list[Act]:
        """Leave out acts whose synced rows changed since the look: they are looked at again."""
        rows = [row for act in acts if not isinstance(act, Created) for row in act.rows]
        deleted = {
            row.object_no
            for act in acts
            if isinstance(act, Deleted)
            for row in act.rows
            if row.kind is Kind.DIRECTORY
        }
        below = self._synced.rows_below(sorted(deleted))
        nos = {row.object_no for row in rows}.difference([row.object_no for row in below])
        current = {(r.object_no, r.copy): r for r in self._synced.rows_of(sorted(nos))}
        current.update([((row.object_no, row.copy), row) for row in below])
        changed = {
            (row.object_no, row.copy)
            for row in rows
            if current.get((row.object_no, row.copy)) != row
        }
        if not changed:
            return self._without_orphans(list(acts), below)
        found: list[Act] = []
        for act in acts:
            if isinstance(act, Created) or not any(
                (row.object_no, row.copy) in changed for row in act.rows
            ):
                found.append(act)
            else:
                self.result.look_again.append(act.target if isinstance(act, Moved) else act.path)
        return self._without_orphans(found, below)

    def _without_orphans(self, acts: list[Act], below: Sequence[SyncedRow]) -> list[Act]:
        """Leave out the deletion of a directory that would leave rows below it behind.

        Something in it was not judged, since apply was at work there: both are looked at again.
        `below` are the rows below all directories that acts delete.
        """
        if not below:
            return acts
        deleted = [act for act in acts if isinstance(act, Deleted)]
        leaving = {
            (row.object_no, row.copy)
            for act in acts
            if isinstance(act, Deleted | Moved)
            for row in act.rows
        }
        staying = {
            row.parent_no
            for row in below
            if (row.object_no, row.copy) not in leaving
        }
        kept: set[bytes] = set()
        for act in sorted(deleted, key=lambda each: each.path, reverse=True):
            if any(row.object_no in staying for row in act.rows):
                kept.add(act.path)
                staying.update(row.parent_no for row in act.rows)
                self.result.look_again.append(act.path)
        return [act for act in acts if not (isinstance(act, Deleted) and act.path in kept)]

    def _view_of(self, nos: set[int]) -> dict[int, dict[bytes, Entry]]:
        entries: dict[int, dict[bytes, Entry]] = {}
        if nos:
            for entry in self._folder.view().entries(Changes(nos, set()))[1]:
                entries.setdefault(entry.object_no, {})[entry.copy] = entry
        return entries

    # -- one act ------------------------------------------------------------------------------

    def _take(self, act: Act) -> None:
        match act:
            case Created():
                self._create_directory(act)
            case Edited():
                self._edit(act)
            case Moved():
                self._move(act)
            case Deleted():
                self._delete(act)
            case Touched():
                self._touch(act)

    def _refused(self, path: bytes) -> bool:
        """Whether this node may not write here: then the act stays a local change."""
        if self._may_write:
            return False
        self.result.local_changes.append(path)
        return True

    def _cannot_place(self, paths: Sequence[bytes]) -> None:
        """Look again where synced knows no directory; a reader's own ones it never will."""
        (self.result.look_again if self._may_write else self.result.local_changes).extend(paths)

    def _edit(self, act: Edited) -> None:
        rows = self._by_precedence(act.rows)
        bound = [row for row in rows if self._binds_head(row, act.looked)]
        if bound:
            if self._may_write:  # the other objects of this path have no file any more
                for row in rows:
                    if row not in bound:
                        self._delete_row(row)
            return
        if self._refused(act.path):
            return
        for index, row in enumerate(rows):
            if row.copy != PRIMARY:
                if index == 0:
                    self._create_at(act.path, act.looked)
                self._delete_row(row)
            elif index == 0:
                self._keep_others(row)
                event = self._writer.add(
                    encode(
                        ContentChanged(
                            object=self._id_of(row.object_no),
                            content=_content(act.looked),
                            mtime_ns=act.looked.stat.mtime_ns,
                            prev=self._prev(row),
                        )
                    )
                )
                self._put(row, act.looked, events=event, shared_mtime_ns=act.looked.stat.mtime_ns)
                self._note_mode(row, act.looked)
            else:
                self._delete_row(row)

    def _move(self, act: Moved) -> None:
        parent_path, _, name = act.target.rpartition(b"/")
        parents = self._directories_at(parent_path)
        if not parents:
            self._cannot_place([act.target])
            return
        is_first = True
        for row in self._by_precedence(act.rows):
            entry = self._entries.get(row.object_no, {}).get(row.copy)
            if entry is not None and self._stands_at(entry, parent_path, name):
                self._rebind_place(row, act, entry)
                continue
            if self._refused(act.target):
                return
            if row.copy != PRIMARY or self._is_unheard(row):
                if is_first:
                    self._create_at(act.target, act.looked)
                self._delete_row(row)
            else:
                event = self._writer.add(
                    encode(
                        ObjectMoved(
                            object=self._id_of(row.object_no),
                            parent=parents[0],
                            name=name,
                            prev=self._prev(row),
                        )
                    )
                )
                self._moved_away.add(row.object_no)
                moved = msgspec.structs.replace(
                    row,
                    parent_no=self._folder.number_of(parents[0]),
                    name=name,
                    placement=event,
                )
                self._after_move(moved, act.looked)
            is_first = False

    def _after_move(self, row: SyncedRow, looked: Looked) -> None:
        if row.kind != Kind.DIRECTORY and looked.value != row.value:
            self._keep_others(row)
            event = self._writer.add(
                encode(
                    ContentChanged(
                        object=self._id_of(row.object_no),
                        content=_content(looked),
                        mtime_ns=looked.stat.mtime_ns,
                        prev=self._prev(row),
                    )
                )
            )
            self._put(row, looked, events=event, shared_mtime_ns=looked.stat.mtime_ns)
            self._note_mode(row, looked)
            return
        self._attributes(row, looked)

    def _rebind_place(self, row: SyncedRow, act: Moved, entry: Entry) -> None:
        """Take a move for what it is: state says the same already."""
        moved = msgspec.structs.replace(
            row, parent_no=entry.parent_no, name=entry.name, placement=entry.placement
        )
        self.result.bound += 1
        has_new_bytes = row.kind != Kind.DIRECTORY and act.looked.value != row.value
        if has_new_bytes and self._refused(act.target):
            return
        self._after_move(moved, act.looked)

    def _delete(self, act: Deleted) -> None:
        along = self._deleted_directories.get(act.path.rpartition(b"/")[0], {})
        for row in self._by_precedence(act.rows):
            if row.leftover or self._is_gone(row):
                self._removed.append((row.object_no, row.copy))  # state says so already
                continue
            if self._refused(act.path):
                return
            event = self._delete_row(row, self._along(row, along))
            if row.kind == Kind.DIRECTORY:
                deletions = self._deleted_directories.setdefault(act.path, {})
                deletions[row.object_no] = event

    def _is_gone(self, row: SyncedRow) -> bool:
        """Whether the view has nothing of what this row stood for."""
        if row.copy == PRIMARY:  # what is visible has an entry
            known = self._known.get(row.object_no)
            return known is None or not self._state.is_visible(known)
        entries = self._entries.get(row.object_no)
        if not entries:
            return True
        if row.copy in entries:
            return False
        # The copy may stand under another name by now, or have become the file itself.
        shown = {head.event_id for head in self._state.heads(row.object_no) if head.is_shown}
        shown.update(_split(entries[PRIMARY].events))
        return shown.isdisjoint(_split(row.events))

    def _along(self, row: SyncedRow, deletions: dict[int, EventId]) -> EventId | None:
        """Give the deletion of the directory that holds an object, of all at its path."""
        if len(deletions) > 1:
            current = self._state.rows([row.object_no]).get(row.object_no)
            if current is not None and current.parent_no in deletions:
                return deletions[current.parent_no]
        return next(iter(deletions.values()), None)

    def _delete_row(self, row: SyncedRow, along: EventId | None = None) -> EventId:
        event = self._writer.add(
            encode(
                ObjectDeleted(
                    object=self._id_of(row.object_no),
                    prev=self._prev_of_deletion(row),
                    placement_seen=row.placement or None,
                    along_with=along,
                )
            )
        )
        self._removed.append((row.object_no, row.copy))
        if row.copy == PRIMARY:
            self._deleted[row.object_no] = event
        return event

    def _touch(self, act: Touched) -> None:
        for row in act.rows:
            self._attributes(row, act.looked)

    def _attributes(self, row: SyncedRow, looked: Looked) -> None:
        """Record a changed executable bit or time; the rest of stat is only noted."""
        mode = int(looked.stat.is_executable)
        entry = self._entries.get(row.object_no, {}).get(row.copy)
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
        if (new_mode is not None or new_mtime is not None) and self._may_write:
            self._writer.add(
                encode(
                    AttributesChanged(
                        object=self._id_of(row.object_no),
                        mode=new_mode,
                        mtime_ns=new_mtime,
                        extended=None,
                    )
                )
            )
            if new_mtime is not None:
                shared_mtime_ns = new_mtime
        self._put(row, looked, events=row.events, shared_mtime_ns=shared_mtime_ns)

    def _note_mode(self, row: SyncedRow, looked: Looked) -> None:
        mode = int(looked.stat.is_executable)
        if row.kind == Kind.FILE and mode != row.mode:
            self._writer.add(
                encode(
                    AttributesChanged(
                        object=self._id_of(row.object_no), mode=mode, mtime_ns=None, extended=None
                    )
                )
            )

    # -- creating -----------------------------------------------------------------------------

    def _create_directory(self, act: Created) -> None:
        parent_path, _, name = act.path.rpartition(b"/")
        parents = self._directories_at(parent_path)
        if not parents:
            self._cannot_place([act.path])
            return
        if self._synced.rows_at(act.path):
            self.result.look_again.append(act.path)
            return
        entries = self._visible_at(parents, [name])
        same = [e for e in entries.get(name, ()) if e.kind == Kind.DIRECTORY]
        if same:
            for entry in same:
                self._bind(entry, act.looked)
            return
        self._create_at(act.path, act.looked)

    def _create_all(self, acts: Sequence[Created]) -> None:
        """Create files and symlinks, directory by directory, in bulk."""
        by_parent: dict[bytes, list[tuple[bytes, Created]]] = {}
        for act in acts:
            parent_path, _, name = act.path.rpartition(b"/")
            by_parent.setdefault(parent_path, []).append((name, act))
        self._flush()  # what earlier acts put there; of these, no two have one place
        for parent_path, named in by_parent.items():
            parents = self._directories_at(parent_path)
            if not parents:
                self._cannot_place([act.path for _, act in named])
                continue
            names = [name for name, _ in named]
            known = self._known_names(parents, names)
            entries = self._visible_at(parents, names)
            fresh: list[tuple[bytes, Created]] = []
            for name, act in named:
                if name in known:
                    self.result.look_again.append(act.path)
                elif not self._binds(entries.get(name, ()), act.looked):
                    fresh.append((name, act))
            if fresh and not self._may_write:
                self.result.local_changes.extend(act.path for _, act in fresh)
            elif fresh:
                self._write_creates(parents[0], fresh)

    def _known_names(self, parents: Sequence[bytes], names: Sequence[bytes]) -> set[bytes]:
        nos = [no for p in parents if (no := self._state.directory_nos.get(p)) is not None]
        return self._synced.names_in(nos, names)

    def _binds(self, entries: Iterable[Entry], looked: Looked) -> bool:
        """Bind a new file to what the view wants there, if that has the same bytes."""
        same = [
            entry
            for entry in entries
            if int(entry.kind) == int(looked.stat.kind) and entry.value == looked.value
        ]
        for entry in same:
            self._bind(entry, looked)
        return bool(same)

    def _bind(self, entry: Entry, looked: Looked) -> None:
        stat = looked.stat
        self._add_row(
            SyncedRow(
                object_no=entry.object_no,
                copy=entry.copy,
                parent_no=entry.parent_no,
                name=entry.name,
                kind=entry.kind,
                value=entry.value,
                inode=stat.inode,
                size=stat.size,
                mtime_ns=stat.mtime_ns,
                ctime_ns=stat.ctime_ns,
                mode=int(stat.is_executable) if entry.kind == Kind.FILE else entry.mode,
                looked_at_ns=looked.looked_at_ns,
                shared_mtime_ns=entry.mtime_ns,
                events=entry.events,
                placement=entry.placement,
            )
        )
        self.result.bound += 1

    def _create_at(self, path: bytes, looked: Looked) -> None:
        parent_path, _, name = path.rpartition(b"/")
        parents = self._directories_at(parent_path)
        if not parents:
            self._cannot_place([path])
        elif not self._refused(path):
            act = Created(path, looked)
            self._write_creates(parents[0], [(name, act)])

    def _write_creates(self, parent: bytes, named: Sequence[tuple[bytes, Created]]) -> None:
        """Write ObjectCreated for new names in one directory, and their rows."""
        parent_no = self._folder.number_of(parent)
        for new, (_, act) in zip(self._new_objects(parent, named), named, strict=True):
            event = self._writer.add(encode(_created(parent, new, act.looked)))
            row = new_row(new.no, parent_no, new.name, act.looked, event)
            if new.is_unknown:
                self._writer.creates(event, new.identity)
                self._new_rows.append(row)
                self._moves_paths |= row.kind is Kind.DIRECTORY
            else:
                self._add_row(row)
            if row.kind is Kind.DIRECTORY:  # what is below must find it
                self._made[new.no] = new.identity

    def _new_objects(self, parent: bytes, named: Sequence[tuple[bytes, Created]]) -> list[_New]:
        """Find id, generation and prev for each new name, in their order.

        The generation is the smallest whose object was never moved away from that name, nor
        stands elsewhere on this disk, as the loser of a name does; an object that was deleted
        there is created again, naming the deletions seen.
        """
        found: dict[bytes, _New] = {}
        open_names = {name: int(act.looked.stat.kind) for name, act in named}
        folder, directory = self._folder.id, ObjectId(parent)
        generation = 0
        while open_names:
            ids = {
                object_id(folder, directory, kind, generation, name): name
                for name, kind in open_names.items()
            }
            known = self._state.rows_by_id(list(ids))
            for identity, name in ids.items():
                row = known.get(identity)
                if row is None:
                    no = self._state.reserve(identity)
                    found[name] = _New(name, identity, no, generation, (), is_unknown=True)
                    continue
                if row.no in self._deleted:
                    prev: tuple[bytes, ...] = (self._deleted[row.no],)
                elif (
                    row.last_move is None
                    and row.no not in self._moved_away
                    and not self._stands_here(row)
                ):
                    prev = self._deletions_seen(row)
                else:
                    continue
                found[name] = _New(name, identity, row.no, generation, prev, is_unknown=False)
            open_names = {n: kind for n, kind in open_names.items() if n not in found}
            generation += 1
        return [found[name] for name, _ in named]

    def _stands_here(self, row: ObjectRow) -> bool:
        """Whether this disk has the object at all; it is not at the name to be created."""
        return any(
            synced.copy == PRIMARY and not synced.leftover
            for synced in self._synced.rows_of([row.no])
        )

    def _deletions_seen(self, row: ObjectRow) -> tuple[bytes, ...]:
        """Name the deletions that a new file replaces; a joiner has seen none."""
        if self._folder.is_joining:
            return ()
        if row.flags & MANY:
            return tuple(
                h.event_id for h in self._state.heads(row.no) if h.is_head and h.is_deletion
            )[:_PREV_LIMIT]
        return () if row.flags & ALIVE else (row.head_event,)

    # -- looking things up --------------------------------------------------------------------

    def _directories_at(self, path: bytes) -> list[bytes]:
        """Give the ids of the directories at a path of this disk, the representative first."""
        if self._moves_paths or self._removed:
            self._flush()
        nos = self._synced.directories_at(path)
        directories = self._state.directories
        known = [directories[no] for no in nos if no in directories]
        known.sort(key=lambda d: (d.place_key or b"", d.id))
        return [d.id for d in known] + [self._made[no] for no in nos if no in self._made]

    def _visible_at(
        self, parents: Sequence[bytes], names: Sequence[bytes]
    ) -> dict[bytes, list[Entry]]:
        """Ask the view what it wants at some names of one directory, and is nowhere here yet."""
        nos = [no for p in parents if (no := self._state.directory_nos.get(p)) is not None]
        if not nos or not self._folder.has_anything_in(nos):
            return {}
        # The view is that of before this bunch: what it moved away or deleted stands there still.
        left = self._moved_away | self._deleted.keys()
        found = self._folder.entries_at(nos, names)
        # What stands elsewhere on this disk still, since apply has not moved it yet, is not this
        # one: its row would leave a file or directory behind that nothing tells of.
        wanted = {entry.object_no for entries in found.values() for entry in entries}
        here = {(row.object_no, row.copy) for row in self._synced.rows_of(sorted(wanted))}
        return {
            name: [
                entry
                for entry in entries
                if entry.object_no not in left and (entry.object_no, entry.copy) not in here
            ]
            for name, entries in found.items()
        }

    def _stands_at(self, entry: Entry, parent_path: bytes, name: bytes) -> bool:
        if entry.name != name:
            return False
        nos = self._synced.directories_at(parent_path)
        return entry.parent_no in nos

    def _by_precedence(self, rows: Sequence[SyncedRow]) -> list[SyncedRow]:
        """Order collapsed objects: the representative (least placement key, then id) first."""
        if len(rows) == 1:
            return list(rows)
        known = self._state.rows([row.object_no for row in rows])
        return sorted(
            rows,
            key=lambda row: (
                row.copy != PRIMARY,
                known[row.object_no].place_key or b"",
                known[row.object_no].id,
            ),
        )

    def _id_of(self, no: int) -> bytes:
        known = self._known.get(no)
        return self._folder.id_of(no) if known is None else known.id

    def _prev(self, row: SyncedRow) -> tuple[bytes, ...]:
        return prev_of(self._state, row, self._known.get(row.object_no))

    def _prev_of_deletion(self, row: SyncedRow) -> tuple[bytes, ...]:
        """Give what a deletion replaces: all that a file held, or the one head of a copy.

        The versions of an object that only void deletions keep are no heads: the deletion of
        one of them makes heads of the others first, or all would go with it.
        """
        self._keep_others(row)
        made = self._kept_heads[row.object_no].get(row.value)
        if made is not None:  # an earlier act of this bunch made it a head
            return (made, *_split(row.events))[:_PREV_LIMIT]
        return self._prev(row) if row.copy == PRIMARY else _split(row.events)[:_PREV_LIMIT]

    def _keep_others(self, row: SyncedRow) -> None:
        """Make heads of the other versions that only void deletions keep, before an act on one."""
        if row.object_no in self._kept_heads:
            return
        made = self._kept_heads.setdefault(row.object_no, {})
        known = self._known.get(row.object_no)
        if known is not None and not known.flags & MANY:
            return  # it has one version
        heads = self._state.heads(row.object_no)
        if not heads or any(head.is_head and not head.is_deletion for head in heads):
            return
        deletions = tuple(head.event_id for head in heads if head.is_head)[:_PREV_LIMIT]
        for head in heads:
            if head.is_shown and head.value != row.value and head.value not in made:
                made[head.value] = self._writer.add(
                    encode(
                        ContentChanged(
                            object=self._id_of(row.object_no),
                            content=self._content_of(row, head),
                            mtime_ns=head.mtime_ns,
                            prev=deletions,
                        )
                    )
                )

    @staticmethod
    def _content_of(row: SyncedRow, head: HeadRow) -> Content | bytes:
        if row.kind == Kind.SYMLINK:
            return head.value
        return Content(hash=head.value, size=head.size)

    def _binds_head(self, row: SyncedRow, looked: Looked) -> bool:
        """Bind an edit to a current head of the same bytes: somebody made it already."""
        if row.copy != PRIMARY:
            return False
        current = self._state.rows([row.object_no]).get(row.object_no)
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
                    for head in self._state.heads(row.object_no)
                    if head.is_head and not head.is_deletion and head.value == looked.value
                )
            )
        elif current.value == looked.value:
            events = current.head_event
        if not events:
            return False
        self._put(row, looked, events=events, shared_mtime_ns=mtime_ns)
        self.result.bound += 1
        return True

    def _is_unheard(self, row: SyncedRow) -> bool:
        """Whether no peer can know this object yet: then a rename makes another one.

        Two people's `New Folder`, each renamed at once, must not become one object. Only for a
        file or an empty directory that we created in the last ten minutes.
        """
        current = self._state.rows([row.object_no]).get(row.object_no)
        if (
            current is None
            or current.last_move is not None
            or current.flags & (MANY | HAD_DELETION)
            or not current.flags & ALIVE
        ):
            return False
        if row.kind == Kind.DIRECTORY and self._folder.has_anything_in([row.object_no]):
            return False
        for fact in self._state.facts(row.object_no):
            own = self._folder.own_batch(fact.key)
            if own is None or own[0] <= self._covered_seq:
                return False
            is_recent = 0 <= self._wall_ms - own[1] < _UNHEARD_MS
            if isinstance(fact.event, ObjectCreated) and not is_recent:
                return False
        return True

    # -- writing ------------------------------------------------------------------------------

    def _put(self, row: SyncedRow, looked: Looked, *, events: bytes, shared_mtime_ns: int) -> None:
        stat = looked.stat
        is_directory = row.kind == Kind.DIRECTORY
        self._add_row(
            SyncedRow(
                object_no=row.object_no,
                copy=row.copy,
                parent_no=row.parent_no,
                name=row.name,
                kind=row.kind,
                value=b"" if is_directory else looked.value,
                inode=stat.inode,
                size=stat.size,
                mtime_ns=stat.mtime_ns,
                ctime_ns=stat.ctime_ns,
                mode=int(stat.is_executable) if row.kind == Kind.FILE else row.mode,
                looked_at_ns=looked.looked_at_ns,
                shared_mtime_ns=shared_mtime_ns,
                events=events,
                placement=row.placement,
            )
        )

    def _add_row(self, row: SyncedRow) -> None:
        self._rows.append(row)
        self._moves_paths |= row.kind == Kind.DIRECTORY

    def _flush(self) -> None:
        """Bring synced in line so far: later acts of this bunch look paths up there."""
        self._moves_paths = False
        if self._removed:
            self._synced.remove(self._removed)
            self._removed = []
        if self._rows:
            self._synced.put(self._rows)
            self._rows = []
        if self._new_rows:
            self._synced.add(self._new_rows)
            self._new_rows = []

    def _finish(self) -> None:
        self._flush()
        with self._state.lent(self._known.values()):
            self.result.batches = self._writer.write(self._wall_ms, self._folder.fold)
        if self._writer.unmade:  # a void batch: nothing on disk agrees with a state without it
            self._synced.remove(
                [(self._state.reserve(identity), PRIMARY) for identity in self._writer.unmade]
            )


def prev_of(
    state: FolderState, row: SyncedRow, current: ObjectRow | None = None
) -> tuple[bytes, ...]:
    """Give what this disk held: the row's events and every current head of the same bytes.

    `current` is the row of state, where the caller has it.
    """
    prev = dict.fromkeys(_split(row.events))
    if current is None:
        current = state.rows([row.object_no]).get(row.object_no)
    if current is not None:
        if current.flags & MANY:
            for head in state.heads(row.object_no):
                if head.is_head and not head.is_deletion and head.value == row.value:
                    prev[EventId(head.event_id)] = None
        elif current.flags & ALIVE and current.value == row.value:
            prev[current.head_event] = None
    return tuple(prev)[:_PREV_LIMIT]


def new_row(no: int, parent_no: int, name: bytes, looked: Looked, event: EventId) -> SyncedRow:
    """Give the row of what was created by this event and never moved."""
    stat = looked.stat
    is_directory = stat.kind == FileKind.DIRECTORY
    return SyncedRow(
        object_no=no,
        copy=PRIMARY,
        parent_no=parent_no,
        name=name,
        kind=_KINDS[stat.kind],
        value=b"" if is_directory else looked.value,
        inode=stat.inode,
        size=0 if is_directory else stat.size,
        mtime_ns=stat.mtime_ns,
        ctime_ns=stat.ctime_ns,
        mode=_mode_of(stat),
        looked_at_ns=looked.looked_at_ns,
        shared_mtime_ns=0 if is_directory else stat.mtime_ns,
        events=event,
        placement=b"",
    )


def _created(parent: bytes, new: _New, looked: Looked) -> ObjectCreated:
    stat = looked.stat
    is_directory = stat.kind == FileKind.DIRECTORY
    return ObjectCreated(
        parent=parent,
        kind=int(stat.kind),
        generation=new.generation,
        name=new.name,
        content=None if is_directory else _content(looked),
        mode=_mode_of(stat),
        mtime_ns=0 if is_directory else stat.mtime_ns,
        prev=new.prev,
    )


def _mode_of(stat: Stat) -> int:
    return int(stat.is_executable) if stat.kind == FileKind.FILE else 0


def _content(looked: Looked) -> Content | bytes:
    if int(looked.stat.kind) == Kind.SYMLINK:
        return looked.value
    return Content(hash=looked.value, size=looked.stat.size)


def _split(events: bytes) -> tuple[bytes, ...]:
    return tuple(events[start : start + 32] for start in range(0, len(events), 32))
