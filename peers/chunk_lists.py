"""Say where chunk lists of large versions are kept, and keep them in memory where nothing else is.

A list is advice: it saves work and bytes, and what follows from a wrong one is found out by the
hash of the whole. It is kept for each folder, so that it never tells of a version of another.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peers.wire import ChunkLine
    from store.ids import BlobHash, FolderId

CACHED_CHUNKS_LIMIT: Final = 100_000


class ChunkLists(Protocol):
    """Keeps the lists of versions that were sent, received or hashed here (bounded)."""

    async def get(self, folder: FolderId, blob: BlobHash) -> tuple[ChunkLine, ...] | None:
        """Give a list that is still kept."""

    async def keep(self, folder: FolderId, blob: BlobHash, lines: Sequence[ChunkLine]) -> None:
        """Keep a list; one that is kept already stays."""


class MemoryChunkLists:
    """Keeps lists until there are too many; the oldest go."""

    def __init__(self) -> None:
        """Begin empty."""
        self._lists: OrderedDict[tuple[FolderId, BlobHash], tuple[ChunkLine, ...]] = OrderedDict()
        self._total = 0

    async def get(self, folder: FolderId, blob: BlobHash) -> tuple[ChunkLine, ...] | None:
        """Give a list that is still kept."""
        return self._lists.get((folder, blob))

    async def keep(self, folder: FolderId, blob: BlobHash, lines: Sequence[ChunkLine]) -> None:
        """Keep a list; one that is kept already stays."""
        if (folder, blob) in self._lists:
            return
        self._lists[folder, blob] = tuple(lines)
        self._total += len(lines)
        while self._total > CACHED_CHUNKS_LIMIT and len(self._lists) > 1:
            self._total -= len(self._lists.popitem(last=False)[1])
