from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from daemon import ahead, fs, portions
from daemon.apply import Applied
from daemon.contents import FolderContents
from daemon.core import ThreadRunner
from daemon.disk import DiskError, Stat
from daemon.displaced import LOOK_AGAIN_NS, Names, history_name, parse_history_name
from daemon.fs_abilities import Abilities
from daemon.fs_stage import LinuxStage
from daemon.outcomes import Agreed, Outcome, Reason, Watch, Why
from daemon.planner import plan
from store.ids import BlobHash, Kind, blob_hash
from store.records import BlobRef, Entry
from tests.daemon.applying import NOW_NS, Clock, Crash, World
from tests.daemon.planning import (
    CONTENTS,
    ROOT,
    directory_entry,
    file_entry,
    link_entry,
    listing_of,
    synced_as,
    trees,
)
from tests.daemon.working import eventually


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


_RANDOM = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@_RANDOM
@given(before=trees(), after=trees())
def test_P24_P29_applying_makes_the_disk_equal_to_the_view_and_then_rests(
    worlds: Callable[[], World], before: list[Entry], after: list[Entry]
) -> None:
    world = worlds()

    for view in (before, after):
        applied = asyncio.run(world.apply(view))
        assert applied == Applied(agreed=applied.agreed)

        assert world.listing() == listing_of(view)
        assert plan(view, list(world.journal.rows.values())).steps == ()
    assert world.journal.intents == {}
    assert world.private("tmp") == []


@_RANDOM
@given(before=trees(), after=trees(), number=st.integers(0, 80), done=st.booleans())
def test_P32_F1_a_crash_at_any_call_loses_nothing_and_convergence_follows(
    worlds: Callable[[], World], before: list[Entry], after: list[Entry], number: int, *, done: bool
) -> None:
    # Given a disk as one view wants it
    world = worlds()
    asyncio.run(world.converge(before))
    contents = world.all_contents()

    # When applying another view ends in the middle
    def crash() -> None:
        raise Crash

    start = world.faults.calls + number
    (world.faults.after if done else world.faults.before)[start] = crash
    try:
        asyncio.run(world.apply(after))
    except Crash:
        asyncio.run(world.restart())
    world.faults.heal()

    # Then nothing is lost or torn, and the rest follows
    assert contents <= world.all_contents()
    assert world.all_contents() <= {*CONTENTS}
    assert world.journal.intents == {}
    asyncio.run(world.converge(after))
    assert world.listing() == listing_of(after)
    assert contents <= world.all_contents()
    assert world.private("tmp") == []


@pytest.mark.parametrize("done", [False, True])
def test_P32_a_replaced_file_is_old_or_new_at_every_call(
    worlds: Callable[[], World], *, done: bool
) -> None:
    old, new = file_entry(1, ROOT, b"a", b"one"), file_entry(1, ROOT, b"a", b"two")
    number = 0
    while True:
        world = worlds()
        asyncio.run(world.converge([old]))

        def crash() -> None:
            raise Crash

        (world.faults.after if done else world.faults.before)[world.faults.calls + number] = crash
        try:
            asyncio.run(world.apply([new]))
        except Crash:
            assert (world.root / "a").read_bytes() in (b"one", b"two")
            asyncio.run(world.restart())
            assert (world.root / "a").read_bytes() in (b"one", b"two")
            asyncio.run(world.converge([new]))
            assert (world.root / "a").read_bytes() == b"two"
            assert b"one" in world.private("history")
            world.linux.close()
            number += 1
        else:
            assert number > 5
            return


def test_F6_a_crash_in_recovery_is_as_any_other(worlds: Callable[[], World]) -> None:
    def crash() -> None:
        raise Crash

    before = [file_entry(1, ROOT, b"a", b"one"), file_entry(2, ROOT, b"b", b"two")]
    after = [file_entry(1, ROOT, b"a", b"three")]
    for first in range(5, 20, 3):
        for second in range(1, 12, 2):
            world = worlds()
            asyncio.run(world.converge(before))
            world.faults.after[world.faults.calls + first] = crash
            try:
                asyncio.run(world.apply(after))
            except Crash:
                world.linux.close()
                world.open()
                world.faults.after[second] = crash
                try:
                    asyncio.run(world.applier.recover())
                except Crash:
                    asyncio.run(world.restart())
            world.faults.heal()
            asyncio.run(world.converge(after))
            assert world.listing() == listing_of(after)
            assert {b"one", b"two"} <= set(world.private("history"))
            world.linux.close()


Writer = Callable[[Path], None]


def _in_place(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"by the user")


def _atomically(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    beside = path.parent / "beside"
    beside.write_bytes(b"by the user")
    beside.rename(path)


def _appending(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        file.write(b"by the user")


_STORIES: dict[str, tuple[list[Entry], list[Entry]]] = {
    "new": ([], [file_entry(1, ROOT, b"a", b"two")]),
    "replaced": ([file_entry(1, ROOT, b"a", b"one")], [file_entry(1, ROOT, b"a", b"two")]),
    "removed": ([file_entry(1, ROOT, b"a", b"one")], []),
    "moved": ([file_entry(1, ROOT, b"b", b"one")], [file_entry(1, ROOT, b"a", b"one")]),
    "moved away": ([file_entry(1, ROOT, b"a", b"one")], [file_entry(1, ROOT, b"b", b"one")]),
    "touched": (
        [file_entry(1, ROOT, b"a", b"one")],
        [file_entry(1, ROOT, b"a", b"one", mode=1, mtime_ns=10**18 + 77)],
    ),
    "conflict": (
        [file_entry(1, ROOT, b"a", b"one")],
        [
            file_entry(1, ROOT, b"a", b"two"),
            file_entry(1, ROOT, b"a (conflict)", b"one", copy=b"c" * 32),
        ],
    ),
    "resolved": (
        [
            file_entry(1, ROOT, b"a", b"two"),
            file_entry(1, ROOT, b"a (conflict)", b"one", copy=b"c" * 32),
        ],
        [file_entry(1, ROOT, b"a", b"one")],
    ),
    "swapped": (
        [file_entry(1, ROOT, b"a", b"one"), file_entry(2, ROOT, b"b", b"two")],
        [file_entry(1, ROOT, b"b", b"one"), file_entry(2, ROOT, b"a", b"two")],
    ),
}


@pytest.mark.parametrize("write", [_in_place, _atomically, _appending])
@pytest.mark.parametrize("story", _STORIES)
def test_P31_E11_a_writer_at_any_call_loses_nothing(
    worlds: Callable[[], World], story: str, write: Writer
) -> None:
    before, after = _STORIES[story]
    number = 0
    while True:
        world = worlds()
        asyncio.run(world.converge(before))
        target = world.root / "a"
        world.faults.before[world.faults.calls + number] = partial(write, target)
        start = world.faults.calls
        asyncio.run(world.apply(after))
        if world.faults.calls <= start + number:
            return
        _assert_user_is_heard(world)
        assert world.journal.intents == {}
        world.linux.close()
        number += 1


def _assert_user_is_heard(world: World) -> None:
    """What the user wrote is a change already, or the next look at the tree will find it."""
    kept = [outcome.kept for outcome in world.journal.displaced]
    for name in kept:
        if (world.root / ".dizzyd/history" / os.fsdecode(name)).read_bytes().endswith(b"user"):
            return
    waiting = [
        watch.name
        for watch in world.journal.watching.values()
        if isinstance(watch, Watch) and not watch.is_in_history
    ]
    for name in waiting:
        if (world.root / ".dizzyd/tmp" / os.fsdecode(name)).read_bytes().endswith(b"user"):
            return
    rows = {world.journal.path_of_row(row): row for row in world.journal.rows.values()}
    for path in world.walk():
        if path.is_file() and path.read_bytes().endswith(b"by the user"):
            name = os.fsencode(path.relative_to(world.root))
            row, stat = rows.get(name), world.linux.stat(name)
            assert stat is not None
            differs = row is None or (stat.inode, stat.size, stat.mtime_ns, stat.ctime_ns) != (
                row.inode,
                row.size,
                row.mtime_ns,
                row.ctime_ns,
            )
            is_racy = row is not None and row.looked_at_ns - row.mtime_ns < 20_000_000
            assert differs or is_racy, "the scanner would believe synced"
            return
    raise AssertionError("the user's bytes are gone")


async def test_E11_a_file_that_changed_is_looked_at_before_it_is_replaced(world: World) -> None:
    await world.converge([file_entry(1, ROOT, b"a", b"one")])
    (world.root / "a").write_bytes(b"by the user")

    applied = await world.apply([file_entry(1, ROOT, b"a", b"two")])

    assert [(each.path, each.why) for each in applied.postponed] == [(b"a", Why.CHANGED_HERE)]
    assert (world.root / "a").read_bytes() == b"by the user"


async def test_bytes_that_changed_are_not_given_to_another_object(world: World) -> None:
    await world.converge([file_entry(1, ROOT, b"a", b"one")])
    (world.root / "a").write_bytes(b"by the user")

    applied = await world.apply([file_entry(2, ROOT, b"b", b"one")])

    assert Why.CHANGED_HERE in {each.why for each in applied.postponed}
    assert (world.root / "a").read_bytes() == b"by the user"


async def test_nothing_unknown_is_overwritten(world: World) -> None:
    (world.root / "a").write_bytes(b"unknown")

    applied = await world.apply(
        [file_entry(1, ROOT, b"a", b"two"), file_entry(2, ROOT, b"b", b"one")]
    )

    assert [(each.path, each.why) for each in applied.postponed] == [(b"a", Why.TAKEN)]
    assert (world.root / "a").read_bytes() == b"unknown"
    assert (world.root / "b").read_bytes() == b"one"


async def test_a_file_is_not_put_into_another_directory_of_the_name(world: World) -> None:
    await world.converge([directory_entry(1, ROOT, b"d")])
    (world.root / "d").rename(world.root / "elsewhere")
    (world.root / "d").mkdir()

    applied = await world.apply([directory_entry(1, ROOT, b"d"), file_entry(2, 1, b"f", b"one")])

    assert [postponed.why for postponed in applied.postponed] == [Why.MISSING_HERE]
    assert not (world.root / "d" / "f").exists()
    assert not (world.root / "elsewhere" / "f").exists()


async def test_E22_a_file_open_for_writing_waits(world: World) -> None:
    await world.converge([file_entry(1, ROOT, b"a", b"one")])

    with (world.root / "a").open("r+b"):
        applied = await world.apply([file_entry(1, ROOT, b"a", b"two")])

    assert [each.why for each in applied.postponed] == [Why.BEING_WRITTEN]
    await world.converge([file_entry(1, ROOT, b"a", b"two")])


async def test_E22_a_displaced_file_is_watched_while_somebody_writes_to_it(world: World) -> None:
    # Given a program that opened the file just before it was displaced
    await world.converge([file_entry(1, ROOT, b"a", b"one")])
    opened: list[int] = []
    name = "place_over"
    original = world.linux.place_over

    def place_over(*args: object) -> object:
        opened.append(os.open(world.root / "a", os.O_WRONLY))
        return original(*args)  # type: ignore[arg-type]

    setattr(world.linux, name, place_over)
    applied = await world.apply([file_entry(1, ROOT, b"a", b"two")])
    assert applied.is_complete

    # When it writes later and then closes
    os.write(opened[0], b"late words")
    world.clock.ns += LOOK_AGAIN_NS
    assert await world.watch.look() == []
    os.close(opened[0])
    world.clock.ns += LOOK_AGAIN_NS
    (displaced,) = await world.watch.look()

    # Then its bytes are a change, served from history
    assert displaced.looked.value == blob_hash(b"late words")
    assert displaced.row.value == blob_hash(b"one")
    assert b"late words" in world.private("history")
    world.clock.ns += LOOK_AGAIN_NS
    assert await world.watch.look() == []
    assert world.journal.watching == {}


async def test_a_late_write_into_history_is_found_after_ten_seconds(world: World) -> None:
    await world.converge([file_entry(1, ROOT, b"a", b"one")])
    await world.apply([file_entry(1, ROOT, b"a", b"two")])
    (kept,) = (world.root / ".dizzyd/history").iterdir()

    kept.write_bytes(b"through a mapping")
    world.clock.ns += LOOK_AGAIN_NS
    (displaced,) = await world.watch.look()

    assert displaced.looked.value == blob_hash(b"through a mapping")


async def test_a_late_write_into_history_is_found_although_the_clock_went_back(
    world: World,
) -> None:
    await world.converge([file_entry(1, ROOT, b"a", b"one")])
    await world.apply([file_entry(1, ROOT, b"a", b"two")])
    (kept,) = (world.root / ".dizzyd/history").iterdir()

    kept.write_bytes(b"through a mapping")
    world.clock.ns -= 365 * 86_400 * 10**9
    (displaced,) = await world.watch.look()

    assert displaced.looked.value == blob_hash(b"through a mapping")


async def test_what_is_replaced_or_removed_is_kept_under_a_telling_name(world: World) -> None:
    await world.converge([file_entry(7, ROOT, b"notes.txt", b"one")])
    await world.converge([file_entry(7, ROOT, b"notes.txt", b"two")])
    await world.converge([])

    names = sorted(p.name.encode() for p in (world.root / ".dizzyd/history").iterdir())

    told = [parse_history_name(name) for name in names]
    assert [each.hash for each in told if each] == [blob_hash(b"one"), blob_hash(b"two")]
    assert {each.object_no for each in told if each} == {7}
    assert {each.name for each in told if each} == {b"notes.txt"}
    assert len(world.journal.kept) == 2


def test_B2_a_history_name_fits_and_sorts_by_time() -> None:
    row = synced_as(file_entry(7, ROOT, b"n" * 251 + b".txt"))

    names = [history_name(at, row) for at in (9, 10**18, 10**18 + 1, 2 * 10**18)]

    assert all(len(name) == 255 and name.endswith(b".txt") for name in names)
    assert names == sorted(names)
    assert parse_history_name(names[2]) is not None
    assert parse_history_name(b"holiday.jpg") is None


async def test_a_directory_with_ignored_names_stays_as_a_leftover(world: World) -> None:
    home, inner = directory_entry(1, ROOT, b"d"), file_entry(2, 1, b"f")
    await world.converge([home, inner])
    (world.root / "d/cache").mkdir()
    world.ignored.add(b"cache")

    (applied,) = await world.converge([])

    assert applied.is_complete
    assert world.journal.rows[1, b""].leftover
    assert (world.root / "d/cache").is_dir()
    # and a directory of that name takes it over
    await world.converge([directory_entry(3, ROOT, b"d")])
    assert set(world.journal.rows) == {(3, b"")}


async def test_a_directory_that_holds_something_new_is_looked_at_first(world: World) -> None:
    await world.converge([directory_entry(1, ROOT, b"d")])
    (world.root / "d/new").write_bytes(b"by the user")

    applied = await world.apply([])

    assert [(each.path, each.why) for each in applied.postponed] == [(b"d/new", Why.NOT_EMPTY)]
    assert not world.journal.rows[1, b""].leftover


async def test_P26_a_directory_with_many_files_is_moved_by_one_rename(world: World) -> None:
    home = directory_entry(1, ROOT, b"d")
    inner = [file_entry(10 + n, 1, b"f%d" % n) for n in range(50)]
    await world.converge([home, *inner])
    world.faults.names.clear()

    await world.converge([replace(home, name=b"e"), *inner])

    assert world.faults.names.count("move") == 1
    assert not {"place_each", "place_over", "take_away"} & set(world.faults.names)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, Reason.DISK_FULL),
        (errno.EDQUOT, Reason.DISK_FULL),
        (errno.EROFS, Reason.READ_ONLY),
        (errno.EACCES, Reason.FORBIDDEN),
        (errno.EIO, Reason.DISK_ERROR),
    ],
)
@pytest.mark.parametrize("call", ["stage_many", "sync", "place_each", "place_over", "take_away"])
async def test_E1_E3_E4_E6_a_fault_commits_nothing_and_the_rest_goes_on(
    world: World, call: str, number: int, reason: Reason
) -> None:
    before = [file_entry(1, ROOT, b"a", b"one"), file_entry(2, ROOT, b"b", b"one")]
    after = [file_entry(1, ROOT, b"a", b"two"), file_entry(3, ROOT, b"c", b"three")]
    await world.converge(before)
    original = getattr(world.linux, call)

    def fail(*_: object) -> None:
        raise DiskError("write", os.strerror(number), errno=number)

    setattr(world.linux, call, fail)
    applied = await world.apply(after)

    assert applied.failed
    assert {each.reason for each in applied.failed} == {reason}
    assert all(each.remedy for each in applied.failed)
    setattr(world.linux, call, original)
    await world.converge(after)
    assert world.listing() == listing_of(after)
    assert b"one" in world.private("history")


async def test_E6_a_failed_sync_fails_the_round_that_was_staged_meanwhile(world: World) -> None:
    # Given a sync that takes so long that the next round is staged before it fails
    files = [file_entry(n, ROOT, b"%d" % n, b"one") for n in range(1, 600)]
    original, calls = world.linux.sync, 0
    run = world.runner.run

    async def slow(fn: Callable[..., object], *args: object) -> object:
        for _ in range(20 if fn.__name__ == "sync" else 0):
            await asyncio.sleep(0)
        return await run(fn, *args)

    def sync() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise DiskError("sync", "input/output error", errno=errno.EIO)
        original()

    name = "sync"
    setattr(world.linux, name, sync)
    name = "run"
    setattr(world.runner, name, slow)

    applied = await world.apply(files)

    committed = {key[0] for key in world.journal.rows}
    assert {n for each in applied.failed for n in each.object_nos} == set(range(1, 600)) - committed
    assert not committed & set(range(1, 513))


async def test_E6_a_failed_sync_of_a_recovery_counts_for_what_others_staged(world: World) -> None:
    """The kernel tells a lost write once: the next sync would call the staged bytes durable."""

    def sync() -> None:
        raise DiskError("sync", "input/output error", errno=errno.EIO)

    name = "sync"
    setattr(world.linux, name, sync)

    with pytest.raises(DiskError):
        await world.applier.recover()

    assert world.applier.damages == 1


async def test_an_error_behind_a_swap_leaves_nothing_that_a_look_takes_for_a_users_act(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = file_entry(1, ROOT, b"a", b"one"), file_entry(2, ROOT, b"b", b"two")
    await world.converge([one, two])
    swap = world.linux.swap

    def swap_and_fail(path: bytes, other: bytes) -> None:
        swap(path, other)
        raise DiskError("stat", os.strerror(errno.EIO), errno=errno.EIO)

    monkeypatch.setattr(world.faults, "swap", swap_and_fail, raising=False)

    applied = await world.apply([replace(one, name=b"b"), replace(two, name=b"a")])

    assert applied.failed
    assert (world.root / "a").read_bytes() == b"two"
    assert {row.name: row.object_no for row in world.journal.rows.values() if row.name} == {
        b"b": 1,
        b"a": 2,
    }
    assert not world.applier.is_busy(b"a")


class StandingClock(Clock):
    def now_ns(self) -> int:
        return NOW_NS


def test_two_folders_draw_no_name_twice_although_the_clock_stands() -> None:
    """Their rows are named by it in one table: the second would replace the first."""
    names = Names(StandingClock())

    spans = [names.moments_ns(count) for count in (1, 1000, 1)]

    assert spans == [NOW_NS, NOW_NS + 1, NOW_NS + 1001]


async def test_a_directory_that_may_not_be_searched_keeps_nothing_else_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, one = directory_entry(3, ROOT, b"d"), file_entry(1, 3, b"a", b"one")
    other = file_entry(2, ROOT, b"b", b"two")
    await world.converge([directory, one, other])
    stat = world.linux.stat

    def refuse(path: bytes) -> Stat | None:
        if path == b"d/a":
            raise DiskError("stat", os.strerror(errno.EACCES), errno=errno.EACCES)
        return stat(path)

    monkeypatch.setattr(world.faults, "stat", refuse, raising=False)

    for content in (b"one", b"two"):
        applied = await world.apply([directory, file_entry(2, ROOT, b"b", content)])

        assert [failed.path for failed in applied.failed] == [b"d/a"]
        assert (world.root / "b").read_bytes() == content
    assert world.journal.intents == {}


@pytest.mark.parametrize("crashes", [False, True])
async def test_what_was_put_where_a_file_was_about_to_come_is_no_edit_of_that_one(
    world: World, monkeypatch: pytest.MonkeyPatch, *, crashes: bool
) -> None:
    # Given a disk without EXCHANGE, and somebody who puts a file where ours is about to come
    bare = Abilities(openat2=False, tmpfile=False, noreplace=False, exchange=False)
    monkeypatch.setattr(fs, "find_abilities", lambda *_: bare)
    await world.restart()
    await world.converge([file_entry(1, ROOT, b"a", b"one")])
    place, commit = LinuxStage.place, world.journal.commit

    def be_quicker(*args: Any) -> Any:
        (world.root / "a").write_bytes(b"a user's")
        return place(*args)

    async def end(outcomes: Sequence[Outcome]) -> None:
        monkeypatch.setattr(world.journal, "commit", commit)
        raise Crash

    monkeypatch.setattr(LinuxStage, "place", be_quicker)
    if crashes:
        monkeypatch.setattr(world.journal, "commit", end)

    with suppress(Crash):
        await world.apply([file_entry(1, ROOT, b"a", b"two")])
    if crashes:
        await world.restart()

    # Then synced says nothing of it: it is an edit of neither version; nothing waits in tmp
    assert (world.root / "a").read_bytes() == b"a user's"
    assert world.journal.rows == {}
    assert world.journal.intents == {}
    assert (world.private("tmp"), world.private("history")) == ([], [b"one"])


async def test_what_a_failed_sync_left_is_seen_to_at_once_or_with_the_next_try(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = file_entry(1, ROOT, b"a", b"one"), file_entry(1, ROOT, b"a", b"two")
    await world.converge([one])
    sync, fails = world.linux.sync, [False, True, True, True]  # the first is that of the content

    def fail() -> None:
        if fails and fails.pop(0):
            raise DiskError("sync", os.strerror(errno.EIO), errno=errno.EIO)
        sync()

    monkeypatch.setattr(world.faults, "sync", fail, raising=False)

    for _ in range(2):
        applied = await world.apply([two])

        assert applied.failed
        assert world.applier.is_in_doubt
        assert world.applier.is_busy(b"a")
    applied = await world.apply([two])

    assert not applied.failed
    assert not world.applier.is_in_doubt
    assert world.journal.rows[1, b""].value == blob_hash(b"two")
    assert not world.applier.is_busy(b"a")


async def test_what_recovery_found_in_the_middle_of_work_is_planned_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, fails = world.linux.sync_directories, [True]

    def fail(paths: Sequence[bytes]) -> None:
        if fails and fails.pop():
            raise DiskError("sync", os.strerror(errno.EACCES), errno=errno.EACCES)
        sync(paths)

    monkeypatch.setattr(world.faults, "sync_directories", fail, raising=False)

    # Given a directory whose making failed for once, and that recovery finds made
    applied = await world.apply([directory_entry(7, ROOT, b"d")])

    # Then who plans is told, also if the view wants no directory by then
    assert world.journal.rows[7, b""].name == b"d"
    assert [postponed.object_nos for postponed in applied.postponed] == [(7,)]


async def test_content_that_nobody_has_waits_alone(world: World) -> None:
    files = [file_entry(1, ROOT, b"a", b"unheard of"), file_entry(2, ROOT, b"b", b"one")]

    applied = await world.apply(files)

    assert [(each.path, each.why) for each in applied.postponed] == [(b"a", Why.CONTENT_AWAY)]
    assert (world.root / "b").read_bytes() == b"one"


async def test_a_large_file_does_not_delay_small_ones_and_is_superseded(world: World) -> None:
    # Given a large download that takes its time
    big = b"large" * 300_000
    world.blobs.contents[blob_hash(big)] = big
    world.blobs.large_gate = asyncio.Event()
    large = file_entry(1, ROOT, b"large", big)
    first = asyncio.create_task(world.apply([large, file_entry(2, ROOT, b"b", b"one")]))
    while not (world.root / "b").exists():
        await asyncio.sleep(0)

    # When a newer plan wants the object elsewhere and small
    second = await world.apply([replace(file_entry(1, ROOT, b"c", b"two"))])
    world.blobs.large_gate.set()
    await first

    # Then the older one does not come through
    assert second.is_complete
    assert not (world.root / "large").exists()
    assert (world.root / "c").read_bytes() == b"two"


async def test_a_plan_that_was_made_earlier_and_runs_later_supersedes_nothing(
    world: World,
) -> None:
    """Large contents run beside the rest: the next plan may run before their task does."""
    old, new = b"older" * 300_000, b"newer" * 300_000
    world.blobs.contents.update({blob_hash(old): old, blob_hash(new): new})
    world.blobs.large_gate = asyncio.Event()
    older = world.plan([file_entry(1, ROOT, b"a", old)])
    number = world.applier.begin(older)

    second = asyncio.create_task(world.apply([file_entry(1, ROOT, b"a", new)]))
    await asyncio.sleep(0)
    first = asyncio.create_task(world.applier.apply(older, number))
    await asyncio.sleep(0)
    world.blobs.large_gate.set()
    await asyncio.gather(first, second)

    assert (world.root / "a").read_bytes() == new


async def test_large_files_of_equal_bytes_arrive_both(world: World) -> None:
    big = b"large" * 300_000
    world.blobs.contents[blob_hash(big)] = big
    view = [file_entry(1, ROOT, b"a", big), file_entry(2, ROOT, b"b", big)]

    await world.converge(view)

    assert world.listing() == listing_of(view)


async def test_F7_downloads_that_nobody_wants_are_removed_at_start(world: World) -> None:
    stage = world.linux.open_stage(b"fetch-tmp-%b-0" % blob_hash(b"gone").hex().encode())
    stage.write(0, b"half")
    stage.close()

    await world.applier.recover(lambda _hash: True)
    assert world.private("tmp") == [b"half"]
    await world.applier.recover(lambda _hash: False)

    assert world.private("tmp") == []


async def test_P38_B8_B9_nothing_is_written_through_a_planted_link(
    world: World, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    home = directory_entry(1, ROOT, b"d")
    await world.converge([home])
    (world.root / "d").rmdir()
    (world.root / "d").symlink_to(outside)

    below = [file_entry(2, 1, b"x", b"one"), link_entry(3, 1, b"l", b"x")]
    applied = await world.apply([home, *below])

    assert list(outside.iterdir()) == []
    assert not applied.is_complete


async def test_executable_bit_and_time_are_set_without_touching_content(world: World) -> None:
    entry = file_entry(1, ROOT, b"a", b"one")
    await world.converge([entry])
    inode = (world.root / "a").stat().st_ino

    await world.converge([replace(entry, mode=1, mtime_ns=1_500_000_000_123_456_789)])

    stat = (world.root / "a").stat()
    assert (stat.st_ino, stat.st_mode & 0o111) == (inode, 0o111)
    assert stat.st_mtime_ns == 1_500_000_000_123_456_789


async def test_equal_files_of_one_name_are_one_file_with_two_rows(world: World) -> None:
    one = file_entry(1, ROOT, b"a", b"one")
    view = [one, replace(one, object_no=2, collapsed=True)]

    await world.converge(view)

    assert {row.inode for row in world.journal.rows.values()} == {(world.root / "a").stat().st_ino}
    assert set(world.journal.rows) == {(1, b""), (2, b"")}
    await world.converge([replace(view[1], collapsed=False)])
    assert set(world.journal.rows) == {(2, b"")}
    assert world.private("history") == []


async def test_busy_paths_are_told_only_while_they_are_touched(world: World) -> None:
    seen = []
    original = world.linux.place_each

    def place_each(*args: object) -> object:
        seen.append(world.applier.is_busy(b"d/a") and not world.applier.is_busy(b"e"))
        return original(*args)  # type: ignore[arg-type]

    name = "place_each"
    setattr(world.linux, name, place_each)

    await world.converge([directory_entry(1, ROOT, b"d"), file_entry(2, 1, b"a", b"one")])

    assert seen == [True]
    assert not world.applier.is_busy(b"d/a")


async def test_twenty_thousand_new_files_cost_little_beyond_the_disk(world: World) -> None:
    files = [file_entry(n, ROOT, b"%d" % n, b"one") for n in range(1, 5001)]
    made = plan(files, [])
    in_disk = 0.0
    for name in ("stage_many", "sync", "place_each", "sync_directories", "stat"):
        original = getattr(world.linux, name)

        def timed(*args: object, _call: Callable[..., object] = original) -> object:
            nonlocal in_disk
            begun = time.thread_time()
            try:
                return _call(*args)
            finally:
                in_disk += time.thread_time() - begun

        setattr(world.linux, name, timed)

    begun = time.thread_time()
    applied = await world.applier.apply(made)
    spent_us = (time.thread_time() - begun - in_disk) / len(files) * 1e6

    assert applied.is_complete
    assert len(world.journal.rows) == 5000
    assert Kind.FILE in {row.kind for row in world.journal.rows.values()}
    assert spent_us < 100


def _in_rounds_of_two(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note in which order names are made, synced and committed."""
    monkeypatch.setattr(portions, "ROUND_FILES", 2)
    told: list[str] = []
    for name in ("place_each", "sync", "sync_directories"):
        original = getattr(world.linux, name)

        def noted(*args: Any, _call: Any = original, _name: str = name) -> object:
            if _name == "place_each":
                told.extend("placed " + os.fsdecode(path) for _, path in args[0])
            else:
                told.append("synced")
            return _call(*args)

        setattr(world.linux, name, noted)
    commit = world.journal.commit

    async def noted_commit(outcomes: Sequence[Outcome]) -> None:
        rows = [row for each in outcomes if isinstance(each, Agreed) for row in each.rows]
        told.extend("committed " + os.fsdecode(row.name) for row in rows)
        await commit(outcomes)

    monkeypatch.setattr(world.journal, "commit", noted_commit)
    return told


async def test_a_round_is_committed_after_a_sync_that_came_after_its_names(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = _in_rounds_of_two(world, monkeypatch)
    files = [file_entry(number, ROOT, b"f%d" % number, b"one") for number in range(1, 10)]

    assert (await world.apply(files)).is_complete

    for entry in files:
        name = os.fsdecode(entry.name)
        placed, committed = told.index(f"placed {name}"), told.index(f"committed {name}")
        assert "synced" in told[placed:committed]
        assert "synced" in told[:placed], "its bytes come before its name"
    assert told.count("synced") <= 6, "one sync serves the names of a round and the next one's data"
    assert not world.applier.is_busy(b"f1")


async def test_while_a_sync_goes_on_a_few_more_rounds_are_staged_and_share_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a disk whose second sync takes long
    told = _in_rounds_of_two(world, monkeypatch)
    monkeypatch.setattr(ahead, "STAGED_AHEAD", 3)
    files = [file_entry(number, ROOT, b"f%d" % number, b"one") for number in range(1, 25)]
    run = world.runner.run
    staged: list[int] = []
    syncs = 0

    async def slow(fn: Callable[..., object], *args: object) -> object:
        nonlocal syncs
        if fn.__name__ == "sync":
            syncs += 1
            for _ in range(500 if syncs == 2 else 0):
                await asyncio.sleep(0)
            staged.append(len(world.linux._shop.open_stages))
        return await run(fn, *args)

    monkeypatch.setattr(world.runner, "run", slow)

    assert (await world.apply(files)).is_complete

    assert staged[1] in (8, 10), "it and three rounds of two, and perhaps one still on its way"
    assert told.count("synced") <= 8
    assert max(staged) <= 10
    assert set(world.journal.rows) == {(number, b"") for number in range(1, 25)}


async def test_E6_a_failed_sync_fails_the_round_whose_names_it_was_to_make_durable(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = _in_rounds_of_two(world, monkeypatch)
    files = [file_entry(number, ROOT, b"f%d" % number, b"one") for number in range(1, 7)]
    original = world.linux.sync
    count = 0

    def sync() -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise DiskError("make durable", "lost", errno=errno.EIO)
        original()

    world.linux.sync = sync  # type: ignore[method-assign]

    applied = await world.apply(files)

    failed = {no for each in applied.failed for no in each.object_nos}
    assert {1, 2, 3, 4} <= failed
    if "committed f1" in told:  # by recovery
        assert "synced" in told[told.index("placed f1") : told.index("committed f1")]
    await world.converge(files)
    assert set(world.journal.rows) == {(number, b"") for number in range(1, 7)}


async def test_F1_an_apply_that_is_stopped_closes_no_file_that_a_thread_puts_in_place(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of a closed descriptor is the next file's: that one would get the name."""
    threads = ThreadRunner("test", 2)
    begun, may_go_on = threading.Event(), threading.Event()
    place_each = world.linux.place_each
    were_open: list[bool] = []

    def slowly(pairs: Any) -> Any:
        begun.set()
        may_go_on.wait(10)
        were_open.extend(stage.is_open() for stage, _ in pairs)
        return place_each(pairs)

    monkeypatch.setattr(world.linux, "place_each", slowly)
    monkeypatch.setattr(world.runner, "run", threads.run)
    applying = asyncio.create_task(world.apply([file_entry(1, ROOT, b"f", b"one")]))
    await eventually(begun.is_set)

    applying.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
        await threads.run(lambda: None)
    may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await applying

    assert were_open == [True]
    threads.close()


async def test_a_local_copy_that_is_stopped_ends_before_its_stage_is_closed(
    world: World,
) -> None:
    threads = ThreadRunner("test", 2)
    begun, may_go_on = threading.Event(), threading.Event()
    ref = BlobRef(hash=blob_hash(b"one"), size=3)
    stage = world.linux.open_stage(b"fetch-tmp-one", 3)

    class Here:
        def read(self, *_where: object) -> bytes:
            begun.set()
            may_go_on.wait(10)
            return b"one"

    class Places:
        async def find(self, *_asked: object) -> dict[BlobHash, list[Here]]:
            return {ref.hash: [Here()]}

    unused: Any = None
    places: Any = Places()
    contents = FolderContents(
        places=places,
        pool=threads,
        disk=world.linux,
        folder_no=1,
        folder=unused,
        fetcher=unused,
    )
    copying = asyncio.create_task(contents.large(ref, stage, None))
    await eventually(begun.is_set)

    copying.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not copying.done(), "its owner closes the stage then"
    may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await copying

    assert stage.read(0, 3) == b"one"
    stage.close()
    threads.close()


async def test_F1_an_apply_that_is_stopped_between_names_and_commit_is_recovered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _in_rounds_of_two(world, monkeypatch)
    before = [file_entry(number, ROOT, b"f%d" % number, b"one") for number in range(1, 7)]
    after = [file_entry(number, ROOT, b"f%d" % number, b"two") for number in range(1, 7)]
    await world.converge(before)
    original = world.linux.sync
    count = 0

    def sync() -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise asyncio.CancelledError
        original()

    world.linux.sync = sync  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await world.apply(after)
    assert world.journal.intents != {}

    await world.converge(after)

    assert world.journal.intents == {}
    assert world.listing() == listing_of(after)
    assert world.private("history").count(b"one") == 6


async def test_F7_a_displaced_file_whose_intent_is_lost_is_kept(world: World) -> None:
    (world.root / ".dizzyd/tmp/displaced-tmp-17").write_bytes(b"of somebody")

    await world.restart()

    assert world.private("tmp") == []
    assert world.private("history") == [b"of somebody"]


async def test_F7_a_download_of_what_was_superseded_is_removed_once_all_is_applied(
    world: World,
) -> None:
    left = world.root / ".dizzyd/tmp" / f"fetch-tmp-{'ab' * 32}-0"
    left.write_bytes(b"half of it")
    await world.restart()
    assert left.exists(), "what is to be resumed is not known yet"

    await world.applier.forget_downloads()
    assert not left.exists()
