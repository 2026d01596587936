"""Begin a folder with a snapshot instead of its whole log.

It takes effect whole or not at all: in one transaction the snapshot is folded, proven by the
checkpoint that names it, and the checkpoint by the owner that the snapshot itself proves, up to
the folder's own signature. The pieces must be here already (store.kept_snapshot).
"""

from __future__ import annotations

from store.checkpoint import take_in
from store.decoding import decoded_events, is_whole
from store.errors import Malformed
from store.events import FolderShared
from store.folder import StoredFolder
from store.ids import AgentId, FolderId, short
from store.kept_snapshot import KeptSnapshot, checkpoint_in
from store.signing import SignedBatch, WireBatch, verify


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
    checkpoint = checkpoint_in(signed)
    if checkpoint is None or signed.header.folder != stored.id:
        raise Malformed(f"batch {short(signed.id)}", "is no checkpoint of this folder")
    with stored.change():
        take_in(
            stored.log,
            stored.state,
            stored.state.apply,
            kept.pieces(checkpoint.snapshot.hash),
            checkpoint,
        )
        if stored.log.owner() != signed.header.agent:
            raise Malformed("checkpoint", "was not made by the owner of the folder")
        kept.note(signed)
    stored.reload()  # who is a member, and by which label, is known by now
