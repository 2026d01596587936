"""Open proven connections to other agents: the one place where the daemon gets its links.

The parts are listener (who calls us), dialer (whom we call), stream (frames over TLS) and
crossing (which of two connections stays); this module only names what others use.
"""

from __future__ import annotations

from peers.crossing import Crossing, Meeting
from peers.dialer import Dialer, NoAnswer
from peers.handshake import Door, Verdict
from peers.link import FRAME_LIMIT_BYTES, Link, LinkClosed, Purpose
from peers.listener import Listener
from peers.sockets import PortBusy, first_free_port

__all__ = [
    "FRAME_LIMIT_BYTES",
    "Crossing",
    "Dialer",
    "Door",
    "Link",
    "LinkClosed",
    "Listener",
    "Meeting",
    "NoAnswer",
    "PortBusy",
    "Purpose",
    "Verdict",
    "first_free_port",
]
