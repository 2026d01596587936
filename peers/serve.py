"""Serve contents to one peer over one link.

Whether the peer may have a content is the replica's to say, and its no sounds like "not here"
(A17, A18). This module keeps no content, opens no file, and reads no more than the peer takes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from peers import wire
from peers.cancelling import TaskGroup
from peers.framing import Assembler
from peers.link import Link, LinkClosed
from peers.list_server import ListServer
from peers.outbox import Outbox, Rank
from peers.wire import (
    Cancel,
    Data,
    NotHave,
    Small,
    SmallContent,
    Want,
    WantChunks,
    WantDifference,
    WantSmall,
)
from store.errors import Malformed
from store.ids import AgentId, BlobHash, FolderId

if TYPE_CHECKING:
    from peers.chunk_lists import ChunkLists
    from peers.limits import RateLimit
    from peers.replica import Replica, Runner
    from peers.work import WorkBudget

WAITING_LIMIT: Final = 64 * 1024  # hashes (and ranges) that wait to be served on one link
LISTS_WAITING_LIMIT: Final = 64
READ_BYTES: Final = 8 * wire.DATA_PIECE_BYTES  # 1.94 MiB a read
SMALL_READ_BYTES: Final = 1024 * 1024  # as much as one question asks for (fetch.GROUP_BYTES)
PACKED_LIMIT_BYTES: Final = wire.SMALL_LIMIT_BYTES  # of contents in one message
REMEMBERED_LIMIT: Final = 10_000
BULK_IDLE_S: Final = 60.0
SEND_PATIENCE_S: Final = 60.0

Remember = Callable[[FolderId, BlobHash, bool], None]


class Remembered:
    """Wants of one peer that could not be served (bounded, the oldest are forgotten)."""

    def __init__(self) -> None:
        """Begin with none."""
        self._wants: OrderedDict[tuple[FolderId, BlobHash], bool] = OrderedDict()

    def add(self, folder: FolderId, blob: BlobHash, is_small: bool) -> None:  # noqa: FBT001
        """Remember a want that was answered not-have."""
        self._wants[folder, blob] = is_small
        self._wants.move_to_end((folder, blob))
        if len(self._wants) > REMEMBERED_LIMIT:
            self._wants.popitem(last=False)

    def take(
        self, folder: FolderId, blobs: Sequence[BlobHash]
    ) -> tuple[list[BlobHash], list[BlobHash]]:
        """Take out those of the blobs that were wanted: small ones, and pieces of large ones."""
        small: list[BlobHash] = []
        large: list[BlobHash] = []
        for blob in blobs:
            is_small = self._wants.pop((folder, blob), None)
            if is_small is not None:
                (small if is_small else large).append(blob)
        return small, large

    def latest(self, folder: FolderId, limit: int) -> list[BlobHash]:
        """List the latest of them in a folder; they stay remembered."""
        wants = reversed(self._wants)
        return list(islice((blob for of, blob in wants if of == folder), limit))

    def __len__(self) -> int:
        """Count them."""
        return len(self._wants)


class BlobServer:
    """Answers the wants that arrive over one link, one after the other."""

    def __init__(
        self,
        agent: AgentId,
        replica: Replica,
        runner: Runner,
        outbox: Outbox,
        *,
        upload: RateLimit,
        lists: ChunkLists,
        remember: Remember,
        budget: WorkBudget,
    ) -> None:
        """Serve `agent` through `outbox`; `remember` gets what is not here.

        Work for short questions is paid from the `budget`.
        """
        self._agent = agent
        self._replica = replica
        self._outbox = outbox
        self._upload = upload
        self._lists = ListServer(agent, replica, runner, lists, budget)
        self._remember = remember
        self._wants: deque[Want | WantSmall] = deque()
        self._waiting = 0
        # An edit does not wait for the list of some huge file to be worked out.
        self._list_wants: dict[type, deque[WantChunks | WantDifference]] = {
            WantChunks: deque(),
            WantDifference: deque(),
        }
        self._cancelled: set[int] = set()
        self._was_small = False  # served last, before its turn
        self._serving = 0  # the request that is answered just now
        self._came = asyncio.Event()
        self._lists_came = {kind: asyncio.Event() for kind in self._list_wants}
        self.dropped = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be served."""
        return not self._wants and not any(self._list_wants.values())

    def accept(self, message: Want | WantSmall | WantChunks | WantDifference | Cancel) -> None:
        """Take a want; one that finds too many before it is refused, and asked again later."""
        if isinstance(message, Cancel):
            self._forget_list(message.request)
            is_known = any(want.request == message.request for want in self._wants)
            if is_known or (message.request and message.request == self._serving):
                self._cancelled.add(message.request)
        elif isinstance(message, WantChunks | WantDifference):
            waiting = self._list_wants[type(message)]
            if len(waiting) < LISTS_WAITING_LIMIT:
                waiting.append(message)
                self._lists_came[type(message)].set()
            else:
                self._refuse(message.request, (message.hash,))
        elif self._waiting + _weight(message) <= WAITING_LIMIT:
            self._waiting += _weight(message)
            self._wants.append(message)
            self._came.set()
        else:
            self._refuse(
                message.request,
                (message.hash,) if isinstance(message, Want) else message.hashes,
            )

    def _refuse(self, request: int, hashes: tuple[bytes, ...]) -> None:
        """Say no where too many wait, so that it is asked again later; a flood gets no answer."""
        self.dropped += 1
        if request and self._outbox.has_room(Rank.CONTROL):
            self._outbox.put(Rank.CONTROL, NotHave(request, hashes))

    def _forget_list(self, request: int) -> None:
        """Leave out a question for a list that is taken back before it is answered."""
        for waiting in self._list_wants.values():
            for want in list(waiting):
                if want.request == request:
                    waiting.remove(want)

    def push(self, folder: FolderId, blobs: Sequence[BlobHash]) -> None:
        """Send small contents that were wanted before they were here."""
        for start in range(0, len(blobs), wire.WANTED_LIMIT):
            hashes = tuple(blobs[start : start + wire.WANTED_LIMIT])
            self.accept(WantSmall(0, folder, hashes))

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._serve_contents())
            for kind in self._list_wants:
                tasks.create_task(self._serve_lists(kind))

    async def _serve_contents(self) -> None:
        while True:
            while not self._wants:
                self._came.clear()
                await self._came.wait()
            want = self._next_want()
            self._waiting -= _weight(want)
            self._serving = want.request
            if want.request in self._cancelled:
                pass
            elif isinstance(want, Want):
                await self._serve_range(want)
            else:
                await self._serve_small(want)
            self._cancelled.discard(want.request)
            self._serving = 0

    def _next_want(self) -> Want | WantSmall:
        """Take out what is served next: small contents first, by turns, if ranges are before them.

        The ranges of large contents that wait may be a minute's work on a slow line.
        """
        first = self._wants[0]
        if isinstance(first, Want) and not self._was_small:
            small = next((want for want in self._wants if isinstance(want, WantSmall)), None)
            if small is not None:
                self._was_small = True
                self._wants.remove(small)
                return small
        self._was_small = False
        return self._wants.popleft()

    async def _serve_range(self, want: Want) -> None:
        folder, blob = FolderId(want.folder), BlobHash(want.hash)
        offset, end = want.offset, want.offset + want.length
        while offset < end:
            await self._outbox.room(Rank.DATA)
            if want.request in self._cancelled:
                return
            size = self._upload.share(min(READ_BYTES, end - offset))
            await self._upload.take(size)
            content = await self._replica.read_blob(self._agent, folder, blob, offset, size)
            if not content:
                self._remember(folder, blob, False)  # noqa: FBT003
                await self._outbox.room(Rank.CONTROL)
                self._outbox.put(Rank.CONTROL, NotHave(want.request, (blob,)))
                return
            view = memoryview(content)
            for start in range(0, len(view), wire.DATA_PIECE_BYTES):
                piece = view[start : start + wire.DATA_PIECE_BYTES]
                self._outbox.put(Rank.DATA, Data(want.request, offset + start, piece))
            offset += len(view)

    async def _serve_small(self, want: WantSmall) -> None:
        folder = FolderId(want.folder)
        hashes = [BlobHash(blob) for blob in want.hashes]
        absent: list[BlobHash] = []
        done = 0
        while done < len(hashes):
            await self._outbox.room(Rank.DATA)
            if want.request in self._cancelled:
                return
            found = await self._replica.read_small(
                self._agent, folder, hashes[done:], SMALL_READ_BYTES
            )
            if not found:
                break
            here = []
            for blob, content in zip(hashes[done:], found, strict=False):
                if content is None:
                    absent.append(blob)
                else:
                    here.append(SmallContent(blob, content))
            done += len(found)
            for packed in packs(here):
                size = sum(len(one.content) for one in packed)
                await self._upload.take(size, may_owe=size <= wire.INLINE_LIMIT_BYTES)
                self._outbox.put(Rank.DATA, Small(want.request, folder, packed))
        absent += hashes[done:]
        for blob in absent:
            self._remember(folder, blob, True)  # noqa: FBT003
        if absent and want.request:
            # behind the data: it ends the answer
            self._outbox.put(Rank.DATA, NotHave(want.request, tuple(absent)))

    async def _serve_lists(self, kind: type) -> None:
        waiting, came = self._list_wants[kind], self._lists_came[kind]
        while True:
            while not waiting:
                came.clear()
                await came.wait()
            want = waiting.popleft()
            answer = await self._lists.answer(want)
            if answer is None:
                await self._outbox.room(Rank.CONTROL)
                self._outbox.put(Rank.CONTROL, NotHave(want.request, (want.hash,)))
                continue
            await self._outbox.room(Rank.DATA)
            self._outbox.put(Rank.DATA, answer)


def packs(contents: Sequence[SmallContent]) -> list[tuple[SmallContent, ...]]:
    """Divide small contents so that each part fits in one message."""
    parts: list[tuple[SmallContent, ...]] = []
    part: list[SmallContent] = []
    size = 0
    for one in contents:
        if part and (
            size + len(one.content) > PACKED_LIMIT_BYTES - 64 * len(part)
            or len(part) >= wire.WANTED_LIMIT
        ):
            parts.append(tuple(part))
            part, size = [], 0
        part.append(one)
        size += len(one.content)
    if part:
        parts.append(tuple(part))
    return parts


def _weight(want: Want | WantSmall) -> int:
    return 1 if isinstance(want, Want) else len(want.hashes)


async def serve_link(link: Link, server: BlobServer, outbox: Outbox) -> None:
    """Serve wants that arrive over a bulk link, until it closes or falls idle.

    Raises Malformed where the peer sends what is no message.
    """
    assembler = Assembler(wire.parse)

    async def receive() -> None:
        while True:
            try:
                async with asyncio.timeout(BULK_IDLE_S):
                    frame = await link.receive()
            except TimeoutError:
                if server.is_idle and not outbox.waiting_bytes(Rank.DATA):
                    raise LinkClosed("bulk link", "fell idle") from None
                continue
            message = assembler.accept(frame)
            if isinstance(message, Want | WantSmall | WantChunks | WantDifference | Cancel):
                server.accept(message)

    try:
        async with TaskGroup() as tasks:
            tasks.create_task(receive())
            tasks.create_task(send_all(link, outbox))
            tasks.create_task(outbox.failure())
            tasks.create_task(server.run())
    except* LinkClosed:
        pass
    except* Malformed as group:
        raise group.exceptions[0] from None
    finally:
        await link.close()


async def send_all(link: Link, outbox: Outbox) -> None:
    """Send what an outbox holds, until cancelled.

    Raises LinkClosed where the link closes, or the other side does not read for a minute.
    """
    while True:
        frame = await outbox.next_frame()
        try:
            async with asyncio.timeout(SEND_PATIENCE_S):
                await link.send(frame)
        except TimeoutError:
            raise LinkClosed("link", "the other side does not read") from None
