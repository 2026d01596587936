"""Say what a folder's state is at a frontier, and prove a snapshot by what was said.

A checkpoint is the frontier, the version and root of the state there, and the content that is
the snapshot of it (store.events.Checkpointed). Whoever takes one in folds the snapshot and
believes it only if content, frontier and root are the ones that were said; that the owner said
so is for the caller to know (store.joined).

It records no event, and it neither fetches nor keeps the content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from blake3 import blake3
from msgspec import Struct

from store import snapshot
from store.admitted import AppliedBatch, Fold
from store.db import Database
from store.errors import DizzyError, Malformed
from store.events import Checkpointed, Content
from store.ids import BatchId, FolderId
from store.log import FolderLog
from store.records import Stub
from store.scratch_folder import ScratchFolder
from store.signing import SignedBatch, verify_thinned
from store.snapshot import Grave
from store.state import STATE_VERSION, FolderState

FRONTIER_LIMIT: Final = 1024  # batches in Checkpointed.frontier
_BATCHES_AT_ONCE = 64


class OlderLogNeeded(DizzyError):
    """What was left out of a snapshot counts again: only the whole log tells the state."""


class Standing(Struct, frozen=True, gc=False):
    """Where a folder stands: what is applied, and the root of what it folds to."""

    frontier: tuple[BatchId, ...]
    state_root: bytes


def standing(log: FolderLog, state: FolderState) -> Standing | None:
    """Tell where a folder stands, if a checkpoint can be made of it.

    None where more logs stand open than an event has room for, where the folder was ended, and
    where part of its log came with a snapshot and forked since.
    """
    frontier = log.frontier()
    if len(frontier) > FRONTIER_LIMIT or log.endings or log.has_forked_below_snapshot():
        return None
    return Standing(frontier, state.root())


def write(
    database: Database,
    folder_no: int,
    folder: FolderId,
    at: Standing,
    keep: Callable[[bytes], None],
) -> Iterator[Checkpointed | None]:
    """Write the snapshot of a standing, each piece to `keep`; last comes what to say of it.

    It gives None now and then, so that whoever runs it can rest or give up. The database must be
    one transaction, and stand there: else nothing is written and nothing said.
    """
    here = database.execute(
        "SELECT batch_id FROM frontier WHERE folder_no = ? ORDER BY batch_id", (folder_no,)
    ).fetchall()
    if tuple(batch for (batch,) in here) != at.frontier:
        return
    hasher, size = blake3(), 0
    for piece in snapshot.write(database, folder_no, folder):
        if piece:
            hasher.update(piece)
            size += len(piece)
            keep(piece)
        yield None
    yield Checkpointed(
        frontier=at.frontier,
        state_version=STATE_VERSION,
        state_root=at.state_root,
        snapshot=Content(hash=hasher.digest(), size=size),
    )


def describe(
    database: Database, log: FolderLog, state: FolderState, keep: Callable[[bytes], None]
) -> Checkpointed | None:
    """Write a snapshot of what is applied in one go, and say what it is; None as standing()."""
    at = standing(log, state)
    if at is None:
        return None
    told = [*write(database, log.folder_no, log.folder, at, keep)]
    return told[-1] if told else None


def take_in(
    log: FolderLog,
    state: FolderState,
    fold: Fold,
    pieces: Iterable[bytes],
    checkpoint: Checkpointed,
) -> None:
    """Fold a snapshot into a folder that has no batch yet, and prove it by its checkpoint.

    Inside a transaction, which is to be undone if this raises: Malformed or BadSignature where
    anything is not as the checkpoint says. It stops at the first byte more than the size said.
    """
    if checkpoint.state_version != STATE_VERSION:
        raise Malformed(
            "checkpoint",
            f"is of state version {checkpoint.state_version}, this dizzyd folds {STATE_VERSION}",
        )
    if log.batches:
        raise Malformed("snapshot", "is for a folder of which nothing is here yet")
    together: list[SignedBatch] = []
    for one in snapshot.read(_proven(pieces, checkpoint.snapshot), log.folder):
        if isinstance(one, Grave):
            state.bury(one.object, one.marks)
            continue
        if isinstance(one, SignedBatch):
            together.append(one)
        if isinstance(one, Stub) or len(together) == _BATCHES_AT_ONCE:
            _admit(log, fold, together)
            together = []
        if isinstance(one, Stub):
            log.stand_in(one)
    _admit(log, fold, together)
    if log.waiting or log.endings:
        raise Malformed("snapshot", "is of no folder that can go on")
    log.settle(checkpoint.frontier)
    if state.root() != checkpoint.state_root:
        raise Malformed("snapshot", "folds to another state than its checkpoint says")


def _admit(log: FolderLog, fold: Fold, batches: Sequence[SignedBatch]) -> None:
    admitted = log.admit(batches, b"", fold)
    if admitted.refused or admitted.missing:
        reasons = ", ".join(sorted(admitted.refused)) or "what comes before it is missing"
        raise Malformed("snapshot", f"has a batch that breaks a rule: {reasons}")


class Restored:
    """A folder folded from a snapshot, in a database of its own; it takes the tail as any log.

    Calls may come from any thread, one after the other.
    """

    def __init__(self, folder: FolderId) -> None:
        """Begin empty; use `restore`. close() when done."""
        self._scratch = ScratchFolder(folder)
        self.db = self._scratch.db
        self.log = self._scratch.log
        self.state = self._scratch.state

    def close(self) -> None:
        """Let go of the database."""
        self._scratch.close()

    def admit(self, batches: Sequence[SignedBatch]) -> None:
        """Let batches take effect that come next.

        Raises Malformed where one breaks a rule, OlderLogNeeded where one ends the folder without
        what the snapshot rests on; this state is of no use then.
        """
        with self.db.transaction():
            admitted = self.log.admit(batches, b"", self.state.apply)
        if admitted.refused:
            reasons = ", ".join(sorted(admitted.refused))
            raise Malformed("snapshot", f"has a batch that breaks a rule: {reasons}")
        if self.log.is_overruled:
            raise OlderLogNeeded(
                "snapshot",
                "a copy of the owner's home ended the folder, without what its owner knew",
                hint="the whole log is needed",
            )
        if self.log.cuts.is_recut:  # an ending cut off, or let in, what has taken effect
            self._fold_anew()

    def _fold_anew(self) -> None:
        with self.db.transaction():
            self.state.forget()
            for no, wire, is_void in self.log.all_applied():
                self.state.apply(AppliedBatch(no=no, signed=verify_thinned(wire), is_void=is_void))
            self.log.cuts.is_recut = False


def restore(pieces: Iterable[bytes], folder: FolderId, checkpoint: Checkpointed) -> Restored:
    """Fold a snapshot beside and prove it by its checkpoint; the caller closes what it gets.

    Raises as take_in().
    """
    restored = Restored(folder)
    try:
        with restored.db.transaction():
            take_in(restored.log, restored.state, restored.state.apply, pieces, checkpoint)
    except BaseException:
        restored.close()
        raise
    return restored


def _proven(pieces: Iterable[bytes], content: Content) -> Iterator[bytes]:
    """Pass pieces on as long as they can be the content, and refuse if they were not."""
    hasher, size = blake3(), 0
    for piece in pieces:
        size += len(piece)
        if size > content.size:
            raise Malformed("snapshot", "is longer than its checkpoint says")
        hasher.update(piece)
        yield piece
    if size != content.size or hasher.digest() != content.hash:
        raise Malformed("snapshot", "has other bytes than its checkpoint says")
