"""See which steps of plans that are on their way at one time are still theirs to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from daemon.applied import Applied
from daemon.outcomes import Agreed
from daemon.runs import Run, Runs
from daemon.site import Job
from daemon.steps import Claim, Plan, Step, WriteFile
from tests.daemon.planning import ROOT, file_entry, synced_as

if TYPE_CHECKING:
    from daemon.placing import Placer


def write(number: int) -> Step:
    entry = file_entry(number, ROOT, b"x", b"one")
    return WriteFile(Claim(entry))


def begun(runs: Runs, *object_nos: int) -> tuple[Run, list[Step]]:
    steps = [write(no) for no in object_nos]
    plan = Plan(steps=tuple(steps), blocked=(), objects=frozenset(object_nos))
    return Run(runs.begin(plan), runs, cast("Placer", None), Applied()), steps


def agreed(number: int) -> Agreed:
    return Agreed((synced_as(file_entry(number, ROOT, b"y", b"one")),), (), b"")


def test_of_two_plans_about_one_object_the_later_one_decides() -> None:
    runs = Runs()
    earlier, steps = begun(runs, 1, 2)
    later, _ = begun(runs, 1)

    assert runs.live(steps, earlier) == [steps[1]]
    assert later.number > earlier.number


def test_P24_a_plan_does_nothing_about_what_an_earlier_one_changed_since_it_was_made() -> None:
    """It left the name behind that the earlier one had just given (seed 410517)."""
    runs = Runs()
    earlier, _ = begun(runs, 1, 2)
    later, steps = begun(runs, 1, 3)

    earlier.note_committed([agreed(1), agreed(2)])

    assert runs.live(steps, later) == [steps[1]]


def test_what_a_plan_commits_itself_or_a_later_one_does_not_hold_it_up() -> None:
    runs = Runs()
    earlier, steps = begun(runs, 1)
    later, others = begun(runs, 2)

    earlier.note_committed([agreed(1)])
    later.note_committed([agreed(2), agreed(1)])

    assert runs.live(steps, earlier) == steps
    assert runs.live(others, later) == others


def test_a_plan_that_is_made_after_an_ended_one_is_whole() -> None:
    runs = Runs()
    earlier, _ = begun(runs, 1)
    earlier.note_committed([agreed(1)])
    runs.end(earlier.number)
    later, steps = begun(runs, 1)

    assert runs.live(steps, later) == steps


def test_P24_no_plan_touches_what_is_being_recorded_and_none_that_is_older_afterwards() -> None:
    """A rename took the edit along, which was recorded a second time there (seed 411845)."""
    runs = Runs()
    run, steps = begun(runs, 1, 2)
    jobs = [Job(step) for step in steps]

    with runs.holding({1}):
        during = run.part_late(jobs)
    after = runs.live(steps, run)

    assert during == ([jobs[1]], [jobs[0]])
    assert after == [steps[1]]
    assert [postponed.object_nos for postponed in run.applied.postponed] == [(1,), (1,)]

    later, others = begun(runs, 1)
    assert runs.live(others, later) == others
