from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec
import pytest

from daemon.scratch import KeptBatch, Scratch, differing, read_objects
from tests.store.nodes import Node, deliver, make_nodes, random_act, settle

if TYPE_CHECKING:
    from collections.abc import Sequence


def _history(seed: int) -> list[Node]:
    """Let three nodes act apart and hear of each other in different orders."""
    rng = random.Random(seed)
    nodes = make_nodes(3)
    for _ in range(60):
        node = rng.choice(nodes)
        what = rng.random()
        if what < 0.6:
            node.record(*random_act(node, rng))
        elif what < 0.85:
            deliver(rng.choice([n for n in nodes if n is not node]), node, rng, 0.7)
        else:
            node.materialise()
    settle(*nodes)
    return nodes


def _kept(node: Node) -> Sequence[KeptBatch]:
    return [
        KeptBatch(*row)
        for row in node.stored.db.execute(
            "SELECT b.no, b.id, l.id, b.seq, b.lamport, b.is_applied, b.is_void, b.header,"
            " b.signature, b.body FROM batch b JOIN log l ON l.no = b.log_no ORDER BY b.no"
        )
    ]


@pytest.mark.parametrize("seed", range(12))
def test_P14_scratch_folds_the_very_objects_that_any_order_of_arrival_gave(seed: int) -> None:
    for node in _history(seed):
        scratch = Scratch(node.stored.id)

        assert scratch.admit(_kept(node)) == []
        assert scratch.finish() == []

        stored = node.stored
        page = read_objects(stored.db, stored.no, stored.root_no, b"", None, 10_000)
        expected = scratch.objects(b"", None)
        assert page.objects.keys() == expected.keys()
        for identity, row in page.objects.items():
            assert not differing(row, expected[identity])
        assert scratch.root() == stored.state.root()
        scratch.close()


def test_scratch_tells_what_rests_on_a_damaged_batch_once() -> None:
    [node] = make_nodes(1)
    for number in range(5):
        node.create(b"%d" % number, b"content %d" % number)
    kept = list(_kept(node))
    hurt = kept[2]
    kept[2] = msgspec.structs.replace(hurt, body=hurt.body[:-1] + b"\xff")
    scratch = Scratch(node.stored.id)

    told = scratch.admit(kept)

    assert len(told) == 1
    assert scratch.finish() == ["3 batches rest on what is damaged and were not checked"]
    scratch.close()
