"""Hold the log: what waits and how long, order, frontier, forks, restarts, cuts, refusals."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest

from store import waiting
from store.access import Role
from store.codec import DEPS_LIMIT
from store.db import memory_database
from store.events import Content, Event, ObjectCreated, ObjectMoved, Untagged, encode
from store.founding import share_folder
from store.ids import BatchId, Epoch, FolderId, blob_hash
from store.log import FolderLog
from store.signing import AgentKey, SignedBatch, sign_batch
from tests.store.nodes import Node, deliver, make_nodes, random_act

SOURCE = b"source"


def make_directory(node: Node, name: bytes) -> ObjectCreated:
    return ObjectCreated(
        parent=node.stored.id,
        kind=1,
        generation=0,
        name=name,
        content=None,
        mode=0,
        mtime_ns=0,
        prev=(),
    )


def sign(
    node: Node,
    after: SignedBatch | None,
    events: Sequence[Event | bytes],
    *,
    deps: Sequence[bytes] = (),
    lamport: int | None = None,
    epoch: Epoch | None = None,
    folder: bytes | None = None,
    seq: int | None = None,
) -> SignedBatch:
    """Sign a batch of a node as asked, whatever its log says."""
    named = list(deps)
    if after is None and not named:
        named = sorted(head.batch for head in node.stored.log.heads())
    known = [node.stored.log.lineage.lamport(dep) for dep in named if node.has(dep)]
    parents = [*known, 0 if after is None else after.header.lamport]
    return sign_batch(
        node.stored.key,
        folder=FolderId(node.stored.id if folder is None else folder),
        epoch=node.stored.epoch if epoch is None else epoch,
        seq=(0 if after is None else after.header.seq + 1) if seq is None else seq,
        prev=None if after is None else after.id,
        deps=tuple(sorted(BatchId(dep) for dep in named)),
        lamport=1 + max(parents) if lamport is None else lamport,
        wall_ms=7,
        events=[one if isinstance(one, bytes) else encode(one) for one in events],
    )


def chain(node: Node, length: int, first: SignedBatch | None = None) -> list[SignedBatch]:
    """Sign batches that follow one another, without storing them."""
    found: list[SignedBatch] = [] if first is None else [first]
    while len(found) < length:
        name = b"d%d" % len(found)
        found.append(sign(node, found[-1] if found else None, [make_directory(node, name)]))
    return found


def memory_of(log: FolderLog) -> dict[str, object]:
    return {
        "heads": log.heads(),
        "frontier": dict(log._frontier.lamports),
        "logs": dict(log._log_nos),
        "sets": dict(log._access.sets),
        "batches": log.batches,
        "held": set(log.held_by_newer),
        "members": log.members(),
        "events": log.count_events(),
    }


def tables_of(node: Node) -> list[object]:
    names = ("log", "batch", "frontier", "access_set", "event", "object", "waitingevent")
    return [node.stored.db.execute(f"SELECT * FROM {name}").fetchall() for name in names]


def assert_reload_changes_nothing(node: Node) -> None:
    before = memory_of(node.stored.log)
    node.stored.reload()
    assert memory_of(node.stored.log) == before


# -- waiting ---------------------------------------------------------------------------------------


def test_A13_what_waits_is_bounded_for_each_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PENDING_LIMIT", 3)
    anna, bert = make_nodes(2)
    batches = chain(bert, 7)

    first = anna.stored.admit(batches[1:], SOURCE)
    other = anna.stored.admit(batches[5:], b"another")

    assert first.refused == {"pending-full": 3}
    assert first.missing == {batches[0].id}
    assert other.known == 0
    assert not other.refused
    assert anna.stored.log.waiting == 5
    anna.stored.log.forget_waiting(SOURCE)
    assert anna.stored.log.waiting == 2
    assert anna.stored.log.missing() == {batches[4].id}
    anna.stored.log.forget_waiting(b"another")
    assert not anna.stored.log._room._waited_for
    assert anna.stored.log._room._cost_of == {SOURCE: (0, 0, 0), b"another": (0, 0, 0)}
    assert len(anna.stored.admit(batches, SOURCE).applied) == 7


def test_A13_what_waits_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    anna, bert = make_nodes(2)
    batches = chain(bert, 4)
    of_one = max(len(one.wire.header) + len(one.body) for one in batches)
    monkeypatch.setattr(waiting, "PENDING_LIMIT_BYTES", 2 * of_one)

    assert anna.stored.admit(batches[1:], SOURCE).refused == {"pending-full": 1}


def test_A13_what_is_waited_for_is_bounded_for_each_peer() -> None:
    """A batch may name 1,024 that nobody has: 10,000 such cost gigabytes."""
    anna, bert = make_nodes(2)
    named = [BatchId(number.to_bytes(32, "big")) for number in range(60 * DEPS_LIMIT)]
    batches = [
        sign_batch(
            AgentKey.from_seed(b"b" * 32),
            folder=bert.stored.id,
            epoch=Epoch(start.to_bytes(16, "big")),
            seq=0,
            prev=None,
            deps=tuple(named[start : start + DEPS_LIMIT]),
            lamport=7,
            wall_ms=0,
            events=[b"\x91\x07"],
        )
        for start in range(0, len(named), DEPS_LIMIT)
    ]

    admitted = anna.stored.admit(batches, SOURCE)

    fits = waiting.PENDING_IDS_LIMIT // DEPS_LIMIT
    assert admitted.refused == {"pending-full": len(batches) - fits}
    assert len(admitted.missing) == fits * DEPS_LIMIT
    assert anna.stored.admit(batches[-1:], b"another").missing > admitted.missing
    anna.stored.log.forget_waiting(SOURCE)
    assert anna.stored.log.missing() == set(named[-DEPS_LIMIT:])


def test_A13_a_long_chain_behind_a_refused_batch_is_dropped() -> None:
    """Thousands of batches wait for one that breaks a rule: nothing recurses into them."""
    anna, bert = make_nodes(2)
    bad = sign(bert, None, [make_directory(bert, b"..")])
    batches = chain(bert, 1500, bad)
    anna.stored.admit(batches[1:], SOURCE)
    assert anna.stored.log.waiting == 1499

    admitted = anna.stored.admit([bad], SOURCE)

    assert admitted.refused == {"unsafe-name": 1, "parent-refused": 1499}
    assert anna.stored.log.waiting == 0
    assert not anna.stored.log._room._waited_for
    assert not admitted.missing


def test_A13_a_long_chain_is_applied_when_its_first_batch_comes() -> None:
    anna, bert = make_nodes(2)
    batches = chain(bert, 300)

    waiting = anna.stored.admit(batches[:0:-1], SOURCE)
    admitted = anna.stored.admit([batches[0]], b"another")

    assert not waiting.applied
    assert admitted.applied == [batch.id for batch in batches]
    assert anna.stored.log.waiting == 0
    assert anna.stored.log._room._cost_of[SOURCE] == (0, 0, 0)


@pytest.mark.parametrize("seed", range(8))
def test_P5_P6_any_order_with_duplicates_and_restarts_gives_one_log(seed: int) -> None:
    rng = random.Random(seed)
    *nodes, target = make_nodes(4)
    for _ in range(30):
        node = rng.choice(nodes)
        node.record(*random_act(node, rng))
        node.materialise()
        if rng.random() < 0.3:
            deliver(rng.choice(nodes), node, rng, 0.7)
    batches = [batch for node in nodes for batch in node.wires()] * 2
    rng.shuffle(batches)

    while any(not target.has(batch.id) for batch in batches):
        for batch in batches:
            target.stored.admit([batch], SOURCE)
            for applied in target.wires():
                parents = [*applied.header.deps, applied.header.prev or applied.id]
                assert all(target.has(parent) for parent in parents)
            if rng.random() < 0.05:
                assert_reload_changes_nothing(target)

    assert target.stored.log.waiting == 0
    named = {p for b in batches for p in (*b.header.deps, b.header.prev)}
    assert set(target.stored.log._frontier.lamports) == {b.id for b in batches} - named
    assert_reload_changes_nothing(target)


# -- writing ---------------------------------------------------------------------------------------


def test_deps_are_the_frontier_without_prev_and_lamport_is_one_more() -> None:
    anna, bert, carl = make_nodes(3)
    bert.make_directory(b"b")
    carl.make_directory(b"c")
    deliver(bert, anna)
    deliver(carl, anna)
    before = dict(anna.stored.log._frontier.lamports)

    (batch,) = anna.make_directory(b"a").batches

    assert {*batch.header.deps, batch.header.prev} >= set(before)
    assert batch.header.lamport == 1 + max(before.values())
    assert anna.stored.log._frontier.lamports == {batch.id: batch.header.lamport}
    (again,) = anna.make_directory(b"again").batches
    assert again.header.deps == ()
    assert again.header.prev == batch.id


def test_somebody_with_very_many_logs_does_not_keep_us_from_writing() -> None:
    anna, bert, carl = make_nodes(3)
    heads = [
        sign(bert, None, [make_directory(bert, b"%d" % i)], epoch=Epoch(i.to_bytes(16, "big")))
        for i in range(1000, 1000 + DEPS_LIMIT + 50)
    ]
    anna.stored.admit(heads, SOURCE)
    assert len(anna.stored.log._frontier.lamports) == len(heads)

    (first,) = anna.make_directory(b"a").batches
    (second,) = anna.make_directory(b"b").batches

    assert len(first.header.deps) == DEPS_LIMIT
    assert len(second.header.deps) == 50
    assert second.header.lamport == first.header.lamport + 1
    deliver(anna, carl)
    assert carl.stored.state.root() == anna.stored.state.root()
    assert_reload_changes_nothing(anna)


def test_own_events_are_cut_into_batches_and_keep_the_ids_they_were_given() -> None:
    (anna,) = make_nodes(1)
    writer = anna.stored.writer()
    small = [writer.add(encode(make_directory(anna, b"%d" % i))) for i in range(5000)]
    large = [
        writer.add(encode(Untagged(object=bytes(32), tag=b"t" * 255)) + b"") for i in range(4000)
    ]

    with anna.stored.change():
        batches = writer.write(5, anna.stored.fold)

    assert [event for batch in batches for event in batch.event_ids] == small + large
    assert all(len(b.events) <= 4096 and len(b.body) <= 1024 * 1024 for b in batches)
    assert [b.header.seq for b in batches] == list(
        range(batches[0].header.seq, batches[0].header.seq + len(batches))
    )
    assert all(len(b.events) == 4096 or len(b.body) > 900_000 for b in batches[:-1])
    for before, after in pairwise(batches):
        assert after.header.prev == before.id
        assert after.header.deps == ()


def test_a_body_is_cut_below_one_mebibyte() -> None:
    (anna,) = make_nodes(1)
    prev = tuple(bytes([i]) * 32 for i in range(255))
    raw = encode(ObjectMoved(object=bytes(32), parent=bytes(32), name=b"n" * 255, prev=prev))
    writer = anna.stored.writer()
    ids = [writer.add(raw) for _ in range(300)]

    with anna.stored.change():
        batches = writer.write(5, anna.stored.fold)

    assert len(batches) == 3
    assert [event for batch in batches for event in batch.event_ids] == ids
    assert all(1024 * 1024 - len(raw) <= len(b.body) <= 1024 * 1024 for b in batches[:-1])


# -- reading ---------------------------------------------------------------------------------------


def test_read_gives_order_of_lamport_and_id_within_the_limit_and_at_least_one() -> None:
    anna, bert = make_nodes(2)
    for node in (anna, bert, anna, bert):
        node.make_directory(b"%d" % node.clock_ms)
    deliver(bert, anna)
    log = anna.stored.log
    ranges = [(head.log, None, head.seq) for head in log.heads()]
    whole, has_more = log.read(ranges, [], 1 << 30)
    assert not has_more
    batches = anna.wires()
    order = [(b.header.lamport, b.id) for b in batches]
    assert order == sorted(order)
    assert len(whole) == log.batches

    part, has_more = log.read(ranges, [], 0)
    assert (len(part), has_more) == (1, True)
    assert part == whole[:1]
    size = sum(len(wire.body) for wire in whole[:3])
    assert log.read(ranges, [], size) == (whole[:3], True)
    assert log.read(ranges, [], sum(len(wire.body) for wire in whole)) == (whole, False)

    ids = [batches[2].id, batches[0].id, bytes(32), batches[2].id]
    assert log.read([], ids, 1 << 30) == ([whole[0], whole[2]], False)
    own = log.own_head(anna.stored.key.agent, anna.stored.epoch)
    assert own is not None
    after, _ = log.read([(own.log, own.seq - 1, own.seq)], [], 1 << 30)
    assert after == [wire for b, wire in zip(batches, whole, strict=True) if b.id == own.batch]
    assert log.read([(bytes(32), None, 9), (own.log, own.seq, own.seq)], [], 9) == ([], False)


def test_A11_heads_and_forks_are_the_same_after_a_restart() -> None:
    anna, bert, carl = make_nodes(3)
    root = sign(bert, None, [make_directory(bert, b"root")])
    left = chain(bert, 4, sign(bert, root, [make_directory(bert, b"left")]))
    right = sign(bert, root, [make_directory(bert, b"right")])

    assert not anna.stored.admit([root, *left], SOURCE).forked
    assert anna.stored.admit([right], SOURCE).forked == {bert.stored.key.agent}

    heads = {h.batch for h in anna.stored.log.heads() if h.agent == bert.stored.key.agent}
    assert heads == {left[-1].id, right.id}
    assert_reload_changes_nothing(anna)
    longer = sign(bert, right, [make_directory(bert, b"longer")])
    anna.stored.admit([longer], SOURCE)
    assert_reload_changes_nothing(anna)
    deliver(anna, carl)
    assert {h.batch for h in carl.stored.log.heads()} == {h.batch for h in anna.stored.log.heads()}
    assert carl.stored.state.root() == anna.stored.state.root()
    (own,) = anna.make_directory(b"own").batches
    assert set(own.header.deps) == {left[-1].id, longer.id}


# -- failures --------------------------------------------------------------------------------------


class Broken(Exception):
    """Something that fails in the middle of a transaction."""


def fail_in_the_middle(node: Node, other: Node) -> None:
    with node.stored.change():
        node.stored.admit(other.wires(), SOURCE)
        node.record(*random_act(node, random.Random(5)))
        node.make_directory(b"f")
        raise Broken


def test_memory_follows_the_database_back_when_a_transaction_fails() -> None:
    anna, bert = make_nodes(2)
    anna.make_directory(b"d")
    anna.create(b"d/x", b"1")
    bert.stored.admit(anna.wires(), SOURCE)
    bert.make_directory(b"e")
    before, tables = memory_of(anna.stored.log), tables_of(anna)
    root = anna.stored.state.root()

    with pytest.raises(Broken):
        fail_in_the_middle(anna, bert)

    assert memory_of(anna.stored.log) == before
    assert tables_of(anna) == tables
    assert anna.stored.state.root() == root
    assert set(anna.rows()) == {b"d", b"d/x"}
    (again,) = anna.make_directory(b"f").batches
    assert again.header.seq == 1 + max(
        b.header.seq for b in anna.wires() if b.id != again.id and b.log == again.log
    )
    deliver(bert, anna)
    deliver(anna, bert)
    assert bert.stored.state.root() == anna.stored.state.root()


def test_asking_for_members_writes_nothing() -> None:
    anna, bert, carl = make_nodes(3)
    for node, other in ((bert, carl), (carl, bert)):
        node.make_directory(b"%d" % node.number)
        deliver(other, node)
    before = bert.stored.db.connection.total_changes

    assert len(bert.stored.log.members()) == 3
    bert.stored.view()

    assert bert.stored.db.connection.total_changes == before
    assert anna.stored.log.batches == 3


# -- refusals --------------------------------------------------------------------------------------


def file_event(node: Node, name: bytes) -> ObjectCreated:
    return ObjectCreated(
        parent=node.stored.id,
        kind=0,
        generation=0,
        name=name,
        content=Content(hash=blob_hash(b""), size=0),
        mode=0,
        mtime_ns=0,
        prev=(),
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (b"..", "unsafe-name"),
        (b".", "unsafe-name"),
        (b"a/b", "unsafe-name"),
        (b"/", "unsafe-name"),
        (b"a\0b", "unsafe-name"),
        (b".dizzyd", "unsafe-name"),
    ],
)
def test_B1_B7_a_batch_with_an_unsafe_name_is_refused_whole(name: bytes, reason: str) -> None:
    anna, bert = make_nodes(2)
    for event in (
        file_event(bert, name),
        ObjectMoved(object=bytes(32), parent=bert.stored.id, name=name, prev=()),
    ):
        tables = tables_of(anna)
        batch = sign(bert, None, [make_directory(bert, b"good"), event])

        admitted = anna.stored.admit([batch], SOURCE)

        assert admitted.refused == {reason: 1}
        assert tables_of(anna) == tables


def test_B7_our_name_is_free_below_the_root() -> None:
    anna, bert = make_nodes(2)
    bert.make_directory(b"d")
    bert.make_directory(b"d/.dizzyd")

    deliver(bert, anna)

    assert set(anna.files()) == {b"d", b"d/.dizzyd"}


def test_P4_P27_batches_that_break_a_rule_are_refused_and_change_no_table() -> None:
    anna, bert, carl = make_nodes(3)
    elsewhere = share_folder(
        memory_database(),
        AgentKey.from_seed(b"\x07" * 32),
        folder_key=AgentKey.from_seed(b"\x08" * 32),
        name="g",
        label=b"g",
        path=b"/g",
        epoch=Epoch(bytes(16)),
        nonce=bytes(16),
        wall_ms=1,
    )
    first = sign(bert, None, [make_directory(bert, b"d")])
    theirs = sign(carl, None, [make_directory(carl, b"c")])
    anna.stored.admit([first, theirs], SOURCE)
    tables = tables_of(anna)
    event = [make_directory(bert, b"e")]
    lamport = first.header.lamport
    outside = elsewhere.log.heads()[0].batch
    cases = {
        "bad-lamport": [
            sign(bert, first, event, lamport=lamport),
            sign(bert, first, event, lamport=lamport + 2),
            sign(bert, first, event, lamport=2**62),
        ],
        "bad-prev": [
            sign(bert, theirs, event),
            sign(bert, first, event, seq=5),
            sign(bert, first, event, epoch=Epoch(b"\x09" * 16)),
        ],
        "wrong-folder": [sign(bert, first, event, folder=elsewhere.id)],
        "malformed": [sign(bert, first, [b"\x92\x03\x01"]), sign(bert, first, [b"\x91\x05"])],
    }

    for reason, batches in cases.items():
        for batch in batches:
            assert anna.stored.admit([batch], SOURCE).refused == {reason: 1}
            assert tables_of(anna) == tables
    unknown = sign(bert, first, event, deps=[outside], lamport=lamport + 1)
    assert anna.stored.admit([unknown], SOURCE).missing == {outside}
    assert tables_of(anna) == tables


# -- authors whom nobody let in --------------------------------------------------------------------


def test_A14_batches_of_invented_agents_are_neither_stored_nor_waited_for() -> None:
    """Else whoever may read could fill every disk and all heads with logs of thrown away keys."""
    anna, bert = make_nodes(2)
    deps = tuple(sorted(head.batch for head in anna.stored.log.heads()))
    lamport = 1 + max(anna.stored.log.lineage.lamport(dep) for dep in deps)
    before = memory_of(anna.stored.log)
    for number, (named, depth) in enumerate(((deps, lamport), ((), 1))):
        flood = [
            sign_batch(
                AgentKey.from_seed(bytes([100 + number, one]) * 16),
                folder=anna.stored.id,
                epoch=Epoch(bytes(16)),
                seq=0,
                prev=None,
                deps=named,
                lamport=depth,
                wall_ms=7,
                events=[encode(make_directory(anna, b"%d" % one))],
            )
            for one in range(50)
        ]

        admitted = anna.stored.admit(flood, SOURCE)

        assert admitted.refused == {"stranger": 50}
        assert not admitted.missing
    assert memory_of(anna.stored.log) == before
    assert_reload_changes_nothing(anna)
    bert.create(b"a", b"1")
    deliver(bert, anna)
    assert anna.view() == bert.view()


def test_A14_whoever_was_let_in_by_a_batch_that_comes_later_is_no_stranger() -> None:
    anna, _ = make_nodes(2)
    key = AgentKey.from_seed(b"n" * 32)
    before = anna.wires()
    anna.stored.grant(
        key.agent, Role.WRITE, label=b"n", expires_ms=None, may_delegate=False, wall_ms=3
    )
    grants = anna.wires()[len(before) :]
    first = sign_batch(
        key,
        folder=anna.stored.id,
        epoch=Epoch(bytes(16)),
        seq=0,
        prev=None,
        deps=(grants[-1].id,),
        lamport=1 + grants[-1].header.lamport,
        wall_ms=7,
        events=[encode(make_directory(anna, b"new"))],
    )
    other = make_nodes(2)[1]

    assert not other.stored.admit([first], SOURCE).refused
    assert len(other.stored.admit(grants, SOURCE).stored) == 2
