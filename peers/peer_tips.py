"""Hold what one peer has of a folder, as far as this node can know.

What the peer said last counts, and what was pushed since. What it says crosses with pushes, so
heads may be older than a push that it takes at this moment: believed whole, they would make the
next push look useless to it, and each save would wait for the heads to go around once more.
It asks nobody, and no batch is taken for known that the peer could not have used.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from peers import heads
from peers.heads import Place, Tips
from peers.wire import HEADS_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from peers.wire import Head
    from store.signing import SignedBatch

UNDER_WAY_S: Final = 2.0  # heads that come this long after a push have crossed with it
UNDER_WAY_LIMIT: Final = 1024  # more pushes at a time are left to the heads
BEGUN_LIMIT: Final = HEADS_LIMIT  # branches that a peer may begin between two heads of it


class PeerTips:
    """The newest batches of each branch of each log that a peer has. One owner."""

    def __init__(self) -> None:
        """Begin with a peer that has nothing."""
        self.tips: Tips = {}
        self._under_way: deque[tuple[float, Place]] = deque(maxlen=UNDER_WAY_LIMIT)
        self._begun = 0

    def said(self, said: Sequence[Head], now_s: float) -> None:
        """Take what the peer says that it has, and what it will have of the pushes of late."""
        self.tips = heads.by_log(said)
        self._begun = 0
        while self._under_way and self._under_way[0][0] + UNDER_WAY_S < now_s:
            self._under_way.popleft()
        for _, place in self._under_way:
            self._advance(place)

    def came(self, batches: Iterable[SignedBatch]) -> None:
        """Take note of what the peer itself sent, true or not: what it can make up is bounded."""
        for place in map(heads.place_of, batches):
            if place.prev not in self.tips.get(place.log, {}):
                self._begun += 1
                if self._begun > BEGUN_LIMIT:
                    continue
            heads.advance(self.tips, (place,))

    def push(self, batches: Iterable[SignedBatch], now_s: float) -> list[SignedBatch]:
        """Choose what the peer lacks and can use at once; from now on it counts as held."""
        usable: list[SignedBatch] = []
        for signed in batches:
            place = heads.place_of(signed)
            if self._advance(place):
                usable.append(signed)
                self._under_way.append((now_s, place))
        return usable

    def _advance(self, place: Place) -> bool:
        if not heads.follows(self.tips, place) or heads.holds(self.tips, place):
            return False
        heads.advance(self.tips, (place,))
        return True
