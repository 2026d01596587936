from __future__ import annotations

import shutil

import pytest

from tests.e2e.nodes import Node, Nodes, agree, eventually, sized
from tests.e2e.trees import contents, fill, standing, write_files

COUNT = sized(2000, 20_000)
LONGEST_BYTES = 4000


def start_with(nodes: Nodes, name: str, seed: int | None = 1, count: int = COUNT) -> Node:
    node = nodes.add(name)
    node.folder.mkdir()
    if seed is not None:
        fill(node.folder, count, seed=seed, longest_bytes=LONGEST_BYTES)
    node.start()
    return node


def assert_nothing_was_sent_or_written(
    nodes: Nodes, before: dict[str, object], content_bytes: int
) -> None:
    left, right = nodes.all[:2]
    assert standing(left.folder) | standing(right.folder) == before
    assert not [name for name in left.tree() if "conflict" in name]
    # the log itself takes about 100 bytes a file
    assert nodes.passed_bytes < content_bytes / 4


def test_both_have_the_same_files_when_they_meet(nodes: Nodes) -> None:
    left, right = start_with(nodes, "left"), start_with(nodes, "right")
    before: dict[str, object] = {**standing(left.folder), **standing(right.folder)}
    content_bytes = sum(map(len, contents(left.folder).values()))

    nodes.share(left)
    eventually("the left one imports", lambda: left.about()["files"] == COUNT, within_s=120)
    left.must("scan", "shared")
    nodes.join(left, right)
    agree(left, right, within_s=120, with_times=False)

    assert_nothing_was_sent_or_written(nodes, before, content_bytes)
    (right.folder / "d0000" / "f00000").write_bytes(b"and goes on")
    eventually(
        "an edit arrives", lambda: (left.folder / "d0000/f00000").read_bytes() == b"and goes on"
    )


def test_the_second_joins_while_the_first_still_imports(nodes: Nodes) -> None:
    left, right = start_with(nodes, "left"), start_with(nodes, "right")
    before: dict[str, object] = {**standing(left.folder), **standing(right.folder)}
    content_bytes = sum(map(len, contents(left.folder).values()))

    nodes.share(left)
    nodes.join(left, right)
    agree(left, right, within_s=120, with_times=False)

    assert left.about()["files"] == right.about()["files"] == COUNT
    assert_nothing_was_sent_or_written(nodes, before, content_bytes)


def test_a_joiner_with_other_files_merges(nodes: Nodes) -> None:
    left, right = start_with(nodes, "left", seed=None), start_with(nodes, "right", seed=None)
    write_files(left.folder, {"same": b"same", "differs": b"L", "d/left": b"1", "gone/x": b"x"})
    write_files(right.folder, {"same": b"same", "differs": b"R", "d/right": b"2"})
    nodes.share(left)
    eventually("the left one imports", lambda: left.about()["files"] == 4)

    nodes.join(left, right)
    agree(left, right, with_times=False)

    found = contents(left.folder)
    assert sorted(found.values()) == sorted([b"same", b"L", b"R", b"1", b"2", b"x"])
    assert len([name for name in found if "conflict" in name]) == 1


def test_a_joiner_with_an_empty_folder_deletes_nothing(nodes: Nodes) -> None:
    left, right = start_with(nodes, "left", count=200), start_with(nodes, "right", seed=None)
    nodes.share(left)

    nodes.join(left, right)
    agree(left, right)

    assert right.about()["files"] == 200


@pytest.mark.parametrize("command", ["leave"])
def test_leaving_and_joining_the_same_path_goes_on(nodes: Nodes, command: str) -> None:
    left, right = start_with(nodes, "left", count=200), start_with(nodes, "right", seed=None)
    nodes.share(left)
    nodes.join(left, right)
    agree(left, right)
    before = standing(right.folder)

    right.must(command, "shared")
    assert right.status()["folders"] == []
    assert standing(right.folder) == before
    (left.folder / "meanwhile").write_bytes(b"new")
    (right.folder / "d0000" / "f00001").write_bytes(b"edited while away")
    nodes.join(left, right)
    agree(left, right)

    found = contents(left.folder)
    assert found["meanwhile"] == b"new"
    assert found["d0000/f00001"] == b"edited while away"
    assert not [name for name in found if "conflict" in name]


def test_the_owner_leaves_and_shares_again(nodes: Nodes) -> None:
    left, right = start_with(nodes, "left", count=50), start_with(nodes, "right", seed=None)
    nodes.share(left)
    nodes.join(left, right)
    agree(left, right)
    identity = left.about()["id"]

    left.must("leave", "shared")
    (right.folder / "meanwhile").write_bytes(b"new")
    shutil.rmtree(left.folder / "d0000")
    assert left.must("share", str(left.folder)) == identity
    agree(left, right)

    assert set(contents(left.folder)) == {"meanwhile"}
