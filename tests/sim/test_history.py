"""Show that histories repeat, can be written down, and shrink to what matters."""

from __future__ import annotations

from tests.sim.history import FULL_MIX, MIXES, content_of, dump, load, random_history
from tests.sim.shrink import shrink


def test_same_seed_gives_the_same_history_and_another_seed_another() -> None:
    assert random_history(3) == random_history(3)
    assert random_history(3) != random_history(4)


def test_history_survives_being_written_down() -> None:
    history = random_history(5, length=400)

    assert load(dump(history)) == history


def test_all_verbs_occur() -> None:
    verbs = {step.verb for seed in range(30) for step in random_history(seed, length=100)}

    assert verbs == set(FULL_MIX)
    apart = {"join", "big", "recase", "checkpoint", "unplug"}
    assert set().union(*MIXES.values()) == verbs | apart


def test_contents_differ_and_many_are_equally_long() -> None:
    contents = [content_of(1, number) for number in range(1, 200)]

    assert len(set(contents)) == len(contents)
    assert len({len(content) for content in contents}) < 10


def test_shrink_finds_the_two_steps_that_matter() -> None:
    asked = 0

    def fails(steps: list[int]) -> bool:
        nonlocal asked
        asked += 1
        return 17 in steps and 55 in steps and steps.index(17) < steps.index(55)

    assert shrink(list(range(60)), fails) == [17, 55]
    assert asked < 100
