"""Fold a folder's log up to a moment, apart from the state in use: what the tree was then.

A pure function of the log: the same batches and the same moment give the same tree, on every
node. It takes batches and gives entries; it touches no row of the node's own database and says
nothing about where contents can be had.

The wall clock orders nothing, so a moment is a cut of the log: closed under prev and deps
(docs/decisions/0014-a-moment-is-a-cut-of-the-log.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from store.checkpoint import take_in
from store.codec import decode_header
from store.errors import Malformed
from store.events import Checkpointed
from store.ids import BatchId, FolderId, Kind
from store.kept_snapshot import KeptSnapshot
from store.records import Entry
from store.scratch_folder import ScratchFolder
from store.signing import WireBatch, verify
from store.view import View


class Dated(Struct, frozen=True, gc=False):
    """One applied batch as far as its time is concerned."""

    id: BatchId
    lamport: int
    parents: tuple[BatchId, ...]
    wall_ms: int


def dated(batch: BatchId, header_bytes: bytes) -> Dated:
    """Read what a header says of a batch's time and of what it rests on."""
    header = decode_header(header_bytes)
    parents = header.deps if header.prev is None else (header.prev, *header.deps)
    return Dated(batch, header.lamport, tuple(parents), header.wall_ms)


def moments(batches: Iterable[Dated], now_ms: int) -> dict[BatchId, int]:
    """Say when each batch was recorded, in milliseconds: its clock's word, within reason.

    A batch is never earlier than what it rests on, so a clock that is behind changes nothing; a
    clock that says a time after `now_ms` says nothing.
    """
    found: dict[BatchId, int] = {}
    for batch in sorted(batches, key=lambda one: one.lamport):  # parents come before
        said_ms = batch.wall_ms if batch.wall_ms <= now_ms else 0
        found[batch.id] = max((found.get(parent, 0) for parent in batch.parents), default=0)
        found[batch.id] = max(found[batch.id], said_ms)
    return found


def cut_at(batches: Sequence[Dated], at_ms: int, now_ms: int) -> list[Dated]:
    """Choose the batches that were recorded at a moment or before: closed under prev and deps."""
    recorded = moments(batches, now_ms)
    return [batch for batch in batches if recorded[batch.id] <= at_ms]


def cut_before(batches: Sequence[Dated], batch: BatchId) -> list[Dated]:
    """Choose what the author of a batch knew when it was recorded: all that it rests on.

    Raises KeyError where the batch is not among them.
    """
    by_id: Mapping[BatchId, Dated] = {one.id: one for one in batches}
    waiting = list(by_id[batch].parents)
    known: set[BatchId] = set()
    while waiting:
        one = waiting.pop()
        if one not in known and one in by_id:
            known.add(one)
            waiting.extend(by_id[one].parents)
    return [one for one in batches if one.id in known]


class Past:
    """A folder as it was. Calls may come from any thread, one after the other."""

    def __init__(self, folder: FolderId) -> None:
        """Begin without a batch; close() when done."""
        self._fold = ScratchFolder(folder)

    def close(self) -> None:
        """Let go of the database."""
        self._fold.close()

    @property
    def snapshot(self) -> KeptSnapshot:
        """Where the pieces of a snapshot are put before begin_with()."""
        return self._fold.snapshot

    def begin_with(self, checkpoint: Checkpointed) -> None:
        """Fold the snapshot that was put here first. Raises Malformed, BadSignature."""
        fold = self._fold
        with fold.db.transaction():
            pieces = fold.snapshot.pieces(checkpoint.snapshot.hash)
            take_in(fold.log, fold.state, fold.state.apply, pieces, checkpoint)

    def admit(self, batches: Sequence[WireBatch]) -> None:
        """Prove batches and let them take effect; parents come before or along.

        Raises Malformed, BadSignature where the log is damaged.
        """
        fold = self._fold
        with fold.db.transaction():
            admitted = fold.log.admit([verify(batch) for batch in batches], b"", fold.state.apply)
        if admitted.refused:
            raise Malformed("log", f"a batch breaks a rule: {', '.join(sorted(admitted.refused))}")

    def tree(self) -> dict[bytes, Entry]:
        """Give every path of the view with what stood there; directories come before their names.

        `object_no` of the entries are numbers of this fold alone; `number_of` tells which is whose.
        """
        fold = self._fold
        view = View(fold.db, fold.state, fold.log.members())
        entries = [entry for entry in view.all_entries() if not entry.collapsed]
        directories = {e.object_no: e for e in entries if e.kind is Kind.DIRECTORY}
        paths: dict[int, bytes] = {fold.root_no: b""}
        found = {_path(entry, directories, paths): entry for entry in entries}
        return dict(sorted(found.items()))

    def number_of(self, identity: bytes) -> int | None:
        """Give the number of an object in this fold, None if it was not known yet."""
        row = self._fold.db.execute(
            "SELECT no FROM object WHERE folder_no = ? AND id = ?", (self._fold.no, identity)
        ).fetchone()
        return None if row is None else int(row[0])


def _path(entry: Entry, directories: Mapping[int, Entry], paths: dict[int, bytes]) -> bytes:
    """Give the path of an entry; remembers those of the directories above it."""
    above: list[Entry] = []
    no = entry.parent_no
    while no not in paths:
        above.append(directories[no])
        no = directories[no].parent_no
    for directory in reversed(above):
        paths[directory.object_no] = _join(paths[directory.parent_no], directory.name)
    return _join(paths[entry.parent_no], entry.name)


def _join(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent else name
