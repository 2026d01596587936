from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from peers.backoff import LONGEST_DELAY_S, Reconnection, StrangerDelays, delay_s


@given(failures=st.integers(1, 10_000), seed=st.integers(0, 100))
def test_wait_doubles_from_a_fifth_of_a_second_to_ten(failures: int, seed: int) -> None:
    longest = min(LONGEST_DELAY_S, 0.2 * 2.0 ** min(failures - 1, 20))

    assert longest / 2 <= delay_s(failures, Random(seed)) <= longest


def test_two_nodes_do_not_call_at_the_same_moments() -> None:
    one, two = Reconnection(Random(1)), Reconnection(Random(2))

    assert [one.next_delay_s() for _ in range(8)] != [two.next_delay_s() for _ in range(8)]


def test_same_seed_gives_the_same_schedule() -> None:
    one, two = Reconnection(Random(1)), Reconnection(Random(1))

    assert [one.next_delay_s() for _ in range(8)] == [two.next_delay_s() for _ in range(8)]


def test_reset_begins_anew() -> None:
    calls = Reconnection(Random(1))
    for _ in range(20):
        calls.next_delay_s()

    calls.reset()

    assert calls.failures == 0
    assert calls.next_delay_s() <= 0.2


def test_stranger_waits_longer_and_never_more_than_a_second() -> None:
    delays = StrangerDelays()
    waits = []
    for _ in range(100):
        waits.append(delays.delay_s("192.0.2.7", 10.0))
        delays.note_failure("192.0.2.7", 10.0)

    assert waits[:9] == [0.0] * 9
    assert waits == sorted(waits)
    assert 0.0 < waits[10] < max(waits) == 1.0
    assert delays.delay_s("192.0.2.8", 10.0) == 0.0


def test_quiet_minute_forgets() -> None:
    delays = StrangerDelays()
    for _ in range(100):
        delays.note_failure("192.0.2.7", 10.0)

    assert delays.delay_s("192.0.2.7", 71.0) == 0.0


def test_member_is_not_delayed_by_strangers_at_its_address() -> None:
    delays = StrangerDelays()
    delays.note_proof("192.0.2.7", 0.0)
    for _ in range(100):
        delays.note_failure("192.0.2.7", 10.0)

    assert delays.delay_s("192.0.2.7", 10.0) == 0.0
    assert delays.delay_s("192.0.2.7", 10.0 + 3600.0) == 0.0  # their minute passed too


def test_memory_of_addresses_is_bounded() -> None:
    delays = StrangerDelays(limit=10)
    for number in range(1000):
        delays.note_failure(f"198.51.100.{number}", 0.0)
        delays.note_proof(f"203.0.113.{number}", 0.0)

    assert len(delays._failures) == len(delays._proven) == 10
