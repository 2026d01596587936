"""See how much is done for a name that a disk cannot hold while nothing changes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from daemon.disk import NewFile, Stage
from daemon.outcomes import Reason
from tests.sim.disk import MemoryDisk
from tests.sim.playing import content, files, node_of, played, step

TWO_NAMES = (
    step(10, 0, "create", "notes.txt", 1),
    step(10, 1, "create", "Notes.txt", 2),
)


def test_B6_a_name_that_cannot_exist_is_fetched_ever_more_seldom_while_nothing_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    staged: list[int] = []
    stage_many = MemoryDisk.stage_many

    def count(disk: MemoryDisk, files: Sequence[NewFile]) -> list[Stage]:
        staged.append(len(files))
        return stage_many(disk, files)

    monkeypatch.setattr(MemoryDisk, "stage_many", count)

    world = played(*TWO_NAMES, step(1_800_000, 0, "chmod", "notes.txt", 1), folds_from=1)

    assert set(node_of(world, 2).work.trouble.failed) == {Reason.CANNOT_EXIST}
    assert len(staged) < 60  # two nodes with such a disk; it was several hundred


def test_B6_a_name_that_could_not_exist_comes_soon_after_the_one_in_its_way_has_gone() -> None:
    world = played(*TWO_NAMES, step(1_800_000, 1, "remove", "Notes.txt"), folds_from=1)

    assert files(world, 0) == files(world, 1) == files(world, 2) == {"notes.txt": content(1)}
    assert not node_of(world, 2).work.trouble.failed
