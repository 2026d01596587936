"""Show that what is wanted over a link that ends or falls silent is had elsewhere at once."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from peers import wire
from peers.framing import Assembler
from store.ids import BlobHash, blob_hash
from store.records import BlobRef
from tests.peers.replicas import FOLDER, Node, PipeLink, connect, nodes, until, with_bulk
from tests.peers.test_fetch import (
    LARGE,
    MIB,
    Memory,
    Piece,
    listed,
    meet,
    small_contents,
)
from tests.peers.test_session import simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SOON_S = 1.0
SILENCE_S = 8.0  # a link that is up and says nothing is not waited for any longer


async def timed(fetching: asyncio.Future[Any]) -> float:
    """Give the seconds until it is done."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await asyncio.wait([fetching])
    return loop.time() - began_s


async def until_answers(opened: Sequence[PipeLink], count: int = 2) -> None:
    """Wait until the serving end of a link for contents has sent something."""
    async with asyncio.timeout(10):
        while not any(far.sent_frames >= count for far in opened):
            await asyncio.sleep(0)


async def cut_all(opened: Sequence[PipeLink], how: str) -> None:
    for far in opened:
        if how == "closes":
            await far.close()
        elif how == "falls silent":
            far.random, far.loss = Random(1), 1.0
        else:
            far.cut_after = far.sent_frames + 3


ENDS = {"closes": SOON_S, "breaks in an answer": SOON_S, "falls silent": SILENCE_S}


@pytest.mark.parametrize("how", ENDS)
def test_small_contents_of_links_that_all_end_come_over_the_sessions_own(how: str) -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        opened = with_bulk(tasks, [a, b])
        refs = b.replica.keep(*small_contents(1500))
        await meet(tasks, a, [b])

        fetching = asyncio.ensure_future(a.fetcher.fetch_small(FOLDER, refs))
        await until_answers(opened, 1)
        await cut_all(opened, how)
        took_s = await timed(fetching)

        assert len(fetching.result()) == len(refs)
        assert took_s < ENDS[how]

    simulate(story)


@pytest.mark.parametrize("how", ENDS)
def test_P47_large_content_of_links_that_all_end_goes_on_over_the_sessions_own(how: str) -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        opened = with_bulk(tasks, [a, b])
        (ref,) = b.replica.keep(LARGE)
        await meet(tasks, a, [b])
        sink = Memory()

        fetching = asyncio.ensure_future(a.fetcher.fetch_large(FOLDER, ref, sink))
        await until_answers(opened, 12)
        await cut_all(opened, how)
        took_s = await timed(fetching)

        assert fetching.result()
        assert sink.content == LARGE
        assert took_s < ENDS[how]
        assert sum(length for _, length in sink.written) <= len(LARGE) + MIB

    simulate(story)


def test_a_link_for_contents_that_ends_again_and_again_holds_nothing_up() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        opened = with_bulk(tasks, [a, b])
        refs = b.replica.keep(*small_contents(1500))
        (large,) = b.replica.keep(LARGE)
        await meet(tasks, a, [b])
        ending = asyncio.ensure_future(_end_each(opened))

        took_s = await timed(asyncio.ensure_future(a.fetcher.fetch_small(FOLDER, refs)))
        sink = Memory()
        took_s += await timed(asyncio.ensure_future(a.fetcher.fetch_large(FOLDER, large, sink)))

        ending.cancel()
        assert sink.content == LARGE
        assert took_s < 2 * SOON_S
        assert len(opened) < 5

    simulate(story)


async def _end_each(opened: Sequence[PipeLink]) -> None:
    while True:
        for far in opened:
            if far.sent_frames >= 1:
                await far.close()
        await asyncio.sleep(0)


@pytest.mark.parametrize("is_large", [False, True])
def test_a_peer_that_falls_silent_is_left_for_one_that_answers(is_large: bool) -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b, c = nodes(3)
        contents = [LARGE] if is_large else small_contents(300)
        refs = b.replica.keep(*contents)
        c.replica.keep(*contents)
        _, far = connect(tasks, a, b)
        await meet(tasks, a, [c])
        await until(lambda: (s := a.sessions.session(b.agent)) is not None and s.shares(FOLDER))
        far.random, far.loss = Random(1), 1.0

        took_s = await timed(asyncio.ensure_future(fetch_all(a, refs)))

        assert took_s < SILENCE_S

    simulate(story)


async def fetch_all(node: Node, refs: Sequence[BlobRef]) -> None:
    if len(refs) == 1:
        assert await node.fetcher.fetch_large(FOLDER, refs[0], Memory())
    else:
        assert len(await node.fetcher.fetch_small(FOLDER, refs)) == len(refs)


@pytest.mark.parametrize("is_large", [False, True])
def test_what_a_session_was_asked_is_asked_of_the_one_that_replaces_it(is_large: bool) -> None:
    """Of two calls that cross, one session is replaced a moment after it began."""

    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        refs = b.replica.keep(*([LARGE] if is_large else small_contents(300)))
        _, far = connect(tasks, a, b)
        await until(lambda: (s := a.sessions.session(b.agent)) is not None and s.shares(FOLDER))
        far.random, far.loss = Random(1), 1.0

        fetching = asyncio.ensure_future(fetch_all(a, refs))
        await asyncio.sleep(0.1)
        connect(tasks, a, b)
        took_s = await timed(fetching)

        fetching.result()
        assert took_s < SOON_S

    simulate(story)


def test_a_peer_that_comes_later_takes_part_in_a_large_content() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b, c = nodes(3)
        (ref,) = b.replica.keep(LARGE)
        c.replica.keep(LARGE)
        b.sessions.upload.change(100_000)  # alone it would take 94 s
        await meet(tasks, a, [b])

        fetching = asyncio.ensure_future(a.fetcher.fetch_large(FOLDER, ref, Memory()))
        await asyncio.sleep(1)
        connect(tasks, a, c)

        assert await timed(fetching) < 60
        assert c.replica.calls["read_blob"] > 1

    simulate(story)


def test_contents_come_over_a_line_that_is_slower_than_any_patience() -> None:
    """A message of 1 MiB takes 40 s, and nothing else is said meanwhile."""

    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        refs = b.replica.keep(*(Random(n).randbytes(MIB) for n in range(3)))
        _, far = connect(tasks, a, b)
        await until(lambda: (s := a.sessions.session(b.agent)) is not None and s.shares(FOLDER))
        far.bytes_per_s = 26_000

        found = await a.fetcher.fetch_small(FOLDER, refs)

        assert len(found) == 3
        assert far.sent_bytes < 4 * MIB

    simulate(story)


def test_contents_come_from_a_peer_that_may_send_little_a_second() -> None:
    """It pays for a content before it sends it, and is silent for longer than anybody waits."""

    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        tasks.create_task(a.fetcher.run())
        refs = b.replica.keep(Random(1).randbytes(MIB), Random(2).randbytes(MIB))
        b.sessions.upload.change(20_000)
        _, far = connect(tasks, a, b)
        await until(lambda: (s := a.sessions.session(b.agent)) is not None and s.shares(FOLDER))
        found: dict[BlobHash, bytes] = {}

        async with asyncio.timeout(300):
            while len(found) < 2:
                left = [ref for ref in refs if ref.hash not in found]
                found.update(await a.fetcher.fetch_small(FOLDER, left))
                await asyncio.sleep(1)

        assert far.sent_bytes < 5 * MIB

    simulate(story)


@pytest.mark.parametrize("held", [0, 4 * MIB])
def test_a_peer_that_tells_no_list_holds_up_nothing_while_another_does(held: int) -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b, c = nodes(3)
        (ref,) = b.replica.keep(b"!" + LARGE)
        c.replica.keep(b"!" + LARGE)
        old = blob_hash(LARGE)
        for node in (b, c):
            await node.fetcher.lists.keep(FOLDER, old, listed(LARGE))
        await meet(tasks, a, [b, c])
        silent = b.sessions.session(a.agent)
        assert silent is not None
        silent.server._lists.answer = never  # type: ignore[method-assign, assignment]
        sink = Memory()
        sink.content += (b"!" + LARGE)[:held]

        pieces = [Piece(LARGE, old)]
        took_s = await timed(
            asyncio.ensure_future(a.fetcher.fetch_large(FOLDER, ref, sink, pieces))
        )

        assert sink.content == b"!" + LARGE
        assert a.fetcher.received_bytes < 2 * MIB
        assert took_s < SILENCE_S

    simulate(story)


async def never(_: object) -> None:
    await asyncio.get_running_loop().create_future()


# -- what a peer did not have ---------------------------------------------------------------------


def follow_every_no(far: PipeLink, arrive: Callable[[], wire.Message]) -> None:
    """Have a link send what `arrive` gives right behind each word that something is not there."""
    send = far.send

    async def both(frame: bytes) -> None:
        message = Assembler(wire.parse).accept(frame)
        await send(frame)
        if isinstance(message, wire.NotHave):
            for late in wire.frames(arrive(), 99):
                await send(late)

    far.send = both  # type: ignore[method-assign]


def test_a_content_that_comes_right_behind_the_word_that_it_is_not_there_is_kept() -> None:
    """Both in one piece from the network: nobody has had a turn to wait for it between them."""

    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        tasks.create_task(a.fetcher.run())
        content = b"edited"
        ref = BlobRef(hash=blob_hash(content), size=len(content))
        _, far = connect(tasks, a, b)
        await until(lambda: (s := a.sessions.session(b.agent)) is not None and s.shares(FOLDER))
        one = wire.SmallContent(ref.hash, content)

        follow_every_no(far, lambda: wire.Small(0, FOLDER, (one,)))
        found = await a.fetcher.fetch_small(FOLDER, [ref])

        assert found == {ref.hash: content}

    simulate(story)


def test_word_that_a_large_content_came_right_behind_the_word_that_it_is_not_there() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        tasks.create_task(a.fetcher.run())
        ref = BlobRef(hash=blob_hash(LARGE), size=len(LARGE))
        _, far = connect(tasks, a, b)
        await until(lambda: (s := a.sessions.session(b.agent)) is not None and s.shares(FOLDER))

        def arrive() -> wire.Message:
            b.replica.keep(LARGE)
            return wire.Have(FOLDER, (ref.hash,))

        follow_every_no(far, arrive)
        if not await a.fetcher.fetch_large(FOLDER, ref, Memory()):
            await until(lambda: ref.hash in a.replica.available, SOON_S)
            assert await a.fetcher.fetch_large(FOLDER, ref, Memory())

    simulate(story)


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_what_was_not_there_is_asked_for_again_soon(times: int, is_large: bool) -> None:
    """A file that is just being renamed can be read neither at its old nor at its new place."""

    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        tasks.create_task(a.fetcher.run())
        (ref,) = b.replica.keep(LARGE if is_large else b"edited")
        await meet(tasks, a, [b])
        left = times

        def is_away() -> bool:
            nonlocal left
            left -= 1
            return left >= 0

        b.replica.is_away = is_away
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while True:
            before = len(a.replica.available)
            if is_large:
                is_here = await a.fetcher.fetch_large(FOLDER, ref, Memory())
            else:
                is_here = bool(await a.fetcher.fetch_small(FOLDER, [ref]))
            if is_here:
                break
            await until(lambda before=before: len(a.replica.available) > before, 5)  # type: ignore[misc]

        assert left == -1 or is_large
        assert loop.time() - began_s < (0.5, 1, 2)[times - 1]

    simulate(story)


def test_what_was_not_there_is_asked_for_again_when_the_peer_has_settled() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        tasks.create_task(a.fetcher.run())
        await meet(tasks, a, [b])
        content = b"edited"
        ref = BlobRef(hash=blob_hash(content), size=len(content))
        loop = asyncio.get_running_loop()
        until_s = loop.time() + 30
        while loop.time() < until_s:  # asked for again each 10 s by now
            assert not await a.fetcher.fetch_small(FOLDER, [ref])
            before = len(a.replica.available)
            await until(lambda before=before: len(a.replica.available) > before, 11)  # type: ignore[misc]
        assert not await a.fetcher.fetch_small(FOLDER, [ref])
        before = len(a.replica.available)

        b.replica.keep(content)
        b.write()
        await until(lambda: len(a.replica.available) > before, SOON_S)

        assert await a.fetcher.fetch_small(FOLDER, [ref])

    simulate(story)


def test_what_nobody_has_is_not_asked_for_without_a_pause() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        tasks.create_task(a.fetcher.run())
        await meet(tasks, a, [b])
        ref = BlobRef(hash=blob_hash(b"nowhere"), size=7)

        for _ in range(600):
            assert not await a.fetcher.fetch_small(FOLDER, [ref])
            await asyncio.sleep(0.1)

        assert 8 <= b.replica.calls["read_small"] <= 12

    simulate(story)
