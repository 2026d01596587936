# paths are bytes here
"""What LinuxDisk keeps beyond the contract of every disk: real hazards of a real system."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from blake3 import blake3

from daemon import fs_read, fs_root, syscalls
from daemon.differences import is_racy
from daemon.disk import (
    DiskError,
    FileKind,
    Looked,
    LookFailure,
    NewFile,
    RootHeld,
    RootLost,
)
from daemon.fs import LinuxDisk
from daemon.fs_abilities import Abilities
from daemon.fs_below import shown
from peers.chunks import Cutter
from tests.daemon.real_outside import FOLDER_ID, RealOutside, make_linux_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from peers.wire import ChunkLine

TIME_NS = 1_700_000_000 * 10**9
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
BARE = Abilities(openat2=False, tmpfile=False, noreplace=False, exchange=False)


@pytest.fixture(params=[None, BARE], ids=["able", "bare"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[LinuxDisk, RealOutside]]:
    disk, outside = make_linux_disk(tmp_path, request.param)
    yield disk, outside
    disk.close()


@pytest.fixture
def disk(made: tuple[LinuxDisk, RealOutside]) -> LinuxDisk:
    return made[0]


@pytest.fixture
def outside(made: tuple[LinuxDisk, RealOutside]) -> RealOutside:
    return made[1]


def new(content: bytes, *, is_executable: bool = False) -> list[NewFile]:
    return [NewFile(content, is_executable, TIME_NS)]


# -- the mark and the lock -------------------------------------------------------------------------


def test_a_prepared_path_tells_its_folder_again(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path)
    assert fs_root.find_marker(root) is None

    first = LinuxDisk.prepare(root, FOLDER_ID)
    again = LinuxDisk.prepare(root, FOLDER_ID)

    assert first == again == fs_root.find_marker(root)
    assert first.folder_id == FOLDER_ID
    assert (tmp_path / ".dizzyd" / ".gitignore").read_bytes() == b"*\n"
    assert (tmp_path / ".dizzyd").stat().st_mode & 0o777 == 0o700
    other = LinuxDisk.prepare(root, b"g" * 32)
    assert other.instance != first.instance
    assert fs_root.find_marker(root) == other


def test_a_path_held_by_another_is_refused(disk: LinuxDisk) -> None:
    with pytest.raises(RootHeld) as refused:
        LinuxDisk.open(disk.root_path, umask=0)
    with pytest.raises(RootHeld):
        LinuxDisk.prepare(disk.root_path, b"g" * 32)
    assert "another dizzyd" in str(refused.value)

    disk.close()
    disk.close()
    LinuxDisk.open(disk.root_path, umask=0).close()


def test_an_unmarked_or_foreign_directory_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RootLost):
        LinuxDisk.open(os.fsencode(tmp_path / "gone"), umask=0)
    with pytest.raises(RootLost):
        LinuxDisk.open(os.fsencode(tmp_path), umask=0)
    (tmp_path / ".dizzyd").mkdir()
    (tmp_path / ".dizzyd" / "folder").write_bytes(b"something else")
    with pytest.raises(RootLost):
        LinuxDisk.open(os.fsencode(tmp_path), umask=0)
    (tmp_path / ".dizzyd" / "folder").unlink()
    (tmp_path / ".dizzyd").rmdir()
    (tmp_path / ".dizzyd").symlink_to("/tmp")
    with pytest.raises(DiskError):
        LinuxDisk.prepare(os.fsencode(tmp_path), FOLDER_ID)


def test_E8_a_root_replaced_by_another_directory_is_lost(
    disk: LinuxDisk, outside: RealOutside
) -> None:
    disk.check_root()
    os.rename(outside.root, outside.root + b"-moved")
    with pytest.raises(RootLost):
        disk.check_root()

    os.mkdir(outside.root)
    LinuxDisk.prepare(outside.root, FOLDER_ID)
    with pytest.raises(RootLost):
        disk.check_root()

    subprocess.run(["rm", "-rf", outside.root], check=True)
    os.rename(outside.root + b"-moved", outside.root)
    disk.check_root()


def test_E7_a_root_that_lost_its_mark_is_lost(disk: LinuxDisk, outside: RealOutside) -> None:
    outside.rename(b".dizzyd/folder", b".dizzyd/other")

    with pytest.raises(RootLost) as lost:
        disk.check_root()

    assert "nothing is deleted" in lost.value.hint


@needs_root
def test_E7_an_unmounted_root_is_lost(tmp_path: Path) -> None:
    place = tmp_path / "mount"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "t", place], check=False)
    if mounted.returncode:
        pytest.skip("cannot mount here")
    try:
        LinuxDisk.prepare(os.fsencode(place), FOLDER_ID)
        disk = LinuxDisk.open(os.fsencode(place), umask=0)
        disk.check_root()
    finally:
        subprocess.run(["umount", "-l", place], check=True)

    with pytest.raises(RootLost):
        disk.check_root()
    disk.close()


def test_a_removed_history_is_made_again(disk: LinuxDisk, outside: RealOutside) -> None:
    outside.remove_tree(b".dizzyd/history")
    outside.remove_tree(b".dizzyd/tmp")
    outside.write(b"file", b"1")

    disk.check_root()
    disk.take_away(b"file", b"kept")
    disk.keep_stage(b"kept", b"version")

    assert outside.read(b".dizzyd/history/version") == b"1"


def test_F7_only_our_own_leftovers_are_removed_at_start(
    disk: LinuxDisk, outside: RealOutside
) -> None:
    outside.write(b"file", b"1")
    disk.take_away(b"file", b"displaced")
    disk.open_stage(b"download").close()
    outside.write(b".dizzyd/tmp/.made-tmp-7", b"half")
    disk.close()

    again = LinuxDisk.open(outside.root, umask=0)

    assert {name for name, _ in again.list_stages()} == {b"displaced", b"download"}
    assert not outside.exists(b".dizzyd/tmp/.made-tmp-7")
    again.close()


def test_abilities_are_found_out(tmp_path: Path) -> None:
    disk, _ = make_linux_disk(tmp_path)
    assert disk.list_stages() == []
    assert disk.abilities.noreplace
    disk.close()


# -- nothing outside -------------------------------------------------------------------------------


def test_B9_a_directory_swapped_for_a_symlink_lets_nothing_out(
    disk: LinuxDisk, outside: RealOutside, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "taken").write_bytes(b"precious")
    outside.mkdir(b"dir")
    outside.write(b"dir/taken", b"mine")
    # A process of its own: a thread would take turns with us at every call.
    script = (
        "import os, sys\n"
        "while True:\n"
        "    os.rename('dir', 'aside'); os.symlink(sys.argv[1], 'dir')\n"
        "    for _ in range(2000): pass\n"
        "    os.unlink('dir'); os.rename('aside', 'dir')\n"
        "    for _ in range(2000): pass\n"
    )
    swapper = subprocess.Popen([sys.executable, "-c", script, victim], cwd=outside.root)
    placed = 0
    try:
        for number in range(1500):
            stage = disk.stage_many(new(b"escaped"))[0]
            with suppress(DiskError):
                disk.place_new(stage, b"dir/new-%d" % number)
                placed += 1
            stage.close()
            with suppress(DiskError):
                disk.make_directory(b"dir/d-%d" % number)
            with suppress(DiskError):
                disk.set_attributes(b"dir/taken", is_executable=True, mtime_ns=1)
            with suppress(DiskError):
                assert disk.read(b"dir/taken", 0, 9, None) == b"mine"
            result = disk.look([b"dir/taken"])[0]
            assert isinstance(result, LookFailure) or result.stat.size == 4
    finally:
        assert swapper.poll() is None
        swapper.kill()
        swapper.wait()

    assert placed > 0
    assert [path.name for path in victim.iterdir()] == ["taken"]
    assert (victim / "taken").read_bytes() == b"precious"
    assert (victim / "taken").stat().st_mtime_ns != 1


@needs_root
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_a_mount_inside_is_told_and_not_entered(
    disk: LinuxDisk, outside: RealOutside, tmp_path: Path, kind: str
) -> None:
    if kind == "bind" and not disk.abilities.openat2:
        pytest.skip("without openat2 a bind mount of the same disk cannot be told while walking")
    outside.mkdir(b"mnt")
    (tmp_path / "source").mkdir()
    place = os.fsdecode(outside.at(b"mnt"))
    command = ["mount", "-t", "tmpfs", "t", place]
    if kind == "bind":
        command = ["mount", "--bind", os.fspath(tmp_path / "source"), place]
    if subprocess.run(command, check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        outside.write(b"mnt/file", b"1")

        assert dict(disk.list_directory(b""))[b"mnt"].kind is FileKind.MOUNT
        found = disk.stat(b"mnt")
        assert found is not None
        assert found.kind is FileKind.MOUNT
        with pytest.raises(DiskError) as refused:
            disk.list_directory(b"mnt")
        assert refused.value.errno == errno.EXDEV
        assert disk.look([b"mnt/file"]) == [LookFailure.UNREADABLE]
        with pytest.raises(DiskError):
            disk.stat(b"mnt/file")  # unknown, which is not the same as gone
        with pytest.raises(DiskError):
            disk.place_new(disk.stage_many(new(b"x"))[0], b"mnt/new")
    finally:
        subprocess.run(["umount", place], check=True)


# -- what cannot be read ---------------------------------------------------------------------------


def test_E5_an_input_error_is_neither_gone_nor_changed(
    disk: LinuxDisk, outside: RealOutside, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside.write(b"bad", b"12345")
    outside.write(b"good", b"12345")
    bad = os.stat(outside.at(b"bad")).st_ino
    readv = os.readv

    def failing(descriptor: int, buffers: list[memoryview]) -> int:
        if os.fstat(descriptor).st_ino == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return readv(descriptor, buffers)

    monkeypatch.setattr(os, "readv", failing)

    results = disk.look([b"bad", b"good"])

    assert results[0] is LookFailure.UNREADABLE
    assert isinstance(results[1], Looked)


@needs_root
def test_E9_a_forbidden_directory_is_an_error_not_an_empty_one(
    disk: LinuxDisk, outside: RealOutside
) -> None:
    outside.mkdir(b"dir")
    outside.write(b"dir/file", b"1")
    outside.write(b"secret", b"1")
    outside.chmod(b"dir", 0)
    outside.chmod(b"secret", 0)
    child = os.fork()
    if not child:
        # Somebody without rights, and without pytest's clean-up.
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        failures = 0
        for act in (lambda: disk.list_directory(b"dir"), lambda: disk.stat(b"dir/file")):
            try:
                act()
            except DiskError as refused:
                failures += refused.errno == errno.EACCES
        looks = disk.look([b"dir/file", b"dir/gone", b"secret"])
        os._exit(0 if failures == 2 and looks == [LookFailure.UNREADABLE] * 3 else 1)

    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0


def test_E10_P37_a_file_that_changes_while_it_is_read_has_no_content(
    disk: LinuxDisk, outside: RealOutside, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside.write(b"file", b"12345")
    outside.write(b"big", b"x" * (10 << 20))
    outside.write(b"other", b"54321")
    readv = os.readv
    acts: Iterator[Callable[[], None]] = iter(
        [
            lambda: outside.append(b"file", b"6"),
            lambda: outside.utime(b"file", TIME_NS),
            lambda: outside.rename(b"other", b"file"),
            lambda: outside.append(b"big", b"y"),
        ]
    )

    def meanwhile(descriptor: int, buffers: list[memoryview]) -> int:
        count = readv(descriptor, buffers)
        with suppress(StopIteration):
            next(acts)()
        return count

    monkeypatch.setattr(os, "readv", meanwhile)

    for path in (b"file", b"file", b"file", b"big"):
        assert disk.look([path]) == [LookFailure.CHANGING]
    assert isinstance(disk.look([b"file"])[0], Looked)


def test_looking_does_not_touch_access_times(disk: LinuxDisk, outside: RealOutside) -> None:
    outside.write(b"file", b"1")
    os.utime(outside.at(b"file"), ns=(1, TIME_NS))

    assert isinstance(disk.look([b"file"])[0], Looked)

    assert os.stat(outside.at(b"file")).st_atime_ns == 1


# -- what cannot be written ------------------------------------------------------------------------


@needs_root
def test_E1_a_full_disk_fails_whole_and_says_so(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", "size=1m", "t"]
    if subprocess.run(["mount", *options, place], check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        LinuxDisk.prepare(os.fsencode(place), FOLDER_ID)
        disk = LinuxDisk.open(os.fsencode(place), umask=0)
        files = new(b"x" * 300_000) * 10

        with pytest.raises(DiskError) as full:
            disk.stage_many(files)

        assert full.value.errno == errno.ENOSPC
        assert "space" in full.value.hint
        stages = disk.stage_many(new(b"x" * 300_000))  # nothing of the failed ones stayed
        disk.place_new(stages[0], b"file")
        disk.close()
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_E6_a_failed_sync_is_told(
    disk: LinuxDisk, outside: RealOutside, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(syscalls, "syncfs", failing)

    with pytest.raises(DiskError) as failed:
        disk.sync()

    assert failed.value.errno == errno.EIO
    with pytest.raises(DiskError):
        disk.sync_files([b"f%d" % i for i in range(20)])


def test_E6_a_file_that_may_not_be_read_is_synced_without_what_apply_has_to_hear(
    disk: LinuxDisk, outside: RealOutside, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside.write(b"file", b"1")
    real = os.open
    synced: list[int] = []

    def refusing(path: bytes, *args: Any, **kwargs: Any) -> int:
        if path == b"file":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refusing)
    monkeypatch.setattr(
        syscalls, "syncfs", lambda descriptor: synced.append(os.fstat(descriptor).st_ino)
    )

    disk.sync_files([b"file"])

    assert synced == [os.stat(outside.root).st_ino], "tmp's descriptor tells apply of its losses"


def test_E18_at_the_limit_of_files_stages_are_made_and_looks_say_unreadable(
    disk: LinuxDisk, outside: RealOutside
) -> None:
    outside.write(b"file", b"1")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 8, hard))
    held: list[int] = []
    try:
        with pytest.raises(DiskError) as none_left:
            disk.stage_many(new(b"x") * 50)
        with suppress(OSError):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        results = disk.look([b"file"])
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert none_left.value.errno == errno.EMFILE
    assert none_left.value.hint == "raise the limit of open files"
    assert results == [LookFailure.UNREADABLE]
    assert isinstance(disk.look([b"file"])[0], Looked)


# -- attributes ------------------------------------------------------------------------------------


def test_new_files_and_directories_get_the_folder_s_umask_whatever_ours_is(
    tmp_path: Path,
) -> None:
    disk, _ = make_linux_disk(tmp_path, umask=0o002)
    before = os.umask(0o077)
    try:
        file = disk.place_new(disk.stage_many(new(b"1"))[0], b"file")
        program = disk.place_new(disk.stage_many(new(b"1", is_executable=True))[0], b"program")
        directory = disk.make_directory(b"dir")
    finally:
        os.umask(before)
        disk.close()

    assert file.mode & 0o7777 == 0o664
    assert program.mode & 0o7777 == 0o775
    assert directory.mode & 0o7777 == 0o775


@needs_root
def test_a_directory_with_setgid_gives_its_group(disk: LinuxDisk, outside: RealOutside) -> None:
    outside.mkdir(b"shared")
    os.chown(outside.at(b"shared"), -1, 1234)
    outside.chmod(b"shared", 0o2775)

    disk.place_new(disk.stage_many(new(b"1"))[0], b"shared/file")
    directory = disk.make_directory(b"shared/dir")

    file = os.stat(outside.at(b"shared/file"))
    assert (file.st_gid, file.st_mode & 0o7777) == (1234, 0o644)
    assert os.stat(outside.at(b"shared/dir")).st_gid == 1234
    assert directory.mode & 0o2000


@needs_root
def test_a_replaced_file_keeps_owner_group_and_extended_attributes(
    disk: LinuxDisk, outside: RealOutside
) -> None:
    outside.write(b"file", b"old")
    outside.chmod(b"file", 0o640)
    os.chown(outside.at(b"file"), 1111, 2222)
    try:
        os.setxattr(outside.at(b"file"), "user.colour", b"blue")
    except OSError:
        pytest.skip("no extended attributes here")
    # version 2; owner rw-, user 4711 rw-, group r--, mask rw-, others ---
    acl = b"\2\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, bits, who in (
            (1, 6, 2**32 - 1),
            (2, 6, 4711),
            (4, 4, 2**32 - 1),
            (16, 6, 2**32 - 1),
            (32, 0, 2**32 - 1),
        )
    )
    has_acl = False
    with suppress(OSError):
        os.setxattr(outside.at(b"file"), "system.posix_acl_access", acl)
        has_acl = True
    before = os.stat(outside.at(b"file"))

    disk.place_over(disk.stage_many(new(b"new"))[0], b"file", b"kept")

    now = os.stat(outside.at(b"file"))
    assert (now.st_uid, now.st_gid) == (1111, 2222)
    assert now.st_mode == before.st_mode
    assert os.getxattr(outside.at(b"file"), "user.colour") == b"blue"
    if has_acl:
        assert os.getxattr(outside.at(b"file"), "system.posix_acl_access") == acl


def test_A20_attributes_set_by_us_never_keep_special_bits(
    disk: LinuxDisk, outside: RealOutside
) -> None:
    outside.write(b"file", b"1")
    outside.chmod(b"file", 0o6755)

    now = disk.set_attributes(b"file", is_executable=True, mtime_ns=None)

    assert now.mode & 0o7777 == 0o755


def test_a_stage_is_never_a_second_name_of_a_user_s_file(
    disk: LinuxDisk, outside: RealOutside
) -> None:
    outside.write(b"file", b"1")
    outside.hard_link(b"file", b"other")
    disk.take_away(b"file", b"kept")

    with pytest.raises(DiskError):
        disk.open_stage(b"kept")

    assert outside.read(b"other") == b"1"


def test_the_lease_of_a_look_never_ends_the_process(disk: LinuxDisk, outside: RealOutside) -> None:
    outside.write(b"file", b"1")
    is_over = threading.Event()

    def write() -> None:
        while not is_over.is_set():
            outside.append(b"file", b"")

    writer = threading.Thread(target=write)
    writer.start()
    answers = {disk.is_being_written(b"file") for _ in range(2000)}
    is_over.set()
    writer.join()

    assert answers <= {True, False}
    assert not disk.is_being_written(b"file")


def test_B4_paths_are_shown_escaped() -> None:
    assert shown(b"a\x1b[31m\n\xff\xe2\x80\xae") == "a\\x1b[31m\\n\\xff\\u202e"


def test_B8_a_link_that_leads_nowhere_else_is_not_followed_either(
    disk: LinuxDisk, outside: RealOutside
) -> None:
    root = Path(os.fsdecode(outside.root))
    (root / "real" / "in").mkdir(parents=True)
    (root / "real" / "in" / "file").write_bytes(b"content")
    (root / "link").symlink_to("real")

    for path in (b"link/in/file", b"link/in"):
        assert not isinstance(disk.look([path])[0], Looked)
    for path in (b"link/in/made", b"link/made"):
        with pytest.raises(DiskError):
            disk.make_directory(path)
    assert sorted(os.listdir(root / "real")) == ["in"]
    assert os.listdir(root / "real" / "in") == ["file"]


# -- large files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1 << 20) + 1, 5 << 20, (8 << 20) - 1, 8 << 20, (21 << 20) + 7])
def test_look_at_a_large_file_gives_its_chunks_by_the_way(
    disk: LinuxDisk, outside: RealOutside, size: int
) -> None:
    content = blake3(b"large").digest(length=size)
    outside.write(b"large", content)
    outside.write(b"small", content[: 1 << 20])

    (looked, _) = disk.look([b"large", b"small"])

    assert isinstance(looked, Looked)
    assert looked.value == blake3(content).digest()
    cutter = Cutter()
    assert disk.take_chunk_lists() == [(looked.value, cutter.feed(content) + cutter.finish())]
    assert disk.take_chunk_lists() == []


def test_large_file_that_was_just_closed_need_not_be_read_twice(
    disk: LinuxDisk, outside: RealOutside
) -> None:
    for _ in range(3):
        outside.write(b"large", bytes(2 << 20))

        (looked,) = disk.look([b"large"])

        assert isinstance(looked, Looked)
        assert not is_racy(looked.stat.mtime_ns, looked.stat.ctime_ns, looked.looked_at_ns)


def test_E10_file_that_changes_while_it_is_hashed_gives_no_chunks(
    disk: LinuxDisk, outside: RealOutside, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside.write(b"large", bytes(20 << 20))
    feed = Cutter.feed

    def meddling(cutter: Cutter, piece: memoryview) -> list[ChunkLine]:
        with Path(os.fsdecode(disk.root_path), "large").open("ab") as file:
            file.write(b"more")
        return feed(cutter, piece)

    monkeypatch.setattr(Cutter, "feed", meddling)

    assert disk.look([b"large"]) == [LookFailure.CHANGING]


def test_E10_file_that_changes_while_it_is_served_is_not_here(
    disk: LinuxDisk, outside: RealOutside, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside.write(b"large", bytes(3 << 20))
    expected = disk.stat(b"large")
    path = Path(os.fsdecode(disk.root_path), "large")
    os.utime(path, ns=(TIME_NS, TIME_NS))
    expected = disk.stat(b"large")
    assert len(disk.read(b"large", 0, 1 << 20, expected)) == 1 << 20
    read_fully = fs_read.read_fully

    def meddling(opened: int, offset: int, length: int) -> bytes:
        half = read_fully(opened, offset, length // 2)
        with path.open("r+b") as file:
            file.seek(offset + length // 2)
            file.write(b"new")
        return half + read_fully(opened, offset + length // 2, length - length // 2)

    monkeypatch.setattr(fs_read, "read_fully", meddling)

    with pytest.raises(DiskError, match="another file"):
        disk.read(b"large", 0, 1 << 20, expected)
