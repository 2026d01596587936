"""Play a sample of random histories on real nodes; `make sim N=…` plays many more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.sim import invited, real
from tests.sim.history import MIXES
from tests.sim.run import DEFAULT_NODE, Choice, play
from tests.sim.world import World, same_twice

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sim.world import Place, SimNode

SEEDS = range(20_000, 20_012)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mix", MIXES)
def test_P13_P19_P20_P24_P29_P31_P32_a_random_history_converges(mix: str, seed: int) -> None:
    verdict = play(Choice(DEFAULT_NODE, 60, mix), seed)

    assert verdict.failures == (), f"seed {seed}, mix {mix}"


@pytest.mark.parametrize("make", [real.make, invited.make])
def test_one_seed_leaves_the_same_trace_twice(make: Callable[[Place], SimNode]) -> None:
    _, difference = same_twice(lambda: World(0, make))

    assert difference == ""


def test_a_trace_does_not_depend_on_the_order_of_a_set() -> None:
    """Seed 50 did: contents that arrived together were passed on in the order of a set."""
    traces = {
        subprocess.run(
            [sys.executable, "-m", "tests.sim.run", "--trace", "50"],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": order},
            check=True,
            capture_output=True,
        ).stdout
        for order in ("0", "1")
    }

    assert len(traces) == 1


def test_H3_links_for_contents_that_broke_keep_out_no_new_ones() -> None:
    """Seed 698: who called again after cuts was refused, and called again 6,588 times."""
    verdict = World(698, real.make, mix=MIXES["large"]).run()

    assert verdict.failures == ()
