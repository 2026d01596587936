"""Hold when a fork is over: its author went on in another log, with both branches in its past."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from store import forks
from store.db import Database
from store.forks import find_forks
from store.ids import EPOCH_BYTES, Epoch, FolderId
from store.signing import SignedBatch, WireBatch, has_signed_twice
from tests.store.nodes import Node, deliver, make_nodes, settle
from tests.store.test_merge_rules import branch, directory

SOURCE = b"1"
NEW_EPOCH = Epoch(b"n" * EPOCH_BYTES)


def _forked() -> tuple[Node, Node, list[SignedBatch]]:
    """Give a node that has both branches of another's log, and their ends."""
    anna, bert = make_nodes(2)
    settle(anna, bert)
    root = branch(bert, None, [directory(bert, b"d")[1]])
    ends = [branch(bert, root, [directory(bert, name)[1]]) for name in (b"left", b"right")]
    anna.stored.admit([root, *ends], SOURCE)
    return anna, bert, [root, *ends]


def _forks(node: Node) -> list[bool]:
    return list(find_forks(node.stored.db, node.stored.log.heads()).values())


def test_A11_logs_of_one_branch_are_no_forks() -> None:
    anna, bert = make_nodes(2)
    bert.create(b"a", b"x")
    settle(anna, bert)

    assert _forks(anna) == []


def test_P9_A11_a_fork_goes_on_while_its_author_says_nothing() -> None:
    anna, _, _ = _forked()

    assert _forks(anna) == [False]


def test_P9_A11_a_fork_is_over_once_its_author_goes_on_and_knew_both_branches() -> None:
    anna, bert, batches = _forked()
    bert.stored.admit(batches, SOURCE)
    anna.create(b"between", b"x")
    deliver(anna, bert)
    bert.stored.renew_epoch(NEW_EPOCH)
    bert.create(b"later", b"x")

    deliver(bert, anna)

    assert _forks(anna) == [True]
    assert _forks(bert) == [True]


def test_P9_A11_a_new_log_that_knew_one_branch_alone_ends_no_fork() -> None:
    anna, bert, [root, left, _] = _forked()
    bert.stored.admit([root, left], SOURCE)
    bert.stored.renew_epoch(NEW_EPOCH)
    bert.create(b"later", b"x")

    deliver(bert, anna)

    assert _forks(anna) == [False]


def test_P9_A11_a_branch_that_grows_afterwards_is_a_fork_again() -> None:
    anna, bert, batches = _forked()
    grown = branch(bert, batches[-1], [directory(bert, b"grown")[1]])
    bert.stored.admit(batches, SOURCE)
    bert.stored.renew_epoch(NEW_EPOCH)
    bert.create(b"later", b"x")
    deliver(bert, anna)
    assert _forks(anna) == [True]

    anna.stored.admit([grown], SOURCE)

    assert _forks(anna) == [False]


def test_A11_forks_without_end_cost_a_bounded_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fork of an author was looked for below each of its logs, as far back as it lies."""
    anna, bert = make_nodes(2)
    settle(anna, bert)
    batches: list[SignedBatch] = []
    for number in range(6):
        bert.stored.epoch = Epoch(bytes([number]) * EPOCH_BYTES)
        first = branch(bert, None, [directory(bert, b"%d" % number)[1]])
        sides = (b"%d-left" % number, b"%d-right" % number)
        batches += [first, *(branch(bert, first, [directory(bert, name)[1]]) for name in sides)]
    for number in range(40):
        anna.create(b"between-%d" % number, b"x")
    deliver(anna, bert)
    for number in range(6):  # none of these knew any of the forks
        bert.stored.epoch = Epoch(bytes([64 + number]) * EPOCH_BYTES)
        batches.append(branch(bert, None, [directory(bert, b"later-%d" % number)[1]]))
    assert not anna.stored.admit(batches, SOURCE).refused
    walked: list[bytes] = []
    real = forks._parents

    def parents(db: Database, one: bytes) -> set[bytes]:
        walked.append(one)
        return real(db, one)

    monkeypatch.setattr(forks, "_parents", parents)
    monkeypatch.setattr(forks, "_BATCHES_LIMIT", 300)

    assert _forks(anna) == [False] * 6

    assert 200 < len(walked) <= 300


def test_A11_only_two_signed_headers_of_one_place_prove_a_fork() -> None:
    _, bert, [root, left, right] = _forked()
    folder = bert.stored.id
    unsigned = replace(right.wire, signature=bytes(64))

    assert has_signed_twice(folder, left.wire, right.wire)
    assert not has_signed_twice(folder, left.wire, left.wire)
    assert not has_signed_twice(folder, root.wire, left.wire)
    assert not has_signed_twice(folder, left.wire, unsigned)
    assert not has_signed_twice(FolderId(bytes(32)), left.wire, right.wire)
    assert not has_signed_twice(folder, WireBatch(b"x", bytes(64), b""), right.wire)
