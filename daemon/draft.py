"""Hold what a bunch of acts has come to so far: events, rows for synced, and what was looked up.

The acts of a bunch follow each other: what one made, moved or deleted is there, or gone, for the
next, while the state and the view stay as they were before the bunch until finish(). It decides
nothing about acts: daemon.creations and daemon.alterations do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from daemon.disk import Looked
from store.access import may_write
from store.events import Event, encode
from store.folder import StoredFolder
from store.ids import EventId, Kind, ObjectId
from store.objects import ObjectRow
from store.own_writer import OwnWriter
from store.records import PRIMARY, Entry, SyncedRow
from store.signing import SignedBatch


@dataclass(slots=True, kw_only=True)
class Recorded:
    """What became of a bunch of acts."""

    batches: list[SignedBatch] = field(default_factory=list)
    look_again: list[bytes] = field(default_factory=list)  # synced changed under the look
    moves_again: list[tuple[bytes, bytes]] = field(default_factory=list)  # so too: both names
    local_changes: list[bytes] = field(default_factory=list)  # a reader's: not recorded
    bound: int = 0


class Draft:
    """What becomes of one bunch of acts. Made anew for each, inside a transaction."""

    def __init__(self, folder: StoredFolder, wall_ms: int, covered_seq: int) -> None:
        """Look at the folder as it is now; see daemon.record.Recorder."""
        self.folder = folder
        self.state = folder.state
        self.synced = folder.synced
        self.wall_ms = wall_ms
        self.covered_seq = covered_seq
        self.may_write = may_write(folder.own_member())
        self.known: dict[int, ObjectRow] = {}  # of the objects that the acts are about
        self.entries: dict[int, dict[bytes, Entry]] = {}  # what the view has of them, by copy
        self.made: dict[int, bytes] = {}  # directories made in this bunch: number -> id
        self.deleted: dict[int, EventId] = {}  # objects deleted in this bunch
        self.moved_away: set[int] = set()  # objects moved in this bunch
        self.result = Recorded()
        self._writer: OwnWriter = folder.writer()
        self._rows: list[SyncedRow] = []
        self._new_rows: list[SyncedRow] = []  # of objects that state does not know yet
        self._removed: list[tuple[int, bytes]] = []
        self._moves_paths = False  # whether a directory is among the rows

    # -- what an act comes to -----------------------------------------------------------------

    def is_refused(self, path: bytes) -> bool:
        """Whether this node may not write here: then the act stays a local change."""
        if self.may_write:
            return False
        self.result.local_changes.append(path)
        return True

    def cannot_place(self, paths: Sequence[bytes]) -> None:
        """Look again where synced knows no directory; a reader's own ones it never will."""
        (self.result.look_again if self.may_write else self.result.local_changes).extend(paths)

    def add(self, event: Event) -> EventId:
        """Take an event and give the id that it will have."""
        return self._writer.add(encode(event))

    def create(self, event: EventId, identity: ObjectId, row: SyncedRow) -> None:
        """Note that this event creates an object that state has no row of."""
        self._writer.creates(event, identity)
        self._new_rows.append(row)
        self._moves_paths |= row.kind is Kind.DIRECTORY

    def put(self, row: SyncedRow, looked: Looked, *, events: bytes, shared_mtime_ns: int) -> None:
        """Keep a row with what a look has found, and the events that say so."""
        stat = looked.stat
        is_directory = row.kind == Kind.DIRECTORY
        self.add_row(
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

    def add_row(self, row: SyncedRow) -> None:
        """Keep a row of an object that state knows."""
        self._rows.append(row)
        self._moves_paths |= row.kind == Kind.DIRECTORY

    def remove(self, row: SyncedRow) -> None:
        """Forget a row of synced: nothing of it is on this disk."""
        self._removed.append((row.object_no, row.copy))

    def flush(self) -> None:
        """Bring synced in line so far: later acts of this bunch look paths up there."""
        self._moves_paths = False
        if self._removed:
            self.synced.remove(self._removed)
            self._removed = []
        if self._rows:
            self.synced.put(self._rows)
            self._rows = []
        if self._new_rows:
            self.synced.add(self._new_rows)
            self._new_rows = []

    def finish(self) -> None:
        """Write synced, and the events as batches that take effect."""
        self.flush()
        with self.state.lent(self.known.values()):
            self.result.batches = self._writer.write(self.wall_ms, self.folder.fold)
        if self._writer.unmade:  # a void batch: nothing on disk agrees with a state without it
            self.synced.remove(
                [(self.state.reserve(identity), PRIMARY) for identity in self._writer.unmade]
            )

    # -- looking things up --------------------------------------------------------------------

    def directories_at(self, path: bytes) -> list[bytes]:
        """Give the ids of the directories at a path of this disk, the representative first."""
        if self._moves_paths or self._removed:
            self.flush()
        nos = self.synced.directories_at(path)
        directories = self.state.directories
        known = [directories[no] for no in nos if no in directories]
        known.sort(key=lambda d: (d.place_key or b"", d.id))
        return [d.id for d in known] + [self.made[no] for no in nos if no in self.made]

    def visible_at(
        self, parents: Sequence[bytes], names: Sequence[bytes]
    ) -> dict[bytes, list[Entry]]:
        """Ask the view what it wants at some names of one directory, and is nowhere here yet."""
        nos = [no for p in parents if (no := self.state.directory_nos.get(p)) is not None]
        if not nos or not self.folder.has_anything_in(nos):
            return {}
        # The view is that of before this bunch: what it moved away or deleted stands there still.
        left = self.moved_away | self.deleted.keys()
        found = self.folder.entries_at(nos, names)
        # What stands elsewhere on this disk still, since apply has not moved it yet, is not this
        # one: its row would leave a file or directory behind that nothing tells of.
        wanted = {entry.object_no for entries in found.values() for entry in entries}
        here = {(row.object_no, row.copy) for row in self.synced.rows_of(sorted(wanted))}
        return {
            name: [
                entry
                for entry in entries
                if entry.object_no not in left and (entry.object_no, entry.copy) not in here
            ]
            for name, entries in found.items()
        }

    def by_precedence(self, rows: Sequence[SyncedRow]) -> list[SyncedRow]:
        """Order collapsed objects: the representative (least placement key, then id) first."""
        if len(rows) == 1:
            return list(rows)
        known = self.state.rows([row.object_no for row in rows])
        return sorted(
            rows,
            key=lambda row: (
                row.copy != PRIMARY,
                known[row.object_no].place_key or b"",
                known[row.object_no].id,
            ),
        )

    def id_of(self, no: int) -> bytes:
        """Give the id of an object by its number."""
        known = self.known.get(no)
        return self.folder.id_of(no) if known is None else known.id
