"""Fold a folder's log anew, beside the state in use, to compare the two.

The real log and the real state in a database of their own that nothing else sees. It repairs
nothing and touches no row of the node's database.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from daemon.derived import Rows, events_of, log_tables, state_tables
from store.checkpoint import take_in
from store.db import Database, chunked
from store.errors import BadSignature, Malformed
from store.events import Checkpointed
from store.ids import FolderId, short
from store.kept_snapshot import KeptSnapshot
from store.objects import MANY, TAGGED
from store.scratch_folder import ScratchFolder
from store.signing import SignedBatch, WireBatch, verify

_COMPARED = (
    "kind",
    "parent",
    "name",
    "place_event",
    "place_key",
    "last_move",
    "latest_lamport",
    "head_event",
    "head_key",
    "value",
    "size",
    "mtime_ns",
    "mode",
    "flags",
    "base_parent",
    "base_name",
    "events",
    "heads",
    "tags",
)


class KeptBatch(Struct, frozen=True, gc=False):
    """One row of the table of batches, as it is stored."""

    no: int
    id: bytes
    log: bytes
    seq: int
    lamport: int
    is_applied: int
    is_void: int
    header: bytes
    signature: bytes
    body: bytes


class ObjectPage(Struct, frozen=True):
    """Objects in order of their ids, each with what every node folds alike.

    `through_no` is the newest batch that had been stored when they were read.
    """

    objects: dict[bytes, tuple[object, ...]]
    through_no: int
    is_last: bool


def read_objects(  # noqa: PLR0917 - a page is two bounds and a limit
    db: Database, folder_no: int, root_no: int, after: bytes, through: bytes | None, limit: int
) -> ObjectPage:
    """Read a page of objects from either database; `through` None goes on to the limit."""
    rows = db.execute(
        "SELECT o.id, o.no, o.kind, p.id, o.name, o.place_event, o.place_key, o.last_move,"
        " o.latest_lamport, o.head_event, o.head_key, o.value, o.size, o.mtime_ns, o.mode,"
        " o.flags, b.id, o.base_name FROM object o LEFT JOIN object b ON b.no = o.base_parent_no"
        " LEFT JOIN object p ON p.no = o.parent_no"
        " WHERE o.folder_no = ?1 AND o.no != ?2 AND o.id > ?3 AND (?4 IS NULL OR o.id <= ?4)"
        " ORDER BY o.id LIMIT ?5",
        (folder_no, root_no, after, through, limit),
    ).fetchall()
    nos = [row[1] for row in rows if row[15] & (MANY | TAGGED)]
    heads = _lists(db, "event_id, key, is_deletion, is_head, is_shown, value, size", "head", nos)
    tags = _lists(db, "tag", "object_tag", nos)
    (newest,) = db.execute(
        "SELECT coalesce(max(no), 0) FROM batch WHERE folder_no = ?", (folder_no,)
    ).fetchone()
    events = events_of(db, [row[1] for row in rows])
    objects: dict[bytes, tuple[object, ...]] = {
        row[0]: (
            *row[2:],
            events.get(row[1], []),
            heads.get(row[1], []),
            tags.get(row[1], []),
        )
        for row in rows
    }
    return ObjectPage(objects=objects, through_no=newest, is_last=len(rows) < limit)


def _lists(
    db: Database, columns: str, table: str, nos: Sequence[int]
) -> dict[int, list[tuple[object, ...]]]:
    found: dict[int, list[tuple[object, ...]]] = {}
    for marks, part in chunked(nos):
        for no, *values in db.execute(
            f"SELECT object_no, {columns} FROM {table} WHERE object_no IN ({marks}) ORDER BY 1, 2",
            part,
        ):
            found.setdefault(no, []).append(tuple(values))
    return found


def differing(one: tuple[object, ...], other: tuple[object, ...]) -> str:
    """Name the columns in which two folded objects differ; empty if they are alike."""
    pairs = zip(_COMPARED, one, other, strict=True)
    return ", ".join(column for column, left, right in pairs if left != right)


class Scratch:
    """One folder's log folded anew. Calls may come from any thread, one after the other."""

    def __init__(self, folder: FolderId) -> None:
        """Begin without a batch; close() when done."""
        self._fold = ScratchFolder(folder)
        self._restored_no = self._compared = 0  # what came with a snapshot, and was found so
        self.through_no = 0  # the newest batch of the node's database that was read
        self.damaged = 0

    def close(self) -> None:
        """Let go of the database."""
        self._fold.close()

    # -- the log ----------------------------------------------------------------------------------

    @property
    def snapshot(self) -> KeptSnapshot:
        """Where the pieces of a snapshot are put before begin_with()."""
        return self._fold.snapshot

    def begin_with(self, checkpoint: Checkpointed, restored_no: int) -> list[str]:
        """Fold the snapshot with which the log here begins; give what is wrong with it."""
        fold = self._fold
        try:
            with fold.db.transaction():
                pieces = fold.snapshot.pieces(checkpoint.snapshot.hash)
                take_in(fold.log, fold.state, fold.state.apply, pieces, checkpoint)
        except (Malformed, BadSignature) as wrong:
            self.damaged += 1
            return [f"the snapshot by which it was joined: {wrong.why or wrong}"]
        self._restored_no = restored_no
        return []

    def admit(self, batches: Sequence[KeptBatch]) -> list[str]:
        """Prove batches and fold them; give what is wrong with them."""
        found: list[str] = []
        with self._fold.db.transaction():
            for kept in batches:
                why = self._admit(kept)
                if why:
                    self.damaged += 1
                    found.append(f"batch {short(kept.id)} (seq {kept.seq}): {why}")
                self.through_no = max(self.through_no, kept.no)
        return found

    def _admit(self, kept: KeptBatch) -> str:
        if kept.no <= self._restored_no:
            return self._unlike_snapshot(kept)
        try:
            signed = verify(WireBatch(header=kept.header, signature=kept.signature, body=kept.body))
        except (Malformed, BadSignature) as wrong:
            return wrong.why or str(wrong)
        why = _misfiled(kept, signed)
        if why:
            return why
        admitted = self._fold.log.admit([signed], b"", self._fold.state.apply)
        if admitted.refused:
            return f"breaks a rule of the log ({', '.join(sorted(admitted.refused))})"
        if signed.id in {one.id for one in admitted.stored}:
            return self._misjudged(kept, admitted.applied)
        return ""  # it waits for a batch that has not come; see finish()

    def _unlike_snapshot(self, kept: KeptBatch) -> str:
        """Say where a batch that came with a snapshot is not what that says."""
        told = self._fold.db.execute(
            "SELECT l.id, b.seq, b.lamport, b.is_applied, b.header, b.signature, b.body"
            " FROM batch b JOIN log l ON l.no = b.log_no WHERE b.id = ?",
            (kept.id,),
        ).fetchone()
        here = (kept.log, kept.seq, kept.lamport, kept.is_applied, kept.header, kept.signature)
        if told != (*here, kept.body):
            return "is not what the snapshot says by which it came"
        self._compared += 1
        return ""

    def _misjudged(self, kept: KeptBatch, applied: Sequence[bytes]) -> str:
        (is_void,) = self._fold.db.execute(
            "SELECT is_void FROM batch WHERE id = ?", (kept.id,)
        ).fetchone()
        if bool(kept.is_void) != bool(is_void):
            return "its author's right to write is judged otherwise now"
        if bool(kept.is_applied) != (kept.id in applied):
            return "it is marked as applied where it should not be, or the other way round"
        return ""

    def finish(self) -> list[str]:
        """Give what is missing once all batches were admitted."""
        if self._compared != self._fold.log.restored_count():
            return ["batches of the snapshot by which it was joined are missing"]
        waiting = self._fold.log.waiting
        if not waiting:
            return []
        if self.damaged:
            return [f"{waiting} batches rest on what is damaged and were not checked"]
        return [
            f"batch {short(missing)} is not in the log, and others follow it"
            for missing in sorted(self._fold.log.missing())
        ]

    # -- the state --------------------------------------------------------------------------------

    def objects(self, after: bytes, through: bytes | None) -> dict[bytes, tuple[object, ...]]:
        """Give the folded objects after an id, through another or to the end."""
        fold = self._fold
        return read_objects(fold.db, fold.no, fold.root_no, after, through, 1 << 40).objects

    def log_tables(self) -> dict[str, Rows]:
        """Give what the log says of logs and roles."""
        return log_tables(self._fold.db, self._fold.no)

    def state_tables(self) -> dict[str, Rows]:
        """Give what the state keeps beside its objects."""
        return state_tables(self._fold.db, self._fold.no)

    def root(self) -> bytes:
        """Give the state root that the log says."""
        return self._fold.state.root()

    def path_of(self, identity: bytes) -> bytes | None:
        """Give the path of an object by the log; None if it knows no such object."""
        row = self._fold.db.execute(
            "SELECT parent_no, name FROM object WHERE folder_no = ? AND id = ?",
            (self._fold.no, identity),
        ).fetchone()
        if row is None:
            return None
        parent_no, name = row
        names: list[bytes] = [name]
        while parent_no != self._fold.root_no:
            directory = self._fold.state.directories[parent_no]
            names.append(directory.name)
            parent_no = directory.parent_no
        return b"/".join(reversed(names))


def _misfiled(kept: KeptBatch, signed: SignedBatch) -> str:
    """Say where the row tells something else than the batch itself."""
    header = signed.header
    if kept.id != signed.id:
        return "is stored under another id"
    if (kept.log, kept.seq, kept.lamport) != (signed.log, header.seq, header.lamport):
        return "is stored in another place of the log than its header says"
    return ""
