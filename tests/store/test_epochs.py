from __future__ import annotations

import pytest

from store.codec import decode_header
from store.db import Database, memory_database
from store.events import EpochOpened, decode
from store.folder import StoredFolder
from store.ids import BatchId, Epoch, LogId
from tests.store.nodes import Node, deliver, make_nodes

NEXT = Epoch(b"next epoch......")


def copy_of(node: Node) -> Node:
    """Make what a backup of the database holds now."""
    database = memory_database()
    node.stored.db.connection.backup(database.connection)
    return reopened(node, database)


def reopened(node: Node, database: Database) -> Node:
    stored = node.stored
    return Node(node.number, StoredFolder(database, stored.no, stored.id, stored.key))


def own_places(*nodes: Node) -> dict[tuple[bytes, int], set[bytes]]:
    """Give (log, seq) -> the ids of our own batches there, over several databases."""
    agent = nodes[0].stored.key.agent
    found: dict[tuple[bytes, int], set[bytes]] = {}
    for node in nodes:
        for signed in node.wires():
            if signed.header.agent == agent:
                found.setdefault((signed.log, signed.header.seq), set()).add(signed.id)
    return found


def test_a_new_epoch_begins_with_the_first_event_that_is_written() -> None:
    anna, bert = make_nodes(2)
    anna.create(b"before", b"1")
    before, head = (
        anna.stored.own_log,
        anna.stored.log.own_head(anna.stored.key.agent, anna.stored.epoch),
    )
    assert head is not None

    anna.stored.renew_epoch(NEXT)
    recorded = anna.create(b"after", b"2")

    opening, first = recorded.batches
    event = decode(opening.events[0])
    assert isinstance(event, EpochOpened)
    assert (event.previous_log, event.previous_batch) == (before, head.batch)
    assert (opening.header.seq, opening.header.epoch) == (0, NEXT)
    assert (first.header.seq, first.header.prev) == (1, opening.id)
    deliver(anna, bert)
    assert bert.stored.state.root() == anna.stored.state.root()
    assert set(bert.files()) == {b"before", b"after"}


def test_G1_a_flipped_epoch_begins_no_log_without_saying_so() -> None:
    anna, bert = make_nodes(2)
    anna.create(b"before", b"1")
    before = anna.stored.own_log
    head = anna.stored.log.own_head(anna.stored.key.agent, anna.stored.epoch)
    assert head is not None
    flipped = bytes([anna.stored.epoch[0] ^ 1]) + anna.stored.epoch[1:]
    anna.stored.db.execute("UPDATE folder SET epoch = ?", (flipped,))

    again = reopened(anna, anna.stored.db)
    assert again.stored.is_epoch_astray
    recorded = again.create(b"after", b"2")

    opening, first = recorded.batches
    event = decode(opening.events[0])
    assert isinstance(event, EpochOpened)
    assert (event.previous_log, event.previous_batch) == (before, head.batch)
    assert first.header.prev == opening.id
    assert again.stored.own_log == opening.log
    deliver(again, bert)
    assert bert.stored.state.root() == again.stored.state.root()
    assert set(bert.files()) == {b"before", b"after"}


def test_a_due_epoch_outlives_a_restart_and_writes_nothing_by_itself() -> None:
    (anna,) = make_nodes(1)
    batches = anna.stored.log.batches
    anna.stored.renew_epoch(NEXT)

    again = reopened(anna, anna.stored.db)
    assert not again.record().batches

    assert reopened(anna, anna.stored.db).stored.next_epoch == NEXT
    assert again.stored.log.batches == batches
    again.create(b"a", b"1")
    assert (again.stored.epoch, again.stored.next_epoch) == (NEXT, None)
    assert reopened(anna, anna.stored.db).stored.epoch == NEXT


def test_what_fails_opens_no_epoch() -> None:
    (anna,) = make_nodes(1)
    epoch = anna.stored.epoch
    anna.stored.renew_epoch(NEXT)

    def fail() -> None:
        with anna.stored.change():
            anna.create(b"a", b"1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert (anna.stored.epoch, anna.stored.next_epoch) == (epoch, NEXT)


def test_P8_a_restored_database_never_uses_a_number_twice() -> None:
    anna, bert = make_nodes(2)
    for number in range(3):
        anna.create(b"f%d" % number, b"first life %d" % number)
        backup = copy_of(anna)
        anna.create(b"g%d" % number, b"lost life %d" % number)
        deliver(anna, bert)

        backup.stored.renew_epoch(Epoch(b"life after %05d" % number))
        backup.create(b"h%d" % number, b"other life %d" % number)
        deliver(backup, bert)
        deliver(bert, backup)

        assert all(len(ids) == 1 for ids in own_places(anna, backup, bert).values())
        assert backup.stored.state.root() == bert.stored.state.root()
        anna = backup
    assert len(bert.files()) == 9


def test_A12_who_names_batches_of_our_log_that_we_lack_is_noticed() -> None:
    anna, bert = make_nodes(2)
    backup = copy_of(anna)
    anna.create(b"a", b"1")
    deliver(anna, bert)

    named = [(LogId(head.log), BatchId(head.batch)) for head in bert.stored.log.heads()]

    assert backup.stored.lacks_own(named)
    assert not anna.stored.lacks_own(named)


def test_A12_P9_a_fork_made_in_ignorance_merges_and_ends_its_log() -> None:
    anna, bert = make_nodes(2)
    backup = copy_of(anna)
    anna.create(b"a", b"1")
    deliver(anna, bert)
    backup.create(b"b", b"2")  # before anybody could tell it

    admitted = backup.stored.admit(bert.wires(), b"bert")

    assert admitted.forked == {anna.stored.key.agent}
    assert backup.stored.is_outrun_by(admitted)
    backup.stored.renew_epoch(NEXT)
    backup.create(b"c", b"3")
    deliver(backup, bert)
    assert bert.files() == backup.files() == {b"a": b"1", b"b": b"2", b"c": b"3"}
    epochs = {decode_header(s.header_bytes).epoch for s in bert.wires()}
    assert NEXT in epochs
