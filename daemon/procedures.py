"""Carry out what was decided, on the database thread: record acts, admit batches, commit steps.

Each procedure is one command, one transaction, and gives its result to who asked; what others
may want to know leaves as signals, after the commit. No file and no socket is touched here.
"""

from __future__ import annotations

from dataclasses import dataclass

from daemon.acts import Act
from daemon.draft import Recorded
from daemon.planning import UnderWay
from daemon.record import Recorder
from daemon.shelf import Shelf
from daemon.signals import BatchesCommitted, ObjectsChanged
from daemon.subscription import Emit
from store.admitted import Admitted
from store.events import Checkpointed, encode
from store.folder import StoredFolder
from store.ids import AgentId, BatchId
from store.joined import begin_with, catch_up, let_go
from store.kept_snapshot import KeptSnapshot
from store.signing import SignedBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordActs:
    """Turn what people did into events of our log."""

    folder_no: int
    acts: tuple[Act, ...]
    wall_ms: int
    covered_seq: int  # of our own log: the last that any peer is known to have
    under_way: UnderWay  # objects of plans that are not done


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitBatches:
    """Store what a peer sent and let it take effect."""

    folder_no: int
    source: AgentId
    batches: tuple[SignedBatch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndFolder:
    """End a folder of our own for all its members."""

    folder_no: int
    wall_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordCheckpoint:
    """Record what a snapshot is of that was just made here, and keep it."""

    folder_no: int
    checkpoint: Checkpointed
    pieces_as: bytes  # the name under which its pieces were put away
    wall_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginWithSnapshot:
    """Begin a folder with a snapshot whose pieces are all here, or go on with it."""

    folder_no: int
    checkpoint: SignedBatch
    catches_up: bool = False  # a part of the log is here


@dataclass(frozen=True, slots=True, kw_only=True)
class LetGo:
    """Keep of the log below a checkpoint only what its snapshot holds, whose pieces are here."""

    folder_no: int
    checkpoint: SignedBatch


class Procedures:
    """The procedures of a node, over its shelf of folders."""

    def __init__(self, shelf: Shelf) -> None:
        """Work on these folders."""
        self._shelf = shelf

    def record(
        self, command: RecordActs, emit: Emit[BatchesCommitted | ObjectsChanged]
    ) -> Recorded:
        """Record acts; what it gives is durable once the engine's transaction has committed."""
        stored = self._shelf[command.folder_no]
        with stored.change():
            recorder = Recorder(stored, command.wall_ms, command.covered_seq)
            with stored.synced.noting() as agreeing:
                recorded = recorder.record(command.acts)
            stored.unsynced.drop_agreed(command.under_way.objects(), among=agreeing)
        if recorded.batches:
            self._shelf.own.wrote(recorded.batches)
            emit(
                BatchesCommitted(
                    folder_no=command.folder_no, batches=tuple(recorded.batches), is_own=True
                )
            )
        if stored.state.changes:
            emit(ObjectsChanged(folder_no=command.folder_no))
        return recorded

    def admit(
        self, command: AdmitBatches, emit: Emit[BatchesCommitted | ObjectsChanged]
    ) -> Admitted:
        """Admit verified batches; see store.log.FolderLog.admit."""
        stored = self._shelf[command.folder_no]
        admitted = stored.admit(command.batches, command.source)
        if stored.is_outrun_by(admitted):
            stored.renew_epoch(self._shelf.new_epoch())
        if admitted.stored:
            self._shelf.own.took(stored.key.agent, admitted.stored)
            emit(
                BatchesCommitted(
                    folder_no=command.folder_no, batches=tuple(admitted.stored), is_own=False
                )
            )
        if stored.state.changes and stored.ending is None:
            emit(ObjectsChanged(folder_no=command.folder_no))
        return admitted

    def end(self, command: EndFolder, emit: Emit[BatchesCommitted]) -> None:
        """Record that a folder has ended; what it cuts off is taken from no disk."""
        stored = self._shelf[command.folder_no]
        batches = stored.end(command.wall_ms)
        self._shelf.own.wrote(batches)
        emit(BatchesCommitted(folder_no=command.folder_no, batches=tuple(batches), is_own=True))

    def record_checkpoint(self, command: RecordCheckpoint, emit: Emit[BatchesCommitted]) -> None:
        """Record a checkpoint; from then on its snapshot can be given to who joins."""
        stored = self._shelf[command.folder_no]
        kept = KeptSnapshot(stored.db, stored.no, stored.id)
        with stored.change():
            batches = stored.append([encode(command.checkpoint)], command.wall_ms)
            kept.rename(command.pieces_as, command.checkpoint.snapshot.hash)
            kept.note(batches[-1])
        self._shelf.own.wrote(batches)
        emit(BatchesCommitted(folder_no=command.folder_no, batches=tuple(batches), is_own=True))

    def begin_with(self, command: BeginWithSnapshot, emit: Emit[ObjectsChanged]) -> None:
        """Begin with a snapshot or go on with it, whole or not at all; raises as store.joined."""
        stored = self._shelf[command.folder_no]
        take = catch_up if command.catches_up else begin_with
        before = _own_heads(stored)
        take(stored, KeptSnapshot(stored.db, stored.no, stored.id), command.checkpoint)
        if _own_heads(stored) - before:
            # We were set back, as in admit(); others may know still more of our log.
            stored.renew_epoch(self._shelf.new_epoch())
        emit(ObjectsChanged(folder_no=command.folder_no))

    def let_go(self, command: LetGo, emit: Emit[ObjectsChanged]) -> None:
        """Let go of a part of the log, whole or not at all; raises as store.joined.let_go()."""
        stored = self._shelf[command.folder_no]
        let_go(stored, KeptSnapshot(stored.db, stored.no, stored.id), command.checkpoint)
        if stored.state.changes:  # those from before
            emit(ObjectsChanged(folder_no=command.folder_no))


def _own_heads(stored: StoredFolder) -> set[BatchId]:
    """Give where the logs end that we write now, or would write next."""
    ours = {stored.epoch, stored.next_epoch}
    return {
        head.batch
        for head in stored.log.heads()
        if head.agent == stored.key.agent and head.epoch in ours
    }
