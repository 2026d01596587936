"""Disk against synced, on real files: what is found, and what is never taken for a deletion."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from daemon.acts import Created, Deleted, Edited, Moved, Touched
from daemon.differences import ProblemKind, is_racy
from daemon.disk import DiskError, FileKind, Looked, LookFailure, RootLost, Stat
from daemon.harvest import BUNCH_FILES, FIRST_BUNCH_FILES
from daemon.ignore import IgnoreRules
from daemon.look_set import EVERYTHING, Again, AgainReason, LookSet
from daemon.matching import HELD_FROM, ScanCause, is_mass_deletion, match
from daemon.scanner import scan
from tests.daemon.looking import Bench, DictTree, Fold, Inline, WallClock, names
from tests.sim.disk import MemoryDisk
from tests.sim.files import Files
from tests.sim.outside import Outside

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from daemon.acts import Act
    from daemon.disk import Looked
    from daemon.fs import LinuxDisk
    from store.records import SyncedRow


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "folder")
    yield made
    made.disk.close()


class Troubled:
    """A real disk on which some calls fail for some paths."""

    def __init__(self, disk: LinuxDisk) -> None:
        self._disk = disk
        self.unlistable: dict[bytes, DiskError] = {}
        self.looks: dict[bytes, LookFailure] = {}
        self.mounts: set[bytes] = set()
        self.written: set[bytes] = set()
        self.lost_after: int | None = None
        self.read: list[bytes] = []
        self.asked: set[bytes] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)

    def check_root(self) -> None:
        if self.lost_after is not None:
            self.lost_after -= 1
            if self.lost_after < 0:
                raise RootLost("check", "unmounted")
        self._disk.check_root()

    def list_directory(self, path: bytes) -> list[tuple[bytes, Stat]]:
        if path in self.unlistable:
            raise self.unlistable[path]
        listed = self._disk.list_directory(path)
        prefix = path + b"/" if path else b""
        return [
            (name, as_mount(stat) if prefix + name in self.mounts else stat)
            for name, stat in listed
        ]

    def stat(self, path: bytes) -> Stat | None:
        self.asked.add(path)
        return self._disk.stat(path)

    def look(self, paths: Sequence[bytes]) -> list[Looked | LookFailure]:
        self.read += paths
        return [
            self.looks.get(path, look)
            for path, look in zip(paths, self._disk.look(paths), strict=True)
        ]

    def is_being_written(self, path: bytes) -> bool:
        return path in self.written or self._disk.is_being_written(path)


def as_mount(stat: Stat) -> Stat:
    return Stat(
        FileKind.MOUNT,
        stat.inode,
        stat.size,
        stat.mtime_ns,
        stat.ctime_ns,
        stat.mode,
        stat.links,
    )


@pytest.fixture
def troubled(bench: Bench) -> Troubled:
    disk = Troubled(bench.disk)
    bench.disk = disk  # type: ignore[assignment]
    return disk


async def test_a_new_tree_is_created_parents_before_children(bench: Bench) -> None:
    bench.write("d/e/file", b"one")
    bench.path("empty").mkdir()
    bench.path("link").symlink_to("d/e")

    acts = await bench.look()

    made = names(acts)
    assert sorted(made) == [
        "Created d",
        "Created d/e",
        "Created d/e/file",
        "Created empty",
        "Created link",
    ]
    assert made.index("Created d") < made.index("Created d/e") < made.index("Created d/e/file")
    assert bench.in_rows() == bench.on_disk()


async def test_an_unchanged_tree_gives_nothing_and_reads_nothing(
    bench: Bench, troubled: Troubled
) -> None:
    for number in range(20):
        bench.write(f"d{number % 3}/{number}", b"%d" % number)
    bench.age()
    await bench.look()
    troubled.read.clear()

    assert await bench.look() == []
    assert troubled.read == []


async def test_an_import_comes_in_bunches_parents_first(bench: Bench) -> None:
    for number in range(BUNCH_FILES + 500):
        bench.write(f"d{number % 7}/{number}", b"x")

    await bench.look()

    assert len(bench.bunches) >= 2
    assert [bunch.is_last for bunch in bench.bunches] == [False] * (len(bench.bunches) - 1) + [True]
    assert bench.in_rows() == bench.on_disk()


async def test_the_first_bunches_of_an_import_are_small_for_others_to_begin_with(
    bench: Bench,
) -> None:
    for number in range(4 * FIRST_BUNCH_FILES):
        bench.write(f"d/{number}", b"%d" % number)

    await bench.look()

    counts = [len(bunch.found) for bunch in bench.bunches]
    assert counts[:2] == [FIRST_BUNCH_FILES + 1, 2 * FIRST_BUNCH_FILES]  # d, too
    assert sum(counts) == 4 * FIRST_BUNCH_FILES + 1


async def test_a_look_at_one_path_sees_only_that(bench: Bench) -> None:
    bench.write("a", b"one")
    bench.write("b", b"one")
    bench.age()
    await bench.look()
    bench.write("a", b"two")
    bench.write("b", b"two")

    assert names(await bench.look(LookSet(paths=(b"a",)))) == ["Edited a"]


async def test_a_look_below_a_new_directory_begins_with_that_directory(bench: Bench) -> None:
    bench.write("x/y/z/file", b"one")

    acts = await bench.look(LookSet(paths=(b"x/y/z/file",)))

    assert names(acts) == ["Created x", "Created x/y", "Created x/y/z", "Created x/y/z/file"]


async def test_a_deleted_tree_gives_one_act_for_each_object_parents_first(bench: Bench) -> None:
    bench.write("d/e/one", b"1")
    bench.write("d/two", b"2")
    await bench.look()
    shutil.rmtree(bench.path("d"))

    acts = await bench.look(LookSet(paths=(b"d/e/one", b"d/two", b"d/e", b"d")))

    assert names(acts) == ["Deleted d", "Deleted d/e", "Deleted d/e/one", "Deleted d/two"]
    assert bench.in_rows() == {}


async def test_a_hint_of_the_topmost_directory_is_enough(bench: Bench) -> None:
    bench.write("d/e/one", b"1")
    await bench.look()
    shutil.rmtree(bench.path("d"))

    acts = await bench.look(LookSet(paths=(b"d",)))

    assert names(acts) == ["Deleted d", "Deleted d/e", "Deleted d/e/one"]


async def test_a_save_in_a_directory_that_is_renamed_at_once_deletes_nothing(
    bench: Bench,
) -> None:
    bench.write("d/e/one", b"1")
    bench.write("d/two", b"2")
    await bench.look()
    bench.write("d/e/one", b"saved")
    bench.path("d").rename(bench.path("renamed"))

    assert await bench.look(LookSet(paths=(b"d/e/one",))) == []
    assert [again.path for again in bench.agains] == [b"d"]
    acts = await bench.look(LookSet(paths=(b"d", b"renamed"), moves={b"renamed": b"d"}))

    assert "Moved d renamed" in names(acts)
    assert not any(name.startswith(("Deleted", "Created")) for name in names(acts))


async def test_a_touch_is_no_edit(bench: Bench) -> None:
    bench.write("a", b"one")
    bench.age()
    await bench.look()
    bench.path("a").chmod(0o755)

    [act] = await bench.look()

    assert isinstance(act, Touched)
    assert act.looked.stat.is_executable


# -- P33 and E9: unknown is never deleted ---------------------------------------------------------


async def test_P33_a_root_lost_while_scanning_gives_no_deletion(
    bench: Bench, troubled: Troubled
) -> None:
    for number in range(10):
        bench.write(f"d{number}/file", b"%d" % number)
    await bench.look()
    for number in range(10):
        shutil.rmtree(bench.path(f"d{number}"))

    for lost_after in range(8):
        troubled.lost_after = lost_after
        acts: list[Act] = []
        try:
            async for bunch in scan(
                bench.disk, bench.tree, bench.rules, Inline(), bench.clock, LookSet(is_full=True)
            ):
                acts += match(bunch)
        except RootLost:
            assert not acts, lost_after


async def test_P33_an_unlistable_root_is_a_fault(bench: Bench, troubled: Troubled) -> None:
    bench.write("a", b"one")
    await bench.look()
    troubled.unlistable[b""] = DiskError("list", "Input/output error", errno=5)

    with pytest.raises(RootLost):
        await bench.look()


async def test_P33_a_vanished_root_gives_no_deletion(bench: Bench) -> None:
    bench.write("a", b"one")
    await bench.look()
    bench.root.rename(bench.root.with_name("elsewhere"))
    bench.root.mkdir()

    with pytest.raises(RootLost):
        await bench.look()
    with pytest.raises(RootLost):
        await bench.look(LookSet(paths=(b"a",)))


async def test_E9_what_is_below_an_unreadable_directory_is_not_deleted(
    bench: Bench, troubled: Troubled
) -> None:
    bench.write("d/e/one", b"1")
    bench.write("gone", b"2")
    await bench.look()
    troubled.unlistable[b"d"] = DiskError("list", "Permission denied", errno=13)
    bench.path("gone").unlink()
    shutil.rmtree(bench.path("d/e"))

    acts = await bench.look()
    assert names(acts) == ["Deleted gone"]
    assert [(p.kind, p.path) for p in bench.problems] == [(ProblemKind.UNREADABLE, b"d")]
    assert [again.path for again in bench.agains] == [b"d"]

    acts = await bench.look(LookSet(paths=(b"d/e/one",)))
    assert acts == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to be refused")
async def test_E9_a_directory_that_may_be_listed_but_not_entered_loses_nothing(
    tmp_path: Path,
) -> None:
    tmp_path.chmod(0o755)
    made = Bench(tmp_path / "folder")
    made.write("d/one", b"1")
    await made.look()
    made.path("d").chmod(0o644)
    os.seteuid(65534)
    try:
        found = made.disk.list_directory(b"d")
    except DiskError:
        found = None
    finally:
        os.seteuid(0)
        made.disk.close()
    assert found is None or [name for name, _ in found] == [b"one"]


async def test_E5_a_file_that_cannot_be_read_is_neither_deleted_nor_changed(
    bench: Bench, troubled: Troubled
) -> None:
    bench.write("a", b"one")
    await bench.look()
    bench.write("a", b"other")
    troubled.looks[b"a"] = LookFailure.UNREADABLE

    assert await bench.look() == []
    assert [(p.kind, p.path) for p in bench.problems] == [(ProblemKind.UNREADABLE, b"a")]
    assert [again.path for again in bench.agains] == [b"a"]


async def test_E5_a_renamed_file_that_cannot_be_read_is_not_deleted(
    bench: Bench, troubled: Troubled
) -> None:
    bench.write("a", b"one")
    await bench.look()
    bench.path("a").rename(bench.path("b"))
    bench.write("b", b"renamed and edited")
    troubled.looks[b"b"] = LookFailure.UNREADABLE

    assert await bench.look() == []
    assert {again.path for again in bench.agains} == {b"a", b"b"}


# -- P37, E10, E19 --------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [LookFailure.CHANGING, LookFailure.GONE])
async def test_E10_a_file_that_changes_while_it_is_read_is_looked_at_again(
    bench: Bench, troubled: Troubled, failure: LookFailure
) -> None:
    bench.write("a", b"one")
    bench.write("b", b"two")
    troubled.looks[b"a"] = failure

    assert names(await bench.look()) == ["Created b"]
    assert b"a" in {again.path for again in bench.agains if again.reason is not AgainReason.RACY}

    troubled.looks.clear()
    assert names(await bench.look(LookSet(paths=(b"a",)))) == ["Created a"]


async def test_P37_a_file_that_is_being_written_waits_until_it_is_closed(bench: Bench) -> None:
    with bench.path("film").open("wb") as film:
        film.write(b"the first half")
        film.flush()
        assert await bench.look(LookSet(paths=(b"film",))) == []
        assert [again.reason for again in bench.agains] == [AgainReason.CHANGING]

    [act] = await bench.look(LookSet(paths=(b"film",), settled=frozenset({b"film"})))
    assert isinstance(act, Created)


async def test_P37_a_file_kept_open_is_read_when_it_rests(bench: Bench) -> None:
    with bench.path("log").open("wb") as log:
        log.write(b"a line")
        log.flush()
        os.utime(log.fileno(), ns=(10**18, 10**18))

        assert names(await bench.look(LookSet(paths=(b"log",)))) == ["Created log"]


async def test_E19_two_writes_of_one_size_in_one_tick_are_both_seen(bench: Bench) -> None:
    path = bench.write("a", b"one")
    await bench.look()
    [again] = bench.agains
    assert again.reason is AgainReason.RACY
    row = bench.tree.at(b"a")[0]

    path.write_bytes(b"two")
    os.utime(path, ns=(row.mtime_ns, row.mtime_ns))
    stat = bench.disk.stat(b"a")
    assert stat is not None
    bench.tree.put(_with_ctime(row, stat.ctime_ns))  # as if both fell into one tick

    bench.clock.stands_at_ns = row.mtime_ns + again_ns(again)
    assert names(await bench.look(LookSet(paths=(b"a",)))) == ["Edited a"]


async def test_E19_a_file_that_looks_as_it_did_is_read_once_a_look_can_be_sure(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write("a", b"one")
    await bench.look()
    read: list[bytes] = []
    look = bench.disk.look

    def count(paths: Sequence[bytes]) -> list[Looked | LookFailure]:
        read.extend(paths)
        return look(paths)

    monkeypatch.setattr(bench.disk, "look", count)
    bench.clock.stands_at_ns = bench.tree.at(b"a")[0].mtime_ns  # as if at once
    assert not names(await bench.look(LookSet(paths=(b"a",))))
    assert not read
    [again] = bench.agains
    assert again == Again(b"a", AgainReason.RACY, 0.025)

    bench.clock.stands_at_ns += again_ns(again)
    await bench.look(LookSet(paths=(b"a",)))
    assert read == [b"a"]


def again_ns(again: Again) -> int:
    return int(again.delay_s * 1e9)


def _with_ctime(row: SyncedRow, ctime_ns: int) -> SyncedRow:
    return msgspec.structs.replace(row, ctime_ns=ctime_ns)


def test_E19_the_racy_rule() -> None:
    now = 10**18 + 12_345
    ms = 1_000_000

    assert is_racy(now - 19 * ms, now - 19 * ms, now)
    assert not is_racy(now - 20 * ms, now - 20 * ms, now)
    assert is_racy(now, now, now)
    coarse = 10**18 - 10**9
    assert is_racy(coarse, coarse, coarse + 1_999 * ms)
    assert not is_racy(coarse, coarse, coarse + 2_000 * ms)
    # a time set into the future does not make a file racy for ever
    assert not is_racy(now + 10**15, now - 20 * ms, now)
    assert not is_racy(now + 10**15, now + 10**15, now)


async def test_E19_a_file_from_the_future_is_not_read_at_each_scan(
    bench: Bench, troubled: Troubled
) -> None:
    path = bench.write("a", b"one")
    os.utime(path, ns=(4 * 10**18, 4 * 10**18))
    await bench.look()
    row = bench.tree.at(b"a")[0]
    bench.tree.put(_looked_later(row))
    troubled.read.clear()

    assert await bench.look() == []
    assert troubled.read == []


def _looked_later(row: SyncedRow) -> SyncedRow:
    return msgspec.structs.replace(row, looked_at_ns=row.looked_at_ns + 3_000_000_000)


# -- E13, E14, P39: what is not shared ------------------------------------------------------------


async def test_E13_devices_sockets_and_fifos_are_named_and_never_opened(
    bench: Bench, troubled: Troubled
) -> None:
    os.mkfifo(bench.path("fifo"))
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(bench.root)
        listener.bind("socket")
        os.chdir(here)
        bench.write("file", b"one")

        acts = await bench.look()

    assert names(acts) == ["Created file"]
    assert {p.path for p in bench.problems if p.kind is ProblemKind.SKIPPED} == {
        b"fifo",
        b"socket",
    }
    assert troubled.read == [b"file"]


async def test_E13_a_device_in_the_place_of_a_file_is_no_deletion(bench: Bench) -> None:
    path = bench.write("a", b"one")
    await bench.look()
    path.unlink()
    os.mkfifo(path)

    assert await bench.look() == []
    assert await bench.look(LookSet(paths=(b"a",))) == []


async def test_a_mount_is_not_entered_and_what_it_hides_is_not_deleted(
    bench: Bench, troubled: Troubled
) -> None:
    bench.write("d/one", b"1")
    await bench.look()
    shutil.rmtree(bench.path("d"))
    bench.write("d/of the mount", b"2")
    troubled.mounts.add(b"d")

    assert await bench.look() == []
    assert [(p.kind, p.path) for p in bench.problems] == [(ProblemKind.MOUNT, b"d")]


async def test_E14_hard_links_are_files_of_their_own(bench: Bench) -> None:
    bench.write("a", b"one")
    os.link(bench.path("a"), bench.path("b"))

    acts = await bench.look()
    assert sorted(names(acts)) == ["Created a", "Created b"]
    assert {p.kind for p in bench.problems} == {ProblemKind.HARD_LINKED}

    with bench.path("a").open("wb") as both:
        both.write(b"two, by either name")
    acts = await bench.look()
    assert sorted(names(acts)) == ["Edited a", "Edited b"]


async def test_E14_a_hard_link_has_no_identity_by_inode(bench: Bench) -> None:
    bench.write("a", b"one")
    os.link(bench.path("a"), bench.path("b"))
    await bench.look()
    os.link(bench.path("a"), bench.path("c"))
    bench.path("b").unlink()
    bench.path("c").write_bytes(b"another content")

    acts = await bench.look()

    assert sorted(names(acts)) == ["Created c", "Deleted b", "Edited a"]
    assert bench.in_rows() == bench.on_disk()


async def test_P39_ignored_names_never_cause_acts(bench: Bench) -> None:
    bench.rules = IgnoreRules(b"*.o\nbuild/\n")
    bench.write("a.o", b"1")
    bench.write("build/deep/x", b"2")
    bench.write("notes", b"3")
    bench.write("notes~", b"old")
    bench.write(".notes.swp", b"4")
    bench.write(".dizzyd/own", b"5")

    assert names(await bench.look()) == ["Created notes"]
    paths = (b"a.o", b"build/deep/x", b"build", b"notes~", b".notes.swp", b".dizzyd/own")
    assert await bench.look(LookSet(paths=paths, directories=(b"build/deep", b".dizzyd"))) == []


async def test_P39_newly_ignored_objects_keep_their_state(bench: Bench) -> None:
    bench.write("a.o", b"1")
    bench.write("build/x", b"2")
    await bench.look()
    bench.rules = IgnoreRules(b"*.o\nbuild/\n")
    bench.path("a.o").unlink()
    bench.write("build/x", b"other")
    bench.write("build/y", b"new")

    assert await bench.look() == []
    shutil.rmtree(bench.path("build"))
    assert await bench.look() == []
    assert await bench.look(LookSet(paths=(b"a.o", b"build/x", b"build"))) == []


async def test_a_deleted_tree_costs_one_stat_whatever_was_hinted_below(
    bench: Bench, troubled: Troubled
) -> None:
    for number in range(20):
        bench.write(f"tree/d{number % 4}/f{number}", b"%d" % number)
    await bench.look()
    stood = [path for path in bench.on_disk() if path]
    troubled.asked.clear()

    shutil.rmtree(bench.path("tree"))
    acts = await bench.look(LookSet(paths=tuple(stood)))

    assert len(stood) == 25
    assert sorted(names(acts)) == sorted(f"Deleted {path.decode()}" for path in stood)
    assert troubled.asked == {b"tree"}
    assert bench.in_rows() == {}


async def test_what_was_moved_out_of_a_deleted_tree_moves(bench: Bench) -> None:
    bench.write("tree/d/kept", b"kept")
    bench.write("tree/d/gone", b"gone")
    await bench.look()

    bench.path("tree/d/kept").rename(bench.path("kept"))
    shutil.rmtree(bench.path("tree"))
    paths = (b"kept", b"tree", b"tree/d", b"tree/d/gone", b"tree/d/kept")
    acts = await bench.look(LookSet(paths=paths))

    assert names(acts) == [
        "Moved tree/d/kept kept",
        "Deleted tree",
        "Deleted tree/d",
        "Deleted tree/d/gone",
    ]
    assert bench.in_rows() == bench.on_disk()


async def test_what_was_made_anew_in_a_tree_is_found_beside_what_went_there(
    bench: Bench,
) -> None:
    bench.write("tree/d/one", b"one")
    bench.write("tree/two", b"two")
    await bench.look()

    shutil.rmtree(bench.path("tree"))
    bench.write("tree/d/three", b"three")
    paths = (b"tree", b"tree/d", b"tree/d/one", b"tree/d/three", b"tree/two")
    await bench.look(LookSet(paths=paths))

    assert bench.in_rows() == bench.on_disk()


async def test_a_backup_is_shared_once_its_original_is_gone(bench: Bench) -> None:
    bench.write("notes", b"new")
    bench.write("notes~", b"old")
    await bench.look()
    bench.path("notes").unlink()

    acts = await bench.look(LookSet(paths=(b"notes",)))

    assert sorted(names(acts)) == ["Created notes~", "Deleted notes"]


def test_held_deletions_are_many_and_most_and_unwatched() -> None:
    some, total = HELD_FROM + 1, HELD_FROM + 50

    assert is_mass_deletion(some, total, ScanCause.START)
    assert is_mass_deletion(some, total, ScanCause.ROOT_FAULT)
    assert not is_mass_deletion(some, total, ScanCause.OVERFLOW)
    assert not is_mass_deletion(some, total, ScanCause.HINTED)
    assert not is_mass_deletion(some, total, ScanCause.ROUTINE)
    assert not is_mass_deletion(HELD_FROM, HELD_FROM, ScanCause.START)
    assert not is_mass_deletion(some, 2 * some, ScanCause.START)


async def test_every_act_of_a_deletion_carries_its_rows(bench: Bench) -> None:
    bench.write("a", b"one")
    await bench.look()
    [row] = bench.tree.at(b"a")
    bench.path("a").unlink()

    [act] = await bench.look(fold=False)

    assert isinstance(act, Deleted)
    assert act.rows == (row,)
    bench.write("a", b"two")
    [act] = await bench.look(fold=False)
    assert isinstance(act, Edited)


async def test_B6_on_a_disk_that_folds_case_a_path_is_its_exact_name() -> None:
    ticks = itertools.count(1_700_000_000 * 10**9, 10**6)
    files = Files(lambda: next(ticks), fold=bytes.lower)
    disk, outside, tree = MemoryDisk(files), Outside(files), DictTree()
    outside.mkdir(b"Sub")
    outside.write(b"Sub/Notes.txt", b"one")

    async def look(*paths: bytes) -> list[Act]:
        acts: list[Act] = []
        where = LookSet(paths=paths) if paths else EVERYTHING
        async for bunch in scan(disk, tree, IgnoreRules(), Inline(), WallClock(), where):
            acts += match(bunch)
        taker = Fold(tree)
        for act in acts:
            taker.take(act)
        return acts

    assert await look(b"sub/notes.txt", b"sub") == []
    assert [type(act) for act in await look()] == [Created, Created]
    assert await look(b"sub/notes.txt", b"Sub/notes.txt") == []
    outside.rename(b"Sub/Notes.txt", b"Sub/notes.TXT")
    [act] = await look(b"Sub/Notes.txt", b"Sub/notes.TXT")
    assert isinstance(act, Moved)
    assert act.target == b"Sub/notes.TXT"
