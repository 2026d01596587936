"""Be a Link over a FrameStream whose other side was proven."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from peers.link import Purpose
from store.ids import AgentId, short

if TYPE_CHECKING:
    from peers.framing import Buffer
    from peers.handshake import Other
    from peers.stream import FrameStream


class TlsLink:
    """A Link over a FrameStream whose other side was proven."""

    __slots__ = ("_other", "_stream", "address", "is_dialler", "opened_at_s", "rtt_s")

    def __init__(
        self, stream: FrameStream, other: Other, *, address: str, is_dialler: bool, rtt_s: float
    ) -> None:
        """Take over the stream; made by transport alone, once the hello is done."""
        self._stream = stream
        self._other = other
        self.address = address
        self.is_dialler = is_dialler
        self.rtt_s = rtt_s
        self.opened_at_s = asyncio.get_running_loop().time()
        stream.place = f"link to {short(other.agent)} at {address}"
        stream.open_wide(is_bulk=other.purpose is Purpose.BULK)

    @property
    def agent(self) -> AgentId:
        """As Link.agent."""
        return self._other.agent

    @property
    def purpose(self) -> Purpose:
        """As Link.purpose."""
        return self._other.purpose

    @property
    def instance(self) -> bytes:
        """As Link.instance."""
        return self._other.instance

    @property
    def label(self) -> bytes:
        """As Link.label."""
        return self._other.label

    @property
    def state_version(self) -> int:
        """As Link.state_version."""
        return self._other.state_version

    @property
    def received_bytes(self) -> int:
        """As Link.received_bytes."""
        return self._stream.received_bytes - self._stream.alive_bytes

    @property
    def sent_bytes(self) -> int:
        """As Link.sent_bytes."""
        return self._stream.sent_bytes

    @property
    def is_closed(self) -> bool:
        """As Link.is_closed."""
        return self._stream.is_closed

    async def send(self, frame: bytes) -> None:
        """As Link.send."""
        await self._stream.send(frame)

    async def receive(self) -> Buffer:
        """As Link.receive."""
        return await self._stream.receive()

    async def close(self) -> None:
        """As Link.close."""
        await self._stream.close()
