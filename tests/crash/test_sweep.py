from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash import shim, sweep

EACH = {"import": 3, "apply": 3, "exchange": 2}  # `make sweep` takes all


@pytest.mark.parametrize("scene", sweep.SCENES)
def test_E6_F1_G9_a_call_that_fails_or_crashes_loses_nothing(tmp_path: Path, scene: str) -> None:
    if reason := shim.why_not():
        pytest.skip(reason)

    told = sweep.run(tmp_path, scene, seed=1, each=EACH[scene])

    assert told.endswith("all well")
