"""Execute the steps that remove: a file, a directory that is empty, a directory with all it holds.

Nothing is deleted but empty directories: files go to tmp, are looked at, and go into history.
"""

from __future__ import annotations

from msgspec.structs import replace

from daemon.disk import DiskError, FileKind, NameMissing, NameTaken, NotEmpty, RootLost
from daemon.outcomes import Postponed, Why
from daemon.site import Job, Site
from daemon.steps import RemoveDirectory, RemoveFile, RemoveTree, numbers_of
from daemon.taking import is_as_synced_says, put_away
from daemon.whereabouts import Waits
from store.records import SyncedRow


def remove(site: Site, job: Job, step: RemoveFile) -> None:
    """Take a file or link away; one that is not as synced says goes back and waits."""
    site.must_be_reachable(step.rows, step.source, job.number)
    path = site.must_path(step.source)
    intent = job.intent
    if intent is None:
        raise Waits(path, Why.BLOCKED)
    rows = site.current(step.rows)
    site.check(path, rows[0], whole=True)
    displaced = site.hand.take_away(path, intent.keep_as)
    site.placed.displaces = True
    if not site.is_the_version(intent, displaced, rows[0]) or site.disk.is_stage_being_written(
        intent.keep_as
    ):
        # Somebody was quicker: it goes back and is looked at like any edit.
        try:
            site.disk.restore_stage(intent.keep_as, path)
        except (NameTaken, NameMissing):
            pass
        else:
            raise Waits(path, Why.CHANGED_HERE)
        site.settle(intent, path, rows[0], displaced)
        site.drop(rows, intent.number)
        return
    site.settle(intent, path, rows[0], displaced, is_quiet=True)
    site.drop(rows, intent.number)


def is_whole(site: Site, step: RemoveTree) -> bool:
    """Whether a directory holds what synced says and nothing else, so that it may go whole."""
    path = site.path(step.source)
    return path is not None and is_as_synced_says(site.disk, path, step, site.current)


def remove_tree(site: Site, job: Job, step: RemoveTree) -> None:
    """Take a directory away with all that synced has in it."""
    path = site.must_path(step.source)
    intent = job.intent
    if site.has_trouble or intent is None:
        raise Waits(path, Why.BLOCKED)
    row = site.current(step.rows)[0]
    site.check(path, row, whole=False)
    taken = site.hand.take_tree(path, intent.keep_as)
    site.placed.displaces = True
    outcomes = site.placed.outcomes
    try:
        if taken.inode != row.inode:
            site.disk.return_taken(intent.keep_as, path)
            raise Waits(path, Why.CHANGED_HERE)
        away = put_away(site.disk, site.names, intent, path, site.now_ns)
    except RootLost:
        raise
    except DiskError as cause:
        site.fail(job, path, cause)
        return
    rows = tuple(now for removal in step.singly for now in site.current(removal.rows))
    site.drop(rows, intent.number)
    outcomes += away.outcomes
    outcomes += [Postponed(back, numbers_of(step), Why.NOT_EMPTY) for back in away.returned]


def remove_directory(site: Site, job: Job, step: RemoveDirectory) -> None:
    """Remove an empty directory."""
    path = site.must_path(step.source)
    if site.has_trouble:
        # What was postponed may stand in it, in synced at least.
        raise Waits(path, Why.BLOCKED)
    rows = site.current(step.rows)
    site.check(path, rows[0], whole=False)
    try:
        site.hand.remove_directory(path)
    except NotEmpty:
        _leave_over(site, job, path, rows)
        return
    site.drop(rows, job.number)


def _leave_over(site: Site, job: Job, path: bytes, rows: tuple[SyncedRow, ...]) -> None:
    """Keep a directory that holds nothing but what is ignored here; else wait."""
    for name, stat in site.disk.list_directory(path):
        inner = path + b"/" + name
        if not site.is_ignored(inner, stat.kind is FileKind.DIRECTORY):
            raise Waits(inner, Why.NOT_EMPTY)
    if rows[0].leftover:
        site.close(job)
        return
    site.agree([replace(rows[0], leftover=True)], (), job.number)
    if rows[1:]:
        site.drop(rows[1:], b"")
