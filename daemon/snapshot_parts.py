"""Carry the snapshot by which a folder was joined from the node's database to one beside it.

What is folded beside, for `verify` or for a moment of the past, begins with it where the log
here does. Pieces go one by one: the database thread gives one, the pool puts it away.
"""

from __future__ import annotations

from daemon.core import Runner
from store.codec import decode_header
from store.errors import Malformed
from store.events import Checkpointed
from store.folder import StoredFolder
from store.kept_snapshot import KeptSnapshot, checkpoint_in
from store.opening import restored


def kept_of(stored: StoredFolder) -> KeptSnapshot:
    """Give the snapshots of a folder, over the node's own connection."""
    return KeptSnapshot(stored.db, stored.no, stored.id)


async def carry_snapshot(
    core: Runner, pool: Runner, stored: StoredFolder, into: KeptSnapshot
) -> Checkpointed:
    """Copy the snapshot with which a log begins, and give what names it. Raises Malformed."""
    kept = kept_of(stored)
    signed = await core.run(kept.base)
    checkpoint = None if signed is None else checkpoint_in(signed)
    if checkpoint is None:
        raise Malformed("snapshot", "is not here although this folder began with one")
    hash_, no = checkpoint.snapshot.hash, 0
    while (piece := await core.run(kept.piece, hash_, no)) is not None:
        await pool.run(into.keep, hash_, no, piece)
        no += 1
    return checkpoint


def snapshot_moment_ms(stored: StoredFolder) -> int:
    """Say when the newest batch of the snapshot was recorded by its author's clock; 0 if none."""
    latest = 0
    _, frontier = restored(stored.db, stored.no)
    for batch in frontier:
        row = stored.db.execute("SELECT header FROM batch WHERE id = ?", (batch,)).fetchone()
        if row is not None and row[0]:
            latest = max(latest, decode_header(row[0]).wall_ms)
    return latest
