"""Give looks the synced rows that they compare the disk with, read on the database thread.

It keeps none of them: what is written meanwhile shows at the next question.
"""

from __future__ import annotations

from collections.abc import Sequence

from daemon.standing import Standing
from store.records import SyncedRow


class KnownRows:
    """The synced rows of one folder; implements daemon.scanning.SyncedTree."""

    def __init__(self, standing: Standing) -> None:
        """Prepare; nothing is read."""
        self._standing = standing

    def paths_among(self, paths: Sequence[bytes]) -> list[bytes]:
        """List those of these paths at which rows stand. For the database thread."""
        return self._standing.synced.known_among(paths)

    async def rows_in(self, directories: Sequence[bytes]) -> list[list[SyncedRow]]:
        """Give, for each directory path, the rows of all names that stand in it."""

        def read() -> list[list[SyncedRow]]:
            synced = self._standing.synced
            return [synced.rows_in(path) for path in directories]

        return await self._standing.tools.core.run(read)

    async def rows_at(self, paths: Sequence[bytes]) -> list[list[SyncedRow]]:
        """Give, for each path, the rows that stand there."""
        standing = self._standing
        return await standing.tools.core.run(lambda: standing.synced.rows_at_many(paths))
