"""Show that contents arrive whole and right, from whoever has them, however links behave."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3
from msgspec.structs import replace

from peers import wire
from peers.chunks import Cutter
from peers.framing import Assembler, Buffer
from peers.limits import RateLimit
from store.errors import Malformed
from store.ids import BlobHash, FolderId, blob_hash
from store.records import BlobRef
from tests.peers.replicas import FOLDER, Node, connect, key_of, nodes, until, with_bulk
from tests.peers.test_session import Attacker, simulate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.peers.replicas import PipeLink

MIB = 1024 * 1024


class Memory:
    """A sink in memory that notes what was written where."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.written: list[tuple[int, int]] = []
        self.is_hashed = False

    def write(self, offset: int, *pieces: Buffer) -> None:
        chunk = b"".join(pieces)
        if len(self.content) < offset:
            self.content.extend(bytes(offset - len(self.content)))
        self.content[offset : offset + len(chunk)] = chunk
        self.written.append((offset, len(chunk)))

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])

    def size(self) -> int:
        return len(self.content)

    def hash(self) -> BlobHash:
        self.is_hashed = True
        return BlobHash(blake3(self.content).digest())


class Piece:
    """An earlier version; its hash is known where that is said."""

    def __init__(self, content: bytes, blob: BlobHash | None = None) -> None:
        self.content = content
        self.blob = blob

    def size(self) -> int:
        return len(self.content)

    def read(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + length]


async def meet(tasks: asyncio.TaskGroup, one: Node, others: Sequence[Node]) -> None:
    for other in others:
        connect(tasks, one, other)
    await until(
        lambda: all(
            (session := one.sessions.session(other.agent)) is not None and session.shares(FOLDER)
            for other in others
        )
    )


def small_contents(count: int, seed: int = 1) -> list[bytes]:
    random = Random(seed)
    return [random.randbytes(random.randrange(1, 16_000)) for _ in range(count)]


@pytest.mark.parametrize("is_bulk", [False, True])
def test_many_small_contents_arrive_packed(is_bulk: bool) -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        opened = with_bulk(tasks, [a, b]) if is_bulk else []
        refs = b.replica.keep(*small_contents(2000))
        await meet(tasks, a, [b])

        found = await a.fetcher.fetch_small(FOLDER, refs)

        assert {blob: len(content) for blob, content in found.items()} == {
            ref.hash: ref.size for ref in refs
        }
        assert b.replica.calls["read_small"] < 80  # not one call for each
        assert bool(opened) == is_bulk

    simulate(story)


def test_small_contents_come_from_all_who_have_some() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b, c = nodes(3)
        contents = small_contents(600)
        refs = b.replica.keep(*contents[:400]) + c.replica.keep(*contents[400:])
        await meet(tasks, a, [b, c])
        (lost,) = [BlobRef(hash=blob_hash(b"nobody has this"), size=15)]

        found = await a.fetcher.fetch_small(FOLDER, [*refs, lost])

        assert found == {blob_hash(content): content for content in contents}

    simulate(story)


def test_content_of_a_megabyte_and_an_empty_one_travel() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        contents = [Random(1).randbytes(MIB), b"", Random(2).randbytes(MIB), b"x"]
        refs = b.replica.keep(*contents)
        await meet(tasks, a, [b])

        assert set((await a.fetcher.fetch_small(FOLDER, refs)).values()) == set(contents)

    simulate(story)


def test_A16_P46_wrong_small_contents_are_thrown_away_and_had_from_another() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b, c = nodes(3)
        contents = small_contents(100)
        refs = b.replica.keep(*contents)
        c.replica.keep(*contents)
        b.replica.corrupts = True
        await meet(tasks, a, [b, c])

        found = await a.fetcher.fetch_small(FOLDER, refs)

        assert found == {blob_hash(content): content for content in contents}
        assert a.fetcher.wrongs[b.agent] > 0
        assert a.fetcher.wrongs[c.agent] == 0
        assert a.sessions.rejected["bad-content"] > 0
        await until(lambda: a.sessions.session(b.agent) is None, 5)  # struck off

    simulate(story)


def test_peer_that_vanishes_midway_is_replaced_by_another() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b, c = nodes(3)
        contents = small_contents(1500)
        refs = b.replica.keep(*contents)
        c.replica.keep(*contents)
        _, far = connect(tasks, a, b)
        far.cut_after = 8
        await meet(tasks, a, [c])

        found = await a.fetcher.fetch_small(FOLDER, refs)

        assert len(found) == 1500
        assert b.ended

    simulate(story)


def test_answers_lost_on_the_way_are_asked_for_elsewhere() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b, c = nodes(3)
        refs = b.replica.keep(*small_contents(50))
        c.replica.keep(*small_contents(50))
        _, far = connect(tasks, a, b)
        await meet(tasks, a, [c])
        await until(lambda: a.sessions.session(b.agent) is not None)
        far.random, far.loss = Random(1), 1.0
        third = a.sessions.session(c.agent)
        assert third is not None
        third.link.random, third.link.loss = Random(1), 0.0  # type: ignore[attr-defined]

        assert len(await a.fetcher.fetch_small(FOLDER, refs)) == 50

    assert simulate(story) < 100


def test_A17_want_of_a_content_in_no_common_folder_is_as_unknown() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        (a, _) = nodes(2)
        secret = FolderId(key_of(201).agent)
        a.replica.members[secret] = {a.agent}
        a.replica.blobs[secret] = {}
        (ref,) = a.replica.keep(b"x" * 3 * MIB, folder=secret)
        attacker = Attacker(tasks, a, 2)
        await attacker.begin()
        unknown = blob_hash(b"unknown")

        answers = []
        for folder in (FOLDER, secret):
            for blob in (ref.hash, unknown):
                await attacker.say(wire.Want(1, folder, blob, 0, 100))
                answers.append(await attacker.hear(wire.NotHave))
                await attacker.say(wire.WantChunks(1, folder, blob, 0))
                answers.append(await attacker.hear(wire.NotHave))
                await attacker.say(wire.WantSmall(1, folder, (blob,)))
                answers.append(await attacker.hear(wire.NotHave))

        assert [one.request for one in answers] == [1] * 12  # type: ignore[union-attr]

    simulate(story)


def test_want_that_was_refused_is_served_when_the_content_arrives() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        await meet(tasks, a, [b])
        content, big = b"late", Random(1).randbytes(2 * MIB)
        refs = [BlobRef(hash=blob_hash(one), size=len(one)) for one in (content, big)]
        assert await a.fetcher.fetch_small(FOLDER, refs[:1]) == {}
        assert not await a.fetcher.fetch_large(FOLDER, refs[1], Memory())
        assert a.replica.available == []

        b.replica.keep(content, big)
        b.sessions.blob_arrived(FOLDER, [ref.hash for ref in refs])
        await until(lambda: len(a.replica.available) == 2, 5)

        assert await a.fetcher.fetch_small(FOLDER, refs[:1]) == {refs[0].hash: content}
        sink = Memory()
        assert await a.fetcher.fetch_large(FOLDER, refs[1], sink)
        assert sink.content == big

    simulate(story)


def test_contents_that_nobody_asked_for_fill_no_memory() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        (a, _) = nodes(2)
        attacker = Attacker(tasks, a, 2)
        await attacker.begin()

        for number in range(50):
            content = bytes([number]) * 100_000
            await attacker.say(
                wire.Small(0, FOLDER, (wire.SmallContent(blob_hash(content), content),))
            )
            await attacker.say(
                wire.Small(9, FOLDER, (wire.SmallContent(blob_hash(content), content),))
            )
        await asyncio.sleep(1)

        assert a.fetcher._cached_bytes == 0
        assert a.replica.available == []

    simulate(story)


LARGE = Random(7).randbytes(9 * MIB + 12_345)


@pytest.mark.parametrize("size", [0, 1, MIB + 1, len(LARGE)])
@pytest.mark.parametrize("is_bulk", [False, True])
def test_large_content_arrives(size: int, is_bulk: bool) -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        opened = with_bulk(tasks, [a, b]) if is_bulk else []
        (ref,) = b.replica.keep(LARGE[:size])
        await meet(tasks, a, [b])
        sink = Memory()

        assert await a.fetcher.fetch_large(FOLDER, ref, sink)

        assert sink.content == LARGE[:size]
        assert len(opened) == (1 if is_bulk and size else 0)

    simulate(story)


def test_F8_under_a_limit_what_came_is_written_while_the_rest_is_waited_for() -> None:
    """A kill would else lose a whole window of 16 MiB, minutes of a slow line."""

    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        with_bulk(tasks, [a, b])
        (ref,) = b.replica.keep(LARGE)
        await meet(tasks, a, [b])
        a.fetcher.download.change(MIB)
        began_s = asyncio.get_running_loop().time()
        written_s: list[float] = []

        class Timed(Memory):
            def write(self, offset: int, *pieces: Buffer) -> None:
                super().write(offset, *pieces)
                written_s.append(asyncio.get_running_loop().time() - began_s)

        assert await a.fetcher.fetch_large(FOLDER, ref, Timed())

        # 9 MiB at 1 MiB/s, asked for by 2 MiB
        assert written_s[0] < 5
        assert len({int(one) for one in written_s}) >= 3

    simulate(story)


def test_large_content_comes_from_several_peers_at_once() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b, c = nodes(3)
        with_bulk(tasks, [a, b, c])
        content = LARGE * 5
        (ref,) = b.replica.keep(content)
        c.replica.keep(content)
        await meet(tasks, a, [b, c])
        sink = Memory()

        assert await a.fetcher.fetch_large(FOLDER, ref, sink)

        assert sink.content == content
        assert not sink.is_hashed  # though it came out of order
        assert b.replica.calls["read_blob"] > 5
        assert c.replica.calls["read_blob"] > 5
        assert sum(length for _, length in sink.written) == len(content)

    simulate(story)


@pytest.mark.parametrize("seed", range(10))
def test_P47_transfer_goes_on_where_it_was_cut(seed: int) -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        random = Random(seed)
        a, b = nodes(2)
        opened = with_bulk(tasks, [a, b])
        (ref,) = b.replica.keep(LARGE)
        sink = Memory()
        cuts = 0
        while True:
            near, _ = connect(tasks, a, b)
            await until(lambda: (s := a.sessions.session(b.agent)) is not None and s.shares(FOLDER))
            count = len(opened)
            fetching = asyncio.ensure_future(a.fetcher.fetch_large(FOLDER, ref, sink))
            while len(opened) == count and not fetching.done():
                await asyncio.sleep(0)
            for far in opened[count:]:
                far.cut_after = random.randrange(4, 30)
            while not (fetching.done() or any(far.is_closed for far in opened[count:])):
                await asyncio.sleep(0)
            await near.close()
            cuts += 1
            if await fetching:
                break
            await until(lambda cuts=cuts: len(a.ended) == len(b.ended) == cuts)  # type: ignore[misc]

        assert sink.content == LARGE
        received = sum(length for _, length in sink.written)
        assert received <= len(LARGE) + cuts * MIB
        assert cuts > 1

    simulate(story, seed)


def test_A16_P46_liar_among_sources_does_not_prevent_a_large_content() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b, c = nodes(3)
        with_bulk(tasks, [a, b, c])
        (ref,) = b.replica.keep(LARGE)
        c.replica.keep(LARGE)
        b.replica.corrupts = True
        await meet(tasks, a, [b, c])
        sink = Memory()

        assert await a.fetcher.fetch_large(FOLDER, ref, sink)

        assert sink.content == LARGE
        assert a.fetcher.wrongs[c.agent] == 0

    simulate(story)


def test_A16_single_liar_is_counted_and_nothing_is_accepted() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        (ref,) = b.replica.keep(LARGE)
        b.replica.corrupts = True
        await meet(tasks, a, [b])

        assert not await a.fetcher.fetch_large(FOLDER, ref, Memory())

        assert a.fetcher.wrongs == {b.agent: 1}

    simulate(story)


def test_new_version_costs_only_the_chunks_that_changed() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        new = LARGE[: 4 * MIB] + b"inserted" + LARGE[4 * MIB :]
        (ref,) = b.replica.keep(new)
        await meet(tasks, a, [b])
        sink = Memory()

        assert await a.fetcher.fetch_large(FOLDER, ref, sink, [Piece(b"other"), Piece(LARGE)])

        assert sink.content == new
        assert a.fetcher.received_bytes <= 2 * MIB

    simulate(story)


def listed(content: bytes) -> list[wire.ChunkLine]:
    cutter = Cutter()
    return cutter.feed(content) + cutter.finish()


def crossed_bytes(links: Sequence[PipeLink]) -> int:
    return sum(len(frame) for link in links for frame in link.sent)


EDITS: dict[str, tuple[bytes, int]] = {  # the new version, and what may cross for it
    "inserted at the start": (b"!" + LARGE, 64 * 1024),
    "inserted in the middle": (LARGE[: 4 * MIB] + b"inserted" + LARGE[4 * MIB :], 64 * 1024),
    "appended": (LARGE + b"appended", 160 * 1024),
    "cut off": (LARGE[: 7 * MIB], 160 * 1024),
    "a MiB rewritten": (
        LARGE[: 4 * MIB] + Random(8).randbytes(MIB) + LARGE[5 * MIB :],
        MIB + 96 * 1024,
    ),
    "a piece moved": (LARGE[MIB : 3 * MIB] + LARGE[:MIB] + LARGE[3 * MIB :], 96 * 1024),
    "as it was": (LARGE, 4096),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("knows_old_list", [True, False])
def test_edit_of_a_large_content_costs_little_where_both_know_the_old_list(
    edit: str, knows_old_list: bool
) -> None:
    new, limit_bytes = EDITS[edit]

    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        (ref,) = b.replica.keep(new)
        old = blob_hash(LARGE)
        await b.fetcher.lists.keep(FOLDER, old, listed(LARGE))
        if knows_old_list:
            await a.fetcher.lists.keep(FOLDER, old, listed(LARGE))
        links = connect(tasks, a, b)
        await until(lambda: (s := a.sessions.session(b.agent)) is not None and s.shares(FOLDER))
        for link in links:
            link.keeps_sent = True
        sink = Memory()

        assert await a.fetcher.fetch_large(FOLDER, ref, sink, [Piece(LARGE, old)])

        assert sink.content == new
        assert crossed_bytes(links) <= limit_bytes
        assert sum(length for _, length in sink.written) == len(new)  # nothing is written twice
        assert not sink.is_hashed  # all of it was hashed on its way
        kept = await a.fetcher.lists.get(FOLDER, ref.hash)
        assert kept == (tuple(listed(new)) if knows_old_list else None)

    simulate(story)


def test_edit_takes_two_round_trips() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        (ref,) = b.replica.keep(b"!" + LARGE)
        old = blob_hash(LARGE)
        await b.fetcher.lists.keep(FOLDER, old, listed(LARGE))
        near, _ = connect(tasks, a, b)
        await until(lambda: (s := a.sessions.session(b.agent)) is not None and s.shares(FOLDER))
        near.keeps_sent = True

        assert await a.fetcher.fetch_large(FOLDER, ref, Memory(), [Piece(LARGE, old)])

        asked = [Assembler(wire.parse).accept(frame) for frame in near.sent]
        assert [type(one) for one in asked] == [wire.WantDifference, wire.Want]

    simulate(story)


def test_many_small_edits_all_over_a_file_cost_a_fine_chunk_each() -> None:
    changed = bytearray(LARGE)
    edits = range(MIB, len(LARGE), 300_000)
    for offset in edits:
        changed[offset] ^= 1

    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        whole = bytes(changed)
        (ref,) = b.replica.keep(whole)
        old = blob_hash(LARGE)
        await b.fetcher.lists.keep(FOLDER, old, listed(LARGE))
        await meet(tasks, a, [b])
        sink = Memory()

        assert await a.fetcher.fetch_large(FOLDER, ref, sink, [Piece(LARGE, old)])

        assert sink.content == whole
        assert a.fetcher.received_bytes < len(edits) * 24 * 1024  # a chunk has 256 KiB

    simulate(story)


def test_A17_difference_is_told_only_against_a_version_of_the_same_folder() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        (a, _) = nodes(2)
        (ref,) = a.replica.keep(LARGE)
        secret = FolderId(key_of(201).agent)
        old = blob_hash(b"the secret version")
        await a.fetcher.lists.keep(secret, old, listed(LARGE))
        attacker = Attacker(tasks, a, 2)
        await attacker.begin()

        for blob in (ref.hash, blob_hash(b"unknown")):
            await attacker.say(wire.WantDifference(1, FOLDER, blob, old, 0))
            assert isinstance(await attacker.hear(wire.NotHave), wire.NotHave)

    simulate(story)


@pytest.mark.parametrize("lie", ["offsets", "indices", "fine", "beyond", "short", "endless"])
def test_A16_lie_about_a_difference_costs_bytes_but_nothing_wrong_is_accepted(lie: str) -> None:
    new = LARGE[: 4 * MIB] + b"inserted" + LARGE[4 * MIB :]

    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        (ref,) = b.replica.keep(new)
        old = blob_hash(LARGE)
        await b.fetcher.lists.keep(FOLDER, old, listed(LARGE))
        _, far = connect(tasks, a, b)
        await until(lambda: (s := a.sessions.session(b.agent)) is not None and s.shares(FOLDER))
        send = far.send

        async def lying(frame: bytes) -> None:
            message = Assembler(wire.parse).accept(frame)
            if isinstance(message, wire.Difference):
                (frame,) = wire.frames(falsified(message, lie), 7)
            await send(frame)

        far.send = lying  # type: ignore[method-assign]
        sink = Memory()

        assert await a.fetcher.fetch_large(FOLDER, ref, sink, [Piece(LARGE, old)])

        assert sink.content == new
        assert a.fetcher.received_bytes <= 2 * len(new)

    simulate(story)


def falsified(message: wire.Difference, lie: str) -> wire.Difference:
    *stretches, last = message.stretches
    if lie == "offsets":
        last = replace(last, offset=last.offset - 1)
    elif lie == "indices":
        last = replace(last, first=last.first + 9)
    elif lie == "beyond":
        last = replace(last, offset=last.offset + 1)
    elif lie == "short":
        last = replace(last, length=last.length - 1)
    elif lie == "fine":
        stretches = [replace(one, fine=one.fine[18:]) for one in stretches]
        last = replace(last, fine=last.fine[18:])
    else:
        return replace(message, total=message.total + 1)
    return replace(message, stretches=(*stretches, last))


def test_P47_edit_whose_transfer_was_cut_goes_on_with_what_stands_there() -> None:
    new = LARGE[: 4 * MIB] + Random(8).randbytes(MIB) + LARGE[5 * MIB :]

    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        (ref,) = b.replica.keep(new)
        old = blob_hash(LARGE)
        await b.fetcher.lists.keep(FOLDER, old, listed(LARGE))
        _, far = connect(tasks, a, b)
        await until(lambda: (s := a.sessions.session(b.agent)) is not None and s.shares(FOLDER))
        send = far.send

        async def cut(frame: bytes) -> None:
            if isinstance(Assembler(wire.parse).accept(frame), wire.Data):
                await far.close()
            await send(frame)

        far.send = cut  # type: ignore[method-assign]
        sink = Memory()
        assert not await a.fetcher.fetch_large(FOLDER, ref, sink, [Piece(LARGE, old)])
        assert sum(length for _, length in sink.written) > 8 * MIB
        await until(lambda: bool(a.ended and b.ended))

        await meet(tasks, a, [b])
        assert await a.fetcher.fetch_large(FOLDER, ref, sink, [Piece(LARGE, old)])

        assert sink.content == new
        assert a.fetcher.received_bytes <= 2 * MIB  # chunks that changed, whole ones

    simulate(story)


def test_list_of_what_was_fetched_is_learnt_behind_it() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        with_bulk(tasks, [a, b])
        (ref,) = b.replica.keep(LARGE)
        await meet(tasks, a, [b])

        assert await a.fetcher.fetch_large(FOLDER, ref, Memory())
        await asyncio.sleep(1)

        assert await a.fetcher.lists.get(FOLDER, ref.hash) == tuple(listed(LARGE))

    simulate(story)


def test_old_version_that_is_another_by_now_costs_bytes_only() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        (ref,) = b.replica.keep(b"!" + LARGE)
        old = blob_hash(LARGE)
        await b.fetcher.lists.keep(FOLDER, old, listed(LARGE))
        await meet(tasks, a, [b])
        another = LARGE[:MIB] + b"edited here" + LARGE[MIB:-11]
        for content in (another, another[: 5 * MIB]):
            sink = Memory()

            assert await a.fetcher.fetch_large(FOLDER, ref, sink, [Piece(content, old)])

            assert sink.content == b"!" + LARGE

        assert a.fetcher.wrongs[b.agent] <= 1

    simulate(story)


def test_old_piece_that_changes_meanwhile_does_no_harm() -> None:
    class Changing(Piece):
        reads = 0

        def read(self, offset: int, length: int) -> bytes:
            self.reads += 1
            content = super().read(offset, length)
            return bytes(len(content)) if self.reads > 3 else content

    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        (ref,) = b.replica.keep(LARGE)
        await meet(tasks, a, [b])
        sink = Memory()

        assert await a.fetcher.fetch_large(FOLDER, ref, sink, [Changing(LARGE)])

        assert sink.content == LARGE

    simulate(story)


def test_longer_partial_of_something_else_is_not_taken_for_right() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        (ref,) = b.replica.keep(LARGE)
        await meet(tasks, a, [b])
        sink = Memory()
        sink.content += bytes(len(LARGE) + 1)

        assert not await a.fetcher.fetch_large(FOLDER, ref, sink)

    simulate(story)


def test_error_of_the_sink_is_the_callers() -> None:
    class Full(Memory):
        def write(self, offset: int, *pieces: Buffer) -> None:
            raise Malformed("disk", "full")

    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        (ref,) = b.replica.keep(LARGE)
        await meet(tasks, a, [b])

        with pytest.raises(Malformed, match="full"):
            await a.fetcher.fetch_large(FOLDER, ref, Full())

    simulate(story)


def test_cancelled_fetch_leaves_nothing_under_way() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        (ref,) = b.replica.keep(LARGE)
        refs = b.replica.keep(*small_contents(500))
        await meet(tasks, a, [b])
        session = a.sessions.session(b.agent)
        assert session is not None

        for turns in range(0, 60, 7):
            fetching = asyncio.ensure_future(a.fetcher.fetch_large(FOLDER, ref, Memory()))
            small = asyncio.ensure_future(a.fetcher.fetch_small(FOLDER, refs))
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in (fetching, small):
                task.cancel()
            await asyncio.wait([fetching, small])
            assert session.lane.waiting == 0
        await asyncio.sleep(1)

        assert await a.fetcher.fetch_large(FOLDER, ref, Memory())

    simulate(story)


def test_rate_limits_are_kept() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        b.sessions.upload.change(MIB)
        (ref,) = b.replica.keep(LARGE)
        await meet(tasks, a, [b])
        began_s = asyncio.get_running_loop().time()
        await a.fetcher.fetch_large(FOLDER, ref, Memory())
        assert 7 < asyncio.get_running_loop().time() - began_s < 12

        b.sessions.upload.change(None)
        a.fetcher.download.change(2 * MIB)
        began_s = asyncio.get_running_loop().time()
        await a.fetcher.fetch_large(FOLDER, ref, Memory())
        assert 3 < asyncio.get_running_loop().time() - began_s < 6

    simulate(story)


def test_rate_limit_lets_everything_pass_without_a_rate() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        await RateLimit().take(10**12)

    assert simulate(story) == 0


def test_small_save_is_not_delayed_by_a_large_transfer() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        b.sessions.upload.change(MIB)
        (ref,) = b.replica.keep(LARGE)
        await meet(tasks, a, [b])
        fetching = tasks.create_task(a.fetcher.fetch_large(FOLDER, ref, Memory()))
        await asyncio.sleep(2)

        signed = b.write(b"\x91\x01")
        await asyncio.sleep(0.05)

        assert signed.id in a.batches
        assert not fetching.done()
        assert await fetching

    simulate(story)
