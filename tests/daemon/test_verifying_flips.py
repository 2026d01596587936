"""Every byte of a database: verify names what is wrong, or the byte says nothing that counts."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from random import Random
from typing import TYPE_CHECKING

from daemon.machine import close_disk, open_disk
from daemon.verifying import verify
from store.errors import DizzyError
from store.signing import AgentKey
from tests.daemon.working import FOLDER_SEED, OLD_NS, Working

if TYPE_CHECKING:
    from pathlib import Path

FLIPS = int(os.environ.get("DIZZYD_FLIPS", "120"))

# What is only remembered of the disk, and found again by the next look; what config.toml has too.
FORGOTTEN = {
    "synced": {"inode", "size", "mtime_ns", "ctime_ns", "mode", "looked_at_ns", "shared_mtime_ns"},
    "folder": {"name", "epoch", "had_members", "path", "no"},
    "bucket": {"folder_no"},
}
NOT_FOLDED = {"meta", "peer", "invite", "activity", "chunk_list"}


async def filled(base: Path) -> Working:
    """Make a stopped node whose folder has a past."""
    node = Working(base, "desk", 1)
    node.share(AgentKey.from_seed(FOLDER_SEED))
    await node.start()
    for number in range(40):
        node.write(f"d{number % 3}/f{number}", b"content %d " % number * 9)
    await node.look()
    for number in range(15):
        node.write(f"d{number % 3}/f{number}", b"edited %d " % number * 9, mtime_ns=OLD_NS + 9**9)
    (node.root / "d1" / "f37").unlink()
    (node.root / "d1").rename(node.root / "moved")
    await node.look()
    node.stored.state.root()
    await node.stop()
    return node


def contents(database: Path) -> dict[str, object]:
    """Give all rows, but for what says nothing that counts."""
    found: dict[str, object] = {}
    with closing(sqlite3.connect(f"file:{database}?mode=ro&immutable=1", uri=True)) as db:
        db.text_factory = bytes
        tables = [
            row[0].decode()
            for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        for table in set(tables) - NOT_FOLDED:
            columns = [row[1].decode() for row in db.execute(f"PRAGMA table_info({table})")]
            kept = [name for name in columns if name not in FORGOTTEN.get(table, set())]
            rows = db.execute(f"SELECT {', '.join(kept)} FROM {table}").fetchall()
            found[table] = sorted(rows, key=repr)
    return found


async def is_found(node: Working) -> bool:
    """Whether opening, loading or verifying says that something is wrong."""
    try:
        node.open()
        await node.node.load()
        node.work.disk = open_disk(node.work.path, node.work.folder, None)
        try:
            lines = [line async for line in verify(node.node, [node.work])]
        finally:
            close_disk(node.work.disk)
            node.work.disk = None
    except (DizzyError, sqlite3.DatabaseError, LookupError, ValueError, TypeError, StopIteration):
        return True  # the daemon replaces such a database
    finally:
        node.db.connection.close()
    return any(line.kind == "finding" for line in lines)


def put(node: Working, content: bytes) -> None:
    for path in node.home.state.glob("database*"):
        path.unlink()
    node.home.database.write_bytes(content)


async def test_G1_every_flipped_byte_of_the_database_is_found_or_says_nothing(
    tmp_path: Path,
) -> None:
    node = await filled(tmp_path)
    good = node.home.database.read_bytes()
    before = contents(node.home.database)
    assert not await is_found(node)
    rng = Random(FLIPS)
    places = [at for at in range(len(good)) if good[at]]
    with closing(sqlite3.connect(node.home.database)) as db:
        [(buckets,)] = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'synced'")
    assert buckets

    found = 0
    for at in rng.sample(places, FLIPS):
        flipped = bytearray(good)
        flipped[at] ^= 1 << rng.randrange(8)
        put(node, bytes(flipped))
        if await is_found(node):
            found += 1
            continue
        put(node, bytes(flipped))
        assert contents(node.home.database) == before, f"byte {at}"
    assert found > FLIPS // 3


async def test_G1_every_column_that_the_log_says_is_compared(tmp_path: Path) -> None:
    node = await filled(tmp_path)
    good = node.home.database.read_bytes()
    with closing(sqlite3.connect(node.home.database)) as db:
        tables = {
            table: [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
    missed = []
    for table, columns in tables.items():
        for column in columns:
            if table in NOT_FOLDED or column in FORGOTTEN.get(table, set()):
                continue
            put(node, good)
            if _change(node.home.database, table, column) and not await is_found(node):
                missed.append((table, column))
    assert not missed


def _change(database: Path, table: str, column: str) -> bool:
    """Change one value consistently, indices and all; False where there is none to change."""
    with closing(sqlite3.connect(database)) as db:
        rows = db.execute(
            f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL ORDER BY {column} DESC"
        ).fetchall()
        if not rows:
            return False
        [value] = rows[len(rows) // 2]
        other = value ^ 1 if isinstance(value, int) else b"other" + bytes(value or b"")[5:]
        try:
            db.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (other, value))
        except sqlite3.IntegrityError:
            return False
        db.commit()
    return True
