"""Show that beats of one length fall together, whenever one begins to wait."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peers.beat import BEAT_S, until_beat_s


@given(now_s=st.floats(0, 1e7), every_s=st.floats(0.05, 60))
def test_waits_end_on_a_multiple_and_are_neither_short_nor_long(
    now_s: float, every_s: float
) -> None:
    wait_s = until_beat_s(now_s, every_s)

    assert 0.09 * every_s <= wait_s <= 1.11 * every_s
    beats = (now_s + wait_s) / every_s
    assert abs(beats - round(beats)) < 1e-3


def test_who_wakes_a_little_early_or_late_waits_for_the_next_beat() -> None:
    for now_s in (99.9999, 100.0, 100.002):
        assert abs(now_s + until_beat_s(now_s) - (100.0 + BEAT_S)) < 1e-9
