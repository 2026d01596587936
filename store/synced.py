"""Keep the third tree: what this disk and the state last agreed on, for each object.

Keyed by object, with the parent and name it has on this disk, never by path: a renamed
directory is one row. Paths of this disk resolve to objects here, never through the view.
Directories are in memory; files stay in the database.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from store.db import Database, chunked
from store.ids import Kind
from store.records import PRIMARY, SyncedRow
from store.synced_rows import COLUMNS, row_from, values_of

_CONFLICT_MARK = b" (conflict "
Key = tuple[int, bytes]  # (object number, copy)
P = TypeVar("P", int, bytes)  # a directory: its number or its path


class FolderSynced:
    """The synced rows of one folder. Owned by the database thread.

    After an exception inside a transaction the memory may be ahead: call reload().
    """

    def __init__(self, database: Database, folder_no: int, root_no: int) -> None:
        """Load the directories."""
        self._db = database
        self.folder_no = folder_no
        self.root_no = root_no
        self._directories: dict[int, tuple[int, bytes]] = {}
        self._inodes: dict[int, int] = {}  # of the directories
        self._children: dict[int, dict[bytes, list[int]]] = {}
        self._noted: set[int] | None = None  # objects written, while somebody wants to know
        self._marked: set[Key] = set()  # what may be a conflict copy, by its name
        self.files = 0
        self.file_bytes = 0
        self.reload()

    def reload(self) -> None:
        """Read the directories and the counts again."""
        self._directories.clear()
        self._inodes.clear()
        self._children.clear()
        for no, parent_no, name, inode in self._db.execute(
            "SELECT object_no, parent_no, name, inode FROM synced WHERE folder_no = ? AND kind = 1",
            (self.folder_no,),
        ):
            self._add_directory(no, parent_no, name, inode)
        self.files, self.file_bytes = self._db.execute(
            "SELECT count(*), coalesce(sum(size), 0) FROM synced WHERE folder_no = ? AND kind != 1",
            (self.folder_no,),
        ).fetchone()
        self._marked = set(
            self._db.execute(
                "SELECT object_no, copy_event FROM synced"
                " WHERE folder_no = ? AND (copy_event != x'' OR instr(name, ?))",
                (self.folder_no, _CONFLICT_MARK),
            )
        )

    @property
    def directories(self) -> int:
        """The number of directories, without the root."""
        return len(self._directories)

    # -- paths --------------------------------------------------------------------------------

    def path_of(self, directory_no: int) -> bytes | None:
        """Give the path of a directory on this disk, or None if it is not there."""
        names: list[bytes] = []
        no = directory_no
        while no != self.root_no:
            place = self._directories.get(no)
            if place is None or len(names) > len(self._directories):
                return None
            names.append(place[1])
            no = place[0]
        return b"/".join(reversed(names))

    def inode_of(self, directory_no: int) -> int | None:
        """Give the inode that a directory had when it was last seen; None for the root."""
        return self._inodes.get(directory_no)

    def directories_at(self, path: bytes) -> list[int]:
        """List the directory objects at a path of this disk (several where they share it)."""
        found = [self.root_no]
        if path:
            for name in path.split(b"/"):
                found = [
                    no for parent in found for no in self._children.get(parent, {}).get(name, ())
                ]
        return found

    def path_of_row(self, row: SyncedRow) -> bytes | None:
        """Give the path of any row on this disk."""
        parent = self.path_of(row.parent_no)
        if parent is None:
            return None
        return parent + b"/" + row.name if parent else row.name

    def all_directories(self) -> list[bytes]:
        """List the paths of all directories, parents first, the root as the empty path."""
        paths = [b""]
        waiting = [(self.root_no, b"")]
        seen = {b""}
        while waiting:
            no, path = waiting.pop()
            for name, children in self._children.get(no, {}).items():
                below = path + b"/" + name if path else name
                if below not in seen:
                    seen.add(below)
                    paths.append(below)
                waiting.extend((child, below) for child in children)
        return paths

    def parent_of(self, directory_no: int) -> int | None:
        """Give the directory that holds a directory on this disk; None for the root."""
        place = self._directories.get(directory_no)
        return None if place is None else place[0]

    # -- reading ------------------------------------------------------------------------------

    def rows_in(self, path: bytes) -> list[SyncedRow]:
        """Read the rows that stand in a directory of this disk."""
        return self._select("parent_no", self.directories_at(path))

    def rows_below(self, directory_nos: Sequence[int]) -> list[SyncedRow]:
        """Read the rows that stand in directories, by their numbers."""
        return self._select("parent_no", directory_nos)

    def rows_at(self, path: bytes) -> list[SyncedRow]:
        """Read the rows that stand at one path (several where objects are collapsed)."""
        parent, _, name = path.rpartition(b"/")
        found: list[SyncedRow] = []
        for no in self.directories_at(parent):
            found.extend(
                row_from(values)
                for values in self._db.execute(
                    f"SELECT {COLUMNS} FROM synced WHERE parent_no = ? AND name = ?", (no, name)
                )
            )
        return found

    def rows_at_many(self, paths: Sequence[bytes]) -> list[list[SyncedRow]]:
        """Read the rows at many paths, in their order; one query for a directory's names."""
        split = [_split(path) for path in paths]
        found: dict[tuple[bytes, bytes], list[SyncedRow]] = {}
        for parent, names in _grouped(split).items():
            for row in self.rows_at_places(
                (no, name) for no in self.directories_at(parent) for name in names
            ):
                found.setdefault((parent, row.name), []).append(row)
        return [found.get(place, []) for place in split]

    def known_among(self, paths: Sequence[bytes]) -> list[bytes]:
        """Give those of these paths at which a row stands; the index alone answers."""
        split = [_split(path) for path in paths]
        known = {
            parent: self.names_in(self.directories_at(parent), names)
            for parent, names in _grouped(split).items()
        }
        return [
            path
            for path, (parent, name) in zip(paths, split, strict=True)
            if name in known[parent]
        ]

    def names_in(self, directory_nos: Sequence[int], names: Sequence[bytes]) -> set[bytes]:
        """Tell which of these names have a row in one of these directories."""
        found: set[bytes] = set()
        for no in directory_nos:
            for marks, part in chunked(names):
                found.update(
                    name
                    for (name,) in self._db.execute(
                        f"SELECT name FROM synced WHERE parent_no = ? AND name IN ({marks})",
                        (no, *part),
                    )
                )
        return found

    def rows_of(self, object_nos: Sequence[int]) -> list[SyncedRow]:
        """Read all rows of some objects, copies too."""
        return self._select("object_no", object_nos)

    def rows_with_values(self, values: Sequence[bytes]) -> list[SyncedRow]:
        """Read the rows whose content was last seen to be one of these."""
        no = self.folder_no
        found: list[SyncedRow] = []
        for marks, part in chunked(list(set(values))):
            rows = self._db.execute(
                f"SELECT {COLUMNS} FROM synced WHERE value IN ({marks}) AND folder_no = ?",
                (*part, no),
            )
            found.extend(map(row_from, rows))
        return found

    def directories_with_inodes(self, inodes: Container[int]) -> list[SyncedRow]:
        """Read the rows of directories that were last seen to have one of these inodes."""
        nos = [no for no, inode in self._inodes.items() if inode in inodes]
        return [row for row in self.rows_of(nos) if row.kind is Kind.DIRECTORY] if nos else []

    def rows_at_places(self, places: Iterable[tuple[int, bytes]]) -> list[SyncedRow]:
        """Read the rows at many (directory number, name)."""
        found: list[SyncedRow] = []
        for parent_no, names in _grouped(places).items():
            for marks, part in chunked(names):
                found.extend(
                    map(
                        row_from,
                        self._db.execute(
                            f"SELECT {COLUMNS} FROM synced WHERE parent_no = ?"
                            f" AND name IN ({marks})",
                            (parent_no, *part),
                        ),
                    )
                )
        return found

    def others_at_places(
        self, places: Iterable[tuple[int, bytes]], known: Container[int]
    ) -> list[SyncedRow]:
        """Read the rows at many (directory number, name) of objects that are not `known`."""
        others: list[int] = []
        wanted: set[tuple[int, bytes]] = set()
        for parent_no, names in _grouped(places).items():
            for marks, part in chunked(names):
                # The index alone answers: most of what is found is known already.
                for no, name in self._db.execute(
                    f"SELECT object_no, name FROM synced WHERE parent_no = ? AND name IN ({marks})",
                    (parent_no, *part),
                ):
                    if no not in known:
                        others.append(no)
                        wanted.add((parent_no, name))
        rows = self.rows_of(others) if others else []
        return [row for row in rows if (row.parent_no, row.name) in wanted]

    def objects_inside(self, directory_nos: Iterable[int]) -> set[int]:
        """Give the objects that stand below directories of this disk, by their numbers."""
        waiting = list(directory_nos)
        seen: set[int] = set()
        while waiting:
            no = waiting.pop()
            if no not in seen:
                seen.add(no)
                waiting.extend(each for nos in self._children.get(no, {}).values() for each in nos)
        found: set[int] = set()
        for marks, part in chunked(list(seen)):
            found.update(
                no
                for (no,) in self._db.execute(
                    f"SELECT object_no FROM synced WHERE parent_no IN ({marks})", part
                )
            )
        return found

    def count_conflicts(self) -> int:
        """Count the names on this disk that a conflict made, without looking at all rows."""
        found = sum(bool(copy) for _, copy in self._marked)
        for marks, part in chunked([no for no, copy in self._marked if not copy]):
            found += self._db.execute(
                "SELECT count(*) FROM synced s JOIN object o ON o.no = s.object_no"
                f" WHERE s.object_no IN ({marks}) AND s.copy_event = x'' AND s.name != o.name",
                part,
            ).fetchone()[0]
        return found

    def objects_in_conflict(self) -> set[int]:
        """Give the objects that have, or may have, a name here that a conflict made."""
        return {no for no, _ in self._marked}

    def _select(self, column: str, nos: Sequence[int]) -> list[SyncedRow]:
        found: list[SyncedRow] = []
        for marks, part in chunked(nos):
            found.extend(
                map(
                    row_from,
                    self._db.execute(
                        f"SELECT {COLUMNS} FROM synced WHERE {column} IN ({marks})", part
                    ),
                )
            )
        return found

    # -- writing ------------------------------------------------------------------------------

    @contextmanager
    def noting(self) -> Iterator[set[int]]:
        """Gather the objects of which rows are written or removed in the block."""
        outer, self._noted = self._noted, set()
        try:
            yield self._noted
        finally:
            if outer is not None:
                outer |= self._noted
            self._noted = outer

    def put(self, rows: Sequence[SyncedRow]) -> None:
        """Write rows, replacing those of the same object and copy; of equals the last counts."""
        rows = list({(row.object_no, row.copy): row for row in rows}.values())
        self._forget([(row.object_no, row.copy) for row in rows])
        self._write("INSERT OR REPLACE", rows)

    def add(self, rows: Sequence[SyncedRow]) -> None:
        """Write the first rows of objects that are new: each of another object."""
        self._write("INSERT", rows)

    def _write(self, how: str, rows: Sequence[SyncedRow]) -> None:
        if self._noted is not None:
            self._noted.update(row.object_no for row in rows)
        self._db.insert(
            f"{how} INTO synced ({COLUMNS}, folder_no)",
            [values_of(row, self.folder_no) for row in rows],
        )
        for row in rows:
            if row.copy or _CONFLICT_MARK in row.name:
                self._marked.add((row.object_no, row.copy))
            if row.kind == Kind.DIRECTORY:
                self._add_directory(row.object_no, row.parent_no, row.name, row.inode)
            else:
                self.files += 1
                self.file_bytes += row.size

    def remove(self, keys: Iterable[Key]) -> None:
        """Remove rows; unknown ones are left alone."""
        wanted = set(keys)
        if self._noted is not None:
            self._noted.update(no for no, _ in wanted)
        for marks, part in chunked([no for no, copy in wanted if copy == PRIMARY]):
            self._uncount(
                self._db.execute(
                    f"DELETE FROM synced WHERE object_no IN ({marks}) AND copy_event = x''"
                    " RETURNING object_no, copy_event, kind, size",
                    part,
                ).fetchall()
            )
        copies = [key for key in wanted if key[1] != PRIMARY]
        self._forget(copies)
        self._db.executemany("DELETE FROM synced WHERE object_no = ? AND copy_event = ?", copies)

    def _forget(self, keys: Sequence[Key]) -> None:
        """Leave rows that are about to go, or to be replaced, out of what is counted."""
        wanted = set(keys)
        for marks, part in chunked(list({no for no, _ in keys})):
            found = self._db.execute(
                "SELECT object_no, copy_event, kind, size FROM synced"
                f" WHERE object_no IN ({marks})",
                part,
            )
            self._uncount([one for one in found if (one[0], one[1]) in wanted])

    def _uncount(self, rows: Iterable[tuple[int, bytes, int, int]]) -> None:
        for no, copy, kind, size in rows:
            self._marked.discard((no, copy))
            if kind == Kind.DIRECTORY:
                self._remove_directory(no)
            else:
                self.files -= 1
                self.file_bytes -= size

    def _add_directory(self, no: int, parent_no: int, name: bytes, inode: int) -> None:
        self._directories[no] = (parent_no, name)
        self._inodes[no] = inode
        self._children.setdefault(parent_no, {}).setdefault(name, []).append(no)

    def _remove_directory(self, no: int) -> None:
        place = self._directories.pop(no, None)
        self._inodes.pop(no, None)
        if place is None:
            return
        names = self._children[place[0]]
        names[place[1]].remove(no)
        if not names[place[1]]:
            del names[place[1]]
        if not names:
            del self._children[place[0]]


def _split(path: bytes) -> tuple[bytes, bytes]:
    parent, _, name = path.rpartition(b"/")
    return parent, name


def _grouped(places: Iterable[tuple[P, bytes]]) -> dict[P, list[bytes]]:
    """Gather names by the directory that they stand in."""
    names_of: dict[P, list[bytes]] = {}
    for parent, name in places:
        names_of.setdefault(parent, []).append(name)
    return names_of


def primary_key(object_no: int) -> Key:
    """Give the key of the row of an object itself."""
    return (object_no, PRIMARY)
