"""Hold what runs beside the loop: order, and that nothing is taken from under what still runs."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from daemon.core import ThreadRunner
from daemon.disk import Disk
from tests.daemon.working import alone


async def test_settle_waits_for_what_nobody_waits_for_any_more() -> None:
    runner = ThreadRunner("test-pool", 2)
    release, begun, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        release.wait(10)
        ended.set()

    try:
        task = asyncio.create_task(runner.run(work))
        await runner.run(begun.wait, 10)
        task.cancel()
        await asyncio.wait([task])
        settling = asyncio.create_task(runner.settle())
        await runner.run(int)  # whatever comes later is not waited for

        assert not settling.done()
        release.set()
        await settling

        assert ended.is_set()
        assert task.cancelled()
    finally:
        runner.close()


async def test_a_folder_that_stops_holds_its_files_until_no_thread_touches_them(
    tmp_path: Path,
) -> None:
    """Its descriptors, reused by another file, would let a thread write somewhere else."""
    pool = ThreadRunner("test-pool", 2)
    release, begun = threading.Event(), threading.Event()
    order: list[str] = []

    def slow(disk: Disk) -> None:
        begun.set()
        release.wait(10)
        disk.check_root()
        order.append("read")

    async with alone(tmp_path, pool=pool) as node:
        disk = node.work.disk
        assert disk is not None
        reading = asyncio.create_task(pool.run(slow, disk))
        await pool.run(begun.wait, 10)
        stopping = asyncio.create_task(node.node.folders.stop(node.work.folder))
        while node.node.works or node.node.replica.folders_shared_with(node.key.agent):
            await asyncio.sleep(0)
        stopping.add_done_callback(lambda _: order.append("stopped"))
        release.set()
        await stopping
        await reading
    pool.close()

    assert order == ["read", "stopped"]
