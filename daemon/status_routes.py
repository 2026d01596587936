"""Name the two operations that scripts ask all the time, apart from all others.

Each type of an answer costs the command line half a millisecond; these two need few.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from daemon.route import NOTHING, NoRequest, Route
from daemon.status import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitRequest:
    """Wait until one folder or all are in sync."""

    name: str | None = None
    timeout_s: float = 60.0


STATUS: Final = Route(
    method="GET", operation="status", asked=NoRequest, answer=Status, works_stopped=True
)
WAIT: Final = Route(method="GET", operation="wait", asked=WaitRequest, answer=NOTHING)
