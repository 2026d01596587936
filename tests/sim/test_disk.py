"""Show what the disk in memory adds to the contract: power cuts, faults, instants, hints."""

from __future__ import annotations

import asyncio
import errno
import itertools
from random import Random
from typing import TYPE_CHECKING

import pytest

from daemon.disk import DiskError, LookFailure, NewFile
from daemon.hints import Hint, HintKind
from tests.sim.disk import MemoryDisk, MemoryWatcher, Outside
from tests.sim.files import Files
from tests.sim.loop import Clock, Crashed, VirtualLoop, run

if TYPE_CHECKING:
    from collections.abc import Callable

SEEDS = range(200)


def made(*, has_exchange: bool = True) -> tuple[MemoryDisk, Outside]:
    ticks = itertools.count(10**18, 5_000_000)
    files = Files(lambda: next(ticks))
    return MemoryDisk(files, has_exchange=has_exchange), Outside(files)


def after_cut(prepare: Callable[[MemoryDisk, Outside], object], seed: int) -> Outside:
    disk, outside = made()
    disk.sync()
    prepare(disk, outside)
    disk.crash(Random(seed))
    return outside


def outcomes(
    prepare: Callable[[MemoryDisk, Outside], object],
) -> set[tuple[tuple[bytes, bytes], ...]]:
    """Give every tree that a power cut was seen to leave, as sorted paths with contents."""
    trees = (after_cut(prepare, seed).tree() for seed in SEEDS)
    return {tuple(sorted((path, value) for path, (_, value, _) in tree.items())) for tree in trees}


# -- power cuts ----------------------------------------------------------------------------------


def test_what_was_synced_survives_every_power_cut() -> None:
    def prepare(disk: MemoryDisk, outside: Outside) -> None:
        outside.mkdirs(b"d/e")
        outside.write(b"d/e/f", b"content")
        disk.sync_files([b"d/e/f"])

    assert outcomes(prepare) == {((b"d", b""), (b"d/e", b""), (b"d/e/f", b"content"))}


def test_unsynced_content_may_be_missing_torn_or_whole() -> None:
    found = outcomes(lambda _, outside: outside.write(b"f", b"0123456789"))
    contents = {dict(tree).get(b"f") for tree in found}

    assert {None, b"", b"0123456789"} < contents
    assert any(each not in (None, b"", b"0123456789") for each in contents)


def test_a_rename_is_kept_whole_or_not_at_all() -> None:
    def prepare(disk: MemoryDisk, outside: Outside) -> None:
        outside.mkdirs(b"d")
        outside.write(b"d/f", b"1")
        outside.mkdirs(b"e")
        disk.sync()
        outside.rename(b"d/f", b"e/f")

    found = outcomes(prepare)

    assert {tuple(path for path, _ in tree) for tree in found} == {
        (b"d", b"d/f", b"e"),
        (b"d", b"e", b"e/f"),
    }


def test_a_rename_over_a_file_may_leave_an_empty_one_where_data_was_not_synced() -> None:
    def prepare(disk: MemoryDisk, outside: Outside) -> None:
        outside.write(b"f", b"old")
        disk.sync()
        outside.save_atomically(b"f", b"new")

    contents = {dict(tree).get(b"f") for tree in outcomes(prepare)}

    assert {b"old", b"new", b""} <= contents


def test_nothing_stands_in_a_directory_that_is_not_there() -> None:
    def prepare(_: MemoryDisk, outside: Outside) -> None:
        outside.mkdir(b"a")
        outside.mkdir(b"b")
        outside.rename(b"a", b"b/a")
        outside.write(b"b/a/f", b"1")
        outside.rename(b"b/a", b"c")

    for tree in outcomes(prepare):
        paths = {path for path, _ in tree}
        assert all(path.rpartition(b"/")[0] in {b"", *paths} for path in paths)
        assert len([path for path in paths if path.endswith(b"f")]) <= 1


def test_syncing_a_file_says_nothing_of_its_new_name() -> None:
    def prepare(disk: MemoryDisk, _: Outside) -> None:
        stage = disk.stage_many([NewFile(content=b"1", is_executable=False, mtime_ns=0)])[0]
        disk.sync()
        disk.place_new(stage, b"f")

    assert outcomes(prepare) == {(), ((b"f", b"1"),)}


def test_a_kill_loses_nothing_but_anonymous_stages() -> None:
    disk, outside = made()
    outside.write(b"f", b"1")
    [stage] = disk.stage_many([NewFile(content=b"2", is_executable=False, mtime_ns=0)])
    disk.open_stage(b"download").write(0, b"half")

    again = disk.crash(None)

    assert outside.read(b"f") == b"1"
    assert [name for name, _ in again.list_stages()] == [b"download"]
    with pytest.raises(Crashed):
        disk.stat(b"f")
    with pytest.raises(Crashed):
        stage.write(0, b"x")


def test_inode_numbers_are_used_again() -> None:
    disk, outside = made()
    outside.write(b"a", b"1")
    first = disk.stat(b"a")
    outside.unlink(b"a")
    outside.write(b"b", b"1")
    second = disk.stat(b"b")

    assert first is not None
    assert second is not None
    assert first.inode == second.inode


# -- faults and instants -------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("call", range(1, 6))
def test_E1_E6_a_failed_call_leaves_everything_as_it_was(number: int, call: int) -> None:
    disk, outside = made()
    outside.write(b"f", b"old")

    def replace(keep_as: bytes) -> None:
        [stage] = disk.stage_many([NewFile(content=b"n", is_executable=False, mtime_ns=0)])
        disk.sync()
        disk.place_over(stage, b"f", keep_as)

    def replace_twice() -> None:
        replace(b"first")
        replace(b"second")

    disk.fail_call(call, number)
    with pytest.raises(DiskError) as told:
        replace_twice()

    assert told.value.errno == number
    assert outside.read(b"f") in (b"old", b"n")
    assert len(disk.list_stages()) == (call > 3)


def test_E2_a_full_disk_fails_writes_and_not_reads_until_it_has_room() -> None:
    disk, outside = made()
    outside.write(b"f", b"1")
    disk.fail_always(errno.ENOSPC)

    with pytest.raises(DiskError):
        disk.make_directory(b"d")
    assert disk.stat(b"f") is not None
    disk.fail_always(None)
    disk.make_directory(b"d")


def test_P31_a_user_can_write_at_every_instant_of_a_replacement() -> None:
    """Whatever the instant, no byte is gone: it is in the tree or in tmp."""
    for instant in range(1, 12):
        for has_exchange in (True, False):
            disk, outside = made(has_exchange=has_exchange)
            outside.write(b"f", b"old")
            disk.at_instant(instant, lambda outside=outside: outside.write(b"f", b"user"))  # type: ignore[misc]

            [stage] = disk.stage_many([NewFile(content=b"new", is_executable=False, mtime_ns=0)])
            try:
                disk.place_over(stage, b"f", b"kept")
            except DiskError:
                assert outside.read(b"f") == b"user"
            disk.stat(b"f")
            disk.stat(b"f")

            everywhere = {outside.read(b"f"), *outside.kept().values()}
            assert b"user" in everywhere or disk.instants < instant


def test_P32_a_crash_at_every_instant_leaves_old_or_new_in_full() -> None:
    for instant, seed in itertools.product(range(1, 12), range(10)):
        disk, outside = made()
        outside.write(b"f", b"old old old")
        disk.sync()
        disk.crash_at(instant)
        try:
            new = NewFile(content=b"new new new", is_executable=False, mtime_ns=0)
            [stage] = disk.stage_many([new])
            disk.sync()
            disk.place_over(stage, b"f", b"kept")
        except Crashed:
            disk.crash(Random(seed))

        assert outside.read(b"f") in (b"old old old", b"new new new")


def test_P37_a_file_that_changes_while_it_is_read_is_told() -> None:
    disk, outside = made()
    outside.write(b"f", b"1")
    disk.at_instant(2, lambda: outside.write(b"f", b"2"))
    assert disk.look([b"f"]) == [LookFailure.CHANGING]
    disk.at_instant(3, lambda: outside.save_atomically(b"f", b"3"))
    assert disk.look([b"f"]) == [LookFailure.CHANGING]
    assert disk.look([b"f"]) != [LookFailure.CHANGING]


def test_B6_a_disk_that_folds_case_finds_names_however_written() -> None:
    files = Files(lambda: 0, fold=bytes.lower)
    disk, outside = MemoryDisk(files), Outside(files)
    outside.write(b"File", b"1")
    outside.write(b"FILE", b"2")

    assert [name for name, _ in disk.list_directory(b"")] == [b"File"]
    assert outside.read(b"file") == b"2"
    outside.rename(b"File", b"file")
    assert [name for name, _ in disk.list_directory(b"")] == [b"file"]


def test_B5_a_disk_can_refuse_names() -> None:
    files = Files(lambda: 0, refuses=lambda name: name.upper() == b"CON")
    disk = MemoryDisk(files)

    with pytest.raises(DiskError) as told:
        disk.make_directory(b"con")

    assert told.value.errno == errno.EINVAL


# -- hints ---------------------------------------------------------------------------------------


def hints_of(act: Callable[[MemoryDisk, Outside], object]) -> list[Hint]:
    async def main(loop: VirtualLoop) -> list[Hint]:
        files = Files(Clock(loop).now_ns)
        disk, outside = MemoryDisk(files), Outside(files)
        outside.write(b"a", b"1")
        outside.write(b"b", b"2")
        outside.mkdir(b"d")
        got: list[Hint] = []
        watcher = MemoryWatcher(files, loop, loop.random)
        watcher.start(got.extend)
        act(disk, outside)
        await _sleep()
        watcher.stop()
        outside.write(b"a", b"after")
        await _sleep()
        return got

    return run(main, 1)[0]


async def _sleep() -> None:
    await asyncio.sleep(1)


def hint(kind: HintKind, path: bytes, source: bytes | None = None, *, at: bool = False) -> Hint:
    return Hint(kind=kind, path=path, is_directory=at, source=source)


def test_hints_say_what_inotify_would() -> None:
    assert hints_of(lambda _, o: o.write(b"a", b"x")) == [
        hint(HintKind.CHANGED, b"a"),
        hint(HintKind.CLOSED, b"a"),
    ]
    assert hints_of(lambda _, o: o.write(b"new", b"x")) == [
        hint(HintKind.APPEARED, b"new"),
        hint(HintKind.CHANGED, b"new"),
        hint(HintKind.CLOSED, b"new"),
    ]
    assert hints_of(lambda _, o: o.rename(b"a", b"d/a")) == [
        hint(HintKind.MOVED_HERE, b"d/a", b"a")
    ]
    assert hints_of(lambda _, o: o.exchange(b"a", b"b")) == [
        hint(HintKind.MOVED_HERE, b"b", b"a"),
        hint(HintKind.MOVED_HERE, b"a", b"b"),
    ]
    assert hints_of(lambda _, o: o.unlink(b"a")) == [hint(HintKind.GONE, b"a")]
    assert hints_of(lambda _, o: o.rename(b"d", b"e")) == [
        hint(HintKind.MOVED_HERE, b"e", b"d", at=True)
    ]


def test_hints_of_our_own_acts_tell_the_tree_and_nothing_of_tmp() -> None:
    assert hints_of(lambda disk, _: disk.take_away(b"a", b"kept")) == [hint(HintKind.GONE, b"a")]
    assert hints_of(lambda disk, _: disk.open_stage(b"download").write(0, b"x")) == []


def test_E17_overflow_is_told_and_drops_are_not() -> None:
    async def main(loop: VirtualLoop) -> list[Hint]:
        files = Files(Clock(loop).now_ns)
        outside = Outside(files)
        got: list[Hint] = []
        watcher = MemoryWatcher(files, loop, loop.random, queue_limit=10)
        watcher.start(got.extend)
        watcher.drop_rate = 1.0
        outside.write(b"silent", b"")
        await _sleep()
        assert got == []
        watcher.drop_rate = 0.0
        for number in range(20):
            outside.write(b"%d" % number, b"")
        await _sleep()
        return got

    got = run(main, 1)[0]

    assert got[0] == hint(HintKind.LOST, b"")
