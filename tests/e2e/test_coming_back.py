"""Leaving a folder and coming back to it: what this disk lacks then was deleted by nobody."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.nodes import Node, Nodes, Pair, eventually

FILES = ("list", "sub/letter")


@pytest.fixture
def settled(tmp_path: Path) -> Iterator[Pair]:
    """Two nodes of this test alone, that hold two files."""
    pair = Pair(tmp_path)
    try:
        pair.meet()
        pair.left.folder.joinpath("sub").mkdir()
        for name in FILES:
            pair.left.folder.joinpath(name).write_text(f"of {name}")
        pair.agree()
        assert_files(pair.right.folder)
        yield pair
    finally:
        pair.end()
    assert not pair.complaints()


def assert_files(*roots: Path) -> None:
    for root in roots:
        for name in FILES:
            assert root.joinpath(name).read_text() == f"of {name}"


def join_at(pair: Pair, path: Path) -> None:
    pair.right.folder = path
    pair.join(pair.left, pair.right)


def test_I1_who_comes_back_to_another_path_deletes_nothing(settled: Pair, tmp_path: Path) -> None:
    before, path = settled.right.folder, tmp_path / "another" / "shared"
    settled.right.must("leave", "shared")

    join_at(settled, path)
    settled.agree()

    assert_files(settled.left.folder, path, before)


def test_I1_who_comes_back_to_a_path_that_was_emptied_deletes_nothing(settled: Pair) -> None:
    settled.right.must("leave", "shared")
    shutil.rmtree(settled.right.folder)

    join_at(settled, settled.right.folder)
    settled.agree()

    assert_files(settled.left.folder, settled.right.folder)
    verified = settled.right.dizzyd("verify")
    assert (verified.code, verified.out) == (0, "")


def test_I1_a_moved_folder_that_is_shared_again_binds_what_it_holds(
    settled: Pair, tmp_path: Path
) -> None:
    settled.right.must("leave", "shared")
    events = settled.left.events()
    moved = tmp_path / "moved" / "shared"
    moved.parent.mkdir()
    settled.right.folder.rename(moved)
    moved.joinpath("list").unlink()

    settled.right.folder = moved
    settled.right.must("share", str(moved))
    settled.agree()

    assert_files(settled.left.folder, moved)
    assert settled.left.events() == events


def test_who_comes_back_to_the_same_files_goes_on_where_it_was(settled: Pair) -> None:
    left, right = settled.left, settled.right
    right.must("leave", "shared")
    right.folder.joinpath("list").unlink()
    right.folder.joinpath("sub/letter").write_text("edited meanwhile")

    right.must("share", str(right.folder))
    eventually("the deletion goes on", lambda: not left.folder.joinpath("list").exists())
    settled.agree()

    assert left.folder.joinpath("sub/letter").read_text() == "edited meanwhile"
    assert left.about()["conflicts"] == 0


def test_an_owner_alone_may_share_a_moved_folder_again(nodes: Nodes, tmp_path: Path) -> None:
    owner: Node = nodes.add("owner")
    owner.start()
    nodes.share(owner)
    owner.folder.joinpath("list").write_text("of list")
    eventually("it is recorded", lambda: owner.about()["files"] == 1)
    owner.must("leave", "shared")
    moved = tmp_path / "moved" / "shared"
    moved.parent.mkdir()
    owner.folder.rename(moved)

    owner.must("share", str(moved))
    moved.joinpath("new").write_text("new")

    eventually("it works", lambda: owner.about()["files"] == 2 and _is_idle(owner))


def _is_idle(node: Node) -> bool:
    about = node.about()
    return (about["state"], about["problems"]) == ("idle", [])
