"""What comes back from the past: restored homes, machines set back, damaged databases."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

from tests.e2e.nodes import Node, Nodes, agree, eventually
from tests.e2e.trees import fill, write_files


def met(nodes: Nodes) -> tuple[Node, Node]:
    """Let two new nodes share some files and agree."""
    left, right = nodes.add("left"), nodes.add("right")
    left.start()
    right.start()
    nodes.share(left)
    nodes.join(left, right)
    fill(left.folder, 200, seed=5)
    write_files(right.folder, {"kept.txt": b"first"})
    agree(left, right)
    return left, right


def snapshot(node: Node) -> Path:
    """Copy a stopped node, home and folder, as a backup does."""
    to = node.user_home.with_name(f"{node.name}-snapshot")
    shutil.copytree(node.user_home, to, symlinks=True)
    return to


def put_back(node: Node, snapshot: Path) -> None:
    """Put a stopped node back to what it was."""
    for name in ("dizzyd", "shared"):
        shutil.rmtree(node.user_home / name)
        shutil.copytree(snapshot / name, node.user_home / name, symlinks=True)


def own_numbers(*nodes: Node) -> dict[tuple[bytes, int], set[bytes]]:
    """Give (log, seq) -> batch ids, over the databases of some nodes."""
    found: dict[tuple[bytes, int], set[bytes]] = {}
    for node in nodes:
        with closing(sqlite3.connect(node.home / "database")) as db:
            for log, seq, batch in db.execute(
                "SELECT l.id, b.seq, b.id FROM batch b JOIN log l ON l.no = b.log_no"
            ):
                found.setdefault((log, seq), set()).add(batch)
    return found


def test_A12_P8_G4_a_home_restored_from_a_backup_goes_on_without_a_fork(nodes: Nodes) -> None:
    left, right = met(nodes)
    right.stop()
    backup = snapshot(right)
    right.start()
    write_files(right.folder, {"kept.txt": b"second", "lost.txt": b"since the backup"})
    agree(left, right)
    right.stop()

    put_back(right, backup)
    write_files(right.folder, {"new.txt": b"after the restore"})
    right.start()
    tree = agree(left, right)

    assert (right.folder / "kept.txt").read_bytes() == b"second"
    assert (left.folder / "lost.txt").read_bytes() == b"since the backup"
    assert (left.folder / "new.txt").read_bytes() == b"after the restore"
    assert not [path for path in tree if "conflict" in path]
    assert all(len(ids) == 1 for ids in own_numbers(left, right).values())


def test_A12_P8_a_machine_set_back_while_its_peer_was_away_loses_nothing(nodes: Nodes) -> None:
    left, right = met(nodes)
    right.stop()
    backup = snapshot(right)
    right.start()
    write_files(right.folder, {"lost.txt": b"since the snapshot"})
    agree(left, right)
    right.stop()
    left.stop()

    put_back(right, backup)
    right.start()
    with right.recording():
        write_files(right.folder, {"alone.txt": b"while nobody is there"})
    left.start()
    agree(left, right)

    assert (right.folder / "lost.txt").read_bytes() == b"since the snapshot"
    assert (left.folder / "alone.txt").read_bytes() == b"while nobody is there"
    assert all(len(ids) == 1 for ids in own_numbers(left, right).values())


def test_G3_a_deleted_database_is_built_anew_from_a_peer_and_no_file_is_touched(
    nodes: Nodes,
) -> None:
    left, right = met(nodes)
    before = {path: path.stat() for path in right.folder.rglob("*") if path.is_file()}
    right.stop()
    for path in right.home.glob("database*"):
        path.unlink()
    sent = left.status()["peers"][0]["sent_bytes"]

    right.start()
    agree(left, right)

    for path, stat in before.items():
        if ".dizzyd" not in path.parts:
            now = path.stat()
            assert (now.st_ino, now.st_ctime_ns) == (stat.st_ino, stat.st_ctime_ns), path
    assert left.status()["peers"][0]["sent_bytes"] - sent < 200_000
    write_files(right.folder, {"after.txt": b"after"})
    agree(left, right)


def test_G1_a_database_damaged_while_the_daemon_runs_is_replaced_by_the_daemon(
    nodes: Nodes,
) -> None:
    left, right = met(nodes)
    right.stop()
    right.start()  # the write-ahead log is folded in
    database = right.home / "database"
    content = bytearray(database.read_bytes())
    for start in range(4096, len(content), 4096):
        content[start : start + 100] = Random(start).randbytes(100)
    with database.open("r+b") as stream:
        stream.write(content)

    write_files(right.folder, {f"new{number}": b"%d" % number for number in range(50)})
    write_files(left.folder, {f"other{number}": b"%d" % number for number in range(50)})
    eventually("it is replaced", lambda: list(right.home.glob("damaged-*/database")))
    agree(left, right)

    assert (left.folder / "new7").read_bytes() == b"7"
    assert "database replaced" in right.log.read_text()
    right.log.write_text("")  # the traceback in there is what is to be said


def test_G8_a_flipped_file_is_found_by_verify_and_healed_by_repair(nodes: Nodes) -> None:
    left, right = met(nodes)
    file = right.folder / "kept.txt"
    right.stop()
    before = file.stat()
    file.write_bytes(b"fIrst")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with closing(sqlite3.connect(right.home / "database")) as db:  # as if no inode had changed
        db.execute(
            "UPDATE synced SET ctime_ns = ? WHERE inode = ?",
            (file.stat().st_ctime_ns, before.st_ino),
        )
        db.commit()
    right.start()

    damaged = right.dizzyd("verify")
    healed = right.dizzyd("repair", "shared")
    agree(left, right)

    assert (damaged.code, damaged.out.count("kept.txt: its bytes are not")) == (1, 1)
    assert healed.code == 0, healed
    assert "repaired: shared: kept.txt" in healed.out
    assert "1 damage repaired" in healed.err
    assert file.read_bytes() == b"first"
    assert right.dizzyd("verify").code == 0
    kept = [path.read_bytes() for path in (right.folder / ".dizzyd" / "history").iterdir()]
    assert b"fIrst" in kept
    assert (left.folder / "kept.txt").read_bytes() == b"first"
