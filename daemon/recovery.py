"""Finish what a crash interrupted: every open intent, before tmp is cleaned.

A file in tmp whose bytes are not the intended ones was displaced; it is looked at and goes to
history, or back to its place where the new one never arrived. Nothing but unfinished downloads
is removed. It makes no step anew: what was not done is planned again.
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
    arriving_name,
)
from daemon.displaced import Clock, Names, found_kept, keep_unknown, moment_in, settle
from daemon.folding import is_by_this_name
from daemon.ledger import Ledger
from daemon.outcomes import Agreed, Intent, Outcome, Settled, Watched
from daemon.steps import (
    PARKING_PREFIX,
    Bind,
    Claim,
    Key,
    MakeDirectory,
    MakeLink,
    MoveName,
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
from daemon.taking import put_away, put_away_unknown
from daemon.whereabouts import DirectoryPaths
from store.ids import BlobHash, Kind
from store.records import Entry, SyncedRow

FETCH_PREFIX = b"fetch-tmp-"
_DISPLACED_PREFIX = b"displaced-tmp-"
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
        self._ledger = Ledger(())
        self._outcomes: list[Outcome] = []
        self._staged: set[bytes] = set()  # the names in tmp when this began
        self._kept_at: dict[bytes, bytes] | None = None  # names in history by their moments

    def finish(
        self,
        intents: Sequence[Intent],
        in_use: Collection[bytes],
        is_wanted: Callable[[BlobHash], bool],
    ) -> list[Outcome]:
        """Finish the intents and clean tmp; give what is to be committed.

        `in_use` are names in tmp to be left alone. Idempotent: a crash in here is as any other.
        """
        self._ledger = Ledger(intent.step for intent in intents)
        self._staged = {name for name, _ in self._disk.list_stages()}
        for intent in intents:
            number = len(self._outcomes)
            self._finish(intent)
            if not any(
                isinstance(outcome, Agreed) and outcome.intent == intent.number
                for outcome in self._outcomes[number:]
            ):
                self._outcomes.append(Settled(intent.number))
        self._clean(in_use, is_wanted)
        return self._outcomes

    def sweep(self) -> None:
        """Remove what never arrived, once all is committed: a crash before it has to be known."""
        for name in self._staged:
            if name.startswith(arriving_name(b"")):
                self._disk.remove_stage(name)

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
                stat = self._stat(source)
                if self._is_free(source) or (stat and stat.inode != rows[0].inode):
                    self._drop(rows, intent.number)
            case SetAttributes():
                self._finish_attributes(intent, intent.step)
            case RemoveFile(rows, source):
                self._finish_removal(intent, rows, source)
            case WriteFile(claim, rows, _) | MakeLink(claim, rows):
                row = row_for(key_of(claim.entry), rows)
                was_displaced = self._finish_displacing(intent, row, claim.place, claim.entry.value)
                carried = self._find_carried(intent.step, row)
                self._bind(intent, is_placed=was_displaced or bool(carried))
                self._outcomes += carried
            case _:
                pass

    def _stat(self, place: Place) -> Stat | None:
        path = self._path(place)
        if path is None or not is_by_this_name(self._disk, path):
            return None
        return self._disk.stat(path)

    def _is_free(self, place: Place) -> bool:
        """Whether nothing stands at a name although its directory is there."""
        path = self._path(place)
        if path is None:
            return False
        parent = path.rpartition(b"/")[0]
        if parent and self._disk.stat(parent) is None:
            return False
        return self._disk.stat(path) is None

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

    def _bring_back(self, step: MoveName) -> None:
        """Give a name to what a swap by three renames had put aside: where it goes, or came from.

        Where both are taken it is parked beside them, and the next plan moves it on.
        """
        rows = self._ledger.telling_of(step.rows)
        for name, stat in self._disk.list_stages():
            if not name.startswith(ASIDE_PREFIX) or stat.inode != rows[0].inode:
                continue
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
        was_taken = self._finish_displacing(intent, rows[0], source, None)
        stat = self._stat(source)
        if was_taken and (stat is None or stat.inode != rows[0].inode):
            self._drop(rows, intent.number)

    def _finish_tree(self, intent: Intent, step: RemoveTree) -> None:
        stat = self._stat(step.source)
        is_taken = intent.keep_as in self._staged
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

    def _finish_displacing(
        self,
        intent: Intent,
        row: SyncedRow,
        place: Place,
        intended: bytes | None,
    ) -> bool:
        """See to what was displaced; say whether anything had been."""
        for name in (intent.keep_as, intent.stage):
            if name and name in self._staged:
                return self._finish_staged(intent, name, row, place, intended)
        kept = self._find_kept(intent.history_name)
        if kept is None:
            return False
        looked = self._disk.look_history(kept)
        if not isinstance(looked, Looked):
            return True
        path = self._path(place) or b""
        self._outcomes += found_kept(kept, path, row, looked, self._clock.now_ns())
        # An earlier recovery may have kept it, and ended before it could say so.
        is_link = isinstance(intent.step, MakeLink)
        return is_link or not self._is_taken_away(intent, intent.keep_as)

    def _find_kept(self, wished: bytes) -> bytes | None:
        """Find in history what was displaced at a moment; its bytes may be none that we knew."""
        if not wished:
            return None
        if self._kept_at is None:
            self._kept_at = {moment_in(name): name for name, _ in self._disk.list_history()}
        return self._kept_at.get(moment_in(wished))

    def _finish_staged(
        self, intent: Intent, name: bytes, row: SyncedRow, place: Place, intended: bytes | None
    ) -> bool:
        """See to what tmp has under `name`; say whether the old one left and the new one came.

        That nothing stands at the place does not tell: a user may have moved the new one on.
        """
        path = self._path(place)
        is_away = self._is_taken_away(intent, name)
        looked = self._disk.look_stage(name)
        if not is_away and isinstance(looked, Looked) and looked.value == intended:
            # What is in tmp is the new content: the old one was never displaced.
            self._disk.remove_stage(name)
            return False
        if is_away and path is not None and self._is_free(place):
            # The new one never arrived: the old one stands again.
            try:
                self._disk.restore_stage(name, path)
            except (NameTaken, NameMissing):
                pass
            else:
                return False
        self._outcomes += settle(
            self._disk,
            self._names,
            name,
            path or b"",
            row,
            history=intent.history_name,
            is_unchanged=False,
            now_ns=self._clock.now_ns(),
        )
        return not is_away

    def _is_taken_away(self, intent: Intent, name: bytes) -> bool:
        """Whether `name` holds the old one while the new one still waits for the free place."""
        if isinstance(intent.step, MakeLink):  # made where it is to stand, never in tmp
            return self._is_free(intent.step.claim.place)
        if name != intent.keep_as or not isinstance(intent.step, WriteFile):
            return False
        return arriving_name(name) in self._staged or intent.stage in self._staged

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

    def _bind(self, intent: Intent, *, is_placed: bool) -> None:
        """Where the new content stands, say so in synced.

        What was placed and changed by somebody since is what the new content became: synced
        says what was placed, and the next look finds the change.
        """
        step = intent.step
        if not isinstance(step, WriteFile | MakeLink):
            return
        path = self._path(step.claim.place)
        if path is None:
            return
        (looked,) = self._disk.look([path])
        if isinstance(looked, Looked) and not is_by_this_name(self._disk, path):
            looked = LookFailure.GONE
        entries = step.claim.entries
        # The same bytes in a file that synced knows: this step was not done, or undone since.
        is_new = isinstance(looked, Looked) and not self._ledger.knows(looked.stat.inode)
        if isinstance(looked, Looked) and is_new and looked.value == step.claim.entry.value:
            stat = _unattended(looked.stat, step.claim.entry)
            agreed = tuple(row_of(each, stat, looked.looked_at_ns) for each in entries)
            self._outcomes.append(Agreed(agreed, step.claim.gone, intent.number))
        elif is_placed:
            inode = looked.stat.inode if isinstance(looked, Looked) and is_new else 0
            unseen = Stat(FileKind.FILE, inode, step.claim.entry.size, 0, 0, 0, 1)
            agreed = tuple(row_of(each, unseen, 0) for each in entries)
            self._outcomes.append(Agreed(agreed, step.claim.gone, intent.number))

    # -- tmp -----------------------------------------------------------------------------------

    def _clean(self, in_use: Collection[bytes], is_wanted: Callable[[BlobHash], bool]) -> None:
        """Remove what is new and nobody wants; a displaced file that no intent knows is kept."""
        watched = {o.watch.name for o in self._outcomes if isinstance(o, Watched)}
        for name, stat in self._disk.list_stages():
            if name in in_use or name in watched:
                continue
            if name.startswith(FETCH_PREFIX):
                value = bytes.fromhex(name[len(FETCH_PREFIX) :].partition(b"-")[0].decode())
                if not is_wanted(BlobHash(value)):
                    self._disk.remove_stage(name)
            elif not name.startswith(_DISPLACED_PREFIX):
                continue
            elif stat.kind is FileKind.DIRECTORY:
                self._outcomes += put_away_unknown(self._disk, self._names, name)
            elif stat.kind in (FileKind.FILE, FileKind.SYMLINK):
                self._outcomes += keep_unknown(self._disk, self._names, name)


def _unattended(stat: Stat, entry: Entry) -> Stat:
    """Give a stat with which the next look finds a bit or time set while no daemon ran."""
    is_touched = abs(stat.mtime_ns - entry.mtime_ns) >= _COARSEST_NS
    return replace(stat, ctime_ns=0, mtime_ns=entry.mtime_ns if is_touched else stat.mtime_ns)
