"""Read everything back slowly beside the other work, round after round, and keep what is found.

What was found stands in `status` until verify finds nothing any more or repair has healed it. A
round that a stop cut short goes on where it was. It heals nothing by itself.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from daemon.positions import Positions
from daemon.verifying import Verification, now_ms

if TYPE_CHECKING:
    from daemon.node import Node

logger = logging.getLogger(__name__)

FIRST_S: Final = 600.0  # after a start, which has other things to do
PERIOD_MS: Final = 7 * 24 * 3600 * 1000  # from the end of a round to the next
LOOK_S: Final = 600.0
RATE_BYTES_PER_S: Final = 4 << 20
NOTE_EVERY_BYTES: Final = 256 << 20
_ENDED_KEY: Final = "scrub-ended"
_KIND: Final = "scrub"
_EVER_MS: Final = 1 << 62


class Scrub:
    """The slow reading of one node. Owned by the loop."""

    def __init__(self, node: Node) -> None:
        """Prepare; run() reads."""
        self._node = node
        self._kept = Positions(node.shelf.db, _KIND)

    async def run(self) -> None:
        """Read until cancelled."""
        await asyncio.sleep(FIRST_S)
        while True:
            if await self._is_due():
                await self.read_round()
            await asyncio.sleep(LOOK_S)

    async def _is_due(self) -> bool:
        node = self._node
        ended = await node.world.core.run(node.shelf.db.meta, _ENDED_KEY)
        at_ms = now_ms(node)
        # A clock that was set back must not put the next round off for years.
        return ended is None or not 0 <= at_ms - int(ended) < PERIOD_MS

    async def read_round(self) -> None:
        """Read everything once, from where the last round was cut short."""
        node = self._node
        run = node.world.core.run
        verification = Verification(node, await run(self._kept.read, now_ms(node), _EVER_MS))
        found: list[str] = []
        done_bytes = noted_bytes = verification.before_bytes
        async for line in verification.lines(list(node.works.values())):
            if line.kind == "finding":
                logger.warning("scrub found damage what=%s", line.text)
                found.append(line.text)
                node.found_damage = tuple(found)
            elif line.kind == "progress":
                await asyncio.sleep((line.done_bytes - done_bytes) / RATE_BYTES_PER_S)
                done_bytes = line.done_bytes
                if done_bytes - noted_bytes >= NOTE_EVERY_BYTES:
                    noted_bytes = done_bytes
                    await run(self._kept.note, verification.positions())
        node.found_damage = tuple(found)
        await run(self._end)

    def _end(self) -> None:
        db = self._node.shelf.db
        with db.transaction():
            self._kept.forget([work.folder_no for work in self._node.works.values()])
            db.set_meta(_ENDED_KEY, b"%d" % now_ms(self._node))
