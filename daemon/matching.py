"""Conclude from the differences of disk and synced what people did: the evidence rules.

Each move needs two pieces of evidence (docs/design.md, 5, Matching); an inode alone is never
enough. It looks at nothing: a bunch of differences in, a list of acts out.

Rules by number, for files and symlinks: (1) path there, its former inode at no other path: edit.
(2) former inode elsewhere, inode here known from another path: moves. (3) former inode elsewhere,
inode here new: edit here, create there. (4) rename hint and inode, or inode and (size and mtime,
or hash): move. (6) unique equal hash, not empty: move. Else delete and create. (5) is for
directories: `is_same_directory`, which the scanner asks since it decides where to go on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from enum import IntEnum
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from daemon.acts import Act, Created, Deleted, Edited, Moved, Touched
from daemon.differences import has_same_times
from daemon.disk import FileKind
from daemon.look_set import parent_of
from store.ids import Kind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from daemon.differences import Differences, Found, Missing
    from daemon.disk import Stat
    from store.records import SyncedRow

HELD_FROM = 100  # more deletions than this, and more than half of the folder, may be held


class ScanCause(IntEnum):
    """Why a scan was made."""

    START = 0
    ROOT_FAULT = 1  # the root was lost and is back
    OVERFLOW = 2  # the watcher missed something, the root was healthy throughout
    ROUTINE = 3  # hourly, or asked for
    HINTED = 4


def is_mass_deletion(missing: int, total: int, cause: ScanCause) -> bool:
    """Whether deletions wait for a person: too many, and nobody watched them happen.

    `missing` of the `total` objects that the folder had are not found any more.
    """
    is_unwatched = cause in (ScanCause.START, ScanCause.ROOT_FAULT)
    return is_unwatched and missing > HELD_FROM and 2 * missing > total


def is_same_directory(
    row: SyncedRow,
    stat: Stat,
    rows: Iterable[SyncedRow],
    inodes: Collection[int],
    *,
    is_hinted: bool,
) -> bool:
    """Whether a directory found elsewhere is the known one (rules 4 and 5).

    Its inode must be the same, and a rename hint, a child of its own (`inodes` of what stands
    in it now, `rows` of what stood there) or its own mtime, which a rename leaves alone, must
    agree: inodes are used again at once.
    """
    if row.inode != stat.inode:
        return False
    if is_hinted or row.mtime_ns == stat.mtime_ns:
        return True
    return any(child.inode in inodes for child in rows)


def match(differences: Differences) -> list[Act]:
    """Give the acts in an order in which they can be recorded one after the other.

    Created and Moved come after the acts that made or moved the directory they stand in, and,
    unless names are exchanged in a circle, after what stood at their path has left. Deleted
    come parents before children. A directory's path means the directory that an act of this
    list put there, else the one that synced has there.
    """
    found = sorted(differences.found, key=_path_of)
    if not differences.missing and not differences.carried:
        if not any(one.rows for one in found):
            return [Created(path=one.path, looked=one.looked) for one in found]
        if all(one.rows and one.rows[0].inode == one.looked.stat.inode for one in found):
            return [_in_place(one) for one in found]
    return _Matching(differences, found).acts()


def _path_of(one: Found | Missing) -> bytes:
    return one.path


def _in_place(one: Found) -> Act:
    value = one.looked.value
    if all(row.value == value for row in one.rows):
        return Touched(path=one.path, rows=one.rows, looked=one.looked)
    return Edited(path=one.path, rows=one.rows, looked=one.looked)


class _Matching:
    """The conclusion from one bunch of differences."""

    def __init__(self, differences: Differences, found: Sequence[Found]) -> None:
        self._differences = differences
        self._found = {one.path: one for one in found}
        self._missing = {one.path: one for one in sorted(differences.missing, key=_path_of)}
        self._target_of: dict[bytes, bytes] = {}
        self._source_of: dict[bytes, bytes] = {}

    def acts(self) -> list[Act]:
        self._pair_by_inode()
        self._drop_impossible()
        self._pair_by_hash()
        placements: dict[bytes, Created | Moved] = {}
        in_place: list[Act] = []
        carried = {
            (row.object_no, row.copy) for one in self._differences.carried for row in one.rows
        }
        for one in self._differences.carried:
            placements[one.target] = Moved(one.source, one.target, one.rows, one.looked)
        for path, found in self._found.items():
            source = self._source_of.get(path)
            if source is not None:
                placements[path] = Moved(source, path, self._rows(source), found.looked)
            elif any((row.object_no, row.copy) not in carried for row in found.rows):
                in_place.append(_in_place(found))
            else:
                placements[path] = Created(path=path, looked=found.looked)
        deletions = {
            path: Deleted(path=path, rows=missing.rows)
            for path, missing in self._missing.items()
            if path not in self._target_of
        }
        first = _Order(placements, deletions).acts()
        given = {act.path for act in first if isinstance(act, Deleted)}
        last = (act for path, act in deletions.items() if path not in given)
        return [*first, *in_place, *last]

    def _rows(self, path: bytes) -> tuple[SyncedRow, ...]:
        missing = self._missing.get(path)
        return missing.rows if missing is not None else self._found[path].rows

    def _pair_by_inode(self) -> None:
        """Find for each known file that is not at its place where its inode is now."""
        there: dict[tuple[int, int], Found | None] = {}
        for found in self._found.values():
            stat = found.looked.stat
            if stat.kind is FileKind.DIRECTORY or stat.links != 1:
                continue
            if found.rows and found.rows[0].inode == stat.inode:
                continue
            key = (stat.inode, int(stat.kind))
            there[key] = None if key in there else found  # two names at once: no evidence
        if not there:
            return
        claims: dict[bytes, list[bytes]] = {}
        for path, rows in self._displaced():
            one = there.get((rows[0].inode, int(rows[0].kind)))
            if one is not None and one.path != path and self._agrees(path, rows, one):
                claims.setdefault(one.path, []).append(path)
        for target, sources in claims.items():
            hinted = self._differences.moves.get(target)
            source = hinted if hinted in sources else sources[0]
            if len(sources) == 1 or hinted in sources:
                self._target_of[source] = target
                self._source_of[target] = source

    def _displaced(self) -> Iterable[tuple[bytes, tuple[SyncedRow, ...]]]:
        for path, missing in self._missing.items():
            yield path, missing.rows
        for path, found in self._found.items():
            if found.rows and found.rows[0].inode != found.looked.stat.inode:
                yield path, found.rows

    def _agrees(self, source: bytes, rows: tuple[SyncedRow, ...], found: Found) -> bool:
        """Whether there is a second piece of evidence beside the inode (rule 4)."""
        return (
            self._differences.moves.get(found.path) == source
            or has_same_times(rows[0], found.looked.stat)
            or rows[0].value == found.looked.value
        )

    def _drop_impossible(self) -> None:
        """Take back moves that would leave a known path without, or with two, objects.

        A known path that is still there gives its object away only if another known one came
        (rule 2, else 3), and takes one only if its own went elsewhere (else rule 1).
        """
        doubtful = deque(self._target_of)
        while doubtful:
            source = doubtful.popleft()
            target = self._target_of.get(source)
            if target is None:
                continue
            is_left = source in self._missing or source in self._source_of
            is_free = not self._found[target].rows or target in self._target_of
            if is_left and is_free:
                continue
            del self._target_of[source]
            del self._source_of[target]
            if target in self._target_of:
                doubtful.append(target)
            if source in self._source_of:
                doubtful.append(self._source_of[source])

    def _pair_by_hash(self) -> None:
        """Pair what went with what came where one content did both just once (rule 6)."""
        gone: dict[bytes, bytes] = {}
        times: Counter[bytes] = Counter()
        for path, missing in self._missing.items():
            row = missing.rows[0]
            if path not in self._target_of and row.kind is Kind.FILE and row.size:
                gone[row.value] = path
                times[row.value] += 1
        if not gone:
            return
        came: dict[bytes, bytes] = {}
        for path, found in self._found.items():
            looked = found.looked
            if found.rows or path in self._source_of or looked.value not in gone:
                continue
            if looked.stat.kind is FileKind.FILE:
                times[looked.value] += 1 if looked.value not in came else 2
                came[looked.value] = path
        for value, path in came.items():
            if times[value] == 2:  # noqa: PLR2004 - gone once, came once
                self._target_of[gone[value]] = path
                self._source_of[path] = gone[value]


class _Order:
    """Sorts placements, and the deletions that make room for them.

    Must come first: what puts the directory there; the deletion of the directory above. Should
    come first: what leaves the path, or a directory above it. The musts form trees, so they
    always hold; a should in a circle (a swap) is given up.
    """

    def __init__(
        self, placements: dict[bytes, Created | Moved], deletions: dict[bytes, Deleted]
    ) -> None:
        self._acts: list[Created | Moved | Deleted] = []
        self._after: dict[int, list[int]] = {}  # musts: what becomes possible then
        self._shoulds: dict[int, list[int]] = {}
        self._waits: list[int] = []  # how many shoulds are open
        self._roots: list[int] = []
        self._add_placements(placements)
        self._add_deletions(deletions)

    def _add(self, act: Created | Moved | Deleted, after: int | None) -> int:
        number = len(self._acts)
        self._acts.append(act)
        self._waits.append(0)
        if after is None:
            self._roots.append(number)
        else:
            self._after.setdefault(after, []).append(number)
        return number

    def _should(self, first: int, then: int) -> None:
        if first != then:
            self._shoulds.setdefault(first, []).append(then)
            self._waits[then] += 1

    def _add_placements(self, placements: dict[bytes, Created | Moved]) -> None:
        self._number_at: dict[bytes, int] = {}
        for path in sorted(placements):
            above = _nearest(path, self._number_at)
            self._number_at[path] = self._add(placements[path], above)
        self._left: list[tuple[bytes, int]] = sorted(
            (act.source, number) for number, act in enumerate(self._acts) if isinstance(act, Moved)
        )
        leaving = dict(self._left)
        for path, number in self._number_at.items() if leaving else ():
            # Until a directory has left, a path below it still means what stood in it.
            for one in _upwards(path):
                if one in leaving:
                    self._should(leaving[one], number)

    def _add_deletions(self, deletions: dict[bytes, Deleted]) -> None:
        """Add the deletions at and below paths where something is put; others need no place."""
        numbers: dict[bytes, int] = {}
        for path in sorted(deletions) if self._number_at else ():
            waiting = [self._number_at[one] for one in _upwards(path) if one in self._number_at]
            if not waiting:
                continue
            number = self._add(deletions[path], _nearest(path, numbers))
            numbers[path] = number
            for then in waiting:
                self._should(number, then)
            prefix = path + b"/"
            at = bisect_left(self._left, (prefix, 0))
            while at < len(self._left) and self._left[at][0].startswith(prefix):
                self._should(self._left[at][1], number)
                at += 1

    def acts(self) -> list[Act]:
        """Give each act once; earlier numbers first where there is a choice.

        A circle is opened at a move: that a name is taken meanwhile disturbs creating more.
        """
        ordered: list[Act] = []
        free = [number for number in self._roots if not self._waits[number]]
        blocked = [self._ranked(number) for number in self._roots if self._waits[number]]
        heapify(free)
        heapify(blocked)
        is_given = bytearray(len(self._acts))
        is_possible = bytearray(len(self._acts))
        for number in self._roots:
            is_possible[number] = 1
        while free or blocked:
            number = heappop(free) if free else heappop(blocked)[1]
            if is_given[number]:
                continue
            is_given[number] = 1
            ordered.append(self._acts[number])
            for then in self._after.get(number, ()):
                is_possible[then] = 1
                if self._waits[then]:
                    heappush(blocked, self._ranked(then))
                else:
                    heappush(free, then)
            for then in self._shoulds.get(number, ()):
                self._waits[then] -= 1
                if not self._waits[then] and is_possible[then] and not is_given[then]:
                    heappush(free, then)
        return ordered

    def _ranked(self, number: int) -> tuple[bool, int]:
        return not isinstance(self._acts[number], Moved), number


def _upwards(path: bytes) -> Iterator[bytes]:
    """Give a path and the directories above it, but for the root."""
    while path:
        yield path
        path = parent_of(path)


def _nearest(path: bytes, numbers: Mapping[bytes, int]) -> int | None:
    """Find the closest directory above a path that is among `numbers`."""
    while path:
        path = parent_of(path)
        if path in numbers:
            return numbers[path]
    return None
