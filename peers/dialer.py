"""Call agents, each call pinned to the agent that is meant.

It tries several addresses and says for each why it led nowhere. It never says a word to
another agent than the one expected, and decides nothing about when to call again.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from peers import certificate
from peers.handshake import (
    NONCE_BYTES,
    Caller,
    HelloFailed,
    InviteExpired,
    InviteUsed,
    Other,
    pin,
)
from peers.link import Link, LinkClosed, Purpose
from peers.stream import FrameStream
from peers.tls_link import TlsLink
from store.errors import DizzyError, Malformed, TryLater
from store.ids import AgentId, short

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from peers.address import Address
    from peers.identity import Identity
    from peers.invite import Invite

DIAL_DEADLINE_S: Final = 10.0
NEXT_ADDRESS_S: Final = 0.25  # RFC 8305, 5: how long one address is tried alone


class NoAnswer(TryLater):
    """No address led to the agent; `reasons` has each address with its own."""

    def __init__(self, agent: AgentId, reasons: Sequence[tuple[Address, str]]) -> None:
        """Tell all of it in one line."""
        told = "; ".join(f"{address}: {reason}" for address, reason in reasons)
        super().__init__(
            f"call agent {short(agent)}",
            told or "no address of it is known",
            hint="is it running there, and does its firewall let the port in?",
        )
        self.reasons = tuple(reasons)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    agent: AgentId
    purpose: Purpose
    invite: Invite | None
    deadline_s: float


class _Race:
    """One dial: several addresses, one link."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.failed = [asyncio.Event() for _ in addresses]
        self.reasons: dict[Address, str] = {}
        # One hello at a time: of two that are welcome the host would keep the second, and we
        # the first.
        self.turn = asyncio.Lock()
        self.link: Link | None = None
        self.final: DizzyError | None = None

    def stop_others(self) -> None:
        for task in self.tasks:
            if task is not asyncio.current_task():
                task.cancel()


class Dialer:
    """Call agents; each call is pinned to the agent that is meant."""

    def __init__(self, identity: Identity, *, random_bytes: Callable[[int], bytes]) -> None:
        """Prepare to call as this identity."""
        self._identity = identity
        self._context = certificate.client_context()
        self._random_bytes = random_bytes

    async def dial(
        self,
        addresses: Sequence[Address],
        agent: AgentId,
        purpose: Purpose,
        *,
        invite: Invite | None = None,
        deadline_s: float = DIAL_DEADLINE_S,
    ) -> Link:
        """Reach the agent at the first address where it answers, and prove both sides.

        The addresses are tried in order, each soon after the last without waiting for its
        failure (RFC 8305). Raises NoAnswer with each address's reason, and InviteUsed or
        InviteExpired as soon as the inviter says so. Calling our own agent raises HelloFailed.
        """
        if agent == self._identity.agent:
            raise HelloFailed("call", "that agent is this node itself")
        wanted = tuple(dict.fromkeys(addresses))
        race = _Race(wanted)
        call = _Call(agent=agent, purpose=purpose, invite=invite, deadline_s=deadline_s)
        try:
            async with asyncio.TaskGroup() as tasks:
                for index, address in enumerate(wanted):
                    attempt = self._try(race, call, index, address)
                    race.tasks.append(tasks.create_task(attempt))
        except asyncio.CancelledError:  # perhaps just when a link was there
            if race.link is not None:
                await race.link.close()
            raise
        if race.link is not None:
            return race.link
        if race.final is not None:
            raise race.final
        raise NoAnswer(agent, [(address, race.reasons[address]) for address in wanted])

    async def _try(self, race: _Race, call: _Call, index: int, address: Address) -> None:
        if index:
            with suppress(TimeoutError):
                async with asyncio.timeout(NEXT_ADDRESS_S * index):
                    await race.failed[index - 1].wait()
        try:
            async with asyncio.timeout(call.deadline_s):
                stream = await self._connect(address)
                race.link = await self._greet(race, call, stream, address)
        except (InviteUsed, InviteExpired) as told:
            race.final = told
        # TimeoutError and those of TLS are OSErrors, but not that of a name nobody can resolve.
        except (DizzyError, OSError, UnicodeError) as cause:
            race.reasons[address] = _reason(cause, call.deadline_s)
            race.failed[index].set()
            return
        race.stop_others()

    async def _connect(self, address: Address) -> FrameStream:
        loop = asyncio.get_running_loop()
        _, stream = await loop.create_connection(
            FrameStream.maker(self._context, is_server=False),  # it tells no name
            address.host,
            address.port,
            happy_eyeballs_delay=NEXT_ADDRESS_S,
        )
        await stream.begin()
        return stream

    async def _greet(self, race: _Race, call: _Call, stream: FrameStream, address: Address) -> Link:
        try:
            shown = stream.certificate_seen
            pin(certificate.agent_of(shown), call.agent, self._identity.agent)
            caller = Caller(
                self._identity,
                expected=call.agent,
                certificate_hash=certificate.certificate_hash(shown),
                purpose=call.purpose,
                nonce=self._random_bytes(NONCE_BYTES),
                invite=call.invite,
            )
            async with race.turn:
                other, rtt_s = await self._say_hello(stream, caller)
        except BaseException:
            stream.abort("the hello failed")
            raise
        return TlsLink(stream, other, address=str(address), is_dialler=True, rtt_s=rtt_s)

    async def _say_hello(self, stream: FrameStream, caller: Caller) -> tuple[Other, float]:
        loop = asyncio.get_running_loop()
        called_at_s = loop.time()
        await stream.send(caller.hello())
        answer = bytes(await stream.receive())
        rtt_s = loop.time() - called_at_s
        await stream.send(caller.prove(answer))
        return caller.finish(bytes(await stream.receive())), rtt_s


def _reason(cause: Exception, deadline_s: float) -> str:
    """Say for a person why an address led nowhere."""
    reason = "no address of that name answers"
    match cause:
        case LinkClosed():
            reason = "it closes without a word: it does not know this node, or not the invite"
        case Malformed() | ssl.SSLError():
            reason = "what answers there is no dizzyd"
        case DizzyError():
            reason = cause.why
        case TimeoutError() if cause.errno is None:
            reason = f"no answer within {deadline_s:.0f} s"
        case socket.gaierror() | UnicodeError():
            reason = "the name is not known"
        case OSError() if cause.errno is not None:
            reason = os.strerror(cause.errno).lower()
    return reason
