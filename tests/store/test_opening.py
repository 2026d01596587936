"""Hold that a folder opens at a cost that does not know the length of its log."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from store import schema
from store.db import SCHEMA_VERSION, Database, open_database
from store.folder import StoredFolder
from store.ids import Epoch
from store.opening import EventCount, known_logs, unapplied
from tests.store.nodes import Node, deliver, make_nodes
from tests.store.test_log import chain, make_directory, sign


def statements_of(database: Database, node: Node) -> list[str]:
    """Open the folder again; give what SQLite was asked."""
    asked: list[str] = []
    database.connection.set_trace_callback(asked.append)
    StoredFolder(database, node.stored.no, node.stored.id, node.stored.key)
    database.connection.set_trace_callback(None)
    return asked


def test_opening_walks_over_no_table_that_grows_with_the_log() -> None:
    anna, _ = make_nodes(2)
    for number in range(5):
        anna.create(b"%d" % number, b"x")
    database = anna.stored.db
    asked = statements_of(database, anna)

    walked = [
        (detail, statement)
        for statement in asked
        if statement.lstrip().startswith("SELECT")
        for *_, detail in database.execute(f"EXPLAIN QUERY PLAN {statement}")
        if detail.startswith(("SCAN batch", "SCAN b", "SCAN event", "SCAN e"))
    ]

    assert len(asked) > 10
    assert walked == []


def test_P9_the_heads_of_a_forked_log_are_the_ends_of_its_branches() -> None:
    anna, bert = make_nodes(2)
    first = sign(bert, None, [make_directory(bert, b"first")])
    one = chain(bert, 3, first)
    other = chain(bert, 2, sign(bert, first, [make_directory(bert, b"other")]))
    for batch in (*one, *other):
        anna.stored.admit([batch], b"1")
    before = anna.stored.log.heads()

    anna.stored.reload()

    assert anna.stored.log.heads() == before
    ours = {head.batch for head in before if head.agent == bert.stored.key.agent}
    assert ours == {one[-1].id, other[-1].id}
    assert anna.stored.log.batches == len(anna.wires())


def test_what_has_no_effect_yet_is_found() -> None:
    anna, bert = make_nodes(2)
    deliver(anna, bert)
    newer = sign(bert, None, [b"\x91\x64"])  # a kind of event that nobody knows yet
    anna.stored.admit([newer], b"1")

    anna.stored.reload()

    found = unapplied(anna.stored.db, anna.stored.no)
    assert [signed.id for _, signed in found] == [newer.id]
    assert anna.stored.log.held_by_newer == {bert.stored.key.agent}


def test_a_log_without_batches_has_no_head() -> None:
    anna, _ = make_nodes(2)
    database = anna.stored.db
    database.execute(
        "INSERT INTO log (folder_no, id, agent, epoch) VALUES (?, ?, ?, ?)",
        (anna.stored.no, bytes(32), bytes(32), Epoch(bytes(16))),
    )

    known = known_logs(database, anna.stored.no, 0)

    assert bytes(32) in known.numbers
    assert sorted(known.heads.values(), key=lambda one: one.log) == anna.stored.log.heads()


@pytest.mark.parametrize("noted", [None, b"", b"damaged"])
def test_events_that_were_counted_once_are_not_read_again(noted: bytes | None) -> None:
    anna, _ = make_nodes(2)
    anna.create(b"a", b"1")
    database, no = anna.stored.db, anna.stored.no
    if noted is not None:
        database.set_meta(f"events/{no}", noted)
    count = EventCount(database, no)
    before = count.total()
    assert before == 3  # shared, granted, created

    count.add(5000, 7)
    database.execute("UPDATE batch SET header = x''")  # none of them is looked at

    assert count.total() == before + 7
    assert EventCount(database, no).total() == before + 7


def test_the_note_of_a_transaction_that_failed_is_none() -> None:
    anna, _ = make_nodes(2)
    stored = anna.stored
    before = stored.log.count_events()
    stored.db.execute(
        "INSERT INTO batch SELECT 5000, folder_no, x'00', 999, seq, lamport, access_no, 1, 0,"
        " header, signature, body FROM batch LIMIT 1"
    )

    def fail_late() -> None:
        with stored.change():
            anna.create(b"a", b"1")
            assert stored.db.meta(f"events/{stored.no}") is not None
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_late()

    assert stored.db.meta(f"events/{stored.no}") is None
    assert stored.log.count_events() == before + 1  # the row put in above


def test_a_database_of_schema_2_gets_the_index_of_what_waits(tmp_path: Path) -> None:
    path = tmp_path / "dizzyd.sqlite"
    old = sqlite3.connect(path)
    old.executescript(f"{schema.SCHEMA} DROP INDEX batch_unapplied; PRAGMA user_version = 2;")
    old.close()

    database = open_database(path)

    assert database.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    indices = [row[1] for row in database.execute("PRAGMA index_list(batch)")]
    assert "batch_unapplied" in indices
    database.close()
