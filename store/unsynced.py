"""Find where the state and this disk do not agree, over the rows of both.

Nothing is decided here: what should stand on the disk is for the view, what is to be done for
the planner.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

from store.db import Database, chunked
from store.objects import Changes
from store.state import FolderState
from store.unions import class_of


class Unsynced:
    """What of one folder's state is not in synced. Owned by the database thread."""

    def __init__(self, database: Database, folder_no: int, state: FolderState) -> None:
        """Look at this state, and at the rows of synced of the same folder."""
        self._db = database
        self._folder_no = folder_no
        self._state = state

    def find(self) -> Changes:
        """Find all objects whose state and synced differ: the queue, rebuilt, not trusted.

        Objects with a conflict name come along; planning them finds nothing to do.
        """
        nos = {
            row[0]
            for row in self._db.execute(
                "SELECT o.no FROM object o LEFT JOIN synced s"
                " ON s.object_no = o.no AND s.copy_event = x''"
                " WHERE o.folder_no = ?1 AND o.no != ?2 AND o.flags & 1 AND (s.object_no IS NULL"
                " OR s.events != o.head_event OR s.parent_no != o.parent_no OR s.name != o.name"
                " OR s.placement != coalesce(o.last_move, x'') OR s.mode != o.mode"
                " OR s.shared_mtime_ns != CASE o.kind WHEN 1 THEN s.shared_mtime_ns"
                " ELSE o.mtime_ns END OR o.flags & 2 OR s.leftover)"
                " UNION SELECT s.object_no FROM synced s LEFT JOIN object o ON o.no = s.object_no"
                " WHERE s.folder_no = ?1"
                " AND (o.no IS NULL OR NOT o.flags & 1 OR s.copy_event != x'')",
                (self._folder_no, self._state.root_no),
            )
        }
        nos.update(
            directory.no
            for directory in self._state.directories
            if directory.is_visible and not directory.is_alive
        )
        for directory_no, first_no in self._state.unions.all():
            nos.update(
                row[0]
                for row in self._db.execute(
                    "SELECT o.no FROM object o JOIN synced s ON s.object_no = o.no"
                    " WHERE o.parent_no = ? AND s.parent_no != ?",
                    (directory_no, first_no),
                )
            )
        return Changes(nos, set())

    def count_missing(self, nos: Sequence[int] | None = None) -> tuple[int, int]:
        """Count the contents, and their bytes, that state shows and this disk does not have.

        Of some objects, or of all: then it reads every row (a second for 500,000 files).
        """
        if nos is None:
            return self._count_missing("o.folder_no = ?", (self._folder_no,))
        parts = [self._count_missing(f"o.no IN ({marks})", part) for marks, part in chunked(nos)]
        return sum(files for files, _ in parts), sum(size for _, size in parts)

    def _count_missing(self, which: str, values: Sequence[object]) -> tuple[int, int]:
        files, size = self._db.execute(
            "SELECT count(*), coalesce(sum(o.size), 0) FROM object o"
            " LEFT JOIN synced s ON s.object_no = o.no AND s.copy_event = x''"
            f" WHERE {which} AND o.kind != 1 AND o.flags & 1"
            " AND (s.object_no IS NULL OR s.value != o.value)",
            values,
        ).fetchone()
        copies, copies_size = self._db.execute(
            "SELECT count(*), coalesce(sum(h.size), 0) FROM head h JOIN object o"
            f" ON o.no = h.object_no WHERE {which} AND o.kind != 1 AND h.is_shown"
            " AND h.value != o.value AND NOT EXISTS (SELECT 1 FROM synced s"
            " WHERE s.object_no = h.object_no AND s.value = h.value)",
            values,
        ).fetchone()
        return files + copies, size + copies_size

    def drop_agreed(
        self, under_way: AbstractSet[int] = frozenset(), *, among: AbstractSet[int] | None = None
    ) -> None:
        """Take out of what is to be planned what synced agrees on already, in bulk.

        Own acts mostly: an import of many files plans nothing. Whatever shares a name with
        something else stays in, since the view decides about it, and so do the objects
        `under_way`: what a plan is doing to them now is not in synced yet. `among` names those
        that synced has something new of: the others cannot agree now if they did not before.
        """
        changes = self._state.changes
        asked = changes.objects if among is None else changes.objects & among
        agreed: set[int] = set()
        gone: list[tuple[int, int, bytes]] = []
        alone: dict[int, bool] = {}  # directories, whether their path is theirs only
        for no, parent_no, name, is_alive in self._agreed_among(list(asked - under_way)):
            is_alone = alone.get(parent_no)
            if is_alone is None:
                is_alone = alone[parent_no] = self._is_alone(parent_no)
            if is_alone and b" (conflict " not in name:
                agreed.add(no)
                if not is_alive:
                    gone.append((no, parent_no, name))
        changes.objects -= agreed
        changes.slots.difference_update((parent_no, name) for _, parent_no, name in gone)

    def _agreed_among(self, nos: Sequence[int]) -> Iterator[tuple[int, int, bytes, int]]:
        """Give number, parent, name and whether alive of those with one row, alike in both."""
        for marks, part in chunked(nos):
            yield from self._db.execute(
                "SELECT o.no, o.parent_no, o.name, o.flags & 1 FROM object o LEFT JOIN synced s"
                " ON s.object_no = o.no AND s.copy_event = x''"
                f" WHERE o.no IN ({marks}) AND NOT o.flags & 2 AND CASE o.flags & 1 WHEN 1 THEN"
                " s.events = o.head_event AND s.parent_no = o.parent_no AND s.name = o.name"
                " AND s.placement = coalesce(o.last_move, x'') AND s.mode = o.mode"
                " AND NOT s.leftover AND (o.kind = 1 OR s.shared_mtime_ns = o.mtime_ns)"
                " ELSE s.object_no IS NULL AND o.kind != 1 END"
                " AND NOT EXISTS (SELECT 1 FROM object m WHERE m.parent_no = o.parent_no"
                " AND m.name = o.name AND m.no != o.no)"
                " AND NOT EXISTS (SELECT 1 FROM synced c WHERE c.object_no = o.no"
                " AND c.copy_event != x'')",
                part,
            )

    def _is_alone(self, directory_no: int) -> bool:
        """Whether a directory shares its path with no other."""
        return len(class_of(self._state.directories, directory_no)) <= 1
