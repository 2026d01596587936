"""Measure a proven link between two processes on loopback: `python -m tests.bench.links`."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import sys
import time
from typing import TYPE_CHECKING

from peers.address import Address
from peers.link import FRAME_LIMIT_BYTES, Purpose
from tests.peers.meeting import listening, make_dialer, make_identity

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

HOST, CALLER = make_identity(1), make_identity(2)
FRAMES = 4096  # 1 GiB
ROUNDS = 2000


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _receive_all(pipe: Connection) -> None:
    async with listening(HOST) as node:
        node.door.members.add(CALLER.agent)
        pipe.send(node.address.port)
        link = await node.next_link()
        await link.receive()
        started_s, cpu_s = time.perf_counter(), _cpu_s()
        for _ in range(FRAMES):
            await link.receive()
        pipe.send((time.perf_counter() - started_s, _cpu_s() - cpu_s))
        await link.send(b"all")
        for _ in range(ROUNDS):
            await link.send(bytes(await link.receive()))


def _run_receiver(pipe: Connection) -> None:
    asyncio.run(_receive_all(pipe))


async def _send_all(port: int) -> tuple[float, float, float]:
    started_s = time.perf_counter()
    link = await make_dialer(CALLER).dial([Address("127.0.0.1", port)], HOST.agent, Purpose.BULK)
    dialled_s = time.perf_counter() - started_s
    frame = os.urandom(FRAME_LIMIT_BYTES)
    await link.send(b"now")
    cpu_s = _cpu_s()
    for _ in range(FRAMES):
        await link.send(frame)
    await link.receive()
    cpu_s = _cpu_s() - cpu_s
    started_s = time.perf_counter()
    for _ in range(ROUNDS):
        await link.send(frame[:200])
        await link.receive()
    round_s = (time.perf_counter() - started_s) / ROUNDS
    await link.close()
    return dialled_s, cpu_s, round_s


def main() -> None:
    """Print one line of figures."""
    ours, theirs = multiprocessing.Pipe()
    receiver = multiprocessing.Process(target=_run_receiver, args=(theirs,))
    receiver.start()
    dialled_s, sender_cpu_s, round_s = asyncio.run(_send_all(ours.recv()))
    took_s, receiver_cpu_s = ours.recv()
    receiver.join()
    rate = FRAMES * FRAME_LIMIT_BYTES / took_s / 2**20
    sys.stdout.write(
        f"{rate:.0f} MiB/s; CPU a GiB: sender {sender_cpu_s:.2f} s,"
        f" receiver {receiver_cpu_s:.2f} s; 200 bytes there and back {round_s * 1e6:.0f} us;"
        f" dialled in {dialled_s * 1e3:.1f} ms\n"
    )


if __name__ == "__main__":
    main()
