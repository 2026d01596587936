"""Hold the state of a folder: what the log folds to.

Applied batches take effect through store.applying, by the rules of store.fold (one object) and
store.placement (directories). It does not decide names: that is store.view, from these rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from store.admitted import AppliedBatch
from store.applying import Work
from store.buckets import Buckets
from store.codec import decode_header
from store.db import Database, chunked
from store.events import FIRST_FOLDER_TAG, decode, tag_of
from store.facts import FactReader, buried_of
from store.fold import NOTHING_BURIED, Buried, Fact
from store.ids import FolderId, Kind, ObjectId
from store.objects import ALIVE, OBJECT_COLUMNS, Changes, HeadRow, ObjectRow, heads_of
from store.placement import Directories, Directory, DirectoryMove
from store.unions import Unions

STATE_VERSION = 1


class FolderState:
    """The state of one folder. Owned by the database thread; write inside a transaction.

    After an exception the memory may be ahead of the database: make a new one.
    """

    def __init__(self, database: Database, folder_no: int, folder: FolderId, root_no: int) -> None:
        """Load the directories; files stay in the database."""
        self.db = database
        self.folder_no = folder_no
        self.folder = folder
        self.root_no = root_no
        self.directories = Directories(root_no, ObjectId(folder))
        self.directory_nos: dict[bytes, int] = {folder: root_no}
        self.changes = Changes(set(), set())
        self.ignored_events = 0
        self.void: set[bytes] = set()  # deletions
        self.has_waiting = False  # events for objects that are not known yet
        self._facts = FactReader(database)
        self._kept_nos: dict[bytes, int] = {}
        self._has_buried = database.meta(f"restored/{folder_no}") is not None
        self.at_hand: dict[bytes, ObjectRow] = {}  # see lent()
        self._load()

    def _load(self) -> None:
        db = self.db
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
        self.recount([directory.no for directory in directories])
        self.unions = Unions(directories)
        self.changes = Changes(set(), set())
        self.void = {
            row[0]
            for row in db.execute(
                "SELECT v.event_id FROM void_deletion v JOIN object o ON o.no = v.object_no"
                " WHERE o.folder_no = ?",
                (self.folder_no,),
            )
        }
        self.buckets = Buckets(db, self.folder_no, directories)
        self.has_waiting = (
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
            for row in self.db.execute(
                f"SELECT {OBJECT_COLUMNS} FROM object WHERE no IN ({marks})", part
            ):
                found[row[0]] = ObjectRow(*row)
        return found

    def rows_by_id(self, ids: Sequence[bytes]) -> dict[bytes, ObjectRow]:
        """Read the rows of objects by id; unknown ones are left out."""
        found: dict[bytes, ObjectRow] = {}
        for marks, part in chunked(ids):
            for row in self.db.execute(
                f"SELECT {OBJECT_COLUMNS} FROM object WHERE id IN ({marks}) AND folder_no = ?",
                (*part, self.folder_no),
            ):
                found[row[1]] = ObjectRow(*row)
        return found

    def object_nos(self) -> list[int]:
        """List all objects that the view may show."""
        return [
            row[0]
            for row in self.db.execute(
                "SELECT no FROM object WHERE folder_no = ? AND no != ?",
                (self.folder_no, self.root_no),
            )
        ]

    def heads(self, object_no: int) -> list[HeadRow]:
        """Read the versions of an object with several (flag MANY), greatest key first."""
        return heads_of(self.db, object_no)

    def facts(self, object_no: int) -> list[Fact]:
        """Load all events of an object that take effect."""
        return self._facts.facts(object_no)

    def buried(self, object_no: int) -> Buried:
        """Give the marks of the versions of an object that a snapshot left out."""
        if not self._has_buried:
            return NOTHING_BURIED
        return buried_of(self.db, object_no)

    def bury(self, identity: bytes, marks: Sequence[tuple[bytes, bytes]]) -> None:
        """Note what a snapshot left out of an object, before any event of it is applied."""
        self._has_buried = True
        no = self.reserve(identity)
        self.db.insert(
            "INSERT OR IGNORE INTO buried", [(no, event, value) for event, value in marks]
        )

    def author_of(self, key: bytes) -> tuple[bytes, int]:
        """Give the agent and the wall clock (ms) of the batch that an order key names."""
        header = decode_header(
            self.db.execute("SELECT header FROM batch WHERE id = ?", (key[8:40],)).fetchone()[0]
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
        self._take(Work(self, applied), numbered)

    @contextmanager
    def lent(self, rows: Iterable[ObjectRow]) -> Iterator[None]:
        """Let what is applied in the block use these rows, read in this very transaction.

        They are changed as it is applied, and follow what else is written of them.
        """
        self.at_hand = {row.id: row for row in rows}
        try:
            yield
        finally:
            self.at_hand = {}

    def _take(self, work: Work, numbered: Sequence[tuple[int, Fact]]) -> None:
        work.load(fact for _, fact in numbered)
        for position, fact in numbered:
            work.take(position, fact)
        while self.has_waiting and work.created_ids:
            self._release(work)
        work.finish()

    def _release(self, work: Work) -> None:
        """Let events take effect that waited for an object created just now."""
        ids, work.created_ids = work.created_ids, []
        released: list[tuple[int, int]] = []
        for marks, part in chunked(ids):
            released.extend(
                self.db.execute(
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
        return self.db.new_object_no()

    def reserve(self, identity: bytes) -> int:
        """Fix the number that an object will get."""
        no = self._kept_nos.get(identity)
        if no is None:
            no = self._kept_nos[identity] = self.db.new_object_no()
        return no

    # -- visibility ---------------------------------------------------------------------------

    def recount(self, nos: Iterable[int]) -> set[int]:
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

    # -- root ---------------------------------------------------------------------------------

    def root(self) -> bytes:
        """Hash the shared state: equal on every node that has applied the same batches."""
        return self.buckets.root()

    # -- rebuilding ---------------------------------------------------------------------------

    def forget(self) -> None:
        """Drop everything that was folded, so that apply() can fold it anew.

        Objects keep their local numbers, because synced rows name them.
        """
        db, folder_no = self.db, self.folder_no
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
        db.execute("DELETE FROM object WHERE folder_no = ? AND no != ?", (folder_no, self.root_no))
        kept = self._kept_nos
        self.__init__(db, folder_no, self.folder, self.root_no)  # type: ignore[misc]
        self._kept_nos = kept
