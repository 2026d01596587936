"""Hold what is to be sent over one link, control before log before data.

It never sends by itself and never drops: who fills it asks first whether there is room. What
cannot wait does not ask; where so much of it comes together that the other side cannot be
reading, the link is over. A long log leaves every eighth frame to contents, so that they do not
wait for its end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import IntEnum
from typing import Final

from peers import wire
from peers.link import LinkClosed


class Rank(IntEnum):
    """What goes first; frames of several ranks mix, so none waits for a whole message."""

    CONTROL = 0
    LOG = 1
    DATA = 2


LOG_FRAMES: Final = 7  # in a row, while contents wait
ROOM_BYTES: Final = 4 * 1024 * 1024  # of one rank, before its sources wait
FULL_BYTES: Final = 16 * 1024 * 1024  # of one rank: whoever reads at all has not so much before it
FRAME_COST_BYTES: Final = 128  # what Python keeps for a frame beside its bytes


class Outbox:
    """The frames of one link in the order in which they leave."""

    def __init__(self) -> None:
        """Begin empty."""
        self._queues: tuple[deque[bytes], ...] = (deque(), deque(), deque())
        self._waiting_bytes = [0, 0, 0]
        self._put_frames = [0, 0, 0]
        self._left_frames = [0, 0, 0]
        self._stream = 0
        self._log_frames = 0  # since contents had a turn
        self._error: Exception | None = None
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._failed = asyncio.Event()

    def put(self, rank: Rank, message: wire.Message) -> int:
        """Add a message behind those of its rank; gives its place for left()."""
        if self._error is not None:  # nobody sends any more
            return self._put_frames[rank]
        self._stream = (self._stream + 1) & 0xFFFFFFFF
        for frame in wire.frames(message, self._stream):
            self._queues[rank].append(frame)
            self._waiting_bytes[rank] += len(frame) + FRAME_COST_BYTES
            self._put_frames[rank] += 1
        if self._waiting_bytes[rank] > FULL_BYTES:
            self.fail(LinkClosed("link", "the other side does not read"))
        self._filled.set()
        return self._put_frames[rank]

    def fail(self, error: Exception) -> None:
        """Let failure() raise this; nothing more is kept or sent."""
        if self._error is None:
            self._error = error
        for rank, queue in enumerate(self._queues):
            queue.clear()
            self._waiting_bytes[rank] = 0
        self._failed.set()

    async def failure(self) -> None:
        """Wait until it failed, and raise why: beside who sends, who may wait for the network."""
        await self._failed.wait()
        if self._error is not None:
            raise self._error

    def waiting_bytes(self, rank: Rank) -> int:
        """Say how much memory what has not left yet of a rank costs."""
        return self._waiting_bytes[rank]

    def has_room(self, rank: Rank) -> bool:
        """Whether a source of this rank may go on."""
        return self._waiting_bytes[rank] < ROOM_BYTES

    async def room(self, rank: Rank) -> None:
        """Wait until a source of this rank may go on."""
        while not self.has_room(rank):
            self._emptied.clear()
            await self._emptied.wait()

    async def left(self, rank: Rank, place: int) -> None:
        """Wait until what was put at this place of its rank has left."""
        while self._left_frames[rank] < place:
            self._emptied.clear()
            await self._emptied.wait()

    async def next_frame(self) -> bytes:
        """Wait for the frame that leaves next and take it out."""
        while True:
            rank = self._next_rank()
            if rank is not None:
                frame = self._queues[rank].popleft()
                self._waiting_bytes[rank] -= len(frame) + FRAME_COST_BYTES
                self._left_frames[rank] += 1
                self._emptied.set()
                return frame
            self._filled.clear()
            await self._filled.wait()

    def _next_rank(self) -> Rank | None:
        control, log, contents = self._queues
        if control:
            return Rank.CONTROL
        if log and not (contents and self._log_frames >= LOG_FRAMES):
            self._log_frames += 1
            return Rank.LOG
        self._log_frames = 0
        return Rank.DATA if contents else None
