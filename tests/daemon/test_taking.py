"""A directory that goes with all that is in it: one rename, and nothing of a user's is lost."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

from daemon.disk import DiskError
from daemon.displaced import LOOK_AGAIN_NS
from daemon.gathering import gather_removals
from daemon.outcomes import Bundle, Why
from daemon.planner import plan
from daemon.steps import RemoveDirectory, RemoveFile, RemoveTree
from store.ids import Kind, blob_hash
from tests.daemon.applying import Crash, World
from tests.daemon.planning import (
    ROOT,
    directory_entry,
    file_entry,
    link_entry,
    listing_of,
    synced_as,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.disk import Stat
    from store.records import Entry

_BYSTANDER = file_entry(9, ROOT, b"bystander", b"two")
_TREE: list[Entry] = [
    directory_entry(1, ROOT, b"d"),
    file_entry(2, 1, b"a", b"one"),
    file_entry(3, 1, b"b", b"two"),
    directory_entry(4, 1, b"s"),
    file_entry(5, 4, b"c", b"three"),
    link_entry(6, 4, b"l", b"target"),
    directory_entry(7, 4, b"empty"),
    _BYSTANDER,
]
_AFTER = [_BYSTANDER]
_CONTENTS = {b"one", b"two", b"three"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "folder")
    yield made
    made.linux.close()


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Callable[[], World]]:
    made: list[World] = []

    def make() -> World:
        made.append(World(tmp_path / f"folder{len(made)}"))
        return made[-1]

    yield make
    for each in made:
        each.linux.close()


def test_removals_of_a_whole_directory_are_one_step() -> None:
    made = plan(_AFTER, [synced_as(entry) for entry in _TREE], objects=())

    (step,) = made.steps
    assert isinstance(step, RemoveTree)
    assert [row.object_no for row in step.rows] == [1]
    assert len(step.inside) == 6
    assert len(step.all_rows) == 7


def test_what_moves_out_of_a_directory_first_is_not_gathered() -> None:
    wanted = [_BYSTANDER, file_entry(5, ROOT, b"c", b"three")]

    steps = plan(wanted, [synced_as(entry) for entry in _TREE]).steps

    assert isinstance(steps[-1], RemoveTree)
    assert 5 not in {row.object_no for row in steps[-1].all_rows}


def test_a_removal_from_another_place_is_not_gathered() -> None:
    rows = {entry.object_no: synced_as(entry) for entry in _TREE}
    there = plan([], [rows[2]]).steps[0]
    assert isinstance(there, RemoveFile)
    elsewhere = RemoveFile(there.rows, there.source.__class__(4, b"x"))
    directory = RemoveDirectory((rows[4],), there.source.__class__(1, b"s"))

    assert gather_removals([elsewhere, directory]) == [elsewhere, directory]


async def test_P26_a_directory_is_removed_by_one_rename_and_all_of_it_kept(world: World) -> None:
    await world.converge(_TREE)
    world.faults.names.clear()

    applied = await world.apply(_AFTER)

    assert applied.is_complete
    assert world.listing() == listing_of(_AFTER)
    assert world.faults.names.count("take_tree") == 1
    assert "take_away" not in world.faults.names
    assert world.private("tmp") == []
    assert set(world.private("history")) >= _CONTENTS
    assert world.journal.intents == {}
    assert {no for no, _ in world.journal.rows} == {9}
    assert {kept.row.object_no for kept in world.journal.kept} == {2, 3, 5, 6}
    # And all of it is looked at once more, by one row
    (bundle,) = world.journal.watching.values()
    assert isinstance(bundle, Bundle)
    world.clock.ns += LOOK_AGAIN_NS
    assert await world.watch.look() == []
    assert world.journal.watching == {}


async def test_a_directory_that_holds_more_than_synced_says_goes_name_by_name(
    world: World,
) -> None:
    await world.converge(_TREE)
    (world.root / "d/s/new").write_bytes(b"by the user")

    applied = await world.apply(_AFTER)

    assert {each.why for each in applied.postponed} <= {Why.NOT_EMPTY, Why.BLOCKED}
    assert (world.root / "d/s/new").read_bytes() == b"by the user"
    assert not (world.root / "d/a").exists()


async def test_ignored_names_keep_a_directory_that_was_removed_as_a_leftover(world: World) -> None:
    world.ignored.add(b"ignored")
    await world.converge(_TREE)
    (world.root / "d/s/ignored").write_bytes(b"stays")

    await world.apply(_AFTER)

    assert (world.root / "d/s/ignored").read_bytes() == b"stays"
    assert not (world.root / "d/s/c").exists()


async def test_E13_a_directory_a_thousand_deep_goes_whole(world: World) -> None:
    deep = [directory_entry(number, number - 1, b"d") for number in range(1, 1201)]
    deep.append(file_entry(1201, 1200, b"f", b"one"))
    await world.converge(deep)

    assert (await world.apply([])).is_complete

    assert list(world.walk()) == []
    assert b"one" in world.private("history")


def _edit(directory: int) -> None:
    file = os.open("a", os.O_WRONLY | os.O_TRUNC, dir_fd=directory)
    os.write(file, b"by the user")
    os.close(file)


def _add(directory: int) -> None:
    file = os.open("new", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=directory)
    os.write(file, b"by the user")
    os.close(file)


def _replace(directory: int) -> None:
    _add(directory)
    os.rename("new", "a", src_dir_fd=directory, dst_dir_fd=directory)


def _add_directory(directory: int) -> None:
    os.mkdir("made", dir_fd=directory)
    inner = os.open("made", os.O_RDONLY, dir_fd=directory)
    _add(inner)
    os.close(inner)


@pytest.mark.parametrize("write", [_edit, _add, _replace, _add_directory])
def test_P31_E11_who_is_in_a_directory_that_goes_loses_nothing(
    worlds: Callable[[], World], write: Callable[[int], None]
) -> None:
    number = 0
    while True:
        world = worlds()
        asyncio.run(world.converge(_TREE))
        inside = os.open(world.root / "d", os.O_RDONLY)  # as a shell has its working directory

        told: list[bool] = []  # that the directory, or the file, is gone already

        def act(inside: int = inside, told: list[bool] = told) -> None:
            try:
                write(inside)
            except FileNotFoundError:
                told.append(True)

        world.faults.before[world.faults.calls + number] = act
        start = world.faults.calls
        asyncio.run(world.apply(_AFTER))
        os.close(inside)
        if world.faults.calls <= start + number:
            assert number > 10
            return
        assert world.journal.intents == {}
        assert world.private("tmp") == []
        world.clock.ns += LOOK_AGAIN_NS
        asyncio.run(world.watch.look())
        # In the tree, where the next look finds it, or its user's change by now, from history
        changed = [displaced.looked.value for displaced in world.journal.displaced]
        in_tree = {path.read_bytes() for path in world.walk() if path.is_file()}
        is_heard = blob_hash(b"by the user") in changed or b"by the user" in in_tree
        assert is_heard or told
        assert _CONTENTS - {b"one"} <= set(world.private("history")) | in_tree
        number += 1


def test_P32_F1_a_crash_at_any_call_while_a_directory_goes_loses_nothing(
    worlds: Callable[[], World],
) -> None:
    def crash() -> None:
        raise Crash

    number = 0
    while True:
        world = worlds()
        asyncio.run(world.converge(_TREE))
        when = world.faults.after if number % 2 else world.faults.before
        when[world.faults.calls + number // 2] = crash
        try:
            asyncio.run(world.apply(_AFTER))
        except Crash:
            recovered = asyncio.run(world.restart())
            assert recovered.displaced == []
        else:
            assert number > 20
            return
        assert world.journal.intents == {}
        world.faults.heal()
        asyncio.run(world.converge(_AFTER))
        assert world.listing() == listing_of(_AFTER)
        assert set(world.private("history")) >= _CONTENTS
        assert world.private("tmp") == []
        named = {kept.history_name for kept in world.journal.kept}
        history = set(map(os.fsencode, os.listdir(world.root / ".dizzyd/history")))
        assert named >= history, "something is in history that nothing tells of"
        number += 1


def test_F6_a_crash_in_the_recovery_of_a_directory_is_as_any_other(
    worlds: Callable[[], World],
) -> None:
    def crash() -> None:
        raise Crash

    for first in range(6, 22, 2):
        for second in range(1, 16, 2):
            world = worlds()
            asyncio.run(world.converge(_TREE))
            world.faults.after[world.faults.calls + first] = crash
            try:
                asyncio.run(world.apply(_AFTER))
            except Crash:
                world.linux.close()
                world.open()
                world.faults.after[second] = crash
                try:
                    asyncio.run(world.applier.recover())
                except Crash:
                    asyncio.run(world.restart())
            world.faults.heal()
            asyncio.run(world.converge(_AFTER))
            assert world.listing() == listing_of(_AFTER)
            assert set(world.private("history")) >= _CONTENTS


def test_E1_E6_a_fault_while_a_directory_is_put_away_is_gone_on_with(
    worlds: Callable[[], World],
) -> None:
    def fail() -> None:
        raise DiskError("test", "no", errno=5)

    for name in ("list_taken", "keep_taken", "remove_taken"):
        world = worlds()
        asyncio.run(world.converge(_TREE))
        original = getattr(world.linux, name)
        setattr(world.linux, name, lambda *_: fail())
        applied = asyncio.run(world.apply(_AFTER))
        assert len(applied.failed) == 1
        assert world.journal.intents != {}
        setattr(world.linux, name, original)

        asyncio.run(world.converge(_AFTER))

        assert world.listing() == listing_of(_AFTER)
        assert set(world.private("history")) >= _CONTENTS
        assert world.private("tmp") == []
        assert world.journal.intents == {}


async def test_E13_a_pipe_put_into_a_directory_that_goes_holds_nothing_up(world: World) -> None:
    # Given somebody who makes a pipe in it, and a file where that is to return
    await world.converge(_TREE)
    inside = os.open(world.root / "d", os.O_RDONLY)
    take_tree, return_taken = world.linux.take_tree, world.linux.return_taken

    def take(path: bytes, keep_as: bytes) -> Stat:
        taken = take_tree(path, keep_as)
        os.mkfifo("pipe", dir_fd=inside)
        return taken

    def give_back(inner: bytes, path: bytes) -> Stat:
        (world.root / "d").mkdir(exist_ok=True)
        (world.root / "d/pipe").write_bytes(b"by the user")
        return return_taken(inner, path)

    world.linux.take_tree = take  # type: ignore[method-assign]
    world.linux.return_taken = give_back  # type: ignore[method-assign]

    await world.apply(_AFTER)
    os.close(inside)

    assert world.journal.intents == {}
    assert os.listdir(world.root / ".dizzyd/tmp") == []
    assert (world.root / "d/pipe").read_bytes() == b"by the user"
    assert set(world.private("history")) >= _CONTENTS
    assert any(path.is_fifo() for path in (world.root / ".dizzyd/history").iterdir())


async def test_F1_what_a_lost_database_left_in_tmp_goes_to_history(world: World) -> None:
    # Given a directory and a link that were taken, and no intent that tells of them
    tmp = world.root / ".dizzyd/tmp"
    (tmp / "displaced-tmp-1/inner/empty").mkdir(parents=True)
    (tmp / "displaced-tmp-1/inner/file").write_bytes(b"one")
    (tmp / "displaced-tmp-1/link").symlink_to("target")
    (tmp / "displaced-tmp-2").symlink_to("elsewhere")

    await world.restart()

    assert os.listdir(tmp) == []
    assert b"one" in world.private("history")
    kept = {(kept.row.kind, kept.row.value) for kept in world.journal.kept}
    assert kept == {
        (Kind.FILE, blob_hash(b"one")),
        (Kind.SYMLINK, b"target"),
        (Kind.SYMLINK, b"elsewhere"),
    }


async def test_E22_a_file_open_for_writing_in_a_directory_that_goes_is_watched(
    world: World,
) -> None:
    # Given a program that has a file open for writing
    await world.converge(_TREE)
    opened = os.open(world.root / "d/a", os.O_WRONLY)
    assert (await world.apply(_AFTER)).is_complete

    # When it writes nothing for long, and then does, and closes
    for _ in range(3):
        world.clock.ns += LOOK_AGAIN_NS
        assert await world.watch.look() == []
        assert len(world.journal.watching) == 1
    os.write(opened, b"late words")
    os.close(opened)
    world.clock.ns += LOOK_AGAIN_NS
    (displaced,) = await world.watch.look()

    # Then its bytes are a change of that file, served from history
    assert displaced.looked.value == blob_hash(b"late words")
    assert displaced.row.object_no == 2
    assert displaced.path == b"d/a"
    world.clock.ns += LOOK_AGAIN_NS
    assert await world.watch.look() == []
    assert world.journal.watching == {}


async def test_B9_nothing_outside_is_taken_through_a_link_planted_in_tmp(
    world: World, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "c").write_bytes(b"precious")
    await world.converge(_TREE)

    def plant() -> None:
        (taken,) = (world.root / ".dizzyd/tmp").iterdir()
        (taken / "s").rename(taken / "was")
        (taken / "s").symlink_to(outside)

    original = world.linux.list_taken
    planted: list[bytes] = []

    def list_taken(inner: bytes) -> object:
        listed = original(inner)
        if not planted:
            planted.append(inner)
            plant()
        return listed

    world.linux.list_taken = list_taken  # type: ignore[method-assign, assignment]
    await world.apply(_AFTER)

    assert (outside / "c").read_bytes() == b"precious"
    assert planted


async def test_E11_another_directory_taken_by_mistake_whose_name_is_taken_comes_back(
    world: World,
) -> None:
    await world.converge(_TREE)
    linux: Any = world.linux
    take_tree = linux.take_tree

    def while_names_change(path: bytes, keep_as: bytes) -> Stat:
        (world.root / "d").rename(world.root / "moved away")
        (world.root / "d").mkdir()
        (world.root / "d/mine").write_bytes(b"by the user")
        taken: Stat = take_tree(path, keep_as)
        (world.root / "d").mkdir()
        return taken

    linux.take_tree = while_names_change
    await world.apply(_AFTER)
    linux.take_tree = take_tree
    await world.restart()

    assert (world.root / "d/mine").read_bytes() == b"by the user"
    assert (world.root / "moved away/a").read_bytes() == b"one"
    assert list((world.root / ".dizzyd/tmp").iterdir()) == []


@pytest.mark.parametrize("is_below", [False, True])
async def test_F1_what_a_user_put_into_a_taken_directory_comes_back_beside_a_file_of_its_name(
    world: World, *, is_below: bool
) -> None:
    await world.converge(_TREE)
    linux: Any = world.linux
    take_tree = linux.take_tree

    def put_in_and_crash(path: bytes, keep_as: bytes) -> Stat:
        take_tree(path, keep_as)
        taken = world.root / ".dizzyd/tmp" / os.fsdecode(keep_as)
        (taken / "new").mkdir()
        (taken / "new/mine" if is_below else taken / "mine").write_bytes(b"by the user")
        raise Crash

    linux.take_tree = put_in_and_crash
    with pytest.raises(Crash):
        await world.apply(_AFTER)
    linux.take_tree = take_tree
    (world.root / "d").write_bytes(b"a file now")

    await world.restart()

    assert (world.root / "d").read_bytes() == b"a file now"
    assert b"by the user" in {p.read_bytes() for p in world.walk() if p.is_file()} | {
        *world.private("history")
    }
    assert world.journal.intents == {}
    assert list((world.root / ".dizzyd/tmp").iterdir()) == []


async def test_E11_who_removes_a_changed_file_from_a_taken_directory_stops_nothing(
    world: World,
) -> None:
    await world.converge(_TREE)
    linux: Any = world.linux
    take_tree, set_aside = linux.take_tree, linux.set_aside

    def change_first(path: bytes, keep_as: bytes) -> Stat:
        (world.root / "d/a").write_bytes(b"changed at once")
        taken: Stat = take_tree(path, keep_as)
        return taken

    def remove_first(inner: bytes, keep_as: bytes) -> Stat:
        linux.set_aside = set_aside
        (world.root / ".dizzyd/tmp" / os.fsdecode(inner)).unlink()
        aside: Stat = set_aside(inner, keep_as)
        return aside

    linux.take_tree, linux.set_aside = change_first, remove_first
    await world.apply(_AFTER)

    assert {b"two", b"three"} <= set(world.private("history"))
    assert list((world.root / ".dizzyd/tmp").iterdir()) == []
    assert world.journal.intents == {}
