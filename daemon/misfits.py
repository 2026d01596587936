"""Say where a file may stay whose name this disk cannot hold.

It stays where it stood, with the content and the bits that it has by now, unless another one is
to stand there: then it leaves. What was never here cannot come. Which names a disk cannot hold is
found out by trying, and tried again: nothing is decided here for good.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
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
