"""Keep rounds that are staged until they are made durable and put in place, several together.

While one sync goes on the next rounds are fetched and staged; one sync then does for all of them.
How far ahead is bounded here. Nothing is fetched, staged or synced here.
"""

from __future__ import annotations

import asyncio

from msgspec import Struct

from daemon.outcomes import Outcome
from daemon.site import Job

FETCHED_AHEAD = 2  # rounds of contents in memory, the one being staged included
STAGED_AHEAD = 4  # rounds in tmp beside those being put in place: each file is a descriptor


class Staged(Struct):
    """A round whose contents are in tmp. `damages` counts failed syncs before it began."""

    jobs: list[Job]
    outcomes: list[Outcome]
    damages: int


class Ahead:
    """The staged rounds of one plan, in order. Owned by the event loop."""

    def __init__(self, rounds: int) -> None:
        """Expect so many."""
        self.left = rounds
        self._staged: list[Staged] = []
        self._changed = asyncio.Event()

    @property
    def has_some(self) -> bool:
        """Whether take() returns at once."""
        return bool(self._staged)

    async def may_stage(self) -> None:
        """Return when one more round may be staged."""
        while len(self._staged) >= STAGED_AHEAD:
            self._changed.clear()
            await self._changed.wait()

    def put(self, staged: Staged) -> None:
        """Add the next round."""
        self._staged.append(staged)
        self._changed.set()

    async def take(self) -> Staged:
        """Give all that is staged as one round, as soon as there is any."""
        while not self._staged:
            self._changed.clear()
            await self._changed.wait()
        return self.take_all()

    def take_all(self) -> Staged:
        """Give all that is staged as one round, which may be empty."""
        several, self._staged = self._staged, []
        self.left -= len(several)
        self._changed.set()
        return Staged(
            [job for each in several for job in each.jobs],
            [outcome for each in several for outcome in each.outcomes],
            min((each.damages for each in several), default=0),
        )
