"""Add up the bytes exchanged with each agent, over all connections of this run.

Counts only: the links themselves know what went over them.
"""

from __future__ import annotations

from peers.link import Link
from store.ids import AgentId


class Traffic:
    """Bytes received and sent, by agent; connections that ended are still counted."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._links: dict[AgentId, list[Link]] = {}
        self._ended: dict[AgentId, tuple[int, int]] = {}

    def add(self, link: Link) -> None:
        """Count a connection from now on."""
        links = self._links.setdefault(link.agent, [])
        received, sent = self._ended.get(link.agent, (0, 0))
        for ended in [one for one in links if one.is_closed]:
            received += ended.received_bytes
            sent += ended.sent_bytes
            links.remove(ended)
        self._ended[link.agent] = (received, sent)
        links.append(link)

    def of(self, agent: AgentId) -> tuple[int, int]:
        """Give the bytes received from and sent to an agent."""
        received, sent = self._ended.get(agent, (0, 0))
        for link in self._links.get(agent, ()):
            received += link.received_bytes
            sent += link.sent_bytes
        return received, sent
