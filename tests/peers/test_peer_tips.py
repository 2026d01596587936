"""Show what counts as held by a peer while its heads and our pushes cross."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING

import pytest

from peers import exchange, peer_tips, wire
from peers.exchange import Exchange
from peers.framing import Assembler
from peers.heads import by_log
from peers.peer_tips import UNDER_WAY_S, PeerTips
from peers.session import HEADS_EVERY_S
from peers.wire import Head
from store.ids import BatchId, Epoch
from store.signing import sign_batch
from tests.peers.replicas import FOLDER, connect, nodes, pipe, until
from tests.peers.test_session import EVENT, all_equal, in_sync, simulate

if TYPE_CHECKING:
    from store.signing import SignedBatch


def chain_of(number: int) -> list[SignedBatch]:
    (node,) = nodes(1)
    return [node.replica.write() for _ in range(number)]


def head(signed: SignedBatch) -> Head:
    return Head(signed.log, signed.header.seq, signed.id)


def test_heads_that_crossed_with_a_push_do_not_stop_the_next() -> None:
    chain = chain_of(5)
    peer = PeerTips()
    assert peer.push(chain[:3], now_s=10.0) == chain[:3]

    peer.said([head(chain[0])], now_s=10.05)  # said before the second and third were there

    assert peer.tips == by_log([head(chain[2])])
    assert peer.push(chain[3:4], now_s=10.1) == chain[3:4]
    peer.said([head(chain[3])], now_s=10.2)  # it has them all: nothing older comes back
    assert peer.tips == by_log([head(chain[3])])
    assert peer.push(chain[4:], now_s=10.3) == chain[4:]


def test_push_that_never_arrived_is_believed_no_longer_than_it_may_be_under_way() -> None:
    chain = chain_of(3)
    peer = PeerTips()
    peer.push(chain[:2], now_s=10.0)
    later_s = 10.0 + UNDER_WAY_S + 0.1

    peer.said([head(chain[0])], now_s=later_s)

    assert peer.tips == by_log([head(chain[0])])
    assert peer.push(chain[2:], now_s=later_s) == []  # it could not use it
    assert peer.push(chain[1:2], now_s=later_s) == chain[1:2]


def test_what_the_peer_sent_itself_is_not_sent_back() -> None:
    chain = chain_of(2)
    peer = PeerTips()
    peer.came(chain[:1])

    assert peer.push(chain, now_s=1.0) == chain[1:]


def test_A14_logs_that_a_peer_makes_up_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_tips, "BEGUN_LIMIT", 50)
    monkeypatch.setattr(exchange, "PUSHED_LIMIT", 50)
    (node,) = nodes(1)
    strange = [
        sign_batch(
            node.key,
            folder=FOLDER,
            epoch=Epoch((1 + number // 2).to_bytes(16, "big")),
            seq=7,
            prev=BatchId(number.to_bytes(32, "big")),  # nobody has it; every log has forked, too
            deps=(),
            lamport=9,
            wall_ms=0,
            events=(EVENT,),
        )
        for number in range(200)
    ]
    chain = chain_of(100)
    peer, known = PeerTips(), Exchange()
    peer.said([head(chain[0])], now_s=10.0)

    peer.came(strange)
    peer.came(chain[1:])
    known.pushed(node.agent, strange, 10.0)

    assert sum(map(len, peer.tips.values())) == 51
    assert peer.tips[chain[0].log] == {chain[-1].id: 99}, "what goes on is followed all the same"
    assert len(known._pushed) == 50
    assert strange[-1].log in known._pushed
    peer.said([head(chain[-1])], now_s=10.1)
    peer.came(strange[:10])
    assert sum(map(len, peer.tips.values())) == 11


def test_each_save_of_a_row_is_pushed_although_heads_cross_with_it() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        a.replica.write(EVENT)
        for end in connect(tasks, a, b):
            end.random = Random(1)  # each frame takes a millisecond
        await until(lambda: in_sync(a, b) and in_sync(b, a), 5)
        await asyncio.sleep(1)  # the first questions are answered
        reads = a.replica.calls["read_batches"]

        for _ in range(400):
            a.write(EVENT)
            await asyncio.sleep(0.0007)  # the heads that b says meanwhile are old here

        await until(lambda: all_equal(a, b), 1)
        assert a.replica.calls["read_batches"] == reads  # pushed, not asked for

    simulate(story)


def test_long_row_of_pushes_is_not_asked_for_once_more() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        a.replica.write(EVENT)
        near, _ = connect(tasks, a, b)
        await until(lambda: in_sync(a, b) and in_sync(b, a), 5)
        await asyncio.sleep(1)
        reads = a.replica.calls["read_batches"]
        near.bytes_per_s = 200_000.0

        for _ in range(300):  # heads are said while most of it waits to leave
            a.write(EVENT)
            await asyncio.sleep(0.0005)

        await until(lambda: all_equal(a, b), 5)
        assert a.replica.calls["read_batches"] == reads

    simulate(story)


def test_who_reads_slowly_is_kept_no_row_of_old_heads() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        (a, b) = nodes(2)
        near, far = pipe(a.agent, b.agent)
        tasks.create_task(a.talk(near))  # type: ignore[arg-type]
        for frame in wire.frames(wire.Folders((FOLDER,)), 1):
            await far.send(frame)
        await asyncio.sleep(1)

        for _ in range(1000):  # b reads nothing meanwhile
            a.sessions.heads_changed(FOLDER)
            await asyncio.sleep(HEADS_EVERY_S)
        assembler, heard = Assembler(wire.parse), 0
        with suppress(TimeoutError):
            while True:
                async with asyncio.timeout(0.04):
                    heard += isinstance(assembler.accept(await far.receive()), wire.HeadsSaid)

        assert 0 < heard < 100, "as many as the link took before it was full, and the newest"

    simulate(story)
