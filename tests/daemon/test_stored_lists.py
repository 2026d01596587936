"""Show that chunk lists are kept for each folder, up to their bound, and survive a restart."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

import pytest

from daemon.core import InlineRunner
from daemon.places import Reading
from daemon.shelf import Shelf
from daemon.stored_lists import StoredChunkLists
from peers.wire import ChunkLine
from store.db import SCHEMA_VERSION, Database, memory_database, open_database
from store.ids import BlobHash, FolderId
from store.signing import AgentKey

if TYPE_CHECKING:
    from pathlib import Path

ONE, OTHER = FolderId(b"1" * 32), FolderId(b"2" * 32)
LINE_BYTES = 36


def blob(number: int) -> BlobHash:
    return BlobHash(number.to_bytes(32, "big"))


def lines(number: int, count: int = 10) -> tuple[ChunkLine, ...]:
    return (ChunkLine(blob(number), 70_000),) * count


def lists_over(database: Database, limit_bytes: int = 1 << 30) -> StoredChunkLists:
    shelf = Shelf(database, AgentKey.from_seed(bytes(32)), bytes)
    shelf.load()
    reading = Reading(database=database, runner=InlineRunner())
    return StoredChunkLists(shelf, InlineRunner(), reading, limit_bytes=limit_bytes)


@pytest.fixture
def database() -> Database:
    made = memory_database()
    for no, folder in enumerate((ONE, OTHER), 1):
        made.execute(
            "INSERT INTO folder (no, id, name, path, is_active, root_no, had_members)"
            " VALUES (?, ?, ?, ?, 1, 0, 0)",
            (no, folder, "f", b"/f"),
        )
    return made


def test_list_is_kept_for_its_folder_alone(database: Database) -> None:
    async def story() -> None:
        lists = lists_over(database)
        await lists.keep(ONE, blob(1), lines(1))
        await lists.keep(ONE, blob(1), lines(2))

        assert await lists_over(database).get(ONE, blob(1)) == lines(1)  # as after a restart
        assert await lists.get(OTHER, blob(1)) is None
        assert await lists.get(ONE, blob(2)) is None

    asyncio.run(story())


def test_over_the_bound_versions_that_are_not_here_go_first_and_the_oldest_of_them(
    database: Database,
) -> None:
    async def story() -> None:
        database.execute(
            "INSERT INTO kept (folder_no, name, object_no, value, size) VALUES (1, ?, 1, ?, 1)",
            (b"kept", blob(1)),
        )
        lists = lists_over(database, limit_bytes=8 * 10 * LINE_BYTES)
        for number in range(1, 9):
            await lists.keep(ONE, blob(number), lines(number))
        assert [await lists.get(ONE, blob(n)) is not None for n in range(1, 9)] == [True] * 8

        await lists.keep(ONE, blob(9), lines(9))

        there = [n for n in range(1, 10) if await lists.get(ONE, blob(n)) is not None]
        assert there == [1, 5, 6, 7, 8, 9]
        for number in range(10, 100):
            await lists.keep(OTHER, blob(number), lines(number))
        (total,) = database.execute("SELECT sum(length(chunks)) FROM chunk_list").fetchone()
        assert total <= 8 * 10 * LINE_BYTES

    asyncio.run(story())


def test_database_that_fails_costs_a_list_and_nothing_else(database: Database) -> None:
    async def story() -> None:
        lists = lists_over(database)
        await lists.keep(ONE, blob(1), lines(1))
        database.execute("ALTER TABLE chunk_list RENAME TO away")

        await lists.keep(ONE, blob(2), lines(2))
        assert await lists.get(ONE, blob(1)) is None

        database.execute("ALTER TABLE away RENAME TO chunk_list")
        await lists.keep(ONE, blob(2), lines(2))
        assert await lists.get(ONE, blob(1)) == lines(1)
        assert await lists.get(ONE, blob(2)) == lines(2)

    asyncio.run(story())


def test_database_of_schema_1_gets_the_new_table_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "dizzyd.db"
    made = open_database(path)
    made.set_meta("agent", b"kept")
    made.close()
    with sqlite3.connect(path) as old:
        old.executescript(
            "DROP TABLE chunk_list; CREATE TABLE chunk_list (value BLOB NOT NULL,"
            " chunks BLOB NOT NULL, PRIMARY KEY (value)) WITHOUT ROWID; PRAGMA user_version = 1;"
        )

    database = open_database(path)

    assert database.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    assert database.meta("agent") == b"kept"
    fresh = memory_database()
    columns = "SELECT name, type, \"notnull\", pk FROM pragma_table_info('chunk_list')"
    assert database.execute(columns).fetchall() == fresh.execute(columns).fetchall()
    database.close()
