"""What waits for a person's word, and what that word covers."""

from __future__ import annotations

from daemon.acts import Act, Deleted
from daemon.held import HeldDeletions
from daemon.matching import HELD_FROM, ScanCause

_MANY = HELD_FROM + 50


def _missing(name: str, count: int = _MANY) -> list[Act]:
    return [Deleted(path=b"%b/%d" % (name.encode(), no), rows=()) for no in range(count)]


def test_A12_held_deletions_go_on_once_they_are_confirmed() -> None:
    held = HeldDeletions()
    held.decide(_missing("d"), _MANY, ScanCause.START)
    assert held.without_held(_missing("d")) == []

    held.confirm()
    held.decide(_missing("d"), _MANY, ScanCause.ROUTINE)

    assert held.without_held(_missing("d")) == _missing("d")
    assert not held


def test_A12_a_word_for_some_deletions_is_none_for_what_goes_missing_later() -> None:
    held = HeldDeletions()
    held.decide(_missing("d"), 2 * _MANY - 1, ScanCause.START)
    held.confirm()

    acts = [*_missing("d"), *_missing("e")]
    held.decide(acts, 2 * _MANY - 1, ScanCause.ROOT_FAULT)

    assert held.without_held(acts) == _missing("d")
    assert len(held) == _MANY


def test_A12_a_word_where_nothing_is_held_covers_nothing() -> None:
    held = HeldDeletions()
    held.confirm()

    held.decide(_missing("d"), _MANY, ScanCause.ROOT_FAULT)

    assert held.without_held(_missing("d")) == []
