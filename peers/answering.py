"""Answer a peer's questions for batches, one after the other, as far as it may read the folder.

An answer is bounded, and so are the questions that wait: what comes beyond is passed over, since
the peer asks again. Nothing is read faster than the link takes it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from peers import heads, wire
from peers.outbox import Outbox, Rank
from peers.packing import pack
from peers.parts import INLINE_VERIFY_BYTES, PART_LIMIT_BYTES, divided, extent
from store.ids import AgentId, FolderId

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from peers.replica import Replica, Runner
    from store.signing import WireBatch

ANSWER_LIMIT_BYTES: Final = 8 * 1024 * 1024  # batches in the answer to one Get
GETS_LIMIT: Final = 64  # questions of the peer that wait


class BatchServer:
    """What answers the questions of one peer."""

    def __init__(
        self,
        agent: AgentId,
        replica: Replica,
        runner: Runner,
        outbox: Outbox,
        *,
        shares: Callable[[FolderId], bool],
    ) -> None:
        """`shares` tells whether both sides share a folder by now."""
        self._agent = agent
        self._replica = replica
        self._runner = runner
        self._outbox = outbox
        self._shares = shares
        self._gets: deque[wire.Get] = deque()
        self._get_came = asyncio.Event()

    def take(self, get: wire.Get) -> None:
        """Take a question; with too many waiting it is passed over."""
        if len(self._gets) < GETS_LIMIT:
            self._gets.append(get)
            self._get_came.set()

    async def run(self) -> None:
        """Answer one question after the other, for ever."""
        while True:
            while not self._gets:
                self._get_came.clear()
                await self._get_came.wait()
            await self._answer(self._gets.popleft())

    async def _answer(self, get: wire.Get) -> None:
        folder = FolderId(get.folder)
        await self._outbox.room(Rank.LOG)
        if not (self._shares(folder) and self._replica.may_read(self._agent, folder)):
            self._outbox.put(Rank.LOG, wire.Batches(get.request, folder, (), True, False))  # noqa: FBT003
            return
        left_bytes = min(get.limit_bytes, ANSWER_LIMIT_BYTES)
        ranges, ids = get.ranges, get.ids
        while True:
            await self._outbox.room(Rank.LOG)
            found, has_more = await self._replica.read_batches(
                folder, ranges, ids, PART_LIMIT_BYTES
            )
            left_bytes -= sum(len(one.body) for one in found)
            through, given = extent(found)
            ranges, ids = heads.narrowed(ranges, through), heads.without(ids, given)
            is_last = not has_more or left_bytes <= 0 or not found or not (ranges or ids)
            parts = divided(found) or [[]]
            for number, part in enumerate(parts, 1):
                is_end = is_last and number == len(parts)
                packed = await self._pack(part)
                self._outbox.put(
                    Rank.LOG,
                    wire.Batches(get.request, folder, packed, is_end, is_end and has_more),
                )
            if is_last:
                return

    async def _pack(self, batches: Sequence[WireBatch]) -> tuple[wire.PackedBatch, ...]:
        if sum(len(one.body) for one in batches) <= INLINE_VERIFY_BYTES:
            return tuple(pack(one) for one in batches)
        return await self._runner.run(lambda: tuple(pack(one) for one in batches))
