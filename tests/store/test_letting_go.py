"""Let go of the log below a checkpoint, and find that nothing else is other than before."""

from __future__ import annotations

import random

import pytest

from store.access import Role
from store.acknowledged import AWAY_MS, Acknowledged
from store.checkpoint import describe
from store.errors import Malformed
from store.folder import StoredFolder
from store.joined import begin_with, let_go
from store.kept_snapshot import checkpoint_in
from store.signing import SignedBatch
from tests.store.nodes import Node, deliver, make_nodes, random_act, settle
from tests.store.test_catching_up import act, parted
from tests.store.test_joined import checkpointed, joiner, kept_of


def stubs(node: Node) -> int:
    (number,) = node.stored.db.execute(
        "SELECT count(*) FROM batch WHERE header = x''"
    ).fetchone()
    return int(number)


def thinned(*nodes: Node) -> SignedBatch:
    """Let the first record a checkpoint, and all of them let go of what is below it."""
    signed, pieces = checkpointed(nodes[0])
    for node in nodes:
        if not node.has(signed.id):
            deliver(nodes[0], node)
        let_go(node.stored, kept_of(node, signed, pieces), signed)
    return signed


@pytest.mark.parametrize("seed", range(6))
def test_P12_letting_go_changes_no_root_then_or_after_whatever_comes_late(seed: int) -> None:
    (anna, bert, carl), rng = parted(seed)  # carl is away, and did things
    root, view, heads = anna.stored.state.root(), anna.view(), anna.stored.log.heads()
    rows = anna.rows()
    anna.stored.take_changes()

    signed = thinned(anna)

    assert stubs(anna) > 0
    assert (anna.stored.state.root(), anna.view(), anna.rows()) == (root, view, rows)
    assert {one.batch for one in heads} - {signed.header.prev} <= {
        one.batch for one in anna.stored.log.heads()
    }
    assert not anna.stored.state.changes.objects
    assert anna.stored.rebuild() == root
    late = [one for one in carl.wires() if not anna.has(one.id)]
    assert late
    rng.shuffle(late)
    for one in late:  # one after the other, in any order; bert has everything as it was
        anna.stored.admit([one], b"2")
        bert.stored.admit([one], b"2")
    bert.stored.admit([signed], b"0")
    assert anna.stored.state.root() == bert.stored.state.root()
    assert anna.view() == bert.view()
    anna.materialise()
    bert.materialise()
    for step in range(12):
        act(rng.choice([anna, bert]), rng, step)
        deliver(anna, bert)
        deliver(bert, anna)
        assert anna.stored.state.root() == bert.stored.state.root()
    assert anna.stored.rebuild() == bert.stored.rebuild()


@pytest.mark.parametrize("seed", range(3))
def test_P10_checkpoint_after_checkpoint_says_what_a_whole_log_says(seed: int) -> None:
    (anna, bert, carl), rng = parted(seed)
    settle(anna, bert, carl)
    for step in range(3):
        thinned(anna)
        for number in range(8):
            act(rng.choice([anna, bert]), rng, 10 * step + number)
            anna.stored.admit([one for one in bert.wires() if not anna.has(one.id)], b"1")
            bert.stored.admit([one for one in anna.wires() if not bert.has(one.id)], b"0")
            anna.materialise()
            bert.materialise()
        pieces: list[bytes] = []
        whole: list[bytes] = []
        here = describe(anna.stored.db, anna.stored.log, anna.stored.state, pieces.append)
        there = describe(bert.stored.db, bert.stored.log, bert.stored.state, whole.append)
        assert here is not None
        assert here == there
        assert pieces == whole
    new = joiner(carl)
    signed, pieces = checkpointed(anna)
    begin_with(new.stored, kept_of(new, signed, pieces), signed)
    assert new.stored.state.root() == anna.stored.state.root()


def test_a_pruned_log_lets_go_again_and_keeps_the_snapshot_that_it_begins_with() -> None:
    anna, bert = make_nodes(2)
    anna.create(b"a", b"0")
    first: SignedBatch | None = None
    for round_ in range(2):
        for number in range(20):
            anna.materialise()
            anna.edit(b"a", b"%d %d" % (round_, number))
        signed, pieces = checkpointed(anna)
        kept = kept_of(anna, signed, pieces)
        kept.note(signed)
        base = kept.base()
        assert base is not None
        assert base.id == (first or signed).id
        if first is not None:
            told = checkpoint_in(first)
            assert told is not None
            assert kept.is_whole(told.snapshot)  # the log here still begins with it
        let_go(anna.stored, kept, signed)
        base = kept.base()
        assert base is not None
        assert base.id == signed.id
        first = signed
    assert anna.stored.db.execute("SELECT count(DISTINCT hash) FROM snapshot_piece").fetchone() == (
        1,
    )
    assert stubs(anna) > 30
    deliver(anna, bert)  # bert was away all the time
    assert bert.stored.log.waiting


def test_nothing_is_let_go_for_a_snapshot_that_does_not_stand_for_the_log() -> None:
    anna, bert, carl = make_nodes(3)
    anna.create(b"a", b"1")
    signed, pieces = checkpointed(anna)
    lacking = (bert.stored.log.heads(), bert.stored.state.root())
    with pytest.raises(Malformed, match="another log"):
        let_go(bert.stored, kept_of(bert, signed, pieces), signed)
    assert (bert.stored.log.heads(), bert.stored.state.root()) == lacking

    deliver(anna, bert)
    bert.create(b"b", b"2")
    wrong = [piece[:-1] + bytes([piece[-1] ^ 1]) for piece in pieces]
    before = (bert.stored.log.heads(), bert.stored.state.root(), bert.view())
    with pytest.raises(Malformed):
        let_go(bert.stored, kept_of(bert, signed, wrong), signed)
    assert (bert.stored.log.heads(), bert.stored.state.root(), bert.view()) == before
    assert stubs(bert) == 0

    deliver(anna, carl)
    anna.stored.end(5)
    with pytest.raises(Malformed, match="another log"):
        let_go(anna.stored, kept_of(anna, signed, pieces), signed)


def test_P12_roles_of_who_comes_later_are_judged_as_ever() -> None:
    anna, bert, carl = make_nodes(3, roles={2: Role.READ})
    for number in range(10):
        anna.create(b"f%d" % number, b"1")
    settle(anna, bert)
    thinned(anna, bert)
    carl.create(b"no", b"1")

    deliver(carl, anna)
    bert.record(*random_act(bert, random.Random(1)))
    deliver(bert, anna)

    assert b"no" not in anna.files()
    assert anna.stored.log.members() == bert.stored.log.members()


# -- who is waited for ------------------------------------------------------------------------


def acknowledged(node: Node) -> Acknowledged:
    return Acknowledged(node.stored.db, node.stored.no)


def test_everybody_is_waited_for_who_did_not_say_that_they_have_it() -> None:
    anna, bert, carl = make_nodes(3)
    members = [bert.stored.key.agent, carl.stored.key.agent]
    signed, _ = checkpointed(anna)
    said = acknowledged(anna)
    (newest,) = anna.stored.db.execute("SELECT max(no) FROM batch").fetchone()

    assert said.waited_for(members, signed.id, 1000) == sorted(members)
    said.note(members[:1], newest - 1)
    assert said.waited_for(members, signed.id, 2000) == sorted(members)
    said.note(members[:1], newest)
    assert said.waited_for(members, signed.id, 3000) == members[1:]

    deliver(anna, carl)
    carl.create(b"c", b"1")  # rests on the checkpoint: it says so by its signature
    deliver(carl, anna)
    assert said.waited_for(members, signed.id, 4000) == []


def test_who_wrote_beside_a_checkpoint_has_not_said_that_they_have_it() -> None:
    anna, bert = make_nodes(2)
    signed, _ = checkpointed(anna)
    bert.create(b"b", b"1")
    deliver(bert, anna)

    assert acknowledged(anna).waited_for([bert.stored.key.agent], signed.id, 1) == [
        bert.stored.key.agent
    ]


def test_who_said_nothing_for_a_month_is_waited_for_no_more() -> None:
    anna, bert = make_nodes(2)
    signed, _ = checkpointed(anna)
    said, members = acknowledged(anna), [bert.stored.key.agent]

    assert said.waited_for(members, signed.id, 1000) == members
    assert said.waited_for(members, signed.id, 999 + AWAY_MS) == members
    assert said.waited_for(members, signed.id, 1000 + AWAY_MS) == []
    assert said.waited_for(members, signed.id, 500) == members  # the clock was set back: anew
    said.note(members, 1)
    later, _ = checkpointed(anna)
    assert said.waited_for(members, later.id, 5000 + AWAY_MS) == members


def test_a_checkpoint_that_is_not_here_waits_for_everybody() -> None:
    anna, bert = make_nodes(2)
    signed, _ = checkpointed(anna)

    assert acknowledged(bert).waited_for([anna.stored.key.agent], signed.id, 1)


def test_it_survives_a_restart() -> None:
    anna, bert = make_nodes(2)
    anna.create(b"a", b"1")
    settle(anna, bert)
    thinned(anna)
    stored = anna.stored

    again = StoredFolder(stored.db, stored.no, stored.id, stored.key)

    assert again.state.root() == stored.state.root()
    assert again.log.heads() == stored.log.heads()
    assert again.log.frontier() == stored.log.frontier()
    assert again.log.members() == stored.log.members()
