"""Answer one peer's questions about the chunks of large contents.

It is the replica that says what the peer may have, list or no list; an older version that is named
counts only in the same folder, so that nothing is told of any other (A17). One question costs at
most the cutting of one content, or of PART_BYTES of it where the list is kept, and is paid for:
beyond its budget a peer waits for the answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from peers import wire
from peers.chunks import FEED_BYTES, Cutter, fine_chunks, pack_fine
from peers.difference import Placed, compare, is_worth_refining, part
from peers.wire import ChunkLine, Chunks, Difference, Stretch, WantChunks, WantDifference
from peers.work import LINE_BYTES
from store.ids import AgentId, BlobHash, FolderId

if TYPE_CHECKING:
    from peers.chunk_lists import ChunkLists
    from peers.replica import Replica, Runner
    from peers.work import WorkBudget


class ListServer:
    """Serves chunk lists, whole and as differences."""

    def __init__(
        self,
        agent: AgentId,
        replica: Replica,
        runner: Runner,
        lists: ChunkLists,
        budget: WorkBudget,
    ) -> None:
        """Serve `agent` within `budget`; lists that had to be worked out are kept in `lists`."""
        self._budget = budget
        self._agent = agent
        self._replica = replica
        self._runner = runner
        self._lists = lists
        # the last comparison, for the parts that follow
        self._compared: tuple[FolderId, BlobHash, BlobHash] | None = None
        self._placed: list[Placed] = []
        self._total = 0

    async def answer(self, want: WantChunks | WantDifference) -> Chunks | Difference | None:
        """Give the part that is asked for; None where the content is not here for the peer."""
        if isinstance(want, WantChunks):
            return await self._list_part(want)
        return await self._difference_part(want)

    async def _list_part(self, want: WantChunks) -> Chunks | None:
        lines = await self._list_of(FolderId(want.folder), BlobHash(want.hash))
        if lines is None:
            return None
        part_ = lines[want.first : want.first + wire.CHUNKS_LIMIT]
        return Chunks(want.request, want.first, len(lines), part_)

    async def _difference_part(self, want: WantDifference) -> Difference | None:
        folder, blob, old = FolderId(want.folder), BlobHash(want.hash), BlobHash(want.old)
        if not await self._replica.read_blob(self._agent, folder, blob, 0, 1):
            return None
        placed, total = await self._comparison(folder, blob, old)
        taken = part(placed, want.first)
        if not taken:
            return None
        stretches: list[Stretch] = []
        is_refined = is_worth_refining(placed)
        for one in taken:
            fine = await self._refined(folder, blob, one) if is_refined else b""
            if fine is None:
                return None
            stretches.append(replace(one.stretch, fine=fine))
        return Difference(want.request, taken[0].number, total, tuple(stretches))

    async def _comparison(
        self, folder: FolderId, blob: BlobHash, old: BlobHash
    ) -> tuple[list[Placed], int]:
        """Compare two versions, and count the chunks of the new one; nothing if it cannot be."""
        if self._compared == (folder, blob, old):
            return self._placed, self._total
        old_lines = await self._lists.get(folder, old)
        lines = None if old_lines is None else await self._list_of(folder, blob)
        if lines is None or old_lines is None:
            return [], 0
        await self._budget.take(LINE_BYTES * len(old_lines))
        placed = await self._runner.run(compare, old_lines, lines)
        self._compared, self._placed, self._total = (folder, blob, old), placed, len(lines)
        return placed, len(lines)

    async def _refined(self, folder: FolderId, blob: BlobHash, placed: Placed) -> bytes | None:
        """Cut the new chunks of a stretch finely; None if they cannot be read any more."""
        if not placed.fresh_bytes:
            return b""
        await self._budget.take(placed.fresh_bytes)
        content = await self._replica.read_blob(
            self._agent, folder, blob, placed.offset, placed.fresh_bytes
        )
        if content is None or len(content) != placed.fresh_bytes:
            return None
        return pack_fine(await self._runner.run(fine_chunks, content, placed.offset))

    async def _list_of(self, folder: FolderId, blob: BlobHash) -> tuple[ChunkLine, ...] | None:
        # asked even where the list is kept: it is the replica that says who may have it
        content = await self._replica.read_blob(self._agent, folder, blob, 0, 1)
        if not content:
            return None
        kept = await self._lists.get(folder, blob)
        if kept is not None:
            await self._budget.take(LINE_BYTES * len(kept))
            return kept
        cutter = Cutter()
        lines: list[ChunkLine] = []
        offset = 0
        while content:
            content = await self._replica.read_blob(self._agent, folder, blob, offset, FEED_BYTES)
            if content is None:
                return None
            await self._budget.take(len(content))
            lines += await self._runner.run(cutter.feed, content)
            offset += len(content)
            if len(content) < FEED_BYTES:
                break
        lines += await self._runner.run(cutter.finish)
        await self._lists.keep(folder, blob, lines)
        return tuple(lines)
