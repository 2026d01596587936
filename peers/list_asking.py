"""Ask peers for chunk lists and differences, and take the first answer.

Peers are asked one after the other; where one takes long the next is asked as well, so that a
peer that is slow with a list, or never tells it, holds up nothing for long.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, TypeVar

from peers.asks import ChunksAsk, DifferenceAsk
from peers.cancelling import TaskGroup
from peers.lane import IDLE_S, Lane

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from peers.sources import Sources
    from peers.wire import ChunkLine, Stretch
    from store.ids import AgentId, BlobHash, FolderId
    from store.records import BlobRef

LIST_BYTES_PER_S: Final = 25 * 1024 * 1024  # a slow peer works a chunk list out at this rate
NEXT_AFTER_S: Final = 5.0  # another peer is asked as well

T = TypeVar("T")


async def ask_for_list(sources: Sources, folder: FolderId, ref: BlobRef) -> list[ChunkLine] | None:
    """Give a content's chunk list, as some peer tells it; None if nobody does."""

    async def question(lane: Lane) -> list[ChunkLine] | None:
        ask = ChunksAsk(folder, ref)
        return ask.lines if await _hear(lane, ask, ref.size) and ask.is_right else None

    return await _first(sources, folder, question, ())


async def ask_for_difference(
    sources: Sources, folder: FolderId, ref: BlobRef, old: BlobHash, but: Collection[AgentId]
) -> tuple[AgentId, list[Stretch]] | None:
    """Say how a content differs from an older one, and which peer tells it; `but` these."""

    async def question(lane: Lane) -> tuple[AgentId, list[Stretch]] | None:
        ask = DifferenceAsk(folder, ref, old)
        return (lane.agent, ask.stretches) if await _hear(lane, ask, ref.size) else None

    return await _first(sources, folder, question, but)


async def _first(
    sources: Sources,
    folder: FolderId,
    question: Callable[[Lane], Awaitable[T | None]],
    but: Collection[AgentId],
) -> T | None:
    peers = await sources.lanes(folder, is_bulk=True)
    waiting = deque(lanes for lanes in peers if lanes[0].agent not in but)
    asking: list[asyncio.Task[T | None]] = []
    async with TaskGroup() as tasks:
        try:
            while waiting or asking:
                if waiting:
                    asking.append(tasks.create_task(_ask_peer(waiting.popleft(), question)))
                await asyncio.wait(
                    asking,
                    timeout=NEXT_AFTER_S if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in [task for task in asking if task.done()]:
                    asking.remove(task)
                    if (answer := task.result()) is not None:
                        return answer
        finally:
            for task in asking:
                task.cancel()
    return None


async def _ask_peer(
    lanes: Sequence[Lane], question: Callable[[Lane], Awaitable[T | None]]
) -> T | None:
    """Ask a peer on one lane, and on another one where the first ends meanwhile."""
    for lane in lanes:
        answer = await question(lane)
        if answer is not None or lane.is_open:
            return answer
    return None


async def _hear(lane: Lane, ask: ChunksAsk | DifferenceAsk, size: int) -> bool:
    """Put a question until all parts of the answer are here; False if one will not come."""
    while not ask.is_whole:
        number = lane.ask(ask)
        try:
            async with asyncio.timeout(IDLE_S + size / LIST_BYTES_PER_S):
                if not await ask.wait():
                    return False
        except TimeoutError:
            return False
        finally:
            lane.cancel(number)
    return True
