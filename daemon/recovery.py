"""Finish what a crash interrupted: every open intent, before tmp is cleaned.

What stands in tmp and history is daemon.leftovers' matter, what synced is to say this one's. It
makes no step anew: what was not done is planned again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from msgspec.structs import replace

from daemon.agreeing import (
    ended_keys,
    moved_rows,
    other_numbers,
    row_at,
    row_of,
    settled_row,
)
from daemon.disk import (
    ASIDE_PREFIX,
    Disk,
    FileKind,
    Looked,
    LookFailure,
    NameMissing,
    NameTaken,
    Stat,
)
from daemon.displaced import Clock, Names
from daemon.folding import is_by_this_name
from daemon.ledger import Ledger
from daemon.leftovers import Left, Leftovers
from daemon.outcomes import Agreed, Intent, Outcome, SetAside, Settled
from daemon.steps import (
    PARKING_PREFIX,
    Bind,
    Claim,
    Key,
    MakeDirectory,
    MakeLink,
    MoveName,
    NewNames,
    Place,
    RemoveDirectory,
    RemoveFile,
    RemoveTree,
    SetAttributes,
    Step,
    SwapNames,
    WriteFile,
    key_of,
    row_for,
)
from daemon.taking import put_away
from daemon.whereabouts import DirectoryPaths
from store.ids import BlobHash, Kind
from store.records import Entry, SyncedRow

_COARSEST_NS = 2 * 10**9  # of the times that a file system keeps


class Recovery:
    """Finishes open intents, in the order in which they were begun."""

    def __init__(self, disk: Disk, paths: DirectoryPaths, clock: Clock, names: Names) -> None:
        """`paths` knows what was committed before the crash."""
        self._disk = disk
        self._paths = paths
        self._clock = clock
        self._names = names
        self._moved: dict[int, Place] = {}
        self._unfinished: set[int] = set()  # directories of which synced has something in still
        self._ledger = Ledger(())
        self._outcomes: list[Outcome] = []
        self._left = Leftovers(disk, clock, names, self._outcomes)

    def finish(
        self,
        intents: Sequence[Intent],
        in_use: Collection[bytes],
        is_wanted: Callable[[BlobHash], bool],
    ) -> list[Outcome]:
        """Finish the intents and clean tmp; give what is to be committed.

        `in_use` are names in tmp to be left alone. Idempotent: a crash in here is as any other.
        """
        steps = (intent.step for intent in intents)
        self._ledger = Ledger(step for step in steps if not isinstance(step, SetAside))
        self._left.begin()
        for intent in intents:
            number = len(self._outcomes)
            self._finish(intent)
            if not any(
                isinstance(outcome, Agreed) and outcome.intent == intent.number
                for outcome in self._outcomes[number:]
            ):
                self._outcomes.append(Settled(intent.number))
        self._left.clean(in_use, is_wanted)
        return self._outcomes

    def sweep(self) -> None:
        """Remove what never arrived, once all is committed: a crash before it has to be known."""
        self._left.sweep()

    # -- paths ---------------------------------------------------------------------------------

    def _path(self, place: Place) -> bytes | None:
        names = [place.name]
        # Segments end where a directory moves: nothing below one follows in the same segment.
        while (moved := self._moved.get(place.parent_no)) is not None:
            place = moved
            names.append(place.name)
        parent = self._paths.path_of(place.parent_no)
        if parent is None:
            return None
        return b"/".join([parent, *reversed(names)] if parent else reversed(names))

    # -- steps ---------------------------------------------------------------------------------

    def _finish(self, intent: Intent) -> None:  # noqa: C901 - one branch for each step
        match intent.step:
            case MakeDirectory(claim):
                self._finish_making(claim, intent.number)
            case Bind(Claim() as claim, rows, _) if rows:
                rows = self._ledger.telling_of(rows)
                agreed = [settled_row(entry, rows, None) for entry in claim.entries]
                self._agree(agreed, ended_keys(claim, rows), rows, intent.number)
            case MoveName() as step:
                self._finish_move(step, intent.number)
            case SwapNames(one, other):
                self._bring_back(one)
                self._finish_move(one, b"")
                self._finish_move(other, intent.number)
            case RemoveTree():
                self._finish_tree(intent, intent.step)
            case RemoveDirectory(rows, source):
                self._finish_directory(rows, source, intent.number)
            case SetAttributes():
                self._finish_attributes(intent, intent.step)
            case RemoveFile(rows, source):
                self._finish_removal(intent, rows, source)
            case SetAside(path, row, value):
                self._left.finish(intent, row, path, value)
            case WriteFile() | MakeLink() as step:
                self._finish_placing(intent, step)
            case NewNames(claims):
                for claim in claims:
                    self._bind(claim, intent.number, is_placed=False)

    def _finish_placing(self, intent: Intent, step: WriteFile | MakeLink) -> None:
        claim, rows = step.claim, step.before
        row = row_for(key_of(claim.entry), rows)
        left = self._left.finish(intent, row, self._path(claim.place), claim.entry.value)
        if left is Left.NEITHER:
            # What stands there is an edit of neither version: each is kept beside it.
            self._drop(rows, intent.number)
            return
        carried = self._find_carried(step, row)
        self._bind(claim, intent.number, is_placed=left is Left.NEW or bool(carried))
        self._outcomes += carried

    def _stat(self, place: Place) -> Stat | None:
        path = self._path(place)
        if path is None or not is_by_this_name(self._disk, path):
            return None
        return self._disk.stat(path)

    def _is_free(self, place: Place) -> bool:
        """Whether nothing stands at a name although its directory is there."""
        path = self._path(place)
        return path is not None and self._left.is_free(path)

    def _finish_making(self, claim: Claim, number: bytes) -> None:
        stat = self._stat(claim.place)
        if stat is None or stat.kind is not FileKind.DIRECTORY:
            return
        agreed = [row_of(entry, stat, self._clock.now_ns()) for entry in claim.entries]
        self._agree(agreed, (), (), number)

    def _agree(
        self,
        rows: list[SyncedRow],
        gone: tuple[Key, ...],
        before: tuple[SyncedRow, ...],
        number: bytes,
        orphans: Sequence[SyncedRow] = (),
    ) -> None:
        stored, ended = self._ledger.agree(rows, gone, before, orphans)
        for each in stored:
            if each.kind is Kind.DIRECTORY:
                self._moved[each.object_no] = Place(each.parent_no, each.name)
        self._outcomes.append(Agreed(stored, ended, number))

    def _drop(self, rows: tuple[SyncedRow, ...], number: bytes) -> None:
        """Have synced say nothing any more for what these rows told of, whatever key it has now."""
        rows = self._ledger.telling_of(rows)
        self._agree([], tuple(key_of(row) for row in rows), rows, number)

    def _finish_move(self, step: MoveName, number: bytes) -> None:
        rows = self._ledger.telling_of(step.rows)
        row = rows[0]
        stat = self._stat(step.target)
        if stat is None or stat.inode != row.inode or int(stat.kind) != int(row.kind):
            return
        self._drop_twin(step, row)
        is_same = (stat.size, stat.mtime_ns) == (row.size, row.mtime_ns)
        seen = stat if is_same or row.kind is Kind.DIRECTORY else None
        gone: tuple[Key, ...] = ()
        orphans: list[SyncedRow] = []
        if step.claim is None:
            # Parked: synced says so, and the next plan moves it on.
            place = step.target
            agreed = [replace(each, parent_no=place.parent_no, name=place.name) for each in rows]
        else:
            agreed = [*moved_rows(step.claim, rows, seen), *other_numbers(step, rows)]
            gone = ended_keys(step.claim, rows)
            orphans = self._ledger.orphans(step.claim, rows)
        self._agree(agreed, gone, rows, number, orphans)

    def _drop_twin(self, step: MoveName, row: SyncedRow) -> None:
        """Remove the old name of a file that has its new one already.

        Without NOREPLACE a rename is a link and an unlink (NFS): what came between leaves both.
        """
        path, stat = self._path(step.source), self._stat(step.source)
        if path is None or stat is None or step.source == step.target:
            return
        if stat.inode != row.inode or stat.kind is FileKind.DIRECTORY:
            return
        name = b"displaced-tmp-%d" % self._names.moment_ns()
        with suppress(NameTaken, NameMissing):
            taken = self._disk.take_away(path, name)
            stays = self._stat(step.target)
            if stays is not None and stays.inode == taken.inode:
                self._disk.remove_stage(name)
            else:  # somebody put another file there, this very moment
                self._disk.restore_stage(name, path)

    def _bring_back(self, step: MoveName) -> None:
        """Give a name to what a swap by three renames had put aside: where it goes, or came from.

        Where both are taken it is parked beside them, and the next plan moves it on.
        """
        rows = self._ledger.telling_of(step.rows)
        for name, stat in self._disk.list_stages():
            if not name.startswith(ASIDE_PREFIX) or stat.inode != rows[0].inode:
                continue
            standing = (self._stat(step.target), self._stat(step.source))
            if any(each is not None and each.inode == stat.inode for each in standing):
                self._disk.remove_stage(name)  # a twin, as in _drop_twin
                return
            parked = Place(step.source.parent_no, PARKING_PREFIX + name)
            for place in (step.target, step.source, parked):
                path = self._path(place)
                if path is None:
                    continue
                with suppress(NameTaken, NameMissing):
                    self._disk.restore_stage(name, path)
                    if place is parked:
                        self._agree([row_at(row, parked, None) for row in rows], (), rows, b"")
                    return

    def _finish_attributes(self, intent: Intent, step: SetAttributes) -> None:
        entry = step.claim.entry
        row = row_for(key_of(entry), step.rows)
        stat = self._stat(step.claim.place)
        if stat is None or (stat.inode, stat.size) != (row.inode, row.size):
            return
        is_set = stat.mtime_ns == (entry.mtime_ns if step.sets_mtime else row.mtime_ns)
        if is_set and stat.is_executable == bool(entry.mode):
            agreed = tuple(settled_row(each, (row,), stat) for each in step.claim.entries)
            self._outcomes.append(Agreed(agreed, step.claim.gone, intent.number))

    def _finish_removal(self, intent: Intent, rows: tuple[SyncedRow, ...], source: Place) -> None:
        left = self._left.finish(intent, rows[0], self._path(source), None)
        stat = self._stat(source)
        if left is not Left.OLD and (stat is None or stat.inode != rows[0].inode):
            self._drop(rows, intent.number)

    def _finish_directory(self, rows: tuple[SyncedRow, ...], source: Place, number: bytes) -> None:
        """Forget a directory that went, unless synced has something in it still.

        Of a directory in one that went as well nothing is proven; it would be left without a place.
        """
        stat = self._stat(source)
        is_gone = self._is_free(source) or (stat is not None and stat.inode != rows[0].inode)
        if is_gone and self._unfinished.isdisjoint(row.object_no for row in rows):
            self._drop(rows, number)
        else:
            self._unfinished.add(source.parent_no)

    def _finish_tree(self, intent: Intent, step: RemoveTree) -> None:
        stat = self._stat(step.source)
        is_taken = self._left.has(intent.keep_as)
        if not is_taken and stat is not None and stat.inode == step.rows[0].inode:
            return  # it had not begun
        # Where its directory is gone too, what synced never knew goes back to the top.
        path = self._path(step.source) or step.source.name
        away = put_away(
            self._disk, self._names, intent, path, self._clock.now_ns(), is_recovery=True
        )
        if is_taken or away.outcomes:
            for removal in step.singly:
                self._drop(removal.rows, intent.number)
        self._outcomes += away.outcomes

    def _find_carried(self, step: Step, row: SyncedRow) -> list[Outcome]:
        """Find the old bytes where they were to stand next: then the new ones were placed."""
        claim = step.displaced_to if isinstance(step, WriteFile) else None
        stat = None if claim is None else self._stat(claim.place)
        if claim is None or stat is None:
            return []
        if stat.inode != row.inode or int(stat.kind) != int(row.kind):
            return []
        is_same = (stat.size, stat.mtime_ns) == (row.size, row.mtime_ns)
        return [Agreed(tuple(moved_rows(claim, (row,), stat if is_same else None)))]

    def _bind(self, claim: Claim, number: bytes, *, is_placed: bool) -> None:
        """Where the new content stands, say so in synced.

        What was placed and changed by somebody since is what the new content became: synced
        says what was placed, and the next look finds the change.
        """
        path = self._path(claim.place)
        if path is None:
            return
        (looked,) = self._disk.look([path])
        if isinstance(looked, Looked) and not is_by_this_name(self._disk, path):
            looked = LookFailure.GONE
        entries = claim.entries
        # The same bytes in a file that synced knows: this step was not done, or undone since.
        is_new = isinstance(looked, Looked) and not self._ledger.knows(looked.stat.inode)
        if isinstance(looked, Looked) and is_new and looked.value == claim.entry.value:
            stat = _unattended(looked.stat, claim.entry)
            agreed = tuple(row_of(each, stat, looked.looked_at_ns) for each in entries)
            self._outcomes.append(Agreed(agreed, claim.gone, number))
        elif is_placed:
            inode = looked.stat.inode if isinstance(looked, Looked) and is_new else 0
            unseen = Stat(FileKind.FILE, inode, claim.entry.size, 0, 0, 0, 1)
            agreed = tuple(row_of(each, unseen, 0) for each in entries)
            self._outcomes.append(Agreed(agreed, claim.gone, number))


def _unattended(stat: Stat, entry: Entry) -> Stat:
    """Give a stat with which the next look finds a bit or time set while no daemon ran."""
    is_touched = abs(stat.mtime_ns - entry.mtime_ns) >= _COARSEST_NS
    return replace(stat, ctime_ns=0, mtime_ns=entry.mtime_ns if is_touched else stat.mtime_ns)
