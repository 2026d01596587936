"""Follow synced rows through a plan: which key tells of which file after each step.

Keys can trade files (an object's bytes and those of its conflict copy), so a key that is stored
anew may leave a file behind that no row tells of; such a file would be taken for a user's new
one. The ledger gives it the key that became free, or says that the step has to wait. A file is
told by its inode. It reads and writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from daemon.steps import (
    Bind,
    Claim,
    Key,
    MakeDirectory,
    MakeLink,
    MoveName,
    NewNames,
    RemoveDirectory,
    RemoveFile,
    RemoveTree,
    SetAttributes,
    Step,
    SwapNames,
    WriteFile,
    key_of,
    row_for,
)
from store.ids import Kind
from store.records import SyncedRow


def rows_of(step: Step | NewNames) -> tuple[SyncedRow, ...]:
    """List the synced rows that a step goes out from."""
    match step:
        case SwapNames(one, other):
            return (*one.rows, *other.rows)
        case MakeDirectory() | NewNames():
            return ()
        case RemoveTree():
            return step.all_rows
        case WriteFile():
            return step.before
        case _:
            return step.before if hasattr(step, "before") else step.rows


class Ledger:
    """The rows of one plan, as its steps change them."""

    def __init__(self, steps: Iterable[Step | NewNames]) -> None:
        """Begin with what the steps go out from."""
        self._rows: dict[Key, SyncedRow] = {}
        self._keys: dict[int, list[Key]] = {}  # by inode; may name keys that have moved on
        for step in steps:
            # A file that is only bound may be another object's; a directory may get a number.
            is_bound = isinstance(step, Bind) and step.claim is not None
            if not is_bound or any(row.kind is Kind.DIRECTORY for row in rows_of(step)):
                for row in rows_of(step):
                    self._store(row)

    def knows(self, inode: int) -> bool:
        """Whether the file of this inode was there before the plan."""
        return inode in self._keys

    def telling_of(self, rows: tuple[SyncedRow, ...]) -> tuple[SyncedRow, ...]:
        """Give the rows that tell now of the file that these rows told of."""
        if not rows:
            return ()
        inode = rows[0].inode
        found = (self._rows.get(key) for key in self._keys.get(inode, ()))
        now = tuple(row for row in found if row is not None and row.inode == inode)
        return now or rows

    def now(self, step: Step) -> Step:
        """Give a step with what its rows have become by the steps before it."""
        match step:
            case SwapNames(one, other):
                return SwapNames(self._moves_now(one), self._moves_now(other))
            case MoveName():
                return self._moves_now(step)
            case RemoveTree():
                inside = tuple(
                    replace(each, rows=self.telling_of(each.rows)) for each in step.inside
                )
                return replace(step, rows=self.telling_of(step.rows), inside=inside)
            case RemoveFile() | RemoveDirectory() | SetAttributes() | Bind():
                return replace(step, rows=self.telling_of(step.rows))
            case WriteFile() | MakeLink():
                return replace(step, before=self.telling_of(step.before))
            case _:
                return step

    def _moves_now(self, step: MoveName) -> MoveName:
        return replace(step, rows=self.telling_of(step.rows))

    def of(self, key: Key, rows: tuple[SyncedRow, ...]) -> SyncedRow:
        """Give the row of the key if it tells of this file, else another that does."""
        return row_for(key, self.telling_of(rows))

    def _store(self, row: SyncedRow) -> None:
        key = row.object_no, row.copy
        self._rows[key] = row
        keys = self._keys.setdefault(row.inode, [])
        if key not in keys:
            keys.append(key)

    def orphans(self, claim: Claim, before: tuple[SyncedRow, ...]) -> list[SyncedRow]:
        """List the files that would be left without a row, were the claim agreed."""
        here = {row.inode for row in before}
        keys = {key_of(entry) for entry in claim.entries}
        left = [self._rows[key] for key in keys if key in self._rows]
        left = [row for row in left if row.inode not in here]
        if not left:
            return []
        others = {row.inode for key, row in self._rows.items() if key not in keys}
        return [row for row in left if row.inode not in others]

    def agree(
        self,
        rows: Sequence[SyncedRow],
        gone: tuple[Key, ...],
        before: tuple[SyncedRow, ...],
        orphans: Sequence[SyncedRow] = (),
    ) -> tuple[tuple[SyncedRow, ...], tuple[Key, ...]]:
        """Take in the rows of a step; give the rows to store and the keys to remove."""
        here = {row.inode for row in before}
        ended = []
        for key in gone:
            found = self._rows.get(key)
            if found is None or found.inode in here:
                self._rows.pop(key, None)
                ended.append(key)
        adopted = []
        for orphan in orphans:
            free = next((key for key in ended if key[0] == orphan.object_no), None)
            if free is not None:
                ended.remove(free)
                adopted.append(replace(orphan, object_no=free[0], copy=free[1]))
        stored = (*adopted, *rows)
        for row in stored:
            self._store(row)
        return stored, tuple(ended)
