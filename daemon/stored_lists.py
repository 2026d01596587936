"""Keep the chunk lists of large versions in the database, up to a bound.

A list outlives the version here: it is needed when another node asks how its successor differs.
Over the bound those go first whose version stands nowhere on this disk, the oldest of them first.
Lists are advice (peers.chunk_lists); they are never looked at for what is true, and a database
that fails costs no more than a list.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from daemon.core import Runner
from daemon.places import Reading
from daemon.shelf import Shelf
from peers.chunks import pack_list, unpack_list
from peers.wire import ChunkLine
from store.ids import BlobHash, FolderId

logger = logging.getLogger(__name__)

LIMIT_BYTES: Final = 128 * 1024 * 1024  # of lists: at 36 bytes a chunk, of about 900 GiB
_FALL_TO: Final = 0.75  # of the limit, so that it is not done each time


class StoredChunkLists:
    """The chunk lists of all folders of a node; implements peers.chunk_lists.ChunkLists."""

    def __init__(
        self, shelf: Shelf, core: Runner, reading: Reading, *, limit_bytes: int = LIMIT_BYTES
    ) -> None:
        """Write on the database thread, read over `reading`."""
        self._shelf = shelf
        self._core = core
        self._reading = reading
        self._limit_bytes = limit_bytes
        self._kept_bytes: int | None = None  # of all lists; counted when the first is kept

    async def get(self, folder: FolderId, blob: BlobHash) -> tuple[ChunkLine, ...] | None:
        """Give a list that is still kept."""

        def read() -> tuple[ChunkLine, ...] | None:
            found = self._reading.database.execute(
                "SELECT chunks FROM chunk_list WHERE value = ? AND folder_no ="
                " (SELECT no FROM folder WHERE id = ?)",
                (blob, folder),
            ).fetchone()
            return None if found is None else unpack_list(found[0])

        try:
            return await self._reading.runner.run(read)
        except sqlite3.DatabaseError as failure:
            logger.warning("chunk list not read why=%s", failure)
            return None

    async def keep(self, folder: FolderId, blob: BlobHash, lines: Sequence[ChunkLine]) -> None:
        """Keep a list; one that is kept already stays. It is durable when this returns."""

        def keep() -> None:
            stored = self._shelf.find(folder)
            if stored is not None:
                self._keep(stored.no, [(blob, lines)])

        await self._try_keep(keep)

    async def keep_all(
        self, folder_no: int, lists: Iterable[tuple[BlobHash, Sequence[ChunkLine]]]
    ) -> None:
        """Keep several lists of one folder."""
        await self._try_keep(partial(self._keep, folder_no, lists))

    async def _try_keep(self, keep: Callable[[], None]) -> None:
        # Caught here, not in the unit: who watches the thread is to hear of a damaged database.
        try:
            await self._core.run(keep)
        except sqlite3.DatabaseError as failure:
            logger.warning("chunk list not kept why=%s", failure)

    def _keep(self, folder_no: int, lists: Iterable[tuple[BlobHash, Sequence[ChunkLine]]]) -> None:
        db = self._shelf.db
        rows = [(folder_no, blob, pack_list(lines)) for blob, lines in lists]
        kept_bytes, self._kept_bytes = self._kept_bytes, None  # counted anew if this fails
        with db.transaction():
            if kept_bytes is None:
                total = "SELECT coalesce(sum(length(chunks)), 0) FROM chunk_list"
                kept_bytes = int(db.execute(total).fetchone()[0])
            for row in rows:
                changed = db.execute(
                    "INSERT OR IGNORE INTO chunk_list (folder_no, value, chunks) VALUES (?, ?, ?)",
                    row,
                ).rowcount
                kept_bytes += changed * len(row[2])
            if kept_bytes > self._limit_bytes:
                kept_bytes = self._drop(kept_bytes)
        self._kept_bytes = kept_bytes

    def _drop(self, kept_bytes: int) -> int:
        """Drop the oldest lists, those of versions that are not here first."""
        db = self._shelf.db
        dropped: list[tuple[int]] = []
        for no, size in db.execute(
            "SELECT no, length(chunks) FROM chunk_list AS list ORDER BY"
            " EXISTS (SELECT 1 FROM synced WHERE value = list.value)"
            " OR EXISTS (SELECT 1 FROM kept WHERE value = list.value), no"
        ):
            if kept_bytes <= self._limit_bytes * _FALL_TO:
                break
            dropped.append((no,))
            kept_bytes -= size
        db.executemany("DELETE FROM chunk_list WHERE no = ?", dropped)
        return kept_bytes
