"""Ask connected peers which of some contents they have, without fetching any.

The question is a want of the first byte: data is a yes, not-have is a no, and silence is
neither. Nothing is kept of the answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from peers.asks import RangeAsk
from peers.lane import Lane
from store.ids import AgentId, BlobHash, FolderId
from store.records import BlobRef

PATIENCE_S: Final = 3.0
_ASKED_LIMIT: Final = 1024  # contents asked of one peer: what a server queues well


async def who_has(
    lanes: Sequence[Lane], folder: FolderId, refs: Sequence[BlobRef]
) -> dict[BlobHash, list[AgentId]]:
    """Give, for each content that somebody has, the peers that said so within 3 s.

    Contents without bytes are left out: everybody has them. Of very many the first are asked.
    """
    asked = [ref for ref in refs if ref.size][:_ASKED_LIMIT]
    questions: list[tuple[Lane, int, BlobHash, RangeAsk]] = []
    for lane in lanes:
        for ref in asked:
            ask = RangeAsk(folder, ref.hash, 0, 1)
            questions.append((lane, lane.ask(ask), ref.hash, ask))
    try:
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(ask.wait() for _, _, _, ask in questions))
    except TimeoutError:
        pass
    finally:
        for lane, number, _, _ in questions:
            lane.cancel(number)
    found: dict[BlobHash, list[AgentId]] = {}
    for lane, _, blob, ask in questions:
        if ask.is_whole:
            found.setdefault(blob, []).append(lane.agent)
    return found
