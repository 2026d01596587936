from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
_HOP = re.compile(r"(?m)^\| (\d+) \| `([a-z_.]+):([A-Za-z_.]+)\(([a-z_]+)\)` \|")


def walks() -> list[list[tuple[str, str, str]]]:
    """Read docs/walks.md: for each walk its hops, as module, function and parameter."""
    found = []
    for part in (ROOT / "docs" / "walks.md").read_text().split("\n## ")[1:]:
        hops = _HOP.findall(part)
        assert [int(number) for number, *_ in hops] == list(range(1, len(hops) + 1))
        found.append([(module, name, parameter) for _, module, name, parameter in hops])
    return found


def test_there_are_three_walks_of_at_most_nine_hops() -> None:
    assert [2 < len(hops) <= 9 for hops in walks()] == [True, True, True]


@pytest.mark.parametrize("hop", [hop for hops in walks() for hop in hops], ids=":".join)
def test_every_hop_is_a_function_that_takes_what_travels(hop: tuple[str, str, str]) -> None:
    module, name, parameter = hop
    found: object = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)

    assert callable(found)
    parameters = inspect.signature(found).parameters
    assert parameter in parameters
    assert not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
