from __future__ import annotations

import shutil

import pytest

from tests.e2e.nodes import Node, Nodes, Pair, agree, eventually, sized, start_all
from tests.e2e.trees import contents, fill, noise, write_files

MANY = sized(600, 10_000)


def files_at(pair: Pair, side: str) -> int:
    node = getattr(pair, side)
    return sum(path.is_file() for path in node.folder.glob("[!.]*/*"))


@pytest.fixture
def fresh(pair: Pair) -> Pair:
    """The pair with an empty folder."""
    for path in list(pair.left.folder.iterdir()):
        if path.name != ".dizzyd":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    pair.agree()
    return pair


@pytest.mark.parametrize("victim", ["left", "right"])
def test_F1_a_kill_while_many_files_arrive(fresh: Pair, victim: str) -> None:
    fill(fresh.left.folder, MANY, seed=11)
    before = contents(fresh.left.folder)
    eventually("some arrive", lambda: files_at(fresh, "right") > MANY // 20)

    node = getattr(fresh, victim)
    node.kill()
    node.start()
    fresh.agree(within_s=60)

    assert contents(fresh.right.folder) == before


@pytest.fixture
def slow(nodes: Nodes) -> tuple[Node, Node]:
    """Two nodes that share a folder; the right one takes 6 MiB/s, so that a kill finds a moment."""
    left, right = nodes.add("left"), nodes.add("right")
    with right.config.open("a") as config:
        config.write('\n[limits]\ndownload = "6 MiB/s"\n')
    start_all(left, right)
    nodes.share(left)
    nodes.join(left, right)
    agree(left, right)
    return left, right


@pytest.mark.parametrize("victim", ["left", "right"])
def test_F8_P47_a_kill_while_a_large_file_arrives_resumes_it(
    slow: tuple[Node, Node], nodes: Nodes, victim: str
) -> None:
    left, right = slow
    size = 24 << 20
    content = noise(size, seed=ord(victim[0]))
    (left.folder / "large").write_bytes(content)
    held: list[int] = []

    def most_is_here() -> bool:
        files = (right.folder / ".dizzyd" / "tmp").glob("fetch*")
        held[:] = [file.stat().st_size for file in files]
        return sum(held) >= size * 6 // 10

    eventually("most of it is on the disk", most_is_here)

    node = left if victim == "left" else right
    node.kill()
    passed = nodes.passed_bytes
    assert sum(held) < size
    node.start()
    agree(left, right, within_s=60)

    assert (right.folder / "large").read_bytes() == content
    # A chunk list is 10 kB; a chunk that was cut short is sent whole.
    assert nodes.passed_bytes - passed < size - sum(held) + (2 << 20)


@pytest.mark.parametrize("victim", ["left", "right"])
def test_a_kill_while_a_tree_is_deleted(fresh: Pair, victim: str) -> None:
    fill(fresh.left.folder, MANY, seed=13)
    fresh.agree(within_s=60)

    for number in range(MANY // 200):
        shutil.rmtree(fresh.left.folder / f"d{number:04}")
    eventually("the first is gone", lambda: files_at(fresh, "right") < MANY)
    node = getattr(fresh, victim)
    node.kill()
    node.start()
    fresh.agree(within_s=60)

    assert files_at(fresh, "left") == MANY - MANY // 200 * 100


@pytest.mark.parametrize("victim", ["left", "right"])
def test_a_kill_in_the_middle_of_edits_and_renames(fresh: Pair, victim: str) -> None:
    fill(fresh.left.folder, 200, seed=14)
    fresh.agree()
    (fresh.left.folder / "d0000").rename(fresh.left.folder / "renamed")
    for number in range(100, 150):
        (fresh.left.folder / "d0001" / f"f{number:05}").write_bytes(b"edited %d" % number)
    (fresh.left.folder / "d0001" / "f00160").rename(fresh.left.folder / "d0001" / "aside")
    (fresh.left.folder / "d0001" / "f00161").rename(fresh.left.folder / "d0001" / "f00160")
    (fresh.left.folder / "d0001" / "aside").rename(fresh.left.folder / "d0001" / "f00161")
    before = contents(fresh.left.folder)

    node = getattr(fresh, victim)
    node.kill()
    node.start()
    fresh.agree()

    assert contents(fresh.left.folder) == before


def test_changes_made_while_killed_are_found_at_the_start(fresh: Pair) -> None:
    fill(fresh.left.folder, 200, seed=15)
    fresh.agree()
    fresh.left.kill()

    write_files(fresh.left.folder, {"new": b"new", "d0000/f00003": b"edited"})
    (fresh.left.folder / "d0000" / "f00004").unlink()
    (fresh.left.folder / "d0001").rename(fresh.left.folder / "renamed")
    before = contents(fresh.left.folder)
    fresh.left.start()
    fresh.agree()

    assert contents(fresh.right.folder) == before


def test_both_killed_with_concurrent_edits(fresh: Pair) -> None:
    write_files(fresh.left.folder, {"text": b"base"})
    fresh.agree()
    fresh.cut()
    (fresh.left.folder / "text").write_bytes(b"of the left")
    (fresh.right.folder / "text").write_bytes(b"of the right")

    for node in (fresh.left, fresh.right):
        node.kill()
    fresh.mend()
    start_all(fresh.left, fresh.right)
    fresh.agree()

    assert sorted(contents(fresh.left.folder).values()) == [b"of the left", b"of the right"]


def test_a_kill_during_the_import(nodes: Nodes) -> None:
    left, right = nodes.add("left"), nodes.add("right")
    left.folder.mkdir()
    fill(left.folder, MANY * 2, seed=16)
    start_all(left, right)
    nodes.share(left)
    nodes.join(left, right)

    left.kill()
    left.start()
    agree(left, right, within_s=90)

    assert len(contents(right.folder)) == MANY * 2


def test_a_kill_of_both_while_they_bind_equal_files(nodes: Nodes) -> None:
    left, right = nodes.add("left"), nodes.add("right")
    for node in (left, right):
        node.folder.mkdir()
        fill(node.folder, MANY, seed=17)
        node.start()
    nodes.share(left)
    nodes.join(left, right)

    for node in (right, left):
        node.kill()
    start_all(left, right)
    agree(left, right, within_s=90, with_times=False)

    assert len(contents(left.folder)) == MANY
    assert not [name for name in contents(left.folder) if "conflict" in name]


def test_a_stalled_line_is_left_and_work_goes_on(fresh: Pair) -> None:
    passed = fresh.passed_bytes
    (fresh.left.folder / "large").write_bytes(noise(24 << 20, seed=18))
    eventually("some of it arrives", lambda: fresh.passed_bytes - passed > 1 << 20)
    relays = [node.relay for node in (fresh.left, fresh.right) if node.relay is not None]
    for relay in relays:
        relay.stall()
    (fresh.right.folder / "meanwhile").write_bytes(b"written")

    eventually("it is noticed", lambda: fresh.right.about()["state"] != "scanning")
    for relay in relays:
        relay.open()
    fresh.agree(within_s=60)

    assert (fresh.left.folder / "meanwhile").read_bytes() == b"written"
