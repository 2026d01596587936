"""Let go of logs with whole nodes, while members are there and while one is away."""

from __future__ import annotations

import pytest

from tests.sim import pruned
from tests.sim.history import Step
from tests.sim.playing import content, files, step
from tests.sim.pruned import PrunedNode
from tests.sim.test_checkpoints import stubs
from tests.sim.world import Place, World

SAVES = [step(4000 + 40 * number, 0, "write", "a", 1 + number) for number in range(40)]
CHECKPOINT = step(9000, 0, "checkpoint")


def played(history: list[Step], at_s: float) -> tuple[World, list[tuple[int, int]]]:
    """Play with two nodes; gives how much each had let go at a moment."""
    seen: list[tuple[int, int]] = []

    def make(place: Place) -> PrunedNode:
        if place.index == 1 and place.life == 1:
            place.loop.call_later(at_s, lambda: seen.append((stubs(world, 0), stubs(world, 1))))
        return pruned.make(place)

    world = World(1, make, nodes=2, history=history)
    verdict = world.run()
    assert verdict.failures == ()
    return world, seen


def test_P12_all_members_let_go_of_what_all_of_them_have() -> None:
    later = [step(40_000, 1, "write", "a", 60), step(41_000, 0, "create", "b", 61)]

    world, seen = played([*SAVES, CHECKPOINT, *later], at_s=39)

    assert seen[0][0] == seen[0][1] > 10
    assert files(world) == files(world, 1) == {"a": content(60), "b": content(61)}


def test_nothing_is_let_go_that_a_member_who_is_away_does_not_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pruned, "AWAY_MS", 10**9)
    away = [step(3000, 1, "cut", 0, 60_000), step(5000, 1, "create", "b", 60)]

    world, seen = played([*away, *SAVES, CHECKPOINT, step(62_000, 0, "write", "a", 61)], at_s=60)

    assert seen == [(0, 0)]
    assert files(world) == files(world, 1)


def test_P12_who_was_away_for_longer_goes_on_with_the_snapshot_and_its_edits_stay() -> None:
    history = [
        step(3500, 1, "cut", 0, 40_000),
        *SAVES,
        step(5000, 1, "create", "b", 60),
        step(5500, 1, "write", "a", 61),
        step(6000, 0, "create", "gone", 70),
        step(6500, 0, "remove", "gone"),
        CHECKPOINT,
        step(12_000, 0, "write", "a", 63),
        step(25_000, 1, "write", "b", 62),
        step(80_000, 0, "write", "a", 64),
        step(80_000, 1, "write", "c", 65),
    ]

    world, seen = played(history, at_s=40)

    assert seen[0][0] > 10
    assert seen[0][1] == 0
    assert stubs(world, 1) > 10  # it had to take the snapshot
    found = files(world)
    assert files(world, 1) == found
    assert (found["b"], found["c"]) == (content(62), content(65))
    assert {content(61), content(64)} <= set(found.values())
    assert "gone" not in found


@pytest.mark.parametrize("moment", [0, 1])
@pytest.mark.parametrize("number", range(1, 7))
def test_F1_a_node_killed_at_any_commit_of_letting_go_goes_on(number: int, moment: int) -> None:
    killed = step(9500, 0, "crash_commit", number, moment, 500, 1)

    world, _ = played(
        [*SAVES, CHECKPOINT, killed, step(40_000, 1, "write", "a", 60)], at_s=39
    )

    assert stubs(world, 0) == stubs(world, 1) > 10
    assert files(world) == files(world, 1) == {"a": content(60)}
