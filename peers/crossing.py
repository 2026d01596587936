"""Decide which of several connections to one agent stays.

Pure: it closes nothing and opens nothing, it only answers. Both sides ask it, about the same
two connections, and come to the same answer without a word.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from peers.link import Link
    from store.ids import AgentId

# Longer than a call may take: an older connection was there before the other side called, so
# the call means that the other side lost it.
CROSSING_WINDOW_S: Final = 15.0
_INSTANCES_KEPT: Final = 8


class Meeting(Enum):
    """What became of a new control connection."""

    FIRST = "first"  # there was none
    REPLACES = "replaces"  # the former one is to be closed
    YIELDS = "yields"  # the new one is to be closed
    CLONE_REPLACES = "clone-replaces"  # as above, and the agent's key is used on two machines
    CLONE_YIELDS = "clone-yields"

    @property
    def is_clone(self) -> bool:
        """Whether two nodes with one key were seen: to be told, here and to them."""
        return self in (Meeting.CLONE_REPLACES, Meeting.CLONE_YIELDS)

    @property
    def keeps_new(self) -> bool:
        """Whether the new connection stays."""
        return self not in (Meeting.YIELDS, Meeting.CLONE_YIELDS)


@dataclass(slots=True)
class _Known:
    link: Link
    # Those that were replaced; one that comes back was never gone: a restart has a new one.
    former: deque[bytes]


class Crossing:
    """The one control connection of each agent.

    Of two connections that crossed, the one dialled by the smaller agent id stays. A second
    call of the same side, or one long after the first, replaces the first: its caller knows
    that it lost it. A daemon that restarted replaces its former self; two nodes that answer
    with one key by turns are clones, and the one with the smaller instance stays.
    """

    __slots__ = ("_known", "_own")

    def __init__(self, own: AgentId) -> None:
        """Begin without connections."""
        self._own = own
        self._known: dict[AgentId, _Known] = {}

    def link_of(self, agent: AgentId) -> Link | None:
        """Give the connection that stays for this agent, if there is one."""
        known = self._known.get(agent)
        return known.link if known is not None and not known.link.is_closed else None

    def meet(self, link: Link) -> Meeting:
        """Take in a new connection and say which one to close; never both, never none."""
        known = self._known.get(link.agent)
        if known is None:
            self._known[link.agent] = _Known(link, deque(maxlen=_INSTANCES_KEPT))
            return Meeting.FIRST
        meeting = self._compare(known, link)
        if meeting.keeps_new:
            if known.link.instance != link.instance:
                known.former.append(known.link.instance)
            known.link = link
        return meeting

    def forget(self, link: Link) -> None:
        """Let go of a connection that closed; another one of that agent is not touched."""
        known = self._known.get(link.agent)
        if known is not None and known.link is link and not known.former:
            del self._known[link.agent]

    def _compare(self, known: _Known, link: Link) -> Meeting:
        old = known.link
        if link.instance != old.instance:
            if link.instance not in known.former:
                return Meeting.REPLACES
            if link.instance < old.instance or old.is_closed:
                return Meeting.CLONE_REPLACES
            return Meeting.CLONE_YIELDS
        if old.is_closed or link.is_dialler == old.is_dialler:
            return Meeting.REPLACES
        if link.opened_at_s - old.opened_at_s > CROSSING_WINDOW_S:
            return Meeting.REPLACES
        is_dialled_by_smaller = link.is_dialler == (self._own < link.agent)
        return Meeting.REPLACES if is_dialled_by_smaller else Meeting.YIELDS
