"""Remember which contents nobody at hand had, who said so, and when to ask again.

What is not there now is often there in a moment: a file that is just being renamed, a change that
is just being recorded, a content that is on its way to the peer itself. So the first pauses are
short. Time is handed in; it asks nobody and keeps no content.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from store.ids import AgentId, BlobHash, FolderId

PAUSES_S: Final = (0.1, 0.3, 1.0, 3.0, 10.0)  # before it is asked for again; then always the last
FORGET_S: Final = 60.0  # a no that is so old says nothing of the next one
REFUSED_LIMIT: Final = 20_000
AWAITED_LIMIT: Final = 10_000


class Away:
    """What is awaited, and the answers "not here". The oldest of both are forgotten (bounded)."""

    def __init__(self) -> None:
        """Begin with nothing."""
        # by agent and content: how often it said no, and until when it is not asked
        self._refused: OrderedDict[tuple[AgentId, BlobHash], tuple[int, float]] = OrderedDict()
        # by folder and content: how often it was left out, and when it is asked for again
        self._awaited: OrderedDict[tuple[FolderId, BlobHash], tuple[int, float | None]] = (
            OrderedDict()
        )
        self._due: list[tuple[float, FolderId, BlobHash]] = []  # a heap; some are out of date

    # -- who said no ----------------------------------------------------------------------------

    def refused(
        self, agent: AgentId, folder: FolderId, blobs: Iterable[BlobHash], now_s: float
    ) -> None:
        """Note that a peer does not have these now; from here on they are awaited."""
        for blob in blobs:
            times, until_s = self._refused.pop((agent, blob), (0, now_s))
            if now_s - until_s > FORGET_S:
                times = 0
            self._refused[agent, blob] = (times + 1, now_s + _pause_s(times))
            self._awaited.setdefault((folder, blob), (0, None))
        self._keep_bounds()

    def is_refused(self, agent: AgentId, blob: BlobHash, now_s: float) -> bool:
        """Whether a peer said so recently, so that it is not asked again yet."""
        refused = self._refused.get((agent, blob))
        return refused is not None and now_s < refused[1]

    def begin_anew(self) -> None:
        """Make the pauses short again: there is somebody else to be asked."""
        for key, (_, due_s) in self._awaited.items():
            self._awaited[key] = (0, due_s)

    def gone(self, agent: AgentId) -> None:
        """Forget what a peer said that is connected no more."""
        for key in [key for key in self._refused if key[0] == agent]:
            del self._refused[key]

    # -- what is awaited ------------------------------------------------------------------------

    def left_out(
        self, folder: FolderId, blobs: Iterable[BlobHash], now_s: float, *, was_asked: bool
    ) -> None:
        """Note that a fetch ended without these; if somebody was asked, they are due again."""
        for blob in blobs:
            times, due_s = self._awaited.pop((folder, blob), (0, None))
            if was_asked and (due_s is None or due_s <= now_s):
                due_s = now_s + _pause_s(times)
                times += 1
                heapq.heappush(self._due, (due_s, folder, blob))
            self._awaited[folder, blob] = (times, due_s)
        self._keep_bounds()

    def fetched(self, folder: FolderId, blobs: Iterable[BlobHash]) -> None:
        """Forget what is here now."""
        if self._awaited:
            for blob in blobs:
                self._awaited.pop((folder, blob), None)

    def awaited(self, folder: FolderId, blobs: Iterable[BlobHash]) -> list[BlobHash]:
        """List those that are awaited."""
        return [blob for blob in blobs if (folder, blob) in self._awaited]

    def may_be_at(self, agent: AgentId, blobs: Iterable[BlobHash]) -> None:
        """Let a peer be asked for these at once: it says that it has them."""
        for blob in blobs:
            self._refused.pop((agent, blob), None)

    def may_have_more(self, agent: AgentId, folder: FolderId, now_s: float) -> list[BlobHash]:
        """Let a peer be asked at once for all that it did not have: something changed there.

        Gives what is awaited and was refused by it. How often it said no stays counted.
        """
        found = []
        for (of, blob), (times, _) in self._refused.items() if self._awaited else ():
            if of == agent and (folder, blob) in self._awaited:
                found.append(blob)
                self._refused[of, blob] = (times, now_s)
        return found

    @property
    def next_due_s(self) -> float | None:
        """When something is to be asked for again."""
        return self._due[0][0] if self._due else None

    def take_due(self, now_s: float) -> dict[FolderId, list[BlobHash]]:
        """Take out what is due now; it stays awaited."""
        due: dict[FolderId, list[BlobHash]] = {}
        while self._due and self._due[0][0] <= now_s:
            at_s, folder, blob = heapq.heappop(self._due)
            times, due_s = self._awaited.get((folder, blob), (0, None))
            if due_s == at_s:
                self._awaited[folder, blob] = (times, None)
                due.setdefault(folder, []).append(blob)
        return due

    def _keep_bounds(self) -> None:
        while len(self._refused) > REFUSED_LIMIT:
            self._refused.popitem(last=False)
        while len(self._awaited) > AWAITED_LIMIT:
            self._awaited.popitem(last=False)


def _pause_s(times: int) -> float:
    return PAUSES_S[min(times, len(PAUSES_S) - 1)]
