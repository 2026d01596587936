"""FrameStream and TLS over a network that cuts where it likes, without any socket."""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING, cast

import pytest

from peers import certificate
from peers.handshake import HELLO_LIMIT_BYTES
from peers.link import FRAME_LIMIT_BYTES, LinkClosed
from peers.stream import FrameStream
from peers.tls import TlsPipe
from tests.peers.meeting import make_identity

if TYPE_CHECKING:
    from peers.framing import Buffer


class Wire(asyncio.Transport):
    """Keeps what one side wrote until it is delivered."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.is_reading_now = True
        self.is_cut = False

    def write(self, data: object) -> None:
        self.written += cast("bytes", data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0  # the network takes all of it

    def pause_reading(self) -> None:
        self.is_reading_now = False

    def resume_reading(self) -> None:
        self.is_reading_now = True

    def is_closing(self) -> bool:
        return self.is_cut

    def close(self) -> None:
        self.is_cut = True

    abort = close


class Pair:
    """Two streams, and what is on its way between them."""

    def __init__(self, seed: int) -> None:
        key = make_identity(1).key
        server = certificate.server_context(certificate.issue(key))
        self.random = random.Random(seed)
        self.host = FrameStream(TlsPipe(server, is_server=True))
        self.caller = FrameStream(TlsPipe(certificate.client_context(), is_server=False))
        self.wires = {self.host: Wire(), self.caller: Wire()}
        for stream, wire in self.wires.items():
            stream.connection_made(wire)

    async def begin(self, *, is_bulk: bool) -> None:
        begun = [asyncio.create_task(stream.begin()) for stream in self.wires]
        while not all(task.done() for task in begun):
            self.deliver()
            await asyncio.sleep(0)
        for task in begun:
            task.result()
        for stream in self.wires:
            stream.open_wide(is_bulk=is_bulk)

    def deliver(self, most_bytes: int = 400_000) -> bool:
        """Bring a piece of any length over in each direction; whether anything moved."""
        moved = 0
        for source, target in ((self.host, self.caller), (self.caller, self.host)):
            out = self.wires[source].written
            if not self.wires[target].is_reading_now:
                continue
            room = target.get_buffer(-1)
            count = min(self.random.choice([1, 5, 40, 17_000, most_bytes]), len(out), len(room))
            if count:
                room[:count] = out[:count]
                del out[:count]
                target.buffer_updated(count)
                moved += count
        return bool(moved)


@pytest.mark.parametrize("is_bulk", [False, True])
@pytest.mark.parametrize("seed", range(6))
async def test_frames_arrive_whole_however_the_network_cuts_them(
    seed: int, *, is_bulk: bool
) -> None:
    pair = Pair(seed)
    await pair.begin(is_bulk=is_bulk)
    lengths = [1, 32_763, 32_764, 32_765, 40_000, FRAME_LIMIT_BYTES, FRAME_LIMIT_BYTES - 1]
    frames = [
        os.urandom(8).ljust(length, bytes((number % 251,)))
        for number, length in enumerate(
            pair.random.choices([*lengths, pair.random.randint(1, FRAME_LIMIT_BYTES)], k=60)
        )
    ]
    for frame in frames:
        await pair.caller.send(frame)

    received: list[Buffer] = []
    async with asyncio.timeout(20):
        while len(received) < len(frames):
            while pair.deliver() and pair.random.random() < 0.8:
                pass
            receiving = asyncio.create_task(pair.host.receive())
            while not receiving.done():
                pair.deliver()
                await asyncio.sleep(0)
            received.append(receiving.result())

    assert received == frames  # every one still as it came


async def test_frame_that_is_kept_keeps_twice_its_bytes_at_most() -> None:
    pair = Pair(1)
    await pair.begin(is_bulk=True)
    lengths = [32_800, 100_000, FRAME_LIMIT_BYTES // 2 + 1, 200_000, FRAME_LIMIT_BYTES]

    kept: list[Buffer] = []
    for length in lengths:
        await pair.caller.send(bytes(length))
        receiving = asyncio.create_task(pair.host.receive())
        while not receiving.done():
            pair.deliver()
            await asyncio.sleep(0)
        kept.append(receiving.result())

    held = [memoryview(memoryview(frame).obj).nbytes for frame in kept]
    assert list(map(len, kept)) == lengths
    assert all(most <= 2 * length for most, length in zip(held, lengths, strict=True)), held


async def test_A1_what_comes_early_in_a_hello_is_not_taken_out_of_tls() -> None:
    pair = Pair(1)
    begun = [asyncio.create_task(stream.begin()) for stream in pair.wires]
    while not all(task.done() for task in begun):
        pair.deliver()
        await asyncio.sleep(0)
    for _ in range(20):
        await pair.caller.send(bytes(HELLO_LIMIT_BYTES))

    while pair.deliver():
        pass

    assert pair.host.received_bytes <= 2 * (HELLO_LIMIT_BYTES + 4)
    assert not pair.wires[pair.host].is_reading_now
    for _ in range(20):
        while pair.deliver():
            pass
        assert len(await pair.host.receive()) == HELLO_LIMIT_BYTES


async def test_stream_that_is_lost_while_it_begins_says_so() -> None:
    pair = Pair(2)
    begun = asyncio.create_task(pair.caller.begin())
    await asyncio.sleep(0)

    pair.caller.connection_lost(None)

    with pytest.raises(ConnectionResetError):
        await begun
    with pytest.raises(LinkClosed):
        await pair.caller.send(b"x")


@pytest.mark.parametrize("seed", range(4))
def test_content_is_never_counted_as_what_tls_says_for_itself(seed: int) -> None:
    rng = random.Random(seed)
    server = certificate.server_context(certificate.issue(make_identity(1).key))
    host = TlsPipe(server, is_server=True)
    caller = TlsPipe(certificate.client_context(), is_server=False)
    for _ in range(3):
        caller.take_in(host.take_out())
        caller.shake_hands()
        host.take_in(caller.take_out())
        host.shake_hands()

    on_its_way, room = bytearray(), memoryview(bytearray(300_000))
    for _ in range(3000):
        caller.write(bytes(rng.choice([1, 4, 4, 4, 30, 5000, 16_384, 16_385, 200_000])))
        on_its_way += caller.take_out()
        while len(on_its_way) > rng.choice([0, 100, 40_000]):
            count = rng.choice([1, 20, 3000, 16_406, 32_768, 100_000])
            host.take_in(on_its_way[:count])
            del on_its_way[:count]
            while host.read_into(size := room[: rng.choice([1, 5, 30_000, 300_000])]) == len(size):
                pass
            assert 0 <= host.beside_bytes <= 16_406
