"""Measure how fast bytes go to each peer, between looks that are far enough apart.

For `status` alone; it looks at no clock.
"""

from __future__ import annotations

from store.ids import AgentId

_OVER_S = 0.2


class Speeds:
    """How fast bytes go to whom."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._sent: dict[AgentId, tuple[float, int, float]] = {}  # at, bytes, speed

    def note(self, agent: AgentId, now_s: float, sent_bytes: int) -> None:
        """Note how many bytes went to a peer until now."""
        at_s, sent_then, _ = self._sent.get(agent, (now_s, sent_bytes, 0.0))
        if agent not in self._sent:
            self._sent[agent] = (now_s, sent_bytes, 0.0)
        elif now_s - at_s >= _OVER_S:
            speed = max(0, sent_bytes - sent_then) / (now_s - at_s)
            self._sent[agent] = (now_s, sent_bytes, speed)

    def forget(self, agent: AgentId) -> None:
        """Begin anew with a peer that went."""
        self._sent.pop(agent, None)

    def of(self, agent: AgentId) -> float:
        """Give the bytes a second that went to a peer, 0.0 where that is not known."""
        return round(self._sent.get(agent, (0.0, 0, 0.0))[2], 1)
