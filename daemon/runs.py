"""Number the plans that are on their way, and say which steps are still theirs to do.

Of two plans about one object the later one decides. Nothing is carried out here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from daemon.applied import Applied
from daemon.disk import DiskError
from daemon.outcomes import Agreed, Outcome, Postponed, Why, failure
from daemon.placing import Placer
from daemon.site import Job
from daemon.steps import Plan, RemoveTree, Step, WriteFile, key_of, numbers_of, place_of


class Run(Struct):
    """One plan on its way, and what came of it so far."""

    number: int
    placer: Placer
    applied: Applied
    is_unfinished: bool = False  # an error came in the middle of a step

    def fail(self, jobs: Sequence[Job], cause: DiskError) -> None:
        """Say of jobs that they failed."""
        for job in jobs:
            path = self._path_of(job.step)
            self.applied.failed.append(failure(path, numbers_of(job.step), cause))

    def postpone(self, plan: Plan) -> None:
        """Say of a whole plan that it has to be made again."""
        self.applied.postponed += [
            Postponed(self._path_of(step), numbers_of(step), Why.BLOCKED) for step in plan.steps
        ]

    def plan_again(self, outcomes: Iterable[Outcome]) -> bool:
        """Have the objects planned again of which a recovery found something; if there are any."""
        objects = {
            no
            for outcome in outcomes
            if isinstance(outcome, Agreed)
            for no, _ in (*map(key_of, outcome.rows), *outcome.gone)
        }
        if objects:
            self.applied.postponed.append(Postponed(b"", tuple(sorted(objects)), Why.BLOCKED))
        return bool(objects)

    def note_blocked(self, plan: Plan) -> None:
        """Say what the plan itself leaves for later."""
        for blocked in plan.blocked:
            path = self.placer.path_of_place(blocked.place) or b""
            objects = tuple(sorted({*blocked.object_nos, *blocked.by}))
            self.applied.postponed.append(Postponed(path, objects, Why.BLOCKED))

    def away(self, step: WriteFile) -> Postponed:
        """Say that nobody at hand has a content."""
        path = self._path_of(step)
        return Postponed(path, numbers_of(step), Why.CONTENT_AWAY, step.claim.entry.value)

    def _path_of(self, step: Step) -> bytes:
        return self.placer.path_of_place(place_of(step)) or b""


class Runs:
    """The plans of one folder that began and did not end."""

    def __init__(self) -> None:
        """Begin with none."""
        self._latest: dict[int, int] = {}  # object -> the newest plan that is about it
        self._begun = 0
        self._running: set[int] = set()

    def begin(self, plan: Plan) -> int:
        """Let a plan supersede all that began before it, for its objects; give its number.

        Plans decide in the order in which they were made, not in that in which their tasks come
        to run. What was begun has to be ended.
        """
        self._begun += 1
        for object_no in plan.objects:
            self._latest[object_no] = self._begun
        self._running.add(self._begun)
        return self._begun

    def end(self, number: int) -> None:
        """Note that a plan is done with."""
        self._running.discard(number)
        if not self._running:
            self._latest.clear()

    def live(self, steps: Iterable[Step], run: Run) -> list[Step]:
        """Leave out what a later plan decides."""
        if run.number == self._begun:
            return list(steps)
        latest, number = self._latest, run.number
        return [
            step
            for together in steps
            for step in (together.singly if isinstance(together, RemoveTree) else (together,))
            if all(latest.get(no, number) <= number for no in numbers_of(step))
        ]

    def live_jobs(self, jobs: Sequence[Job], run: Run) -> list[Job]:
        """Leave out the jobs whose steps a later plan decides."""
        live = set(map(id, self.live([job.step for job in jobs], run)))
        return [job for job in jobs if id(job.step) in live]
