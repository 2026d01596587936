"""What people did, concluded from real files: saves, moves, swaps, chains and deletions."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from daemon.acts import Created, Deleted, Edited, Moved
from daemon.look_set import EVERYTHING, LookSet
from daemon.matching import ScanCause, is_mass_deletion
from tests.daemon.looking import Bench, names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from daemon.disk import Looked, LookFailure


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "folder")
    yield made
    made.disk.close()


@pytest.fixture
async def saved(bench: Bench) -> Bench:
    bench.write("notes.txt", b"what was there")
    bench.age()
    await bench.look()
    return bench


def in_place(path: Path) -> None:
    with path.open("r+b") as opened:
        opened.write(b"WHAT WAS THERE")


def truncated_and_written(path: Path) -> None:
    path.write_bytes(b"all of it anew")


def temporary_renamed_over(path: Path) -> None:
    temp = path.with_name(".notes.tmp")
    temp.write_bytes(b"all of it anew")
    temp.chmod(0o600)
    temp.rename(path)


def backup_renamed_then_created(path: Path) -> None:
    path.rename(path.with_name("notes.txt~"))
    path.write_bytes(b"all of it anew")


def backup_removed_afterwards(path: Path) -> None:
    backup = path.with_name("notes.bak")
    path.rename(backup)
    path.write_bytes(b"all of it anew")
    backup.unlink()


def removed_and_created(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"all of it anew")


@pytest.mark.parametrize(
    "save",
    [
        in_place,
        truncated_and_written,
        temporary_renamed_over,
        backup_renamed_then_created,
        backup_removed_afterwards,
        removed_and_created,
    ],
)
@pytest.mark.parametrize("where", [EVERYTHING, LookSet(paths=(b"notes.txt",))])
async def test_P35_a_save_is_one_edit_of_the_same_object(
    saved: Bench, save: Callable[[Path], None], where: LookSet
) -> None:
    before = saved.no("notes.txt")
    save(saved.path("notes.txt"))

    assert names(await saved.look(where)) == ["Edited notes.txt"]
    assert saved.no("notes.txt") == before


async def test_P35_a_backup_that_stays_is_a_file_of_its_own(saved: Bench) -> None:
    before = saved.no("notes.txt")
    saved.path("notes.txt").rename(saved.path("notes.bak"))
    saved.write("notes.txt", b"all of it anew")

    acts = await saved.look()

    assert sorted(names(acts)) == ["Created notes.bak", "Edited notes.txt"]
    assert saved.no("notes.txt") == before


@pytest.mark.parametrize("content", [b"", b"content"])
async def test_P36_a_rename_is_one_move(bench: Bench, content: bytes) -> None:
    bench.write("a", content)
    bench.age()
    await bench.look()
    before = bench.no("a")
    bench.path("a").rename(bench.path("b"))

    assert names(await bench.look()) == ["Moved a b"]
    assert bench.no("b") == before


async def test_P36_a_renamed_file_is_not_read_again(saved: Bench) -> None:
    saved.path("notes.txt").rename(saved.path("b"))
    read: list[bytes] = []
    look = saved.disk.look

    def noting(paths: Sequence[bytes]) -> list[Looked | LookFailure]:
        read.extend(paths)
        return look(paths)

    saved.disk.look = noting  # type: ignore[method-assign]

    [act] = await saved.look()

    assert isinstance(act, Moved)
    assert act.rows[0].value == act.looked.value
    assert read == []


async def test_P36_a_hinted_rename_with_an_edit_is_one_move(saved: Bench) -> None:
    before = saved.no("notes.txt")
    saved.path("notes.txt").rename(saved.path("b"))
    saved.path("b").write_bytes(b"and other bytes at once")

    [act] = await saved.look(LookSet(paths=(b"notes.txt", b"b"), moves={b"b": b"notes.txt"}))

    assert isinstance(act, Moved)
    assert act.looked.value != act.rows[0].value
    assert saved.no("b") == before


async def test_an_inode_alone_is_never_enough(saved: Bench) -> None:
    saved.path("notes.txt").rename(saved.path("b"))
    saved.path("b").write_bytes(b"quite another content")

    assert sorted(names(await saved.look())) == ["Created b", "Deleted notes.txt"]


async def test_P36_a_move_to_a_new_directory_comes_after_it(saved: Bench) -> None:
    saved.path("new/deep").mkdir(parents=True)
    saved.path("notes.txt").rename(saved.path("new/deep/n"))

    assert names(await saved.look()) == [
        "Created new",
        "Created new/deep",
        "Moved notes.txt new/deep/n",
    ]


async def test_P36_a_move_out_of_a_deleted_directory(bench: Bench) -> None:
    bench.write("d/keep", b"keep")
    bench.write("d/drop", b"drop")
    bench.age()
    await bench.look()
    before = bench.no("d/keep")
    bench.path("d/keep").rename(bench.path("kept"))
    shutil.rmtree(bench.path("d"))

    assert names(await bench.look()) == ["Moved d/keep kept", "Deleted d", "Deleted d/drop"]
    assert bench.no("kept") == before


async def test_P36_swapped_names_keep_their_objects(bench: Bench) -> None:
    bench.write("a", b"one")
    bench.write("b", b"the other")
    bench.age()
    await bench.look()
    a, b = bench.no("a"), bench.no("b")
    swap(bench, "a", "b")

    assert sorted(names(await bench.look())) == ["Moved a b", "Moved b a"]
    assert (bench.no("a"), bench.no("b")) == (b, a)


def swap(bench: Bench, one: str, other: str) -> None:
    bench.path(one).rename(bench.path("swapping"))
    bench.path(other).rename(bench.path(one))
    bench.path("swapping").rename(bench.path(other))


async def test_P36_a_chain_of_renames_keeps_its_objects(bench: Bench) -> None:
    for number in range(9):
        bench.write(f"log.{number}", b"content %d" % number)
    bench.age()
    await bench.look()
    before = [bench.no(f"log.{number}") for number in range(9)]
    for number in reversed(range(9)):
        bench.path(f"log.{number}").rename(bench.path(f"log.{number + 1}"))

    acts = await bench.look()

    assert names(acts) == [f"Moved log.{number} log.{number + 1}" for number in range(8, -1, -1)]
    assert [bench.no(f"log.{number + 1}") for number in range(9)] == before


async def test_P36_rotated_logs_with_a_new_one_keep_the_name_that_is_written(bench: Bench) -> None:
    bench.write("log", b"of today")
    bench.age()
    await bench.look()
    before = bench.no("log")
    bench.path("log").rename(bench.path("log.1"))
    bench.write("log", b"of tomorrow")

    assert sorted(names(await bench.look())) == ["Created log.1", "Edited log"]
    assert bench.no("log") == before


async def test_a_file_moved_over_another_is_an_edit_and_a_deletion(bench: Bench) -> None:
    bench.write("a", b"one")
    bench.write("b", b"the other")
    bench.age()
    await bench.look()
    before = bench.no("b")
    bench.path("a").rename(bench.path("b"))

    assert names(await bench.look()) == ["Edited b", "Deleted a"]
    assert bench.no("b") == before


async def test_a_chain_that_ends_on_another_file_is_made_of_edits(bench: Bench) -> None:
    for name in "abc":
        bench.write(name, name.encode() * 3)
    bench.age()
    await bench.look()
    bench.path("b").rename(bench.path("c"))
    bench.path("a").rename(bench.path("b"))

    assert names(await bench.look()) == ["Edited b", "Edited c", "Deleted a"]


async def test_a_unique_equal_hash_is_a_move(bench: Bench) -> None:
    bench.write("a", b"the same bytes")
    bench.write("keep", b"other")
    bench.age()
    await bench.look()
    shutil.copyfile(bench.path("a"), bench.path("b"))
    bench.path("a").unlink()

    assert names(await bench.look()) == ["Moved a b"]


async def test_equal_hashes_that_are_not_unique_are_no_evidence(bench: Bench) -> None:
    bench.write("a", b"the same bytes")
    await bench.look()
    for name in ("b", "c"):
        shutil.copyfile(bench.path("a"), bench.path(name))
    bench.path("a").unlink()

    assert sorted(names(await bench.look())) == ["Created b", "Created c", "Deleted a"]


async def test_empty_files_are_not_matched_by_their_hash(bench: Bench) -> None:
    bench.write("a", b"")
    await bench.look()
    bench.write("b", b"")
    bench.path("a").unlink()

    assert sorted(names(await bench.look())) == ["Created b", "Deleted a"]


# -- directories ----------------------------------------------------------------------------------


async def full_directory(bench: Bench, name: str, count: int = 5) -> None:
    for number in range(count):
        bench.write(f"{name}/sub/{number}", b"%d" % number)
    bench.age()
    await bench.look()


@pytest.mark.parametrize("where", [EVERYTHING, LookSet(paths=(b"d", b"e"), moves={b"e": b"d"})])
async def test_P26_P36_a_renamed_directory_is_one_move(bench: Bench, where: LookSet) -> None:
    await full_directory(bench, "d", 200)
    before = bench.no("d/sub/3")
    bench.path("d").rename(bench.path("e"))

    assert names(await bench.look(where)) == ["Moved d e"]
    assert bench.no("e/sub/3") == before
    assert bench.in_rows() == bench.on_disk()


async def test_P36_a_renamed_directory_with_changes_below(bench: Bench) -> None:
    await full_directory(bench, "d")
    bench.path("d").rename(bench.path("e"))
    bench.write("e/sub/0", b"edited")
    bench.write("e/new", b"new")
    bench.path("e/sub/1").unlink()
    bench.path("e/sub/2").rename(bench.path("out"))
    bench.path("e/sub").rename(bench.path("e/below"))

    acts = await bench.look()

    assert names(acts) == [
        "Moved d e",
        "Moved d/sub e/below",
        "Created e/new",
        "Moved d/sub/2 out",
        "Edited e/below/0",
        "Deleted d/sub/1",
    ]
    assert bench.in_rows() == bench.on_disk()


async def test_P36_swapped_directories_keep_their_objects(bench: Bench) -> None:
    await full_directory(bench, "one")
    await full_directory(bench, "two")
    one, two = bench.no("one"), bench.no("two")
    swap(bench, "one", "two")

    assert sorted(names(await bench.look())) == ["Moved one two", "Moved two one"]
    assert (bench.no("one"), bench.no("two")) == (two, one)
    assert bench.in_rows() == bench.on_disk()


async def test_P36_a_directory_and_one_in_it_change_places(bench: Bench) -> None:
    bench.write("d/other", b"other")
    await full_directory(bench, "d")
    bench.path("d/sub").rename(bench.path("top"))
    bench.path("d").rename(bench.path("top/below"))

    assert names(await bench.look()) == ["Moved d/sub top", "Moved d top/below"]
    assert bench.in_rows() == bench.on_disk()


async def test_P36_a_directory_moved_into_a_new_one_and_made_again(bench: Bench) -> None:
    await full_directory(bench, "d")
    bench.path("archive").mkdir()
    bench.path("d").rename(bench.path("archive/old"))
    bench.write("d/fresh", b"fresh")

    acts = await bench.look()

    assert names(acts) == [
        "Created archive",
        "Moved d archive/old",
        "Created d",
        "Created d/fresh",
    ]
    assert bench.in_rows() == bench.on_disk()


async def test_a_directory_wrapped_in_one_of_its_name_keeps_its_files(bench: Bench) -> None:
    await full_directory(bench, "photos")
    before = bench.no("photos/sub/0")
    bench.path("photos").rename(bench.path("wrapping"))
    bench.path("photos").mkdir()
    bench.path("wrapping").rename(bench.path("photos/photos"))

    acts = await bench.look()

    assert names(acts) == [
        "Created photos/photos",
        "Moved photos/sub photos/photos/sub",
        "Touched photos",
    ]
    assert bench.no("photos/photos/sub/0") == before
    assert bench.in_rows() == bench.on_disk()


async def test_a_directory_put_in_the_place_of_a_deleted_one(bench: Bench) -> None:
    await full_directory(bench, "dist")
    await full_directory(bench, "dist.new")
    before = bench.no("dist.new/sub/0")
    shutil.rmtree(bench.path("dist"))
    bench.path("dist.new").rename(bench.path("dist"))

    acts = await bench.look()

    assert names(acts, Moved) == ["Moved dist.new dist"]
    assert names(acts).index("Deleted dist") < names(acts).index("Moved dist.new dist")
    assert bench.no("dist/sub/0") == before
    assert bench.in_rows() == bench.on_disk()


async def test_a_directory_made_again_keeps_its_object(bench: Bench) -> None:
    await full_directory(bench, "d")
    before = bench.no("d")
    keep = bench.path("keep")
    keep.mkdir()  # so that the inode is not used again
    shutil.rmtree(bench.path("d"))
    keep.rename(bench.path("d"))

    acts = await bench.look()

    assert names(acts, Deleted)[0] == "Deleted d/sub"
    assert bench.no("d") == before


# -- B10: kinds change ----------------------------------------------------------------------------


async def test_B10_a_file_becomes_a_directory_that_holds_it(saved: Bench) -> None:
    before = saved.no("notes.txt")
    saved.path("notes.txt").rename(saved.path("t"))
    saved.path("notes.txt").mkdir()
    saved.path("t").rename(saved.path("notes.txt/first"))

    assert names(await saved.look()) == ["Created notes.txt", "Moved notes.txt notes.txt/first"]
    assert saved.no("notes.txt/first") == before


async def test_B10_a_directory_becomes_a_file_and_back(bench: Bench) -> None:
    await full_directory(bench, "d", 1)
    shutil.rmtree(bench.path("d"))
    bench.write("d", b"a file now")

    acts = await bench.look()
    assert names(acts) == ["Deleted d", "Deleted d/sub", "Deleted d/sub/0", "Created d"]

    bench.path("d").unlink()
    bench.write("d/again", b"a directory now")
    acts = await bench.look()
    assert names(acts) == ["Deleted d", "Created d", "Created d/again"]


async def test_B10_a_file_becomes_a_symlink(saved: Bench) -> None:
    saved.path("notes.txt").unlink()
    saved.path("notes.txt").symlink_to("elsewhere")

    assert names(await saved.look()) == ["Deleted notes.txt", "Created notes.txt"]
    saved.path("notes.txt").unlink()
    saved.path("notes.txt").symlink_to("another place")
    assert names(await saved.look()) == ["Edited notes.txt"]


# -- P34 ------------------------------------------------------------------------------------------


async def test_P34_a_scan_finds_the_acts_that_hints_would_have_given(bench: Bench) -> None:
    def change() -> None:
        bench.path("a").rename(bench.path("b"))
        bench.path("d").rename(bench.path("e"))
        bench.write("e/sub/0", b"edited")
        bench.path("gone").unlink()
        bench.write("new", b"new")

    await full_directory(bench, "d")
    bench.write("a", b"one")
    bench.write("gone", b"two")
    bench.age()
    await bench.look()
    change()
    hinted = LookSet(
        paths=(b"a", b"b", b"d", b"e", b"e/sub/0", b"gone", b"new"),
        moves={b"b": b"a", b"e": b"d"},
    )

    by_hints = await bench.look(hinted, fold=False)
    by_scan = await bench.look(fold=False)

    assert sorted(names(by_hints)) == sorted(names(by_scan))
    assert {type(act) for act in by_scan} == {Created, Deleted, Edited, Moved}


def test_the_tests_run_where_renames_keep_inodes(tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.write_bytes(b"")
    inode = one.stat().st_ino
    os.rename(one, tmp_path / "two")
    assert (tmp_path / "two").stat().st_ino == inode


async def test_P36_what_is_made_in_swapped_directories_comes_after_both_moves(
    bench: Bench,
) -> None:
    bench.write("a/a/x", b"1")
    bench.write("b/y", b"2")
    bench.age()
    await bench.look()
    swap(bench, "a", "b")
    bench.write("a/a/z", b"3")

    acts = await bench.look()

    assert names(acts) == ["Moved b a", "Moved a b", "Created a/a", "Created a/a/z"]
    assert bench.in_rows() == bench.on_disk()


async def test_a_path_below_a_replaced_directory_is_not_judged_alone(bench: Bench) -> None:
    await full_directory(bench, "d", 2)
    before = bench.no("d/sub/0")
    bench.path("d").rename(bench.path("e"))
    bench.write("d/sub/0", b"not the former one")

    acts = await bench.look(LookSet(paths=(b"d/sub/0", b"d/sub/1", b"e"), moves={b"e": b"d"}))

    assert names(acts, Deleted) == []
    assert names(acts, Edited) == []
    assert bench.no("e/sub/0") == before
    assert bench.in_rows() == bench.on_disk()


async def test_B10_a_wrapped_file_and_a_directory_swap_names(bench: Bench) -> None:
    bench.write("c", b"of c")
    bench.write("b/a", b"of b")
    bench.age()
    await bench.look()
    bench.path("b").rename(bench.path("t"))
    bench.path("b").mkdir()
    bench.path("c").rename(bench.path("b/a"))
    bench.path("t").rename(bench.path("c"))

    acts = await bench.look()

    assert names(acts) == ["Moved b c", "Created b", "Moved c b/a"]
    assert bench.in_rows() == bench.on_disk()


@pytest.mark.parametrize(
    ("missing", "total", "cause", "is_held"),
    [
        (101, 201, ScanCause.START, True),
        (101, 201, ScanCause.ROOT_FAULT, True),
        (100, 100, ScanCause.START, False),  # few
        (101, 202, ScanCause.START, False),  # not the most of it
        (101, 101, ScanCause.HINTED, False),  # watched being deleted
        (101, 101, ScanCause.ROUTINE, False),
    ],
)
def test_P33_a_mass_deletion_that_nobody_watched_is_held(
    missing: int, total: int, cause: ScanCause, *, is_held: bool
) -> None:
    assert is_mass_deletion(missing, total, cause) is is_held
