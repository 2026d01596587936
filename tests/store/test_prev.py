"""Hold the rule of prev and its neighbours, each by one small story (docs/design.md, 4)."""

from __future__ import annotations

import pytest

from store.access import Role
from store.events import ContentChanged, decode
from store.signing import AgentKey
from tests.store.nodes import deliver, make_nodes, settle


def test_P18_prev_is_what_this_disk_held_not_what_the_log_has() -> None:
    anna, bert = make_nodes(2)
    anna.create(b"a", b"1")
    settle(anna, bert)
    (row,) = bert.rows()[b"a"]
    anna.edit(b"a", b"2")
    deliver(anna, bert)  # in the log, and not on this disk

    recorded = bert.edit(b"a", b"3")

    event = decode(recorded.batches[0].events[0])
    assert isinstance(event, ContentChanged)
    assert b"".join(event.prev) == row.events
    settle(anna, bert)
    assert sorted(map(str, anna.files().values())) == [str(b"2"), str(b"3")]


def test_P18_a_head_of_the_bytes_that_this_disk_has_is_replaced_along() -> None:
    anna, bert = make_nodes(2)
    anna.create(b"a", b"1")
    settle(anna, bert)
    anna.edit(b"a", b"2")
    anna.edit(b"a", b"1")
    deliver(anna, bert)  # another event, the same bytes

    bert.edit(b"a", b"3")

    settle(anna, bert)
    assert anna.files() == bert.files() == {b"a": b"3"}


def test_P23_a_joiner_with_an_old_copy_brings_no_conflict() -> None:
    anna, bert = make_nodes(2)
    anna.create(b"a", b"1")
    anna.edit(b"a", b"2")

    bert.create(b"a", b"1")

    settle(anna, bert)
    assert anna.files() == bert.files() == {b"a": b"2"}


def test_P23_a_joiner_with_a_file_that_was_deleted_keeps_it() -> None:
    anna, bert = make_nodes(2)
    anna.create(b"a", b"1")
    anna.delete(b"a")

    bert.create(b"a", b"1")

    settle(anna, bert)
    assert anna.files() == bert.files() == {b"a": b"1"}


@pytest.mark.parametrize("role", [Role.WRITE, Role.READ])
def test_P40_who_may_not_admit_admits_nobody(role: Role) -> None:
    anna, bert = make_nodes(2, roles={1: role})
    stranger = AgentKey.from_seed(b"s" * 32).agent

    bert.stored.grant(
        stranger, Role.READ, label=b"s", expires_ms=None, may_delegate=False, wall_ms=9
    )
    deliver(bert, anna)

    assert stranger not in anna.stored.log.members()
    assert stranger not in bert.stored.log.members()
