"""Begin a folder with a snapshot and go on with the tail, as a node does."""

from __future__ import annotations

import random

import pytest

from store.checkpoint import describe
from store.db import memory_database
from store.errors import Malformed
from store.events import Checkpointed, encode
from store.folder import StoredFolder
from store.founding import add_folder
from store.ids import Epoch
from store.joined import begin_with
from store.kept_snapshot import KeptSnapshot, checkpoint_in, read_at
from store.past import Past
from store.signing import SignedBatch
from tests.store.nodes import Node, deliver, looked, make_nodes, random_act, settle
from tests.store.test_log import sign


def checkpointed(node: Node) -> tuple[SignedBatch, list[bytes]]:
    """Let a node record a checkpoint of what it has."""
    stored = node.stored
    pieces: list[bytes] = []
    told = describe(stored.db, stored.log, stored.state, pieces.append)
    assert told is not None
    with stored.change():
        [signed] = stored.append([encode(told)], 5)
    return signed, pieces


def joiner(like: Node, number: int = 9) -> Node:
    """Make a member's node that has nothing yet."""
    database = memory_database()
    no = add_folder(
        database, folder=like.stored.id, name="f", path=b"/9", epoch=Epoch(bytes([number]) * 16)
    )
    return Node(number, StoredFolder(database, no, like.stored.id, like.stored.key))


def kept_of(node: Node, signed: SignedBatch, pieces: list[bytes]) -> KeptSnapshot:
    """Put the pieces where a node keeps them."""
    kept = KeptSnapshot(node.stored.db, node.stored.no, node.stored.id)
    told = checkpoint_in(signed)
    assert told is not None
    for no, piece in enumerate(pieces):
        kept.keep(told.snapshot.hash, no, piece)
    return kept


def edited_nodes(seed: int) -> list[Node]:
    """Make three nodes that saved a few files very often, and did more."""
    rng = random.Random(seed)
    nodes = make_nodes(3)
    for name in (b"a", b"b"):
        nodes[0].create(name, b"0")
    settle(*nodes)
    for step in range(60):
        node = rng.choice(nodes)
        path = rng.choice([path for path in (b"a", b"b") if path in node.rows()] or [b""])
        if path and rng.random() < 0.6:
            node.edit(path, b"%d" % step)
        else:
            node.record(*random_act(node, rng))
        node.materialise()
        if rng.random() < 0.5:
            settle(*rng.sample(nodes, 2))
    settle(*nodes)
    return nodes


@pytest.mark.parametrize("seed", range(6))
def test_P10_who_joins_by_a_checkpoint_goes_on_like_everybody(seed: int) -> None:
    nodes = edited_nodes(seed)
    anna, bert, carl = nodes
    carl.edit(next(path for path, rows in carl.rows().items() if rows[0].kind == 0), b"away")
    signed, pieces = checkpointed(anna)
    bert.record(*random_act(bert, random.Random(seed)))
    new = joiner(carl)

    begin_with(new.stored, kept_of(new, signed, pieces), signed)
    new.stored.reload()
    (stubs,) = new.stored.db.execute("SELECT count(*) FROM batch WHERE header = x''").fetchone()
    assert stubs > 0
    for source in (anna, bert, carl):
        deliver(source, new)
    settle(anna, bert, carl)
    deliver(anna, new)

    assert new.stored.state.root() == anna.stored.state.root()
    assert new.stored.log.heads() == anna.stored.log.heads()
    assert new.stored.rebuild() == anna.stored.state.root()
    assert new.stored.log.members() == anna.stored.log.members()
    # What it cannot prove it serves to nobody; the rest of its log it does.
    ranges = [(head.log, None, head.seq) for head in new.stored.log.heads()]
    given, _ = new.stored.log.read(ranges, [], 1 << 30)
    whole, _ = anna.stored.log.read(ranges, [], 1 << 30)
    assert set(given) < set(whole)
    assert signed.wire in given


def test_an_object_is_known_to_have_had_what_was_left_out() -> None:
    anna, bert = make_nodes(2)
    anna.create(b"a", b"one")
    for content in (b"two", b"three", b"four"):
        anna.materialise()
        anna.edit(b"a", content)
    signed, pieces = checkpointed(anna)
    new = joiner(bert)
    begin_with(new.stored, kept_of(new, signed, pieces), signed)
    new.materialise()

    [row] = new.rows()[b"a"]

    assert new.stored.has_had(row.object_no, looked(b"two").value)
    assert new.stored.has_had(row.object_no, looked(b"four").value)
    assert not new.stored.has_had(row.object_no, looked(b"five").value)


def test_a_checkpoint_that_is_not_the_owners_is_not_believed() -> None:
    anna, bert, carl = make_nodes(3)
    anna.create(b"a", b"1")
    deliver(anna, bert)
    signed, pieces = checkpointed(bert)
    new = joiner(carl)

    with pytest.raises(Malformed, match="owner"):
        begin_with(new.stored, kept_of(new, signed, pieces), signed)

    assert not new.stored.log.heads()
    assert not new.stored.log.members()
    assert new.stored.db.execute("SELECT count(*) FROM batch").fetchone() == (0,)
    assert new.stored.db.execute("SELECT count(*) FROM buried").fetchone() == (0,)


def test_a_folder_that_has_a_log_does_not_begin_with_a_snapshot() -> None:
    anna, bert = make_nodes(2)
    signed, pieces = checkpointed(anna)

    with pytest.raises(Malformed, match="nothing is here"):
        begin_with(bert.stored, kept_of(bert, signed, pieces), signed)


def test_P11_a_checkpoint_with_another_root_changes_nothing() -> None:
    anna, bert = make_nodes(2)
    anna.create(b"a", b"1")
    pieces: list[bytes] = []
    stored = anna.stored
    told = describe(stored.db, stored.log, stored.state, pieces.append)
    assert told is not None
    wrong = Checkpointed(told.frontier, told.state_version, bytes(32), told.snapshot)
    signed = sign(anna, anna.wires()[-1], [wrong])
    new = joiner(bert)

    with pytest.raises(Malformed, match="another state"):
        begin_with(new.stored, kept_of(new, signed, pieces), signed)

    assert not new.stored.log.heads()


def test_a_kept_snapshot_is_read_in_parts_and_replaced_by_the_next() -> None:
    anna, _ = make_nodes(2)
    anna.create(b"a", b"1")
    signed, pieces = checkpointed(anna)
    kept = kept_of(anna, signed, pieces)
    kept.note(signed)
    told = checkpoint_in(kept.checkpoint() or signed)
    assert told is not None
    whole = b"".join(pieces)

    assert kept.is_whole(told.snapshot)
    assert read_at(kept, told.snapshot, 10, 100) == whole[10:110]
    assert read_at(kept, told.snapshot, len(whole) - 5, 100) == whole[-5:]
    assert read_at(kept, told.snapshot, len(whole) + 5, 100) == b""
    anna.edit(b"a", b"2")
    later, more = checkpointed(anna)
    kept_of(anna, later, more).note(later)
    assert kept.count(told.snapshot.hash) == 0
    assert kept.content() == getattr(checkpoint_in(later), "snapshot", None)


def test_the_past_of_a_folder_that_began_with_a_snapshot_begins_with_it() -> None:
    anna, bert = make_nodes(2)
    anna.create(b"a", b"one")
    anna.edit(b"a", b"two")
    signed, pieces = checkpointed(anna)
    anna.edit(b"a", b"three")
    told = checkpoint_in(signed)
    assert told is not None
    past = Past(anna.stored.id)
    for no, piece in enumerate(pieces):
        past.snapshot.keep(told.snapshot.hash, no, piece)

    past.begin_with(told)
    assert past.tree()[b"a"].value == looked(b"two").value
    past.admit([batch.wire for batch in anna.wires()[-2:]])

    assert past.tree()[b"a"].value == looked(b"three").value
    past.close()
    del bert
