"""Show that a cancelled task ends although an error came at the same moment."""

from __future__ import annotations

import asyncio

import pytest

from peers.cancelling import check_cancelled


async def test_cancellation_beside_a_failure_is_not_lost() -> None:
    failing = asyncio.Event()

    async def fail() -> None:
        await failing.wait()
        raise ValueError

    async def live_on() -> str:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(fail())
        except* ValueError:
            check_cancelled()
        return "zombie"

    task = asyncio.create_task(live_on())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    failing.set()
    await asyncio.sleep(0)  # the failure is under way
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_alone_is_no_cancellation() -> None:
    check_cancelled()
