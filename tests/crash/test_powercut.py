from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash import images, powercut

CUTS = {"both": 3, "home": 2, "folder": 4}  # `make powercut` makes many


@pytest.mark.root
@pytest.mark.parametrize("place", powercut.PLACES)
def test_F2_A12_what_the_power_takes_is_no_edit_and_what_was_said_is_there(
    tmp_path: Path, place: str
) -> None:
    if reason := images.why_not():
        pytest.skip(reason)

    told = powercut.run(tmp_path, cuts=CUTS[place], seed=5, place=place)

    assert told.endswith("all well")
