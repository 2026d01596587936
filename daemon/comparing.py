"""Compare listings with rows, in worker threads, many directories in one call.

What is unchanged costs one comparison and leaves no trace. Nothing here waits, asks synced or
keeps anything; it decides about single names only, never about moves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from daemon.differences import Problem, ProblemKind, has_stat, is_row_racy
from daemon.disk import DiskError, FileKind, Looked, LookFailure, NameMissing, RootLost, Stat
from store.ids import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from daemon.disk import Disk
    from daemon.ignore import Ignore
    from store.records import SyncedRow

P = ParamSpec("P")
T = TypeVar("T")

_RACY_LIMIT_NS = 2_000_000_000  # older than this is never racy
Rows = tuple["SyncedRow", ...]


@dataclass(slots=True)
class Job:
    """A directory to be listed: where it is, and where synced has it (None: nowhere)."""

    path: bytes
    known_as: bytes | None
    is_deep: bool = True
    is_held: bool = False  # what is new below waits for the last bunch


@dataclass(slots=True)
class Compared:
    """What one listing against its rows gave; names only."""

    listing: dict[bytes, Stat] = field(default_factory=dict)
    fresh: list[tuple[bytes, Stat, Rows]] = field(default_factory=list)  # files and links
    homeless: list[tuple[bytes, Stat, Rows]] = field(default_factory=list)
    deeper: list[bytes] = field(default_factory=list)
    missing: list[Rows] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    failure: DiskError | None = None


@dataclass(slots=True)
class File:
    """A file or link to be read."""

    path: bytes
    stat: Stat
    rows: Rows
    is_held: bool


def join(directory: bytes, name: bytes) -> bytes:
    """Name what stands in a directory."""
    return directory + b"/" + name if directory else name


def guarded(disk: Disk, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `fn` between two checks of the root. Raises RootLost."""
    disk.check_root()
    result = fn(*args, **kwargs)
    disk.check_root()
    return result


def compare_many(
    disk: Disk, ignore: Ignore, work: Sequence[tuple[Job, list[SyncedRow]]]
) -> list[Compared]:
    """Compare many directories in one call; a failure concerns its own directory only."""
    return [_compare(disk, ignore, job, rows) for job, rows in work]


def _compare(disk: Disk, ignore: Ignore, job: Job, rows: list[SyncedRow]) -> Compared:
    """List one directory and sort its names; an unchanged file costs one comparison."""
    result = Compared()
    try:
        listing = disk.list_directory(job.path)
    except DiskError as failure:
        result.failure = failure
        return result
    known = {row.name: row for row in rows}
    more = _collapsed(rows, known) if len(known) != len(rows) else {}
    sort = Sorter(ignore, job.path, listing, result)
    take = known.pop
    file: int = FileKind.FILE
    directory: int = FileKind.DIRECTORY
    deeper = result.deeper
    for name, stat in listing:
        row = take(name, None)
        if row is None:
            sort.take(name, stat, ())
        elif (
            stat.kind == file
            and row.inode == stat.inode
            and row.mtime_ns == stat.mtime_ns
            and row.ctime_ns == stat.ctime_ns
            and row.size == stat.size
            and row.kind == file
            and (row.looked_at_ns - row.mtime_ns > _RACY_LIMIT_NS or not is_row_racy(row))
        ):
            continue
        elif stat.kind == directory and row.inode == stat.inode and row.kind == directory:
            deeper.append(name)
        else:
            sort.take(name, stat, more.get(name) or (row,))
    for name, row in known.items():
        sort.miss(name, more.get(name) or (row,))
    sort.drop_ignored(deeper)
    return result


def _collapsed(rows: list[SyncedRow], known: dict[bytes, SyncedRow]) -> dict[bytes, Rows]:
    """Gather the names that several rows share; the first row of each speaks for all."""
    more: dict[bytes, list[SyncedRow]] = {}
    for row in reversed(rows):
        more.setdefault(row.name, []).append(row)
        known[row.name] = row
    return {name: tuple(reversed(few)) for name, few in more.items() if len(few) > 1}


class Sorter:
    """Sorts the names of one directory that are not simply unchanged."""

    def __init__(
        self,
        ignore: Ignore,
        directory: bytes,
        listing: list[tuple[bytes, Stat]],
        result: Compared,
        exists: Callable[[bytes], bool] | None = None,
    ) -> None:
        """Sort into `result`; without `exists`, what exists is what `listing` holds."""
        self._ignore = ignore
        self._directory = directory
        self._listing = listing
        self._result = result
        self._paths: set[bytes] | None = None
        self._exists = exists or self._is_listed

    def _is_listed(self, path: bytes) -> bool:
        if self._paths is None:
            self._paths = {join(self._directory, name) for name, _ in self._listing}
        return path in self._paths

    def _is_ignored(self, name: bytes, *, is_directory: bool) -> bool:
        return self._ignore.is_ignored(
            join(self._directory, name), is_directory=is_directory, exists=self._exists
        )

    def drop_ignored(self, directories: list[bytes]) -> None:
        """Do not go into directories that are ignored by now."""
        directories[:] = [
            name for name in directories if not self._is_ignored(name, is_directory=True)
        ]

    def miss(self, name: bytes, rows: Rows) -> None:
        """Take a known name that is not there."""
        if not self._is_ignored(name, is_directory=rows[0].kind is Kind.DIRECTORY):
            self._result.missing.append(rows)

    def take(self, name: bytes, stat: Stat, rows: Rows) -> None:
        """Take a name that is new, or not as it was."""
        kind = stat.kind
        result = self._result
        is_directory = kind in (FileKind.DIRECTORY, FileKind.MOUNT)
        if self._is_ignored(name, is_directory=is_directory):
            return
        result.listing[name] = stat
        if kind in (FileKind.DEVICE, FileKind.MOUNT):
            # What this name held is unknown: a known object behind it is not missing.
            problem = ProblemKind.MOUNT if kind is FileKind.MOUNT else ProblemKind.SKIPPED
            result.problems.append(Problem(problem, join(self._directory, name)))
            return
        same = tuple(row for row in rows if int(row.kind) == kind)
        if len(same) < len(rows):
            result.missing.append(tuple(row for row in rows if int(row.kind) != kind))
        if kind is FileKind.DIRECTORY:
            if same and same[0].inode == stat.inode:
                result.deeper.append(name)
            else:
                result.homeless.append((name, stat, same))
        elif not same or not _is_unchanged(same[0], stat):
            result.fresh.append((name, stat, same))


def _is_unchanged(row: SyncedRow, stat: Stat) -> bool:
    return has_stat(row, stat) and not is_row_racy(row)


def stat_many(disk: Disk, paths: Sequence[bytes]) -> list[Stat | DiskError | None]:
    """Lstat many paths; None where nothing stands, the failure where that cannot be told.

    Where the disk folds names, what stands there under another one is not at this path.
    """
    stats: list[Stat | DiskError | None] = []
    for path in paths:
        try:
            stats.append(disk.stat(path))
        except RootLost:
            raise
        except DiskError as failure:
            stats.append(failure)
    return _by_exact_names(disk, paths, stats) if disk.folds_names() else stats


def _by_exact_names(
    disk: Disk, paths: Sequence[bytes], stats: Sequence[Stat | DiskError | None]
) -> list[Stat | DiskError | None]:
    """Leave what is listed by the very name that was asked for."""
    above = list(dict.fromkeys(path.rpartition(b"/")[0] for path in paths if path))
    listed = dict(zip(above, names_in(disk, above), strict=True))
    exact: list[Stat | DiskError | None] = []
    for path, stat in zip(paths, stats, strict=True):
        parent, _, name = path.rpartition(b"/")
        names = listed.get(parent)
        if not isinstance(stat, Stat) or not path or isinstance(names, NameMissing):
            exact.append(stat)
        elif isinstance(names, DiskError):
            exact.append(names)
        else:
            exact.append(stat if names is None or name in names else None)
    return exact


def names_in(disk: Disk, directories: Sequence[bytes]) -> list[set[bytes] | DiskError]:
    """List the names in many directories, as proof of what is not there."""
    names: list[set[bytes] | DiskError] = []
    for path in directories:
        try:
            names.append({name for name, _ in disk.list_directory(path)})
        except RootLost:
            raise
        except DiskError as failure:
            names.append(failure)
    return names


def read_many(
    disk: Disk, files: Sequence[File], doubtful: Sequence[bool]
) -> list[Looked | LookFailure]:
    """Read many files at once; those that somebody is writing to are left for later."""
    is_busy = [
        ask and disk.is_being_written(one.path) for one, ask in zip(files, doubtful, strict=True)
    ]
    looks = iter(
        disk.look([one.path for one, busy in zip(files, is_busy, strict=True) if not busy])
    )
    return [LookFailure.CHANGING if busy else next(looks) for busy in is_busy]


def inodes_in(disk: Disk, path: bytes) -> set[int]:
    """Give the inodes of what stands in a directory; none where it cannot be listed."""
    try:
        return {stat.inode for _, stat in disk.list_directory(path)}
    except RootLost:
        raise
    except DiskError:
        return set()
