from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

from peers.crossing import CROSSING_WINDOW_S, Crossing, Meeting
from peers.link import LinkClosed, Purpose
from store.ids import AgentId

SMALL, GREAT = AgentId(b"\x01" * 32), AgentId(b"\x02" * 32)


@dataclass(eq=False)
class PaperLink:
    """A Link that carries nothing."""

    agent: AgentId
    is_dialler: bool
    instance: bytes = b"1" * 16
    opened_at_s: float = 0.0
    is_closed: bool = False
    address: str = "192.0.2.7:7499"
    purpose: Purpose = Purpose.CONTROL
    label: bytes = b""
    state_version: int = 1
    received_bytes: int = 0
    sent_bytes: int = 0
    rtt_s: float = 0.0

    async def send(self, frame: bytes) -> None:
        """Refuse."""
        raise LinkClosed("paper", f"{len(frame)} bytes")

    async def receive(self) -> bytes:
        """Refuse."""
        raise LinkClosed("paper")

    async def close(self) -> None:
        """Close."""
        self.is_closed = True


def test_A23_both_sides_keep_the_connection_dialled_by_the_smaller_agent() -> None:
    for order_at_small in permutations((SMALL, GREAT)):
        for order_at_great in permutations((SMALL, GREAT)):
            small, great = Crossing(SMALL), Crossing(GREAT)

            for dialler in order_at_small:
                small.meet(PaperLink(GREAT, is_dialler=dialler == SMALL))
            for dialler in order_at_great:
                great.meet(PaperLink(SMALL, is_dialler=dialler == GREAT))

            at_small, at_great = small.link_of(GREAT), great.link_of(SMALL)
            assert at_small is not None
            assert at_great is not None
            assert at_small.is_dialler
            assert not at_great.is_dialler


def test_A23_second_call_of_the_same_side_replaces_the_first() -> None:
    crossing = Crossing(SMALL)
    first, second = PaperLink(GREAT, is_dialler=False), PaperLink(GREAT, is_dialler=False)

    assert crossing.meet(first) is Meeting.FIRST
    assert crossing.meet(second) is Meeting.REPLACES
    assert crossing.link_of(GREAT) is second


def test_call_long_after_the_first_replaces_it_whoever_dialled() -> None:
    crossing = Crossing(SMALL)
    crossing.meet(PaperLink(GREAT, is_dialler=True))

    late = PaperLink(GREAT, is_dialler=False, opened_at_s=CROSSING_WINDOW_S + 0.1)

    assert crossing.meet(late) is Meeting.REPLACES


def test_call_after_a_closed_connection_replaces_it_whoever_dialled() -> None:
    crossing = Crossing(SMALL)
    crossing.meet(PaperLink(GREAT, is_dialler=True, is_closed=True))

    assert crossing.meet(PaperLink(GREAT, is_dialler=False)) is Meeting.REPLACES


def test_closed_connection_is_none() -> None:
    crossing = Crossing(SMALL)
    link = PaperLink(GREAT, is_dialler=True)
    crossing.meet(link)

    link.is_closed = True

    assert crossing.link_of(GREAT) is None


def test_forgetting_a_replaced_connection_keeps_its_successor() -> None:
    crossing = Crossing(SMALL)
    first, second = PaperLink(GREAT, is_dialler=True), PaperLink(GREAT, is_dialler=True)
    crossing.meet(first)
    crossing.meet(second)

    crossing.forget(first)

    assert crossing.link_of(GREAT) is second
    crossing.forget(second)
    assert crossing.link_of(GREAT) is None
    assert crossing.meet(PaperLink(GREAT, is_dialler=False)) is Meeting.FIRST


def test_restarted_daemon_is_no_clone() -> None:
    crossing = Crossing(SMALL)
    meetings = [
        crossing.meet(PaperLink(GREAT, is_dialler=False, instance=bytes((start,)) * 16))
        for start in range(20)
    ]

    assert meetings == [Meeting.FIRST] + [Meeting.REPLACES] * 19


def test_A23_clones_that_answer_by_turns_are_told_and_the_smaller_instance_stays() -> None:
    crossing = Crossing(SMALL)
    one, two = b"1" * 16, b"2" * 16

    turns = [
        crossing.meet(PaperLink(GREAT, is_dialler=False, instance=instance))
        for instance in (two, one, two, two)
    ]

    assert turns == [
        Meeting.FIRST,
        Meeting.REPLACES,
        Meeting.CLONE_YIELDS,
        Meeting.CLONE_YIELDS,
    ]
    kept = crossing.link_of(GREAT)
    assert kept is not None
    assert kept.instance == one


def test_H7_smaller_clone_comes_back_and_stays() -> None:
    crossing = Crossing(SMALL)
    one, two = b"1" * 16, b"2" * 16
    for instance in (one, two):
        crossing.meet(PaperLink(GREAT, is_dialler=False, instance=instance))

    meeting = crossing.meet(PaperLink(GREAT, is_dialler=False, instance=one))

    assert meeting is Meeting.CLONE_REPLACES
    assert meeting.is_clone
    kept = crossing.link_of(GREAT)
    assert kept is not None
    assert kept.instance == one
