"""Say who may come in: members of our folders, and once whoever proves an invite of ours.

It implements what peers.handshake asks of a door. An invite admits one agent, in the transaction
that records its role; an ended folder admits nobody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from daemon.core import Runner
from daemon.displaced import Clock
from daemon.engine import Engine
from daemon.shelf import Shelf
from daemon.signals import BatchesCommitted
from peers.handshake import Verdict
from peers.invite import InviteId, InviteKey
from store.access import Role
from store.ids import AgentId, FolderId

Welcomed = Callable[[int, AgentId, str], Awaitable[None]]


class NodeDoor:
    """The door of one node."""

    def __init__(
        self,
        shelf: Shelf,
        engine: Engine,
        core: Runner,
        clock: Clock,
        *,
        shared_with: Callable[[AgentId], Collection[FolderId]],
        welcomed: Welcomed,
    ) -> None:
        """`welcomed(folder_no, agent, label)` is told of each new member before it is let in."""
        self._shelf = shelf
        self._engine = engine
        self._core = core
        self._clock = clock
        self._shared_with = shared_with
        self._welcomed = welcomed

    async def admit_member(self, agent: AgentId) -> bool:
        """Tell whether the agent is a current member of any folder of ours."""
        return bool(self._shared_with(agent))

    async def invite_key(self, invite: InviteId) -> InviteKey | None:
        """Give the key of an invite of ours, open, used or expired."""

        def read() -> InviteKey | None:
            row = self._shelf.db.execute(
                "SELECT secret FROM invite WHERE id = ?", (invite,)
            ).fetchone()
            return None if row is None else InviteKey(row[0])

        return await self._core.run(read)

    async def claim_invite(self, invite: InviteId, agent: AgentId, label: bytes) -> Verdict:
        """Use up an invite for the agent that proved its secret, and record its role."""
        now_ms = self._clock.now_ns() // 1_000_000
        verdict, folder_no = await self._core.run(self._claim_invite, invite, agent, label, now_ms)
        if verdict is Verdict.WELCOME:
            await self._welcomed(folder_no, agent, label.decode("utf-8", "replace"))
        return verdict

    def _claim_invite(
        self, invite: InviteId, agent: AgentId, label: bytes, now_ms: int
    ) -> tuple[Verdict, int]:
        db = self._shelf.db
        row = db.execute(
            "SELECT folder_no, role, expires_ms, used_by FROM invite WHERE id = ?", (invite,)
        ).fetchone()
        if row is None:
            return Verdict.INVITE_EXPIRED, 0
        folder_no, role, expires_ms, used_by = row
        if used_by is not None:
            return (Verdict.WELCOME if used_by == agent else Verdict.INVITE_USED), folder_no
        if expires_ms <= now_ms:
            return Verdict.INVITE_EXPIRED, folder_no
        stored = self._shelf.get(folder_no)
        if stored is None or stored.ending is not None:
            return Verdict.INVITE_EXPIRED, folder_no
        with self._shelf.begin():
            stored.is_touched = True
            db.execute("UPDATE invite SET used_by = ? WHERE id = ?", (agent, invite))
            batches = stored.grant(
                agent,
                Role(role),
                label=label,
                expires_ms=None,
                may_delegate=False,
                wall_ms=now_ms,
            )
        self._engine.post(
            BatchesCommitted(folder_no=folder_no, batches=tuple(batches), is_own=True)
        )
        self._engine.run_until_idle()
        return Verdict.WELCOME, folder_no
