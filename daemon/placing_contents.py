"""Execute the steps that give a name its content: write, link, set attributes, bind.

What is replaced is as synced says, or the step waits; it goes to tmp and is looked at there.
"""

from __future__ import annotations

from msgspec.structs import replace

from daemon.agreeing import ended_keys, is_unwritten, moved_rows, row_of, settled_row
from daemon.disk import DiskError, Looked, NameMissing, NameTaken, Stat
from daemon.folding import is_by_this_name
from daemon.outcomes import Intent, Postponed, Why
from daemon.site import Job, Site
from daemon.steps import (
    Bind,
    MakeDirectory,
    MakeLink,
    SetAttributes,
    WriteFile,
    key_of,
    numbers_of,
    place_of,
    row_for,
)
from daemon.whereabouts import Waits
from store.ids import Kind
from store.records import Entry, SyncedRow


def write(site: Site, job: Job, step: WriteFile) -> None:
    """Put a staged content in place, new or over what stands there as synced says."""
    claim = step.claim
    path = site.must_path(claim.place)
    stage, intent = job.stage, job.intent
    if stage is None:
        raise Waits(path, Why.CONTENT_AWAY)
    if not step.before:
        site.must_leave_none_behind(claim, ())
        # No intent: nothing is replaced. After a crash the file is a head's and binds.
        stat = site.hand.place_new(stage, path)
        site.agree(site.made(path, claim, stat), claim.gone)
        return
    if intent is None:
        raise Waits(path, Why.BLOCKED)
    rows = site.current(step.before)
    before = row_for(key_of(claim.entry), rows)
    site.check(path, before, whole=True)
    site.must_leave_none_behind(claim, rows)
    stat, displaced = site.hand.place_over(stage, path, intent.keep_as)
    site.placed.displaces = True
    carried = _carry(site, intent, before, displaced, step)
    if carried is None:
        site.settle(intent, path, before, displaced)
    # Nothing that can fail comes behind it: the intent is closed with it.
    made = site.made(path, claim, stat)
    site.agree(made, ended_keys(claim, rows), intent.number, before=rows)
    if carried is not None:
        site.agree(carried)
    elif step.displaced_to is not None:
        # The old bytes are due at another name still: from history, by the next plan.
        site.placed.outcomes.append(Postponed(path, numbers_of(step), Why.BLOCKED))


def _carry(
    site: Site, intent: Intent, before: SyncedRow, displaced: Stat, step: WriteFile
) -> list[SyncedRow] | None:
    """Give the old bytes their new name in the tree, if they are the old bytes."""
    claim = step.displaced_to
    if claim is None or not site.is_the_version(intent, displaced, before):
        return None
    path = site.path(claim.place)
    if path is None or site.disk.is_stage_being_written(intent.keep_as):
        return None
    site.touch(path)
    try:
        stat = site.disk.restore_stage(intent.keep_as, path)
    except (NameTaken, NameMissing):
        site.placed.outcomes.append(Postponed(path, numbers_of(step), Why.TAKEN))
        return None
    return moved_rows(claim, (before,), stat)


def link(site: Site, job: Job, step: MakeLink) -> None:
    """Make a symlink, where nothing stands or instead of what stands there as synced says."""
    claim = step.claim
    path = site.must_path(claim.place)
    entry = claim.entry
    if not step.before:
        site.must_leave_none_behind(claim, ())
        stat = site.hand.make_symlink(entry.value, path, entry.mtime_ns)
        site.agree(site.new_rows(claim, stat), claim.gone)
        return
    intent = job.intent
    if intent is None:
        raise Waits(path, Why.BLOCKED)
    rows = site.current(step.before)
    before = row_for(key_of(entry), rows)
    site.check(path, before, whole=True)
    displaced = site.hand.take_away(path, intent.keep_as)
    site.placed.displaces = True
    try:
        stat = site.disk.make_symlink(entry.value, path, entry.mtime_ns)
    except DiskError:
        try:
            site.disk.restore_stage(intent.keep_as, path)
        except NameTaken:  # somebody was quicker: theirs is an edit of neither version
            site.settle(intent, path, before, displaced)
            site.drop(rows, intent.number)
        raise
    site.settle(intent, path, before, displaced)
    site.agree(site.new_rows(claim, stat), ended_keys(claim, rows), intent.number, before=rows)


def make_directory(site: Site, job: Job, step: MakeDirectory) -> None:
    """Make a directory where nothing stands."""
    path = site.must_path(step.claim.place)
    site.must_leave_none_behind(step.claim, ())
    stat = site.hand.make_directory(path)
    site.agree(site.new_rows(step.claim, stat), step.claim.gone, job.number)


def set_attributes(site: Site, job: Job, step: SetAttributes) -> None:
    """Set the executable bit and the time of what stands there as synced says."""
    entry = step.claim.entry
    path = site.must_path(step.claim.place)
    rows = site.current(step.rows)
    base = site.ledger.of(key_of(entry), rows)
    before = site.check(path, base, whole=True)
    mtime_ns = entry.mtime_ns if step.sets_mtime else None
    stat = site.hand.set_attributes(path, is_executable=bool(entry.mode), mtime_ns=mtime_ns)
    site.placed.files.append(path)
    if step.sets_mtime:
        # Setting the time hides a write of this very moment: a racy row is hashed again.
        base = replace(base, looked_at_ns=min(base.looked_at_ns, stat.mtime_ns))
        before = replace(before, mtime_ns=stat.mtime_ns)
    seen = stat if is_unwritten(before, stat) else None
    agreed = [settled_row(each, (base,), seen) for each in step.claim.entries]
    site.agree(agreed, ended_keys(step.claim, rows), job.number, before=rows)


def bind(site: Site, job: Job, step: Bind) -> None:
    """Have synced say what the disk already has."""
    if step.claim is None:
        _unbind(site, step)
        return
    entry = step.claim.entry
    path = site.must_path(step.claim.place)
    rows = site.current(step.rows) or _look(site, path, entry)
    site.must_leave_none_behind(step.claim, rows)
    agreed = [settled_row(each, rows, None) for each in step.claim.entries]
    site.agree(agreed, ended_keys(step.claim, rows), job.number, before=rows)


def _unbind(site: Site, step: Bind) -> None:
    """Forget what synced says of something that is not on this disk any more."""
    rows = step.rows
    if rows[0].kind is Kind.DIRECTORY and site.has_trouble:
        # What was postponed may be found by this number only.
        raise Waits(site.path(place_of(step)) or b"", Why.BLOCKED)
    site.agree([], step.gone, before=site.current(rows))


def _look(site: Site, path: bytes, entry: Entry) -> tuple[SyncedRow, ...]:
    """Find out by the disk alone whether it is as wanted."""
    (looked,) = site.disk.look([path])
    if not isinstance(looked, Looked):
        raise Waits(path, Why.MISSING_HERE)
    if not is_by_this_name(site.disk, path):
        raise NameTaken(f"bind {path!r}", "it has another name")
    same_kind = int(looked.stat.kind) == int(entry.kind)
    if not same_kind or (entry.kind is not Kind.DIRECTORY and looked.value != entry.value):
        raise Waits(path, Why.CHANGED_HERE)
    return (row_of(entry, looked.stat, looked.looked_at_ns),)
