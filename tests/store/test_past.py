from __future__ import annotations

import random
from functools import lru_cache

import pytest

from store.errors import BadSignature, Malformed
from store.ids import BatchId
from store.past import Dated, Past, cut_at, cut_before, dated
from store.records import Entry
from store.signing import SignedBatch, WireBatch
from tests.store.nodes import Node, deliver, make_nodes, random_act, settle

SEEDS = range(10)
FAR_MS = 10**15


def dates(node: Node) -> list[Dated]:
    rows = node.stored.db.execute(
        "SELECT id, header FROM batch WHERE folder_no = ? AND is_applied ORDER BY lamport, id",
        (node.stored.no,),
    )
    return [dated(BatchId(batch), header) for batch, header in rows]


def tree_of(node: Node, batches: list[Dated]) -> dict[bytes, Entry]:
    ids = [batch.id for batch in batches]
    wires, _ = node.stored.log.read([], ids, 1 << 40)
    past = Past(node.stored.id)
    try:
        past.admit(wires)
        return past.tree()
    finally:
        past.close()


def plain(entries: dict[bytes, Entry]) -> dict[bytes, tuple[object, ...]]:
    """Leave out what is a number of one database alone."""
    return {
        path: (entry.kind, entry.value, entry.size, entry.mode, entry.mtime_ns, entry.copy)
        for path, entry in entries.items()
    }


def seen(node: Node) -> dict[bytes, tuple[object, ...]]:
    """Read the tree that stands on a node's perfect disk."""
    return {
        path: (row.kind, row.value, row.mode, row.shared_mtime_ns)
        for path, rows in node.rows().items()
        for row in rows[:1]
    }


def then(node: Node, batches: list[Dated]) -> dict[bytes, tuple[object, ...]]:
    return {
        path: (entry.kind, entry.value, entry.mode, entry.mtime_ns)
        for path, entry in tree_of(node, batches).items()
    }


@lru_cache(maxsize=1)
def _histories() -> dict[int, tuple[Node, list[tuple[int, dict[bytes, tuple[object, ...]]]]]]:
    return {seed: _history(seed) for seed in SEEDS}


def _history(seed: int) -> tuple[Node, list[tuple[int, dict[bytes, tuple[object, ...]]]]]:
    """Let three nodes act; at moments when all agree, note the time and what they have."""
    rng = random.Random(seed)
    nodes = make_nodes(3)
    now_ms = 1_700_000_000_000
    moments: list[tuple[int, dict[bytes, tuple[object, ...]]]] = []
    for _ in range(40):
        node = rng.choice(nodes)
        now_ms += rng.randrange(1, 5000)
        for each in nodes:
            each.clock_ms = now_ms
        if rng.random() < 0.75:
            node.record(*random_act(node, rng))
        else:
            settle(*nodes)
            moments.append((now_ms + 1, seen(node)))
    settle(*nodes)
    return nodes[0], moments


@pytest.mark.parametrize("seed", SEEDS)
def test_any_past_state_at_which_all_agreed_is_told_from_the_log(seed: int) -> None:
    node, moments = _histories()[seed]
    batches = dates(node)
    assert len(moments) > 3

    for at_ms, was in moments:
        assert then(node, cut_at(batches, at_ms, FAR_MS)) == was


@pytest.mark.parametrize("seed", SEEDS)
def test_a_cut_is_the_same_on_a_node_that_got_the_log_in_another_order(seed: int) -> None:
    node, _ = _histories()[seed]
    other = make_nodes(3)[2]
    deliver(node, other, random.Random(seed))
    deliver(node, other)
    batches = dates(node)
    at_ms = random.Random(seed).choice(batches).wall_ms

    here, there = cut_at(batches, at_ms, FAR_MS), cut_at(dates(other), at_ms, FAR_MS)

    assert {batch.id for batch in here} == {batch.id for batch in there}
    assert plain(tree_of(node, here)) == plain(tree_of(other, there))


def _chain(*walls_ms: int) -> list[Dated]:
    """Make batches that each rest on the one before."""
    ids = [BatchId(bytes([number]) * 32) for number in range(len(walls_ms))]
    return [
        Dated(ids[number], number, tuple(ids[number - 1 : number]) if number else (), wall_ms)
        for number, wall_ms in enumerate(walls_ms)
    ]


@pytest.mark.parametrize("seed", range(100))
def test_a_cut_rests_on_nothing_outside_it_whatever_the_clocks_say(seed: int) -> None:
    rng = random.Random(seed)
    batches: list[Dated] = []
    for number in range(40):
        before = [batch.id for batch in batches]
        parents = tuple(rng.sample(before, min(len(before), rng.randrange(3))))
        batches.append(Dated(BatchId(number.to_bytes(32)), number, parents, rng.randrange(1000)))

    chosen = cut_at(batches, rng.randrange(1000), rng.randrange(1000))

    ids = {batch.id for batch in chosen}
    assert all(set(batch.parents) <= ids for batch in chosen)


def test_a_clock_that_is_behind_brings_nothing_into_an_earlier_cut() -> None:
    batches = _chain(100, 200, 3, 300)

    assert cut_at(batches, 150, 1000) == batches[:1]
    assert cut_at(batches, 200, 1000) == batches[:3]


def test_a_clock_that_says_a_time_to_come_says_nothing() -> None:
    batches = _chain(100, 9_000_000, 200, 300)

    assert cut_at(batches, 100, 1000) == batches[:2]
    assert cut_at(batches, 250, 1000) == batches[:3]
    assert cut_at(batches, 1000, 1000) == batches


def test_the_cut_before_a_batch_is_what_its_author_knew() -> None:
    batches = _chain(1, 2, 3)
    apart = Dated(BatchId(b"\x99" * 32), 9, (), 1)

    assert cut_before([*batches, apart], batches[2].id) == batches[:2]


def test_a_batch_with_a_wrong_signature_is_not_folded() -> None:
    node = make_nodes(1)[0]
    wire: SignedBatch = node.wires()[0]
    forged = WireBatch(header=wire.header_bytes, signature=bytes(64), body=wire.body)
    past = Past(node.stored.id)

    with pytest.raises((BadSignature, Malformed)):
        past.admit([forged])
