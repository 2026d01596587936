"""Go on with a snapshot where a part of the log is here, and others let go of the rest."""

from __future__ import annotations

import random

import pytest

from store.errors import Malformed
from store.folder import StoredFolder
from store.ids import BatchId, Kind
from store.joined import catch_up, lacks_of
from store.signing import SignedBatch
from tests.store.nodes import Node, deliver, make_nodes, random_act, settle
from tests.store.test_joined import checkpointed, kept_of

PATHS = (b"a", b"b")


def act(node: Node, rng: random.Random, step: int) -> None:
    """Save a file that is saved all the time, or do anything else."""
    path = rng.choice([one for one in PATHS if one in node.rows()] or [b""])
    if path and node.rows()[path][0].kind == Kind.FILE and rng.random() < 0.5:
        node.edit(path, b"%d %d" % (node.number, step))
    else:
        node.record(*random_act(node, rng))
    node.materialise()


def parted(seed: int) -> tuple[list[Node], random.Random]:
    """Make three nodes of which the last was away for a while, and did something meanwhile."""
    rng = random.Random(seed)
    nodes = make_nodes(3)
    for path in PATHS:
        nodes[0].create(path, b"0")
    settle(*nodes)
    for step in range(70):
        if step < 20:
            act(rng.choice(nodes), rng, step)
            settle(*rng.sample(nodes, 2))
        else:
            act(rng.choice([*nodes[:2], *nodes]), rng, step)
            settle(*nodes[:2])
    return nodes, rng


def deliver_tail(source: Node, target: Node, signed: SignedBatch) -> None:
    """Give what one has that let go of all that a checkpoint stands for."""
    by_id = {batch.id: batch for batch in source.wires()}
    below: set[bytes] = set()
    waiting = [signed.header.prev, *signed.header.deps]
    while waiting:
        one = waiting.pop()
        if one is not None and one not in below:
            below.add(one)
            waiting += [by_id[BatchId(one)].header.prev, *by_id[BatchId(one)].header.deps]
    tail = [batch for batch in by_id.values() if batch.id not in below]
    target.stored.admit(tail, b"0")


@pytest.mark.parametrize("seed", range(6))
def test_P12_who_was_away_goes_on_with_the_snapshot_and_keeps_what_it_did(seed: int) -> None:
    (anna, bert, carl), rng = parted(seed)
    own = [one for one in carl.wires() if not anna.has(one.id)]
    numbers = {row.object_no: carl.stored.id_of(row.object_no) for [row] in carl.rows().values()}
    signed, pieces = checkpointed(anna)
    settle(anna, bert)
    for step in range(8):
        act(rng.choice([anna, bert]), rng, step)
        settle(anna, bert)
    assert own
    assert lacks_of(carl.stored, signed)

    catch_up(carl.stored, kept_of(carl, signed, pieces), signed)

    assert not lacks_of(carl.stored, signed)
    assert {no: carl.stored.id_of(no) for no in numbers} == numbers
    assert all(carl.has(one.id) for one in own)
    deliver_tail(anna, carl, signed)
    assert not carl.stored.log.waiting
    deliver(carl, anna)
    deliver(carl, bert)
    assert {one.id for one in own} <= {one.id for one in anna.wires()}
    assert carl.stored.state.root() == anna.stored.state.root() == bert.stored.state.root()
    assert carl.stored.log.heads() == anna.stored.log.heads()
    assert carl.stored.log.members() == anna.stored.log.members()
    assert carl.view() == anna.view()
    assert carl.stored.rebuild() == anna.stored.state.root()
    carl.materialise()
    carl.record(*random_act(carl, rng))
    settle(anna, bert, carl)
    assert carl.stored.state.root() == bert.stored.state.root()


@pytest.mark.parametrize("seed", range(3))
def test_P12_who_went_on_with_one_snapshot_goes_on_with_the_next(seed: int) -> None:
    (anna, bert, carl), rng = parted(seed)
    for step in range(3):
        act(carl, rng, 100 + step)
        signed, pieces = checkpointed(anna)
        catch_up(carl.stored, kept_of(carl, signed, pieces), signed)
        deliver(carl, anna)
        deliver_tail(anna, carl, signed)
        carl.materialise()
        assert carl.stored.state.root() == anna.stored.state.root()
        for number in range(6):
            act(rng.choice([anna, bert]), rng, 200 + 10 * step + number)
            settle(anna, bert)

    deliver_tail(anna, carl, signed)

    assert carl.stored.state.root() == anna.stored.state.root()
    assert carl.stored.rebuild() == anna.stored.state.root()


def test_a_deletion_is_not_undone_by_who_was_away() -> None:
    anna, bert, carl = make_nodes(3)
    for path in (b"gone", b"here"):
        anna.create(path, b"1")
    settle(anna, bert, carl)
    anna.delete(b"gone")
    carl.edit(b"here", b"2")
    signed, pieces = checkpointed(anna)

    catch_up(carl.stored, kept_of(carl, signed, pieces), signed)

    assert carl.files() == {b"here": b"2"}
    assert b"gone" in carl.rows()  # synced still tells what stands on its disk


def test_a_snapshot_that_is_not_the_owners_changes_nothing_of_who_was_away() -> None:
    anna, bert, carl = make_nodes(3)
    anna.create(b"a", b"1")
    deliver(anna, bert)
    carl.create(b"b", b"2")
    signed, pieces = checkpointed(bert)
    before = (carl.stored.log.heads(), carl.stored.state.root(), carl.view())

    with pytest.raises(Malformed, match="owner"):
        catch_up(carl.stored, kept_of(carl, signed, pieces), signed)

    assert (carl.stored.log.heads(), carl.stored.state.root(), carl.view()) == before
    assert carl.stored.rebuild() == before[1]
    carl.create(b"c", b"3")
    settle(anna, bert, carl)
    assert carl.stored.state.root() == anna.stored.state.root()


def test_P11_a_wrong_snapshot_changes_nothing_of_who_was_away() -> None:
    anna, _, carl = make_nodes(3)
    anna.create(b"a", b"1")
    carl.create(b"b", b"2")
    signed, pieces = checkpointed(anna)
    pieces = [piece[:-1] + bytes([piece[-1] ^ 1]) for piece in pieces]
    before = (carl.stored.log.heads(), carl.stored.state.root(), carl.view())

    with pytest.raises(Malformed):
        catch_up(carl.stored, kept_of(carl, signed, pieces), signed)

    assert (carl.stored.log.heads(), carl.stored.state.root(), carl.view()) == before


def test_what_was_let_in_and_ended_meanwhile_is_judged_as_by_everybody() -> None:
    anna, _, carl = make_nodes(3)
    carl.create(b"late", b"1")
    signed, pieces = checkpointed(anna)
    anna.stored.end(5)

    catch_up(carl.stored, kept_of(carl, signed, pieces), signed)
    deliver_tail(anna, carl, signed)
    deliver(carl, anna)

    assert carl.stored.ending is not None
    assert carl.stored.state.root() == anna.stored.state.root()
    assert carl.view() == anna.view()


def test_no_number_of_a_batch_is_given_again() -> None:
    anna, _, carl = make_nodes(3)
    anna.create(b"a", b"1")
    carl.create(b"b", b"2")
    signed, pieces = checkpointed(anna)
    (last,) = carl.stored.db.execute("SELECT max(no) FROM batch").fetchone()

    catch_up(carl.stored, kept_of(carl, signed, pieces), signed)

    rows = carl.stored.db.execute("SELECT no, length(id), folder_no FROM batch").fetchall()
    assert all(no > last and size == 32 and folder for no, size, folder in rows)
    again = StoredFolder(carl.stored.db, carl.stored.no, carl.stored.id, carl.stored.key)
    assert again.log.heads() == carl.stored.log.heads()
    assert again.log.count_events() == carl.stored.log.count_events()
    assert again.state.root() == carl.stored.state.root()
