"""Checkpoints, and logs that are let go below them, between real processes."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.e2e.nodes import Node, Nodes, agree, eventually
from tests.e2e.trees import write_files

SAVES = 70


def add(nodes: Nodes, name: str, *, prunes: bool) -> Node:
    """Make a node that makes checkpoints soon."""
    node = nodes.add(name)
    node.program = "tests.e2e.impatient"
    if prunes:
        with node.config.open("a") as config:
            config.write('\n[history]\nlog = "live"\n')
    return node


def save_often(node: Node, path: Path, what: str) -> None:
    """Save a file so that each save is a batch."""
    before = node.about()["log"]["batches"]
    for number in range(SAVES):
        path.write_text(f"{what} {number}")

        def is_recorded(least: int = before + number + 1) -> bool:
            return int(node.about()["log"]["batches"]) >= least

        eventually("a save is recorded", is_recorded)


def let_go(node: Node) -> int:
    """Count the batches of which a node keeps the place alone."""
    with closing(sqlite3.connect(f"file:{node.home / 'database'}?mode=ro", uri=True)) as db:
        (number,) = db.execute("SELECT count(*) FROM batch WHERE header = x''").fetchone()
    return int(number)


def history(node: Node, path: Path) -> dict[str, Any]:
    """Ask what became of a file."""
    ended = node.dizzyd("history", str(path), "--json")
    assert ended.code == 0, ended
    found: dict[str, Any] = json.loads(ended.out)["objects"][0]
    return found


def is_well(*nodes: Node) -> None:
    """Read everything back, by the daemon and without it."""
    for node in nodes:
        node.must("verify")
        root = node.about()["state_root"]
        node.must("rebuild")
        assert node.about()["state_root"] == root


def test_P10_who_joins_begins_with_the_snapshot_of_a_checkpoint(nodes: Nodes) -> None:
    left, right = add(nodes, "left", prunes=False), add(nodes, "right", prunes=False)
    left.start()
    nodes.share(left)
    save_often(left, left.folder / "a.txt", "left")
    eventually("a checkpoint is made", lambda: b"checkpoint made" in left.log.read_bytes())
    right.start()

    nodes.join(left, right)
    agree(left, right)

    assert b"begun with a snapshot" in right.log.read_bytes()
    assert let_go(right) > SAVES // 2
    assert let_go(left) == 0
    assert history(right, right.folder / "a.txt")["left_out"] > SAVES // 2
    is_well(left, right)


def test_P12_logs_are_let_go_and_who_was_away_goes_on_with_the_snapshot(nodes: Nodes) -> None:
    left, right = add(nodes, "left", prunes=True), add(nodes, "right", prunes=False)
    left.start()
    right.start()
    nodes.share(left)
    nodes.join(left, right)
    write_files(left.folder, {"b.txt": b"both", "gone.txt": b"will go"})
    agree(left, right)
    right.kill()  # and it is away for longer than anybody waits
    save_often(left, left.folder / "a.txt", "left")
    (left.folder / "gone.txt").unlink()
    eventually("the log is let go", lambda: let_go(left) > SAVES // 2)
    left.kill()
    left.start()
    write_files(right.folder, {"b.txt": b"edited while away", "own.txt": b"only here"})

    right.start()
    agree(left, right, within_s=60)

    assert b"goes on with a snapshot" in right.log.read_bytes()
    assert let_go(right) > SAVES // 2
    assert (left.folder / "b.txt").read_bytes() == b"edited while away"
    assert (left.folder / "own.txt").read_bytes() == b"only here"
    assert not (right.folder / "gone.txt").exists()
    assert (right.folder / "a.txt").read_text() == f"left {SAVES - 1}"
    is_well(left, right)
    write_files(right.folder, {"after.txt": b"after"})
    agree(left, right)


def test_a_member_that_lets_go_fetches_the_owners_snapshot_and_waits_for_all(
    nodes: Nodes,
) -> None:
    left, right = add(nodes, "left", prunes=False), add(nodes, "right", prunes=True)
    left.start()
    right.start()
    nodes.share(left)
    nodes.join(left, right)
    agree(left, right)

    save_often(left, left.folder / "a.txt", "left")
    eventually("the log is let go", lambda: let_go(right) > SAVES // 2)

    assert let_go(left) == 0  # it was not asked to
    assert history(left, left.folder / "a.txt")["left_out"] == 0
    agree(left, right)
    is_well(left, right)
