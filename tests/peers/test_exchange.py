"""Show the arithmetic of who lacks what, and that each lack is asked for once."""

from __future__ import annotations

from peers import heads
from peers.exchange import ASK_PATIENCE_S, MISSING_LIMIT, PUSH_PATIENCE_S, Exchange, Strikes
from peers.heads import Heads, Tips, is_in_sync, lacking
from peers.wire import Head, Range
from store.ids import AgentId, BatchId, LogId
from tests.peers.replicas import FOLDER, nodes

L1, L2, L3 = (LogId(bytes([n]) * 32) for n in (1, 2, 3))
A, B, C = (AgentId(bytes([n]) * 32) for n in (11, 12, 13))


def batch(number: int) -> BatchId:
    return BatchId(number.to_bytes(32, "big"))


def tips(**logs: tuple[int, int]) -> Tips:
    """Make tips of (seq, batch number)."""
    names = {"l1": L1, "l2": L2, "l3": L3}
    return {names[log]: {batch(number): seq} for log, (seq, number) in logs.items()}


def test_nothing_is_lacking_between_equals() -> None:
    assert lacking(tips(l1=(3, 1)), tips(l1=(3, 1))) == heads.Lack((), ())


def test_whole_unknown_log_and_the_tail_of_a_known_one_are_lacking() -> None:
    lack = lacking(tips(l1=(3, 1)), tips(l1=(5, 2), l2=(4, 3)))
    assert lack == heads.Lack((Range(L1, 3, 5), Range(L2, None, 4)), ())


def test_head_below_ours_is_unsure_not_known() -> None:
    assert lacking(tips(l1=(5, 2)), tips(l1=(3, 1))) == heads.Lack((), (batch(1),))
    assert lacking(tips(l1=(5, 2)), tips(l1=(5, 1))) == heads.Lack((), (batch(1),))


def test_both_branches_of_a_fork_are_looked_at() -> None:
    theirs: Tips = {L1: {batch(1): 3, batch(2): 9}}
    assert lacking(tips(l1=(5, 7)), theirs) == heads.Lack((Range(L1, 5, 9),), (batch(1),))
    assert lacking({L1: {batch(1): 3, batch(2): 9}}, theirs) == heads.Lack((), ())


def test_in_sync_needs_equal_heads_equal_roots_and_everything_applied() -> None:
    ours = Heads(heads=(Head(L1, 3, batch(1)),), state_root=b"r" * 32)
    replace = {"heads": ours.heads, "state_root": ours.state_root}
    assert is_in_sync(ours, ours)
    assert not is_in_sync(ours, Heads(**replace | {"heads": ()}))  # type: ignore[arg-type]
    assert not is_in_sync(ours, Heads(**replace | {"state_root": b"s" * 32}))  # type: ignore[arg-type]
    assert not is_in_sync(ours, Heads(**replace | {"state_root": None}))  # type: ignore[arg-type]
    assert not is_in_sync(ours, Heads(**replace, is_applied=False))  # type: ignore[arg-type]
    assert not is_in_sync(ours, Heads(**replace, is_importing=True))  # type: ignore[arg-type]
    other_rules = Heads(heads=ours.heads, state_root=b"s" * 32, state_version=2)
    assert is_in_sync(ours, other_rules)  # roots of other rules say nothing


def test_advance_follows_the_chain_and_keeps_branches() -> None:
    (node,) = nodes(1)
    batches = [node.replica.write() for _ in range(3)]
    chain = [heads.place_of(signed) for signed in batches]
    held: Tips = {}
    heads.advance(held, chain[:1])
    assert heads.follows(held, chain[1])
    assert not heads.follows(held, chain[2])
    heads.advance(held, chain[1:])
    assert held == {chain[0].log: {chain[2].id: 2}}
    heads.advance(held, chain[:1])  # again: nothing
    assert held == {chain[0].log: {chain[2].id: 2}}
    assert batches[0].header.folder == FOLDER


def test_narrowing_takes_away_what_arrived() -> None:
    ranges = (Range(L1, None, 9), Range(L2, 3, 5), Range(L3, 1, 2))
    assert heads.narrowed(ranges, {L1: 4, L2: 5}) == (Range(L1, 4, 9), Range(L3, 1, 2))


def test_each_log_is_asked_of_one_peer_and_load_is_shared() -> None:
    exchange = Exchange()
    for agent in (A, B):
        exchange.heads_said(agent, tips(l1=(5, 1), l2=(5, 2)))

    asks = exchange.plan({}, (), 0.0)

    assert {ask.agent for ask in asks} == {A, B}
    assert sorted(one.log for ask in asks for one in ask.ranges) == [L1, L2]
    assert exchange.plan({}, (), 1.0) == []


def test_who_has_more_of_a_log_is_asked() -> None:
    exchange = Exchange()
    exchange.heads_said(A, tips(l1=(5, 1)))
    exchange.heads_said(B, tips(l1=(9, 2)))
    (ask,) = exchange.plan({}, (), 0.0)
    assert ask.agent == B


def test_question_without_answer_is_put_to_another_in_the_end() -> None:
    exchange = Exchange()
    exchange.heads_said(A, tips(l1=(5, 1)))
    exchange.plan({}, (), 0.0)
    assert exchange.plan({}, (), ASK_PATIENCE_S - 1) == []
    exchange.heads_said(A, {})
    exchange.heads_said(B, tips(l1=(5, 1)))
    (ask,) = exchange.plan({}, (), ASK_PATIENCE_S + 1)
    assert ask.agent == B


def test_peer_that_goes_is_replaced_at_once() -> None:
    exchange = Exchange()
    for agent in (A, B):
        exchange.heads_said(agent, tips(l1=(5, 1)))
    (first,) = exchange.plan({}, (), 0.0)
    exchange.gone(first.agent)
    (second,) = exchange.plan({}, (), 0.1)
    assert {first.agent, second.agent} == {A, B}


def test_log_that_a_peer_pushes_is_not_asked_of_others_meanwhile() -> None:
    (node,) = nodes(1)
    signed = [node.replica.write() for _ in range(2)]
    exchange = Exchange()
    for agent in (A, B):
        exchange.heads_said(agent, {signed[0].log: {signed[1].id: 1}})
    exchange.pushed(A, signed[:1], 0.0)
    exchange.gone(C)

    asks = exchange.plan({}, (), 0.1)
    assert [ask.agent for ask in asks] == [A]
    exchange.settled(asks[0].request, A)
    exchange.heads_said(A, {})
    assert exchange.plan({}, (), 0.2) == []
    assert [ask.agent for ask in exchange.plan({}, (), PUSH_PATIENCE_S)] == [B]


def test_unknown_branch_is_asked_for_below_its_head() -> None:
    exchange = Exchange()
    exchange.heads_said(A, tips(l1=(500, 1)))
    ours = tips(l1=(600, 2))
    assert exchange.unsure(ours) == [batch(1)]
    (ask,) = exchange.plan(ours, {batch(1)}, 0.0)
    assert ask.ranges == (Range(L1, 436, 500),)
    exchange.learn_known([batch(1)])
    assert exchange.unsure(ours) == []


def test_A13_missing_ids_are_asked_of_their_source_first_then_of_all_then_again() -> None:
    exchange = Exchange()
    for agent in (A, B):
        exchange.heads_said(agent, {})
    exchange.waits_for(B, {batch(1)})
    agents = []
    for _ in range(2):
        (ask,) = exchange.plan({}, (), 0.0)
        assert ask.ids == (batch(1),)
        agents.append(ask.agent)
        exchange.settled(ask.request, ask.agent)
    assert agents == [B, A]
    assert exchange.plan({}, (), 0.0) == []
    exchange.ask_again()
    assert len(exchange.plan({}, (), 0.0)) == 1


def test_A13_P48_missing_ids_are_bounded_for_each_peer() -> None:
    exchange = Exchange()
    exchange.waits_for(A, {batch(n) for n in range(MISSING_LIMIT + 500)})
    assert exchange.missing == MISSING_LIMIT
    exchange.waits_for(A, set())
    assert exchange.missing == 0
    exchange.waits_for(A, {batch(1)})
    assert exchange.missing == 1


def test_answer_that_brings_nothing_is_not_followed_up() -> None:
    (node,) = nodes(1)
    chain = [node.replica.write() for _ in range(4)]
    exchange = Exchange()
    exchange.heads_said(A, {chain[0].log: {chain[3].id: 3}})
    (ask,) = exchange.plan({}, (), 0.0)

    assert exchange.answered(ask.request, A, chain[:2], 1.0)
    rest = exchange.follow_up(ask.request)
    assert rest is not None
    assert rest.ranges == (Range(chain[0].log, 1, 3),)
    assert not exchange.answered(ask.request, A, chain[:2], 2.0)
    assert not exchange.answered(ask.request, B, chain[2:], 2.0)
    assert exchange.answered(ask.request, A, chain[2:], 3.0)
    assert exchange.follow_up(ask.request) is None


def test_A7_third_strike_is_enough() -> None:
    strikes = Strikes()
    assert [strikes.add() for _ in range(3)] == [False, False, True]
    assert Strikes().add(5)


def test_A14_what_a_peer_names_and_does_not_give_is_not_asked_for_again_at_once() -> None:
    exchange = Exchange()
    named: Tips = {LogId(n.to_bytes(32, "big")): {batch(n): 5} for n in range(100)}
    exchange.heads_said(A, named)
    (ask,) = exchange.plan({}, (), 0.0)
    assert len(ask.ranges) == 100

    exchange.answered(ask.request, A, (), 0.0)
    exchange.settled(ask.request, A)

    assert not exchange.plan({}, (), 0.0), "an empty answer would be asked for for ever"
    exchange.heads_said(B, named)
    (other,) = exchange.plan({}, (), 0.0)
    assert other.agent == B
    exchange.settled(other.request, B)
    exchange.ask_again()
    assert exchange.plan({}, (), 0.0), "later it may have them"


def test_A14_beyond_the_limit_every_agent_has_an_equal_share_of_the_heads() -> None:
    flood = [(A, Head(LogId(n.to_bytes(32, "big")), 0, batch(n))) for n in range(1000)]
    long = (A, Head(L1, 7, batch(7)))
    honest = [(B, Head(L2, 3, batch(3))), (C, Head(L3, 0, batch(4)))]

    said = heads.sayable([*flood, long, *honest], 10)

    assert len(said) == 10
    assert {one for _, one in (*honest, long)} <= set(said)
    assert said == heads.sayable([*honest, *reversed(flood), long], 10)
    few = [one for _, one in honest]
    assert heads.sayable(honest, 10) == tuple(sorted(few, key=lambda one: one.log))


def test_what_waits_for_what_a_peer_let_go_of_is_not_asked_for_for_ever() -> None:
    exchange = Exchange()
    ours, theirs = tips(l1=(3, 1)), tips(l1=(9, 2))
    exchange.heads_said(A, theirs)
    (ask,) = exchange.plan(ours, (), 0)
    exchange.answered(ask.request, A, (), 0.1)
    ask.ranges = ()  # the last of them came, and waits for those before it
    assert exchange.stuck_s(ours, (), 1) == 0

    exchange.settled(ask.request, A)

    assert exchange.plan(ours, (), 1) == []
    assert exchange.stuck_s(ours, (), 1) == 0
    assert exchange.stuck_s(ours, (), 6) == 5
    exchange.ask_again()
    (again,) = exchange.plan(ours, (), 7)
    assert exchange.stuck_s(ours, (), 8) == 0  # it may give more now
    exchange.settled(again.request, A)
    assert exchange.stuck_s(ours, (), 9) == 8
    exchange.begun_anew()
    assert exchange.stuck_s(theirs, (), 10) == 0
    assert exchange.plan(theirs, (), 10) == []


def test_what_is_stored_of_a_log_lets_the_rest_be_asked_for_at_once() -> None:
    (node,) = nodes(1)
    batches = [node.write() for _ in range(3)]
    exchange = Exchange()
    theirs: Tips = {batches[-1].log: {batches[-1].id: 2}}
    exchange.heads_said(A, theirs)
    (ask,) = exchange.plan({}, (), 0)
    assert exchange.answered(ask.request, A, batches, 0.1)
    exchange.stored(batches[:1])

    exchange.settled(ask.request, A)

    assert exchange.plan({batches[0].log: {batches[0].id: 0}}, (), 0.2)
