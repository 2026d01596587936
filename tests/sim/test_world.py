"""Show that the simulator notices what it is there to notice, and nothing else.

The toy node converges and loses nothing; each of its flaws must be found.
"""

from __future__ import annotations

import gc
import json
from typing import TYPE_CHECKING

import pytest

from tests.sim import toy
from tests.sim.history import FLAT_MIX, Step, dump, random_history
from tests.sim.run import Choice, main, play_many
from tests.sim.shrink import shrink
from tests.sim.toy import Toy
from tests.sim.world import World, same_twice

if TYPE_CHECKING:
    from pathlib import Path

    from tests.sim.world import Place, Verdict


SETTLE_S = 20.0  # a flawed node never settles


def flawed(flaw: str) -> type[Toy]:
    class Flawed(Toy):
        def __init__(self, place: Place) -> None:
            super().__init__(place, (flaw,) if place.index else ())

    return Flawed


def verdicts(flaw: str, count: int, mix: dict[str, int]) -> list[Verdict]:
    return [
        World(
            seed, flawed(flaw), mix=mix, length=20, checks=toy.CHECKS, settle_limit_s=SETTLE_S
        ).run()
        for seed in range(count)
    ]


@pytest.mark.parametrize("seed", range(30))
def test_a_right_node_passes(seed: int) -> None:
    verdict = World(seed, toy.make, mix=toy.MIX, checks=toy.CHECKS).run()

    assert verdict.failures == ()


@pytest.mark.parametrize(
    ("flaw", "kind", "count"),
    [("deaf", "tree", 3), ("lossy", "lost", 25), ("echo", "echo", 3), ("careless", "lost", 25)],
)
def test_a_flaw_is_noticed(flaw: str, kind: str, count: int) -> None:
    mix = {"write": 10, "append": 5, "meddle": 5, "power": 7}

    kinds = set().union(*(verdict.kinds for verdict in verdicts(flaw, count, mix)))

    assert kind in kinds


@pytest.mark.parametrize("seed", range(4))
def test_one_seed_leaves_the_same_trace_twice(seed: int) -> None:
    _, difference = same_twice(lambda: World(seed, toy.make, mix=toy.MIX, checks=toy.CHECKS))

    assert difference == ""


def test_traces_of_two_seeds_differ() -> None:
    one, other = (World(seed, toy.make, mix=toy.MIX).run() for seed in (1, 2))

    assert one.trace != other.trace


def test_a_failing_history_shrinks_to_few_steps() -> None:
    history = random_history(0, mix=FLAT_MIX)

    def fails(steps: list[Step]) -> bool:
        world = World(0, flawed("deaf"), history=steps, checks=toy.CHECKS, settle_limit_s=SETTLE_S)
        return "tree" in world.run().kinds

    assert len(shrink(history, fails, tries=60)) == 1


def test_a_deadlocked_node_is_told() -> None:
    class Waits(Toy):
        async def start(self) -> None:
            await self._place.loop.create_future()

    verdict = World(0, Waits, history=[]).run()

    assert verdict.kinds == {"stuck"}


def test_run_prints_how_to_play_a_failure_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    story = tmp_path / "history.json"
    story.write_text(dump([Step(5, 0, "create", ("a", 1))]))

    assert main(["--node", "tests.sim.toy", "--replay", str(story)]) == 0
    assert main(["--node", "tests.sim.toy", "--n", "4", "--jobs", "1", "--length", "5"]) == 0

    assert "4 histories, 0 failed; 1 played twice, 0 with another trace" in capsys.readouterr().out
    assert json.loads(story.read_text()) == [[5, 0, "create", "a", 1]]


def test_a_worker_keeps_nothing_of_the_histories_that_it_played() -> None:
    def left() -> int:
        gc.collect()
        return sum(isinstance(each, World | Toy) for each in gc.get_objects())

    choice = Choice("tests.sim.toy", 5, "flat")
    before = left()

    play_many(choice, range(4))

    assert left() == before
