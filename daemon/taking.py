"""Take directories out of the tree whole, and see to everything that was in them.

One rename takes a directory into tmp; there each file that is as synced last saw it goes to
history, a changed one too, as its user's change, and what synced never knew goes back to where it
stood. A directory is only taken if all in it was as synced says a moment before. Nothing is
deleted, and nothing is committed here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from msgspec import Struct, field

from daemon.agreeing import is_as_synced
from daemon.disk import Disk, DiskError, FileKind, Looked, NameMissing, NameTaken, NotEmpty, Stat
from daemon.displaced import (
    LOOK_AGAIN_NS,
    Names,
    found_kept,
    history_name,
    is_as_displaced,
    keep_unknown,
    moment_in,
    settle,
)
from daemon.outcomes import Bundle, Intent, Kept, Outcome, Watch, Watched
from daemon.steps import Removal, RemoveDirectory, RemoveFile, RemoveTree
from store.ids import Kind
from store.records import SyncedRow

_SLASH = ord("/")
_PLAIN = (FileKind.FILE, FileKind.SYMLINK)
_TIMES = 6  # that a directory is listed while somebody goes on putting names into it

Rows = Callable[[tuple[SyncedRow, ...]], tuple[SyncedRow, ...]]  # as the plan's steps left them
Contents = dict[bytes, dict[bytes, Removal]]  # by the directory's path in the tree: its names


class Away(Struct):
    """What came of a directory that was taken: outcomes, and what is back at its path."""

    outcomes: list[Outcome] = field(default_factory=list)
    returned: list[bytes] = field(default_factory=list)


def contents_of(step: RemoveTree) -> Contents:
    """Give the names that synced has in each directory of the tree, the top as the empty path."""
    places = {row.object_no: b"" for row in step.rows}
    for removal in reversed(step.inside):  # a directory comes after its contents
        if isinstance(removal, RemoveDirectory):
            path = _joined(places[removal.source.parent_no], removal.source.name)
            for row in removal.rows:
                places[row.object_no] = path
    found: Contents = {path: {} for path in places.values()}
    for removal in step.inside:
        found[places[removal.source.parent_no]][removal.source.name] = removal
    return found


def is_as_synced_says(disk: Disk, path: bytes, step: RemoveTree, rows_now: Rows) -> bool:
    """Whether the directory at `path` holds what synced says, unchanged, and nothing else."""
    for below, names in contents_of(step).items():
        try:
            listed = disk.list_directory(_joined(path, below))
        except DiskError:
            return False
        if len(listed) != len(names):
            return False
        for name, stat in listed:
            removal = names.get(name)
            if removal is None or not _is_as_seen(stat, rows_now(removal.rows)[0]):
                return False
    return True


def _is_as_seen(stat: Stat, row: SyncedRow) -> bool:
    return int(stat.kind) == int(row.kind) and is_as_synced(stat, row)


def first_moment_ns(intent: Intent) -> int:
    """Give the moment in the history name of the first file; each further one is 1 ns later."""
    return int(intent.keep_as.rpartition(b"-")[2])


def put_away(
    disk: Disk,
    names: Names,
    intent: Intent,
    path: bytes,
    now_ns: int,
    *,
    is_recovery: bool = False,
) -> Away:
    """See to all that is in tmp as `intent.keep_as` and stood at `path`; then it is gone.

    What a crash interrupted is gone on with: files are named in tmp and in history as they were
    before. Raises DiskError; what was not seen to is in tmp still.
    """
    return _Putting(disk, names, intent, path, now_ns).put_away(is_recovery=is_recovery)


class _Putting:
    """One directory that was taken."""

    def __init__(self, disk: Disk, names: Names, intent: Intent, path: bytes, now_ns: int) -> None:
        step = intent.step
        if not isinstance(step, RemoveTree):
            raise TypeError(step)
        self._disk = disk
        self._names = names
        self._top = intent.keep_as
        self._path = path
        self._now_ns = now_ns
        self._contents = contents_of(step)
        at_ns = first_moment_ns(intent)
        self._wished: dict[int, bytes] = {}  # by the step's identity: its name in history
        self._unseen: dict[int, tuple[bytes, RemoveFile]] = {}
        for below, expected in self._contents.items():
            for removal in expected.values():
                if isinstance(removal, RemoveFile):
                    self._unseen[id(removal)] = below, removal
        self._asides: dict[int, bytes] = {}  # likewise: its name in tmp, if it was changed
        for number, removal in enumerate(step.inside):
            if isinstance(removal, RemoveFile):
                self._asides[id(removal)] = b"displaced-tmp-%d" % (at_ns + 1 + number)
                self._wished[id(removal)] = history_name(at_ns + number, removal.rows[0])
        self._watches: list[Watch] = []
        self._away = Away()

    def put_away(self, *, is_recovery: bool) -> Away:
        if is_recovery:
            self._finish_asides()
        self._put_away_all()
        if self._unseen and is_recovery:
            self._find_kept_before()
        if self._watches:
            due_ns = self._now_ns + LOOK_AGAIN_NS
            bundle = Bundle(self._top, due_ns, tuple(self._watches))
            self._away.outcomes.append(Watched(bundle))
        return self._away

    def _put_away_all(self) -> None:
        """See to every name, what is in a directory before it; without recursion (E13)."""
        times: Counter[bytes] = Counter()
        waiting = [b""]
        while waiting:
            below = waiting[-1]
            times[below] += 1
            if times[below] > _TIMES:
                raise NotEmpty("put away a directory in .dizzyd/tmp", "somebody writes into it")
            try:
                listed = self._disk.list_taken(_joined(self._top, below))
            except NameMissing:  # put away before a crash, or somebody took it from tmp
                waiting.pop()
                continue
            try:
                if inner := self._put_away_names(below, listed):
                    waiting += inner
                    continue
                self._disk.remove_taken(_joined(self._top, below))
            except (NotEmpty, NameMissing):  # somebody is at work in it: once more
                continue
            waiting.pop()

    def _put_away_names(self, below: bytes, listed: list[tuple[bytes, Stat]]) -> list[bytes]:
        """See to the names in one directory, and give the directories that are to come first."""
        taken = _joined(self._top, below)
        expected = self._contents.get(below, {})
        quiet: list[tuple[RemoveFile, Stat]] = []
        inner: list[bytes] = []
        for name, stat in listed:
            removal = expected.get(name)
            inside = _joined(below, name)
            is_plain = stat.kind in _PLAIN
            if stat.kind is FileKind.DIRECTORY and (
                isinstance(removal, RemoveDirectory) or self._is_back(inside)
            ):
                inner.append(inside)
            elif isinstance(removal, RemoveFile) and is_plain and id(removal) in self._unseen:
                row = removal.rows[0]
                if _is_as_seen(stat, row) and is_as_displaced(stat, row):
                    quiet.append((removal, stat))
                else:
                    self._settle(inside, removal)
            elif not self._return(inside, stat.kind):
                inner.append(inside)
        if quiet:
            self._keep(taken, below, quiet)
        return inner

    # -- what synced knew ------------------------------------------------------------------------

    def _keep(self, inner: bytes, below: bytes, quiet: list[tuple[RemoveFile, Stat]]) -> None:
        """Move what is as synced last saw it into history."""
        pairs = [(removal.source.name, self._wished[id(removal)]) for removal, _ in quiet]
        moved = self._disk.keep_taken(inner, pairs)
        for (removal, stat), is_moved in zip(quiet, moved, strict=True):
            if is_moved:
                self._note_kept(removal, below, stat)
            elif any(name == removal.source.name for name, _ in self._disk.list_taken(inner)):
                self._settle(_joined(below, removal.source.name), removal)

    def _note_kept(self, removal: RemoveFile, below: bytes, stat: Stat) -> None:
        row, kept = removal.rows[0], self._wished[id(removal)]
        del self._unseen[id(removal)]
        self._away.outcomes.append(Kept(kept, row))
        if row.kind is Kind.FILE:
            self._watches.append(
                Watch(
                    name=kept,
                    is_in_history=True,
                    path=_joined(self._path, _joined(below, row.name)),
                    row=row,
                    inode=stat.inode,
                    size=stat.size,
                    mtime_ns=stat.mtime_ns,
                    due_ns=self._now_ns + LOOK_AGAIN_NS,
                )
            )

    def _settle(self, inside: bytes, removal: RemoveFile) -> None:
        """Keep a file that was changed, perhaps this very moment, as its user's."""
        aside = self._asides[id(removal)]
        self._disk.set_aside(_joined(self._top, inside), aside)
        self._settle_aside(aside, inside, removal)

    def _settle_aside(self, aside: bytes, inside: bytes, removal: RemoveFile) -> None:
        del self._unseen[id(removal)]
        self._away.outcomes += settle(
            self._disk,
            self._names,
            aside,
            _joined(self._path, inside),
            removal.rows[0],
            history=self._wished[id(removal)],
            is_unchanged=False,
            now_ns=self._now_ns,
        )

    def _finish_asides(self) -> None:
        """See to what a crash left aside."""
        staged = {name for name, _ in self._disk.list_stages()}
        for below, removal in list(self._unseen.values()):
            aside = self._asides[id(removal)]
            if aside in staged:
                self._settle_aside(aside, _joined(below, removal.source.name), removal)

    def _find_kept_before(self) -> None:
        """Find what was moved into history before a crash; the rest somebody took away."""
        listed = {moment_in(name): (name, stat) for name, stat in self._disk.list_history()}
        for below, removal in list(self._unseen.values()):
            wished = self._wished[id(removal)]
            kept, stat = listed.get(moment_in(wished), (b"", None))
            if stat is None:
                continue
            row = removal.rows[0]
            if kept == wished and is_as_displaced(stat, row):
                self._note_kept(removal, below, stat)
                continue
            looked = self._disk.look_history(kept)
            if isinstance(looked, Looked):
                del self._unseen[id(removal)]
                path = _joined(self._path, _joined(below, row.name))
                self._away.outcomes += found_kept(kept, path, row, looked, self._now_ns)

    # -- what synced did not know ----------------------------------------------------------------

    def _return(self, inside: bytes, kind: FileKind) -> bool:
        """Put back what a user put there this very moment, or keep it where its name is taken.

        False for a directory that cannot return: what is in it is to be seen to by itself.
        """
        path = _joined(self._path, inside)
        try:
            for end in [at for at, letter in enumerate(path) if letter == _SLASH]:
                self._make_directory(path[:end])
            self._disk.return_taken(_joined(self._top, inside), path)
        except (NameTaken, NameMissing):  # a file stands there, or above it
            if kind is FileKind.DIRECTORY:
                return False
            self._away.outcomes += _keep_aside(
                self._disk, self._names, _joined(self._top, inside), kind
            )
            return True
        self._away.returned.append(path)
        return True

    def _is_back(self, inside: bytes) -> bool:
        """Whether a directory stands again where this one, unknown to synced, is to return."""
        stat = self._disk.stat(_joined(self._path, inside))
        return stat is not None and stat.kind is FileKind.DIRECTORY

    def _make_directory(self, path: bytes) -> None:
        if self._disk.stat(path) is None:
            with suppress(NameTaken):
                self._disk.make_directory(path)


def put_away_unknown(disk: Disk, names: Names, top: bytes) -> list[Outcome]:
    """Keep all that is in a directory in tmp of which nothing tells any more; then it is gone."""
    outcomes: list[Outcome] = []
    directories = [top]
    for directory in directories:  # grows on the way
        for name, stat in disk.list_taken(directory):
            inner = _joined(directory, name)
            if stat.kind is FileKind.DIRECTORY:
                directories.append(inner)
            else:
                outcomes += _keep_aside(disk, names, inner, stat.kind)
    for directory in reversed(directories):
        with suppress(NotEmpty, NameMissing):  # somebody is at work in it: the next start
            disk.remove_taken(directory)
    return outcomes


def _keep_aside(disk: Disk, names: Names, inner: bytes, kind: FileKind) -> list[Outcome]:
    """Keep in history what has no place in the tree; a socket or pipe only lies there."""
    at_ns = names.moment_ns()
    aside = b"displaced-tmp-%d" % at_ns
    disk.set_aside(inner, aside)
    if kind in _PLAIN:
        return keep_unknown(disk, names, aside, inner.rpartition(b"/")[2])
    disk.keep_stage(aside, b"special-%d" % at_ns)
    return []


def _joined(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory and name else directory or name
