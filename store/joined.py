"""Begin a folder with a snapshot instead of its whole log, or go on with one.

It takes effect whole or not at all: in one transaction the snapshot is folded, proven by the
checkpoint that names it, and the checkpoint by the owner that the snapshot itself proves, up to
the folder's own signature. The pieces must be here already (store.kept_snapshot).

Who was away while others let go of what is below a checkpoint goes on with its snapshot: that
takes the place of what is here of it, and what the owner did not know stays on top.
"""

from __future__ import annotations

from collections.abc import Iterable

from store import snapshot
from store.checkpoint import take_in
from store.decoding import decoded_events, is_whole
from store.errors import Malformed
from store.events import FolderShared
from store.folder import StoredFolder
from store.ids import AgentId, BatchId, FolderId, short
from store.kept_snapshot import KeptSnapshot, checkpoint_in
from store.objects import Changes
from store.signing import SignedBatch, WireBatch, verify
from store.snapshot import Grave

_MARKER = b"marker"  # no id of a batch: those have 32 bytes


def founding_batch(stored: StoredFolder) -> SignedBatch | None:
    """Give the batch that says whose folder it is; None before that is known."""
    for header, signature, body in stored.db.execute(
        "SELECT b.header, b.signature, b.body FROM log l JOIN batch b"
        " ON b.log_no = l.no AND b.seq = 0 WHERE l.folder_no = ? AND b.is_applied = 1",
        (stored.no,),
    ):
        wire = WireBatch(header=header, signature=signature, body=body)
        if is_whole(header, body) and founder(signed := verify(wire), stored.id) is not None:
            return signed
    return None


def founder(signed: SignedBatch, folder: FolderId) -> AgentId | None:
    """Say whom a batch proves to be the owner, by the folder's own key; None if nobody."""
    header = signed.header
    events, broken = decoded_events(signed)
    if broken or header.folder != folder or header.seq or len(events) != 1:
        return None
    event = events[0]
    is_own = isinstance(event, FolderShared) and event.owner == header.agent
    return AgentId(header.agent) if is_own else None


def begin_with(stored: StoredFolder, kept: KeptSnapshot, signed: SignedBatch) -> None:
    """Fold the kept snapshot that a checkpoint names into a folder that has no batch yet.

    The checkpoint itself comes with the tail of the log. Raises Malformed or BadSignature where
    anything is not as it says, or where it is not the owner's; then nothing has changed.
    """
    with stored.change():
        _take_in(stored, kept, signed)
    stored.reload()  # who is a member, and by which label, is known by now


def lacks_of(stored: StoredFolder, signed: SignedBatch) -> bool:
    """Whether something that a checkpoint names is not here, so that its snapshot may help."""
    told = checkpoint_in(signed)
    frontier = () if told is None else told.frontier
    return any(not stored.log.has(BatchId(batch)) for batch in frontier)


def catch_up(stored: StoredFolder, kept: KeptSnapshot, signed: SignedBatch) -> None:
    """Put the kept snapshot in the place of what a folder has of the log that it stands for.

    What is here beyond it comes on top: it only comes late to it, as to everybody who has the
    snapshot, so no edit is lost and none is made. Objects keep their numbers. What waited for
    others is forgotten. Raises as begin_with(), and where the folder was ended without what the
    snapshot rests on; then nothing has changed.
    """
    told = checkpoint_in(signed)
    if told is None:
        raise Malformed(f"batch {short(signed.id)}", "is no checkpoint of this folder")
    with stored.change():
        beyond = _beyond(stored, kept.pieces(told.snapshot.hash))
        _forget_log(stored)
        _take_in(stored, kept, signed)
        admitted = stored.admit(beyond, b"")
        if admitted.refused or stored.log.waiting:
            raise Malformed("snapshot", "does not go with what is here beyond it")
        stored.db.execute("DELETE FROM batch WHERE id = ?", (_MARKER,))
        if stored.log.is_overruled:
            raise Malformed("snapshot", "is older than the end of the folder")
    stored.reload()


def let_go(stored: StoredFolder, kept: KeptSnapshot, signed: SignedBatch) -> None:
    """Keep nothing of the log below a checkpoint but what its kept snapshot holds of it.

    What the state is does not change, nor what is still to be planned; else nothing is let go.
    What it cannot be proven by, and what every member has, is for the caller to know. Raises as
    catch_up(); then nothing has changed.
    """
    if lacks_of(stored, signed) or stored.ending is not None:
        raise Malformed("checkpoint", "is of another log than the one here")
    before = (stored.state.root(), stored.log.heads(), stored.log.frontier())
    changes = stored.state.changes
    to_plan = Changes(set(changes.objects), set(changes.slots))
    with stored.change():
        catch_up(stored, kept, signed)
        if (stored.state.root(), stored.log.heads(), stored.log.frontier()) != before:
            raise Malformed("snapshot", "does not stand for the log that is here")
    stored.state.changes = to_plan


def _take_in(stored: StoredFolder, kept: KeptSnapshot, signed: SignedBatch) -> None:
    checkpoint = checkpoint_in(signed)
    if checkpoint is None or signed.header.folder != stored.id:
        raise Malformed(f"batch {short(signed.id)}", "is no checkpoint of this folder")
    take_in(
        stored.log,
        stored.state,
        stored.state.apply,
        kept.pieces(checkpoint.snapshot.hash),
        checkpoint,
    )
    if stored.log.owner() != signed.header.agent:
        raise Malformed("checkpoint", "was not made by the owner of the folder")
    kept.note_base(signed)


def _beyond(stored: StoredFolder, pieces: Iterable[bytes]) -> list[SignedBatch]:
    """List what is here and not in a snapshot: whole, for it came with none."""
    inside = {one.id for one in snapshot.read(pieces, stored.id) if not isinstance(one, Grave)}
    rows = stored.db.execute(
        "SELECT id, no FROM batch WHERE folder_no = ? ORDER BY lamport, id", (stored.no,)
    ).fetchall()
    found = []
    for batch, no in rows:
        if batch not in inside:
            wire = stored.db.execute(
                "SELECT header, signature, body FROM batch WHERE no = ?", (no,)
            ).fetchone()
            found.append(verify(WireBatch(*wire)))
    return found


def _forget_log(stored: StoredFolder) -> None:
    """Drop all batches, and what was folded of them; objects keep their numbers.

    A marker stays in the table until catch_up() ends, so that no number of a batch is given
    again: who follows the log, or reads it slowly, is somewhere in it by its number.
    """
    db, no = stored.db, stored.no
    db.execute(
        "INSERT INTO batch (folder_no, id, log_no, seq, lamport, access_no, is_applied, is_void,"
        " header, signature, body) VALUES (0, ?, 0, 0, 0, 0, 1, 0, x'', x'', x'')",
        (_MARKER,),
    )
    db.execute(
        "DELETE FROM buried WHERE object_no IN (SELECT no FROM object WHERE folder_no = ?)", (no,)
    )
    for table in ("batch", "log", "frontier", "access_set"):
        db.execute(f"DELETE FROM {table} WHERE folder_no = ?", (no,))
    db.execute("DELETE FROM meta WHERE key IN (?, ?)", (f"restored/{no}", f"events/{no}"))
    stored.reload()
    stored.state.forget()
