"""See that what came where nothing stood is known after a crash, whatever became of the view."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from daemon import portions
from daemon.disk import DiskError
from daemon.outcomes import Begun, Outcome
from store.ids import Kind
from store.records import Entry
from tests.daemon.applying import Crash, World
from tests.daemon.planning import ROOT, directory_entry, file_entry, link_entry

DIRECTORY = directory_entry(7, ROOT, b"d")
FILES = [file_entry(1, 7, b"a", b"one"), file_entry(2, ROOT, b"empty", b"")]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "folder")
    yield made
    made.linux.close()


def _end_at(world: World, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process end before this call of the disk."""

    def end(*_: object) -> None:
        raise Crash

    monkeypatch.setattr(world.faults, call, end, raising=False)


async def _crash(world: World, wanted: Sequence[Entry]) -> None:
    with suppress(Crash):
        await world.apply(wanted)
    assert world.journal.intents != {}
    await world.restart()
    assert world.journal.intents == {}


async def test_F1_new_files_that_a_crash_left_in_place_are_known(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.converge([DIRECTORY])
    _end_at(world, "sync_directories", monkeypatch)

    await _crash(world, [DIRECTORY, *FILES])

    inodes = {row.object_no: row.inode for row in world.journal.rows.values()}
    paths = {7: "d", 1: "d/a", 2: "empty"}
    assert inodes == {no: (world.root / path).stat().st_ino for no, path in paths.items()}


async def test_F1_a_new_link_in_a_new_directory_that_a_crash_left_in_place_is_known(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _end_at(world, "sync_directories", monkeypatch)

    await _crash(world, [DIRECTORY, link_entry(3, 7, b"link", b"a")])

    known = {row.object_no: row.kind for row in world.journal.rows.values()}
    assert known == {7: Kind.DIRECTORY, 3: Kind.SYMLINK}


async def test_F1_what_had_not_come_when_the_crash_came_is_not_taken_for_deleted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _end_at(world, "place_each", monkeypatch)

    await _crash(world, FILES[1:])

    assert world.journal.rows == {}


async def test_F1_what_somebody_put_where_a_file_was_about_to_come_is_theirs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _end_at(world, "place_each", monkeypatch)
    with suppress(Crash):
        await world.apply([file_entry(1, ROOT, b"a", b"one")])
    (world.root / "a").write_bytes(b"a user's")

    await world.restart()

    assert world.journal.rows == {}
    assert (world.root / "a").read_bytes() == b"a user's"


async def test_what_three_failing_calls_left_in_place_is_no_file_of_a_user(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DiskError("sync", os.strerror(errno.EIO), errno=errno.EIO)

    # Given a new file whose names cannot be synced, and two recoveries that fail
    here = [file_entry(1, ROOT, b"copy", b"one")]
    elsewhere = [file_entry(1, ROOT, b"plain", b"one")]
    for call in ("sync_directories", "list_stages"):
        monkeypatch.setattr(world.faults, call, fail, raising=False)
    await world.apply(here)
    assert (await world.apply(here)).failed
    monkeypatch.undo()

    # When the view wants it elsewhere by then
    await world.apply(elsewhere)

    # Then it is that one file, and it goes there
    assert world.journal.rows[1, b""].name == b"copy"
    assert (await world.apply(elsewhere)).is_complete
    assert [path.name for path in world.walk()] == ["plain"]


async def test_a_round_and_the_intent_of_the_next_are_one_transaction(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portions, "ROUND_FILES", 2)
    told: list[str] = []
    begin, commit = world.journal.begin, world.journal.commit

    async def noted_begin(intents: Sequence[object]) -> None:
        told.append(f"begin {len(intents)}")
        await begin(intents)  # type: ignore[arg-type]

    async def noted_commit(outcomes: Sequence[Outcome]) -> None:
        told.append(f"commit and {sum(isinstance(each, Begun) for each in outcomes)}")
        await commit(outcomes)

    monkeypatch.setattr(world.journal, "begin", noted_begin)
    monkeypatch.setattr(world.journal, "commit", noted_commit)

    files = [file_entry(number, ROOT, b"f%d" % number, b"one") for number in range(9)]

    assert (await world.apply(files)).is_complete

    assert told[0] == "begin 1"
    assert told[-1] == "commit and 0"
    assert "commit and 1" in told
    assert world.journal.intents == {}
