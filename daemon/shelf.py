"""Own all folders of a node on the database thread, and let the engine's transactions be theirs.

Everything here but get() is called on the database thread only. Nothing here waits, sleeps or
speaks to anybody; what follows from a change is told as signals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from daemon.own_tail import OwnBatches
from store.db import Database
from store.folder import StoredFolder
from store.ids import EPOCH_BYTES, Epoch, FolderId
from store.signing import AgentKey


class Shelf:
    """The open folders of a node, by local number and by id."""

    def __init__(
        self, database: Database, key: AgentKey, random_bytes: Callable[[int], bytes]
    ) -> None:
        """Begin with the database alone; load() opens the folders."""
        self.db = database
        self.key = key
        self.own = OwnBatches()
        self._random_bytes = random_bytes
        self._by_no: dict[int, StoredFolder] = {}

    def __iter__(self) -> Iterator[StoredFolder]:
        """Give all open folders."""
        return iter(list(self._by_no.values()))

    def __getitem__(self, folder_no: int) -> StoredFolder:
        """Give a folder by its local number. Raises KeyError."""
        return self._by_no[folder_no]

    def get(self, folder_no: int) -> StoredFolder | None:
        """Give a folder by its local number, None if it is not open (any more)."""
        return self._by_no.get(folder_no)

    def find(self, folder: FolderId) -> StoredFolder | None:
        """Give a folder by its id, if it is open."""
        for stored in self._by_no.values():
            if stored.id == folder:
                return stored
        return None

    def put(self, stored: StoredFolder) -> None:
        """Take in a folder that was shared or joined just now."""
        self._by_no[stored.no] = stored

    def load(self) -> None:
        """Open all folders that are active in the database."""
        for no, folder in self.db.execute(
            "SELECT no, id FROM folder WHERE is_active = 1"
        ).fetchall():
            if no not in self._by_no:
                self._by_no[no] = StoredFolder(self.db, no, FolderId(folder), self.key)

    def new_epoch(self) -> Epoch:
        """Draw the name of a new epoch."""
        return Epoch(self._random_bytes(EPOCH_BYTES))

    def renew_epochs(self) -> None:
        """Let every folder open a new epoch before it writes: this home was not always here."""
        for stored in self:
            stored.renew_epoch(self.new_epoch())

    def has_ended(self, folder: FolderId) -> bool:
        """Whether the log that we hold of a folder, open or given up, says that it has ended."""
        stored = self.find(folder)
        if stored is None:
            row = self.db.execute("SELECT no FROM folder WHERE id = ?", (folder,)).fetchone()
            if row is None:
                return False
            stored = StoredFolder(self.db, row[0], folder, self.key)
        return stored.ending is not None

    def drop(self, folder_no: int) -> None:
        """Let go of a folder; its rows are not touched."""
        self._by_no.pop(folder_no, None)

    def deactivate(self, folder_no: int) -> None:
        """Note that this node stopped with a folder; its rows stay, so that it can go on later."""
        self.db.execute("UPDATE folder SET is_active = 0 WHERE no = ?", (folder_no,))

    @contextmanager
    def begin(self) -> Iterator[None]:
        """Open the transaction of one run of the engine; on failure memory follows back."""
        try:
            with self.db.transaction():
                yield
        except BaseException:
            for stored in self._by_no.values():
                if stored.is_touched:
                    stored.reload()
            raise
        finally:
            for stored in self._by_no.values():
                stored.is_touched = False
