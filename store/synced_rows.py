"""Turn rows of synced into the values of their columns, and back.

It reads and writes nothing; store.synced does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from store.ids import KINDS
from store.records import SyncedRow

COLUMNS = (
    "object_no, copy_event, parent_no, name, kind, value, inode, size, mtime_ns, ctime_ns, mode,"
    " looked_at_ns, shared_mtime_ns, events, placement, leftover"
)


def row_from(values: Sequence[Any]) -> SyncedRow:
    """Read a row; the values are those of COLUMNS."""
    (
        object_no,
        copy,
        parent_no,
        name,
        kind,
        value,
        inode,
        size,
        mtime_ns,
        ctime_ns,
        mode,
        looked_at_ns,
        shared_mtime_ns,
        events,
        placement,
        leftover,
    ) = values
    return SyncedRow(
        object_no=object_no,
        copy=copy,
        parent_no=parent_no,
        name=name,
        kind=KINDS[kind],
        value=value,
        inode=inode,
        size=size,
        mtime_ns=mtime_ns,
        ctime_ns=ctime_ns,
        mode=mode,
        looked_at_ns=looked_at_ns,
        shared_mtime_ns=shared_mtime_ns,
        events=events,
        placement=placement,
        leftover=bool(leftover),
    )


def values_of(row: SyncedRow, folder_no: int) -> tuple[object, ...]:
    """Give what is written for a row: COLUMNS, and the folder it belongs to."""
    # plain integers: for an enum or a bool sqlite3 looks for an adapter, each time
    return (
        row.object_no,
        row.copy,
        row.parent_no,
        row.name,
        int(row.kind),
        row.value,
        row.inode,
        row.size,
        row.mtime_ns,
        row.ctime_ns,
        row.mode,
        row.looked_at_ns,
        row.shared_mtime_ns,
        row.events,
        row.placement,
        int(row.leftover),
        folder_no,
    )
