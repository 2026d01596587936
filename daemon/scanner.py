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

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

from daemon.comparing import (
    Compared,
    File,
    Job,
    Rows,
    Sorter,
    compare_many,
    guarded,
    inodes_in,
    join,
    names_in,
    read_many,
    stat_many,
)
from daemon.differences import (
    Carried,
    Differences,
    Found,
    Missing,
    Problem,
    ProblemKind,
    has_same_times,
    has_stat,
    is_racy,
    is_row_racy,
    racy_margin_ns,
)
from daemon.disk import (
    DiskError,
    FileKind,
    Looked,
    LookFailure,
    NameMissing,
    RootLost,
    Stat,
)
from daemon.looks import Again, AgainReason, LookSet, parent_of
from daemon.matching import is_same_directory
from store.ids import Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Container, Sequence

    from daemon.disk import Disk
    from daemon.ignore import Ignore
    from store.records import SyncedRow

P = ParamSpec("P")
T = TypeVar("T")

BUNCH_FILES = 2048
FIRST_BUNCH_FILES = 256  # each bunch may be twice as large as the one before it
BUNCH_BYTES = 32 << 20
DIRECTORIES_AT_ONCE = 128
NEW_DIRECTORIES_AT_ONCE = 16  # their files are read before more of them are listed
REST_NS = 2_000_000_000  # a file open for writing is read once it did not change for so long
UNREADABLE_AGAIN_S = 30.0
UNSURE_AGAIN_S = 0.1
WENT_AGAIN_S = 5.0
_RACY_SLACK_S = 0.005
_WATCHED_GROWTH_BYTES = 1 << 16  # a listed file below this is small enough to be read twice
_HARD_LINKS_TOLD = 100  # a folder of them says no more with a line for each
_NS = 1_000_000_000


class Runner(Protocol):
    """Runs blocking calls away from the loop."""

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `fn` in a worker and give what it returns or raises."""


class Clock(Protocol):
    """Tells the time."""

    def now_ns(self) -> int:
        """Give the wall clock, in nanoseconds."""


class SyncedTree(Protocol):
    """What synced says, by the paths of this disk. Answers are of the moment they are given."""

    async def rows_in(self, directories: Sequence[bytes]) -> list[list[SyncedRow]]:
        """Give, for each directory path, the rows of all names that stand in it."""

    async def rows_at(self, paths: Sequence[bytes]) -> list[list[SyncedRow]]:
        """Give, for each path, the rows that stand there (several where collapsed)."""


@dataclass(slots=True)
class _Homeless:
    """A directory on disk that is not what synced has at its path."""

    path: bytes
    stat: Stat
    known_as: bytes | None  # where synced has what stood here before
    is_held: bool
    is_refused: bool = False


async def scan(  # noqa: PLR0917 - one of each thing that a scan needs
    disk: Disk,
    tree: SyncedTree,
    ignore: Ignore,
    runner: Runner,
    clock: Clock,
    where: LookSet,
) -> AsyncIterator[Differences]:
    """Look where `where` says and give the differences, in bunches; the last has `is_last`.

    Bunches hold up to 2048 files or 32 MiB read, the last one all that may belong together. The
    first ones hold fewer, so that others can begin with them while the rest is looked at.
    Raises RootLost if the root is not healthy: then nothing is known of what is missing, and
    bunches given before stay valid. Other failures are problems and agains in the bunches.
    """
    walk = _Scan(disk=disk, tree=tree, ignore=ignore, runner=runner, clock=clock, where=where)
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
    ) -> None:
        self._disk = disk
        self._tree = tree
        self._ignore = ignore
        self._runner = runner
        self._clock = clock
        self._where = where
        self._jobs: deque[Job] = deque()
        self._new: deque[Job] = deque()  # directories unknown to synced
        self._homeless: dict[bytes, _Homeless] = {}
        self._lost: dict[int, tuple[bytes, Rows]] = {}  # known directories not at their place
        self._unexpanded: deque[bytes] = deque()
        self._expanded: set[bytes] = set()
        self._placed: set[bytes] = set()  # directories on disk that are decided
        self._adopted: set[bytes] = set()  # known directories that turned up after all
        self._missing: dict[bytes, Rows] = {}
        self._fresh: deque[File] = deque()
        self._held: list[File] = []
        self._seen: set[bytes] = set()  # of a scan that may come by twice
        self._displaced: set[int] = set()  # inodes of rows that are not at their place
        self._sizes: set[int] = set()
        self._unread: set[int] = set()  # inodes that could not be read
        self._found: list[Found] = []
        self._held_found: list[Found] = []
        self._carried: list[Carried] = []
        self._problems: list[Problem] = []
        self._agains: list[Again] = []
        self._hard_links = 0
        self._bunch_files = FIRST_BUNCH_FILES
        self._hinted = frozenset() if where.is_full else frozenset(where.paths)

    async def bunches(self) -> AsyncIterator[Differences]:
        await self._seed()
        while True:
            if self._jobs:
                await self._list(self._jobs, DIRECTORIES_AT_ONCE)
            elif await self._pair():
                continue
            elif self._unexpanded:
                await self._expand()
            elif self._admit() or self._fresh or self._new:
                async for bunch in self._stream():
                    yield bunch
                if self._new:
                    await self._list(self._new, NEW_DIRECTORIES_AT_ONCE)
            elif not self._keep_replaced():
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
            below = {path for path in paths if _is_below_one_of(path, paths)}
            tried |= paths - below
            further = await self._look_at(sorted(paths - below), deep)
            # Of a directory that went all that stood below is missing too: `rm -r` is one look.
            below = {path for path in below if not _is_below_one_of(path, self._missing)}
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
                self._cannot_read(path, stat)
            elif stat is not None:
                self._judge(path, stat, tuple(rows), deep)
            elif rows:
                gone[path] = tuple(rows)
        return further | await self._judge_gone(gone)

    async def _judge_gone(self, gone: dict[bytes, Rows]) -> set[bytes]:
        """Prove that names are gone, by listings of the directories that held them."""
        # A backup name counts as a name of its own again when what it backs up has gone.
        further = {path + b"~" for path, rows in gone.items() if rows[0].kind is Kind.FILE}
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
                self._cannot_read(directory, names)
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
                self._agains.append(Again(path, AgainReason.UNSURE, UNSURE_AGAIN_S))
            else:
                sort.miss(name, rows)
        for rows in result.missing:
            self._miss(join(directory, rows[0].name), rows)

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
            self._agains.append(Again(job.path, AgainReason.UNSURE, UNSURE_AGAIN_S))
            if job.is_deep and job.known_as is not None:
                # It was renamed while we walked, by apply perhaps, which no look takes for a
                # move: to a place that we had passed, or under a directory that stays as it is.
                self._agains.append(Again(b"", AgainReason.UNLISTED, WENT_AGAIN_S))
        else:
            self._cannot_read(job.path, failure)
        if job.known_as in self._expanded:
            self._unmiss_below(job.known_as)

    def _cannot_read(self, path: bytes, failure: DiskError) -> None:
        self._problems.append(Problem(ProblemKind.UNREADABLE, path, failure.why))
        self._agains.append(Again(path, AgainReason.UNLISTED, UNREADABLE_AGAIN_S))

    def _merge(self, job: Job, rows: list[SyncedRow], result: Compared) -> None:
        """Take what a listing gave into the scan."""
        path, known_as = job.path, job.known_as
        if known_as is not None and (known_as in self._expanded or self._hinted):
            self._take_back(known_as, rows)
        for gone in result.missing:
            self._miss(join(known_as or b"", gone[0].name), gone)
        self._problems += result.problems
        for name, stat, same in result.fresh:
            self._add_fresh(job, name, stat, same)
        for name, stat, same in result.homeless:
            former = None if known_as is None else join(known_as, name)
            if same and former is not None:
                self._miss(former, same)
            if former not in self._missing:
                former = None
            there = join(path, name)
            if there in self._placed:  # hinted, and found once more by a listing
                continue
            self._homeless[there] = _Homeless(
                there, stat, former, job.is_held or former is not None
            )
        if job.is_deep:
            self._jobs.extend(
                Job(join(path, name), join(known_as or b"", name), is_held=job.is_held)
                for name in result.deeper
            )

    def _add_fresh(self, job: Job, name: bytes, stat: Stat, same: Rows) -> None:
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
                self._displaced.add(same[0].inode)
                is_held = True
        elif self._missing and job.known_as is not None:
            # Something of another kind stood here: it is to be deleted or moved first.
            is_held = is_held or join(job.known_as, name) in self._missing
        self._fresh.append(File(path, stat, same, is_held))

    def _is_too_soon(self, path: bytes, stat: Stat) -> bool:
        """Leave a file that looks as it did, and changed just now, for when a look can be sure.

        That is what we put in place ourselves, mostly: it would be read now and once more then.
        """
        if not is_racy(stat.mtime_ns, stat.ctime_ns, self._clock.now_ns()):
            return False
        self._agains.append(_racy_again(path, stat))
        return True

    def _miss(self, path: bytes, rows: Rows) -> None:
        """Count a known name as missing until it turns up."""
        if path in self._adopted:
            return
        self._missing[path] = rows
        if rows[0].kind is Kind.DIRECTORY:
            if not rows[0].leftover:
                self._lost[rows[0].inode] = (path, rows)
            self._unexpanded.append(path)
        else:
            self._displaced.add(rows[0].inode)
            self._sizes.add(rows[0].size)

    def _take_back(self, known_as: bytes, rows: list[SyncedRow]) -> None:
        """Forget that what stood in a directory is missing: the directory turned up."""
        self._expanded.discard(known_as)
        for row in rows:
            path = join(known_as, row.name)
            self._missing.pop(path, None)
            if row.kind is Kind.DIRECTORY and self._lost.get(row.inode, (b"",))[0] == path:
                del self._lost[row.inode]

    def _unmiss_below(self, directory: bytes) -> None:
        prefix = directory + b"/"
        for path in [path for path in self._missing if path.startswith(prefix)]:
            del self._missing[path]

    async def _expand(self) -> None:
        """Count all rows below known directories that are nowhere as missing."""
        paths: list[bytes] = []
        while self._unexpanded and len(paths) < DIRECTORIES_AT_ONCE:
            path = self._unexpanded.popleft()
            if path in self._missing:
                paths.append(path)
        for path, rows in zip(paths, await self._tree.rows_in(paths), strict=True):
            self._expanded.add(path)
            known: dict[bytes, list[SyncedRow]] = {}
            for row in rows:
                known.setdefault(row.name, []).append(row)
            result = Compared()
            sort = Sorter(self._ignore, path, [], result, lambda _path: False)
            for name, few in known.items():
                sort.miss(name, tuple(few))
            for few_rows in result.missing:
                self._miss(join(path, few_rows[0].name), few_rows)

    # -- directories that stand elsewhere ---------------------------------------------------------

    async def _pair(self) -> bool:
        """Find known directories for those that have no home; whether any was found."""
        if not self._lost:
            return False
        is_any = False
        for homeless in list(self._homeless.values()):
            known = self._lost.get(homeless.stat.inode)
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
            if path in self._homeless:
                return True
        return False

    async def _is_proven(
        self, homeless: _Homeless, known: tuple[bytes, Rows], *, is_hinted: bool
    ) -> bool:
        row = known[1][0]
        if is_hinted or row.mtime_ns == homeless.stat.mtime_ns:
            return is_same_directory(row, homeless.stat, (), (), is_hinted=is_hinted)
        [rows] = await self._tree.rows_in([known[0]])
        inodes = await self._runner.run(inodes_in, self._disk, homeless.path)
        return is_same_directory(row, homeless.stat, rows, inodes, is_hinted=False)

    def _adopt(
        self, homeless: _Homeless, known_as: bytes, rows: Rows, *, is_elsewhere: bool
    ) -> None:
        """Take a directory for the known one; what is below is compared with its rows."""
        del self._homeless[homeless.path]
        self._lost.pop(rows[0].inode, None)
        self._missing.pop(known_as, None)
        self._adopted.add(known_as)
        self._placed.add(homeless.path)
        looked = Looked(homeless.stat, b"", self._clock.now_ns())
        if is_elsewhere:
            self._carried.append(Carried(known_as, homeless.path, rows, looked))
        else:
            self._held_found.append(Found(homeless.path, rows, looked))
        self._jobs.append(Job(homeless.path, known_as, is_held=True))

    def _keep_replaced(self) -> bool:
        """Let directories that were replaced under their name keep it; whether there were any."""
        is_any = False
        for homeless in list(self._homeless.values()):
            rows = self._rows_replaced(homeless)
            if self._is_below_homeless(homeless.path):
                continue
            if rows is not None and homeless.known_as is not None:
                self._adopt(homeless, homeless.known_as, rows, is_elsewhere=False)
                is_any = True
        return is_any

    def _rows_replaced(self, homeless: _Homeless) -> Rows | None:
        """Give the rows of the directory that stood here and turned up nowhere else."""
        if homeless.known_as is None:
            return None
        rows = self._missing.get(homeless.known_as)
        return rows if rows is not None and rows[0].kind is Kind.DIRECTORY else None

    def _admit(self) -> bool:
        """Take directories that nothing claims for new ones; whether there were any."""
        admitted = [
            homeless
            for homeless in self._homeless.values()
            if self._rows_replaced(homeless) is None and not self._is_below_homeless(homeless.path)
        ]
        now_ns = self._clock.now_ns() if admitted else 0
        for homeless in admitted:
            del self._homeless[homeless.path]
            self._placed.add(homeless.path)
            found = Found(homeless.path, (), Looked(homeless.stat, b"", now_ns))
            (self._held_found if homeless.is_held else self._found).append(found)
            self._new.append(Job(homeless.path, None, is_held=homeless.is_held))
        return bool(admitted)

    # -- reading ----------------------------------------------------------------------------------

    async def _stream(self) -> AsyncIterator[Differences]:
        """Read what waits; give out what cannot belong to anything that went."""
        while self._fresh:
            group = self._next_group()
            if group:
                self._found += await self._read(group)
            is_large = sum(one.stat.size for one in group) >= BUNCH_BYTES
            if is_large or len(self._found) >= self._bunch_files:
                yield self._bunch()
        if len(self._found) >= self._bunch_files:
            yield self._bunch()

    def _next_group(self) -> list[File]:
        """Take files up to the bounds; what may be half of a move is put aside."""
        group: list[File] = []
        size = 0
        while self._fresh and len(group) < self._bunch_files and size < BUNCH_BYTES:
            one = self._fresh.popleft()
            if one.is_held or (not one.rows and self._may_have_moved(one.stat)):
                self._held.append(one)
            else:
                group.append(one)
                size += one.stat.size
        return group

    def _may_have_moved(self, stat: Stat) -> bool:
        return stat.inode in self._displaced or (stat.size > 0 and stat.size in self._sizes)

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
        self._unread.add(one.stat.inode)
        if look is LookFailure.CHANGING:
            self._agains.append(Again(one.path, AgainReason.CHANGING, UNSURE_AGAIN_S))
        elif look is LookFailure.UNREADABLE:
            self._problems.append(Problem(ProblemKind.UNREADABLE, one.path))
            self._agains.append(Again(one.path, AgainReason.UNSURE, UNREADABLE_AGAIN_S))
        else:
            self._agains.append(Again(one.path, AgainReason.UNSURE, UNSURE_AGAIN_S))
        return None

    def _note(self, one: File, look: Looked) -> None:
        stat = look.stat
        if is_racy(stat.mtime_ns, stat.ctime_ns, look.looked_at_ns):
            self._agains.append(_racy_again(one.path, stat))
        if stat.links > 1 and not one.rows and self._hard_links < _HARD_LINKS_TOLD:
            self._hard_links += 1
            self._problems.append(Problem(ProblemKind.HARD_LINKED, one.path))

    def _bunch(self) -> Differences:
        bunch = Differences(
            found=tuple(self._found),
            problems=tuple(self._problems),
            agains=tuple(self._agains),
        )
        self._found, self._problems, self._agains = [], [], []
        self._bunch_files = min(2 * self._bunch_files, BUNCH_FILES)
        return bunch

    # -- the last bunch ---------------------------------------------------------------------------

    async def _last(self) -> Differences:
        """Read what was put aside and give it with all that is missing."""
        known = self._displaced_rows()
        group: list[File] = []
        size = 0
        for one in self._held:
            trusted = self._trusted(one, known)
            if trusted is not None:
                self._held_found.append(trusted)
                continue
            group.append(one)
            size += one.stat.size
            if len(group) >= BUNCH_FILES or size >= BUNCH_BYTES:
                self._held_found += await self._read(group)
                group, size = [], 0
        if group:
            self._held_found += await self._read(group)
        if self._missing or self._carried or self._where.is_full:
            await self._runner.run(self._disk.check_root)
        missing = self._proven()
        return Differences(
            missing=missing,
            found=(*self._found, *self._held_found),
            carried=tuple(self._carried),
            moves=self._where.moves,
            problems=tuple(self._problems),
            agains=tuple(self._agains),
            is_last=True,
        )

    def _displaced_rows(self) -> dict[int, SyncedRow]:
        """Give the rows that are not at their place, by inode."""
        known = {
            rows[0].inode: rows[0]
            for rows in self._missing.values()
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

    def _proven(self) -> tuple[Missing, ...]:
        """Give what is missing, but for what may be the file that could not be read elsewhere."""
        missing: list[Missing] = []
        for path, rows in self._missing.items():
            if rows[0].inode in self._unread:
                self._agains.append(Again(path, AgainReason.UNSURE, UNSURE_AGAIN_S))
            else:
                missing.append(Missing(path, rows))
        return tuple(missing)


def _is_below_one_of(path: bytes, directories: Container[bytes]) -> bool:
    """Whether a directory above this path is among those given."""
    while path := parent_of(path):
        if path in directories:
            return True
    return False


def _racy_again(path: bytes, stat: Stat) -> Again:
    delay_s = racy_margin_ns(stat.mtime_ns) / _NS + _RACY_SLACK_S
    return Again(path, AgainReason.RACY, delay_s)


def _is_sound(rows: Sequence[SyncedRow], stat: Stat | DiskError | None) -> bool:
    """Whether the directory at a path is the one that synced has there."""
    return isinstance(stat, Stat) and any(
        row.kind is Kind.DIRECTORY and row.inode == stat.inode for row in rows
    )
