"""Find where contents can be read here: in the tree, or in history.

It reads over a connection of its own in a thread of its own where there is one, so that a peer's
question does not wait behind a unit that records or admits (docs/decisions/0015). What it gives
is of a moment, like anything said of a disk: who reads checks the stat, or the hash. It writes
nothing and opens no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import Struct

from daemon.core import Runner
from daemon.disk import Disk, FileKind, Stat
from daemon.shelf import Shelf
from store.db import Database, chunked
from store.ids import BlobHash, Kind
from store.records import SyncedRow

PLACES_LIMIT = 8  # of one content: a folder may hold thousands of equal files


class Place(Struct, frozen=True, gc=False):
    """Where a content can be read: a file as it was last seen, or a name in history (no stat)."""

    path: bytes
    stat: Stat | None

    @property
    def size(self) -> int:
        """The length in bytes as far as it is known; 0 in history."""
        return 0 if self.stat is None else self.stat.size

    def read(self, disk: Disk, offset: int, length: int) -> bytes:
        """Read a piece. Raises DiskError, also if the file is not the expected one any more."""
        if self.stat is None:
            return disk.read_history(self.path, offset, length)
        return disk.read(self.path, offset, length, self.stat)


class Earlier(Struct, frozen=True, gc=False):
    """The version that a content is to replace: where it stands, and what synced says of it."""

    path: bytes
    row: SyncedRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A connection that only reads, and the one thread that uses it."""

    database: Database
    runner: Runner


class Places:
    """Finds contents of all folders of a node."""

    def __init__(self, shelf: Shelf, reading: Reading) -> None:
        """Read over `reading`; paths of directories come from the shelf's memory."""
        self._shelf = shelf
        self._db = reading.database
        self._runner = reading.runner

    async def find(self, folder_no: int, blobs: Sequence[BlobHash]) -> dict[BlobHash, list[Place]]:
        """Give the places of those contents that stand here, files of the tree first.

        It sees whatever was committed when it was called.
        """
        return await self._runner.run(self._find, folder_no, blobs)

    def _find(self, folder_no: int, blobs: Sequence[BlobHash]) -> dict[BlobHash, list[Place]]:
        stored = self._shelf.get(folder_no)
        found: dict[BlobHash, list[Place]] = {}
        if stored is None:
            return found
        path_of = stored.synced.path_of
        for marks, part in chunked(blobs):
            for value, parent_no, name, inode, size, mtime_ns, ctime_ns, mode in self._db.execute(
                "SELECT value, parent_no, name, inode, size, mtime_ns, ctime_ns, mode FROM synced"
                f" WHERE value IN ({marks}) AND kind = {int(Kind.FILE)} AND folder_no = ?",
                (*part, folder_no),
            ):
                places = found.setdefault(value, [])
                parent = path_of(parent_no)
                if parent is None or len(places) >= PLACES_LIMIT:
                    continue
                path = parent + b"/" + name if parent else name
                stat = Stat(FileKind.FILE, inode, size, mtime_ns, ctime_ns, 0o100 * mode, 1)
                places.append(Place(path, stat))
            for value, name in self._db.execute(
                f"SELECT value, name FROM kept WHERE value IN ({marks}) AND folder_no = ?",
                (*part, folder_no),
            ):
                places = found.setdefault(value, [])
                if len(places) < PLACES_LIMIT:
                    places.append(Place(name, None))
        return {blob: places for blob, places in found.items() if places}
