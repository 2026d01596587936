"""Find out what the directories are that a scan finds where synced has another one, or none.

Each is a known directory that was moved here, by evidence (daemon.matching.is_same_directory); or a
new one; or, if what stood under its name turned up nowhere else, that one with other insides.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from daemon.comparing import Job, Rows, inodes_in, join
from daemon.differences import Carried, Found
from daemon.disk import Looked, Stat
from daemon.look_set import LookSet, parent_of
from daemon.matching import is_same_directory
from store.ids import Kind

if TYPE_CHECKING:
    from daemon.absences import Absences
    from daemon.disk import Disk
    from daemon.harvest import Harvest
    from daemon.scanning import Clock, Runner, SyncedTree


@dataclass(slots=True)
class Homeless:
    """A directory on disk that is not what synced has at its path."""

    path: bytes
    stat: Stat
    known_as: bytes | None  # where synced has what stood here before
    is_held: bool
    is_refused: bool = False


class HomelessDirectories:
    """The directories of one scan that have no place yet, and where to go on once they have."""

    def __init__(  # noqa: PLR0917 - one of each thing that a scan needs
        self,
        disk: Disk,
        tree: SyncedTree,
        runner: Runner,
        clock: Clock,
        where: LookSet,
        absences: Absences,
        harvest: Harvest,
    ) -> None:
        """Begin with none."""
        self._disk = disk
        self._tree = tree
        self._runner = runner
        self._clock = clock
        self._where = where
        self._absences = absences
        self._harvest = harvest
        self._waiting: dict[bytes, Homeless] = {}
        self._placed: set[bytes] = set()  # directories on disk that are decided
        self.jobs: deque[Job] = deque()  # directories that synced knows, to be compared
        self.new: deque[Job] = deque()  # and those that it does not

    def put(self, job: Job, name: bytes, stat: Stat, same: Rows) -> None:
        """Take a directory that this job listed; `same` are the rows of its name and kind."""
        former = None if job.known_as is None else join(job.known_as, name)
        if same and former is not None:
            self._absences.miss(former, same)
        if former not in self._absences.names:
            former = None
        path = join(job.path, name)
        if path not in self._placed:  # else hinted, and found once more by a listing
            is_held = job.is_held or former is not None
            self._waiting[path] = Homeless(path, stat, former, is_held)

    async def pair(self) -> bool:
        """Find known directories for those that have no home; whether any was found."""
        if not self._absences.lost:
            return False
        is_any = False
        for homeless in list(self._waiting.values()):
            known = self._absences.lost.get(homeless.stat.inode)
            if known is None or homeless.is_refused or self._is_below_homeless(homeless.path):
                continue
            is_hinted = self._where.moves.get(homeless.path) == known[0]
            if await self._is_proven(homeless, known, is_hinted=is_hinted):
                self._adopt(homeless, *known, is_elsewhere=True)
                is_any = True
            else:
                homeless.is_refused = True
        return is_any

    def _is_below_homeless(self, path: bytes) -> bool:
        """Whether a directory above waits too; a directory never moves into a new self."""
        while path:
            path = parent_of(path)
            if path in self._waiting:
                return True
        return False

    async def _is_proven(
        self, homeless: Homeless, known: tuple[bytes, Rows], *, is_hinted: bool
    ) -> bool:
        row = known[1][0]
        if is_hinted or row.mtime_ns == homeless.stat.mtime_ns:
            return is_same_directory(row, homeless.stat, (), (), is_hinted=is_hinted)
        [rows] = await self._tree.rows_in([known[0]])
        inodes = await self._runner.run(inodes_in, self._disk, homeless.path)
        return is_same_directory(row, homeless.stat, rows, inodes, is_hinted=False)

    def _adopt(
        self, homeless: Homeless, known_as: bytes, rows: Rows, *, is_elsewhere: bool
    ) -> None:
        """Take a directory for the known one; what is below is compared with its rows."""
        del self._waiting[homeless.path]
        self._absences.turned_up(known_as, rows)
        self._placed.add(homeless.path)
        looked = Looked(homeless.stat, b"", self._clock.now_ns())
        if is_elsewhere:
            self._harvest.carried.append(Carried(known_as, homeless.path, rows, looked))
        else:
            self._harvest.held.append(Found(homeless.path, rows, looked))
        self.jobs.append(Job(homeless.path, known_as, is_held=True))

    def keep_replaced(self) -> bool:
        """Let directories that were replaced under their name keep it; whether there were any."""
        is_any = False
        for homeless in list(self._waiting.values()):
            rows = self._rows_replaced(homeless)
            if self._is_below_homeless(homeless.path):
                continue
            if rows is not None and homeless.known_as is not None:
                self._adopt(homeless, homeless.known_as, rows, is_elsewhere=False)
                is_any = True
        return is_any

    def _rows_replaced(self, homeless: Homeless) -> Rows | None:
        """Give the rows of the directory that stood here and turned up nowhere else."""
        if homeless.known_as is None:
            return None
        rows = self._absences.names.get(homeless.known_as)
        return rows if rows is not None and rows[0].kind is Kind.DIRECTORY else None

    def admit(self) -> bool:
        """Take directories that nothing claims for new ones; whether there were any."""
        admitted = [
            homeless
            for homeless in self._waiting.values()
            if self._rows_replaced(homeless) is None and not self._is_below_homeless(homeless.path)
        ]
        now_ns = self._clock.now_ns() if admitted else 0
        for homeless in admitted:
            del self._waiting[homeless.path]
            self._placed.add(homeless.path)
            found = Found(homeless.path, (), Looked(homeless.stat, b"", now_ns))
            (self._harvest.held if homeless.is_held else self._harvest.found).append(found)
            self.new.append(Job(homeless.path, None, is_held=homeless.is_held))
        return bool(admitted)
