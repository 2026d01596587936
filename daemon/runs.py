"""Number the plans that are on their way, and say which steps are still theirs to do.

Of two plans about one object the later one decides. Nothing is carried out here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

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
    runs: Runs
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
        objects = _objects(outcomes)
        if objects:
            self.applied.postponed.append(Postponed(b"", tuple(sorted(objects)), Why.BLOCKED))
        return bool(objects)

    def note_committed(self, outcomes: Iterable[Outcome]) -> None:
        """Let plans that were made before this hear that synced says something else by now."""
        if self.runs.has_later(self.number):
            self.runs.note_committed(self.number, _objects(outcomes))

    def part_late(self, jobs: Sequence[Job]) -> tuple[list[Job], list[Job]]:
        """Part the jobs that may be done from those about what changed since; these come again."""
        stale = self.runs.stale(self.number)
        if not stale:
            return list(jobs), []
        late = [job for job in jobs if not stale.isdisjoint(numbers_of(job.step))]
        for job in late:
            self.leave(job.step)
            if job.stage is not None:
                job.stage.close()
        left = set(map(id, late))
        return [job for job in jobs if id(job) not in left], late

    def leave(self, step: Step) -> None:
        """Have a step planned again: it was made for what is no more."""
        self.applied.postponed.append(Postponed(b"", numbers_of(step), Why.BLOCKED))

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
        self._stale: dict[int, set[int]] = {}  # plan -> objects that changed since it was made
        self._held: Counter[int] = Counter()  # objects that are being recorded just now

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
        self._stale.pop(number, None)
        if not self._running:
            self._latest.clear()

    def has_later(self, number: int) -> bool:
        """Whether a plan that was made after this one is on its way."""
        return any(later > number for later in self._running)

    def note_committed(self, number: int, object_nos: Collection[int]) -> None:
        """Note that a plan had synced say something else of these objects.

        A later one that was made before knows nothing of it: the name that the earlier one gave a
        content it would leave behind.
        """
        for later in self._running:
            if later > number:
                known = self._stale.setdefault(later, set())
                known.update(no for no in object_nos if self._latest.get(no, 0) >= later)

    @contextmanager
    def holding(self, object_nos: Collection[int]) -> Iterator[None]:
        """Let no plan touch these objects while their changes are recorded.

        A plan that was made before knows nothing of them: a rename takes an edit along, which
        would be found once more where it is then.
        """
        self._held.update(object_nos)
        try:
            yield
        finally:
            self._held.subtract(object_nos)
            self._held = +self._held
            for number in self._running:
                self._stale.setdefault(number, set()).update(object_nos)

    def stale(self, number: int) -> set[int]:
        """Name the objects that changed since a plan was made, or are being recorded."""
        return self._stale.get(number, set()).union(self._held)

    def live(self, steps: Iterable[Step], run: Run) -> list[Step]:
        """Leave out what a later plan decides, and what this one was made too early for.

        The latter is to be planned again.
        """
        latest, number = self._latest, run.number
        stale = self.stale(number)
        if number == self._begun and not stale:
            return list(steps)
        live: list[Step] = []
        for together in steps:
            for step in together.singly if isinstance(together, RemoveTree) else (together,):
                object_nos = numbers_of(step)
                if not stale.isdisjoint(object_nos):
                    run.leave(step)
                elif all(latest.get(no, number) <= number for no in object_nos):
                    live.append(step)
        return live

    def live_jobs(self, jobs: Sequence[Job], run: Run) -> list[Job]:
        """Leave out the jobs whose steps a later plan decides."""
        live = set(map(id, self.live([job.step for job in jobs], run)))
        return [job for job in jobs if id(job.step) in live]


def _objects(outcomes: Iterable[Outcome]) -> set[int]:
    return {
        no
        for outcome in outcomes
        if isinstance(outcome, Agreed)
        for no, _ in (*map(key_of, outcome.rows), *outcome.gone)
    }
