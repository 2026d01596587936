"""Keep what ended a folder, and which batches count since: those that a cut holds.

What an ending is, and what its points keep, is store.ending's to say. Nothing is folded here: who
finds `is_recut` folds the state anew.
"""

from __future__ import annotations

from collections.abc import Sequence

from store import ending
from store.access_sets import RULED_OUT
from store.codec import decode_header, split_events
from store.db import Database
from store.ending import Ending
from store.ids import AgentId, BatchId, Epoch

CUT_OFF = 2  # is_void of a batch: its author had the role, and the folder was ended without it


class Cuts:
    """The endings of one folder. Owned by the database thread."""

    def __init__(self, database: Database, folder_no: int) -> None:
        """Begin with none; note() takes them."""
        self._db = database
        self._folder_no = folder_no
        self.endings: dict[int, Ending] = {}  # by the number of the batch
        self.kept: set[BatchId] = set()  # what counts since the folder was ended
        self.points: frozenset[BatchId] = frozenset()  # of all cuts
        self.is_recut = False  # applied batches were cut off, or let in: fold anew

    def note(self, batch_no: int) -> None:
        """Take a membership batch that counts as an ending, if it is one."""
        header_bytes, body, batch, log = self._db.execute(
            "SELECT b.header, b.body, b.id, l.id FROM batch b JOIN log l ON l.no = b.log_no"
            " WHERE b.no = ?",
            (batch_no,),
        ).fetchone()
        header = decode_header(header_bytes)
        events = split_events(body, header.count)
        author = AgentId(header.agent)
        if not ending.is_ending(author, events):
            return
        self.endings[batch_no] = Ending(
            no=batch_no,
            batch=batch,
            log=log,
            agent=author,
            epoch=Epoch(header.epoch),
            seq=header.seq,
            wall_ms=header.wall_ms,
            points=ending.points_of(author, events),
        )
        self.kept = ending.kept_by(self.endings.values(), self._parents_of)
        self.points = frozenset().union(*(one.points for one in self.endings.values()))

    def _parents_of(self, batch: BatchId) -> Sequence[BatchId] | None:
        row = self._db.execute(
            "SELECT header FROM batch WHERE id = ? AND folder_no = ?", (batch, self._folder_no)
        ).fetchone()
        if row is None:
            return None
        if not row[0]:
            return ()  # a stub; what a snapshot holds is never cut off
        header = decode_header(row[0])
        return header.deps if header.prev is None else (header.prev, *header.deps)

    def _is_kept(self, no: int, batch: BatchId, restored_no: int) -> bool:
        """Whether an ending lets a batch count: it rests on all that a snapshot holds."""
        return no <= restored_no or batch in self.kept

    def cut_anew(self, batch_no: int, verdict: int, restored_no: int) -> int:
        """Bring what is cut off in line with the cuts; gives the verdict on this batch.

        A cut may name a batch that comes later than the ending: what it holds counts then. The
        batches up to `restored_no` came with a snapshot.
        """
        self.kept = ending.kept_by(self.endings.values(), self._parents_of)
        turned = [
            (0 if self._is_kept(no, batch, restored_no) else CUT_OFF, no)
            for no, batch, is_void in self._db.execute(
                "SELECT no, id, is_void FROM batch"
                " WHERE folder_no = ? AND is_applied = 1 AND is_void != ?",
                (self._folder_no, RULED_OUT),
            ).fetchall()
            if self._is_kept(no, batch, restored_no) == bool(is_void)
        ]
        self._db.executemany("UPDATE batch SET is_void = ? WHERE no = ?", turned)
        for new, no in turned:
            if no == batch_no:
                verdict = new
            else:
                self.is_recut = True
        return verdict
