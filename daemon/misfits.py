"""Say where a file may stay whose name this disk cannot hold.

It stays where it stood, with the content and the bits that it has by now, unless another one is
to stand there: then it leaves. What was never here cannot come. Which names a disk cannot hold is
found out by trying, and tried again: nothing is decided here for good. Each try fetches the
content and syncs the disk, so that it becomes rare while nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from daemon.steps import key_of
from store.ids import Kind
from store.records import Entry, SyncedRow


class DiskNames(NamedTuple):
    """What is known of the names that a disk can hold.

    `fold` gives the same for names that it takes for one, if it does so; `misfits` are objects
    that lately had a name which it refused.
    """

    fold: Callable[[bytes], bytes] | None = None
    misfits: frozenset[int] = frozenset()


PLAIN = DiskNames()
TRY_FIRST_S = 5.0
TRY_LONGEST_S = 300.0


class Misfits:
    """The objects of one folder with a name that its disk refused, and how patient to be."""

    def __init__(self) -> None:
        """Begin with none."""
        self._lately: set[int] = set()
        self._delays: dict[int, float] = {}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._delays)

    @property
    def objects(self) -> Collection[int]:
        """All of them."""
        return self._delays.keys()

    @property
    def lately(self) -> frozenset[int]:
        """Those that are planned to stay where they are, the next time."""
        return frozenset(self._lately)

    def refused(self, objects: Iterable[int]) -> None:
        """Note what the disk refused to hold just now."""
        for no in objects:
            self._lately.add(no)
            self._delays.setdefault(no, TRY_FIRST_S)

    def stayed(self, objects: Iterable[int]) -> dict[int, float]:
        """Note what was planned to stay; give in how many seconds each is tried again."""
        found: dict[int, float] = {}
        for no in objects:
            self._lately.discard(no)
            found[no] = self._delays.setdefault(no, TRY_FIRST_S)
            self._delays[no] = min(2 * found[no], TRY_LONGEST_S)
        return found

    def came(self, objects: Iterable[int]) -> None:
        """Forget those that stand where they should, or are wanted no more."""
        for no in objects:
            self._delays.pop(no, None)

    def encourage(self) -> None:
        """Try them all soon: what was in their way may be gone."""
        self._delays = dict.fromkeys(self._delays, TRY_FIRST_S)


def stay(
    wanted: Sequence[Entry], rows: Sequence[SyncedRow], misfits: Collection[int]
) -> list[Entry]:
    """Give what is wanted with entries of misfits, by object number, where their rows are.

    Directories are wanted as they are: what is below them names them by number.
    """
    taken = {(entry.parent_no, entry.name) for entry in wanted if entry.object_no not in misfits}
    free = [row for row in rows if row.object_no in misfits and not row.leftover]
    free = [row for row in free if (row.parent_no, row.name) not in taken]
    found: list[Entry] = []
    for entry in wanted:
        if entry.object_no not in misfits or entry.kind is Kind.DIRECTORY:
            found.append(entry)
        elif (row := _row_of(entry, free)) is not None:
            free.remove(row)
            here = {"parent_no": row.parent_no, "name": row.name, "placement": row.placement}
            found.append(replace(entry, **here))
    return found


def _row_of(entry: Entry, rows: Sequence[SyncedRow]) -> SyncedRow | None:
    """Find where an entry is here; what was a copy may be the object itself by now."""
    same = [row for row in rows if key_of(row) == key_of(entry)]
    same += [row for row in rows if (row.object_no, row.value) == (entry.object_no, entry.value)]
    return same[0] if same else None
