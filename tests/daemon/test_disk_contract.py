"""What every daemon.disk.Disk keeps; each implementation runs the same suite."""

from __future__ import annotations

import itertools
import subprocess
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3

from daemon.disk import (
    Disk,
    DiskError,
    FileKind,
    Looked,
    LookFailure,
    NameMissing,
    NameTaken,
    NewFile,
    NotEmpty,
    Stage,
    Stat,
)
from daemon.fs import LinuxDisk
from daemon.fs_abilities import Abilities
from tests.daemon.real_outside import OutsideWriter, make_linux_disk
from tests.sim.disk import MemoryDisk
from tests.sim.files import Files
from tests.sim.outside import Outside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TIME_NS = 1_700_000_000_123_456_000
Made = tuple[Disk, OutsideWriter]


def _linux(place: Path) -> Made:
    return make_linux_disk(place)


def _linux_without_anything(place: Path) -> Made:
    nothing = Abilities(openat2=False, tmpfile=False, noreplace=False, exchange=False)
    return make_linux_disk(place, nothing)


def _memory(place: Path) -> Made:
    ticks = itertools.count(TIME_NS, 1_000_000)
    files = Files(lambda: next(ticks))
    return MemoryDisk(files), Outside(files)


def _memory_without_exchange(place: Path) -> Made:
    disk, outside = _memory(place)
    assert isinstance(disk, MemoryDisk)
    disk.has_exchange = False
    return disk, outside


DISKS: dict[str, Callable[[Path], Made]] = {
    "linux": _linux,
    "linux-bare": _linux_without_anything,
    "memory": _memory,
    "memory-bare": _memory_without_exchange,
}


@pytest.fixture(params=list(DISKS))
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Made]:
    disk, outside = DISKS[request.param](tmp_path)
    yield disk, outside
    if isinstance(disk, LinuxDisk):
        disk.close()
        # Deep trees are more than shutil.rmtree can take, and pytest would trip over them.
        subprocess.run(["rm", "-rf", disk.root_path], check=True)


@pytest.fixture
def disk(made: Made) -> Disk:
    return made[0]


@pytest.fixture
def outside(made: Made) -> OutsideWriter:
    return made[1]


def stage(disk: Disk, content: bytes, *, is_executable: bool = False) -> Stage:
    return disk.stage_many([NewFile(content, is_executable, TIME_NS)])[0]


def looked(disk: Disk, path: bytes) -> Looked:
    result = disk.look([path])[0]
    assert isinstance(result, Looked)
    return result


def present(disk: Disk, path: bytes) -> Stat:
    found = disk.stat(path)
    assert found is not None
    return found


def names(disk: Disk, path: bytes = b"") -> set[bytes]:
    return {name for name, _ in disk.list_directory(path)}


# -- looking -------------------------------------------------------------------------------------


def test_healthy_root_passes(disk: Disk) -> None:
    disk.check_root()


def test_listing_gives_lstat_of_each_name_without_our_own(
    disk: Disk, outside: OutsideWriter
) -> None:
    outside.write(b"file", b"12345")
    outside.mkdir(b"dir")
    outside.symlink(b"nowhere", b"link")
    outside.device(b"pipe")

    listed = dict(disk.list_directory(b""))

    assert {name: found.kind for name, found in listed.items()} == {
        b"file": FileKind.FILE,
        b"dir": FileKind.DIRECTORY,
        b"link": FileKind.SYMLINK,
        b"pipe": FileKind.DEVICE,
    }
    assert listed[b"file"].size == 5
    assert listed[b"file"] == disk.stat(b"file")


def test_listing_what_is_not_there_is_told(disk: Disk, outside: OutsideWriter) -> None:
    outside.write(b"file", b"")

    for path in (b"gone", b"file", b"gone/below"):
        with pytest.raises(NameMissing):
            disk.list_directory(path)


def test_stat_gives_none_for_what_is_not_there(disk: Disk, outside: OutsideWriter) -> None:
    outside.write(b"file", b"")

    assert disk.stat(b"gone") is None
    assert disk.stat(b"gone/below") is None
    assert disk.stat(b"file/below") is None
    assert disk.stat(b"x" * 256) is None  # B2: what no disk can hold is not there
    assert present(disk, b"").kind is FileKind.DIRECTORY


def test_standing_names_what_nobody_touched_since(disk: Disk, outside: OutsideWriter) -> None:
    outside.mkdir(b"sub")
    paths = [b"same", b"sub/same", b"longer", b"other time", b"gone", b"replaced", b"moved"]
    for path in paths:
        outside.write(path, b"one")
    placed = {path: stat for path in paths if (stat := disk.stat(path)) is not None}
    outside.append(b"longer", b"two")
    outside.utime(b"other time", TIME_NS)
    outside.unlink(b"gone")
    outside.unlink(b"replaced")
    outside.symlink(b"same", b"replaced")
    outside.rename(b"moved", b"sub/moved")

    assert disk.standing(placed) == {b"same", b"sub/same"}
    assert disk.standing({b"no/such": placed[b"same"], b"sub": placed[b"same"]}) == set()


def test_look_keeps_the_order_and_reads_each_kind(disk: Disk, outside: OutsideWriter) -> None:
    outside.mkdir(b"d")
    outside.write(b"d/one", b"1")
    outside.write(b"two", b"")
    outside.symlink(b"target/of it", b"link")

    results = disk.look([b"d/one", b"link", b"gone", b"two", b"d", b"d/gone", b"d/one"])

    assert [r.value if isinstance(r, Looked) else r for r in results] == [
        blake3(b"1").digest(),
        b"target/of it",
        LookFailure.GONE,
        blake3(b"").digest(),
        b"",
        LookFailure.GONE,
        blake3(b"1").digest(),
    ]


def test_E12_look_hashes_empty_small_and_large_files(disk: Disk, outside: OutsideWriter) -> None:
    for size in (0, 1, 4096, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (9 << 20) + 3):
        content = bytes(range(256)) * (size // 256) + bytes(size % 256)
        outside.write(b"file", content)

        assert looked(disk, b"file").value == blake3(content).digest()
        assert looked(disk, b"file").stat.size == size


def test_E13_devices_are_told_and_never_opened(disk: Disk, outside: OutsideWriter) -> None:
    outside.device(b"pipe")  # opening it for reading would wait for a writer for ever

    assert looked(disk, b"pipe").stat.kind is FileKind.DEVICE
    assert looked(disk, b"pipe").value == b""
    with pytest.raises(NameMissing):
        disk.read(b"pipe", 0, 1, None)


def test_E14_hard_links_have_one_inode_and_are_counted(disk: Disk, outside: OutsideWriter) -> None:
    outside.write(b"one", b"same")
    outside.hard_link(b"one", b"two")

    one, two = looked(disk, b"one"), looked(disk, b"two")

    assert one.stat.inode == two.stat.inode
    assert one.stat.links == two.stat.links == 2
    assert one.value == two.value


def test_E14_replacing_a_hard_linked_file_leaves_the_other_name_alone(
    disk: Disk, outside: OutsideWriter
) -> None:
    outside.write(b"one", b"same")
    outside.hard_link(b"one", b"two")

    disk.place_over(stage(disk, b"new"), b"one", b"kept")

    assert outside.read(b"one") == b"new"
    assert outside.read(b"two") == b"same"


def test_E15_link_loops_are_links(disk: Disk, outside: OutsideWriter) -> None:
    outside.symlink(b"b", b"a")
    outside.symlink(b"a", b"b")
    outside.symlink(b".", b"self")

    assert looked(disk, b"a").value == b"b"
    assert present(disk, b"self").kind is FileKind.SYMLINK
    assert disk.stat(b"self/self/a") is None
    with pytest.raises(NameMissing):
        disk.list_directory(b"self")


def test_E19_two_writes_of_one_size_differ_in_value(disk: Disk, outside: OutsideWriter) -> None:
    outside.write(b"file", b"aaaa")
    first = looked(disk, b"file")
    outside.write(b"file", b"bbbb")
    outside.utime(b"file", first.stat.mtime_ns)

    second = looked(disk, b"file")

    assert second.value != first.value
    assert second.looked_at_ns >= first.looked_at_ns


def test_is_being_written_sees_an_open_writer_only(disk: Disk, outside: OutsideWriter) -> None:
    outside.write(b"file", b"1")

    assert not disk.is_being_written(b"file")
    handle = outside.open(b"file")
    assert disk.is_being_written(b"file")
    handle.close()
    assert not disk.is_being_written(b"file")
    assert not disk.is_being_written(b"gone")


@pytest.mark.parametrize("is_once", [False, True])
def test_read_gives_pieces_of_the_expected_file_only(
    disk: Disk, outside: OutsideWriter, *, is_once: bool
) -> None:
    outside.write(b"file", b"0123456789")
    before = present(disk, b"file")
    read = disk.read_once if is_once else disk.read

    assert read(b"file", 2, 3, before) == b"234"
    assert read(b"file", 8, 100, before) == b"89"
    assert read(b"file", 20, 1, None) == b""
    outside.append(b"file", b"more")
    with pytest.raises(NameMissing):
        read(b"file", 2, 3, before)
    with pytest.raises(NameMissing):
        read(b"gone", 0, 1, None)


# -- names and paths -----------------------------------------------------------------------------


def test_B4_names_are_bytes(disk: Disk, outside: OutsideWriter) -> None:
    for name in (b"\xff\xfe", b"new\nline", b"\x1b[31m", b"\xc3\xa9", b"e\xcc\x81", b"a\\b"):
        disk.place_new(stage(disk, name), name)

        assert outside.read(name) == name
        assert name in names(disk)
        assert looked(disk, name).value == blake3(name).digest()


def test_B3_paths_deeper_than_the_kernel_takes_at_once(disk: Disk) -> None:
    name = b"a-directory-name"
    path = b""
    for _ in range(1000):
        path = path + b"/" + name if path else name
        disk.make_directory(path)

    disk.place_new(stage(disk, b"deep"), path + b"/file")

    assert len(path) > 4096
    assert looked(disk, path + b"/file").value == blake3(b"deep").digest()
    assert names(disk, path) == {b"file"}
    assert present(disk, path + b"/file").size == 4
    disk.move(path + b"/file", b"up")
    assert looked(disk, b"up").value == blake3(b"deep").digest()


@pytest.mark.parametrize(
    "path",
    [b"..", b"../x", b"a/../../x", b"/etc/passwd", b".", b"a//b", b"a/", b"a/.", b"", b"a\0b"],
)
def test_P38_B1_no_path_reaches_beyond_the_root(
    disk: Disk, outside: OutsideWriter, path: bytes
) -> None:
    outside.mkdir(b"a")
    outside.write(b"file", b"")

    with pytest.raises(DiskError):
        disk.place_new(stage(disk, b"evil"), path)
    with pytest.raises(DiskError):
        disk.make_directory(path)
    with pytest.raises(DiskError):
        disk.move(b"file", path)
    with pytest.raises(DiskError):
        disk.read(path, 0, 1, None)
    if path:
        assert disk.look([path]) == [LookFailure.GONE]
    assert names(disk) == {b"a", b"file"}


@pytest.mark.parametrize("path", [b".dizzyd", b".dizzyd/folder", b".dizzyd/tmp/x"])
def test_P38_B7_our_own_directory_is_no_path(
    disk: Disk, outside: OutsideWriter, path: bytes
) -> None:
    outside.write(b"file", b"")

    with pytest.raises(DiskError):
        disk.place_new(stage(disk, b"evil"), path)
    with pytest.raises(DiskError):
        disk.move(b"file", path)
    with pytest.raises(DiskError):
        disk.take_away(path, b"kept")
    assert disk.stat(path) is None
    assert disk.look([path]) == [LookFailure.GONE]
    disk.check_root()


def test_a_name_of_ours_below_the_root_is_an_ordinary_one(disk: Disk) -> None:
    disk.make_directory(b"a")
    disk.make_directory(b"a/.dizzyd")
    disk.place_new(stage(disk, b"1"), b"a/.dizzyd/folder")

    assert looked(disk, b"a/.dizzyd/folder").value == blake3(b"1").digest()


@pytest.mark.parametrize("name", [b"", b"..", b"a/b", b"/x", b".hidden", b"a\0b"])
def test_P38_names_of_stages_and_history_are_single_names(disk: Disk, name: bytes) -> None:
    disk.place_new(stage(disk, b"1"), b"file")

    with pytest.raises(DiskError):
        disk.open_stage(name)
    with pytest.raises(DiskError):
        disk.take_away(b"file", name)
    with pytest.raises(DiskError):
        disk.read_history(name, 0, 1)
    assert names(disk) == {b"file"}


def test_P38_B8_nothing_is_done_through_a_symlink(disk: Disk, outside: OutsideWriter) -> None:
    outside.mkdir(b"real")
    outside.write(b"real/x", b"untouched")
    outside.symlink(b"real", b"link")

    assert disk.stat(b"link/x") is None
    assert disk.look([b"link/x"]) == [LookFailure.GONE]
    for act in (
        lambda: disk.place_new(stage(disk, b"evil"), b"link/new"),
        lambda: disk.place_over(stage(disk, b"evil"), b"link/x", b"kept"),
        lambda: disk.take_away(b"link/x", b"kept2"),
        lambda: disk.move(b"link/x", b"y"),
        lambda: disk.make_directory(b"link/d"),
        lambda: disk.set_attributes(b"link/x", is_executable=True, mtime_ns=1),
        lambda: disk.list_directory(b"link"),
        lambda: disk.read(b"link/x", 0, 9, None),
    ):
        with pytest.raises(NameMissing):
            act()
    assert names(disk, b"real") == {b"x"}
    assert outside.read(b"real/x") == b"untouched"
    assert not present(disk, b"real/x").is_executable


# -- stages --------------------------------------------------------------------------------------


def test_staged_files_are_invisible_until_they_are_placed(
    disk: Disk, outside: OutsideWriter
) -> None:
    stages = disk.stage_many([NewFile(b"%d" % i, i % 2 == 1, TIME_NS + i) for i in range(300)])
    assert names(disk) == set()

    disk.sync()
    for i, made in enumerate(stages):
        placed = disk.place_new(made, b"f%d" % i)
        made.close()
        assert placed == disk.stat(b"f%d" % i)
        assert placed.is_executable is (i % 2 == 1)

    assert outside.read(b"f255") == b"255"
    assert disk.list_stages() == []


def test_new_files_get_mode_less_umask_and_the_time(disk: Disk) -> None:
    plain = disk.place_new(stage(disk, b"1"), b"plain")
    program = disk.place_new(stage(disk, b"1", is_executable=True), b"program")

    assert plain.mode & 0o7777 == 0o644
    assert program.mode & 0o7777 == 0o755
    assert plain.mtime_ns == TIME_NS


def test_place_new_replaces_nothing(disk: Disk, outside: OutsideWriter) -> None:
    outside.write(b"file", b"theirs")
    outside.mkdir(b"dir")
    outside.symlink(b"nowhere", b"link")
    mine = stage(disk, b"mine")

    for path in (b"file", b"dir", b"link"):
        with pytest.raises(NameTaken):
            disk.place_new(mine, path)
    with pytest.raises(NameMissing):
        disk.place_new(mine, b"gone/file")

    assert outside.read(b"file") == b"theirs"
    disk.place_new(mine, b"other")  # a stage outlives a failure
    assert outside.read(b"other") == b"mine"


def test_closed_anonymous_stages_leave_nothing(disk: Disk) -> None:
    for made in disk.stage_many([NewFile(b"x", False, TIME_NS)] * 3):
        assert made.name is None
        made.close()
        made.close()

    assert disk.list_stages() == []


def test_a_named_stage_resumes(disk: Disk, outside: OutsideWriter) -> None:
    first = disk.open_stage(b"download")
    first.write(0, b"01234")
    first.write(8, memoryview(b"89"))
    assert first.name == b"download"
    first.close()

    again = disk.open_stage(b"download")
    assert again.size() == 10
    assert again.read(0, 100) == b"01234\0\0\089"
    again.write(5, bytearray(b"567"))
    assert again.hash() == blake3(b"0123456789").digest()
    again.finish(is_executable=True, mtime_ns=TIME_NS, like=None)
    disk.sync()
    placed = disk.place_new(again, b"file")
    again.close()

    assert outside.read(b"file") == b"0123456789"
    assert (placed.mtime_ns, placed.is_executable) == (TIME_NS, True)
    assert disk.list_stages() == []


def test_stages_are_listed_looked_at_and_removed(disk: Disk) -> None:
    made = disk.open_stage(b"download")
    made.write(0, b"half")
    made.close()

    assert [(name, found.size) for name, found in disk.list_stages()] == [(b"download", 4)]
    result = disk.look_stage(b"download")
    assert isinstance(result, Looked)
    assert result.value == blake3(b"half").digest()
    disk.remove_stage(b"download")
    disk.remove_stage(b"download")
    assert disk.list_stages() == []
    assert disk.look_stage(b"download") is LookFailure.GONE


@pytest.mark.parametrize("mtime_ns", [-(2**63), -62135596800 * 10**9, -1, 2**63 - 1, 2**70])
def test_B12_impossible_times_are_clamped(disk: Disk, mtime_ns: int) -> None:
    made = disk.stage_many([NewFile(b"x", False, mtime_ns)])[0]

    placed = disk.place_new(made, b"file")

    assert -(2**63) <= placed.mtime_ns < 2**63
    assert placed == disk.stat(b"file")
    if -(2**31) * 10**9 <= mtime_ns < 2**33 * 10**9:
        assert placed.mtime_ns == mtime_ns
    disk.set_attributes(b"file", is_executable=False, mtime_ns=mtime_ns)
    disk.make_symlink(b"t", b"link", mtime_ns)


# -- replacing and moving --------------------------------------------------------------------------


def test_place_over_keeps_what_it_displaced(disk: Disk, outside: OutsideWriter) -> None:
    outside.write(b"file", b"old")
    before = present(disk, b"file")

    placed, displaced = disk.place_over(stage(disk, b"new"), b"file", b"kept")

    assert outside.read(b"file") == b"new"
    assert placed == disk.stat(b"file")
    assert placed.mtime_ns == TIME_NS
    assert (displaced.inode, displaced.size) == (before.inode, 3)
    result = disk.look_stage(b"kept")
    assert isinstance(result, Looked)
    assert result.value == blake3(b"old").digest()
    assert [name for name, _ in disk.list_stages()] == [b"kept"]


def test_place_over_of_a_named_stage_leaves_only_what_was_displaced(
    disk: Disk, outside: OutsideWriter
) -> None:
    outside.write(b"file", b"old")
    made = disk.open_stage(b"download")
    made.write(0, b"new")
    made.finish(is_executable=False, mtime_ns=TIME_NS, like=b"file")

    disk.place_over(made, b"file", b"kept")
    made.close()

    assert outside.read(b"file") == b"new"
    assert [name for name, _ in disk.list_stages()] == [b"kept"]


def test_a_replaced_file_keeps_its_mode_but_for_the_shared_bit(
    disk: Disk, outside: OutsideWriter
) -> None:
    outside.write(b"file", b"old")
    outside.chmod(b"file", 0o640)

    placed, _ = disk.place_over(stage(disk, b"new"), b"file", b"kept1")
    assert placed.mode & 0o7777 == 0o640
    placed, _ = disk.place_over(stage(disk, b"new", is_executable=True), b"file", b"kept2")
    assert placed.mode & 0o7777 == 0o750
    placed, _ = disk.place_over(stage(disk, b"new"), b"file", b"kept3")
    assert placed.mode & 0o7777 == 0o640


def test_A20_setuid_setgid_and_sticky_never_stay_on_new_content(
    disk: Disk, outside: OutsideWriter
) -> None:
    outside.write(b"file", b"old")
    outside.chmod(b"file", 0o7755)

    placed, _ = disk.place_over(stage(disk, b"new", is_executable=True), b"file", b"kept")

    assert placed.mode & 0o7777 == 0o755


def test_place_over_needs_a_file_or_link(disk: Disk, outside: OutsideWriter) -> None:
    outside.mkdir(b"dir")
    outside.write(b"dir/inside", b"1")
    mine = stage(disk, b"mine")

    with pytest.raises(NameMissing):
        disk.place_over(mine, b"gone", b"kept")
    with pytest.raises(NameTaken):
        disk.place_over(mine, b"dir", b"kept")

    assert outside.read(b"dir/inside") == b"1"
    outside.symlink(b"dir", b"link")
    _, displaced = disk.place_over(mine, b"link", b"kept")
    assert displaced.kind is FileKind.SYMLINK
    assert outside.read(b"link") == b"mine"
    assert names(disk, b"dir") == {b"inside"}


def test_a_name_in_tmp_is_never_replaced(disk: Disk, outside: OutsideWriter) -> None:
    for name in (b"one", b"two"):
        outside.write(name, name)
    disk.take_away(b"one", b"kept")

    with pytest.raises(NameTaken):
        disk.take_away(b"two", b"kept")
    with pytest.raises(NameTaken):
        disk.place_over(stage(disk, b"new"), b"two", b"kept")

    assert outside.read(b"two") == b"two"
    disk.restore_stage(b"kept", b"back")
    assert outside.read(b"back") == b"one"


def test_E11_bytes_written_between_check_and_apply_are_what_is_displaced(
    disk: Disk, outside: OutsideWriter
) -> None:
    outside.write(b"file", b"seen")
    seen = looked(disk, b"file")
    made = stage(disk, b"new")
    outside.write(b"other", b"precious")
    outside.rename(b"other", b"file")

    _, displaced = disk.place_over(made, b"file", b"kept")

    assert displaced.inode != seen.stat.inode
    result = disk.look_stage(b"kept")
    assert isinstance(result, Looked)
    assert result.value == blake3(b"precious").digest()


def test_P31_a_writer_of_a_displaced_file_writes_on_into_what_is_kept(
    disk: Disk, outside: OutsideWriter
) -> None:
    outside.write(b"file", b"old")
    handle = outside.open(b"file")

    disk.place_over(stage(disk, b"new"), b"file", b"kept")
    assert disk.is_stage_being_written(b"kept")
    handle.write(b"late")
    handle.close()

    assert not disk.is_stage_being_written(b"kept")
    result = disk.look_stage(b"kept")
    assert isinstance(result, Looked)
    assert result.value == blake3(b"late").digest()
    assert outside.read(b"file") == b"new"


def test_take_away_moves_files_and_links_but_no_directory(
    disk: Disk, outside: OutsideWriter
) -> None:
    outside.write(b"file", b"1")
    outside.symlink(b"file", b"link")
    outside.mkdir(b"dir")

    taken = disk.take_away(b"file", b"kept-file")
    disk.take_away(b"link", b"kept-link")

    assert taken.size == 1
    assert names(disk) == {b"dir"}
    with pytest.raises(NameTaken):
        disk.take_away(b"dir", b"kept-dir")
    with pytest.raises(NameMissing):
        disk.take_away(b"gone", b"kept-gone")
    result = disk.look_stage(b"kept-link")
    assert isinstance(result, Looked)
    assert result.value == b"file"


def test_move_replaces_nothing(disk: Disk, outside: OutsideWriter) -> None:
    outside.write(b"a", b"a")
    outside.write(b"b", b"b")
    outside.mkdir(b"d")
    inode = present(disk, b"a").inode

    with pytest.raises(NameTaken):
        disk.move(b"a", b"b")
    with pytest.raises(NameTaken):
        disk.move(b"a", b"d")
    with pytest.raises(NameMissing):
        disk.move(b"gone", b"c")
    with pytest.raises(NameMissing):
        disk.move(b"a", b"gone/a")
    moved = disk.move(b"a", b"d/c")

    assert moved.inode == inode
    assert outside.read(b"d/c") == b"a"
    assert outside.read(b"b") == b"b"


def test_P26_a_directory_moves_with_all_that_is_in_it(disk: Disk, outside: OutsideWriter) -> None:
    outside.mkdir(b"d")
    outside.write(b"d/file", b"1")

    moved = disk.move(b"d", b"e")

    assert moved.kind is FileKind.DIRECTORY
    assert outside.read(b"e/file") == b"1"
    with pytest.raises(DiskError):
        disk.move(b"e", b"e/below")
    assert outside.read(b"e/file") == b"1"


def test_swap_exchanges_two_names(disk: Disk, outside: OutsideWriter) -> None:
    outside.write(b"a", b"a")
    outside.mkdir(b"d")
    outside.write(b"d/b", b"b")

    disk.swap(b"a", b"d/b")

    assert outside.read(b"a") == b"b"
    assert outside.read(b"d/b") == b"a"
    with pytest.raises(NameMissing):
        disk.swap(b"a", b"gone")
    with pytest.raises(NameMissing):
        disk.swap(b"gone", b"a")
    assert outside.read(b"a") == b"b"
    assert disk.list_stages() == []


def test_directories_are_made_and_removed_when_empty(disk: Disk, outside: OutsideWriter) -> None:
    made = disk.make_directory(b"d")
    assert made == disk.stat(b"d")
    assert made.mode & 0o7777 == 0o755
    with pytest.raises(NameTaken):
        disk.make_directory(b"d")
    with pytest.raises(NameMissing):
        disk.make_directory(b"gone/d")

    outside.write(b"d/file", b"1")
    with pytest.raises(NotEmpty):
        disk.remove_directory(b"d")
    outside.unlink(b"d/file")
    disk.remove_directory(b"d")
    with pytest.raises(NameMissing):
        disk.remove_directory(b"d")


def test_symlinks_are_made_as_links_with_their_time(disk: Disk, outside: OutsideWriter) -> None:
    made = disk.make_symlink(b"../../etc/passwd", b"link", TIME_NS)

    assert made == disk.stat(b"link")
    assert (made.kind, made.mtime_ns) == (FileKind.SYMLINK, TIME_NS)
    assert looked(disk, b"link").value == b"../../etc/passwd"
    with pytest.raises(NameTaken):
        disk.make_symlink(b"x", b"link", TIME_NS)
    with pytest.raises(NameMissing):
        disk.make_symlink(b"x", b"gone/link", TIME_NS)
    assert disk.list_stages() == []


def test_attributes_are_set_without_touching_content(disk: Disk, outside: OutsideWriter) -> None:
    outside.write(b"file", b"1")
    outside.chmod(b"file", 0o604)

    now = disk.set_attributes(b"file", is_executable=True, mtime_ns=TIME_NS)
    assert (now.mode & 0o7777, now.mtime_ns) == (0o705, TIME_NS)
    assert now == disk.stat(b"file")
    now = disk.set_attributes(b"file", is_executable=False, mtime_ns=None)
    assert (now.mode & 0o7777, now.mtime_ns) == (0o604, TIME_NS)
    assert outside.read(b"file") == b"1"
    with pytest.raises(NameMissing):
        disk.set_attributes(b"gone", is_executable=True, mtime_ns=None)


def test_attributes_of_a_link_are_its_own(disk: Disk, outside: OutsideWriter) -> None:
    outside.write(b"file", b"1")
    outside.utime(b"file", 5 * 10**18)
    outside.symlink(b"file", b"link")

    now = disk.set_attributes(b"link", is_executable=True, mtime_ns=TIME_NS)

    assert now.mtime_ns == present(disk, b"link").mtime_ns == TIME_NS
    assert present(disk, b"file").mtime_ns == 5 * 10**18
    assert not present(disk, b"file").is_executable


# -- history ---------------------------------------------------------------------------------------


def test_displaced_files_are_kept_in_history_for_reading(
    disk: Disk, outside: OutsideWriter
) -> None:
    outside.write(b"file", b"0123456789")
    disk.take_away(b"file", b"kept")

    kept = disk.keep_stage(b"kept", b"version-1")

    assert kept.size == 10
    assert disk.list_stages() == []
    assert disk.list_history() == [(b"version-1", kept)]
    assert disk.read_history(b"version-1", 3, 4) == b"3456"
    assert disk.read_history(b"version-1", 9, 100) == b"9"
    result = disk.look_history(b"version-1")
    assert isinstance(result, Looked)
    assert result.value == blake3(b"0123456789").digest()
    with pytest.raises(NameMissing):
        disk.read_history(b"version-2", 0, 1)
    assert disk.look_history(b"version-2") is LookFailure.GONE


def test_history_is_never_replaced(disk: Disk, outside: OutsideWriter) -> None:
    for name in (b"one", b"two"):
        outside.write(name, name)
        disk.take_away(name, name)
    disk.keep_stage(b"one", b"version")

    with pytest.raises(NameTaken):
        disk.keep_stage(b"two", b"version")
    with pytest.raises(NameMissing):
        disk.keep_stage(b"gone", b"other")

    assert disk.read_history(b"version", 0, 9) == b"one"
    assert [name for name, _ in disk.list_stages()] == [b"two"]


def test_restoring_replaces_nothing(disk: Disk, outside: OutsideWriter) -> None:
    outside.write(b"file", b"old")
    disk.take_away(b"file", b"kept")
    outside.write(b"file", b"new")

    with pytest.raises(NameTaken):
        disk.restore_stage(b"kept", b"file")
    disk.restore_stage(b"kept", b"back")

    assert outside.read(b"file") == b"new"
    assert outside.read(b"back") == b"old"


# -- directories that are taken away whole -------------------------------------------------------


def test_a_directory_is_taken_away_with_all_that_is_in_it(
    disk: Disk, outside: OutsideWriter
) -> None:
    outside.mkdir(b"d")
    outside.mkdir(b"d/s")
    outside.write(b"d/s/file", b"one")
    inode = looked(disk, b"d/s/file").stat.inode

    disk.take_tree(b"d", b"taken")

    assert disk.stat(b"d") is None
    assert [name for name, _ in disk.list_taken(b"taken")] == [b"s"]
    ((name, stat),) = disk.list_taken(b"taken/s")
    assert (name, stat.inode) == (b"file", inode)
    with pytest.raises(NameMissing):
        disk.list_taken(b"gone")
    with pytest.raises(NameMissing):
        disk.list_taken(b"taken/s/file")


def test_take_tree_takes_directories_only_and_replaces_nothing(
    disk: Disk, outside: OutsideWriter
) -> None:
    outside.write(b"file", b"one")
    outside.mkdir(b"d")
    outside.symlink(b"d", b"link")
    outside.mkdir(b"e")
    disk.take_tree(b"e", b"taken")

    for path in (b"file", b"link"):
        with pytest.raises(NameTaken):
            disk.take_tree(path, b"other")
    with pytest.raises(NameTaken):
        disk.take_tree(b"d", b"taken")
    with pytest.raises(NameMissing):
        disk.take_tree(b"gone", b"other")

    assert outside.read(b"file") == b"one"
    assert disk.stat(b"d") is not None


def test_what_was_in_a_taken_directory_goes_to_history_to_tmp_or_back(
    disk: Disk, outside: OutsideWriter
) -> None:
    outside.mkdir(b"d")
    for name in (b"a", b"b", b"c", b"e"):
        outside.write(b"d/" + name, name)
    disk.take_tree(b"d", b"taken")
    outside.write(b"there", b"stays")

    moved = disk.keep_taken(b"taken", [(b"a", b"one"), (b"gone", b"two"), (b"b", b"one")])
    disk.set_aside(b"taken/b", b"aside")
    with pytest.raises(NameTaken):
        disk.set_aside(b"taken/c", b"aside")
    disk.return_taken(b"taken/c", b"back")
    with pytest.raises(NameTaken):
        disk.return_taken(b"taken/e", b"there")
    with pytest.raises(NotEmpty):
        disk.remove_taken(b"taken")
    disk.return_taken(b"taken/e", b"again")
    disk.remove_taken(b"taken")

    assert moved == [True, False, False]
    assert disk.read_history(b"one", 0, 9) == b"a"
    assert [name for name, _ in disk.list_stages()] == [b"aside"]
    assert outside.read(b"back") == b"c"
    assert outside.read(b"again") == b"e"
    assert outside.read(b"there") == b"stays"
    assert not disk.is_history_being_written(b"one")


def test_place_each_gives_names_in_order_and_says_which_were_taken(
    disk: Disk, outside: OutsideWriter
) -> None:
    outside.write(b"taken", b"old")
    stages = [stage(disk, content) for content in (b"one", b"two", b"three", b"four")]
    paths = [b"a", b"taken", b"gone/b", b"c"]

    placed = disk.place_each(list(zip(stages, paths, strict=True)))
    for each in stages:
        each.close()

    assert isinstance(placed[0], Stat)
    assert isinstance(placed[1], NameTaken)
    assert isinstance(placed[2], NameMissing)
    assert isinstance(placed[3], Stat)
    assert outside.read(b"a") == b"one"
    assert outside.read(b"c") == b"four"
    assert outside.read(b"taken") == b"old"
    assert disk.list_stages() == []


# -- durability ------------------------------------------------------------------------------------


def test_syncing_passes_over_what_is_gone(disk: Disk, outside: OutsideWriter) -> None:
    outside.mkdir(b"d")
    outside.write(b"d/file", b"1")
    outside.symlink(b"d", b"link")

    disk.sync()
    disk.sync_files([b"d/file", b"d", b"link", b"gone", b"gone/file"])
    disk.sync_directories([b"", b"d", b"gone"])
    disk.sync_files([b"f%d" % i for i in range(100)])
    disk.sync_directories([b"f%d" % i for i in range(100)])


def test_B6_a_disk_knows_whether_it_folds_names(disk: Disk, outside: OutsideWriter) -> None:
    outside.write(b"Name", b"1")

    assert disk.folds_names() == (disk.stat(b"nAME") is not None)
