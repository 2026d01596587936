"""Hold the end of a folder: who can end it, what counts on, and that every node judges alike."""

from __future__ import annotations

import random
from itertools import permutations
from typing import Any

import pytest

from store import ending
from store.access import Role
from store.db import memory_database
from store.events import CutPoint, Event, Granted, Revoked
from store.folder import StoredFolder
from store.founding import add_folder
from store.ids import BatchId, Epoch
from store.signing import AgentKey, SignedBatch
from tests.store.nodes import Node, deliver, make_nodes, random_act, settle
from tests.store.test_log import make_directory, sign

ORDERS = 6


def end(node: Node) -> list[SignedBatch]:
    node.clock_ms += 1
    return node.stored.end(node.clock_ms)


def grant(node: Node, key: AgentKey, role: Role) -> list[SignedBatch]:
    return node.stored.grant(
        key.agent, role, label=b"late", expires_ms=None, may_delegate=False, wall_ms=3
    )


def fresh(like: Node, number: int) -> Node:
    """Make an empty node of one more agent for the same folder."""
    key = AgentKey.from_seed(bytes([100 + number]) * 32)
    database = memory_database()
    no = add_folder(
        database, folder=like.stored.id, name="f", path=b"/new", epoch=Epoch(bytes([99]) * 16)
    )
    return Node(number, StoredFolder(database, no, like.stored.id, key))


def judged(node: Node) -> dict[bytes, int]:
    return dict(node.stored.db.execute("SELECT id, is_void FROM batch ORDER BY id").fetchall())


def account(node: Node) -> dict[str, Any]:
    """Everything that all nodes have to agree on."""
    stored = node.stored
    return {
        "void": judged(node),
        "root": stored.state.root(),
        "members": stored.log.members(),
        "ending": None if stored.ending is None else stored.ending.batch,
        "view": node.view(),
    }


def assert_alike_in_any_order(batches: list[SignedBatch], like: Node, rng: random.Random) -> None:
    """Deliver the same set in many orders, cut anywhere, with restarts: one account of it."""
    accounts = []
    for number in range(ORDERS):
        node = fresh(like, number)
        order = list(batches)
        rng.shuffle(order)
        while order:
            part = [order.pop() for _ in range(min(len(order), rng.randrange(1, 6)))]
            node.stored.admit(part, b"somebody")
            if rng.random() < 0.1:
                kept = {signed.id for signed in part}
                node.stored.reload()  # what waited is gone, as after a restart
                order += [b for b in batches if b.id not in kept and not node.has(b.id)]
        while any(not node.has(batch.id) for batch in batches):
            node.stored.admit([b for b in batches if not node.has(b.id)], b"somebody")
        accounts.append(account(node))
        root = accounts[-1]["root"]
        assert node.stored.rebuild() == root
        node.stored.reload()
        assert account(node) == accounts[-1]
    assert all(one == accounts[0] for one in accounts)


def everything(*nodes: Node) -> list[SignedBatch]:
    return list({signed.id: signed for node in nodes for signed in node.wires()}.values())


def test_P41_what_the_owner_had_counts_on_and_nothing_else_does() -> None:
    anna, bert = make_nodes(2)
    bert.create(b"early", b"1")
    settle(anna, bert)
    bert.create(b"unknown to the owner", b"2")

    end(anna)
    settle(anna, bert)
    late = bert.create(b"late", b"3")

    assert not late.batches
    for node in (anna, bert):
        deliver(anna, bert)
        deliver(bert, anna)
        assert set(node.files()) == {b"early"}
        assert node.stored.ending is not None
        assert {member.role for member in node.stored.log.members().values()} == {Role.READ}
    assert account(anna) == account(bert)


def test_nothing_is_taken_from_a_disk_when_the_end_cuts_off_what_it_holds() -> None:
    anna, bert = make_nodes(2)
    settle(anna, bert)
    bert.create(b"mine", b"2")
    bert.stored.take_changes()

    bert.stored.admit(end(anna), b"0")

    assert not bert.files()
    assert bert.rows().keys() == {b"mine"}
    assert not bert.stored.take_changes()
    bert.stored.state.changes.objects |= bert.stored.unsynced.find().objects
    assert not bert.stored.take_changes()


def test_P41_a_batch_written_with_knowledge_of_the_end_is_cut_off() -> None:
    anna, bert = make_nodes(2)
    end(anna)
    bert.stored.admit(anna.wires(), b"0")
    late = sign(bert, None, [make_directory(bert, b"late")])
    by_owner = sign(anna, anna.wires()[-1], [make_directory(anna, b"too late")])

    for node in (anna, bert):
        admitted = node.stored.admit([late, by_owner], b"somebody")

        assert not admitted.refused
        assert len(admitted.stored) == 2
        assert not node.files()


@pytest.mark.parametrize("role", [Role.ADMIN, Role.WRITE, Role.READ, None])
def test_only_the_owner_can_end_a_folder(role: Role | None) -> None:
    anna, bert = make_nodes(2, roles={1: Role.WRITE if role is None else role})
    forger = bert if role is not None else fresh(anna, 7)
    forger.stored.admit(anna.wires(), b"0")
    target = anna.stored.key.agent
    for agent in (target, forger.stored.key.agent):
        signed = sign(forger, None, [Revoked(agent=agent, cut=())])

        admitted = anna.stored.admit([signed], b"forger")

        if role is None:
            assert admitted.refused == {"stranger": 1}
        else:
            assert judged(anna)[signed.id] == 1
        assert anna.stored.ending is None
        anna.create(b"goes on %d" % len(anna.files()), b"1")
    assert len(anna.files()) == 2


def test_an_end_of_somebody_else_by_the_owner_is_reserved() -> None:
    anna, bert = make_nodes(2)
    signed = sign(anna, anna.wires()[-1], [Revoked(agent=bert.stored.key.agent, cut=())])

    anna.stored.admit([signed], b"0")

    assert anna.stored.ending is None
    assert anna.stored.log.members()[bert.stored.key.agent].role == Role.WRITE


def test_who_was_let_in_too_late_is_still_told() -> None:
    """An admin admits somebody while the owner ends the folder: both hear of it."""
    anna, bert = make_nodes(2, roles={1: Role.ADMIN})
    carl = AgentKey.from_seed(b"c" * 32)
    grant(bert, carl, Role.WRITE)

    end(anna)
    settle(anna, bert)

    for node in (anna, bert):
        assert carl.agent in node.stored.log.members()
        assert node.stored.ending is not None


def test_a_cut_may_name_what_comes_later_than_the_end() -> None:
    """More logs stood open than a header has room for: what the cut names counts all the same."""
    anna, bert = make_nodes(2)
    early = sign(bert, None, [make_directory(bert, b"early")])
    point = CutPoint(log=early.log, seq=0, batch=early.id)
    head = anna.wires()[-1]
    own = CutPoint(log=head.log, seq=head.header.seq, batch=head.id)
    last = sign(anna, head, [Revoked(agent=anna.stored.key.agent, cut=(point, own))])
    for order in permutations([early, last]):
        node = fresh(anna, 1)
        node.stored.admit(anna.wires(), b"0")
        for signed in order:
            node.stored.admit([signed], b"0")

        assert set(node.files()) == {b"early"}
        assert judged(node)[early.id] == 0


def test_P42_an_end_with_an_empty_cut_is_judged_alike_in_any_order() -> None:
    anna, bert = make_nodes(2)
    bert.create(b"x", b"1")
    deliver(bert, anna)
    head = anna.wires()[-1]
    mine = [one for one in anna.wires() if one.log == anna.stored.own_log]
    first = sign(anna, mine[-1], [Revoked(agent=anna.stored.key.agent, cut=())])
    other = sign(anna, mine[-1], [Revoked(agent=anna.stored.key.agent, cut=())], deps=[head.id])
    batches = [*anna.wires(), first, other]

    assert_alike_in_any_order(batches, anna, random.Random(1))


@pytest.mark.parametrize("seed", range(8))
def test_P41_P42_every_node_judges_an_end_alike_whatever_came_first(seed: int) -> None:
    """Edits, grants, grants by who was granted too late, two ends by a cloned home: any order."""
    rng = random.Random(seed)
    nodes = make_nodes(4, roles={1: Role.ADMIN, 3: Role.READ})
    anna, bert, carl, _dora = nodes
    for _ in range(rng.randrange(2, 5)):
        for node in (anna, bert, carl):
            for _ in range(rng.randrange(3)):
                node.record(*random_act(node, rng))
        settle(*nodes)
    for node in (bert, carl):  # unknown to the owner
        for _ in range(rng.randrange(1, 4)):
            node.record(*random_act(node, rng))
    late = fresh(anna, 50)
    grant(bert, late.stored.key, Role.WRITE)
    late.stored.admit(bert.wires(), b"1")
    late.record(*random_act(late, rng))
    grant(late, AgentKey.from_seed(b"z" * 32), Role.WRITE)
    before = anna.wires()
    if rng.random() < 0.5:
        deliver(carl, anna)
    last = end(anna)
    carl.stored.admit(last, b"0")
    more: list[SignedBatch] = []
    if rng.random() < 0.6:  # the owner's home was copied: the copy ends the folder too
        mine = [one for one in before if one.log == anna.stored.own_log]
        points = [CutPoint(log=mine[-1].log, seq=mine[-1].header.seq, batch=mine[-1].id)]
        events: list[Event | bytes] = [
            Revoked(agent=anna.stored.key.agent, cut=tuple(points)),
            Granted(agent=b"y" * 32, role=2, may_delegate=False, expires_ms=None, label=b""),
        ]
        more.append(sign(anna, mine[-1], events))

    batches = [*everything(anna, bert, carl, late), *more]

    assert_alike_in_any_order(batches, anna, rng)


def test_the_cut_of_very_many_open_logs_is_one_batch() -> None:
    points = [
        CutPoint(log=number.to_bytes(32, "big"), seq=2**63 - 1, batch=number.to_bytes(32, "big"))
        for number in range(ending.POINTS_LIMIT + 5)
    ]
    anna, _ = make_nodes(2)
    events = ending.cut_events(anna.stored.key.agent, points)

    signed = sign(anna, anna.wires()[-1], list(events))

    named = ending.points_of(anna.stored.key.agent, signed.events)
    assert len(named) == ending.POINTS_LIMIT
    assert BatchId(points[0].batch) in named
