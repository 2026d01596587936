from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from daemon import echoes, portions
from daemon.echoes import Echoes, silenced
from daemon.hints import Hint, HintKind
from tests.daemon.applying import World
from tests.daemon.planning import ROOT, file_entry
from tests.daemon.working import eventually, pair

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "folder")


async def _placed(world: World, count: int) -> list[Hint]:
    """Apply new files f1, f2, …; give the hints that a watcher has of them."""
    files = [file_entry(number, ROOT, b"f%d" % number, b"one") for number in range(1, count + 1)]
    assert (await world.apply(files)).is_complete
    return [Hint(HintKind.APPEARED, entry.name) for entry in files]


def _left(world: World, hints: list[Hint]) -> list[Hint]:
    return silenced(world.disk, hints, world.applier.echoes.among(hints))


async def test_hints_of_what_apply_placed_are_silenced_once(world: World) -> None:
    hints = await _placed(world, 3)

    assert _left(world, [*hints, Hint(HintKind.CHANGED, b"f2")]) == []
    assert _left(world, hints) == hints, "what comes later is somebody else's"


async def test_P10_a_users_act_on_what_was_just_placed_is_looked_at(world: World) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"two")

    def write_with_the_former_time(path: Path) -> None:
        before = path.stat()
        path.write_bytes(b"two")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def replace(path: Path) -> None:
        (path.parent / "other").write_bytes(b"one")
        (path.parent / "other").rename(path)

    acts: list[Callable[[Path], object]] = [
        write,
        write_with_the_former_time,
        replace,
        lambda path: path.chmod(0o755),
        os.utime,
        lambda path: path.unlink(),
        lambda path: path.rename(path.parent / "elsewhere"),
    ]
    hints = await _placed(world, len(acts) + 1)

    for act, hint in zip(acts, hints, strict=False):
        act(world.root / os.fsdecode(hint.path))

    assert _left(world, hints) == hints[: len(acts)]


async def test_a_hint_that_says_more_than_a_place_goes_on(world: World) -> None:
    await _placed(world, 1)
    hints = [
        Hint(HintKind.CLOSED, b"f1"),
        Hint(HintKind.GONE, b"f1"),
        Hint(HintKind.MOVED_HERE, b"f1", source=b"f0"),
        Hint(HintKind.APPEARED, b"f1", is_directory=True),
        Hint(HintKind.LOST, b"f1"),
    ]

    assert _left(world, hints) == hints
    from_tmp = Hint(HintKind.MOVED_HERE, b"f1", source=b".dizzyd/tmp/x")
    assert _left(world, [from_tmp]) == []


async def test_a_file_whose_time_is_too_fresh_to_be_sure_is_looked_at(world: World) -> None:
    now_ns = world.root.stat().st_ctime_ns
    world.clock.ns = now_ns
    fresh = file_entry(1, ROOT, b"fresh", b"one", mtime_ns=now_ns)
    old = file_entry(2, ROOT, b"old", b"one", mtime_ns=now_ns - 10**10)
    assert (await world.apply([fresh, old])).is_complete
    hints = [Hint(HintKind.APPEARED, b"fresh"), Hint(HintKind.APPEARED, b"old")]

    assert _left(world, hints) == hints[:1]


async def test_ignore_rules_that_came_from_a_peer_are_read(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        looks = other.work._look
        owner.write(".dizzyignore", b"*.tmp")
        await owner.look()
        await eventually(lambda: other.has(".dizzyignore", b"*.tmp"))
        await eventually(lambda: other.work.is_settled)

        looks._take_hints([Hint(HintKind.APPEARED, b".dizzyignore")])

        await eventually(lambda: looks.is_ignored(b"a.tmp", False), within_s=3)


async def test_what_is_not_committed_is_no_echo(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portions, "ROUND_FILES", 2)
    known: list[bool] = []
    commit = world.journal.commit

    async def noted(outcomes: object) -> None:
        known.append(bool(world.applier.echoes.among([Hint(HintKind.APPEARED, b"f1")])))
        await commit(outcomes)  # type: ignore[arg-type]

    monkeypatch.setattr(world.journal, "commit", noted)
    await _placed(world, 2)

    assert known == [False]


def test_B13_the_oldest_are_forgotten_above_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(echoes, "LIMIT", 2)
    stat = os.stat_result(range(10))
    known = Echoes()

    known.note((b"%d" % number, stat) for number in range(5))  # type: ignore[misc]

    hints = [Hint(HintKind.APPEARED, b"%d" % number) for number in range(5)]
    assert set(known.among(hints)) == {b"3", b"4"}
