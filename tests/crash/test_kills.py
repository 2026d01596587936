from __future__ import annotations

from pathlib import Path

from tests.crash import kills


def test_F1_F6_a_kill_in_every_phase_loses_nothing(tmp_path: Path) -> None:
    # one of each; `make crash` does many
    assert kills.run(tmp_path, kills=11, seed=3).endswith("all well")
