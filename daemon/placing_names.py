"""Execute the steps that move names about: one to a free name, or two that change places.

What moves is what synced says; a rename of what was changed at that very moment is taken back.
"""

from __future__ import annotations

from contextlib import suppress

from daemon.agreeing import (
    ended_keys,
    is_as_synced,
    is_of_another,
    is_unwritten,
    moved_rows,
    other_numbers,
    row_at,
)
from daemon.disk import DiskError, FileKind, NameMissing, NameTaken, Stat
from daemon.outcomes import Why
from daemon.site import Job, Site
from daemon.steps import MoveName, SwapNames
from daemon.whereabouts import Waits
from store.records import SyncedRow

_NO_STAT = Stat(FileKind.FILE, 0, 0, 0, 0, 0, 0)


def move(site: Site, job: Job, step: MoveName) -> None:
    """Rename a file or a directory to a free name."""
    site.must_be_reachable(step.rows, step.source, job.number)
    source, target = site.must_path(step.source), site.must_path(step.target)
    rows = site.current(step.rows)
    is_for_another = is_of_another(step.claim, rows)
    before = site.check(source, rows[0], whole=is_for_another)
    if step.claim is not None:
        site.must_leave_none_behind(step.claim, rows)
    stat = site.hand.move(source, target)
    if is_for_another and not is_unwritten(before, stat):
        with suppress(NameTaken, NameMissing):
            site.hand.move(target, source)
            raise Waits(source, Why.CHANGED_HERE)
    _moved(site, step, rows, before, stat, number=job.number)


def swap(site: Site, job: Job, step: SwapNames) -> None:
    """Exchange two names."""
    one, other = site.must_path(step.one.source), site.must_path(step.other.source)
    one_rows, other_rows = site.current(step.one.rows), site.current(step.other.rows)
    is_for_another = is_of_another(step.one.claim, one_rows)
    before = site.check(one, one_rows[0], whole=is_for_another)
    is_for_another = is_of_another(step.other.claim, other_rows)
    other_before = site.check(other, other_rows[0], whole=is_for_another)
    # A side without a claim keeps a row of its own until it moves on.
    if step.one.claim is not None:
        leaving = one_rows if step.other.claim is None else (*one_rows, *other_rows)
        site.must_leave_none_behind(step.one.claim, leaving)
    try:
        site.hand.swap(one, other)
    except DiskError as cause:
        if _stands(site, one, one_rows[0]) or _stands(site, other, one_rows[0]):
            raise
        # It is in tmp, and the intent stays open: recovery brings it back.
        site.fail(job, one, cause)
        return
    stat, other_stat = site.disk.stat(other), site.disk.stat(one)
    _moved(site, step.one, one_rows, before, stat or _NO_STAT, number=b"")
    _moved(site, step.other, other_rows, other_before, other_stat or _NO_STAT, number=job.number)


def _stands(site: Site, path: bytes, row: SyncedRow) -> bool:
    stat = site.disk.stat(path)
    return stat is not None and stat.inode == row.inode


def _moved(
    site: Site,
    step: MoveName,
    rows: tuple[SyncedRow, ...],
    before: Stat,
    stat: Stat,
    *,
    number: bytes,
) -> None:
    # A rename changes ctime; that is ours only if all else was, and is, as synced said.
    is_ours = is_as_synced(before, rows[0]) and is_unwritten(before, stat)
    seen = stat if is_ours else None
    if step.claim is None:
        place = step.target
        moved = [row_at(row, place, seen) for row in site.ledger.telling_of(rows)]
        site.agree(moved, (), number)
        return
    agreed = moved_rows(step.claim, rows, seen)
    agreed += other_numbers(step, rows)
    site.agree(agreed, ended_keys(step.claim, rows), number, before=rows)
