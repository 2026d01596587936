from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.nodes import Pair
from tests.e2e.trees import contents, fill, read_tree, write_files

CONFLICT = re.compile(
    r"(?P<stem>.+) \(conflict (?P<label>left|right) \d{4}-\d\d-\d\d [0-9a-f]+\)(?P<suffix>.*)"
)


@pytest.fixture
def here(pair: Pair, request: pytest.FixtureRequest) -> Iterator[tuple[Path, Path]]:
    """The same new directory on both sides; every test leaves the nodes connected."""
    name = request.node.name.removeprefix("test_").split("[")[0][:60]
    (pair.left.folder / name).mkdir()
    pair.agree()
    yield pair.left.folder / name, pair.right.folder / name
    pair.mend()


def copies_in(root: Path) -> list[str]:
    return [name for name in read_tree(root) if CONFLICT.search(name)]


def test_concurrent_edits_are_both_kept_under_the_same_names(
    pair: Pair, here: tuple[Path, Path]
) -> None:
    left, right = here
    write_files(left, {"text.md": b"base"})
    pair.agree()

    pair.cut()
    with pair.left.recording(), pair.right.recording():
        (left / "text.md").write_bytes(b"of the left")
        (right / "text.md").write_bytes(b"of the right")
    pair.mend()
    pair.agree()

    assert contents(left) == contents(right)
    assert sorted(contents(left).values()) == [b"of the left", b"of the right"]
    [copy] = copies_in(left)
    named = CONFLICT.fullmatch(copy)
    assert named is not None
    assert (named["stem"], named["suffix"]) == ("text", ".md")
    assert named["label"].encode() in contents(left)[copy]
    assert pair.left.about()["conflicts"] == pair.right.about()["conflicts"] == 1

    (right / copy).unlink()
    pair.agree()
    assert list(contents(left)) == ["text.md"]
    assert pair.left.about()["conflicts"] == 0


def test_a_conflict_copy_can_be_edited_and_renamed(pair: Pair, here: tuple[Path, Path]) -> None:
    left, right = here
    write_files(left, {"one": b"base", "two": b"base"})
    pair.agree()
    pair.cut()
    with pair.left.recording(2), pair.right.recording(2):
        write_files(left, {"one": b"L1", "two": b"L2"})
        write_files(right, {"one": b"R1", "two": b"R2"})
    pair.mend()
    pair.agree()
    first, second = sorted(copies_in(left))

    (left / first).write_bytes(b"merged")
    (right / second).rename(right / "kept")
    pair.agree()

    after = contents(left)
    assert after[first] == b"merged"
    assert {after["two"], after["kept"]} == {b"L2", b"R2"}
    assert len(after) == 4


def test_the_same_edit_on_both_sides_is_no_conflict(pair: Pair, here: tuple[Path, Path]) -> None:
    left, right = here
    write_files(left, {"text": b"base"})
    pair.agree()

    pair.cut()
    with pair.left.recording(), pair.right.recording():
        write_files(left, {"text": b"agreed"})
        write_files(right, {"text": b"agreed"})
    pair.mend()
    pair.agree()

    assert contents(left) == {"text": b"agreed"}


def test_creating_one_path_on_both_sides(pair: Pair, here: tuple[Path, Path]) -> None:
    left, right = here

    pair.cut()
    with pair.left.recording(4), pair.right.recording(4):
        write_files(left, {"same": b"same", "other": b"L", "dir/left": b"l"})
        write_files(right, {"same": b"same", "other": b"R", "dir/right": b"r"})
    pair.mend()
    pair.agree()

    found = contents(left)
    [copy] = copies_in(left)
    assert {found["other"], found[copy]} == {b"L", b"R"}
    assert found["same"] == b"same"
    assert (found["dir/left"], found["dir/right"]) == (b"l", b"r")
    assert len(found) == 5


def test_an_edit_and_a_rename_both_hold(pair: Pair, here: tuple[Path, Path]) -> None:
    left, right = here
    write_files(left, {"text": b"base", "sub/x": b""})
    pair.agree()

    pair.cut()
    with pair.left.recording(), pair.right.recording():
        (left / "text").write_bytes(b"edited")
        (right / "text").rename(right / "sub" / "renamed")
    pair.mend()
    pair.agree()

    assert contents(left) == {"sub/renamed": b"edited", "sub/x": b""}


def test_an_edit_wins_over_a_delete(pair: Pair, here: tuple[Path, Path]) -> None:
    left, right = here
    write_files(left, {"text": b"base", "other": b"base"})
    pair.agree()

    pair.cut()
    with pair.left.recording(2), pair.right.recording(2):
        (left / "text").write_bytes(b"edited")
        (left / "other").unlink()
        (right / "text").unlink()
        (right / "other").write_bytes(b"edited here")
    pair.mend()
    pair.agree()

    assert contents(left) == {"text": b"edited", "other": b"edited here"}


def test_two_renames_of_one_file_leave_one_file(pair: Pair, here: tuple[Path, Path]) -> None:
    left, right = here
    write_files(left, {"text": b"content"})
    pair.agree()

    pair.cut()
    with pair.left.recording(), pair.right.recording():
        (left / "text").rename(left / "L")
        (right / "text").rename(right / "R")
    pair.mend()
    pair.agree()

    assert len(contents(left)) == 1
    assert list(contents(left).values()) == [b"content"]


def test_a_rename_wins_over_a_delete(pair: Pair, here: tuple[Path, Path]) -> None:
    left, right = here
    write_files(left, {"text": b"content"})
    pair.agree()

    pair.cut()
    with pair.left.recording(), pair.right.recording():
        (left / "text").rename(left / "kept")
        (right / "text").unlink()
    pair.mend()
    pair.agree()

    assert contents(left) == {"kept": b"content"}


def test_a_tree_removed_here_and_renamed_there_stays(pair: Pair, here: tuple[Path, Path]) -> None:
    left, right = here
    fill(left / "tree", 120, seed=7)
    write_files(left, {"tree/sub/deep/file": b"deep"})
    pair.agree()
    before = contents(left / "tree")

    pair.cut()
    with pair.left.recording(), pair.right.recording():
        with pair.left.asleep():  # a busy machine may rest in between: then it is two acts
            shutil.rmtree(left / "tree")
        (right / "tree").rename(right / "renamed")
    pair.mend()
    pair.agree()

    assert contents(left / "renamed") == before
    assert not (right / "tree").exists()


def test_what_is_added_to_a_tree_removed_elsewhere_stays(
    pair: Pair, here: tuple[Path, Path]
) -> None:
    left, right = here
    write_files(left, {"tree/old": b"old", "tree/sub/older": b"older"})
    pair.agree()

    pair.cut()
    with pair.left.recording(4), pair.right.recording():
        shutil.rmtree(left / "tree")
        (right / "tree" / "added").write_bytes(b"added")
    pair.mend()
    pair.agree()

    assert contents(left) == {"tree/added": b"added"}


def test_two_directories_moved_into_each_other_make_no_cycle(
    pair: Pair, here: tuple[Path, Path]
) -> None:
    left, right = here
    write_files(left, {"one/1": b"1", "two/2": b"2"})
    pair.agree()

    pair.cut()
    with pair.left.recording(), pair.right.recording():
        (left / "one").rename(left / "two" / "one")
        (right / "two").rename(right / "one" / "two")
    pair.mend()
    pair.agree()

    assert sorted(contents(left).values()) == [b"1", b"2"]


def test_a_file_and_a_directory_of_one_name(pair: Pair, here: tuple[Path, Path]) -> None:
    left, right = here

    pair.cut()
    with pair.left.recording(), pair.right.recording(2):
        write_files(left, {"name": b"a file"})
        write_files(right, {"name/within": b"in a directory"})
    pair.mend()
    pair.agree()

    found = contents(left)
    assert found.pop("name/within") == b"in a directory"
    [(name, content)] = found.items()
    assert CONFLICT.fullmatch(name)
    assert content == b"a file"
