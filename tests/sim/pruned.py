"""Play with nodes that let go of their logs below checkpoints, as soon as they may.

A member that was away is waited for only for seconds: so histories are full of nodes that lack
what nobody has any more, and go on with a snapshot.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from daemon.config import HistoryConfig
from daemon.log_pruning import LogPruner
from store.acknowledged import Acknowledged
from tests.sim.invited import InvitedNode
from tests.sim.loop import Crashed
from tests.sim.real import FOLDER, listen_to_logs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from store.ids import AgentId, BatchId
    from tests.sim.world import Place

LOOK_S: Final = 0.7
AWAY_MS = 500  # tests set it


class _Impatient(Acknowledged):
    """Waits for nobody for long."""

    def waited_for(
        self, members: Iterable[AgentId], batch: BatchId, now_ms: int
    ) -> list[AgentId]:
        found = super().waited_for(members, batch, now_ms)
        return [agent for agent in found if now_ms - self._read(agent)[1] < AWAY_MS]


class PrunedNode(InvitedNode):
    """One life of a node that prunes its log."""

    def __init__(self, place: Place) -> None:
        """Wire it; it looks every few seconds for what can go."""
        super().__init__(place)
        self.node.config = replace(self.node.config, history=HistoryConfig(keeps_log=False))
        self.node.snapshots.pruner = LogPruner(self.node, self.node.snapshots, 0, _Impatient)
        self._pruning: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load, listen, and begin to work."""
        await super().start()
        self._pruning = self._place.loop.create_task(self._prune())

    async def stop(self) -> None:
        """Cancel and wait, as SIGTERM does."""
        if self._pruning is not None:
            self._pruning.cancel()
        await super().stop()

    def crash(self) -> None:
        """Cancel; whatever still runs finds its place closed."""
        if self._pruning is not None:
            self._pruning.cancel()
        super().crash()

    async def _prune(self) -> None:
        with suppress(Crashed):
            while True:
                await asyncio.sleep(LOOK_S)
                work = self.node.works.get(FOLDER)
                if work is not None:
                    await self.node.snapshots.pruner.look(work)


def make(place: Place) -> PrunedNode:
    """Make a node; the last one is to join by an invite."""
    listen_to_logs()
    return PrunedNode(place)
