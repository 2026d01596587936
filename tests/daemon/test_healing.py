from __future__ import annotations

import dataclasses
import secrets
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from daemon import healing, own_tail
from daemon.config import Config, FolderConfig, PeerConfig
from daemon.healing import Machine, OpenedHome, is_whole, open_home
from daemon.instance import Instance
from store.db import SCHEMA_VERSION, Database, check_structure, is_damage, open_database
from store.errors import DatabaseNewer, DizzyError
from tests.daemon.working import Working, alone, eventually, pair

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = 4096


def machine() -> Machine:
    return Machine(
        random_bytes=secrets.token_bytes,
        monotonic_s=time.monotonic,
        stamp=lambda: f"{time.time_ns():020}",
    )


def config_of(node: Working, *peers: Working) -> Config:
    """Give the config.toml that such a node has."""
    return dataclasses.replace(
        node.node.config,
        folders={"photos": FolderConfig(name="photos", path=node.root, id=node.stored_alone().id)},
        peers={
            peer.name: PeerConfig(
                name=peer.name,
                agent=peer.key.agent,
                addresses=tuple(map(str, peer.listener.addresses)),
            )
            for peer in peers
        },
    )


def opened(node: Working, config: Config) -> OpenedHome:
    """Open the home as `run` does, and close the database again."""
    found = open_home(node.home, config, node.key, machine())
    found.database.close()
    return found


def mark(node: Working) -> None:
    """Mark the home as a start does."""
    Instance(node.home, secrets.token_bytes).renew(node.db)


async def start_healed(node: Working, config: Config, *others: Working) -> OpenedHome:
    found = opened(node, config)
    node.open()
    node.node.config = config
    node.node.damage = found.damage
    await node.start(*others, is_suspicious=bool(found.suspicion))
    return found


def stats(node: Working) -> dict[str, tuple[int, int, int, bytes]]:
    """Give everything that may not change about the files of a node."""
    found = {}
    for name in node.names():
        path = node.root / name
        stat = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[name] = (stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, content)
    return found


async def fill(owner: Working, other: Working) -> None:
    for number in range(40):
        other.write(f"sub{number % 4}/f{number}", b"content %d " % number * 50)
    (other.root / "link").symlink_to("sub0/f0")
    await other.look()
    owner.write("by-owner", b"by the owner")
    await owner.look()
    await eventually(
        lambda: (
            owner.names() == other.names()
            and owner.stored.state.root() == other.stored.state.root()
            and len(owner.names()) == 46
        )
    )


async def same(owner: Working, other: Working) -> None:
    await eventually(
        lambda: (
            owner.names() == other.names()
            and owner.work.is_settled
            and other.work.is_settled
            and owner.stored.state.root() == other.stored.state.root()
        )
    )


def remove(node: Working) -> None:
    for path in node.home.state.glob("database*"):
        path.unlink()


def truncate(node: Working) -> None:
    database = node.home.database
    size = database.stat().st_size // PAGE // 2 * PAGE
    with database.open("r+b") as stream:
        stream.truncate(size)


def empty(node: Working) -> None:
    node.home.database.write_bytes(b"")


def garbage(node: Working) -> None:
    node.home.database.write_bytes(Random(7).randbytes(100_000))


def flip_pages(node: Working) -> None:
    """Damage every fifth page, as a dying disk does; the first stays."""
    content = bytearray(node.home.database.read_bytes())
    for start in range(PAGE, len(content), 5 * PAGE):
        content[start : start + 64] = Random(start).randbytes(64)
    node.home.database.write_bytes(content)


def foreign_wal(node: Working) -> None:
    """Put another database's write-ahead log beside this one."""
    elsewhere = node.home.state / "elsewhere"
    other = open_database(elsewhere)
    other.execute("PRAGMA wal_autocheckpoint = 0")
    for number in range(300):
        other.set_meta(f"filler {number}", bytes(700))
    wal = elsewhere.with_name("elsewhere-wal").read_bytes()
    other.close()
    elsewhere.unlink()
    node.home.database.with_name("database-wal").write_bytes(wal)


DAMAGES: dict[str, Callable[[Working], None]] = {
    "G1_flipped_pages": flip_pages,
    "G2_truncated": truncate,
    "G2_empty": empty,
    "G2_garbage": garbage,
    "G3_deleted": remove,
    "G5_foreign_wal": foreign_wal,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
async def test_G1_G2_G3_G5_a_damaged_database_is_replaced_and_no_file_is_touched(
    tmp_path: Path, damage: Callable[[Working], None]
) -> None:
    async with pair(tmp_path) as (owner, other):
        await fill(owner, other)
        mark(other)
        config = config_of(other, owner)
        epoch, before, owners = other.stored.epoch, stats(other), stats(owner)
        batches = owner.stored.log.batches
        await other.stop()
        damage(other)

        found = await start_healed(other, config)
        await same(owner, other)

        assert found.damage or found.suspicion
        assert (stats(other), stats(owner)) == (before, owners)
        assert not other.history()
        assert owner.stored.log.batches == batches  # nothing was said of what is agreed
        assert other.stored.epoch != epoch
        assert not (await other.status()).node.problems
        other.write("after", b"after")
        await other.look()
        await eventually(lambda: owner.has("after", b"after"))
        assert not any("conflict" in name for name in owner.names())


async def test_G1_what_a_damaged_database_proves_is_taken_over_though_nobody_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_tail, "GATHER_S", 0.0)
    async with alone(tmp_path) as node:
        node.write("sub/a", b"alpha")
        node.write("b", b"beta")
        await node.look()
        node.write("b", b"better", mtime_ns=1_650_000_000_000_000_000)
        await node.look()
        mark(node)
        root, before, config = node.stored.state.root(), stats(node), config_of(node)
        await node.stop()
        with closing(sqlite3.connect(node.home.database)) as db:
            [(page,)] = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'synced'")
        with node.home.database.open("r+b") as stream:
            stream.seek((page - 1) * PAGE)
            stream.write(bytes(100))

        found = await start_healed(node, config)

        assert found.damage
        assert node.stored.state.root() == root
        assert stats(node) == before
        assert len(list(node.home.state.glob("damaged-*/database"))) == 1
        node.write("c", b"gamma")
        await node.look()
        assert node.stored.log.batches


async def test_G3_without_database_and_peers_the_files_stay_and_status_says_what_is_missing(
    tmp_path: Path,
) -> None:
    async with alone(tmp_path) as node:
        node.write("a", b"alpha")
        await node.look()
        config, before = config_of(node), stats(node)
        await node.stop()
        remove(node)

        opened(node, config)
        node.open()
        node.listener.open([])
        await node.node.load(is_suspicious=True)
        await node.work.refresh_members()
        problems = (await node.folder_status()).problems

        assert "no peer has brought the log" in problems[0].problem
        assert stats(node) == before


async def test_G4_an_older_copy_put_back_is_known_by_its_mark(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        mark(other)
        with closing(sqlite3.connect(tmp_path / "copy")) as copy:
            other.db.connection.backup(copy)
        await fill(owner, other)
        mark(other)  # as another start, or time, does
        config = config_of(other, owner)
        epoch, before = other.stored.epoch, stats(other)
        await other.stop()
        remove(other)
        shutil.copyfile(tmp_path / "copy", other.home.database)

        found = await start_healed(other, config)
        await same(owner, other)

        assert found.suspicion
        assert not found.damage
        assert stats(other) == before
        assert other.stored.next_epoch is not None or other.stored.epoch != epoch


def moved_elsewhere(home: Path) -> None:
    """Put a copy of the home in its place, as a backup tool does."""
    shutil.copytree(home, home.with_name("copy"))
    shutil.rmtree(home)
    home.with_name("copy").rename(home)


def overwritten(home: Path) -> None:
    """Write the files of a copy over those that are there: inodes stay."""
    for path in home.iterdir():
        content = path.read_bytes()
        path.write_bytes(content)


def without_mark(home: Path) -> None:
    (home / "instance").unlink()


@pytest.mark.parametrize(
    ("change", "is_known"),
    [
        (lambda _home: None, True),
        (moved_elsewhere, False),
        (overwritten, False),
        (without_mark, False),
    ],
    ids=["same", "copied", "overwritten", "without-mark"],
)
def test_A12_a_home_that_was_copied_or_put_back_is_known(
    tmp_path: Path, change: Callable[[Path], None], *, is_known: bool
) -> None:
    node = Working(tmp_path, "desk", 1)
    mark(node)
    node.db.close()

    change(node.home.state)

    with closing(open_database(node.home.database)) as db:
        found = Instance(node.home, secrets.token_bytes).suspicion(db)
    assert (found == "") is is_known, found


def test_A12_another_machine_is_known(tmp_path: Path) -> None:
    node = Working(tmp_path, "desk", 1)
    (tmp_path / "one").write_text("1" * 32)
    (tmp_path / "two").write_text("2" * 32)
    Instance(node.home, secrets.token_bytes, machine_id=tmp_path / "one").renew(node.db)

    same = Instance(node.home, secrets.token_bytes, machine_id=tmp_path / "one")
    other = Instance(node.home, secrets.token_bytes, machine_id=tmp_path / "two")

    assert not same.suspicion(node.db)
    assert "machine" in other.suspicion(node.db)


def test_A12_a_crash_between_file_and_row_is_no_suspicion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Working(tmp_path, "desk", 1)
    mark(node)
    instance = Instance(node.home, secrets.token_bytes)
    written = type(node.db).set_meta

    def fail(db: Database, key: str, value: bytes) -> None:
        if key == "instance":
            raise OSError("cut")
        written(db, key, value)

    monkeypatch.setattr(type(node.db), "set_meta", fail)
    with pytest.raises(OSError, match="cut"):
        instance.renew(node.db)

    assert not instance.suspicion(node.db)


def test_G5_a_missing_wal_is_suspicious(tmp_path: Path) -> None:
    node = Working(tmp_path, "desk", 1)
    config = node.node.config
    mark(node)
    shutil.copytree(node.home.state, tmp_path / "crashed")
    node.db.close()
    for path in (tmp_path / "crashed").iterdir():
        (node.home.state / path.name).write_bytes(path.read_bytes())
    assert not Instance(node.home, secrets.token_bytes).lost_wal()

    node.home.database.with_name("database-wal").unlink()

    assert Instance(node.home, secrets.token_bytes).lost_wal()
    assert opened(node, config).suspicion


def test_G6_a_lock_of_another_tool_is_no_damage(tmp_path: Path) -> None:
    node = Working(tmp_path, "desk", 1)
    node.db.execute("PRAGMA journal_mode = DELETE")
    node.db.close()
    before = node.home.database.read_bytes()
    with closing(sqlite3.connect(node.home.database, isolation_level=None)) as backup:
        backup.execute("BEGIN EXCLUSIVE")

        with pytest.raises(DizzyError) as caught:
            opened(node, node.node.config)

        backup.execute("ROLLBACK")
    assert "locked" in str(caught.value)
    assert node.home.database.read_bytes() == before
    assert not list(node.home.state.glob("damaged-*"))


def test_G7_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    node = Working(tmp_path, "desk", 1)
    node.db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    node.db.close()
    before = node.home.database.read_bytes()

    with pytest.raises(DatabaseNewer) as caught:
        opened(node, node.node.config)

    assert "newer dizzyd" in caught.value.hint
    assert node.home.database.read_bytes() == before
    assert not list(node.home.state.glob("damaged-*"))


async def test_G1_a_read_that_failed_once_replaces_no_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite calls a database malformed where the disk failed one read (IOERR_CORRUPTFS)."""
    async with alone(tmp_path) as node:
        node.write("file", b"content")
        await node.look()
        config = config_of(node)
        mark(node)
        await node.stop()
        said = ["database disk image is malformed"]

        def check(*args: Any, **kwargs: Any) -> list[str]:
            return [said.pop()] if said else check_structure(*args, **kwargs)

        monkeypatch.setattr(healing, "check_structure", check)

        found = opened(node, config)

        assert found.damage == ""
        assert not list(node.home.state.glob("damaged-*"))
        assert is_whole(node.home)
        garbage(node)
        assert not is_whole(node.home)
        assert opened(node, config).damage


async def test_G9_a_full_disk_below_the_database_is_no_damage(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        node.write("a", b"alpha")
        await node.look()
        batches = node.stored.log.batches
        [(pages,)] = node.db.execute("PRAGMA page_count").fetchall()
        node.db.execute(f"PRAGMA max_page_count = {pages}")

        def write_much() -> None:
            with node.db.transaction():
                for number in range(1000):
                    node.db.set_meta(f"filler {number}", bytes(900))

        with pytest.raises(sqlite3.OperationalError) as caught:
            write_much()

        assert not is_damage(caught.value)
        node.db.execute(f"PRAGMA max_page_count = {2**31}")
        assert node.stored.log.batches == batches
        assert not list(node.home.state.glob("damaged-*"))
        node.write("b", b"beta")
        await node.look()
        assert node.stored.log.batches == batches + 1


def test_G1_only_what_sqlite_calls_malformed_is_damage(tmp_path: Path) -> None:
    database = tmp_path / "database"
    database.write_bytes(b"no database at all, but long enough to be read as one" * 20)
    with closing(sqlite3.connect(database)) as db, pytest.raises(sqlite3.Error) as no_database:
        db.execute("SELECT 1 FROM sqlite_master")
    with closing(sqlite3.connect(":memory:")) as db:
        with pytest.raises(sqlite3.OperationalError) as no_table:
            db.execute("SELECT 1 FROM batch")
        with pytest.raises(sqlite3.OperationalError) as bad_query:
            db.execute("SELEC 1")

    assert is_damage(no_database.value)
    assert is_damage(no_table.value)
    assert not is_damage(bad_query.value)
