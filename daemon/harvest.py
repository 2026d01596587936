"""Gather what a scan finds, until it is given out in bunches.

It keeps what is told at once apart from what waits for the last bunch, since it may belong
together with what went.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.differences import Carried, Differences, Found, Missing, Problem, ProblemKind
from daemon.look_set import Again, AgainReason

if TYPE_CHECKING:
    from daemon.disk import DiskError

BUNCH_FILES = 2048
FIRST_BUNCH_FILES = 256  # each bunch may be twice as large as the one before it
UNREADABLE_AGAIN_S = 30.0
UNSURE_AGAIN_S = 0.1


class Harvest:
    """What one scan has found and not given out yet."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.found: list[Found] = []
        self.held: list[Found] = []  # for the last bunch
        self.carried: list[Carried] = []
        self.problems: list[Problem] = []
        self.agains: list[Again] = []
        self.bunch_files = FIRST_BUNCH_FILES  # so many make a bunch now

    def cannot_read(self, path: bytes, failure: DiskError) -> None:
        """Note that nothing is known of a path and what is below it."""
        self.problems.append(Problem(ProblemKind.UNREADABLE, path, failure.why))
        self.agains.append(Again(path, AgainReason.UNLISTED, UNREADABLE_AGAIN_S))

    def look_again(self, path: bytes) -> None:
        """Have a path looked at once more, soon."""
        self.agains.append(Again(path, AgainReason.UNSURE, UNSURE_AGAIN_S))

    def bunch(self) -> Differences:
        """Give out what cannot belong to anything that went."""
        bunch = Differences(
            found=tuple(self.found),
            problems=tuple(self.problems),
            agains=tuple(self.agains),
        )
        self.found, self.problems, self.agains = [], [], []
        self.bunch_files = min(2 * self.bunch_files, BUNCH_FILES)
        return bunch

    def last_bunch(self, missing: tuple[Missing, ...], moves: dict[bytes, bytes]) -> Differences:
        """Give out all that is left, with what went and the hinted renames."""
        return Differences(
            missing=missing,
            found=(*self.found, *self.held),
            carried=tuple(self.carried),
            moves=moves,
            problems=tuple(self.problems),
            agains=tuple(self.agains),
            is_last=True,
        )
