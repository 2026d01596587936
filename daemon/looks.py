"""Turn hints into looks: decide when each hinted path is to be looked at.

It reads no clock and no disk: `now_s` is a monotonic time handed in. It never says what
happened, and forgetting everything it holds costs time, not truth (docs/design.md, 5).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from daemon.going import Going
from daemon.hints import Hint, HintKind
from daemon.ignore import is_private
from daemon.look_set import Again, AgainReason, LookSet, parent_of
from daemon.renames import Renames, remember

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

QUIET_S = 0.05  # a new name is looked at when nothing touched it for so long
GONE_LIMIT_S = 5.0  # names that go on going are judged after so long all the same
REPEAT_LIMIT_S = 1.0  # a path that is touched without pause is looked at so often
DIRECTORY_LIMIT_S = 0.5  # a directory that fills without pause is listed so often
PAUSE_S = 0.01  # between two looks at one known path that is saved again
SAVES_AT_ONCE = 1000.0  # saves of one path that are looked at one by one: 150 KB of log,
SAVES_PER_S = 10.0  # and how fast that allowance comes back; then it is looked at so often
CHANGING_FIRST_S = 0.1  # a file that changed while it was read: the first further look,
CHANGING_LIMIT_S = 5.0  # doubling up to this
PATHS_OF_ONE_DIRECTORY = 64  # more are cheaper by listing it
PATHS_LIMIT = 16_384  # more in all: list their directories
DIRECTORIES_LIMIT = 1024  # more: a full scan


@dataclass(slots=True, kw_only=True)
class _Waiting:
    """One path or directory and when it is due."""

    due_s: float
    first_s: float
    is_settled: bool = False


class _Table(IntEnum):
    """Which table an entry of the queue speaks of."""

    PATH = 0
    DIRECTORY = 1
    GONE = 2
    TREE = 3


class LookSchedule:
    """Holds what was hinted until it is due. One owner; not safe for several threads.

    `known` is asked which of some paths synced knows; a stale answer costs 50 ms, not truth.
    """

    def __init__(self, known: Callable[[Sequence[bytes]], Collection[bytes]]) -> None:
        """Begin with nothing to look at."""
        self._known = known
        self._paths: dict[bytes, _Waiting] = {}
        self._directories: dict[bytes, _Waiting] = {}
        self._trees: dict[bytes, _Waiting] = {}
        self._going = Going()
        self._renames = Renames()
        self._counts: dict[bytes, int] = {}  # waiting paths of each directory
        # paths handed out lately: when last, and how many saves may still be looked at at once
        self._recent: dict[bytes, tuple[float, float]] = {}
        self._attempts: dict[bytes, int] = {}  # looks at a changing file so far
        self._full_s: float | None = None
        self._queue: list[tuple[float, _Table, bytes]] = []

    # -- taking hints ---------------------------------------------------------------------------

    @staticmethod
    def asked(hints: Iterable[Hint]) -> list[bytes]:
        """Give the paths of which `touch` needs to know whether synced has them."""
        paths = {hint.path for hint in hints}
        paths.update(hint.source for hint in hints if hint.source)
        return list(paths)

    def touch(
        self, hints: Sequence[Hint], now_s: float, known: Collection[bytes] | None = None
    ) -> None:
        """Take a bunch of hints in the order in which they came.

        `known` are those of `asked(hints)` that synced has, for a caller who had to ask in
        another thread; without it the callable is asked.
        """
        if self._full_s is not None:
            # A full scan sees it all; only renames still say more than it can find out.
            hints = [hint for hint in hints if hint.source is not None]
        if known is None:
            asked = self.asked(hints)
            known = self._known(asked) if asked else ()
        names = known if isinstance(known, (set, frozenset)) else set(known)
        for hint in hints:
            self._take(hint, names, now_s)
        self._bound(now_s)

    def rescan(self, now_s: float) -> None:
        """Ask for a full scan."""
        self._full_s = now_s if self._full_s is None else min(self._full_s, now_s)

    def look_again(self, agains: Iterable[Again], now_s: float) -> None:
        """Schedule further looks at paths that the scanner could not be sure of."""
        for again in agains:
            delay_s = again.delay_s
            if again.reason is AgainReason.UNLISTED:
                self._wait_tree(again.path, now_s + delay_s)
                continue
            if again.reason is AgainReason.CHANGING:
                attempts = self._attempts.get(again.path, 0)
                delay_s = max(delay_s, min(CHANGING_FIRST_S * 2**attempts, CHANGING_LIMIT_S))
                remember(self._attempts, again.path, min(attempts + 1, 16))
            if again.path not in self._paths and not self._going.has(again.path):
                self._wait(again.path, now_s + delay_s, now_s + delay_s)
        self._bound(now_s)

    def miss(self, paths: Iterable[bytes], now_s: float) -> None:
        """Take note of known names that were not found; what is known to go is not put off."""
        for path in paths:
            if not self._going.has(path):
                self._go(path, now_s, is_known=True)
        self._bound(now_s)

    def look_again_at_moves(self, moves: Iterable[tuple[bytes, bytes]], now_s: float) -> None:
        """Judge renames (source, target) once more, each as a whole: both names by one look.

        Never at once: who asks was in the way, and may be for a while.
        """
        for source, target in moves:
            self._go(source, now_s, is_known=True)
            if target in self._renames.origins or self._renames.has_left(source):
                self._stir(target, now_s)  # it went on from there meanwhile
                continue
            self._drop_path(target)
            self._renames.note(source, target)
        self._bound(now_s)

    def _take(self, hint: Hint, known: AbstractSet[bytes], now_s: float) -> None:
        path = hint.path
        if hint.kind is HintKind.LOST:
            self._take_lost(path, now_s)
            return
        if is_private(path):
            if hint.source is not None and not is_private(hint.source):
                self._go(hint.source, now_s, is_known=hint.source in known)
            return
        if hint.kind is HintKind.MOVED_HERE:
            self._take_move(hint, known, now_s)
        elif hint.kind is HintKind.GONE:
            self._go(path, now_s, is_known=path in known)
        elif hint.kind is HintKind.CLOSED:
            self._attempts.pop(path, None)
            self._settle(path, now_s, is_known=path in known)
        else:
            self._stir(path, now_s)

    def _take_lost(self, path: bytes, now_s: float) -> None:
        if path:
            self._wait_tree(path, now_s)
        else:
            self.rescan(now_s)

    def _wait_tree(self, path: bytes, due_s: float) -> None:
        waiting = self._trees.get(path)
        if waiting is None or due_s < waiting.due_s:
            self._trees[path] = _Waiting(due_s=due_s, first_s=due_s)
            heapq.heappush(self._queue, (due_s, _Table.TREE, path))

    def _take_move(self, hint: Hint, known: AbstractSet[bytes], now_s: float) -> None:
        target, source = hint.path, hint.source
        if source is None or is_private(source):
            self._settle(target, now_s, is_known=target in known)
            return
        if self._renames.is_carried(target, source):
            return
        self._drop_path(source)
        if self._renames.came_back(source, target):
            # There and back, or the second half of an exchange: something may stand there.
            self._stir(source, now_s)
        former = self._renames.forget(source)
        origin = source if former is None else former
        self._renames.forget(target)
        if former is None and (source not in known or self._renames.has_left(source)):
            # Unknown, also where the known object of that name had been renamed before.
            self._settle(target, now_s, is_known=target in known)
            if hint.is_directory and target in known:
                # We renamed it: what was to be looked at in there went along.
                self._renames.carry(source, target)
                if self._has_below(source):
                    self._wait_tree(target, now_s)
            return
        self._drop_path(target)
        # Both halves of the rename of a directory are here: nothing else is to be waited for. A
        # file may be one that an editor puts aside, to write another in its place.
        is_whole = hint.is_directory and source == origin and target not in known
        self._go(origin, now_s, is_known=True, is_whole=is_whole)
        if source != origin and source in known:
            # What stood there was overwritten, or this is an exchange of names.
            self._go(source, now_s, is_known=True)
        self._renames.note(origin, target)

    def _has_below(self, directory: bytes) -> bool:
        """Whether anything below a directory waits to be looked at."""
        prefix = directory + b"/"
        return any(
            path == directory or path.startswith(prefix)
            for table in (self._paths, self._directories, self._trees, self._going.groups)
            for path in table
        )

    def _settle(self, path: bytes, now_s: float, *, is_known: bool) -> None:
        """Look at a path that is whole now: a known one at once, a new one when it is quiet."""
        if not is_known:
            self._stir(path, now_s, is_settled=True)
            return
        last_s, credit = self._recent.get(path, (-PAUSE_S, SAVES_AT_ONCE))
        credit = min(SAVES_AT_ONCE, credit + (now_s - last_s) * SAVES_PER_S)
        # Each look that finds new bytes is an event for ever: who saves without end gets fewer.
        pause_s = PAUSE_S if credit >= 1.0 else 1 / SAVES_PER_S
        self._wait(path, max(now_s, last_s + pause_s), now_s, is_settled=True)

    def _stir(self, path: bytes, now_s: float, *, is_settled: bool = False) -> None:
        """Look at a path once nothing has touched it for a while."""
        waiting = self._paths.get(path)
        first_s = now_s if waiting is None else min(waiting.first_s, now_s)
        due_s = min(now_s + QUIET_S, first_s + REPEAT_LIMIT_S)
        self._wait(path, max(due_s, now_s), first_s, is_settled=is_settled)

    def _wait(self, path: bytes, due_s: float, first_s: float, *, is_settled: bool = False) -> None:
        directory = parent_of(path)
        listing = self._directories.get(directory)
        if listing is not None and path:
            limit_s = max(listing.first_s + DIRECTORY_LIMIT_S, due_s - QUIET_S)
            listing.due_s = max(listing.due_s, min(due_s, limit_s))
            return
        waiting = self._paths.get(path)
        if waiting is None:
            self._paths[path] = _Waiting(due_s=due_s, first_s=first_s, is_settled=is_settled)
            heapq.heappush(self._queue, (due_s, _Table.PATH, path))
            self._count(directory, due_s)
            return
        waiting.first_s = first_s
        waiting.is_settled = is_settled
        if due_s < waiting.due_s:
            heapq.heappush(self._queue, (due_s, _Table.PATH, path))
        waiting.due_s = due_s

    def _count(self, directory: bytes, due_s: float) -> None:
        count = self._counts.get(directory, 0) + 1
        self._counts[directory] = count
        if count > PATHS_OF_ONE_DIRECTORY:
            self._list_instead(directory, due_s)

    def _list_instead(self, directory: bytes, due_s: float) -> None:
        """Give up the single paths of a directory for one listing of it."""
        prefix = directory + b"/" if directory else b""
        names = [
            path
            for path in self._paths
            if path.startswith(prefix) and b"/" not in path[len(prefix) :]
        ]
        for path in names:
            del self._paths[path]
        self._counts.pop(directory, None)
        self._add_directory(directory, due_s)

    def _add_directory(self, directory: bytes, due_s: float) -> None:
        if directory not in self._directories:
            self._directories[directory] = _Waiting(due_s=due_s, first_s=due_s)
            heapq.heappush(self._queue, (due_s, _Table.DIRECTORY, directory))

    def _drop_path(self, path: bytes) -> None:
        if self._paths.pop(path, None) is None:
            return
        directory = parent_of(path)
        count = self._counts.get(directory, 0) - 1
        if count > 0:
            self._counts[directory] = count
        else:
            self._counts.pop(directory, None)

    def _go(self, path: bytes, now_s: float, *, is_known: bool, is_whole: bool = False) -> None:
        """Take note of a name that went; `is_whole`: it is known where to, and all of it."""
        if not is_known:
            # Perhaps it is being recorded at this moment, so it is looked at all the same.
            self._stir(path, now_s)
            return
        self._drop_path(path)
        directory = parent_of(path)
        key = self._going.group_above(directory)
        if key is None:
            key = directory
            self._going.groups[key] = self._going.merge_below(key, now_s)
            due_s = now_s if is_whole and not self._going.groups[key].names else now_s + QUIET_S
            heapq.heappush(self._queue, (due_s, _Table.GONE, key))
        else:
            due_s = now_s + QUIET_S
        group = self._going.groups[key]
        group.names.add(path)
        group.due_s = max(now_s, min(due_s, group.first_s + GONE_LIMIT_S))

    def _bound(self, now_s: float) -> None:
        """Fall back on coarser looks where there are too many."""
        gone = sum(len(group.names) for group in self._going.groups.values())
        if len(self._paths) > PATHS_LIMIT:
            for directory in {parent_of(path) for path in self._paths}:
                self._add_directory(directory, now_s + QUIET_S)
            self._paths.clear()
            self._counts.clear()
        is_too_much = (
            len(self._directories) > DIRECTORIES_LIMIT
            or len(self._trees) > DIRECTORIES_LIMIT
            or len(self._renames) > PATHS_LIMIT
            or gone > 4 * PATHS_LIMIT
        )
        if is_too_much and self._full_s is None:
            self._full_s = now_s + QUIET_S
        if self._full_s is not None:
            self._forget_what_a_full_scan_sees()

    def _forget_what_a_full_scan_sees(self) -> None:
        if len(self._renames) > PATHS_LIMIT:
            self._renames.take_all()
        self._paths.clear()
        self._directories.clear()
        self._trees.clear()
        self._going.groups.clear()
        self._counts.clear()
        self._queue.clear()

    # -- giving looks ---------------------------------------------------------------------------

    @property
    def next_due_s(self) -> float | None:
        """When to ask next, or None while there is nothing to look at.

        It may be a little early: then `due` gives an empty set and a later time stands here.
        """
        if self._full_s is not None:
            return self._full_s
        return self._queue[0][0] if self._queue else None

    def due(self, now_s: float) -> LookSet:
        """Take out what is to be looked at by now; an empty set if nothing is."""
        if self._full_s is not None:
            return self._due_full(now_s)
        paths: dict[bytes, bool] = {}
        moves: dict[bytes, bytes] = {}
        directories: list[bytes] = []
        trees: list[bytes] = []
        for table, key in self._pop_due(now_s):
            if table is _Table.PATH:
                paths[key] = is_settled = self._paths[key].is_settled
                self._drop_path(key)
                self._note_look(key, now_s, is_settled=is_settled)
            elif table is _Table.GONE:
                self._take_group(key, paths, moves)
            elif table is _Table.DIRECTORY:
                del self._directories[key]
                directories.append(key)
            else:
                del self._trees[key]
                trees.append(key)
        if self._renames.origins and (directories or trees or paths):
            for key in self._groups_into(set(directories), {*trees, *paths}):
                self._take_group(key, paths, moves)
        return LookSet(
            paths=tuple(paths),
            directories=tuple(directories),
            trees=tuple(trees),
            moves=moves,
            settled=frozenset(path for path, is_settled in paths.items() if is_settled),
        )

    def _note_look(self, path: bytes, now_s: float, *, is_settled: bool) -> None:
        """Remember a look at one path, which may have been a save; names that went have none."""
        last_s, credit = self._recent.get(path, (now_s, SAVES_AT_ONCE))
        credit = min(SAVES_AT_ONCE, credit + (now_s - last_s) * SAVES_PER_S)
        remember(self._recent, path, (now_s, max(0.0, credit - is_settled)))

    def _pop_due(self, now_s: float) -> Iterator[tuple[_Table, bytes]]:
        """Give what is due, once each; the caller takes it out of its table."""
        while self._queue and self._queue[0][0] <= now_s:
            _, table, key = heapq.heappop(self._queue)
            due_s = self._due_of(table, key)
            if due_s is not None and due_s > now_s:
                heapq.heappush(self._queue, (due_s, table, key))
            elif due_s is not None:
                yield table, key

    def _due_full(self, now_s: float) -> LookSet:
        if self._full_s is None or self._full_s > now_s:
            return LookSet()
        moves = self._renames.take_all()
        self._full_s = None
        self._forget_what_a_full_scan_sees()
        return LookSet(is_full=True, moves=moves)

    def _due_of(self, table: _Table, key: bytes) -> float | None:
        """When something is due by now, which may be later than queued; None if it is gone."""
        if table is _Table.PATH:
            waiting = self._paths.get(key)
            if waiting is None or not self._renames.origins:
                return None if waiting is None else waiting.due_s
            return max(waiting.due_s, self._held_until(key) or waiting.due_s)
        if table is _Table.GONE:
            group = self._going.groups.get(key)
            return None if group is None else group.due_s
        listing = (self._directories if table is _Table.DIRECTORY else self._trees).get(key)
        return None if listing is None else listing.due_s

    def _held_until(self, path: bytes) -> float | None:
        """When the rename of this path, or of a directory above it, is judged."""
        while True:
            origin = self._renames.origins.get(path)
            if origin is not None:
                key = self._going.group_above(parent_of(origin))
                return None if key is None else self._going.groups[key].due_s
            if not path:
                return None
            path = parent_of(path)

    def _groups_into(self, directories: set[bytes], roots: set[bytes]) -> set[bytes]:
        """Name the groups of which a name was moved to where we are about to look.

        Of a directory that is listed that is each name in it, of a root everything below: a tree,
        or a path, which a look goes into if a new directory stands there.
        """
        keys = {
            self._going.group_above(parent_of(origin))
            for target, origin in self._renames.origins.items()
            if parent_of(target) in directories or _is_below_one(target, roots)
        }
        return {key for key in keys if key is not None}

    def _take_group(self, key: bytes, paths: dict[bytes, bool], moves: dict[bytes, bytes]) -> None:
        group = self._going.groups.pop(key, None)
        if group is None:
            return
        for name in group.names:
            paths.setdefault(name, False)
            target = self._renames.take(name)
            if target is not None:
                moves[target] = name
                paths.setdefault(target, False)
                self._drop_path(target)


def _is_below_one(path: bytes, roots: AbstractSet[bytes]) -> bool:
    while path:
        path = parent_of(path)
        if path in roots:
            return True
    return False
