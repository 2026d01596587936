"""Show when objects are planned again, whatever the order in which word of them comes."""

from __future__ import annotations

from daemon.retries import AWAY_S, Retries

ONE, TWO = b"one", b"two"


def test_what_is_away_waits_for_word_of_its_own_content() -> None:
    retries = Retries()
    retries.put_away([1], ONE, 0.0, since=retries.calls)
    retries.put_away([2, 3], TWO, 0.0, since=retries.calls)

    assert retries.call_back([TWO])

    assert retries.take_due(0.0) == [2, 3]
    assert retries.objects == {1}
    assert not retries.call_back([TWO])


def test_what_is_away_is_tried_again_at_last_without_any_word() -> None:
    retries = Retries()
    retries.put_away([1], ONE, 5.0, since=retries.calls)

    assert retries.next_due_s == 5.0 + AWAY_S
    assert not retries.is_away_due(5.0)
    assert retries.is_away_due(5.0 + AWAY_S)


def test_word_that_comes_while_the_plan_is_under_way_counts() -> None:
    retries = Retries()
    before = retries.calls
    retries.call_back([ONE])  # it fetches something else just now, and was told no of this one

    retries.put_away([1], ONE, 0.0, since=before)
    retries.put_away([2], TWO, 0.0, since=before)

    assert retries.take_due(0.0) == [1]
    assert retries.objects == {2}


def test_a_peer_that_comes_while_the_plan_is_under_way_counts() -> None:
    retries = Retries()
    before = retries.calls
    retries.call_back()

    retries.put_away([1], ONE, 0.0, since=before)
    assert retries.take_due(0.0) == [1]

    retries.put_away([1], ONE, 0.0, since=retries.calls)
    assert retries.take_due(0.0) == []
