"""Take in the batches that one peer brings: verify them, admit them, pass them on.

What waits to be taken in is bounded; who fills it waits. Batches that are bad are counted, and a
peer that sends too many of them is struck. It keeps no batch and sends no answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from blake3 import blake3
from msgspec import Struct

from peers import wire
from peers.exchange import Strikes
from peers.lane import loop_time_s
from peers.parts import INLINE_VERIFY_BYTES, verify_all
from store.ids import BlobHash, FolderId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peers.session import Session
    from peers.sessions import Sessions
    from store.signing import SignedBatch

WAITING_LIMIT_BYTES: Final = 12 * 1024 * 1024
HARMLESS: Final = frozenset({"pending-full", "parent-refused"})


class Struck(Exception):
    """The peer broke the rules once too often, or in a way that nothing mends."""


class _Delivery(Struct, gc=False):
    """Batches that arrived and wait to be taken in."""

    folder: FolderId
    batches: tuple[wire.PackedBatch, ...]
    contents: dict[BlobHash, bytes]
    size: int
    answer: wire.Batches | None


class Inbox:
    """The batches of one session on their way in."""

    def __init__(self, session: Session, sessions: Sessions) -> None:
        """Take in for one session what concerns all of them."""
        self._session = session
        self._agent = session.agent
        self._sessions = sessions
        self._replica = sessions.replica
        self._runner = sessions.runner
        self._strikes = Strikes()
        self._waiting: deque[_Delivery] = deque()
        self._waiting_bytes = 0
        self._taking: FolderId | None = None
        self._to_ask: set[FolderId] = set()
        self._changed = asyncio.Event()

    async def take_news(self, message: wire.News) -> None:
        """Take batches that were pushed, with the contents that came along; wait for room."""
        folder = FolderId(message.folder)
        if not self._session.shares(folder):
            self._sessions.rejected["unknown-folder"] += 1
            return
        contents: dict[BlobHash, bytes] = {}
        room_bytes = wire.INLINE_LIMIT_BYTES
        for one in message.contents:
            room_bytes -= len(one.content)
            if room_bytes < 0:
                break
            if blake3(one.content).digest() == one.hash:
                contents[BlobHash(one.hash)] = one.content
            else:
                self._sessions.fetcher.wrong(self._agent)
        await self._deliver(folder, message.batches, contents, None)

    async def take_answer(self, message: wire.Batches) -> None:
        """Take a part of an answer, if it was asked for; wait for room."""
        folder = FolderId(message.folder)
        exchange = self._sessions.exchange(folder) if self._session.shares(folder) else None
        if exchange is None or not exchange.is_asked(message.request, self._agent):
            self._sessions.rejected["unasked"] += 1
            return
        await self._deliver(folder, message.batches, {}, message)

    async def _deliver(
        self,
        folder: FolderId,
        batches: tuple[wire.PackedBatch, ...],
        contents: dict[BlobHash, bytes],
        answer: wire.Batches | None,
    ) -> None:
        size = sum(one.inflated_size or len(one.body) for one in batches)
        while self._waiting and self._waiting_bytes + size > WAITING_LIMIT_BYTES:
            self._changed.clear()
            await self._changed.wait()
        self._waiting.append(_Delivery(folder, batches, contents, size, answer))
        self._waiting_bytes += size
        self._changed.set()

    async def run(self) -> None:
        """Take in one delivery after the other, until cancelled. Raises Struck."""
        while True:
            while not self._waiting:
                self._changed.clear()
                await self._changed.wait()
            delivery = self._waiting.popleft()
            self._taking = delivery.folder
            await self._take_in(delivery)
            self._taking = None
            self._waiting_bytes -= delivery.size
            self._changed.set()
            if delivery.folder in self._to_ask:
                await self.ask_after_all(delivery.folder)

    async def ask_after_all(self, folder: FolderId) -> None:
        """Ask for what this node lacks of a folder once all that came before is taken in."""
        if folder == self._taking or any(one.folder == folder for one in self._waiting):
            self._to_ask.add(folder)
            return
        self._to_ask.discard(folder)
        await self._sessions.ask(folder)

    async def _take_in(self, delivery: _Delivery) -> None:
        """Verify, ask on, admit, pass on."""
        if delivery.size <= INLINE_VERIFY_BYTES:
            proven, bad = verify_all(delivery.batches)
        else:
            proven, bad = await self._runner.run(verify_all, delivery.batches)
        self._strike(bad)
        tips = self._session.tips(delivery.folder)
        if tips is None:
            return
        exchange = self._sessions.exchange(delivery.folder)
        is_going_on = False
        if delivery.answer is not None:
            is_going_on = self._go_on(delivery.folder, delivery.answer, proven)
        else:
            exchange.pushed(self._agent, proven, loop_time_s())
        tips.came(proven)
        self._sessions.fetcher.offer(delivery.contents)
        # Part of a log would be in the way of the snapshot; what is thrown away is asked for again.
        if proven and not self._sessions.beginnings.is_under_way(delivery.folder):
            await self._admit(delivery, proven)
        if delivery.answer is not None and delivery.answer.is_last and not is_going_on:
            exchange.settled(delivery.answer.request, self._agent)
            await self._sessions.ask(delivery.folder)

    def _go_on(self, folder: FolderId, answer: wire.Batches, proven: Sequence[SignedBatch]) -> bool:
        """Ask for the rest of an answer before this part of it is taken in."""
        exchange = self._sessions.exchange(folder)
        is_forward = exchange.answered(answer.request, self._agent, proven, loop_time_s())
        if not (answer.is_last and answer.has_more and is_forward):
            return False
        ask = exchange.follow_up(answer.request)
        if ask is None:
            return False
        self._session.get(folder, ask)
        return True

    async def _admit(self, delivery: _Delivery, proven: Sequence[SignedBatch]) -> None:
        folder = delivery.folder
        admitted = await self._replica.admit(folder, self._agent, proven)
        exchange = self._sessions.exchange(folder)
        had_missing = exchange.missing
        exchange.stored(admitted.stored)
        exchange.waits_for(self._agent, admitted.missing)
        # what waited may have come from others: then nobody is struck for what is refused now
        self._strike(admitted.refused, is_harmless=bool(had_missing))
        if admitted.stored:
            self._sessions.relay(folder, admitted.stored, self._agent, delivery.contents)
        elif proven:
            self._session.announce_heads(folder)  # it may not know that we have these
        if exchange.missing or had_missing:
            await self._sessions.ask(folder)

    def _strike(self, reasons: dict[str, int], *, is_harmless: bool = False) -> None:
        for reason, number in reasons.items():
            self._sessions.rejected[reason] += number
            if is_harmless or reason in HARMLESS:
                continue
            if self._strikes.add(number):
                raise Struck(f"sent bad batches: {reason}")
