"""Find where the deletion of a directory began, for whoever wants back what it took away.

Who removes a large tree removes what is in it first and the directory last, and that takes a
while: what the looks found of it in between stands in batches of its own. It reads the log of
this node alone and changes nothing.
"""

from __future__ import annotations

from typing import Final

from daemon.versions import DELETED, batches_about, below, summarise
from store.folder import StoredFolder
from store.ids import BatchId

PAUSE_MS: Final = 60_000  # between two batches of one removal; a look takes in 5 s of it at most


def first_of_deletion(stored: StoredFolder, directory_no: int, last: BatchId) -> BatchId:
    """Give the first batch of the removal that the batch `last`, with the directory's own, ended.

    Those of the same log count that delete something below it, less than a minute apart, up to
    one that says anything else of it.
    """
    about = batches_about(stored, [directory_no, *below(stored, directory_no)])
    last_no, log_no = stored.db.execute(
        "SELECT no, log_no FROM batch WHERE id = ?", (last,)
    ).fetchone()
    ended = summarise(stored, last_no, about.get(last_no, ()))
    first, at_ms = last, ended.wall_ms
    earliest_no = stored.log.restored_no  # what came with a snapshot dates nothing
    for no in sorted((no for no in about if earliest_no < no < last_no), reverse=True):
        batch, of_log = stored.db.execute(
            "SELECT id, log_no FROM batch WHERE no = ?", (no,)
        ).fetchone()
        if of_log != log_no:
            continue
        summary = summarise(stored, no, about[no])
        if summary.counts.keys() != {DELETED} or at_ms - summary.wall_ms > PAUSE_MS:
            break
        first, at_ms = BatchId(batch), summary.wall_ms
    return first
