"""Two names change places where the file system has no EXCHANGE: by three renames over tmp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon.applying import Crash, World
from tests.daemon.planning import ROOT, directory_entry, file_entry, listing_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from store.records import Entry

_FILES: tuple[list[Entry], list[Entry]] = (
    [file_entry(1, ROOT, b"a", b"one"), file_entry(2, ROOT, b"b", b"two")],
    [file_entry(1, ROOT, b"b", b"one"), file_entry(2, ROOT, b"a", b"two")],
)
_DIRECTORIES: tuple[list[Entry], list[Entry]] = (
    [
        directory_entry(1, ROOT, b"a"),
        directory_entry(2, ROOT, b"b"),
        file_entry(3, 1, b"f", b"one"),
        file_entry(4, 2, b"g", b"two"),
    ],
    [
        directory_entry(1, ROOT, b"b"),
        directory_entry(2, ROOT, b"a"),
        file_entry(3, 1, b"f", b"one"),
        file_entry(4, 2, b"g", b"two"),
    ],
)
_STORIES = {"files": _FILES, "directories": _DIRECTORIES}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "folder")
    yield made
    made.linux.close()


def _without_exchange(world: World, number: int, act: Callable[[], None]) -> None:
    """Let something happen before one rename of the swap; 3 is after the last."""
    names: Any = world.linux._names
    shop: Any = world.linux._shop
    names._has_exchange = False
    rename, swap = shop.rename, names._swap_by_three
    count = 0

    def counted(*arguments: Any) -> None:
        nonlocal count
        if count == number or (count > number and act is _crash):
            count += 1  # a process that ended does not tidy up
            act()
        count += 1
        rename(*arguments)

    def watched(*arguments: Any) -> None:
        shop.rename = counted
        try:
            swap(*arguments)
        finally:
            shop.rename = rename
        if number == 3:
            act()

    names._swap_by_three = watched


def _assert_nothing_is_missing(world: World) -> None:
    """The next look finds everything that synced has, so that nothing is taken for deleted."""
    for row in world.journal.rows.values():
        path = world.journal.path_of_row(row)
        stat = None if path is None else world.linux.stat(path)
        assert stat is not None, f"{row.name!r} would be recorded as deleted"
        assert stat.inode == row.inode


def _crash() -> None:
    raise Crash


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("story", _STORIES)
async def test_F1_a_crash_between_the_renames_of_a_swap_deletes_nothing(
    world: World, story: str, number: int
) -> None:
    before, after = _STORIES[story]
    await world.converge(before)
    _without_exchange(world, number, _crash)

    with pytest.raises(Crash):
        await world.apply(after)
    await world.restart()

    _assert_nothing_is_missing(world)
    assert world.private("tmp") == []
    await world.converge(after)
    assert world.listing() == listing_of(after)


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("number", range(1, 3))
@pytest.mark.parametrize("story", _STORIES)
async def test_E11_who_takes_a_name_between_the_renames_of_a_swap_deletes_nothing(
    world: World, story: str, number: int, name: str
) -> None:
    before, after = _STORIES[story]
    await world.converge(before)

    def take() -> None:
        if not (world.root / name).exists():
            (world.root / name).write_bytes(b"by the user")

    _without_exchange(world, number, take)
    await world.apply(after)
    await world.restart()

    _assert_nothing_is_missing(world)
    assert {b"one", b"two"} <= {p.read_bytes() for p in world.walk() if p.is_file()}
    if (world.root / name).is_file() and (world.root / name).read_bytes() == b"by the user":
        (world.root / name).unlink()
    await world.converge(after)
    assert world.listing() == listing_of(after)
