"""Hold one folder's log, state and synced together, and change them in one transaction.

This is what the database thread owns for each folder. Everything that writes does so inside
`change()`, which commits before anybody speaks of it and brings memory back in line with the
database when something fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager

from store.access import Member, Role, is_membership
from store.admitted import Admitted, AppliedBatch
from store.codec import decode_header
from store.db import Database, chunked
from store.ending import Ending, cut_events
from store.events import Content, ContentChanged, EpochOpened, Granted, ObjectCreated, encode
from store.ids import AgentId, BatchId, Epoch, FolderId, Kind, LogId, log_id
from store.kept_snapshot import checkpoint_in
from store.log import FolderLog
from store.objects import OBJECT_COLUMNS, Changes
from store.opening import LogHead
from store.own_writer import Opening, OwnWriter
from store.records import Entry
from store.signing import (
    AgentKey,
    SignedBatch,
    sign_folder_shared,
    verify,
    verify_thinned,
)
from store.state import STATE_VERSION, FolderState
from store.synced import FolderSynced
from store.unions import class_of
from store.view import View


class StoredFolder:
    """One folder of this node. Owned by the database thread."""

    def __init__(self, database: Database, no: int, folder: FolderId, key: AgentKey) -> None:
        """Load it; its row in `folder` must exist (add_folder)."""
        self.db = database
        self.no = no
        self.id = folder
        self.key = key
        self.is_touched = False  # whether the present transaction has changed it
        self._load()
        if self.log.has_held_to_apply():  # a newer dizzyd was installed
            with self.change():
                self.log.apply_held(self.fold)
                self._fold_what_is_left()

    def _load(self) -> None:
        root_no, epoch, name, path, had_members = self.db.execute(
            "SELECT root_no, epoch, name, path, had_members FROM folder WHERE no = ?", (self.no,)
        ).fetchone()
        self.root_no: int = root_no
        self.epoch = Epoch(epoch)
        self.name: str = name
        self.path: bytes = path
        self.had_members = bool(had_members)
        self.is_joining = self.db.meta(f"joining/{self.no}") is not None
        self.is_rebuilt = self.db.meta(f"rebuilt/{self.no}") is not None
        renewed = self.db.meta(f"next-epoch/{self.no}")
        self.next_epoch = None if renewed is None else Epoch(renewed)
        self.log = FolderLog(self.db, self.no, self.id)
        self.state = FolderState(self.db, self.no, self.id, root_no)
        self.synced = FolderSynced(self.db, self.no, root_no)
        self._labels = self._labels_now()  # they stand in conflict names

    @contextmanager
    def change(self) -> Iterator[None]:
        """Run a transaction on this folder; on failure memory follows the database back.

        Inside an outer transaction the owner of that one calls reload() if it fails.
        """
        self.is_touched = True
        try:
            with self.db.transaction():
                yield
        except BaseException:
            if not self.db.in_transaction:
                self.reload()
            raise

    def reload(self) -> None:
        """Read everything again that is held in memory; what was to be planned stays so."""
        changes = self.state.changes
        self._load()
        self.state.changes.objects |= changes.objects
        self.state.changes.slots |= changes.slots

    # -- reading ------------------------------------------------------------------------------

    def view(self) -> View:
        """Look at the state as it is now."""
        return View(self.db, self.state, self.log.members())

    def own_member(self) -> Member | None:
        """Give our own role in this folder, None before we were admitted."""
        return self.log.members().get(self.key.agent)

    def has_had(self, no: int, value: bytes) -> bool:
        """Whether an object ever had a content or link target; it reads the log."""
        for fact in self.state.facts(no):
            if isinstance(fact.event, ObjectCreated | ContentChanged):
                content = fact.event.content
                former = content.hash if isinstance(content, Content) else content or b""
                if former == value:
                    return True
        return self.state.buried(no).has_value(value)

    def id_of(self, no: int) -> bytes:
        """Give the id of an object by its local number. Raises KeyError."""
        directory = self.state.directories.get(no)
        if directory is not None:
            return directory.id
        row = self.db.execute("SELECT id FROM object WHERE no = ?", (no,)).fetchone()
        if row is None:
            raise KeyError(no)
        return bytes(row[0])

    def number_of(self, identity: bytes) -> int:
        """Give the local number of a directory, reserving one if it is not known yet."""
        no = self.state.directory_nos.get(identity)
        return self.reserve_no(identity) if no is None else no

    def reserve_no(self, identity: bytes) -> int:
        """Fix the number that an object gets when its create takes effect."""
        row = self.db.execute(
            "SELECT no FROM object WHERE folder_no = ? AND id = ?", (self.no, identity)
        ).fetchone()
        return int(row[0]) if row is not None else self.state.reserve(identity)

    def numbers(self, ids: Sequence[bytes]) -> dict[bytes, int]:
        """Give the local numbers of known objects."""
        found: dict[bytes, int] = {}
        for marks, part in chunked(ids):
            found.update(
                self.db.execute(
                    f"SELECT id, no FROM object WHERE folder_no = ? AND id IN ({marks})",
                    (self.no, *part),
                ).fetchall()
            )
        return found

    def has_anything_in(self, directory_nos: Sequence[int]) -> bool:
        """Whether state knows any object, alive or not, below these directories."""
        marks = ",".join("?" * len(directory_nos))
        row = self.db.execute(
            f"SELECT 1 FROM object WHERE parent_no IN ({marks}) LIMIT 1", tuple(directory_nos)
        ).fetchone()
        return row is not None

    def entries_at(
        self, directory_nos: Sequence[int], names: Sequence[bytes]
    ) -> dict[bytes, list[Entry]]:
        """Ask the view what stands at some names of a directory (its class of objects)."""
        wanted = set(names)
        nos: set[int] = set()
        for directory_no in directory_nos:
            for marks, part in chunked(names):
                nos.update(
                    row[0]
                    for row in self.db.execute(
                        f"SELECT no FROM object WHERE parent_no = ? AND name IN ({marks})",
                        (directory_no, *part),
                    )
                )
            if any(b" (conflict " in name for name in names):
                nos.update(
                    row[0]
                    for row in self.db.execute(
                        "SELECT no FROM object WHERE parent_no = ? AND flags & 1", (directory_no,)
                    )
                )
        found: dict[bytes, list[Entry]] = {}
        if nos:
            for entry in self.view().entries(Changes(nos, set()))[1]:
                if entry.name in wanted and entry.parent_no in directory_nos:
                    found.setdefault(entry.name, []).append(entry)
        return found

    def own_batch(self, key: bytes) -> tuple[int, int] | None:
        """Give seq and wall clock (ms) of the batch of an order key, if it is our own."""
        row = self.db.execute("SELECT header FROM batch WHERE id = ?", (key[8:40],)).fetchone()
        if row is None:
            return None
        header = decode_header(row[0])
        if header.agent != self.key.agent or header.epoch != self.epoch:
            return None
        return header.seq, header.wall_ms

    @property
    def own_log(self) -> LogId:
        """The id of the log that we write in this folder now."""
        return log_id(self.id, self.key.agent, self.epoch)

    # -- writing ------------------------------------------------------------------------------

    def fold(self, applied: AppliedBatch) -> None:
        """Let an applied batch take effect on the state."""
        self.state.apply(applied)
        if applied.is_void or not applied.signed.is_about_folder:
            return
        self._compare_checkpoint(applied.signed)
        if is_membership(applied.signed.events[0]):
            self._follow_labels()

    def _compare_checkpoint(self, signed: SignedBatch) -> None:
        """Hold a checkpoint of another to our own state, if that is where it was made."""
        told = checkpoint_in(signed)
        is_here = self.log.frontier() == (signed.id,) and signed.header.agent != self.key.agent
        if told is None or not is_here or told.state_version != STATE_VERSION:
            return
        header = signed.header
        if header.agent != self.log.owner():
            return  # anybody who may write can say such a thing
        if {*header.deps, header.prev} - {None} != set(told.frontier):
            return  # more was known when it was recorded
        if told.state_root != self.state.root():
            self.db.set_meta(f"wrong-checkpoint/{self.no}", signed.id)
        else:
            self.db.execute("DELETE FROM meta WHERE key = ?", (f"wrong-checkpoint/{self.no}",))

    @property
    def has_wrong_checkpoint(self) -> bool:
        """Whether the last checkpoint that was held to our state tells another one."""
        return self.db.meta(f"wrong-checkpoint/{self.no}") is not None

    def _follow_labels(self) -> None:
        """Look at conflict names again if an earlier grant gave their author another label."""
        before, self._labels = self._labels, self._labels_now()
        if any(self._labels.get(agent) != label for agent, label in before.items()):
            self.state.changes.objects |= self.synced.objects_in_conflict()

    def _labels_now(self) -> dict[AgentId, bytes]:
        return {agent: member.label for agent, member in self.log.members().items()}

    def writer(self) -> OwnWriter:
        """Begin to write own events, in a new epoch if one is due."""
        epoch = self.next_epoch
        if epoch is None:
            if not self.is_epoch_astray:
                return self.log.writer(self.key, self.epoch)
            epoch = self.epoch
        head = self._newest_own()
        event = EpochOpened(
            previous_log=self.own_log if head is None else head.log,
            previous_batch=None if head is None else head.batch,
        )

        def begin() -> None:
            self.db.execute("UPDATE folder SET epoch = ? WHERE no = ?", (epoch, self.no))
            self.db.execute("DELETE FROM meta WHERE key = ?", (f"next-epoch/{self.no}",))
            self.epoch, self.next_epoch = epoch, None

        return self.log.writer(self.key, epoch, Opening(event=encode(event), begun=begin))

    @property
    def is_epoch_astray(self) -> bool:
        """Whether we have logs here and none is of the present epoch, which none is to replace.

        The row is damaged, or was made anew before our logs came back: what is written next
        opens the epoch, like any other that follows logs of ours.
        """
        agent = self.key.agent
        return (
            self.next_epoch is None
            and self.log.own_head(agent, self.epoch) is None
            and any(head.agent == agent for head in self.log.heads())
        )

    def _newest_own(self) -> LogHead | None:
        """Find where our log ended: in the present epoch, or else in one that came back to us."""
        present = self.log.own_head(self.key.agent, self.epoch)
        if present is not None:
            return present
        ours = [head for head in self.log.heads() if head.agent == self.key.agent]
        return max(ours, key=lambda head: (head.seq, head.batch), default=None)

    def append(self, events: Sequence[bytes], wall_ms: int) -> list[SignedBatch]:
        """Write own events inside the caller's change(); gives the batches made."""
        writer = self.writer()
        for raw in events:
            writer.add(raw)
        return writer.write(wall_ms, self.fold)

    def renew_epoch(self, epoch: Epoch) -> None:
        """Write nothing more into the present log: what comes next opens this epoch.

        For a home that was restored or copied, and where others know more of our log than we
        do: a sequence number is never used twice.
        """
        with self.change():
            self.db.set_meta(f"next-epoch/{self.no}", epoch)
            self.next_epoch = epoch

    def is_outrun_by(self, admitted: Admitted) -> bool:
        """Whether batches of the log that we write now came from others: we were set back."""
        ours = {self.epoch, self.next_epoch}  # drawn, and used in a life that was undone
        return any(
            signed.header.agent == self.key.agent and signed.header.epoch in ours
            for signed in admitted.stored
        )

    def lacks_own(self, heads: Iterable[tuple[LogId, BatchId]]) -> bool:
        """Whether others name heads of the log that we write now that are not here."""
        own = self.own_log
        return any(log == own and not self.log.has(batch) for log, batch in heads)

    def admit(self, batches: Sequence[SignedBatch], source: bytes) -> Admitted:
        """Store and apply verified batches of others, in one transaction."""
        with self.change():
            admitted = self.log.admit(batches, source, self.fold)
            self._fold_what_is_left()
        return admitted

    # -- the end ------------------------------------------------------------------------------

    @property
    def ending(self) -> Ending | None:
        """What ended this folder for all, of several the same one everywhere; None if it lives."""
        return min(self.log.endings.values(), key=lambda one: one.batch, default=None)

    def end(self, wall_ms: int) -> list[SignedBatch]:
        """Record that the folder has ended for all; the caller has checked that it is ours.

        Nothing written by anybody counts from then on but what we have applied by now.
        """
        with self.change():
            events = [encode(one) for one in cut_events(self.key.agent, self.log.cut_points())]
            batches = self.append(events, wall_ms)
            self._fold_what_is_left()
        return batches

    def _fold_what_is_left(self) -> None:
        """Fold the state anew where an ending cut off what had taken effect here."""
        if self.log.cuts.is_recut:
            self._fold_anew()
            self.log.cuts.is_recut = False

    def grant(
        self,
        agent: AgentId,
        role: Role,
        *,
        label: bytes,
        expires_ms: int | None,
        may_delegate: bool,
        wall_ms: int,
    ) -> list[SignedBatch]:
        """Record that an agent has a role; the caller has checked that we may."""
        event = Granted(
            agent=agent,
            role=int(role),
            may_delegate=may_delegate,
            expires_ms=expires_ms,
            label=label,
        )
        with self.change():
            self.db.execute("UPDATE folder SET had_members = 1 WHERE no = ?", (self.no,))
            self.had_members = True
            return self.append([encode(event)], wall_ms)

    def set_joining(self, *, is_joining: bool) -> None:
        """Note whether the first scan after a join is still to come."""
        with self.db.transaction():
            if is_joining:
                self.db.set_meta(f"joining/{self.no}", b"1")
            else:
                keys = (f"joining/{self.no}", f"rebuilt/{self.no}")
                self.db.execute("DELETE FROM meta WHERE key IN (?, ?)", keys)
                self.is_rebuilt = False
        self.is_joining = is_joining

    def rebuild(self) -> bytes:
        """Fold the state anew from the log; give the new root. Synced stays as it is."""
        with self.change():
            self._fold_anew()
        return self.state.root()

    def _fold_anew(self) -> None:
        self.state.forget()
        for no, wire, is_void in self.log.all_applied():
            prove = verify_thinned if no <= self.log.restored_no else verify
            self.fold(AppliedBatch(no=no, signed=prove(wire), is_void=is_void))

    # -- the difference between view and disk ---------------------------------------------------

    def take_changes(self) -> Changes:
        """Take what changed since the last call; the caller plans it, or gives it back.

        A folder that was ended wants nothing of any disk: what its owner did not have stays.
        """
        changes = self.state.changes
        self.state.changes = Changes(set(), set())
        return changes if self.ending is None else Changes(set(), set())

    def find_unsynced(self) -> Changes:
        """Find all objects whose state and synced differ: the queue, rebuilt, not trusted.

        Objects with a conflict name come along; planning them finds nothing to do.
        """
        nos = {
            row[0]
            for row in self.db.execute(
                "SELECT o.no FROM object o LEFT JOIN synced s"
                " ON s.object_no = o.no AND s.copy_event = x''"
                " WHERE o.folder_no = ?1 AND o.no != ?2 AND o.flags & 1 AND (s.object_no IS NULL"
                " OR s.events != o.head_event OR s.parent_no != o.parent_no OR s.name != o.name"
                " OR s.placement != coalesce(o.last_move, x'') OR s.mode != o.mode"
                " OR s.shared_mtime_ns != CASE o.kind WHEN 1 THEN s.shared_mtime_ns"
                " ELSE o.mtime_ns END OR o.flags & 2 OR s.leftover)"
                " UNION SELECT s.object_no FROM synced s LEFT JOIN object o ON o.no = s.object_no"
                " WHERE s.folder_no = ?1"
                " AND (o.no IS NULL OR NOT o.flags & 1 OR s.copy_event != x'')",
                (self.no, self.root_no),
            )
        }
        nos.update(
            directory.no
            for directory in self.state.directories
            if directory.is_visible and not directory.is_alive
        )
        for directory_no, first_no in self.state.unions.all():
            nos.update(
                row[0]
                for row in self.db.execute(
                    "SELECT o.no FROM object o JOIN synced s ON s.object_no = o.no"
                    " WHERE o.parent_no = ? AND s.parent_no != ?",
                    (directory_no, first_no),
                )
            )
        return Changes(nos, set())

    def count_missing(self, nos: Sequence[int] | None = None) -> tuple[int, int]:
        """Count the contents, and their bytes, that state shows and this disk does not have.

        Of some objects, or of all: then it reads every row (a second for 500,000 files).
        """
        if nos is None:
            return self._count_missing("o.folder_no = ?", (self.no,))
        parts = [self._count_missing(f"o.no IN ({marks})", part) for marks, part in chunked(nos)]
        return sum(files for files, _ in parts), sum(size for _, size in parts)

    def _count_missing(self, which: str, values: Sequence[object]) -> tuple[int, int]:
        files, size = self.db.execute(
            "SELECT count(*), coalesce(sum(o.size), 0) FROM object o"
            " LEFT JOIN synced s ON s.object_no = o.no AND s.copy_event = x''"
            f" WHERE {which} AND o.kind != 1 AND o.flags & 1"
            " AND (s.object_no IS NULL OR s.value != o.value)",
            values,
        ).fetchone()
        copies, copies_size = self.db.execute(
            "SELECT count(*), coalesce(sum(h.size), 0) FROM head h JOIN object o"
            f" ON o.no = h.object_no WHERE {which} AND o.kind != 1 AND h.is_shown"
            " AND h.value != o.value AND NOT EXISTS (SELECT 1 FROM synced s"
            " WHERE s.object_no = h.object_no AND s.value = h.value)",
            values,
        ).fetchone()
        return files + copies, size + copies_size

    def drop_agreed(
        self, under_way: AbstractSet[int] = frozenset(), *, among: AbstractSet[int] | None = None
    ) -> None:
        """Take out of what is to be planned what synced agrees on already, in bulk.

        Own acts mostly: an import of many files plans nothing. Whatever shares a name with
        something else stays in, since the view decides about it, and so do the objects
        `under_way`: what a plan is doing to them now is not in synced yet. `among` names those
        that synced has something new of: the others cannot agree now if they did not before.
        """
        changes = self.state.changes
        asked = changes.objects if among is None else changes.objects & among
        agreed: set[int] = set()
        gone: list[tuple[int, int, bytes]] = []
        alone: dict[int, bool] = {}  # directories, whether their path is theirs only
        for marks, part in chunked(list(asked - under_way)):
            for no, parent_no, name, is_alive in self.db.execute(
                "SELECT o.no, o.parent_no, o.name, o.flags & 1 FROM object o LEFT JOIN synced s"
                " ON s.object_no = o.no AND s.copy_event = x''"
                f" WHERE o.no IN ({marks}) AND NOT o.flags & 2 AND CASE o.flags & 1 WHEN 1 THEN"
                " s.events = o.head_event AND s.parent_no = o.parent_no AND s.name = o.name"
                " AND s.placement = coalesce(o.last_move, x'') AND s.mode = o.mode"
                " AND NOT s.leftover AND (o.kind = 1 OR s.shared_mtime_ns = o.mtime_ns)"
                " ELSE s.object_no IS NULL AND o.kind != 1 END"
                " AND NOT EXISTS (SELECT 1 FROM object m WHERE m.parent_no = o.parent_no"
                " AND m.name = o.name AND m.no != o.no)"
                " AND NOT EXISTS (SELECT 1 FROM synced c WHERE c.object_no = o.no"
                " AND c.copy_event != x'')",
                part,
            ):
                is_alone = alone.get(parent_no)
                if is_alone is None:
                    is_alone = alone[parent_no] = self._is_alone(parent_no)
                if is_alone and b" (conflict " not in name:
                    agreed.add(no)
                    if not is_alive:
                        gone.append((no, parent_no, name))
        changes.objects -= agreed
        changes.slots.difference_update((parent_no, name) for _, parent_no, name in gone)

    def _is_alone(self, directory_no: int) -> bool:
        """Whether a directory shares its path with no other."""
        return len(class_of(self.state.directories, directory_no)) <= 1


def add_folder(
    database: Database, *, folder: FolderId, name: str, path: bytes, epoch: Epoch
) -> int:
    """Make the rows of a folder (its own, and the root object); give its number."""
    with database.transaction():
        row = database.execute("SELECT no FROM folder WHERE id = ?", (folder,)).fetchone()
        if row is not None:
            database.execute(
                "UPDATE folder SET is_active = 1, name = ?, path = ? WHERE no = ?",
                (name, path, row[0]),
            )
            return int(row[0])
        no = database.execute(
            "INSERT INTO folder (id, name, path, is_active, root_no, epoch, had_members)"
            " VALUES (?, ?, ?, 1, 0, ?, 0) RETURNING no",
            (folder, name, path, epoch),
        ).fetchone()[0]
        root_no = database.new_object_no()
        database.execute(
            f"INSERT INTO object ({OBJECT_COLUMNS}, folder_no) VALUES"
            " (?, ?, ?, 0, x'', NULL, NULL, NULL, NULL, NULL, 0, x'', x'', x'', 0, 0, 0, 1, ?)",
            (root_no, folder, int(Kind.DIRECTORY), no),
        )
        database.execute("UPDATE folder SET root_no = ? WHERE no = ?", (root_no, no))
        return int(no)


def share_folder(
    database: Database,
    key: AgentKey,
    *,
    folder_key: AgentKey,
    name: str,
    label: bytes,
    path: bytes,
    epoch: Epoch,
    nonce: bytes,
    wall_ms: int,
) -> StoredFolder:
    """Make a new folder of our own: its rows and its first event.

    `folder_key` signs that event and must be discarded then.
    """
    folder = FolderId(folder_key.agent)
    with database.transaction():
        no = add_folder(database, folder=folder, name=name, path=path, epoch=epoch)
        stored = StoredFolder(database, no, folder, key)
        event = sign_folder_shared(
            folder_key, owner=key.agent, name=name.encode(), label=label, nonce=nonce
        )
        stored.log.append(key, epoch, [encode(event)], wall_ms, stored.fold)
    return stored
