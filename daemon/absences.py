"""Keep the known names that a scan did not find, until they turn up or the scan ends.

A missing name needs a listing of its directory: whoever calls miss() has one. All that stood below
a missing directory is missing with it, until the directory turns up elsewhere.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from daemon.comparing import Compared, Rows, Sorter, join
from store.ids import Kind

if TYPE_CHECKING:
    from daemon.disk import Stat
    from daemon.ignore import Ignore
    from daemon.scanning import SyncedTree
    from store.records import SyncedRow

DIRECTORIES_AT_ONCE = 128


class Absences:
    """What one scan misses."""

    def __init__(self, tree: SyncedTree, ignore: Ignore) -> None:
        """Begin with nothing missing."""
        self._tree = tree
        self._ignore = ignore
        self.names: dict[bytes, Rows] = {}  # by the path where synced has them
        self.lost: dict[int, tuple[bytes, Rows]] = {}  # known directories not at their place
        self.expanded: set[bytes] = set()  # missing directories whose rows are missing, too
        self.inodes: set[int] = set()  # of rows that are not at their place
        self._sizes: set[int] = set()
        self._unexpanded: deque[bytes] = deque()
        self._adopted: set[bytes] = set()  # known directories that turned up after all

    @property
    def has_more_below(self) -> bool:
        """Whether expand() has something to do."""
        return bool(self._unexpanded)

    def miss(self, path: bytes, rows: Rows) -> None:
        """Count a known name as missing until it turns up."""
        if path in self._adopted:
            return
        self.names[path] = rows
        if rows[0].kind is Kind.DIRECTORY:
            if not rows[0].leftover:
                self.lost[rows[0].inode] = (path, rows)
            self._unexpanded.append(path)
        else:
            self.inodes.add(rows[0].inode)
            self._sizes.add(rows[0].size)

    def take_back(self, known_as: bytes, rows: list[SyncedRow]) -> None:
        """Forget that what stood in a directory is missing: the directory turned up."""
        self.expanded.discard(known_as)
        for row in rows:
            path = join(known_as, row.name)
            self.names.pop(path, None)
            if row.kind is Kind.DIRECTORY and self.lost.get(row.inode, (b"",))[0] == path:
                del self.lost[row.inode]

    def forget_below(self, directory: bytes) -> None:
        """Miss nothing below a directory: it could not be listed."""
        prefix = directory + b"/"
        for path in [path for path in self.names if path.startswith(prefix)]:
            del self.names[path]

    async def expand(self) -> None:
        """Count all rows below known directories that are nowhere as missing."""
        paths: list[bytes] = []
        while self._unexpanded and len(paths) < DIRECTORIES_AT_ONCE:
            path = self._unexpanded.popleft()
            if path in self.names:
                paths.append(path)
        for path, rows in zip(paths, await self._tree.rows_in(paths), strict=True):
            self.expanded.add(path)
            known: dict[bytes, list[SyncedRow]] = {}
            for row in rows:
                known.setdefault(row.name, []).append(row)
            result = Compared()
            sort = Sorter(self._ignore, path, [], result, lambda _path: False)
            for name, few in known.items():
                sort.miss(name, tuple(few))
            for few_rows in result.missing:
                self.miss(join(path, few_rows[0].name), few_rows)

    def turned_up(self, known_as: bytes, rows: Rows) -> None:
        """Take a known directory for found; what stood below is taken back as it is listed."""
        self.lost.pop(rows[0].inode, None)
        self.names.pop(known_as, None)
        self._adopted.add(known_as)

    def may_be_of(self, stat: Stat) -> bool:
        """Whether a new file may be a missing one that was moved."""
        return stat.inode in self.inodes or (stat.size > 0 and stat.size in self._sizes)
