"""Execute steps on the disk, and say of each what became of it.

Runs in a worker thread, a segment of steps at a time. Every step looks before it acts and looks
at what it displaced; what is not as synced says is left alone and reported. Nothing is
committed here and nothing is made durable. What each kind of step does stands in
placing_contents, placing_names and placing_removals.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Sequence

from daemon.disk import Disk, DiskError, NameMissing, NameTaken, RootLost, Stage, Stat
from daemon.displaced import Clock, Names
from daemon.folding import is_by_this_name
from daemon.outcomes import Failed, Postponed, Why, failure
from daemon.placing_contents import bind, link, make_directory, set_attributes, write
from daemon.placing_names import move, swap
from daemon.placing_removals import is_whole, remove, remove_directory, remove_tree
from daemon.site import Job, Placed, Site
from daemon.steps import (
    Bind,
    Claim,
    MakeDirectory,
    MakeLink,
    MoveName,
    Place,
    RemoveDirectory,
    RemoveFile,
    RemoveTree,
    Renumber,
    SetAttributes,
    Step,
    SwapNames,
    WriteFile,
    numbers_of,
    place_of,
    places_before,
)
from daemon.whereabouts import DirectoryPaths, Waits, Whereabouts


class Placer:
    """Executes the steps of one plan; one segment at a time, in order."""

    def __init__(
        self,
        disk: Disk,
        paths: DirectoryPaths,
        clock: Clock,
        names: Names,
        *,
        steps: Sequence[Step],
        is_ignored: Callable[[bytes, bool], bool],
        busy: set[bytes],
    ) -> None:
        """`busy` gets every path before it is touched."""
        self._clock = clock
        self._whereabouts = Whereabouts(disk, paths, busy)
        self._site = Site(disk, self._whereabouts, names, steps=steps, is_ignored=is_ignored)

    def execute(self, jobs: Sequence[Job]) -> Placed:
        """Do the jobs in order. Raises RootLost; every other trouble is an outcome."""
        site = self._site
        site.begin(self._clock.now_ns())
        with site.disk.together():
            self._execute_all(jobs)
        return site.placed

    def _execute_all(self, jobs: Sequence[Job]) -> None:
        waiting = deque(jobs)
        while waiting:
            new: list[tuple[Job, Claim, Stage]] = []
            while waiting and (claim := self._new_at_a_free_place(waiting[0])) is not None:
                job = waiting.popleft()
                if job.stage is not None:
                    new.append((job, claim, job.stage))
            if new:
                self._write_new(new)
            if waiting:
                self._execute_one(waiting.popleft())

    def _execute_one(self, job: Job) -> None:
        outcomes = self._site.placed.outcomes
        self._site.orphans = []
        self._site.has_begun = False
        done = len(outcomes)
        try:
            self._execute(job)
        except RootLost:
            raise
        except (DiskError, Waits) as cause:
            self._note(job, cause)
        if any(isinstance(outcome, Postponed | Failed) for outcome in outcomes[done:]):
            self._site.has_trouble = True
            self._site.held.update(places_before(job.step))

    def _note(self, job: Job, cause: DiskError | Waits) -> None:
        """Say why a job was not done."""
        match cause:
            case Waits():
                self._site.placed.outcomes.append(
                    Postponed(cause.path, numbers_of(job.step), cause.why)
                )
                self._site.close(job)
            case NameTaken() if self._is_folded(job):
                path = self._site.path(place_of(job.step)) or b""
                why = "the disk takes another name there for the same"
                cannot = DiskError(f"make {os.fsdecode(path)!r}", why, errno=errno.EINVAL)
                self._site.placed.outcomes.append(failure(path, numbers_of(job.step), cannot))
                self._site.close(job)
            case NameTaken():
                self._wait(job, Why.TAKEN)
            case NameMissing():
                self._wait(job, Why.MISSING_HERE)
            case _:
                self._site.fail(job, self._site.path(place_of(job.step)) or b"", cause)

    def _new_at_a_free_place(self, job: Job) -> Claim | None:
        """Give the claim of a new file that nothing else has to make room for."""
        step = job.step
        if not isinstance(step, WriteFile) or step.before or job.stage is None:
            return None
        claim = step.claim
        if claim.place in self._site.held or self._site.ledger.orphans(claim, ()):
            return None
        return claim

    def _write_new(self, new: Sequence[tuple[Job, Claim, Stage]]) -> None:
        """Put many new files in place. No intents: what a crash leaves is a head's and binds."""
        ready: list[tuple[Job, Claim]] = []
        pairs: list[tuple[Stage, bytes]] = []
        for job, claim, stage in new:
            try:
                pairs.append((stage, self._site.must_path(claim.place)))
            except RootLost:
                raise
            except (DiskError, Waits) as cause:
                self._site.has_trouble = True
                self._note(job, cause)
            else:
                ready.append((job, claim))
        self._site.orphans = []
        placed: list[Stat | DiskError]
        try:
            placed = self._site.disk.place_each(pairs)
        except RootLost:
            raise
        except DiskError as cause:
            placed = [cause] * len(pairs)
        for (job, claim), (_, path), stat in zip(ready, pairs, placed, strict=True):
            if isinstance(stat, RootLost):
                raise stat
            if isinstance(stat, DiskError):
                self._site.has_trouble = True
                self._note(job, stat)
            else:
                self._site.agree(self._site.made(path, claim, stat), claim.gone)

    def committed(self) -> None:
        """Forget directories that `paths` knows by now."""
        self._whereabouts.committed()

    def is_whole(self, step: RemoveTree) -> bool:
        """Whether a directory holds what synced says and nothing else, so that it may go whole."""
        return is_whole(self._site, step)

    def path_of_place(self, place: Place) -> bytes | None:
        """Find where a name is now."""
        return self._site.path(place)

    def _is_folded(self, job: Job) -> bool:
        """Whether what stands in the way has another name, which this disk takes for the same."""
        path = self._site.path(place_of(job.step))
        return path is not None and not is_by_this_name(self._site.disk, path)

    def _wait(self, job: Job, why: Why) -> None:
        path = self._site.path(place_of(job.step)) or b""
        self._site.placed.outcomes.append(Postponed(path, numbers_of(job.step), why))
        if self._site.has_begun and isinstance(job.step, WriteFile):
            # Where EXCHANGE is missing both files are perhaps in tmp now.
            self._site.leave_open(job)
            return
        self._site.close(job)

    # -- steps ---------------------------------------------------------------------------------

    def _execute(self, job: Job) -> None:  # noqa: C901 - one branch for each step
        site = self._site
        match job.step:
            case WriteFile():
                write(site, job, job.step)
            case MoveName():
                move(site, job, job.step)
            case RemoveFile():
                remove(site, job, job.step)
            case MakeDirectory():
                make_directory(site, job, job.step)
            case RemoveTree():
                remove_tree(site, job, job.step)
            case RemoveDirectory():
                remove_directory(site, job, job.step)
            case SwapNames():
                swap(site, job, job.step)
            case MakeLink():
                link(site, job, job.step)
            case SetAttributes():
                set_attributes(site, job, job.step)
            case Renumber(rows):
                site.agree(rows)
            case Bind():
                bind(site, job, job.step)
