"""Remember the other agents: their names, their signed addresses, who invited us where.

Held in memory on the loop, written to the database as it changes. Nobody is trusted here: a list
of addresses counts because its agent signed it, and only says where to knock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from daemon.core import Runner
from peers import addresses
from peers.address import Address
from peers.wire import SignedAddresses
from store.db import Database
from store.errors import BadSignature, Malformed
from store.ids import AgentId
from store.signing import AgentKey

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(SignedAddresses)


@dataclass(slots=True, kw_only=True)
class KnownPeer:
    """What we know of one agent; `hints` are addresses that it did not sign itself."""

    agent: AgentId
    name: str = ""
    record: SignedAddresses | None = None
    addresses: tuple[Address, ...] = ()
    hints: list[Address] = field(default_factory=list)
    last_seen_ms: int = 0

    def places(self) -> list[Address]:
        """List where to try, the agent's own word first."""
        return list(dict.fromkeys((*self.addresses, *self.hints)))


class PeerBook:
    """All other agents that this node knows."""

    def __init__(self, database: Database, core: Runner, key: AgentKey) -> None:
        """Begin empty; load() reads what was known."""
        self._db = database
        self._core = core
        self._key = key
        self._peers: dict[AgentId, KnownPeer] = {}
        self._own: SignedAddresses | None = None
        self._inviters: dict[int, AgentId] = {}
        self._rebuilt: frozenset[int] = frozenset()
        self._configured: frozenset[AgentId] = frozenset()
        self.is_cloned = False

    def load(self) -> None:
        """Read the database; call it on the database thread."""
        for agent, name, packed, last_seen_ms in self._db.execute(
            "SELECT agent, name, addresses, last_seen_ms FROM peer"
        ):
            record, places = _read_record(packed)
            if agent == self._key.agent:
                self._own = record
                continue
            self._peers[agent] = KnownPeer(
                agent=agent,
                name=name,
                record=record,
                addresses=places,
                last_seen_ms=last_seen_ms,
            )
        for key, inviter in self._db.execute(
            "SELECT key, value FROM meta WHERE key LIKE 'inviter/%'"
        ):
            self._inviters[int(key.partition("/")[2])] = AgentId(inviter)

    # -- reading --------------------------------------------------------------------------------

    def get(self, agent: AgentId) -> KnownPeer:
        """Give what is known of an agent, beginning with nothing."""
        return self._peers.setdefault(agent, KnownPeer(agent=agent))

    def records(self) -> list[SignedAddresses]:
        """List all signed addresses, our own first."""
        own = [] if self._own is None else [self._own]
        return own + [peer.record for peer in self._peers.values() if peer.record is not None]

    def sources(self, folder_no: int) -> frozenset[AgentId]:
        """Say who brings us the log of a folder whose members we do not know (yet).

        Whose invite brought us into it; and where our database was lost, whoever config.toml
        names.
        """
        inviter = self._inviters.get(folder_no)
        found = frozenset(() if inviter is None else (inviter,))
        return found | self._configured if folder_no in self._rebuilt else found

    def rebuild_from(self, folder_nos: Iterable[int], agents: Iterable[AgentId]) -> None:
        """Take these agents as sources of folders whose database was lost."""
        self._rebuilt = frozenset(folder_nos)
        self._configured = frozenset(agents) - {self._key.agent}

    # -- writing --------------------------------------------------------------------------------

    async def learn(self, records: Iterable[SignedAddresses]) -> list[SignedAddresses]:
        """Keep signed addresses that are newer than what is known; give those."""
        news: list[SignedAddresses] = []
        for record in records:
            try:
                places = addresses.verify(record)
            except (BadSignature, Malformed):
                continue
            if record.agent == self._key.agent:
                known = self._own.counter if self._own is not None else 0
                self.is_cloned = self.is_cloned or addresses.is_cloned(known, record)
                continue
            peer = self.get(AgentId(record.agent))
            if addresses.supersedes(record, peer.record):
                peer.record, peer.addresses = record, places
                news.append(record)
        for record in news:
            await self._save(AgentId(record.agent))
        return news

    async def set_own(self, places: Sequence[Address]) -> SignedAddresses | None:
        """Sign where we can be reached, if that changed; gives the new record once it is durable.

        Raises sqlite3.Error where it cannot be written: then nothing has changed.
        """
        texts = tuple(str(place).encode("ascii") for place in places)
        if self._own is not None and self._own.addresses == texts:
            return None
        counter = 1 if self._own is None else self._own.counter + 1
        own = addresses.sign(self._key, counter, places)
        await self._core.run(self._write, self._key.agent, "", _encode(own), 0)
        self._own = own
        return own

    async def note_seen(self, agent: AgentId, name: str, now_ms: int) -> None:
        """Note that an agent was here, under the name that it gives itself."""
        peer = self.get(agent)
        peer.name = name or peer.name
        peer.last_seen_ms = now_ms
        await self._save(agent)

    def note_inviter(self, folder_no: int, inviter: AgentId) -> None:
        """Note whose invite brought us into a folder; on the database thread."""
        self._db.set_meta(f"inviter/{folder_no}", inviter)
        self._inviters[folder_no] = inviter

    async def _save(self, agent: AgentId) -> None:
        peer = self._peers[agent]
        packed = b"" if peer.record is None else _encode(peer.record)
        await self._core.run(self._write, agent, peer.name, packed, peer.last_seen_ms)

    def _write(self, agent: AgentId, name: str, packed: bytes, last_seen_ms: int) -> None:
        with self._db.transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO peer (agent, name, addresses, last_seen_ms)"
                " VALUES (?, ?, ?, ?)",
                (agent, name, packed, last_seen_ms),
            )


def _read_record(packed: bytes) -> tuple[SignedAddresses | None, tuple[Address, ...]]:
    """Read what an agent signed; what a bad disk made of it is as good as nothing."""
    if not packed:
        return None, ()
    try:
        record = _decoder.decode(packed)
        return record, tuple(addresses.verify(record))
    except (msgspec.DecodeError, BadSignature, Malformed):
        return None, ()
