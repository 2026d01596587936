"""Show that a cancelled task ends although an error came at the same moment."""

from __future__ import annotations

import asyncio

import pytest

from peers.cancelling import TaskGroup


async def _fail(failing: asyncio.Event) -> None:
    await failing.wait()
    raise ValueError


async def _rest() -> None:
    """Let every task go on as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("turns", range(5))
async def test_cancellation_beside_a_failure_is_not_lost(turns: int) -> None:
    failing = asyncio.Event()

    async def live_on() -> str:
        try:
            async with TaskGroup() as tasks:
                tasks.create_task(_fail(failing))
        except* ValueError:
            pass
        await asyncio.Event().wait()  # a zombie
        return "zombie"

    task = asyncio.create_task(live_on())
    await _rest()
    failing.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()

    async with asyncio.timeout(1):
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("is_inside", [False, True])
async def test_a_failure_alone_leaves_no_cancellation_behind(is_inside: bool) -> None:
    failing = asyncio.Event()

    async def live_on() -> int:
        for _ in range(2):
            try:
                async with TaskGroup() as tasks:
                    tasks.create_task(_fail(failing))
                    if is_inside:
                        await asyncio.Event().wait()
            except* ValueError:
                pass
        task = asyncio.current_task()
        return -1 if task is None else task.cancelling()

    task = asyncio.create_task(live_on())
    await _rest()
    failing.set()

    assert await task == 0


async def test_a_group_in_a_group_fails_alone() -> None:
    failing = asyncio.Event()
    failing.set()

    async with TaskGroup() as outer:
        for _ in range(3):
            try:
                async with TaskGroup() as inner:
                    inner.create_task(_fail(failing))
            except* ValueError:
                pass
        assert not outer._aborting  # type: ignore[attr-defined]
