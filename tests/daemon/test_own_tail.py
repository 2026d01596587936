from __future__ import annotations

import shutil
import sqlite3
from typing import TYPE_CHECKING

from daemon import own_tail
from store.db import open_database
from store.events import Tagged, encode
from store.folder import StoredFolder
from store.ids import Epoch
from tests.daemon.working import Working, eventually, pair

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def back_up(node: Working, to: Path) -> None:
    """Copy the whole node, home and folder, as it stands: a snapshot."""
    shutil.copytree(node.root, to / "folder", symlinks=True)
    with sqlite3.connect(to / "database") as copy:
        node.db.connection.backup(copy)
    copy.close()


def set_back(node: Working, to: Path, *, files: bool = True) -> None:
    """Put a stopped node back to a snapshot."""
    for path in node.home.state.glob("database*"):
        path.unlink()
    shutil.copy2(to / "database", node.home.database)
    if files:
        shutil.rmtree(node.root)
        shutil.copytree(to / "folder", node.root, symlinks=True)


def own_places(*nodes: Working) -> dict[tuple[bytes, int, bytes], set[bytes]]:
    found: dict[tuple[bytes, int, bytes], set[bytes]] = {}
    for node in nodes:
        for log, seq, batch in node.db.execute("SELECT log_no, seq, id FROM batch"):
            row = node.db.execute("SELECT id, agent FROM log WHERE no = ?", (log,)).fetchone()
            found.setdefault((row[0], seq, row[1]), set()).add(batch)
    return found


def assert_no_number_twice(*nodes: Working) -> None:
    assert all(len(ids) == 1 for ids in own_places(*nodes).values())


async def live_on(owner: Working, other: Working) -> None:
    """Let the other one write what its snapshot does not know."""
    other.write("later.txt", b"later")
    other.write("old.txt", b"newer", mtime_ns=1_700_000_000_000_000_000)
    await other.look()
    await eventually(lambda: owner.has("later.txt", b"later") and owner.has("old.txt", b"newer"))


async def same_files(owner: Working, other: Working, names: set[str]) -> None:
    await eventually(
        lambda: (
            owner.names() == other.names() == names
            and owner.work.is_settled
            and other.work.is_settled
            and owner.stored.state.root() == other.stored.state.root()
        )
    )


async def test_A12_a_node_set_back_takes_its_own_tail_back_before_it_writes(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path) as (owner, other):
        other.write("old.txt", b"old")
        await other.look()
        await eventually(lambda: owner.has("old.txt", b"old"))
        back_up(other, tmp_path)
        await live_on(owner, other)
        await other.stop()
        set_back(other, tmp_path)  # to the last bit: nothing on this machine tells
        other.open()
        other.write("since.txt", b"written before anybody was asked")
        epoch = other.stored_alone().epoch

        await other.start(owner)
        await same_files(owner, other, {"old.txt", "later.txt", "since.txt"})

        assert other.read("old.txt") == b"newer"
        assert other.stored.epoch != epoch
        assert_no_number_twice(owner, other)
        assert not (await other.folder_status()).problems
        assert not (await owner.status()).peers[0].problems


async def test_A12_who_wrote_before_a_peer_came_forks_and_goes_on_in_a_new_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_tail, "COMPARE_S", 0.0)
    async with pair(tmp_path) as (owner, other):
        back_up(other, tmp_path)
        await live_on(owner, other)
        await other.stop()
        set_back(other, tmp_path)
        other.open()
        other.write("alone.txt", b"alone")

        await other.start()
        epoch = other.stored.epoch
        await other.stop()
        other.open()
        await other.start(owner)
        await same_files(owner, other, {"old.txt", "later.txt", "alone.txt"})
        assert "two branches" in (await owner.status()).peers[0].problems[0].problem
        other.write("after.txt", b"after")
        await other.look()
        await same_files(owner, other, {"old.txt", "later.txt", "alone.txt", "after.txt"})

        assert other.stored.epoch != epoch
        assert not (await owner.status()).peers[0].problems, "it knows, and went on beside it"
        assert not (await other.status()).node.problems


async def test_A12_P8_a_home_known_as_restored_opens_an_epoch_though_nobody_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_tail, "ALONE_S", 0.2)
    monkeypatch.setattr(own_tail, "GATHER_S", 0.1)
    async with pair(tmp_path) as (owner, other):
        back_up(other, tmp_path)
        await live_on(owner, other)
        await other.stop()
        set_back(other, tmp_path)
        other.open()
        other.write("alone.txt", b"alone")
        other.stored_alone().renew_epoch(other.node.shelf.new_epoch())

        await other.start()
        await eventually(lambda: other.stored.next_epoch is None)
        await other.stop()
        other.open()
        await other.start(owner)
        await same_files(owner, other, {"old.txt", "later.txt", "alone.txt"})

        assert_no_number_twice(owner, other)


async def test_H7_a_clone_that_lives_at_the_same_time_is_told(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        other.write("one", b"by one")
        await other.look()
        await eventually(lambda: owner.has("one", b"by one"))
        with sqlite3.connect(tmp_path / "clone") as copy:
            other.db.connection.backup(copy)
        copy.close()
        twin_db = open_database(tmp_path / "clone")
        twin = StoredFolder(twin_db, other.stored.no, other.stored.id, other.key)
        twin.renew_epoch(Epoch(b"epoch of a clone"))

        with twin.change():
            batches = twin.append([encode(Tagged(object=bytes(32), tag=b"t"))], 5)
        await owner.node.replica.admit(owner.stored.id, other.key.agent, batches)
        owner.node.sessions.heads_changed(owner.stored.id)
        await eventually(lambda: other.stored.log.has(batches[-1].id))

        assert "with the key of this one" in (await other.status()).node.problems[0].problem
        assert not (await owner.status()).node.problems
        twin_db.close()
