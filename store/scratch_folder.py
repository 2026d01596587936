"""Give one folder a log and a state in a database of their own, which nothing else sees.

The real ones, and a place for the pieces of a snapshot. What goes in, and what becomes of it, is
for the owner; the node's own database is not touched.
"""

from __future__ import annotations

from store.db import scratch_database
from store.founding import add_folder
from store.ids import EPOCH_BYTES, Epoch, FolderId
from store.kept_snapshot import KeptSnapshot
from store.log import FolderLog
from store.state import FolderState


class ScratchFolder:
    """Empty at first. Calls may come from any thread, one after the other."""

    def __init__(self, folder: FolderId) -> None:
        """Make it; close() when done."""
        self.db = scratch_database()
        self.no = add_folder(
            self.db, folder=folder, name="", path=b"", epoch=Epoch(bytes(EPOCH_BYTES))
        )
        (root_no,) = self.db.execute(
            "SELECT root_no FROM folder WHERE no = ?", (self.no,)
        ).fetchone()
        self.root_no: int = root_no
        self.log = FolderLog(self.db, self.no, folder)
        self.state = FolderState(self.db, self.no, folder, root_no)
        self.snapshot = KeptSnapshot(self.db, self.no, folder)

    def close(self) -> None:
        """Let go of the database."""
        self.db.connection.close()
