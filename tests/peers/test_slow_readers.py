"""Show that who asks and reads nothing makes no buffer of a node grow (I4), over real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from peers import outbox, stream, wire
from peers.link import Link, LinkClosed, Purpose
from peers.outbox import Rank
from store.codec import decode_header
from tests.peers.meeting import listening, make_dialer, make_identity
from tests.peers.replicas import FOLDER, Node, nodes
from tests.peers.test_session import Attacker, simulate

if TYPE_CHECKING:
    from collections.abc import Callable

HOST, CALLER = make_identity(1), make_identity(2)
ABSENT, ELSEWHERE = b"a" * 32, b"e" * 32
NUMBER = 10_000

QUESTIONS: dict[str, Callable[[int], wire.Message]] = {
    "a piece of what is not here": lambda no: wire.Want(no, FOLDER, ABSENT, 0, 1),
    "small contents that are not here": lambda no: wire.WantSmall(no, FOLDER, (ABSENT,)),
    "a list of what is not here": lambda no: wire.WantChunks(no, FOLDER, ABSENT, 0),
    "the log of a folder that is not theirs": lambda no: wire.Get(no, ELSEWHERE, (), (), 1),
    "the log": lambda no: wire.Get(no, FOLDER, (), (ABSENT,), 1),
    "whether this node lives": wire.Ping,
    "what this node has": lambda _: wire.HeadsSaid(FOLDER, (), None, 1, False, True, True),
}


@pytest.mark.parametrize("asked", QUESTIONS)
async def test_A15_who_asks_and_reads_nothing_makes_no_buffer_grow(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_bytes = 32 * 1024
    monkeypatch.setattr(stream, "_PAUSE_BYTES", 16 * 1024)  # from here on the caller reads nothing
    monkeypatch.setattr(stream, "_RESUME_BYTES", 8 * 1024)
    monkeypatch.setattr(outbox, "ROOM_BYTES", room_bytes)
    victim = Node(1, {FOLDER: set()})
    victim.replica.members[FOLDER] |= {victim.agent, CALLER.agent}
    async with listening(HOST) as node, asyncio.TaskGroup() as tasks:
        node.door.members.add(CALLER.agent)
        link = await make_dialer(CALLER).dial([node.address], HOST.agent, Purpose.CONTROL)
        near = await node.next_link()
        bound = near._stream._transport.get_extra_info("socket")  # type: ignore[attr-defined]
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)  # or all waits there
        talk = tasks.create_task(victim.talk(near))
        await _say(link, wire.Folders((FOLDER,)))
        while (session := victim.sessions.session(CALLER.agent)) is None:
            await asyncio.sleep(0)

        most_bytes = 0
        with suppress(LinkClosed):
            for number in range(1, NUMBER):
                await _say(link, QUESTIONS[asked](number))
                if number % 50 == 0:  # or most of them are passed over, as too many at a time
                    await _until(lambda: near.received_bytes >= link.sent_bytes or near.is_closed)
                waiting = sum(map(session._outbox.waiting_bytes, Rank))
                most_bytes = max(most_bytes, waiting)

        assert 0 < most_bytes < 3 * room_bytes
        assert not near.is_closed, "it is answered when it reads"
        assert session.server._waiting <= 64 * 1024
        talk.cancel()
        await link.close()


async def _say(link: Link, message: wire.Message) -> None:
    for frame in wire.frames(message, 1):
        await link.send(frame)


def test_link_of_who_never_reads_is_over_when_what_cannot_wait_has_filled_it() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        (a, _) = nodes(2)
        attacker = Attacker(tasks, a, 2)
        await attacker.begin()
        session = a.sessions.session(attacker.key.agent)
        assert session is not None
        record = wire.SignedAddresses(b"a" * 32, 1, (b"x" * 255,) * 16, bytes(64))

        most_bytes = 0
        for _ in range(8000):  # of others, passed on: 35 MB
            session.tell_addresses([record])
            most_bytes = max(most_bytes, session._outbox.waiting_bytes(Rank.CONTROL))
            await asyncio.sleep(0)

        assert outbox.ROOM_BYTES < most_bytes <= outbox.FULL_BYTES
        await asyncio.sleep(1)
        assert [one.reason for one in a.ended] == ["link: the other side does not read"]
        assert not a.ended[0].is_struck
        assert a.sessions.session(attacker.key.agent) is None

    simulate(story)


def test_of_many_own_batches_only_so_many_are_pushed_as_there_is_room() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        (a, _) = nodes(2)
        attacker = Attacker(tasks, a, 2)
        await attacker.begin()
        session = a.sessions.session(attacker.key.agent)
        assert session is not None
        batches = [
            a.replica.write(*(b"\x92\x01\xc5\x03\xe8" + os.urandom(1000) for _ in range(900)))
            for _ in range(20)
        ]

        a.sessions.announce(FOLDER, batches)  # 18 MB at once, as an import may

        assert session._outbox.waiting_bytes(Rank.LOG) < outbox.ROOM_BYTES + 2 * 1024 * 1024
        assert a.sessions.session(attacker.key.agent) is session
        seen: set[int] = set()
        while 19 not in seen:  # the rest is asked for, since the heads say so
            message = await attacker.hear(wire.News | wire.HeadsSaid)  # type: ignore[arg-type]
            if isinstance(message, wire.News):
                seen |= {decode_header(one.header).seq for one in message.batches}
            elif isinstance(message, wire.HeadsSaid):
                seen |= {head.seq for head in message.heads}
        assert not a.ended

    simulate(story)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)
