"""Bring up real nodes on loopback for the tests of peers: real sockets, real TLS, real keys."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from peers import certificate
from peers.address import Address
from peers.handshake import Verdict
from peers.identity import Identity
from peers.invite import Invite, InviteId, InviteKey
from peers.transport import Dialer, Link, Listener
from store.ids import AgentId, FolderId
from store.signing import AgentKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FOLDER = FolderId(b"F" * 32)


def make_identity(seed: int, *, instance: int = 1, label: bytes = b"node") -> Identity:
    """Give the agent of a small number; the same number gives the same agent."""
    key = AgentKey.from_seed(seed.to_bytes(32, "big"))
    return Identity(key=key, label=label, instance=instance.to_bytes(16, "big"))


def make_invite(inviter: AgentId, *addresses: Address, secret: bytes = b"s" * 16) -> Invite:
    """Give an invite to the test folder."""
    return Invite(
        inviter=inviter,
        folder=FOLDER,
        folder_name=b"photos",
        addresses=addresses,
        secret=secret,
        expires_ms=1_800_000_000_000,
        role=2,
    )


@dataclass
class GuestList:
    """A Door that remembers in memory; claiming is atomic since nothing is awaited in it."""

    members: set[AgentId] = field(default_factory=set)
    keys: dict[InviteId, InviteKey] = field(default_factory=dict)
    used_by: dict[InviteId, AgentId] = field(default_factory=dict)
    expired: set[InviteId] = field(default_factory=set)
    asked: list[AgentId] = field(default_factory=list)

    def expect(self, invite: Invite) -> None:
        """Have an open invite."""
        self.keys[invite.id] = invite.key

    async def admit_member(self, agent: AgentId) -> bool:
        """As Door.admit_member."""
        self.asked.append(agent)
        return agent in self.members

    async def invite_key(self, invite: InviteId) -> InviteKey | None:
        """As Door.invite_key."""
        await asyncio.sleep(0)
        return self.keys.get(invite)

    async def claim_invite(self, invite: InviteId, agent: AgentId, label: bytes) -> Verdict:
        """As Door.claim_invite."""
        del label
        if self.used_by.get(invite, agent) != agent:
            return Verdict.INVITE_USED
        if invite in self.expired and invite not in self.used_by:
            return Verdict.INVITE_EXPIRED
        self.used_by[invite] = agent
        self.members.add(agent)
        return Verdict.WELCOME


@dataclass
class Node:
    """One listening node."""

    identity: Identity
    door: GuestList
    listener: Listener
    arrived: asyncio.Queue[Link]

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self.listener.addresses[0]

    async def next_link(self) -> Link:
        """Wait for a caller to be proven."""
        async with asyncio.timeout(10):
            return await self.arrived.get()

    async def until_rejected(self, reason: str, count: int = 1) -> None:
        """Wait until so many callers were refused for this reason."""
        async with asyncio.timeout(15):
            while self.listener.rejected[reason] < count:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def listening(identity: Identity, *at: str) -> AsyncIterator[Node]:
    """Run a listener until the end of the block; its links are closed then."""
    door = GuestList()
    arrived: asyncio.Queue[Link] = asyncio.Queue()
    everyone: list[Link] = []

    def take(link: Link) -> None:
        everyone.append(link)
        arrived.put_nowait(link)

    listener = Listener(
        identity,
        certificate.issue(identity.key),
        door=door,
        on_link=take,
        random_bytes=os.urandom,
    )
    listener.open([Address.parse(text) for text in at or ("127.0.0.1:0",)])
    serving = asyncio.create_task(listener.serve())
    await asyncio.sleep(0)  # it answers now
    try:
        yield Node(identity, door, listener, arrived)
    finally:
        for link in everyone:
            await link.close()
        serving.cancel()
        await asyncio.wait([serving])


def make_dialer(identity: Identity) -> Dialer:
    """Give a dialler with the system's randomness."""
    return Dialer(identity, random_bytes=os.urandom)
