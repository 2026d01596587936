from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.e2e.nodes import Node, Nodes, Pair, eventually
from tests.e2e.trees import Tree, read_tree, write_files


def history(node: Node, path: Path) -> dict[str, Any]:
    ended = node.dizzyd("history", "--json", str(path))
    assert ended.code == 0, ended
    found: dict[str, Any] = json.loads(ended.out)
    return found


def hashes(node: Node, path: Path) -> list[str]:
    return [e["hash"] for e in history(node, path)["objects"][0]["events"] if e["hash"]]


def now() -> str:
    """Give the present moment; whatever is recorded from now on is later."""
    at_s = time.time()
    eventually("the clock goes on", lambda: time.time() > at_s + 0.005)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_s)) + f".{int(at_s % 1 * 1000):03d}Z"


def edit(node: Node, path: Path, content: bytes) -> None:
    with node.recording():
        path.write_bytes(content)


def below(tree: Tree, name: str) -> Tree:
    return {path: what for path, what in tree.items() if path.startswith(name)}


def test_any_past_state_the_first_of_three_versions(pair: Pair) -> None:
    left, right = pair.left, pair.right
    for content in (b"one", b"two, longer", b"three"):
        edit(left, left.folder / "thrice.txt", content)
        pair.agree()

    versions = hashes(right, right.folder / "thrice.txt")
    assert len(versions) == 3
    right.must("restore", str(right.folder / "thrice.txt"), "--at", versions[0][:8])
    pair.agree()

    assert (left.folder / "thrice.txt").read_bytes() == b"one"
    assert (right.folder / "thrice.txt").read_bytes() == b"one"
    events = history(left, left.folder / "thrice.txt")["objects"][0]["events"]
    assert [(e["what"], e["name"]) for e in events] == [
        ("created", "left"),
        ("changed", "left"),
        ("changed", "left"),
        ("changed", "right"),
    ]


def test_restore_without_a_time_brings_the_version_before_and_what_was_deleted(
    pair: Pair,
) -> None:
    left = pair.left
    path = left.folder / "undo.txt"
    edit(left, path, b"before")
    edit(left, path, b"after")
    pair.agree()

    pair.right.must("restore", str(pair.right.folder / "undo.txt"))
    pair.agree()
    assert path.read_bytes() == b"before"

    with left.recording():
        path.unlink()
    pair.agree()
    pair.right.must("restore", str(pair.right.folder / "undo.txt"))
    pair.agree()
    assert path.read_bytes() == b"before"


def test_any_past_state_a_deleted_directory_byte_for_byte(pair: Pair) -> None:
    left, right = pair.left, pair.right
    root = left.folder / "album"
    with left.recording():
        write_files(root, {"a/one.bin": os.urandom(70_000), "a/b/two": b"2", "top": b""})
        (root / "empty").mkdir()
        (root / "link").symlink_to("a/../top")
        (root / "run").write_bytes(b"#!/bin/sh\n")
        (root / "run").chmod(0o755)
        os.utime(root / "a/one.bin", ns=(10**18, 10**18 + 123_456_789))
    pair.agree()
    was = below(left.tree(), "album")

    with left.recording():
        shutil.rmtree(root)
    pair.agree()
    assert not (right.folder / "album").exists()
    right.must("restore", str(right.folder / "album"))
    pair.agree()

    assert below(right.tree(), "album") == was
    assert below(left.tree(), "album") == was


def test_any_past_state_a_directory_at_a_time_and_what_came_later_stays(
    pair: Pair, tmp_path: Path
) -> None:
    left = pair.left
    root = left.folder / "work"
    with left.recording():
        write_files(root, {"kept": b"kept", "edited": b"old", "gone": b"gone", "named": b"named"})
    pair.agree()
    was, at = read_tree(root), now()
    with left.recording(4):
        (root / "edited").write_bytes(b"new")
        (root / "gone").unlink()
        (root / "named").rename(root / "renamed")
        (root / "later").write_bytes(b"later")
    pair.agree()

    elsewhere = tmp_path / "work of then"
    left.must("restore", str(root), "--at", at, "--to", str(elsewhere))
    assert read_tree(elsewhere) == was
    ended = left.dizzyd("restore", str(root), "--at", at)
    assert ended.code == 0, ended
    pair.agree()

    now_there = read_tree(pair.right.folder / "work")
    assert {name: now_there[name] for name in was} == was
    assert sorted(now_there.keys() - was.keys()) == ["later", "renamed"]
    assert "came later, left: work/later" in ended.out
    assert (root / "edited").read_bytes() == b"old"
    assert len(hashes(left, root / "edited")) == 3


def test_history_follows_renames_and_says_who_had_a_name(pair: Pair) -> None:
    left, right = pair.left, pair.right
    edit(left, left.folder / "chain-a", b"chain")
    for old, new in (("chain-a", "chain-b"), ("chain-b", "chain-c")):
        pair.agree()
        with left.recording():
            (left.folder / old).rename(left.folder / new)
    pair.agree()
    edit(right, right.folder / "chain-b", b"another file of that name")
    pair.agree()

    [chain] = history(right, right.folder / "chain-c")["objects"]
    assert [e["source"] for e in chain["events"]] == [None, "chain-a", "chain-b"]
    assert [e["path"] for e in chain["events"]] == ["chain-a", "chain-b", "chain-c"]
    objects = history(right, right.folder / "chain-b")["objects"]
    assert [(one["path"], one["is_here"]) for one in objects] == [
        ("chain-b", True),
        ("chain-c", False),
    ]
    ended = right.dizzyd("history", str(right.folder / "chain-b"))
    assert "2 objects had this name" in ended.out


def test_a_version_that_only_the_other_node_keeps_is_found_there(nodes: Nodes) -> None:
    """Who edits keeps nothing of what was; who got the edit keeps the version before."""
    left, right = nodes.add("left"), nodes.add("right")
    for node in (left, right):
        node.start()
    nodes.share(left)
    nodes.join(left, right)
    path = left.folder / "kept.txt"
    edit(left, path, b"first")
    eventually("arrived", lambda: (right.folder / "kept.txt").read_bytes() == b"first")
    edit(left, path, b"second")
    eventually("replaced", lambda: (right.folder / "kept.txt").read_bytes() == b"second")
    eventually("kept", lambda: right.about()["history"] == {"versions": 1, "bytes": 5})

    first = history(left, path)["objects"][0]["events"][0]
    assert first["places"] == ["right"]
    right.stop()
    ended = left.dizzyd("restore", str(path))
    assert ended.code == 75, ended
    assert "at no node at hand: kept.txt" in ended.out
    assert path.read_bytes() == b"second"

    right.start()
    eventually("connected", lambda: left.status()["peers"][0]["connected"])
    eventually("restored", lambda: left.dizzyd("restore", str(path)).code == 0)
    assert path.read_bytes() == b"first"
    eventually("shared", lambda: (right.folder / "kept.txt").read_bytes() == b"first")


def test_a_renamed_file_gets_its_old_bytes_under_its_name_of_today_while_nobody_is_there(
    nodes: Nodes,
) -> None:
    left, right = nodes.add("left"), nodes.add("right")
    for node in (left, right):
        node.start()
    nodes.share(left)
    nodes.join(left, right)
    edit(left, left.folder / "first name", b"old bytes")
    eventually("arrived", lambda: (right.folder / "first name").read_bytes() == b"old bytes")
    at = now()
    with left.recording():
        (left.folder / "first name").rename(left.folder / "second name")
    edit(left, left.folder / "second name", b"new bytes")
    there = right.folder / "second name"
    eventually("renamed and edited", lambda: there.read_bytes() == b"new bytes")
    left.stop()

    right.must("restore", str(there), "--at", at)

    assert there.read_bytes() == b"old bytes"
    assert not (right.folder / "first name").exists()
    left.start()
    eventually("shared", lambda: (left.folder / "second name").read_bytes() == b"old bytes")
    assert not (left.folder / "first name").exists()


def test_history_works_while_stopped_and_restore_does_not(nodes: Nodes) -> None:
    node = nodes.add("alone")
    node.start()
    nodes.share(node)
    edit(node, node.folder / "a.txt", b"a")
    node.stop()

    ended = node.dizzyd("history", str(node.folder / "a.txt"))
    assert ended.code == 0
    assert "created" in ended.out
    assert "no peer was asked" in ended.err
    assert node.dizzyd("restore", str(node.folder / "a.txt")).code == 3


def test_restore_keeps_what_it_replaces_and_never_writes_over_what_stands_elsewhere(
    nodes: Nodes,
) -> None:
    node = nodes.add("alone")
    node.start()
    nodes.share(node)
    path = node.folder / "a.txt"
    edit(node, path, b"one")
    other = node.folder / "copy.txt"
    edit(node, other, b"one")
    edit(node, path, b"two")

    taken = node.dizzyd("restore", str(path), "--to", str(other))
    assert taken.code == 1
    assert "stands there already" in taken.err
    node.must("restore", str(path))

    assert path.read_bytes() == b"one"
    kept = list((node.folder / ".dizzyd/history").iterdir())
    assert [file.read_bytes() for file in kept] == [b"two"]
    assert node.about()["history"] == {"versions": 1, "bytes": 3}
    node.must("restore", str(path))
    assert path.read_bytes() == b"two"


def test_restore_says_what_is_wrong(nodes: Nodes, tmp_path: Path) -> None:
    node = nodes.add("alone")
    node.start()
    nodes.share(node)
    edit(node, node.folder / "a.txt", b"a")
    shown = str(node.folder / "a.txt")

    for arguments, code, why in (
        ((shown,), 1, "no earlier version"),
        ((shown, "--at", "ffffffff"), 2, "no version of it has that hash"),
        ((shown, "--at", "next week"), 2, "expected a time"),
        ((shown, "--at", "1999-01-01"), 1, "was not there"),
        ((str(node.folder),), 2, "say as of when"),
        ((str(node.folder / "never"),), 1, "nothing of that name"),
        ((str(tmp_path),), 1, "is in no shared folder"),
        ((shown, "--at", "now", "--to", str(tmp_path / "no/where")), 1, "there is no directory"),
    ):
        ended = node.dizzyd("restore", *arguments)
        assert (ended.code, why in ended.err) == (code, True), ended


def test_history_of_a_whole_folder_tells_what_changed_in_it(pair: Pair) -> None:
    with pair.left.recording():
        (pair.left.folder / "counted").write_bytes(b"one")
    pair.agree()

    found = history(pair.right, pair.right.folder)
    assert found["objects"] == []
    assert found["inside"][-1]["counts"] == {"created": 1}
    assert found["inside"][-1]["name"] == "left"


def test_F1_a_node_killed_while_it_restores_leaves_whole_files_and_restores_on(
    nodes: Nodes,
) -> None:
    left, right = nodes.add("left"), nodes.add("right")
    for node in (left, right):
        node.start()
    nodes.share(left)
    nodes.join(left, right)
    root = left.folder / "many"
    with left.recording():
        write_files(root, {f"d{n % 7}/f{n}": b"%d" % n * 3000 for n in range(700)})
    was = read_tree(root)
    eventually("arrived", lambda: read_tree(right.folder / "many") == was)
    with left.recording():
        shutil.rmtree(root)
    there = right.folder / "many"
    eventually("gone", lambda: not there.exists())

    asked = subprocess.Popen(
        [sys.executable, "-m", "daemon", "restore", str(there)],
        env=right.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    eventually("some files are back", lambda: any(there.glob("*/f*")))
    right.kill()
    asked.wait(30)
    for name, what in read_tree(there).items():
        assert what == was[name], name
    right.start()
    found = [e for e in history(right, there)["inside"] if "deleted" in e["counts"]]
    ended = right.dizzyd("restore", str(there), "--at", _before(found[0]["at"]))

    assert ended.code == 0, ended
    assert {name: read_tree(there)[name] for name in was} == was
    eventually("shared", lambda: read_tree(root) == read_tree(there))
    assert right.dizzyd("verify").code == 0


def _before(at: str) -> str:
    """Give the millisecond before a time of the API."""
    moment = datetime.fromisoformat(at) - timedelta(milliseconds=1)
    return moment.isoformat(timespec="milliseconds")
