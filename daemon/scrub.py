"""Read everything back slowly beside the other work, round after round, and keep what is found.

What was found stands in `status` until verify finds nothing any more or repair has healed it. A
round that a stop cut short goes on where it was. It heals nothing by itself.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from daemon.verifying import Verification

if TYPE_CHECKING:
    from daemon.node import Node

logger = logging.getLogger(__name__)

FIRST_S: Final = 600.0  # after a start, which has other things to do
PERIOD_MS: Final = 7 * 24 * 3600 * 1000  # from the end of a round to the next
LOOK_S: Final = 600.0
RATE_BYTES_PER_S: Final = 4 << 20
NOTE_EVERY_BYTES: Final = 256 << 20
_ENDED_KEY: Final = "scrub-ended"
_CURSOR_KEY: Final = "scrub"


class Scrub:
    """The slow reading of one node. Owned by the loop."""

    def __init__(self, node: Node) -> None:
        """Prepare; run() reads."""
        self._node = node

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
        now_ms = node.world.clock.now_ns() // 1_000_000
        # A clock that was set back must not put the next round off for years.
        return ended is None or not 0 <= now_ms - int(ended) < PERIOD_MS

    async def read_round(self) -> None:
        """Read everything once, from where the last round was cut short."""
        node = self._node
        verification = Verification(node, cursors=await node.world.core.run(self._cursors))
        found: list[str] = []
        done_bytes = noted_bytes = 0
        async for line in verification.lines(list(node.works.values())):
            if line.kind == "finding":
                logger.warning("scrub found damage what=%s", line.text)
                found.append(line.text)
            elif line.kind == "progress":
                await asyncio.sleep((line.done_bytes - done_bytes) / RATE_BYTES_PER_S)
                done_bytes = line.done_bytes
                if done_bytes - noted_bytes >= NOTE_EVERY_BYTES:
                    noted_bytes = done_bytes
                    await node.world.core.run(self._note, verification.cursors())
        node.found_damage = tuple(found)
        await node.world.core.run(self._end)

    def _cursors(self) -> dict[int, bytes]:
        rows = self._node.shelf.db.execute(
            "SELECT key, value FROM meta WHERE key LIKE ?", (f"{_CURSOR_KEY}/%",)
        )
        return {int(key.partition("/")[2]): value for key, value in rows}

    def _note(self, cursors: dict[int, bytes]) -> None:
        db = self._node.shelf.db
        with db.transaction():
            for folder_no, cursor in cursors.items():
                db.set_meta(f"{_CURSOR_KEY}/{folder_no}", cursor)

    def _end(self) -> None:
        db = self._node.shelf.db
        now_ms = self._node.world.clock.now_ns() // 1_000_000
        with db.transaction():
            db.execute("DELETE FROM meta WHERE key LIKE ?", (f"{_CURSOR_KEY}/%",))
            db.set_meta(_ENDED_KEY, b"%d" % now_ms)
