"""Compare what is on disk with what synced says, and give the differences in bounded bunches.

It makes no event and concludes nothing about moves but which directory is which, since that
decides where it goes on (daemon.matching.is_same_directory). What cannot be listed or read is
never missing: a missing name needs a listing of its directory between two checks of the root.

Order of a scan: (a) known directories against their rows, many in one worker call; a directory
that is not at its place waits. (b) Waiting directories are paired with known ones by evidence.
(c) All rows below known directories that are nowhere yet count as missing. From here on a new
file that has neither the inode nor the size of anything missing cannot be the other half of a
move, so (d) new directories are walked and such files given out at once: an import overlaps with
recording. A pair that turns up late takes its rows back from the missing ones. (e) A directory
that was replaced under its name keeps it if its former self turned up nowhere else.

A caller must not let the same folder be applied to and scanned at once without checking rows
again when acts are recorded (acts carry their rows for that).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.absences import DIRECTORIES_AT_ONCE, Absences
from daemon.comparing import (
    Compared,
    Job,
    Rows,
    Sorter,
    compare_many,
    guarded,
    join,
    names_in,
    stat_many,
)
from daemon.differences import Missing
from daemon.disk import DiskError, NameMissing, RootLost, Stat
from daemon.harvest import Harvest
from daemon.homeless import HomelessDirectories
from daemon.look_set import Again, AgainReason, LookSet, below_any, parent_of
from daemon.reader import Reader
from store.ids import Kind
from store.paths import NAME_LIMIT_BYTES

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import AsyncIterator, Sequence

    from daemon.differences import Differences
    from daemon.disk import Disk
    from daemon.ignore import Ignore
    from daemon.large_reads import Beside
    from daemon.scanning import Clock, Runner, SyncedTree
    from store.records import SyncedRow

NEW_DIRECTORIES_AT_ONCE = 16  # their files are read before more of them are listed
WENT_AGAIN_S = 5.0


async def scan(  # noqa: PLR0917 - one of each thing that a scan needs
    disk: Disk,
    tree: SyncedTree,
    ignore: Ignore,
    runner: Runner,
    clock: Clock,
    where: LookSet,
    beside: Beside | None = None,
) -> AsyncIterator[Differences]:
    """Look where `where` says and give the differences, in bunches; the last has `is_last`.

    Bunches hold up to 2048 files or 32 MiB read, the last one all that may belong together. The
    first ones hold fewer, so that others can begin with them while the rest is looked at. Large
    files are left to `beside`, and taken from there by a later look; a full scan reads all itself.
    Raises RootLost if the root is not healthy: then nothing is known of what is missing, and
    bunches given before stay valid. Other failures are problems and agains in the bunches.
    """
    walk = _Scan(
        disk=disk,
        tree=tree,
        ignore=ignore,
        runner=runner,
        clock=clock,
        where=where,
        beside=None if where.is_full else beside,
    )
    async for bunch in walk.bunches():
        yield bunch


class _Scan:
    """One scan."""

    def __init__(
        self,
        *,
        disk: Disk,
        tree: SyncedTree,
        ignore: Ignore,
        runner: Runner,
        clock: Clock,
        where: LookSet,
        beside: Beside | None,
    ) -> None:
        self._disk = disk
        self._tree = tree
        self._ignore = ignore
        self._runner = runner
        self._where = where
        self._hinted = frozenset() if where.is_full else frozenset(where.paths)
        self._harvest = Harvest()
        self._absences = Absences(tree, ignore)
        self._reader = Reader(disk, runner, clock, where, self._absences, self._harvest, beside)
        self._homeless = HomelessDirectories(
            disk, tree, runner, clock, where, self._absences, self._harvest
        )
        self._jobs = self._homeless.jobs

    async def bunches(self) -> AsyncIterator[Differences]:
        homeless, absences, reader = self._homeless, self._absences, self._reader
        await self._seed()
        while True:
            if self._jobs:
                await self._list(self._jobs, DIRECTORIES_AT_ONCE)
            elif await homeless.pair():
                continue
            elif absences.has_more_below:
                await absences.expand()
            elif homeless.admit() or reader.has_more or homeless.new:
                async for bunch in reader.stream():
                    yield bunch
                if homeless.new:
                    await self._list(homeless.new, NEW_DIRECTORIES_AT_ONCE)
            elif not homeless.keep_replaced():
                break
        yield await self._last()

    # -- where to begin -------------------------------------------------------------------------

    async def _seed(self) -> None:
        where = self._where
        if where.is_full:
            self._jobs.append(Job(b"", b""))
            return
        deep = set(where.trees)
        listed = deep | set(where.directories)
        if b"" in listed:
            self._jobs.append(Job(b"", b"", is_deep=b"" in deep))
        paths = {path for path in (*where.paths, *listed) if path}
        tried: set[bytes] = set()
        while paths:
            below = below_any(paths, paths)
            tried |= paths - below
            further = await self._look_at(sorted(paths - below), deep)
            # Of a directory that went all that stood below is missing too: `rm -r` is one look.
            below -= below_any(below, self._absences.names)
            paths = (further | below) - tried

    async def _look_at(self, paths: list[bytes], deep: set[bytes]) -> set[bytes]:
        """Judge single paths; gives those that must be judged besides.

        A path means what synced says of it only while its directory is the one that synced has
        there: where that is new, gone or another one, the directory is judged instead.
        """
        above = sorted({parent_of(path) for path in paths} - {b""})
        asked = [*paths, *above]
        rows_at = await self._tree.rows_at(asked)
        stats = await self._runner.run(guarded, self._disk, stat_many, self._disk, asked)
        facts = dict(zip(asked, zip(rows_at, stats, strict=True), strict=True))
        sound = {directory for directory in above if _is_sound(*facts[directory])}
        sound.add(b"")
        further = set(above) - sound
        gone: dict[bytes, Rows] = {}
        for path in paths:
            if parent_of(path) not in sound:
                continue
            rows, stat = facts[path]
            if isinstance(stat, DiskError):
                self._harvest.cannot_read(path, stat)
            elif stat is not None:
                self._judge(path, stat, tuple(rows), deep)
            elif rows and self._may_be_elsewhere(path, rows[0]):
                self._harvest.look_again(path)
            elif rows:
                gone[path] = tuple(rows)
        return further | await self._judge_gone(gone)

    def _may_be_elsewhere(self, path: bytes, row: SyncedRow) -> bool:
        """Whether a directory went that nobody spoke of yet: perhaps its new name comes next.

        A save in a directory that is renamed at once is looked at while the rename is not heard.
        """
        where = self._where
        return row.kind is Kind.DIRECTORY and not (
            path in self._hinted or path in where.trees or path in where.directories
        )

    async def _judge_gone(self, gone: dict[bytes, Rows]) -> set[bytes]:
        """Prove that names are gone, by listings of the directories that held them."""
        # A backup name counts as a name of its own again when what it backs up has gone.
        further = {
            path + b"~"
            for path, rows in gone.items()
            if rows[0].kind is Kind.FILE and len(rows[0].name) < NAME_LIMIT_BYTES
        }
        above = sorted({parent_of(path) for path in gone})
        if not above:
            return further
        listings = await self._runner.run(guarded, self._disk, names_in, self._disk, above)
        for directory, names in zip(above, listings, strict=True):
            if isinstance(names, NameMissing):
                if not directory:
                    raise RootLost("scan", "the root cannot be listed")
                further.add(directory)
            elif isinstance(names, DiskError):
                self._harvest.cannot_read(directory, names)
            else:
                self._judge_absent(directory, names, gone)
        return further

    def _judge_absent(self, directory: bytes, names: set[bytes], gone: dict[bytes, Rows]) -> None:
        result = Compared()
        sort = Sorter(
            self._ignore, directory, [], result, lambda path: path[path.rfind(b"/") + 1 :] in names
        )
        for path, rows in gone.items():
            if parent_of(path) != directory:
                continue
            name = path[path.rfind(b"/") + 1 :]
            if name in names:
                self._harvest.look_again(path)
            else:
                sort.miss(name, rows)
        for rows in result.missing:
            self._absences.miss(join(directory, rows[0].name), rows)

    def _judge(self, path: bytes, stat: Stat, rows: Rows, deep: set[bytes]) -> None:
        directory = parent_of(path)
        result = Compared()
        sort = Sorter(self._ignore, directory, [], result, self._exists)
        if self._is_below_ignored(directory):
            return
        sort.take(path[path.rfind(b"/") + 1 :], stat, rows)
        job = Job(directory, directory, is_deep=False)
        deeper, result.deeper = result.deeper, []
        self._merge(job, [], result)
        if deeper:
            self._jobs.append(Job(path, path, is_deep=path in deep))

    def _exists(self, path: bytes) -> bool:
        return self._disk.stat(path) is not None  # one lstat, for names that end in ~ only

    def _is_below_ignored(self, directory: bytes) -> bool:
        return bool(directory) and self._ignore.is_ignored(
            directory, is_directory=True, exists=self._exists
        )

    # -- listing --------------------------------------------------------------------------------

    async def _list(self, queue: deque[Job], limit: int) -> None:
        jobs = [queue.popleft() for _ in range(min(len(queue), limit))]
        asked = [job.known_as for job in jobs if job.known_as is not None]
        answers = iter(await self._tree.rows_in(asked) if asked else [])
        work = [(job, next(answers) if job.known_as is not None else []) for job in jobs]
        compared = await self._runner.run(
            guarded, self._disk, compare_many, self._disk, self._ignore, work
        )
        for (job, rows), result in zip(work, compared, strict=True):
            if result.failure is not None:
                self._cannot_list(job, result.failure)
            else:
                self._merge(job, rows, result)

    def _cannot_list(self, job: Job, failure: DiskError) -> None:
        if not job.path:
            if isinstance(failure, RootLost):
                raise failure
            raise RootLost("scan", failure.why or str(failure)) from failure
        if isinstance(failure, NameMissing):
            self._harvest.look_again(job.path)
            if job.is_deep and job.known_as is not None:
                # It was renamed while we walked, by apply perhaps, which no look takes for a
                # move: to a place that we had passed, or under a directory that stays as it is.
                self._harvest.agains.append(Again(b"", AgainReason.UNLISTED, WENT_AGAIN_S))
        else:
            self._harvest.cannot_read(job.path, failure)
        if job.known_as in self._absences.expanded:
            self._absences.forget_below(job.known_as)

    def _merge(self, job: Job, rows: list[SyncedRow], result: Compared) -> None:
        """Take what a listing gave into the scan."""
        path, known_as = job.path, job.known_as
        if known_as is not None and (known_as in self._absences.expanded or self._hinted):
            self._absences.take_back(known_as, rows)
        for gone in result.missing:
            self._absences.miss(join(known_as or b"", gone[0].name), gone)
        self._harvest.problems += result.problems
        for name, stat, same in result.fresh:
            self._reader.put(job, name, stat, same)
        for name, stat, same in result.homeless:
            self._homeless.put(job, name, stat, same)
        if job.is_deep:
            self._jobs.extend(
                Job(join(path, name), join(known_as or b"", name), is_held=job.is_held)
                for name in result.deeper
            )

    # -- the last bunch ---------------------------------------------------------------------------

    async def _last(self) -> Differences:
        """Read what was put aside and give it with all that is missing."""
        await self._reader.read_held()
        if self._absences.names or self._harvest.carried or self._where.is_full:
            await self._runner.run(self._disk.check_root)
        return self._harvest.last_bunch(self._proven(), self._where.moves)

    def _proven(self) -> tuple[Missing, ...]:
        """Give what is missing, but for what may be the file that could not be read elsewhere."""
        missing: list[Missing] = []
        for path, rows in self._absences.names.items():
            if rows[0].inode in self._reader.unread:
                self._harvest.look_again(path)
            else:
                missing.append(Missing(path, rows))
        return tuple(missing)


def _is_sound(rows: Sequence[SyncedRow], stat: Stat | DiskError | None) -> bool:
    """Whether the directory at a path is the one that synced has there."""
    return isinstance(stat, Stat) and any(
        row.kind is Kind.DIRECTORY and row.inode == stat.inode for row in rows
    )
