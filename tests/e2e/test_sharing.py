from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.nodes import Pair, eventually, sized
from tests.e2e.trees import (
    contents,
    copy_standard_library,
    fill,
    noise,
    read_tree,
    standing,
    write_files,
    write_large,
)

NO_CONTENT_BYTES = 24_000  # what events, heads and pings may take while no content is sent


@pytest.fixture
def here(pair: Pair, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """The same new directory on both sides, one for each test."""
    name = request.node.name.removeprefix("test_").split("[")[0][:60]
    (pair.left.folder / name).mkdir()
    pair.agree()
    return pair.left.folder / name, pair.right.folder / name


def test_a_new_file_appears_with_mode_and_mtime(pair: Pair, here: tuple[Path, Path]) -> None:
    left, right = here

    write_files(left, {"notes.txt": b"hello", "deep/er/script": b"#!/bin/sh\n", "empty": b""})
    (left / "deep/er/script").chmod(0o755)
    os.utime(left / "notes.txt", ns=(1, 1_500_000_000_123_456_789))
    (left / "empty directory").mkdir()
    (left / "link").symlink_to("deep/nowhere")
    pair.agree()

    assert (right / "notes.txt").stat().st_mtime_ns == 1_500_000_000_123_456_789
    assert os.access(right / "deep/er/script", os.X_OK)
    assert (right / "link").readlink() == Path("deep/nowhere")


def test_changes_of_either_side_reach_the_other(pair: Pair, here: tuple[Path, Path]) -> None:
    left, right = here

    write_files(left, {"a": b"1", "b": b"1", "c": b"1"})
    pair.agree()
    (right / "a").write_bytes(b"22")
    (right / "b").rename(right / "renamed")
    (right / "c").unlink()
    (right / "d").write_bytes(b"new")
    pair.agree()

    assert contents(left) == {"a": b"22", "renamed": b"1", "d": b"new"}
    (left / "a").chmod(0o755)
    os.utime(left / "renamed", ns=(1, 10**18))
    pair.agree()
    assert os.access(right / "a", os.X_OK)
    assert (right / "renamed").stat().st_mtime_ns == 10**18


def test_appending_and_truncating_are_edits(pair: Pair, here: tuple[Path, Path]) -> None:
    left, right = here
    (left / "log").write_bytes(b"one\n")
    pair.agree()

    with (left / "log").open("ab") as file:
        file.write(b"two\n")
    pair.agree()
    assert (right / "log").read_bytes() == b"one\ntwo\n"
    os.truncate(right / "log", 2)
    pair.agree()
    assert (left / "log").read_bytes() == b"on"


def test_a_rename_is_one_event_and_sends_no_content(pair: Pair, here: tuple[Path, Path]) -> None:
    left, right = here
    (left / "sub").mkdir()
    (left / "large").write_bytes(noise(300_000, seed=1))
    pair.agree()
    events, passed, inode = pair.left.events(), pair.passed_bytes, (right / "large").stat().st_ino

    (left / "large").rename(left / "sub" / "moved")
    pair.agree()

    assert pair.left.events() == events + 1
    assert pair.passed_bytes - passed < NO_CONTENT_BYTES
    assert (right / "sub" / "moved").stat().st_ino == inode


def test_a_swap_of_two_names_keeps_both_files(pair: Pair, here: tuple[Path, Path]) -> None:
    left, right = here
    write_files(left, {"a": noise(200_000, seed=2), "b": noise(200_000, seed=3)})
    pair.agree()
    before, passed = contents(left), pair.passed_bytes

    (left / "a").rename(left / "aside")
    (left / "b").rename(left / "a")
    (left / "aside").rename(left / "b")
    pair.agree()

    assert contents(right) == {"a": before["b"], "b": before["a"]}
    assert pair.passed_bytes - passed < NO_CONTENT_BYTES


def test_a_ring_of_directories_turns(pair: Pair, here: tuple[Path, Path]) -> None:
    left, right = here
    write_files(left, {f"{name}/{name}{n}": name.encode() for name in "abc" for n in range(5)})
    pair.agree()

    (left / "a").rename(left / "aside")
    (left / "b").rename(left / "a")
    (left / "c").rename(left / "b")
    (left / "aside").rename(left / "c")
    pair.agree()

    assert {name.partition("/")[0] + found.decode() for name, found in contents(right).items()} == {
        "ab",
        "bc",
        "ca",
    }


def test_a_directory_turned_inside_out(pair: Pair, here: tuple[Path, Path]) -> None:
    left, right = here
    write_files(left, {"outer/inner/file": b"x", "outer/beside": b"y"})
    pair.agree()

    (left / "outer" / "inner").rename(left / "aside")
    (left / "outer").rename(left / "aside" / "outer")
    (left / "aside").rename(left / "inner")
    pair.agree()

    assert contents(right) == {"inner/file": b"x", "inner/outer/beside": b"y"}


def test_a_file_becomes_a_directory_and_back(pair: Pair, here: tuple[Path, Path]) -> None:
    left, right = here
    write_files(left, {"thing": b"a file", "other/in": b"1"})
    pair.agree()

    (left / "thing").unlink()
    write_files(left, {"thing/within": b"2"})
    shutil.rmtree(left / "other")
    (left / "other").symlink_to("thing")
    pair.agree()
    assert contents(right) == {"thing/within": b"2"}
    assert (right / "other").is_symlink()

    shutil.rmtree(right / "thing")
    (right / "thing").write_bytes(b"a file again")
    pair.agree()
    assert (left / "thing").read_bytes() == b"a file again"


@pytest.mark.parametrize(
    "name", ["näme", "with\nnewline", "e\u0301", " ", "-rf", "a" * 255, "\x1b[31m"]
)
def test_any_name_that_is_one(pair: Pair, here: tuple[Path, Path], name: str) -> None:
    left, right = here

    (left / name).write_bytes(b"content")
    pair.agree()

    assert (right / name).read_bytes() == b"content"
    (left / name).unlink()
    pair.agree()  # its directory stays: nothing is looked for there under a name that cannot be
    assert not (right / name).exists()
    left.rmdir()
    pair.agree()
    assert not right.exists()


def test_names_that_are_no_text(pair: Pair, here: tuple[Path, Path]) -> None:
    left, right = here
    name = os.fsdecode(b"\xff\xfe latin \xe9")

    (left / name).write_bytes(b"content")
    pair.agree()

    assert (right / name).read_bytes() == b"content"


# -- what editors do -------------------------------------------------------------------------------


def _replace(path: Path, content: bytes) -> None:
    """Write beside and rename over: most editors, and every careful program."""
    beside = path.with_name(f"{path.name}.new-4711")
    beside.write_bytes(content)
    beside.rename(path)


def _with_backup(path: Path, content: bytes) -> None:
    """Move the old file to NAME~ and write a new one: vim with backup, emacs."""
    path.rename(path.with_name(path.name + "~"))
    path.write_bytes(content)


def _with_removed_backup(path: Path, content: bytes) -> None:
    """As above, and the backup goes at once: vim with writebackup alone."""
    backup = path.with_name(path.name + "~")
    path.rename(backup)
    path.write_bytes(content)
    backup.unlink()


def _in_place(path: Path, content: bytes) -> None:
    """Truncate and write: nano, echo."""
    path.write_bytes(content)


def _deleted_first(path: Path, content: bytes) -> None:
    """Unlink, then write anew."""
    path.unlink()
    path.write_bytes(content)


def _copied_aside(path: Path, content: bytes) -> None:
    """Copy the old one to a backup that stays, and write in place."""
    shutil.copy2(path, path.with_name(path.name + ".bak"))
    path.write_bytes(content)


def _with_swap(path: Path, content: bytes) -> None:
    """Keep a swap file while open, and probe with 4913: vim."""
    swap = path.with_name(f".{path.name}.swp")
    swap.write_bytes(b"swap")
    path.with_name("4913").write_bytes(b"")
    path.with_name("4913").unlink()
    _with_removed_backup(path, content)
    swap.unlink()


def _holds(path: Path, content: bytes) -> bool:
    return path.read_bytes() == content


@pytest.mark.parametrize(
    "save",
    [
        _replace,
        _with_backup,
        _with_removed_backup,
        _in_place,
        _deleted_first,
        _copied_aside,
        _with_swap,
    ],
)
def test_a_save_of_an_editor_is_one_edit(
    pair: Pair, here: tuple[Path, Path], save: object, request: pytest.FixtureRequest
) -> None:
    left, right = here
    path = left / "text"
    path.write_bytes(b"first")
    pair.agree()
    keeps = 2 if save is _copied_aside else 0  # the backup is a file, and then gets its time

    for version in (b"second", b"the third one"):
        events = pair.left.events()
        save(path, version)  # type: ignore[operator]
        eventually("it arrives", partial(_holds, right / "text", version))
        eventually(
            "all is recorded",
            lambda: pair.left.about()["state_root"] == pair.right.about()["state_root"],
        )
        assert pair.left.events() - events <= 1 + keeps

    assert set(contents(right)) <= {"text", "text.bak"}
    if save is _with_backup:
        (left / "text~").unlink()
    shutil.rmtree(left)
    pair.agree()


# -- much, and large -------------------------------------------------------------------------------


def test_the_standard_library(pair: Pair, here: tuple[Path, Path]) -> None:
    left, right = here

    copy_standard_library(left / "lib", is_whole=sized(0, 1) == 1)
    pair.agree(within_s=60)
    assert len(read_tree(right)) > sized(400, 3000)

    for path in sorted((right / "lib").glob("*/*.py"))[:40]:
        path.write_bytes(path.read_bytes() + b"\n# edited\n")
    for path in sorted((right / "lib").glob("*.py"))[:40]:
        path.rename(path.with_suffix(".renamed"))
    shutil.rmtree(right / "lib" / "encodings")
    pair.agree()
    shutil.rmtree(left / "lib")
    pair.agree()
    assert not read_tree(right)


def test_a_large_file_and_an_edit_inside_it(pair: Pair, here: tuple[Path, Path]) -> None:
    left, right = here
    size = sized(64 << 20, 2 << 30)

    write_large(left / "large", size, seed=4)
    pair.agree(within_s=sized(60, 300))
    passed = pair.passed_bytes
    with (left / "large").open("r+b") as file:
        file.seek(size // 2)
        file.write(b"a few bytes in the middle")
    pair.agree(within_s=sized(60, 300))

    assert pair.passed_bytes - passed < size // 8
    (right / "large").unlink()
    pair.agree()


def test_a_directory_of_many_files_is_renamed_by_one_event(
    pair: Pair, here: tuple[Path, Path]
) -> None:
    left, right = here
    fill(left / "many", sized(2000, 10_000), seed=5)
    pair.agree(within_s=120)
    events, passed = pair.left.events(), pair.passed_bytes
    before = standing(right / "many")

    (left / "many").rename(left / "many renamed")
    pair.agree()

    assert pair.left.events() == pair.right.events() == events + 1
    assert pair.passed_bytes - passed < NO_CONTENT_BYTES
    after = standing(right / "many renamed")
    assert [after[name.replace("/many/", "/many renamed/")] for name in before] == list(
        before.values()
    )
    shutil.rmtree(right / "many renamed")
    pair.agree()


def test_a_tree_copied_and_removed_at_once(pair: Pair, here: tuple[Path, Path]) -> None:
    left, right = here
    fill(left / "one", 300, seed=6)
    pair.agree()

    shutil.copytree(left / "one", left / "two")
    shutil.rmtree(left / "one")
    pair.agree()

    assert len(contents(right)) == 300
