"""Let go of the log below a checkpoint, where `[history] log` says so and every member has it.

At rest, and only for a checkpoint of the owner whose snapshot is whole here: what stays is what
store.joined proves to be the same state, in one transaction. Who made no checkpoint fetches the
snapshot of the owner's from a peer. Members who did not say that they have all below it are waited
for (store.acknowledged). It judges no batch itself, and touches no content in `.dizzyd/history`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from daemon.procedures import LetGo
from daemon.snapshot_parts import kept_of
from peers.beginning import fetch_pieces
from peers.wire import HEADS_LIMIT
from store.acknowledged import Acknowledged
from store.errors import BadSignature, Malformed
from store.ids import AgentId, short
from store.joined import founder, lacks_of
from store.kept_snapshot import checkpoint_in
from store.state import STATE_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.folder_work import FolderWork
    from daemon.node import Node
    from daemon.snapshots import Snapshots
    from store.events import Checkpointed
    from store.folder import StoredFolder
    from store.signing import SignedBatch

logger = logging.getLogger(__name__)

_SIZE_LIMIT_BYTES: Final = 1 << 30  # of a snapshot that is fetched


def is_at_rest(work: FolderWork, now_ms: int, rest_s: float) -> bool:
    """Whether nothing is to be done in a folder, and nothing happened for a while."""
    last_ms = work.standing.last_change_ms
    if last_ms is not None and 0 <= now_ms - last_ms < rest_s * 1000:
        return False
    return work.is_settled and not work.standing.is_joining and not work.tail.is_lagging


class LogPruner:
    """Prunes the logs of one node's folders. Owned by the loop."""

    def __init__(
        self,
        node: Node,
        snapshots: Snapshots,
        rest_s: float,
        acknowledged: type[Acknowledged] = Acknowledged,
    ) -> None:
        """Prepare; look() does it. `acknowledged` says who is waited for."""
        self._acknowledged = acknowledged
        self._node = node
        self._snapshots = snapshots
        self._rest_s = rest_s
        self._refused: set[bytes] = set()  # batches of checkpoints that were not for the log here

    async def look(self, work: FolderWork) -> None:
        """Let go of what can be let go of now, if the configuration says so."""
        node = self._node
        if node.config.history.keeps_log:
            return
        now_ms = node.world.clock.now_ns() // 1_000_000
        if not is_at_rest(work, now_ms, self._rest_s):
            return
        await self._note_who_has_all(work)
        kept = await node.world.core.run(self._kept, work.folder_no)
        if kept is not None and await self._is_free(work, kept):
            await self._let_go(work, kept)
            return
        for agent, founding, checkpoint in node.sessions.beginnings.offers(work.folder):
            told = self._told(work, founding, checkpoint)
            if told is None or not await self._is_of_use(work, checkpoint):
                continue
            if await self._is_free(work, checkpoint) and await self._fetch(work, agent, told):
                await self._let_go(work, checkpoint)
                return

    # -- who has what -----------------------------------------------------------------------------

    async def _note_who_has_all(self, work: FolderWork) -> None:
        """Note which connected members say that they have all that is here now."""
        node = self._node
        through_no = await node.world.core.run(_newest_no, node.shelf[work.folder_no])
        ours = await node.replica.heads(work.folder)
        agents = [agent for agent in work.members if work.standing.in_sync_with(agent, ours)]
        if not agents or len(ours.heads) >= HEADS_LIMIT:  # then not all of them were told
            return

        def note() -> None:
            stored = node.shelf[work.folder_no]
            with stored.db.transaction():
                self._acknowledged(stored.db, stored.no).note(agents, through_no)

        await node.world.core.run(note)

    async def _is_free(self, work: FolderWork, checkpoint: SignedBatch) -> bool:
        """Whether nobody is waited for any more."""
        node = self._node
        now_ms = node.world.clock.now_ns() // 1_000_000
        others = [
            agent
            for agent, member in work.members.items()
            if agent != node.key.agent
            and (member.expires_ms is None or member.expires_ms > now_ms)
        ]

        def find() -> Sequence[AgentId]:
            stored = node.shelf[work.folder_no]
            with stored.db.transaction():
                said = self._acknowledged(stored.db, stored.no)
                return said.waited_for(others, checkpoint.id, now_ms)

        waited_for = await node.world.core.run(find)
        if waited_for:
            logger.debug("log kept folder=%s for=%d", short(work.folder), len(waited_for))
        return not waited_for

    # -- which checkpoint -------------------------------------------------------------------------

    def _kept(self, folder_no: int) -> SignedBatch | None:
        """Give the checkpoint whose snapshot is here, if the log does not begin with it yet."""
        stored = self._node.shelf[folder_no]
        kept = kept_of(stored)
        signed = kept.checkpoint()
        if signed is None or not self._is_later(stored, signed):
            return None
        return signed

    def _is_later(self, stored: StoredFolder, signed: SignedBatch) -> bool:
        """Whether a checkpoint is one here to which the log was not brought yet."""
        if signed.id in self._refused or stored.ending is not None or not stored.log.has(signed.id):
            return False
        base = kept_of(stored).base() if stored.log.restored_no else None
        is_later = base is None or base.header.lamport < signed.header.lamport
        return is_later and not lacks_of(stored, signed)

    def _told(
        self, work: FolderWork, founding: SignedBatch, signed: SignedBatch
    ) -> Checkpointed | None:
        told = checkpoint_in(signed)
        if told is None or founder(founding, work.folder) != signed.header.agent:
            return None
        is_ours = told.state_version == STATE_VERSION
        return told if is_ours and told.snapshot.size <= _SIZE_LIMIT_BYTES else None

    async def _is_of_use(self, work: FolderWork, signed: SignedBatch) -> bool:
        stored = self._node.shelf[work.folder_no]
        return await self._node.world.core.run(self._is_later, stored, signed)

    async def _fetch(self, work: FolderWork, agent: AgentId, told: Checkpointed) -> bool:
        """Fetch the snapshot beside everything else; whether it is here."""
        node = self._node
        session = node.sessions.session(agent)
        if session is None or not session.shares(work.folder):
            return False
        kept = kept_of(node.shelf[work.folder_no])
        pieces = await node.world.core.run(kept.count, told.snapshot.hash)
        wanted = (told.snapshot, pieces)
        return await fetch_pieces(self._snapshots, session.lane, work.folder, wanted)

    # -- doing it ---------------------------------------------------------------------------------

    async def _let_go(self, work: FolderWork, checkpoint: SignedBatch) -> None:
        node = self._node

        def perform() -> int:
            stored = node.shelf[work.folder_no]
            command = LetGo(folder_no=work.folder_no, checkpoint=checkpoint)
            node.engine.perform(node.procedures.let_go, command)
            node.engine.run_until_idle()
            return stored.log.restored_count()

        try:
            batches = await node.world.core.run(perform)
        except (Malformed, BadSignature) as wrong:  # nothing has changed
            self._refused.add(checkpoint.id)
            logger.warning("log not let go folder=%s why=%s", short(work.folder), wrong)
            return
        logger.info("log let go folder=%s batches=%d", short(work.folder), batches)
        self._snapshots.changed(work.folder)


def _newest_no(stored: StoredFolder) -> int:
    (no,) = stored.db.execute(
        "SELECT coalesce(max(no), 0) FROM batch WHERE folder_no = ?", (stored.no,)
    ).fetchone()
    return int(no)
