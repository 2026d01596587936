"""Show that sessions bring every batch to every member, whatever the links do."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peers import wire
from peers.framing import FRAME_LIMIT_BYTES, Assembler
from peers.packing import pack
from peers.parts import verify_all
from peers.wire import frames
from store.errors import Malformed
from store.ids import Epoch, FolderId
from store.signing import WireBatch, sign_batch
from tests.peers.replicas import (
    EPOCH,
    FOLDER,
    Node,
    PipeLink,
    connect,
    key_of,
    nodes,
    pipe,
    until,
)
from tests.sim.loop import VirtualLoop, run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from store.signing import SignedBatch

EVENT = b"\x91\x01"


def simulate(
    story: Callable[[asyncio.TaskGroup], Awaitable[None]], seed: int = 1, within_s: float = 900.0
) -> float:
    """Run a story in virtual time and stop all tasks that it left; give how long it took."""

    class Over(Exception):
        pass

    async def main(loop: VirtualLoop) -> float:
        try:
            async with asyncio.timeout(within_s), asyncio.TaskGroup() as tasks:
                await story(tasks)
                raise Over  # noqa: TRY301
        except* Over:
            pass
        return loop.time()

    took, _ = run(main, seed)
    return took


def all_equal(*some: Node) -> bool:
    return all(node.batches == some[0].batches for node in some) and bool(some[0].batches)


def in_sync(one: Node, other: Node) -> bool:
    said = one.replica.noted.get((other.agent, FOLDER))
    return said is not None and said.heads == one.replica.logs[FOLDER].heads()


def test_connecting_brings_both_sides_what_they_lack() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        for _ in range(30):
            a.replica.write(EVENT)
            b.replica.write(EVENT)

        connect(tasks, a, b)
        await until(lambda: all_equal(a, b), 5)

        assert len(a.batches) == 60
        await until(lambda: in_sync(a, b) and in_sync(b, a), 5)

    simulate(story)


def test_fresh_batch_is_there_after_one_message() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        a.replica.write(EVENT)
        connect(tasks, a, b)
        await until(lambda: in_sync(a, b) and in_sync(b, a), 5)
        await asyncio.sleep(1)
        reads = a.replica.calls["read_batches"]

        a.write(EVENT)
        await asyncio.sleep(0.01)

        assert all_equal(a, b)
        assert a.replica.calls["read_batches"] == reads  # pushed, not asked for

    simulate(story)


def test_middle_node_relays_and_never_echoes() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b, c = nodes(3)
        _, back = connect(tasks, a, b)
        connect(tasks, b, c)
        await until(lambda: b.sessions.session(a.agent) is not None)
        await asyncio.sleep(1)
        a.write(EVENT)
        await until(lambda: all_equal(a, b, c), 5)
        back.keeps_sent = True

        a.write(EVENT)
        c.write(EVENT)
        await until(lambda: all_equal(a, b, c), 5)

        news = [frame for frame in back.sent if frame[0] == 5]
        assert len(news) == 1  # c's only

    simulate(story)


def test_small_content_comes_along_with_the_news() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        connect(tasks, a, b)
        await asyncio.sleep(1)
        (ref,) = a.replica.keep(b"hello")

        a.write(EVENT, contents={ref.hash: b"hello"})
        await until(lambda: all_equal(a, b), 5)
        found = await b.fetcher.fetch_small(FOLDER, [ref])

        assert found == {ref.hash: b"hello"}
        assert a.replica.calls["read_small"] == 0

    simulate(story)


def test_idle_and_equal_costs_nothing_but_pings() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        near, far = connect(tasks, a, b)
        a.write(EVENT)
        await until(lambda: in_sync(a, b) and in_sync(b, a), 30)
        await asyncio.sleep(20)
        near.keeps_sent = far.keeps_sent = True

        await asyncio.sleep(250)

        kinds = Counter(frame[0] for frame in near.sent + far.sent)
        assert set(kinds) == {17, 18}
        assert kinds[17] <= 2 * 10
        assert a.sessions.session(b.agent) is not None

    simulate(story)


def test_silent_peer_is_given_up() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        near, _ = pipe(a.agent, b.agent)

        await a.talk(near)  # type: ignore[arg-type]

        assert not a.ended[0].is_struck
        assert near.is_closed

    assert simulate(story) < 100


@pytest.mark.parametrize("seed", range(12))
def test_P5_P6_loss_duplicates_and_reordering_end_equal_and_in_order(seed: int) -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        random = Random(seed)
        some = nodes(3)
        links: list[PipeLink] = []
        for one, other in ((0, 1), (1, 2), *(((0, 2),) if seed % 2 else ())):
            links += connect(tasks, some[one], some[other])
        for link in links:
            link.random = random
            link.loss, link.duplicate, link.reorder = 0.2, 0.2, 0.5
        for _ in range(40):
            random.choice(some).write(EVENT)
            await asyncio.sleep(random.random() * 0.3)
        await until(lambda: all_equal(*some), 300)

        assert len(some[0].batches) == 40
        for node in some:
            log = node.replica.logs[FOLDER]
            assert len(log.order) == len(set(log.order)) == 40  # stored once each (P6)
            assert not log.waiting
        await until(
            lambda: all(
                in_sync(one, other)
                for one in some
                for other in some
                if one.sessions.session(other.agent) is not None
            ),
            300,
        )

    simulate(story, seed)


def test_whole_log_larger_than_one_answer_arrives_in_parts() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        random = Random(5)
        for _ in range(24):
            a.replica.write(*(b"\x91\x01" + random.randbytes(60_000) for _ in range(16)))

        connect(tasks, a, b)
        await until(lambda: all_equal(a, b), 20)

        assert b.replica.calls["admit"] >= 24
        assert a.replica.calls["read_batches"] <= 40

    simulate(story)


def test_several_peers_share_the_work_of_a_joiner() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b, c = nodes(3)
        for _ in range(20):
            for node, other in ((a, b), (b, a)):
                signed = node.replica.write(EVENT)
                other.replica.logs[FOLDER].admit(node.agent, [signed])
        links = [*connect(tasks, c, a), *connect(tasks, c, b)]
        for link in links:
            link.keeps_sent = True

        await until(lambda: all_equal(a, b, c), 10)

        sent = Counter[bytes]()
        for link in (links[1], links[3]):
            assembler = Assembler(wire.parse)
            for frame in link.sent:
                message = assembler.accept(frame)
                if isinstance(message, wire.Batches | wire.News):
                    sent.update(one.header for one in message.batches)
        assert max(sent.values()) == 1  # nothing came twice

    simulate(story)


def test_A11_both_branches_of_a_fork_reach_everybody() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b, c = nodes(3)
        first = c.replica.write(EVENT)
        for node in (a, b):
            node.replica.logs[FOLDER].admit(c.agent, [first])
        twin = nodes(3)[2]
        twin.replica.logs[FOLDER].admit(c.agent, [first])
        for number in range(100):
            signed = c.replica.write(EVENT + bytes([number]))
            a.replica.logs[FOLDER].admit(c.agent, [signed])
        for number in range(90):
            signed = twin.replica.write(EVENT + bytes([number, 1]))
            b.replica.logs[FOLDER].admit(c.agent, [signed])

        connect(tasks, a, b)
        await until(lambda: all_equal(a, b), 100)

        assert len(a.batches) == 191

    simulate(story)


def test_gap_is_asked_for_at_once() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        near, _ = connect(tasks, a, b)
        a.write(EVENT)
        await until(lambda: all_equal(a, b), 10)
        await asyncio.sleep(1)
        near.random, near.loss = Random(1), 1.0
        a.write(EVENT)
        await asyncio.sleep(0)
        await asyncio.sleep(0.02)
        near.loss = 0.0

        a.write(EVENT)
        await until(lambda: all_equal(a, b), 1)

    simulate(story)


class Attacker:
    """Speaks to a session by single frames."""

    def __init__(self, tasks: asyncio.TaskGroup, victim: Node, number: int) -> None:
        self.key = key_of(number)
        self.link, far = pipe(self.key.agent, victim.agent)
        self.victim = victim
        self.assembler = Assembler(wire.parse)
        tasks.create_task(victim.talk(far))  # type: ignore[arg-type]
        self.stream = 0

    async def say(self, message: wire.Message) -> None:
        self.stream += 1
        for frame in frames(message, self.stream):
            await self.link.send(frame)

    async def hear(self, kind: type[wire.Message]) -> wire.Message:
        async with asyncio.timeout(10):
            while True:
                message = self.assembler.accept(await self.link.receive())
                if isinstance(message, kind):
                    return message

    async def begin(self) -> None:
        await self.say(wire.Folders((FOLDER,)))
        await self.hear(wire.HeadsSaid)


def news(*batches: WireBatch) -> wire.News:
    return wire.News(FOLDER, tuple(pack(one) for one in batches), ())


def flipped(raw: bytes, place: int) -> bytes:
    return raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]


@pytest.mark.parametrize("part", ["header", "signature", "body"])
def test_A7_three_bad_batches_end_the_session_and_change_nothing(part: str) -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        good = b.replica.write(EVENT).wire
        bad = msgspec.structs.replace(
            good, **{part: flipped(getattr(good, part), len(getattr(good, part)) - 1)}
        )
        attacker = Attacker(tasks, a, 2)
        await attacker.begin()

        await attacker.say(news(bad))
        await attacker.say(news(bad))
        await asyncio.sleep(1)
        assert not a.ended
        await attacker.say(news(bad))
        await until(lambda: bool(a.ended), 5)

        assert a.ended[0].is_struck
        assert sum(a.sessions.rejected.values()) == 3
        assert not a.batches

    simulate(story)


def test_A8_replayed_session_has_no_effect() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        near, _ = connect(tasks, a, b)
        near.keeps_sent = True
        for _ in range(10):
            a.write(EVENT)
            await asyncio.sleep(0.2)
        await until(lambda: all_equal(a, b), 5)
        await near.close()
        await until(lambda: bool(b.ended), 5)
        before = list(b.replica.logs[FOLDER].order)

        attacker = Attacker(tasks, b, 1)
        for _ in range(2):
            for frame in near.sent:
                await attacker.link.send(frame)
        await asyncio.sleep(5)

        assert b.replica.logs[FOLDER].order == before
        assert not b.replica.logs[FOLDER].waiting

    simulate(story)


def test_A9_batch_signed_by_another_is_refused_and_not_passed_on() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b, c = nodes(3)
        connect(tasks, a, c)
        good = b.replica.write(EVENT)
        forged = WireBatch(good.header_bytes, key_of(9).sign(good.header_bytes), good.body)
        attacker = Attacker(tasks, a, 2)
        await attacker.begin()

        await attacker.say(news(forged))
        await asyncio.sleep(10)

        assert a.sessions.rejected == {"bad-signature": 1}
        assert not a.batches
        assert not c.batches

    simulate(story)


def test_A1_frames_and_messages_that_are_too_large_end_the_session() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        for frame in (
            b"\x01" + bytes(4) + b"\x00\xff" + b"x",  # claims 256 frames
            bytes(FRAME_LIMIT_BYTES + 1),
            b"\x02" + bytes(6) + b"\x92\xc6\xff\xff\xff\xff",  # a bin of 4 GiB
            b"\x02" + bytes(6) + b"\xdd\xff\xff\xff\xff",  # an array of 2^32 items
            b"",
        ):
            (a, _) = nodes(2)
            attacker = Attacker(tasks, a, 2)
            await attacker.link.send(frame)
            await until(lambda a=a: bool(a.ended), 5)  # type: ignore[misc]
            assert a.ended[0].is_struck
            assert a.sessions.rejected == {"malformed": 1}

    simulate(story)


def test_A13_P48_batches_with_missing_parents_are_bounded_and_asked_for() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        chain = [b.replica.write(EVENT) for _ in range(300)]
        attacker = Attacker(tasks, a, 2)
        await attacker.begin()

        await attacker.say(news(*(one.wire for one in chain[1::2])))
        asked = await attacker.hear(wire.Get)

        assert isinstance(asked, wire.Get)
        assert set(asked.ids) == {one.id for one in chain[0:-1:2]}
        assert not a.batches
        await asyncio.sleep(40)
        exchange = a.sessions.exchange(FOLDER)
        assert exchange.missing == 150
        assert not a.ended
        assert a.sessions.session(attacker.key.agent) is not None

    simulate(story)


def test_A14_heads_beyond_the_bound_are_refused() -> None:
    head = wire.Head(bytes(32), 2**40, bytes(32))
    message = wire.HeadsSaid(FOLDER, (head,) * 9000, None, 1, False, False, False)
    payload = msgspec.msgpack.encode(message)

    with pytest.raises(Malformed):
        wire.parse(2, payload)


def test_A14_heads_of_unknown_logs_that_nobody_has_cost_one_question() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        (a, _) = nodes(2)
        attacker = Attacker(tasks, a, 2)
        await attacker.begin()
        invented = tuple(
            wire.Head(number.to_bytes(32, "big"), 2**40, number.to_bytes(32, "little"))
            for number in range(8000)
        )

        await attacker.say(wire.HeadsSaid(FOLDER, invented, None, 1, False, False, False))
        asked = await attacker.hear(wire.Get)

        assert isinstance(asked, wire.Get)
        assert len(asked.ranges) == 8000
        await asyncio.sleep(30)
        assert not a.ended

    simulate(story)


def test_A18_unknown_and_unshared_folders_look_the_same() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        (a, _) = nodes(2)
        secret = FolderId(key_of(201).agent)
        a.replica.members[secret] = {a.agent}
        a.replica.logs[secret] = a.replica.logs[FOLDER]
        (ref,) = a.replica.keep(b"secret")
        a.replica.blobs[secret] = a.replica.blobs[FOLDER]
        a.replica.write(EVENT)
        attacker = Attacker(tasks, a, 2)
        await attacker.say(wire.Folders((secret, bytes(32))))
        log = a.replica.logs[FOLDER].heads()[0].log

        answers = []
        for folder in (secret, bytes(32)):
            await attacker.say(wire.Get(7, folder, (wire.Range(log, None, 9),), (), 9999))
            got = await attacker.hear(wire.Batches)
            await attacker.say(wire.WantSmall(7, folder, (ref.hash,)))
            small = await attacker.hear(wire.NotHave)
            await attacker.say(wire.Want(8, folder, ref.hash, 0, 5))
            large = await attacker.hear(wire.NotHave)
            assert isinstance(got, wire.Batches)
            answers.append((got.batches, got.is_last, got.has_more, small, large))

        assert answers[0] == answers[1]
        assert answers[0][0] == ()

    simulate(story)


def test_forged_kinds_of_messages_for_unshared_folders_are_counted() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        signed = b.replica.write(EVENT)
        attacker = Attacker(tasks, a, 2)

        await attacker.say(news(signed.wire))  # before any folder was met
        await attacker.say(wire.Batches(1, FOLDER, (pack(signed.wire),), True, False))
        await asyncio.sleep(1)

        assert not a.batches
        assert a.sessions.rejected == {"unknown-folder": 1, "unasked": 1}

    simulate(story)


def test_new_session_of_a_peer_replaces_the_former() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        first, _ = connect(tasks, a, b)
        await asyncio.sleep(1)
        connect(tasks, a, b)
        await asyncio.sleep(1)

        assert first.is_closed
        assert len(a.ended) == len(b.ended) == 1
        session = a.sessions.session(b.agent)
        assert session is not None
        assert session.shares(FOLDER)
        assert b.agent in a.sessions.exchange(FOLDER)._said
        assert len(await a.fetcher.fetch_small(FOLDER, b.replica.keep(b"x"))) == 1
        a.write(EVENT)
        await until(lambda: all_equal(a, b), 5)

    simulate(story)


def test_member_admitted_later_gets_the_folder() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        a.replica.members = {FOLDER: {a.agent}}
        connect(tasks, a, b)
        a.write(EVENT)
        await asyncio.sleep(10)
        assert not b.batches

        a.replica.members = {FOLDER: {a.agent, b.agent}}
        await a.sessions.folders_changed()
        await until(lambda: all_equal(a, b), 10)

    simulate(story)


def test_addresses_and_forks_travel_through_the_middle() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b, c = nodes(3)
        record = wire.SignedAddresses(a.agent, 4, (b"192.0.2.7:7499",), bytes(64))
        a.replica.records[a.agent] = record
        connect(tasks, b, c)
        connect(tasks, a, b)

        await until(lambda: c.replica.records.get(a.agent) == record, 10)
        a.sessions.announce_fork(wire.Fork(FOLDER, b"x", bytes(64), b"y", bytes(64)))
        await until(lambda: b"x" in c.replica.forks, 10)

    simulate(story)


def test_import_of_25_large_batches_streams_while_it_is_made() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        connect(tasks, a, b)
        await asyncio.sleep(1)
        random = Random(3)
        for _ in range(25):
            a.write(*(b"\x91\x01" + random.randbytes(60_000) for _ in range(17)))
            await asyncio.sleep(0.02)
        await until(lambda: all_equal(a, b), 10)

    simulate(story)


def test_epochs_are_logs_of_their_own() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        connect(tasks, a, b)
        await asyncio.sleep(1)
        signed: list[SignedBatch] = [
            a.replica.write(EVENT, epoch=epoch) for epoch in (EPOCH, Epoch(b"2" * 16))
        ]
        a.sessions.announce(FOLDER, signed)
        await until(lambda: all_equal(a, b), 5)

        assert len({one.log for one in signed}) == 2

    simulate(story)


def test_A13_innocent_carrier_of_a_parent_is_not_struck_for_what_waited_for_it() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b, c = nodes(3)
        parent = c.replica.write(EVENT)
        attacker = Attacker(tasks, a, 2)
        await attacker.begin()
        bad = [
            sign_batch(
                b.key,
                folder=FOLDER,
                epoch=Epoch(bytes([number]) * 16),
                seq=0,
                prev=None,
                deps=[parent.id],
                lamport=77,
                wall_ms=0,
                events=[EVENT],
            )
            for number in range(5)
        ]
        await attacker.say(news(*(one.wire for one in bad)))
        await asyncio.sleep(1)

        connect(tasks, a, c)
        await until(lambda: parent.id in a.batches, 5)
        await asyncio.sleep(1)

        assert a.sessions.rejected == {"bad-lamport": 5}
        assert a.sessions.session(c.agent) is not None

    simulate(story)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["header", "signature", "body"]), st.integers(0, 10**6))
def test_P3_any_flipped_bit_is_found_before_a_batch_is_admitted(part: str, place: int) -> None:
    good = nodes(1)[0].replica.write(EVENT, EVENT + b"\x07").wire
    raw = bytearray(getattr(good, part))
    raw[place // 8 % len(raw)] ^= 1 << place % 8

    bad = msgspec.structs.replace(good, **{part: bytes(raw)})
    proven, reasons = verify_all((pack(bad),))

    assert proven == []
    assert sum(reasons.values()) == 1
