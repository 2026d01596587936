"""Show that virtual time is exact, repeatable, and tells when nothing can happen any more."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.sim.loop import Clock, Deadlock, Livelock, SimRunner, VirtualLoop, run


def test_sleeping_for_years_takes_no_time() -> None:
    async def main(loop: VirtualLoop) -> float:
        loop.time_limit_s = 1e12
        await asyncio.sleep(3e8)
        return loop.time()

    started = time.perf_counter()
    seconds, _ = run(main, 1)

    assert seconds == 3e8
    assert time.perf_counter() - started < 5


def test_deadlock_names_the_task_that_waits() -> None:
    async def waits_for_ever(_loop: VirtualLoop) -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match="waits_for_ever"):
        run(waits_for_ever, 1)


def test_livelock_is_told_when_time_runs_away() -> None:
    async def main(loop: VirtualLoop) -> None:
        loop.time_limit_s = 100
        for _ in range(200):
            await asyncio.sleep(1)

    with pytest.raises(Livelock):
        run(main, 1)


def test_a_thread_is_refused() -> None:
    async def main(_loop: VirtualLoop) -> None:
        await asyncio.to_thread(print)

    with pytest.raises(RuntimeError, match="Runner"):
        run(main, 1)


def test_same_seed_same_trace_and_another_seed_another() -> None:
    async def main(loop: VirtualLoop) -> None:
        async def worker(name: bytes) -> None:
            for _ in range(20):
                await asyncio.sleep(loop.random.random())
                loop.trace.fold(name + str(loop.time()).encode())

        async with asyncio.TaskGroup() as group:
            for name in (b"a", b"b", b"c"):
                group.create_task(worker(name))

    first, again, other = run(main, 7)[1], run(main, 7)[1], run(main, 8)[1]

    assert first.digest() == again.digest()
    assert first.digest() != other.digest()


def test_timeout_counts_virtual_seconds() -> None:
    async def main(loop: VirtualLoop) -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.sleep(9)
        return loop.time()

    assert run(main, 1)[0] == 5


def test_serial_runner_keeps_order_and_a_pool_does_not() -> None:
    async def main(loop: VirtualLoop) -> tuple[list[int], list[int]]:
        serial: list[int] = []
        pooled: list[int] = []
        core = SimRunner(loop, loop.random, serial=True)
        pool = SimRunner(loop, loop.random, serial=False)
        await asyncio.gather(*(core.run(serial.append, n) for n in range(20)))
        await asyncio.gather(*(pool.run(pooled.append, n) for n in range(20)))
        return serial, pooled

    (serial, pooled), _ = run(main, 3)

    assert serial == list(range(20))
    assert sorted(pooled) == serial
    assert pooled != serial


def test_work_goes_on_when_its_waiter_is_cancelled() -> None:
    async def main(loop: VirtualLoop) -> list[int]:
        done: list[int] = []
        core = SimRunner(loop, loop.random, serial=True)
        waiter = loop.create_task(core.run(done.append, 1))
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.sleep(1)
        return done

    assert run(main, 1)[0] == [1]


def test_clock_jumps_without_moving_durations() -> None:
    async def main(loop: VirtualLoop) -> tuple[int, float]:
        clock = Clock(loop)
        before = clock.now_ns()
        clock.jump(-(10**18))
        await asyncio.sleep(1)
        return clock.now_ns() - before, clock.monotonic_s()

    assert run(main, 1)[0] == (10**9 - 10**18, 1.0)
