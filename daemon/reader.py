"""Read the files of a scan that are new or not as they were, in groups, and take what was read.

What may be the other half of a move is put aside until all that went is known. A file that changes
while it is read, or was changed too soon before, is looked at once more.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from daemon.comparing import File, Job, Rows, join, read_many
from daemon.differences import (
    Differences,
    Found,
    Problem,
    ProblemKind,
    has_same_times,
    has_stat,
    is_racy,
    is_row_racy,
    racy_margin_ns,
)
from daemon.disk import FileKind, Looked, LookFailure, Stat
from daemon.harvest import BUNCH_FILES, UNREADABLE_AGAIN_S, UNSURE_AGAIN_S, Harvest
from daemon.large_reads import LARGE_BYTES
from daemon.look_set import Again, AgainReason, LookSet
from store.ids import Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from daemon.absences import Absences
    from daemon.disk import Disk
    from daemon.large_reads import Beside
    from daemon.scanning import Clock, Runner
    from store.records import SyncedRow

BUNCH_BYTES = 32 << 20
REST_NS = 2_000_000_000  # a file open for writing is read once it did not change for so long
_RACY_SLACK_S = 0.005
_WATCHED_GROWTH_BYTES = 1 << 16  # a listed file below this is small enough to be read twice
_HARD_LINKS_TOLD = 100  # a folder of them says no more with a line for each
_NS = 1_000_000_000


class Reader:
    """The files of one scan that are to be read."""

    def __init__(  # noqa: PLR0917 - one of each thing that reading needs
        self,
        disk: Disk,
        runner: Runner,
        clock: Clock,
        where: LookSet,
        absences: Absences,
        harvest: Harvest,
        beside: Beside | None = None,
    ) -> None:
        """Begin with none; large files are left to `beside`."""
        self._disk = disk
        self._runner = runner
        self._clock = clock
        self._where = where
        self._absences = absences
        self._harvest = harvest
        self._beside = beside
        self._fresh: deque[File] = deque()
        self._held: list[File] = []
        self._seen: set[bytes] = set()  # of a scan that may come by twice
        self._hard_links = 0
        self._hinted = frozenset() if where.is_full else frozenset(where.paths)
        self.unread: set[int] = set()  # inodes that could not be read

    @property
    def has_more(self) -> bool:
        """Whether stream() has something to read."""
        return bool(self._fresh)

    def put(self, job: Job, name: bytes, stat: Stat, same: Rows) -> None:
        """Have a file or link read; `same` are the rows of its name and kind."""
        path = join(job.path, name)
        if not self._where.is_full:
            if path in self._seen:
                return
            self._seen.add(path)
            if same and has_stat(same[0], stat) and self._is_too_soon(path, stat):
                return
        is_held = job.is_held
        if same:
            if same[0].inode != stat.inode:
                self._absences.inodes.add(same[0].inode)
                is_held = True
        elif self._absences.names and job.known_as is not None:
            # Something of another kind stood here: it is to be deleted or moved first.
            is_held = is_held or join(job.known_as, name) in self._absences.names
        self._fresh.append(File(path, stat, same, is_held))

    def _is_too_soon(self, path: bytes, stat: Stat) -> bool:
        """Leave a file that looks as it did, and changed just now, for when a look can be sure.

        That is what we put in place ourselves, mostly: it would be read now and once more then.
        """
        if not is_racy(stat.mtime_ns, stat.ctime_ns, self._clock.now_ns()):
            return False
        self._harvest.agains.append(_racy_again(path, stat))
        return True

    async def stream(self) -> AsyncIterator[Differences]:
        """Read what waits; give out what cannot belong to anything that went."""
        while self._fresh:
            group = self._next_group()
            if group:
                self._harvest.found += await self._read(group)
            is_large = sum(one.stat.size for one in group) >= BUNCH_BYTES
            if is_large or len(self._harvest.found) >= self._harvest.bunch_files:
                yield self._harvest.bunch()
        if len(self._harvest.found) >= self._harvest.bunch_files:
            yield self._harvest.bunch()

    def _next_group(self) -> list[File]:
        """Take files up to the bounds; what may be half of a move is put aside."""
        group: list[File] = []
        size = 0
        while self._fresh and len(group) < self._harvest.bunch_files and size < BUNCH_BYTES:
            one = self._fresh.popleft()
            if one.is_held or (not one.rows and self._absences.may_be_of(one.stat)):
                self._held.append(one)
            elif not self._is_read_beside(one):
                group.append(one)
                size += one.stat.size
        return group

    def _is_read_beside(self, one: File) -> bool:
        """Take a large file as it was read, or leave it to be read and looked at again."""
        if self._beside is None or one.stat.size < LARGE_BYTES:
            return False
        look = self._beside.take(one)
        if look is None:
            self._beside.put(one, is_doubtful=self._is_doubtful(one, self._clock.now_ns()))
            self.unread.add(one.stat.inode)
        elif (found := self._take_look(one, look)) is not None:
            self._harvest.found.append(found)
        return True

    async def _read(self, group: list[File]) -> list[Found]:
        now_ns = self._clock.now_ns()
        doubtful = [self._is_doubtful(one, now_ns) for one in group]
        looks = await self._runner.run(read_many, self._disk, group, doubtful)
        return [
            found
            for one, look in zip(group, looks, strict=True)
            if (found := self._take_look(one, look)) is not None
        ]

    def _is_doubtful(self, one: File, now_ns: int) -> bool:
        """Whether to ask if somebody is still writing to a file."""
        stat = one.stat
        if stat.kind is not FileKind.FILE or not -REST_NS < now_ns - stat.mtime_ns < REST_NS:
            return False
        if one.path in self._hinted:
            return one.path not in self._where.settled
        return stat.size == 0 or stat.size >= _WATCHED_GROWTH_BYTES

    def _take_look(self, one: File, look: Looked | LookFailure) -> Found | None:
        if isinstance(look, Looked) and look.stat.kind == one.stat.kind:
            self._note(one, look)
            return Found(one.path, one.rows, look)
        self.unread.add(one.stat.inode)
        if look is LookFailure.CHANGING:
            self._harvest.agains.append(Again(one.path, AgainReason.CHANGING, UNSURE_AGAIN_S))
        elif look is LookFailure.UNREADABLE:
            self._harvest.problems.append(Problem(ProblemKind.UNREADABLE, one.path))
            self._harvest.agains.append(Again(one.path, AgainReason.UNSURE, UNREADABLE_AGAIN_S))
        else:
            self._harvest.look_again(one.path)
        return None

    def _note(self, one: File, look: Looked) -> None:
        stat = look.stat
        if is_racy(stat.mtime_ns, stat.ctime_ns, look.looked_at_ns):
            self._harvest.agains.append(_racy_again(one.path, stat))
        if stat.links > 1 and not one.rows and self._hard_links < _HARD_LINKS_TOLD:
            self._hard_links += 1
            self._harvest.problems.append(Problem(ProblemKind.HARD_LINKED, one.path))

    async def read_held(self) -> None:
        """Read what was put aside, now that all that went is known."""
        known = self._displaced_rows()
        held = self._harvest.held
        group: list[File] = []
        size = 0
        for one in self._held:
            trusted = self._trusted(one, known)
            if trusted is not None:
                held.append(trusted)
                continue
            group.append(one)
            size += one.stat.size
            if len(group) >= BUNCH_FILES or size >= BUNCH_BYTES:
                held += await self._read(group)
                group, size = [], 0
        if group:
            held += await self._read(group)

    def _displaced_rows(self) -> dict[int, SyncedRow]:
        """Give the rows that are not at their place, by inode."""
        known = {
            rows[0].inode: rows[0]
            for rows in self._absences.names.values()
            if rows[0].kind is not Kind.DIRECTORY
        }
        for one in self._held:
            if one.rows and one.rows[0].inode != one.stat.inode:
                known[one.rows[0].inode] = one.rows[0]
        return known

    def _trusted(self, one: File, known: dict[int, SyncedRow]) -> Found | None:
        """Take the content of a renamed file for known, as its directory's rename would.

        A rename alone changes ctime: inode, size and mtime stay, and the row is not racy.
        """
        row = known.get(one.stat.inode)
        stat = one.stat
        if (
            row is None
            or stat.links != 1
            or int(row.kind) != stat.kind
            or not has_same_times(row, stat)
            or is_row_racy(row)
        ):
            return None
        return Found(one.path, one.rows, Looked(stat, row.value, row.looked_at_ns))


def _racy_again(path: bytes, stat: Stat) -> Again:
    delay_s = racy_margin_ns(stat.mtime_ns) / _NS + _RACY_SLACK_S
    return Again(path, AgainReason.RACY, delay_s)
