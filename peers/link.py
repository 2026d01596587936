"""Define what a proven connection to another agent is, whatever carries it.

Nothing here opens, dials or parses: the real links are in transport, those of the simulator in
its network. Whoever holds a Link holds a connection whose other side proved its agent key.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol

from store.errors import DizzyError

if TYPE_CHECKING:
    from peers.framing import Buffer
    from store.ids import AgentId

FRAME_LIMIT_BYTES: Final = 256 * 1024


class Purpose(IntEnum):
    """What a connection is for; said and signed in the hello."""

    CONTROL = 1  # log and control messages: one for each pair of nodes
    BULK = 2  # contents, so that they never delay a small save
    JOIN = 3  # a control connection that begins with an invite


class LinkClosed(DizzyError):
    """The connection is gone; `why` says how, and nothing more can be sent or received."""


class Link(Protocol):
    """A bounded, ordered stream of frames to one proven agent.

    `label` is the name that the other node gives itself, not to be shown unescaped.
    `rtt_s` is the last round trip measured: by the hello at first, later by whoever pings.
    `opened_at_s` is loop time. The byte counts are of frames with their length, before TLS, and
    grow while a frame arrives; what only says that a side lives counts for nothing.
    """

    rtt_s: float

    @property
    def agent(self) -> AgentId:
        """The agent that the other side proved to be."""

    @property
    def is_dialler(self) -> bool:
        """Whether we called; else we were called."""

    @property
    def address(self) -> str:
        """Where the other side is: the address dialled, or the one that called."""

    @property
    def purpose(self) -> Purpose:
        """What the connection was opened for."""

    @property
    def instance(self) -> bytes:
        """16 bytes, new with each start of the other daemon."""

    @property
    def label(self) -> bytes:
        """The other node's name for people, as it said it."""

    @property
    def state_version(self) -> int:
        """The rules by which the other node folds its log into state."""

    @property
    def opened_at_s(self) -> float:
        """Loop time at which the other side was proven."""

    @property
    def received_bytes(self) -> int:
        """How much came in."""

    @property
    def sent_bytes(self) -> int:
        """How much was handed to the network."""

    @property
    def is_closed(self) -> bool:
        """Whether the connection is gone."""

    async def send(self, frame: bytes) -> None:
        """Hand over one frame of 1 to FRAME_LIMIT_BYTES, waiting for room first.

        Frames arrive whole and in order, or the link closes. Raises LinkClosed, and ValueError
        for a frame that is empty or too long.
        """

    async def receive(self) -> Buffer:
        """Return the next frame; one receiver at a time.

        What is not received is not read from the network either, so a slow receiver slows the
        sender down. Raises LinkClosed after the last frame that arrived.
        """

    async def close(self) -> None:
        """Say goodbye and let go; frames handed over before are still sent, for a second.

        Harmless on a closed link.
        """
