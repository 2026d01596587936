"""See who gets a turn at a folder's tree while one plan after the other comes in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from daemon import portions
from daemon.disk import DiskError
from daemon.fs import LinuxDisk
from store.records import Entry
from tests.daemon.applying import World
from tests.daemon.planning import ROOT, file_entry

P = ParamSpec("P")
T = TypeVar("T")
ROUNDS = 12


class Polite:
    """Runs functions at once, and lets others go on before and after, as a thread would."""

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        await asyncio.sleep(0)
        result = fn(*args, **kwargs)
        await asyncio.sleep(0)
        return result

    async def settle(self) -> None:
        """Nothing goes on beside who calls."""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(portions, "ROUND_FILES", 2)
    made = World(tmp_path / "folder", Polite())
    yield made
    made.linux.close()


def _many() -> list[Entry]:
    return [file_entry(no, ROOT, b"f%d" % no, b"one") for no in range(1, 2 * ROUNDS + 1)]


async def test_who_wants_the_tree_alone_waits_for_a_round_not_for_the_end_of_a_plan(
    world: World,
) -> None:
    applying = asyncio.create_task(world.apply(_many()))
    while len(world.journal.rows) < 4:
        await asyncio.sleep(0)
    seen: list[tuple[int, int]] = []

    async def act() -> bool:
        seen.append((len(world.journal.rows), len(list(world.walk()))))
        return True

    before = len(world.journal.rows)
    await world.applier.yield_to([], [], act)
    applied = await applying

    ((rows, files),) = seen
    assert rows == files  # what stands in the tree by us is in synced
    assert rows - before <= 2 * 5
    assert applied.is_complete
    assert len(world.journal.rows) == 2 * ROUNDS
    assert not world.journal.intents
    assert not world.applier.is_in_doubt
    assert not world.applier.is_busy(b"f1")


async def test_a_round_that_could_not_be_made_durable_for_who_wants_the_tree_is_done_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    applying = asyncio.create_task(world.apply(_many()))
    while len(world.journal.rows) < 4:
        await asyncio.sleep(0)
    sync_directories = LinuxDisk.sync_directories

    def fail(_disk: LinuxDisk, _paths: Sequence[bytes]) -> None:
        monkeypatch.setattr(LinuxDisk, "sync_directories", sync_directories)
        raise DiskError("make durable", "Input/output error")

    async def act() -> bool:
        return True

    monkeypatch.setattr(LinuxDisk, "sync_directories", fail)
    await world.applier.yield_to([], [], act)
    applied = await applying

    assert applied.failed
    assert world.applier.damages
    await world.converge(_many())
    assert len(world.journal.rows) == 2 * ROUNDS
    assert not world.journal.intents
    assert not world.applier.is_in_doubt
    assert not world.applier.is_busy(b"f1")
