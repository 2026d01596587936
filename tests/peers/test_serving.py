"""Show in which order a peer is served, and that nothing it asks is passed over in silence."""

from __future__ import annotations

import asyncio

from peers import serve, wire
from peers.framing import Assembler
from peers.outbox import Outbox, Rank
from store.ids import blob_hash
from tests.peers.replicas import FOLDER, nodes
from tests.peers.test_fetch import LARGE, listed
from tests.peers.test_session import Attacker, simulate


def test_small_contents_are_served_before_ranges_that_wait() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        (a, _) = nodes(2)
        (large,) = a.replica.keep(LARGE)
        smalls = a.replica.keep(b"one", b"two")
        attacker = Attacker(tasks, a, 2)
        await attacker.begin()

        length = 8 * wire.DATA_PIECE_BYTES
        for number in range(1, 33):
            await attacker.say(wire.Want(number, FOLDER, large.hash, 0, length))
        for number, one in enumerate(smalls, 100):
            await attacker.say(wire.WantSmall(number, FOLDER, (one.hash,)))
        heard: list[int] = []
        while 100 not in heard or 101 not in heard or 32 not in heard:
            message = await attacker.hear(wire.Data | wire.Small)  # type: ignore[arg-type]
            heard.append(message.request)  # type: ignore[union-attr]

        assert heard.index(101) < heard.index(32)
        assert heard.count(32) >= 1

    simulate(story)


def test_A15_a_want_that_finds_too_many_before_it_is_refused_and_a_flood_is_not_answered() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        (a, _) = nodes(2)
        (ref,) = a.replica.keep(b"one")
        attacker = Attacker(tasks, a, 2)
        await attacker.begin()
        session = a.sessions.session(attacker.key.agent)
        assert session is not None
        session.server._waiting = serve.WAITING_LIMIT
        want = wire.WantSmall(7, FOLDER, (ref.hash,))

        await attacker.say(want)
        refused = await attacker.hear(wire.NotHave)
        assert isinstance(refused, wire.NotHave)
        assert (refused.request, refused.hashes) == (7, (ref.hash,))

        for number in range(200_000):
            session.server.accept(wire.WantSmall(1 + number, FOLDER, (ref.hash,)))
        assert session._outbox.waiting_bytes(Rank.CONTROL) < 5 * 1024 * 1024

    simulate(story)


async def test_contents_are_not_kept_waiting_by_a_log_that_has_no_end() -> None:
    outbox = Outbox()
    for number in range(40):
        outbox.put(Rank.LOG, wire.Ping(number))
    outbox.put(Rank.DATA, wire.NotHave(1, (blob_hash(b"x"),)))
    outbox.put(Rank.DATA, wire.NotHave(2, (blob_hash(b"x"),)))
    assembler = Assembler(wire.parse)

    first = [assembler.accept(await outbox.next_frame()) for _ in range(20)]
    outbox.put(Rank.CONTROL, wire.Pong(1))

    assert sum(isinstance(message, wire.NotHave) for message in first) == 2
    assert isinstance(first[0], wire.Ping)
    assert isinstance(assembler.accept(await outbox.next_frame()), wire.Pong)


def test_an_edit_does_not_wait_for_the_list_of_another_content() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        (a, _) = nodes(2)
        (large, edited) = a.replica.keep(LARGE, b"!" + LARGE)
        old = blob_hash(b"old")
        for blob in (old, edited.hash):
            await a.fetcher.lists.keep(FOLDER, blob, listed(LARGE))
        read = a.replica.read_blob

        async def slowly(*args: object) -> bytes | None:
            if args[2] == large.hash:
                await asyncio.sleep(60)
            return await read(*args)  # type: ignore[arg-type]

        a.replica.read_blob = slowly  # type: ignore[method-assign, assignment]
        attacker = Attacker(tasks, a, 2)
        await attacker.begin()

        await attacker.say(wire.WantChunks(1, FOLDER, large.hash, 0))
        await attacker.say(wire.WantDifference(2, FOLDER, edited.hash, old, 0))

        assert isinstance(await attacker.hear(wire.Difference), wire.Difference)

    simulate(story)
