"""Name what is displaced, and look at it again until nobody writes to it any more.

A program that has a file open goes on writing to it after it was displaced. So every displaced
file is looked at again after 10 s, and as long as it is open for writing; other bytes than those
that synced knew are a user's change. It never deletes anything.
"""

from __future__ import annotations

import threading
from binascii import hexlify
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from daemon.core import Runner
from daemon.disk import (
    Disk,
    DiskError,
    FileKind,
    Looked,
    LookFailure,
    NameMissing,
    NameTaken,
    Stat,
)
from daemon.outcomes import Bundle, Displaced, Kept, Outcome, Unwatched, Watch, Watched
from store.ids import Kind, blob_hash
from store.records import PRIMARY, SyncedRow

LOOK_AGAIN_NS = 10 * 1_000_000_000
_SECOND_NS = 1_000_000_000
_NAME_LIMIT_BYTES = 255
_RACY_NS = 20_000_000  # a file system's clock may stand this long
_COARSE_NS = 1_000_000_000  # where times are whole seconds, it is 2 s
_FEW_BYTES = 64 << 20  # up to this much is simply hashed again; beyond it stat first


class Clock(Protocol):
    """Tells the time; handed in, so that a simulation decides it."""

    def now_ns(self) -> int:
        """Give the wall clock in nanoseconds."""

    def monotonic_s(self) -> float:
        """Give seconds since some moment; never goes back."""


class Journal(Protocol):
    """What the watch needs of the journal."""

    async def commit(self, outcomes: Sequence[Outcome]) -> None:
        """Make the outcomes durable in one transaction."""

    async def watches(self, due_ns: int) -> Sequence[Watch | Bundle]:
        """Give the watches that are due at this time."""


class HistoryName(Struct, frozen=True, gc=False):
    """What the name of a kept version says."""

    at_ns: int
    object_no: int
    hash: bytes
    name: bytes


def history_name(at_ns: int, row: SyncedRow, value: bytes | None = None) -> bytes:
    """Name a version that goes to history: time, object, hash, and its name as far as it fits.

    Sorts by time, to the nanosecond: `20261123T120000.000000001Z-7-<64 hex>-notes.txt`. The
    object is this node's number; the hash of a symlink is that of its target.
    """
    second, fraction = divmod(at_ns, _SECOND_NS)
    if value is None:
        value = row.value
    if row.kind is Kind.SYMLINK:
        value = blob_hash(value)
    stem = b"%b.%09dZ-%d-%b-" % (_second_name(second), fraction, row.object_no, hexlify(value))
    return stem + row.name[-(_NAME_LIMIT_BYTES - len(stem)) :]


@lru_cache(maxsize=4)
def _second_name(second: int) -> bytes:
    return datetime.fromtimestamp(second, UTC).strftime("%Y%m%dT%H%M%S").encode()


def parse_history_name(name: bytes) -> HistoryName | None:
    """Read a name that history_name made; None for anything else."""
    try:
        at, object_no, hashed, rest = name.split(b"-", 3)
        moment, _, fraction = at.rstrip(b"Z").partition(b".")
        second = datetime.strptime(moment.decode(), "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
        at_ns = int(second.timestamp()) * _SECOND_NS + int(fraction)
        return HistoryName(at_ns, int(object_no), bytes.fromhex(hashed.decode()), rest)
    except ValueError:
        return None


def moment_in(name: bytes) -> bytes:
    """Give what all history names of one displaced file begin with: its time and its object."""
    return b"-".join(name.split(b"-", 2)[:2]) + b"-"


def holding(name: bytes, row: SyncedRow, value: bytes) -> bytes:
    """Give the history name of the same moment for other bytes than `row` says.

    By its moment a recovery finds it, whatever bytes the file turned out to hold.
    """
    parsed = parse_history_name(name)
    return name if parsed is None else history_name(parsed.at_ns, row, value)


class Names:
    """Makes names that this node never used: one for all folders, since rows are named by them.

    Asked from any thread. A clock that stands or goes back repeats none while the node runs.
    """

    def __init__(self, clock: Clock) -> None:
        """Begin at the present time."""
        self._clock = clock
        self._lock = threading.Lock()
        self._last_ns = 0

    def moment_ns(self) -> int:
        """Give the time, later than any given before."""
        return self.moments_ns(1)

    def moments_ns(self, count: int) -> int:
        """Give the first of so many moments, each 1 ns after the one before."""
        with self._lock:
            first_ns = max(self._clock.now_ns(), self._last_ns + 1)
            self._last_ns = first_ns + count - 1
        return first_ns


def is_as_displaced(stat: Stat, row: SyncedRow) -> bool:
    """Whether the stat of a displaced file is reason enough to believe its bytes.

    Its ctime was changed by the rename; a row that is racy (git's rule) believes nothing.
    """
    if row.kind is not Kind.SYMLINK:
        coarse = row.mtime_ns % _COARSE_NS == 0
        if row.looked_at_ns - row.mtime_ns < (2 * _COARSE_NS if coarse else _RACY_NS):
            return False
    return (stat.inode, stat.size, stat.mtime_ns) == (row.inode, row.size, row.mtime_ns)


def keep_unknown(disk: Disk, names: Names, stage: bytes, name: bytes = b"") -> list[Outcome]:
    """Keep a displaced file in history of which its name at most is known; object 0 is none."""
    looked = disk.look_stage(stage)
    if not isinstance(looked, Looked):
        return []
    row = stranger_row(name or stage, looked)
    wished = history_name(names.moment_ns(), row)
    disk.keep_stage(stage, wished)
    return [Kept(wished, row)]


def keep(
    disk: Disk, name: bytes, row: SyncedRow, names: Names, *, wished: bytes, value: bytes
) -> tuple[bytes, Stat]:
    """Move a displaced file from tmp into history; give the name it has there."""
    history = wished
    while True:
        try:
            return history, disk.keep_stage(name, history)
        except NameTaken:
            history = history_name(names.moment_ns(), row, value)


def stranger_row(name: bytes, looked: Looked) -> SyncedRow:
    """Describe a displaced file of which synced says nothing; object 0 is no object."""
    stat = looked.stat
    return SyncedRow(
        object_no=0,
        copy=PRIMARY,
        parent_no=0,
        name=name,
        kind=Kind(int(stat.kind)),
        value=looked.value,
        inode=stat.inode,
        size=stat.size,
        mtime_ns=stat.mtime_ns,
        ctime_ns=stat.ctime_ns,
        mode=int(stat.is_executable),
        looked_at_ns=looked.looked_at_ns,
        shared_mtime_ns=stat.mtime_ns,
        events=b"",
        placement=b"",
    )


def row_of_kind(row: SyncedRow, looked: Looked) -> SyncedRow:
    """Give what synced says of a displaced file, or a stranger's row: it may be of another kind."""
    return row if int(row.kind) == int(looked.stat.kind) else stranger_row(row.name, looked)


def settle(
    disk: Disk,
    names: Names,
    stage: bytes,
    path: bytes,
    row: SyncedRow,
    *,
    history: bytes,
    is_unchanged: bool,
    now_ns: int,
    is_quiet: bool = False,
) -> list[Outcome]:
    """Look at a file in tmp that was displaced from `path`, where `row` was expected.

    It goes to history at once, unless somebody is writing to it: then it waits in tmp. The
    caller has just seen that nobody does if it `is_quiet`.
    """
    if not is_quiet and disk.is_stage_being_written(stage):
        return [Watched(_watch_in_tmp(stage, path, row, now_ns))]
    value = row.value
    looked: Looked | None = None
    if not is_unchanged:
        found = disk.look_stage(stage)
        if isinstance(found, LookFailure):
            return [Watched(_watch_in_tmp(stage, path, row, now_ns))]
        looked = found
        value = looked.value
    if value != row.value:
        history = holding(history, row, value)
    kept, stat = keep(disk, stage, row, names, wished=history, value=value)
    if looked is not None and looked.value != row.value:
        return [Displaced(path, row, looked, kept), *_watch_kept(kept, path, row, looked, now_ns)]
    if row.kind is Kind.SYMLINK:
        return [Kept(kept, row)]
    return [Kept(kept, row), Watched(_watch_in_history(kept, path, row, stat, now_ns))]


def found_kept(
    kept: bytes, path: bytes, row: SyncedRow, looked: Looked, now_ns: int
) -> list[Outcome]:
    """Say of a file that a crash left in history what it is: the version, or a user's change."""
    watched = _watch_kept(kept, path, row, looked, now_ns)
    if looked.value == row.value:
        return [Kept(kept, row), *watched]
    return [Displaced(path, row, looked, kept), *watched]


def _watch_kept(
    kept: bytes, path: bytes, row: SyncedRow, looked: Looked, now_ns: int
) -> list[Outcome]:
    if looked.stat.kind is not FileKind.FILE:
        return []
    seen = replace(row, value=looked.value, size=looked.stat.size)
    return [Watched(_watch_in_history(kept, path, seen, looked.stat, now_ns))]


def _watch_in_history(kept: bytes, path: bytes, row: SyncedRow, stat: Stat, now_ns: int) -> Watch:
    return Watch(
        name=kept,
        is_in_history=True,
        path=path,
        row=row,
        inode=stat.inode,
        size=stat.size,
        mtime_ns=stat.mtime_ns,
        due_ns=now_ns + LOOK_AGAIN_NS,
    )


def _watch_in_tmp(stage: bytes, path: bytes, row: SyncedRow, now_ns: int) -> Watch:
    return Watch(
        name=stage,
        is_in_history=False,
        path=path,
        row=row,
        inode=row.inode,
        size=-1,
        mtime_ns=0,
        due_ns=now_ns + LOOK_AGAIN_NS,
    )


class DisplacedWatch:
    """Looks at displaced files when their time has come. Its rows are in the journal."""

    def __init__(
        self, disk: Disk, runner: Runner, journal: Journal, clock: Clock, names: Names
    ) -> None:
        """Nothing is remembered here: a restart forgets nothing."""
        self._disk = disk
        self._runner = runner
        self._journal = journal
        self._clock = clock
        self._names = names

    async def look(self) -> list[Displaced]:
        """Look at all that is due; to be called every few seconds while there are watches.

        The changes found are committed to the journal before this returns.
        """
        now_ns = self._clock.now_ns()
        # What is due later than any look is put off comes from a clock that was set back since.
        latest_ns = now_ns + LOOK_AGAIN_NS
        watches = await self._journal.watches(1 << 62)
        due = [each for each in watches if not now_ns < each.due_ns <= latest_ns]
        if not due:
            return []
        outcomes = await self._runner.run(self._look_at, due, now_ns)
        await self._journal.commit(outcomes)
        return [outcome for outcome in outcomes if isinstance(outcome, Displaced)]

    def _look_at(self, due: list[Watch | Bundle], now_ns: int) -> list[Outcome]:
        listed: dict[bytes, Stat] | None = None
        outcomes: list[Outcome] = []
        watches = [watch for watch in due if isinstance(watch, Watch)]
        for bundle in due:
            if isinstance(bundle, Bundle):
                listed = dict(self._disk.list_history()) if listed is None else listed
                # Those that may not rest each get a row of their own, now or by a look at them.
                watches += [each for each in bundle.watches if not self._rests(each, listed)]
                outcomes.append(Unwatched(bundle.name))
        kept = [watch for watch in watches if watch.is_in_history]
        if listed is None and sum(watch.size for watch in kept) > _FEW_BYTES:
            listed = dict(self._disk.list_history())
        for watch in watches:
            try:
                if watch.is_in_history:
                    outcomes += self._look_kept(watch, listed)
                else:
                    outcomes += self._look_in_tmp(watch, now_ns)
            except NameMissing:
                outcomes.append(Unwatched(watch.name))
            except DiskError:
                outcomes.append(Watched(replace(watch, due_ns=now_ns + LOOK_AGAIN_NS)))
        return outcomes

    def _rests(self, watch: Watch, listed: dict[bytes, Stat]) -> bool:
        """Whether a version kept by a rename is as it was, and nobody may write to it."""
        stat = listed.get(watch.name)
        if stat is None:
            return True
        is_unwritten = _is_as_seen(watch, stat) and stat.links == 1
        return is_unwritten and not self._disk.is_history_being_written(watch.name)

    def _look_in_tmp(self, watch: Watch, now_ns: int) -> list[Outcome]:
        found = settle(
            self._disk,
            self._names,
            watch.name,
            watch.path,
            watch.row,
            history=history_name(self._names.moment_ns(), watch.row),
            is_unchanged=False,
            now_ns=now_ns,
        )
        if any(isinstance(o, Watched) and o.watch.name == watch.name for o in found):
            return found
        return [*found, Unwatched(watch.name)]

    def _look_kept(self, watch: Watch, listed: dict[bytes, Stat] | None) -> list[Outcome]:
        if listed is not None:
            stat = listed.get(watch.name)
            if stat is not None and _is_as_seen(watch, stat):
                return self._end(watch)
        looked = self._disk.look_history(watch.name)
        if looked is LookFailure.GONE:
            return [Unwatched(watch.name)]
        if isinstance(looked, LookFailure):
            due_ns = self._clock.now_ns() + LOOK_AGAIN_NS
            return [Watched(replace(watch, due_ns=due_ns))]
        if looked.value == watch.row.value:
            return self._end(watch)
        # Somebody wrote to it after it was displaced: once more, until it rests.
        again = _watch_kept(watch.name, watch.path, watch.row, looked, self._clock.now_ns())
        return [Displaced(watch.path, watch.row, looked, watch.name), *again]

    def _end(self, watch: Watch) -> list[Outcome]:
        """End a watch, unless somebody has the file open for writing still."""
        if self._disk.is_history_being_written(watch.name):
            return [Watched(replace(watch, due_ns=self._clock.now_ns() + LOOK_AGAIN_NS))]
        return [Unwatched(watch.name)]


def _is_as_seen(watch: Watch, stat: Stat) -> bool:
    return (watch.inode, watch.size, watch.mtime_ns) == (stat.inode, stat.size, stat.mtime_ns)
