"""Show that links are what TCP gives unless a test asks for worse, and that seeds repeat."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from peers.link import LinkClosed
from store.ids import AgentId
from tests.sim.loop import VirtualLoop, run
from tests.sim.net import Path, Said, SimNet, Unreachable

if TYPE_CHECKING:
    from peers.link import Link

A = Said(agent=AgentId(b"a" * 32))
B = Said(agent=AgentId(b"b" * 32), label=b"desk")


async def connect(loop: VirtualLoop, path: Path | None = None) -> tuple[SimNet, Link, Link]:
    net = SimNet(loop, loop.random)
    net.normal = path or Path()
    accepted: list[Link] = []
    net.listen("b", B, accepted.append)
    near = await net.dial("a", A, "b", expected=B.agent)
    return net, near, accepted[0]


async def all_of(link: Link) -> list[bytes]:
    frames = []
    try:
        while True:
            frames.append(bytes(await link.receive()))
    except LinkClosed:
        return frames


async def send_numbers(link: Link, count: int) -> None:
    for number in range(count):
        await link.send(b"%d" % number)
    await link.close()


NUMBERS = [b"%d" % number for number in range(200)]


def test_link_knows_who_is_at_the_other_end() -> None:
    async def main(loop: VirtualLoop) -> None:
        _, near, far = await connect(loop)

        assert (near.agent, far.agent) == (B.agent, A.agent)
        assert (near.is_dialler, far.is_dialler) == (True, False)
        assert near.label == b"desk"
        assert near.rtt_s > 0

    run(main, 1)


def test_frames_arrive_in_order_and_before_the_goodbye() -> None:
    async def main(loop: VirtualLoop) -> list[bytes]:
        _, near, far = await connect(loop)
        async with asyncio.TaskGroup() as group:
            group.create_task(send_numbers(near, 200))
            reading = group.create_task(all_of(far))
        return reading.result()

    for seed in range(20):
        assert run(main, seed)[0] == NUMBERS


@pytest.mark.parametrize(
    ("path", "is_right"),
    [
        (Path(loss=0.3), lambda got: 0 < len(got) < 200 and got == sorted(got, key=int)),
        (Path(duplicate=0.3), lambda got: len(got) > 200 and sorted(set(got), key=int) == NUMBERS),
        (Path(reorder=0.3), lambda got: got != NUMBERS and len(got) > 100),
        (Path(break_rate=0.05), lambda got: got == NUMBERS[: len(got)] and len(got) < 200),
    ],
)
def test_worse_weather_does_what_it_says(path: Path, is_right: object) -> None:
    async def main(loop: VirtualLoop) -> list[bytes]:
        _, near, far = await connect(loop, path)
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(send_some(near))
            reading = group.create_task(all_of(far))
        del sending
        return reading.result()

    async def send_some(link: Link) -> None:
        try:
            await send_numbers(link, 200)
        except LinkClosed:
            return

    got = run(main, 3)[0]

    assert callable(is_right)
    assert is_right(got)


def test_bandwidth_and_latency_take_their_time() -> None:
    async def main(loop: VirtualLoop) -> float:
        path = Path(latency_s=2, jitter_s=0, bytes_per_s=1000)
        _, near, far = await connect(loop, path)
        began_s = loop.time()
        await near.send(bytes(5000))
        await far.receive()
        return loop.time() - began_s

    assert run(main, 1)[0] == pytest.approx(7.0)


def test_cut_breaks_links_and_refuses_until_healed() -> None:
    async def main(loop: VirtualLoop) -> None:
        net, near, far = await connect(loop)
        net.cut("a", "b")

        with pytest.raises(LinkClosed):
            await far.receive()
        with pytest.raises(LinkClosed):
            await near.send(b"x")
        with pytest.raises(Unreachable):
            await net.dial("a", A, "b")
        net.heal("a", "b")
        await net.dial("a", A, "b")

    run(main, 1)


def test_H3_stalled_direction_holds_back_and_the_other_goes_on() -> None:
    async def main(loop: VirtualLoop) -> tuple[bytes, float]:
        net, near, far = await connect(loop)
        net.stall("a", "b")
        await near.send(b"late")
        await far.send(b"back")
        assert await near.receive() == b"back"
        loop.call_later(60, net.heal, "a", "b")
        return bytes(await far.receive()), loop.time()

    frame, at_s = run(main, 1)[0]

    assert frame == b"late"
    assert at_s >= 60


def test_sender_waits_when_nobody_receives() -> None:
    async def main(loop: VirtualLoop) -> int:
        _, near, _ = await connect(loop)
        sent = 0
        try:
            async with asyncio.timeout(100):
                while True:
                    await near.send(bytes(100_000))
                    sent += 1
        except TimeoutError:
            return sent

    assert run(main, 1)[0] < 20


def test_leaving_breaks_links_and_another_agent_is_refused() -> None:
    async def main(loop: VirtualLoop) -> None:
        net, near, _ = await connect(loop)
        with pytest.raises(Unreachable):
            await net.dial("a", A, "b", expected=A.agent)
        net.leave("b")
        with pytest.raises(LinkClosed):
            await near.receive()

    run(main, 1)


def test_flapping_ends_healed_and_same_seed_same_trace() -> None:
    async def main(loop: VirtualLoop) -> None:
        net, _, _ = await connect(loop, replace(Path(), jitter_s=0.01))
        await net.flap("a", "b", every_s=0.1, times=5)
        near = await net.dial("a", A, "b")
        await near.send(b"x")
        await asyncio.sleep(1)

    assert run(main, 5)[1].digest() == run(main, 5)[1].digest()
    assert run(main, 5)[1].digest() != run(main, 6)[1].digest()
