"""Give the synced rows that are true once a step is done.

What the disk showed (a Stat) and what the view wanted (an Entry) become what both agree on. It
looks at no disk and stores nothing.
"""

from __future__ import annotations

from msgspec.structs import replace

from daemon.disk import FileKind, Stat
from daemon.steps import Claim, Key, MoveName, Place, key_of, row_for
from store.ids import Kind
from store.records import Entry, SyncedRow


def row_of(entry: Entry, stat: Stat, looked_at_ns: int) -> SyncedRow:
    """Make the synced row of an entry that stands on disk as wanted."""
    return SyncedRow(
        object_no=entry.object_no,
        copy=entry.copy,
        parent_no=entry.parent_no,
        name=entry.name,
        kind=entry.kind,
        value=entry.value,
        inode=stat.inode,
        size=stat.size,
        mtime_ns=stat.mtime_ns,
        ctime_ns=stat.ctime_ns,
        mode=entry.mode,
        looked_at_ns=looked_at_ns,
        shared_mtime_ns=entry.mtime_ns,
        events=entry.events,
        placement=entry.placement,
    )


def moved_row(entry: Entry, rows: tuple[SyncedRow, ...], stat: Stat | None) -> SyncedRow:
    """Give the row of what was renamed to where the entry wants it.

    Its attributes, and another content, are the matter of later steps; `stat` is None where
    the file was not as synced said: the next look is to find that out.
    """
    base = row_for(key_of(entry), rows)
    is_same = base.value == entry.value
    row = replace(
        base,
        object_no=entry.object_no,
        copy=entry.copy,
        parent_no=entry.parent_no,
        name=entry.name,
        events=entry.events if is_same else base.events,
        placement=entry.placement,
        leftover=False,
    )
    if entry.kind is Kind.DIRECTORY:
        row = replace(row, mode=entry.mode, shared_mtime_ns=entry.mtime_ns)
    return row if stat is None else seen(row, stat)


def moved_rows(claim: Claim, rows: tuple[SyncedRow, ...], stat: Stat | None) -> list[SyncedRow]:
    """Give the rows of a claim after its rename; only the representative sets attributes."""
    others = [settled_row(entry, rows, stat) for entry in claim.also]
    return [moved_row(claim.entry, rows, stat), *others]


def ended_keys(claim: Claim, rows: tuple[SyncedRow, ...]) -> tuple[Key, ...]:
    """List the keys that told of a file, or held a leftover, and do not any more."""
    if claim.entry.kind is Kind.DIRECTORY:
        return claim.gone
    kept = {key_of(entry) for entry in claim.entries}
    return tuple(key_of(row) for row in rows if key_of(row) not in kept)


def other_numbers(step: MoveName, rows: tuple[SyncedRow, ...]) -> list[SyncedRow]:
    """Have the numbers that a moved directory also had go with it: children may name them."""
    if step.claim is None or rows[0].kind is not Kind.DIRECTORY:
        return []
    kept = {key_of(entry) for entry in step.claim.entries}
    return [row_at(row, step.claim.place, None) for row in rows if key_of(row) not in kept]


def settled_row(entry: Entry, rows: tuple[SyncedRow, ...], stat: Stat | None) -> SyncedRow:
    """Give the row of what stands as wanted in every respect."""
    moved = moved_row(entry, rows, stat)
    return replace(moved, mode=entry.mode, shared_mtime_ns=entry.mtime_ns)


def seen(row: SyncedRow, stat: Stat) -> SyncedRow:
    """Give the row with what the disk says of the file now."""
    return replace(
        row, inode=stat.inode, size=stat.size, mtime_ns=stat.mtime_ns, ctime_ns=stat.ctime_ns
    )


def row_at(row: SyncedRow, place: Place, stat: Stat | None) -> SyncedRow:
    """Give the row at another place, `stat` being what the disk says of it there."""
    row = replace(row, parent_no=place.parent_no, name=place.name)
    return row if stat is None else seen(row, stat)


def is_of_another(claim: Claim | None, rows: tuple[SyncedRow, ...]) -> bool:
    """Whether a file becomes another object's, whose bytes it has.

    Then it must have them: an edit of the one object would be taken for an edit of the other.
    """
    if claim is None or claim.entry.kind is Kind.DIRECTORY:
        return False
    return all(row.object_no != entry.object_no for row in rows for entry in claim.entries)


def is_as_synced(stat: Stat, row: SyncedRow) -> bool:
    """Whether a file is as synced last saw it, ctime too; a directory, the same one."""
    if row.kind is Kind.DIRECTORY:
        return stat.inode == row.inode  # its times follow its children
    return (
        stat.inode == row.inode
        and stat.size == row.size
        and stat.mtime_ns == row.mtime_ns
        and stat.ctime_ns == row.ctime_ns
    )


def is_unwritten(before: Stat, after: Stat) -> bool:
    """Whether nobody wrote to a file between two looks, whatever its name and ctime."""
    return before.kind is FileKind.DIRECTORY or (before.inode, before.size, before.mtime_ns) == (
        after.inode,
        after.size,
        after.mtime_ns,
    )
