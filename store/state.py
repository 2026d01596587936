"""Fold applied batches into the state of a folder, touching only what they name.

The rules are in store.fold (one object) and store.placement (directories). This module finds
the rows, takes the short way where an event plainly follows what is known, and folds an object
from all its events where it does not. Both ways give the same rows; `rebuild` proves it.

It does not decide names: that is store.view, from these rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter

import msgspec
from blake3 import blake3
from msgspec import Struct
from msgspec.structs import astuple

from store.codec import decode_header
from store.db import Database, chunked
from store.events import (
    FIRST_FOLDER_TAG,
    AttributesChanged,
    ContentChanged,
    Event,
    ObjectCreated,
    ObjectDeleted,
    ObjectMoved,
    decode,
    tag_of,
)
from store.facts import FactReader
from store.fold import Fact, Folded, fold, value_of
from store.ids import KINDS, FolderId, Kind, ObjectId, object_id
from store.log import AppliedBatch
from store.placement import Directories, Directory, DirectoryMove, Slot

STATE_VERSION = 1
BUCKETS = 4096
UNSAVED_LIMIT = 64  # a start hashes so many again: less than a millisecond
_DIGEST = 32

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
_placement = attrgetter(*_PLACEMENT)
_version = attrgetter(*_VERSION)


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


class FolderState:
    """The state of one folder. Owned by the database thread; write inside a transaction.

    After an exception the memory may be ahead of the database: make a new one.
    """

    def __init__(self, database: Database, folder_no: int, folder: FolderId, root_no: int) -> None:
        """Load the directories; files stay in the database."""
        self._db = database
        self.folder_no = folder_no
        self.folder = folder
        self.root_no = root_no
        self.directories = Directories(root_no, ObjectId(folder))
        self.directory_nos: dict[bytes, int] = {folder: root_no}
        self.changes = Changes(set(), set())
        self.ignored_events = 0
        self._void: set[bytes] = set()
        self._dirty_buckets: set[int] = set()
        self._bucket_hashes = bytearray(BUCKETS * _DIGEST)
        self._unsaved: dict[int, bytes] = {}  # hashes that wait for the next transaction
        self._root: bytes | None = None  # of these hashes, while none is dirty
        self._has_waiting = False
        self._unions: dict[int, frozenset[int]] = {}  # directories that share their path
        self._facts = FactReader(database)
        self._kept_nos: dict[bytes, int] = {}
        self._lent: dict[bytes, ObjectRow] = {}
        self._load()

    def _load(self) -> None:
        db = self._db
        directories = self.directories
        rows = db.execute(
            "SELECT no, id, coalesce(base_parent_no, parent_no), coalesce(base_name, name), flags"
            " FROM object WHERE folder_no = ? AND kind = 1 AND no != ?",
            (self.folder_no, self.root_no),
        )
        for no, identity, parent_no, name, flags in rows:
            directories.add(
                Directory(no, identity, parent_no, name, None, None, bool(flags & ALIVE))
            )
            self.directory_nos[identity] = no
        for key, object_no, parent_no, name, event in db.execute(
            "SELECT key, object_no, parent_no, name, event_id FROM directory_move"
            " WHERE folder_no = ?",
            (self.folder_no,),
        ):
            directories.load_move(DirectoryMove(key, object_no, parent_no, name, event))
        directories.replay()
        for parent_no, count in db.execute(
            "SELECT parent_no, count(*) FROM object"
            " WHERE folder_no = ? AND kind != 1 AND flags & 1 GROUP BY parent_no",
            (self.folder_no,),
        ):
            directories[parent_no].visible_children = count
        self._recount([directory.no for directory in directories])
        self._load_unions()
        self.changes = Changes(set(), set())
        self._void = {
            row[0]
            for row in db.execute(
                "SELECT v.event_id FROM void_deletion v JOIN object o ON o.no = v.object_no"
                " WHERE o.folder_no = ?",
                (self.folder_no,),
            )
        }
        self._load_hashes()
        self._has_waiting = (
            db.execute(
                "SELECT 1 FROM waitingevent WHERE folder_no = ? LIMIT 1", (self.folder_no,)
            ).fetchone()
            is not None
        )

    # -- reading ------------------------------------------------------------------------------

    def rows(self, nos: Sequence[int]) -> dict[int, ObjectRow]:
        """Read the rows of objects by number; unknown ones are left out."""
        found: dict[int, ObjectRow] = {}
        for marks, part in chunked(nos):
            for row in self._db.execute(
                f"SELECT {OBJECT_COLUMNS} FROM object WHERE no IN ({marks})", part
            ):
                found[row[0]] = ObjectRow(*row)
        return found

    def rows_by_id(self, ids: Sequence[bytes]) -> dict[bytes, ObjectRow]:
        """Read the rows of objects by id; unknown ones are left out."""
        found: dict[bytes, ObjectRow] = {}
        for marks, part in chunked(ids):
            for row in self._db.execute(
                f"SELECT {OBJECT_COLUMNS} FROM object WHERE id IN ({marks}) AND folder_no = ?",
                (*part, self.folder_no),
            ):
                found[row[1]] = ObjectRow(*row)
        return found

    def object_nos(self) -> list[int]:
        """List all objects that the view may show."""
        return [
            row[0]
            for row in self._db.execute(
                "SELECT no FROM object WHERE folder_no = ? AND no != ?",
                (self.folder_no, self.root_no),
            )
        ]

    def heads(self, object_no: int) -> list[HeadRow]:
        """Read the versions of an object with several (flag MANY), greatest key first."""
        return [
            HeadRow(*row)
            for row in self._db.execute(
                "SELECT event_id, key, is_deletion, is_head, is_shown, value, size, mtime_ns"
                " FROM head WHERE object_no = ? ORDER BY key DESC",
                (object_no,),
            )
        ]

    def facts(self, object_no: int) -> list[Fact]:
        """Load all events of an object that take effect."""
        return self._facts.facts(object_no)

    def author_of(self, key: bytes) -> tuple[bytes, int]:
        """Give the agent and the wall clock (ms) of the batch that an order key names."""
        header = decode_header(
            self._db.execute("SELECT header FROM batch WHERE id = ?", (key[8:40],)).fetchone()[0]
        )
        return header.agent, header.wall_ms

    def is_visible(self, row: ObjectRow) -> bool:
        """Whether the view shows an object, by whatever name."""
        if row.kind == Kind.DIRECTORY:
            return self.directories[row.no].is_visible
        return bool(row.flags & ALIVE)

    # -- applying -----------------------------------------------------------------------------

    def apply(self, applied: AppliedBatch) -> None:
        """Let a batch take effect: rows, changes, dirty buckets. Pure function of the set."""
        signed = applied.signed
        if applied.is_void or min(signed.tags, default=FIRST_FOLDER_TAG) >= FIRST_FOLDER_TAG:
            return
        header = signed.header
        prefix = header.lamport.to_bytes(8, "big") + signed.id
        events = applied.decoded
        if not events and signed.is_whole and max(signed.tags) < FIRST_FOLDER_TAG:
            events = list(map(decode, signed.events))
        elif not events:
            events = [
                decode(raw) if raw and tag_of(raw) < FIRST_FOLDER_TAG else None
                for raw in signed.events  # what a snapshot left out is empty
            ]
        numbered = [
            (position, Fact(identity, prefix + position.to_bytes(4, "big"), event))
            for position, (identity, event) in enumerate(zip(signed.event_ids, events, strict=True))
            if event is not None
        ]
        self._take(_Work(self, applied), numbered)

    @contextmanager
    def lent(self, rows: Iterable[ObjectRow]) -> Iterator[None]:
        """Let what is applied in the block use these rows, read in this very transaction.

        They are changed as it is applied, and follow what else is written of them.
        """
        self._lent = {row.id: row for row in rows}
        try:
            yield
        finally:
            self._lent = {}

    def _take(self, work: _Work, numbered: Sequence[tuple[int, Fact]]) -> None:
        work.load(fact for _, fact in numbered)
        for position, fact in numbered:
            work.take(position, fact)
        while self._has_waiting and work.created_ids:
            self._release(work)
        work.finish()

    def _release(self, work: _Work) -> None:
        """Let events take effect that waited for an object created just now."""
        ids, work.created_ids = work.created_ids, []
        released: list[tuple[int, int]] = []
        for marks, part in chunked(ids):
            released.extend(
                self._db.execute(
                    "DELETE FROM waitingevent WHERE folder_no = ?"
                    f" AND object_id IN ({marks}) RETURNING batch_no, position",
                    (self.folder_no, *part),
                ).fetchall()
            )
        for batch_no, position in sorted(released):
            fact = self._facts.fact(batch_no, position)
            work.load([fact])
            work.take(position, fact, batch_no=batch_no)

    def new_no(self, identity: bytes) -> int:
        """Give the number of a new object; a rebuild gives each its former one."""
        kept = self._kept_nos.pop(identity, None)
        if kept is not None:
            return kept
        return self._db.new_object_no()

    def reserve(self, identity: bytes) -> int:
        """Fix the number that an object will get."""
        no = self._kept_nos.get(identity)
        if no is None:
            no = self._kept_nos[identity] = self._db.new_object_no()
        return no

    # -- visibility ---------------------------------------------------------------------------

    def _recount(self, nos: Iterable[int]) -> set[int]:
        """Bring the counts of visible children in line, upward from these directories.

        Gives those that moved, appeared or went.
        """
        waiting = list(nos)
        changed: set[int] = set()
        directories = self.directories
        while waiting:
            directory = directories[waiting.pop()]
            if directory.no == self.root_no:
                continue
            wanted = directory.parent_no if directory.is_visible else 0
            if directory.counted_in == wanted:
                continue
            for parent_no, delta in ((directory.counted_in, -1), (wanted, 1)):
                if parent_no:
                    self.count_child(parent_no, delta, waiting)
            directory.counted_in = wanted
            changed.add(directory.no)
        self.changes.objects |= changed
        return changed

    def count_child(self, parent_no: int, delta: int, waiting: list[int]) -> None:
        """Count a visible child more or less; a parent that appears or goes joins `waiting`."""
        parent = self.directories[parent_no]
        was_visible = parent.is_visible
        parent.visible_children += delta
        if parent.is_visible != was_visible:
            self.changes.slots.add((parent.parent_no, parent.name))
            waiting.append(parent_no)

    # -- unions -------------------------------------------------------------------------------

    def _load_unions(self) -> None:
        """Find the directories that share a path, and all below them that do."""
        directories = self.directories
        shared = [d.no for d in directories if len(directories.at((d.parent_no, d.name))) > 1]
        children: dict[int, list[int]] = {}
        if shared:
            for directory in directories:
                children.setdefault(directory.parent_no, []).append(directory.no)
        while shared:
            no = shared.pop()
            self.note_union(no)
            shared.extend(children.pop(no, ()))

    def unions(self) -> list[tuple[int, int]]:
        """List the directories that share their path, each with the one that represents all."""
        return [(no, class_of(self.directories, no)[0]) for no in self._unions]

    def note_union(self, no: int) -> None:
        """Remember with whom a directory shares its path now."""
        members = class_of(self.directories, no)
        if len(members) > 1:
            self._unions[no] = frozenset(members)
        else:
            self._unions.pop(no, None)

    def parted_or_met(self, nos: Iterable[int]) -> set[int]:
        """Find below which directories all may be named anew, since these ones changed.

        That is wherever directories share a path, or did before: tell note_union() of each, and
        of each directory below.
        """
        directories, unions = self.directories, self._unions
        found: set[int] = set()
        for no in nos:
            directory = directories[no]
            before = unions.get(no)
            if before is not None:
                found |= before
            elif (
                directory.parent_no not in unions
                and len(directories.at((directory.parent_no, directory.name))) == 1
            ):
                continue
            now = class_of(directories, no)
            if len(now) > 1:
                found.update(now)
        return found

    # -- root ---------------------------------------------------------------------------------

    def root(self) -> bytes:
        """Hash the shared state: equal on every node that has applied the same batches."""
        dirty = sorted(self._dirty_buckets)
        if not dirty and self._root is not None:
            return self._root
        if dirty:
            hashed = self._hash_buckets(dirty)
            self._unsaved |= hashed
            if len(self._unsaved) > UNSAVED_LIMIT:
                self.save_hashes()
            self._take_hashes(hashed.items())
        self._root = blake3(b"dizzyd/state/1" + self._bucket_hashes).digest()
        return self._root

    def save_hashes(self) -> None:
        """Keep hashes for the next start; what is not kept is hashed once more then.

        A few wait for a transaction that is made anyway: a commit of their own would be a sync
        of the disk between a change and its way on.
        """
        if self._unsaved:
            with self._db.transaction():
                self._db.executemany(
                    "INSERT OR REPLACE INTO bucket VALUES (?, ?, ?)",
                    [(self.folder_no, no, digest) for no, digest in self._unsaved.items()],
                )
            self._unsaved.clear()

    def _load_hashes(self) -> None:
        hashes = self._db.execute(
            "SELECT no, hash FROM bucket WHERE folder_no = ? ORDER BY no", (self.folder_no,)
        ).fetchall()
        self._root = None
        if len(hashes) == BUCKETS:
            self._dirty_buckets = set()
            self._bucket_hashes = bytearray(b"".join([digest for _, digest in hashes]))
            return
        self._dirty_buckets = set(range(BUCKETS))
        self._take_hashes(hashes)

    def _take_hashes(self, hashes: Iterable[tuple[int, bytes]]) -> None:
        for no, digest in hashes:
            self._bucket_hashes[no * _DIGEST : (no + 1) * _DIGEST] = digest
            self._dirty_buckets.discard(no)

    @property
    def dirty_buckets(self) -> int:
        """How many of the 4096 buckets root() would have to hash."""
        return len(self._dirty_buckets)

    def mark_bucket(self, identity: bytes) -> int | None:
        """Note that a bucket changed; gives its number if it was clean."""
        no = identity[0] << 4 | identity[1] >> 4
        if no in self._dirty_buckets:
            return None
        self._dirty_buckets.add(no)
        self._unsaved.pop(no, None)
        return no

    def _hash_buckets(self, dirty: Sequence[int]) -> dict[int, bytes]:
        """Hash the rows of buckets, in order of object ids."""
        empty = blake3(b"").digest()
        hashed = dict.fromkeys(dirty, empty)
        if len(dirty) > BUCKETS // 4:
            rows = self._db.execute(
                f"SELECT {OBJECT_COLUMNS} FROM object WHERE folder_no = ? ORDER BY id",
                (self.folder_no,),
            )
            self._hash_rows((ObjectRow(*row) for row in rows), hashed)
            return hashed
        for no in dirty:
            low = (no << 4).to_bytes(2, "big")
            high = ((no + 1) << 4).to_bytes(3, "big")[-2:] if no + 1 < BUCKETS else b"\xff" * 33
            rows = self._db.execute(
                f"SELECT {OBJECT_COLUMNS} FROM object WHERE folder_no = ? AND id >= ? AND id < ?"
                " ORDER BY id",
                (self.folder_no, low, high),
            )
            self._hash_rows((ObjectRow(*row) for row in rows), hashed)
        return hashed

    def _hash_rows(self, rows: Iterable[ObjectRow], hashed: dict[int, bytes]) -> None:
        hasher, current = blake3(), -1
        for row in rows:
            no = row.id[0] << 4 | row.id[1] >> 4
            if no != current:
                if current in hashed:
                    hashed[current] = hasher.digest()
                hasher, current = blake3(), no
            if no in hashed and row.no != self.root_no:
                hasher.update(self._shared_row(row))
        if current in hashed:
            hashed[current] = hasher.digest()

    def _shared_row(self, row: ObjectRow) -> bytes:
        """Encode what every node knows alike of an object."""
        is_deletion = not row.flags & ALIVE
        if row.flags & MANY:
            heads = [
                (head.event_id, bool(head.is_deletion), head.value, head.size)
                for head in self.heads(row.no)
                if head.is_head
            ]
            heads.sort()
        else:
            heads = [(row.head_event, is_deletion, row.value, row.size)]
        tags: list[bytes] = []
        if row.flags & TAGGED:
            tags = [
                tag
                for (tag,) in self._db.execute(
                    "SELECT tag FROM object_tag WHERE object_no = ? ORDER BY tag", (row.no,)
                )
            ]
        return _encode(
            (
                row.id,
                self.directories[row.parent_no].id,
                row.name,
                row.place_event,
                heads,
                row.mode,
                row.mtime_ns,
                tags,
            )
        )

    # -- rebuilding ---------------------------------------------------------------------------

    def forget(self) -> None:
        """Drop everything that was folded, so that apply() can fold it anew.

        Objects keep their local numbers, because synced rows name them.
        """
        db, folder_no = self._db, self.folder_no
        self._kept_nos = {
            identity: no
            for no, identity in db.execute(
                "SELECT no, id FROM object WHERE folder_no = ?", (folder_no,)
            )
        }
        self._kept_nos.pop(self.folder, None)
        for table in ("head", "event", "object_tag", "void_deletion", "along_deletion"):
            db.execute(
                f"DELETE FROM {table} WHERE object_no IN"
                " (SELECT no FROM object WHERE folder_no = ?)",
                (folder_no,),
            )
        for table in ("waitingevent", "directory_move", "bucket"):
            db.execute(f"DELETE FROM {table} WHERE folder_no = ?", (folder_no,))
        db.execute(
            "DELETE FROM object WHERE folder_no = ? AND no != ?", (folder_no, self.root_no)
        )
        kept = self._kept_nos
        self.__init__(db, folder_no, self.folder, self.root_no)  # type: ignore[misc]
        self._kept_nos = kept


_encode = msgspec.msgpack.Encoder().encode


class _Work:
    """The work of one apply(): rows read once, changed in memory, written in bulk."""

    def __init__(self, state: FolderState, applied: AppliedBatch) -> None:
        self._state = state
        self._db = state._db  # noqa: SLF001 - one piece in two classes
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
        lent = self._state._lent  # noqa: SLF001
        for known in missing & lent.keys():
            self._remember(lent[known])
        for row in self._state.rows_by_id(list(missing - lent.keys())).values():
            self._remember(row)

    def _remember(self, row: ObjectRow) -> None:
        self._rows[row.id] = row
        self._by_no[row.no] = row
        self._before[row.no] = (bool(row.flags & ALIVE), row.parent_no, row.name)
        self._places[row.no] = _placement(row)

    def _row(self, no: int) -> ObjectRow:
        row = self._by_no.get(no)
        if row is None:
            row = self._state.rows([no])[no]
            row = self._state._lent.get(row.id, row)  # noqa: SLF001
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
        self._state._has_waiting = True  # noqa: SLF001
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
        if state._has_waiting:  # noqa: SLF001
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
                or event.along_with in self._state._void  # noqa: SLF001
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
        dirty = [
            (state.folder_no, no)
            for row in self._by_no.values()
            if (no := state.mark_bucket(row.id)) is not None
        ]
        if dirty:
            db.executemany("DELETE FROM bucket WHERE folder_no = ? AND no = ?", dirty)
        state.save_hashes()

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
            folded = fold(kind, state.facts(no), state._void.__contains__)  # noqa: SLF001
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
        void = self._state._void  # noqa: SLF001
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
        state, db = self._state, self._db
        if row.flags & MANY:
            db.execute("DELETE FROM head WHERE object_no = ?", (row.no,))
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
            heads = {head.event_id for head in folded.heads}
            versions = {head.event_id: head for head in (*folded.heads, *folded.shown)}
            shown_ids = {head.event_id for head in folded.shown}
            db.executemany(
                "INSERT INTO head VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        row.no,
                        head.event_id,
                        head.key,
                        head.is_deletion,
                        head.event_id in heads,
                        head.event_id in shown_ids,
                        head.value,
                        head.size,
                        head.mtime_ns,
                    )
                    for head in versions.values()
                ],
            )
        db.execute("DELETE FROM object_tag WHERE object_no = ?", (row.no,))
        db.executemany(
            "INSERT INTO object_tag VALUES (?, ?)", [(row.no, tag) for tag in folded.tags]
        )
        if row.kind == Kind.DIRECTORY:
            state.directories[row.no].is_alive = folded.is_alive
        elif folded.placed is not None:
            move = folded.placed.event
            row.parent_no = state.directory_nos[move.parent]  # type: ignore[union-attr]
            row.name = move.name  # type: ignore[union-attr]
            row.place_event, row.place_key = folded.placed.event_id, folded.placed.key

    def _write_rows(self) -> None:
        folder_no = self._state.folder_no
        new = {row.no for row in self._new}
        at_base: list[tuple[object, ...]] = []
        moved: list[tuple[object, ...]] = []
        for row in self._new:
            values = (*astuple(row), folder_no)
            if values[_MOVE_COLUMNS] == _NOT_MOVED:
                at_base.append(values[: _MOVE_COLUMNS.start] + values[_MOVE_COLUMNS.stop :])
            else:
                moved.append(values)
        self._db.insert(f"INSERT INTO object ({_BASE_COLUMNS}, folder_no)", at_base)
        self._db.insert(f"INSERT INTO object ({OBJECT_COLUMNS}, folder_no)", moved)
        known = [row for row in self._by_no.values() if row.no not in new]
        self._db.update("object", _VERSION, "no", [(*_version(row), row.no) for row in known])
        displaced = [row for row in known if self._places[row.no] != _placement(row)]
        self._db.update(
            "object", _PLACEMENT, "no", [(*_placement(row), row.no) for row in displaced]
        )

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
        touched = state._recount(recount).union(placed)  # noqa: SLF001
        self._mark_below(state.parted_or_met(touched))

    def _mark_below(self, nos: Iterable[int]) -> None:
        """Ask the view again about everything below directories whose path is, or was, shared."""
        changes = self._state.changes
        waiting = list(nos)
        seen = set(waiting)
        while waiting:
            parent_no = waiting.pop()
            self._state.note_union(parent_no)
            changes.objects.add(parent_no)
            for child_no, kind in self._db.execute(
                "SELECT no, kind FROM object WHERE parent_no = ?", (parent_no,)
            ):
                changes.objects.add(child_no)
                if kind == Kind.DIRECTORY and child_no not in seen:
                    seen.add(child_no)
                    waiting.append(child_no)


def class_of(directories: Directories, no: int) -> list[int]:
    """List the visible directories whose path is that of this one (union), itself among them.

    A directory that is not visible is alone.
    """
    path = []
    while no != directories.root_no:
        directory = directories.get(no)
        if directory is None:
            return []
        path.append(directory)
        no = directory.parent_no
    members = [directories.root_no]
    for directory in reversed(path):
        found = [
            no
            for member in members
            for no in directories.at((member, directory.name))
            if directories[no].is_visible
        ]
        members = found if directory.no in found else [directory.no]
    if len(members) > 1:
        members.sort(key=lambda no: (directories[no].place_key or b"", directories[no].id))
    return members


def created_id(folder: FolderId, event: ObjectCreated) -> ObjectId:
    """Give the id of the object that an event creates."""
    parent = ObjectId(event.parent)
    return object_id(folder, parent, event.kind, event.generation, event.name)
