from __future__ import annotations

import sqlite3

import pytest

from store.db import Database, memory_database
from tests.project import schema


@pytest.fixture
def database() -> Database:
    made = memory_database()
    made.execute("PRAGMA foreign_keys = ON")
    made.execute("CREATE TABLE parent (no INTEGER PRIMARY KEY)")
    made.execute(
        "CREATE TABLE child (parent_no REFERENCES parent (no) DEFERRABLE INITIALLY DEFERRED)"
    )
    return made


def test_G9_a_commit_that_fails_undoes_all_and_the_next_goes_on(database: Database) -> None:
    with pytest.raises(sqlite3.IntegrityError), database.transaction():
        database.execute("INSERT INTO child VALUES (1)")  # the COMMIT fails, and stays open

    assert not database.connection.in_transaction
    with database.transaction():
        database.execute("INSERT INTO parent VALUES (7)")
    assert database.execute("SELECT count(*) FROM child").fetchone() == (0,)
    assert database.execute("SELECT no FROM parent").fetchall() == [(7,)]


def test_a_transaction_that_sqlite_has_undone_by_itself_tells_why(database: Database) -> None:
    def fail() -> None:
        database.execute("ROLLBACK")  # as SQLite does where a write fails
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(sqlite3.DatabaseError, match="disk I/O"), database.transaction():
        fail()

    assert not database.in_transaction


@pytest.mark.parametrize("count", [0, 1, 7, 8, 63, 64, 65, 73, 200])
def test_insert_writes_every_row_once_whatever_their_number(count: int) -> None:
    database = memory_database()
    rows = [(number, b"%d" % number) for number in range(count)]

    with database.transaction():
        database.insert("INSERT INTO object_tag (object_no, tag)", rows)

    found = database.execute("SELECT object_no, tag FROM object_tag ORDER BY 1").fetchall()
    assert found == rows


@pytest.mark.parametrize("count", [0, 1, 7, 8, 63, 64, 65, 73, 200])
def test_update_sets_the_named_columns_of_these_rows_alone(count: int) -> None:
    database = memory_database()
    before = [(number, b"%d" % number, 2 * number, 3) for number in range(201)]
    statements: list[str] = []

    with database.transaction():
        database.execute("CREATE TABLE t (no INTEGER PRIMARY KEY, value, size, kept)")
        database.insert("INSERT INTO t (no, value, size, kept)", before)
        database.connection.set_trace_callback(statements.append)
        database.update(
            "t", ("value", "size"), "no", [(b"new", -no, no) for no, *_ in before[:count]]
        )
        database.connection.set_trace_callback(None)

    wanted = [(no, b"new", -no, 3) for no in range(count)] + before[count:]
    assert database.execute("SELECT * FROM t ORDER BY no").fetchall() == wanted
    assert len(statements) == count // 64 + count % 64 // 8 + count % 8


def test_update_finds_each_row_by_its_number() -> None:
    database = memory_database()
    statements: list[str] = []
    database.connection.set_trace_callback(statements.append)

    with database.transaction():
        database.update("object", ("size", "flags"), "no", [(1, 2, no) for no in range(64)])
    database.connection.set_trace_callback(None)

    [statement] = [one for one in statements if one.startswith("UPDATE")]
    plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {statement}")]
    assert any("SEARCH object USING INTEGER PRIMARY KEY" in step for step in plan), plan


def test_the_statements_that_make_tables_are_those_of_the_tables() -> None:
    assert schema.MODULE.read_text(encoding="utf-8") == schema.compiled()
