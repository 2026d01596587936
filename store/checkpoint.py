"""Say what a folder's state is at a frontier, and prove a snapshot by what was said.

A checkpoint is the frontier, the version and root of the state there, and the content that is
the snapshot of it (store.events.Checkpointed). Whoever restores one folds the snapshot in a
database of its own and believes it only if content, frontier and root are the ones that were
said; that whoever said so had the role is for the caller to know.

It records no event, and it neither fetches nor keeps the content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from blake3 import blake3

from store import snapshot
from store.db import Database, scratch_database
from store.errors import DizzyError, Malformed
from store.events import Checkpointed, Content
from store.folder import add_folder
from store.ids import EPOCH_BYTES, Epoch, FolderId
from store.log import CUT_OFF, AppliedBatch, FolderLog
from store.signing import SignedBatch, verify_thinned
from store.state import STATE_VERSION, FolderState

FRONTIER_LIMIT: Final = 1024  # batches in Checkpointed.frontier
_BATCHES_AT_ONCE = 64


class OlderLogNeeded(DizzyError):
    """What was left out of a snapshot counts again: only the whole log tells the state."""


def describe(
    database: Database, log: FolderLog, state: FolderState, keep: Callable[[bytes], None]
) -> Checkpointed | None:
    """Write a snapshot of what is applied, each piece to `keep`, and say what it is.

    None where more logs stand open than an event has room for, or where a copy of the owner's
    home ended the folder; nothing is written then. The database must not change meanwhile.
    """
    frontier = log.frontier()
    if len(frontier) > FRONTIER_LIMIT or _is_owner_cut_off(database, log):
        return None
    hasher, size = blake3(), 0
    for piece in snapshot.write(database, log.folder_no, log.folder, log.owner()):
        hasher.update(piece)
        size += len(piece)
        keep(piece)
    return Checkpointed(
        frontier=frontier,
        state_version=STATE_VERSION,
        state_root=state.root(),
        snapshot=Content(hash=hasher.digest(), size=size),
    )


class Restored:
    """A folder folded from a snapshot, in a database of its own; it takes the tail as any log.

    Calls may come from any thread, one after the other.
    """

    def __init__(self, folder: FolderId) -> None:
        """Begin empty; use `restore`. close() when done."""
        self.db = scratch_database()
        no = add_folder(
            self.db, folder=folder, name="", path=b"", epoch=Epoch(bytes(EPOCH_BYTES))
        )
        (root_no,) = self.db.execute("SELECT root_no FROM folder WHERE no = ?", (no,)).fetchone()
        self.log = FolderLog(self.db, no, folder)
        self.state = FolderState(self.db, no, folder, root_no)

    def close(self) -> None:
        """Let go of the database."""
        self.db.connection.close()

    def admit(self, batches: Sequence[SignedBatch]) -> None:
        """Let batches take effect that come next.

        Raises Malformed where one breaks a rule, OlderLogNeeded where one cuts off what was
        settled; this state is of no use then.
        """
        with self.db.transaction():
            admitted = self.log.admit(batches, b"", self.state.apply)
        if admitted.refused:
            reasons = ", ".join(sorted(admitted.refused))
            raise Malformed("snapshot", f"has a batch that breaks a rule: {reasons}")
        if self.log.is_recut:  # an ending cut off, or let in, what has taken effect
            if _is_owner_cut_off(self.db, self.log):
                raise OlderLogNeeded(
                    "snapshot",
                    "a copy of the owner's home ended the folder, without what its owner knew",
                    hint="the whole log is needed",
                )
            self._fold_anew()

    def _fold_anew(self) -> None:
        with self.db.transaction():
            self.state.forget()
            for no, wire, is_void in self.log.all_applied():
                self.state.apply(
                    AppliedBatch(no=no, signed=verify_thinned(wire), is_void=is_void)
                )
            self.log.is_recut = False


def restore(pieces: Iterable[bytes], folder: FolderId, checkpoint: Checkpointed) -> Restored:
    """Fold a snapshot and prove it by its checkpoint; the caller closes what it gets.

    Raises Malformed or BadSignature where anything is not as the checkpoint says; it stops at
    the first byte more than the snapshot's size.
    """
    if checkpoint.state_version != STATE_VERSION:
        raise Malformed(
            "checkpoint",
            f"is of state version {checkpoint.state_version}, this dizzyd folds {STATE_VERSION}",
        )
    restored = Restored(folder)
    try:
        _fold(restored, _proven(pieces, checkpoint.snapshot), checkpoint)
    except BaseException:
        restored.close()
        raise
    return restored


def _fold(restored: Restored, pieces: Iterable[bytes], checkpoint: Checkpointed) -> None:
    together: list[SignedBatch] = []
    for signed in snapshot.read(pieces, restored.log.folder):
        together.append(signed)
        if len(together) == _BATCHES_AT_ONCE:
            restored.admit(together)
            together = []
    restored.admit(together)
    if restored.log.waiting or restored.log.frontier() != checkpoint.frontier:
        raise Malformed("snapshot", "is of another frontier than its checkpoint says")
    if restored.state.root() != checkpoint.state_root:
        raise Malformed("snapshot", "folds to another state than its checkpoint says")


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


def _is_owner_cut_off(database: Database, log: FolderLog) -> bool:
    """Whether an ending cuts off batches of the owner: then what they rest on is not settled."""
    cut_off = database.execute(
        "SELECT l.agent FROM batch b JOIN log l ON l.no = b.log_no"
        " WHERE b.folder_no = ? AND b.is_void = ? GROUP BY l.agent",
        (log.folder_no, CUT_OFF),
    )
    return bool(log.endings) and log.owner() in {agent for (agent,) in cut_off}
