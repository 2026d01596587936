"""Fetch one large content: what is here first, the rest by ranges from all peers that have it.

Where an older version is here, a peer is asked how its chunks differ (one round trip, fine chunks
included); what lacks then flows while the rest is copied. Nothing is believed: the BLAKE3 of the
whole decides, and a peer that sent what is wrong is counted (A16). It knows of no small content.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from peers import pulling
from peers.asks import longest_list
from peers.cancelling import TaskGroup, to_its_end
from peers.difference import rebuilt
from peers.large import Filling, LocalPiece, Sink, prepare, reuse
from peers.list_asking import ask_for_difference, ask_for_list
from peers.pulling import Pulling
from store.errors import DizzyError, Malformed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from peers.chunk_lists import ChunkLists
    from peers.replica import P, Runner, T
    from peers.wire import Stretch
    from store.ids import AgentId, FolderId
    from store.records import BlobRef

COPIERS: Final = 2  # a copy is the kernel's work, page by page: two processors do it in half


class Asking(pulling.Asking, Protocol):
    """What peers.fetch knows of the peers, and of the chunk lists that they told."""

    lists: ChunkLists


class LargeFetch:
    """One content on its way into one sink."""

    def __init__(
        self,
        asking: Asking,
        runner: Runner,
        folder: FolderId,
        ref: BlobRef,
        sink: Sink,
    ) -> None:
        """Fetch `ref` from whoever `asking` knows; blocking calls go through `runner`."""
        self._asking = asking
        self._runner = runner
        self._folder = folder
        self._ref = ref
        self._filling = Filling(ref, sink)
        self._wrote = asyncio.Event()
        self._pulling = Pulling(asking, folder, self._filling, self._run, self._wrote.set)
        self._is_written = False

    async def run(self, old: Sequence[LocalPiece]) -> bool | None:
        """Fill the sink; True if its BLAKE3 is right, None if nobody at hand has the rest."""
        filling = self._filling
        held = await self._run(filling.sink.size)
        stretches = None if held else await self._begin_from_difference(old)
        if stretches is None and (held or old):
            await self._reuse(old, held)
        if not await self._fill(only=None):
            return None
        if await self._run(filling.is_right):
            await self._keep_list(stretches, old)
            return True
        if stretches is not None:
            # A lie, or a list that was one, or a file that changed: see what is wrong by chunks.
            await self._reuse((), await self._run(filling.sink.size))
            if await self._fill(only=None) and await self._run(filling.is_right):
                return True
        suspects = list(dict.fromkeys(filling.sources))
        others = [one for one in self._asking.sources.agents(self._folder) if one not in suspects]
        if len(suspects) == 1 and not filling.has_reused:
            self._asking.sources.wrong(suspects.pop())
        return await self._fill_from_one(others + suspects)

    async def _fill_from_one(self, agents: Sequence[AgentId]) -> bool:
        """Fetch all of it from one peer after the other: so the one that lies is known."""
        for agent in agents:
            self._filling.restart()
            if not await self._fill(only=agent):
                continue
            if await self._run(self._filling.is_right):
                return True
            if self._filling.sources:
                self._asking.sources.wrong(agent)
        return False

    # -- what is here ---------------------------------------------------------------------------

    async def _begin_from_difference(self, old: Sequence[LocalPiece]) -> list[Stretch] | None:
        """Take for copied what an older version here holds; None if no peer can tell."""
        piece = next((one for one in old if one.blob is not None), None)
        if piece is None or piece.blob is None:
            return None
        liars: set[AgentId] = set()
        while True:
            told = await ask_for_difference(
                self._asking.sources, self._folder, self._ref, piece.blob, liars
            )
            if told is None:
                return None
            agent, stretches = told
            try:
                await self._run(prepare, self._filling, stretches, piece)
            except Malformed:
                self._asking.sources.wrong(agent)
                self._filling.restart()
                liars.add(agent)
                continue
            return stretches

    async def _reuse(self, old: Sequence[LocalPiece], held: int) -> None:
        """Use the chunks that stand in the sink or in an old piece, by the list of a peer."""
        lines = await ask_for_list(self._asking.sources, self._folder, self._ref)
        if lines is not None:
            spans = await self._run(reuse, lines, self._filling.sink, old, held)
            self._filling.begin(spans, has_reused=True)

    async def _keep_list(
        self, stretches: Sequence[Stretch] | None, old: Sequence[LocalPiece]
    ) -> None:
        """Keep the new version's chunk list where the old one's and the difference make it."""
        piece = next((one for one in old if one.blob is not None), None)
        if stretches is None or piece is None or piece.blob is None:
            return
        lines = await self._asking.lists.get(self._folder, piece.blob)
        if lines is None:
            return
        made = await self._run(rebuilt, stretches, lines, longest_list(self._ref.size))
        if made is not None:
            await self._asking.lists.keep(self._folder, self._ref.hash, made)

    # -- what is not ----------------------------------------------------------------------------

    async def _fill(self, *, only: AgentId | None) -> bool:
        """Copy, pull and hash until nothing lacks; False if nobody at hand has the rest."""
        while self._filling.is_lacking or self._filling.is_copying:
            try:
                async with TaskGroup() as tasks:
                    tasks.create_task(self._hash())
                    pulling = tasks.create_task(self._pulling.run(only))
                    copying = [tasks.create_task(self._copy()) for _ in range(COPIERS)]
                    await asyncio.wait([pulling, *copying])
                    self._is_written = True
                    self._wrote.set()
            except* DizzyError as group:  # the sink's: a full disk is the caller's to handle
                raise group.exceptions[0] from None
            if not pulling.result():
                return False
        return True

    async def _copy(self) -> None:
        filling = self._filling
        while copies := filling.take_copies():
            filling.copied(copies, await self._run(filling.copy, copies))
            self._wrote.set()

    async def _hash(self) -> None:
        """Hash what was written, beside the writing, until all of it is written."""
        self._is_written = False
        while True:
            span = self._filling.take_span()
            if span is not None:
                if not await self._run(self._filling.hash_span, *span):
                    return  # never: is_right() reads all of it again then
                self._filling.hashed(span[1])
            elif self._is_written:
                return
            else:
                self._wrote.clear()
                await self._wrote.wait()

    async def _run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call on a sink to its end even if cancelled: its owner may close it then."""
        return await to_its_end(self._runner.run(fn, *args, **kwargs))


async def learn_list(asking: Asking, folder: FolderId, ref: BlobRef) -> None:
    """Ask for the chunk list of what was fetched, and keep it: an edit may follow."""
    if await asking.lists.get(folder, ref.hash) is None:
        lines = await ask_for_list(asking.sources, folder, ref)
        if lines is not None:
            await asking.lists.keep(folder, ref.hash, lines)
