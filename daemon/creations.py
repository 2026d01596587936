"""Turn what is new on disk into objects, or bind it to what the view wants there.

What the view wants at a name with the same bytes is that: it binds, and is no event. Everything
else becomes an object; where one of the name was deleted, it is created again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from daemon.acts import Created
from daemon.agreeing import row_of
from daemon.disk import FileKind, Looked, Stat
from daemon.draft import Draft
from daemon.previous import PREV_LIMIT
from store.events import Content, ObjectCreated
from store.ids import KINDS, EventId, Kind, ObjectId, object_id
from store.objects import ALIVE, MANY, ObjectRow
from store.records import PRIMARY, Entry, SyncedRow


class _New(Struct, frozen=True, gc=False):
    """A name that becomes an object."""

    name: bytes
    identity: ObjectId
    no: int
    generation: int
    prev: tuple[bytes, ...]
    is_unknown: bool  # state has no row of it


class Creations:
    """Records what was created in one bunch of acts."""

    def __init__(self, draft: Draft) -> None:
        """Write into this draft."""
        self._draft = draft

    def directory(self, act: Created) -> None:
        """Create or bind one directory."""
        parent_path, _, name = act.path.rpartition(b"/")
        parents = self._draft.directories_at(parent_path)
        if not parents:
            self._draft.cannot_place([act.path])
            return
        if self._draft.synced.rows_at(act.path):
            self._draft.result.look_again.append(act.path)
            return
        entries = self._draft.visible_at(parents, [name])
        same = [e for e in entries.get(name, ()) if e.kind == Kind.DIRECTORY]
        if same:
            for entry in same:
                self._bind(entry, act.looked)
            return
        self.at(act.path, act.looked)

    def files(self, acts: Sequence[Created]) -> None:
        """Create files and symlinks, directory by directory, in bulk."""
        by_parent: dict[bytes, list[tuple[bytes, Created]]] = {}
        for act in acts:
            parent_path, _, name = act.path.rpartition(b"/")
            by_parent.setdefault(parent_path, []).append((name, act))
        self._draft.flush()  # what earlier acts put there; of these, no two have one place
        for parent_path, named in by_parent.items():
            parents = self._draft.directories_at(parent_path)
            if not parents:
                self._draft.cannot_place([act.path for _, act in named])
                continue
            names = [name for name, _ in named]
            known = self._known_names(parents, names)
            entries = self._draft.visible_at(parents, names)
            fresh: list[tuple[bytes, Created]] = []
            for name, act in named:
                if name in known:
                    self._draft.result.look_again.append(act.path)
                elif not self._binds(entries.get(name, ()), act.looked):
                    fresh.append((name, act))
            if fresh and not self._draft.may_write:
                self._draft.result.local_changes.extend(act.path for _, act in fresh)
            elif fresh:
                self._write_creates(parents[0], fresh)

    def at(self, path: bytes, looked: Looked) -> None:
        """Create an object at a path, whatever the view wants there."""
        parent_path, _, name = path.rpartition(b"/")
        parents = self._draft.directories_at(parent_path)
        if not parents:
            self._draft.cannot_place([path])
        elif not self._draft.is_refused(path):
            act = Created(path, looked)
            self._write_creates(parents[0], [(name, act)])

    def _known_names(self, parents: Sequence[bytes], names: Sequence[bytes]) -> set[bytes]:
        nos = [no for p in parents if (no := self._draft.state.directory_nos.get(p)) is not None]
        return self._draft.synced.names_in(nos, names)

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
        row = row_of(entry, looked.stat, looked.looked_at_ns)
        if entry.kind == Kind.FILE:
            row = replace(row, mode=int(looked.stat.is_executable))
        self._draft.add_row(row)
        self._draft.result.bound += 1

    def _write_creates(self, parent: bytes, named: Sequence[tuple[bytes, Created]]) -> None:
        """Write ObjectCreated for new names in one directory, and their rows."""
        parent_no = self._draft.folder.number_of(parent)
        for new, (_, act) in zip(self._new_objects(parent, named), named, strict=True):
            event = self._draft.add(_created(parent, new, act.looked))
            row = new_row(new.no, parent_no, new.name, act.looked, event)
            if new.is_unknown:
                self._draft.create(event, new.identity, row)
            else:
                self._draft.add_row(row)
            if row.kind is Kind.DIRECTORY:  # what is below must find it
                self._draft.made[new.no] = new.identity

    def _new_objects(self, parent: bytes, named: Sequence[tuple[bytes, Created]]) -> list[_New]:
        """Find id, generation and prev for each new name, in their order.

        The generation is the smallest whose object was never moved away from that name, nor
        stands elsewhere on this disk, as the loser of a name does; an object that was deleted
        there is created again, naming the deletions seen.
        """
        found: dict[bytes, _New] = {}
        open_names = {name: int(act.looked.stat.kind) for name, act in named}
        folder, directory = self._draft.folder.id, ObjectId(parent)
        generation = 0
        while open_names:
            ids = {
                object_id(folder, directory, kind, generation, name): name
                for name, kind in open_names.items()
            }
            known = self._draft.state.rows_by_id(list(ids))
            for identity, name in ids.items():
                row = known.get(identity)
                if row is None:
                    no = self._draft.state.reserve(identity)
                    found[name] = _New(name, identity, no, generation, (), is_unknown=True)
                    continue
                if row.no in self._draft.deleted:
                    prev: tuple[bytes, ...] = (self._draft.deleted[row.no],)
                elif (
                    row.last_move is None
                    and row.no not in self._draft.moved_away
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
            for synced in self._draft.synced.rows_of([row.no])
        )

    def _deletions_seen(self, row: ObjectRow) -> tuple[bytes, ...]:
        """Name the deletions that a new file replaces; a joiner has seen none."""
        if self._draft.folder.is_joining:
            return ()
        if row.flags & MANY:
            return tuple(
                h.event_id for h in self._draft.state.heads(row.no) if h.is_head and h.is_deletion
            )[:PREV_LIMIT]
        return () if row.flags & ALIVE else (row.head_event,)


def new_row(no: int, parent_no: int, name: bytes, looked: Looked, event: EventId) -> SyncedRow:
    """Give the row of what was created by this event and never moved."""
    stat = looked.stat
    is_directory = stat.kind == FileKind.DIRECTORY
    return SyncedRow(
        object_no=no,
        copy=PRIMARY,
        parent_no=parent_no,
        name=name,
        kind=KINDS[stat.kind],
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
        content=None if is_directory else content_of(looked),
        mode=_mode_of(stat),
        mtime_ns=0 if is_directory else stat.mtime_ns,
        prev=new.prev,
    )


def _mode_of(stat: Stat) -> int:
    return int(stat.is_executable) if stat.kind == FileKind.FILE else 0


def content_of(looked: Looked) -> Content | bytes:
    """Give what an event says of what a look has read: of a link its target."""
    if int(looked.stat.kind) == Kind.SYMLINK:
        return looked.value
    return Content(hash=looked.value, size=looked.stat.size)
