"""Hold one folder's log, state and synced together, and change them in one transaction.

This is what the database thread owns for each folder. Everything that writes does so inside
`change()`, which commits before anybody speaks of it and brings memory back in line with the
database when something fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from store.access import Member, Role, is_membership
from store.admitted import Admitted, AppliedBatch
from store.codec import decode_header
from store.db import Database, chunked
from store.ending import Ending, cut_events
from store.events import Content, ContentChanged, EpochOpened, Granted, ObjectCreated, encode
from store.ids import AgentId, BatchId, Epoch, FolderId, LogId, log_id
from store.kept_snapshot import checkpoint_in
from store.log import FolderLog
from store.objects import Changes
from store.opening import LogHead
from store.own_writer import Opening, OwnWriter
from store.records import Entry
from store.signing import (
    AgentKey,
    SignedBatch,
    verify,
    verify_thinned,
)
from store.state import STATE_VERSION, FolderState
from store.synced import FolderSynced
from store.unsynced import Unsynced
from store.view import View

JOINING_AGAIN = b"again"


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
        joining = self.db.meta(f"joining/{self.no}")
        self.is_joining = joining is not None
        self.is_taken_up_again = joining == JOINING_AGAIN  # with a log from before, perhaps old
        self.is_rebuilt = self.db.meta(f"rebuilt/{self.no}") is not None
        renewed = self.db.meta(f"next-epoch/{self.no}")
        self.next_epoch = None if renewed is None else Epoch(renewed)
        self.log = FolderLog(self.db, self.no, self.id)
        self.state = FolderState(self.db, self.no, self.id, root_no)
        self.synced = FolderSynced(self.db, self.no, root_no)
        self.unsynced = Unsynced(self.db, self.no, self.state)
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
                self.is_rebuilt = self.is_taken_up_again = False
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

    def take_changes(self) -> Changes:
        """Take what changed since the last call; the caller plans it, or gives it back.

        A folder that was ended wants nothing of any disk: what its owner did not have stays.
        """
        changes = self.state.changes
        self.state.changes = Changes(set(), set())
        return changes if self.ending is None else Changes(set(), set())
