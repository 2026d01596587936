"""Execute steps on the disk, and say of each what became of it.

Runs in a worker thread, a segment of steps at a time. Every step looks before it acts and looks
at what it displaced; what is not as synced says is left alone and reported. Nothing is
committed here and nothing is made durable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from msgspec import Struct, field
from msgspec.structs import replace

from daemon.agreeing import (
    ended_keys,
    is_as_synced,
    is_of_another,
    is_unwritten,
    moved_rows,
    other_numbers,
    row_at,
    row_of,
    settled_row,
)
from daemon.disk import (
    Disk,
    DiskError,
    FileKind,
    Looked,
    NameMissing,
    NameTaken,
    NotEmpty,
    RootLost,
    Stage,
    Stat,
)
from daemon.displaced import Clock, Names, is_as_displaced, settle
from daemon.ledger import Ledger
from daemon.outcomes import (
    Agreed,
    Failed,
    Intent,
    Outcome,
    Postponed,
    Settled,
    Why,
    failure,
)
from daemon.steps import (
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
    Renumber,
    SetAttributes,
    Step,
    SwapNames,
    WriteFile,
    key_of,
    numbers_of,
    place_of,
    places_before,
    row_for,
)
from daemon.taking import is_as_synced_says, put_away
from store.ids import Kind
from store.records import Entry, SyncedRow

_NO_STAT = Stat(FileKind.FILE, 0, 0, 0, 0, 0, 0)


class DirectoryPaths(Protocol):
    """Finds directories on this disk by the committed synced rows."""

    def path_of(self, directory_no: int) -> bytes | None:
        """Give the path of a directory, the root's being empty; None if it is not there."""

    def inode_of(self, directory_no: int) -> int | None:
        """Give the inode that it had when synced last saw it; None for the root."""


class Job(Struct, frozen=True, gc=False):
    """A step, the intent that covers it, and the content if it has one."""

    step: Step
    intent: Intent | None = None
    stage: Stage | None = None

    @property
    def number(self) -> bytes:
        """The intent to be closed with it."""
        return b"" if self.intent is None else self.intent.number


class Placed(Struct):
    """What came of a segment: outcomes, and what is to be made durable before they are said.

    `directories` for the names in them, `files` for bits and times that were set in place.
    """

    outcomes: list[Outcome]
    directories: set[bytes]
    files: list[bytes] = field(default_factory=list)
    displaces: bool = False
    is_unfinished: bool = False  # what stands in tmp is to be seen to by recovery


class _Waits(Exception):
    """A step has to wait."""

    def __init__(self, path: bytes, why: Why) -> None:
        self.path = path
        self.why = why


class Placer:
    """Executes the steps of one plan; one segment at a time, in order."""

    def __init__(
        self,
        disk: Disk,
        paths: DirectoryPaths,
        clock: Clock,
        names: Names,
        *,
        steps: Sequence[Step],
        is_ignored: Callable[[bytes, bool], bool],
        busy: set[bytes],
    ) -> None:
        """`busy` gets every path before it is touched."""
        self._disk = disk
        self._paths = paths
        self._clock = clock
        self._names = names
        self._is_ignored = is_ignored
        self._busy = busy
        self._ledger = Ledger(steps)
        self._orphans: list[SyncedRow] = []
        self._has_trouble = False
        self._held: set[Place] = set()  # where synced has what could not be moved or removed
        self._made: dict[int, Place] = {}  # directories not yet known to `paths`
        self._resolved: dict[int, bytes | None] = {}
        self._proven: set[int] = set()  # directories found to be those that synced means
        self._now_ns = 0
        self._placed = Placed([], set())

    def execute(self, jobs: Sequence[Job]) -> Placed:
        """Do the jobs in order. Raises RootLost; every other trouble is an outcome."""
        self._placed = Placed([], set())
        self._now_ns = self._clock.now_ns()
        self._resolved.clear()
        self._proven.clear()
        with self._disk.together():
            self._execute_all(jobs)
        return self._placed

    def _execute_all(self, jobs: Sequence[Job]) -> None:
        waiting = deque(jobs)
        while waiting:
            new: list[tuple[Job, Claim, Stage]] = []
            while waiting and (claim := self._new_at_a_free_place(waiting[0])) is not None:
                job = waiting.popleft()
                if job.stage is not None:
                    new.append((job, claim, job.stage))
            if new:
                self._write_new(new)
            if waiting:
                self._execute_one(waiting.popleft())

    def _execute_one(self, job: Job) -> None:
        outcomes = self._placed.outcomes
        self._orphans = []
        done = len(outcomes)
        try:
            self._execute(job)
        except RootLost:
            raise
        except (DiskError, _Waits) as cause:
            self._note(job, cause)
        if any(isinstance(outcome, Postponed | Failed) for outcome in outcomes[done:]):
            self._has_trouble = True
            self._held.update(places_before(job.step))

    def _note(self, job: Job, cause: DiskError | _Waits) -> None:
        """Say why a job was not done."""
        match cause:
            case _Waits():
                self._placed.outcomes.append(Postponed(cause.path, numbers_of(job.step), cause.why))
                self._close(job)
            case NameTaken():
                self._wait(job, Why.TAKEN)
            case NameMissing():
                self._wait(job, Why.MISSING_HERE)
            case _:
                path = self._path(place_of(job.step)) or b""
                self._placed.outcomes.append(failure(path, numbers_of(job.step), cause))
                self._close(job)

    def _new_at_a_free_place(self, job: Job) -> Claim | None:
        """Give the claim of a new file that nothing else has to make room for."""
        step = job.step
        if not isinstance(step, WriteFile) or step.before or job.stage is None:
            return None
        claim = step.claim
        if claim.place in self._held or self._ledger.orphans(claim, ()):
            return None
        return claim

    def _write_new(self, new: Sequence[tuple[Job, Claim, Stage]]) -> None:
        """Put many new files in place. No intents: what a crash leaves is a head's and binds."""
        ready: list[tuple[Job, Claim]] = []
        pairs: list[tuple[Stage, bytes]] = []
        for job, claim, stage in new:
            try:
                pairs.append((stage, self._must_path(claim.place)))
            except RootLost:
                raise
            except (DiskError, _Waits) as cause:
                self._has_trouble = True
                self._note(job, cause)
            else:
                ready.append((job, claim))
        self._orphans = []
        placed: list[Stat | DiskError]
        try:
            placed = self._disk.place_each(pairs)
        except RootLost:
            raise
        except DiskError as cause:
            placed = [cause] * len(pairs)
        for (job, claim), stat in zip(ready, placed, strict=True):
            if isinstance(stat, RootLost):
                raise stat
            if isinstance(stat, DiskError):
                self._has_trouble = True
                self._note(job, stat)
            else:
                self._agree(self._new_rows(claim, stat), claim.gone)

    def committed(self) -> None:
        """Forget directories that `paths` knows by now."""
        self._made.clear()
        self._resolved.clear()

    def path_of_place(self, place: Place) -> bytes | None:
        """Find where a name is now."""
        return self._path(place)

    # -- helpers -------------------------------------------------------------------------------

    def _wait(self, job: Job, why: Why) -> None:
        path = self._path(place_of(job.step)) or b""
        self._placed.outcomes.append(Postponed(path, numbers_of(job.step), why))
        self._close(job)

    def _close(self, job: Job) -> None:
        if job.intent is not None:
            self._placed.outcomes.append(Settled(job.intent.number))

    def _path(self, place: Place) -> bytes | None:
        parent = self._directory_path(place.parent_no)
        if parent is None:
            return None
        return parent + b"/" + place.name if parent else place.name

    def _directory_path(self, number: int) -> bytes | None:
        resolved = self._resolved
        if number in resolved:
            return resolved[number]
        made: list[tuple[int, bytes]] = []  # from the bottom up to one that `paths` knows (E13)
        while number not in resolved:
            place = self._made.get(number)
            if place is None:
                resolved[number] = self._paths.path_of(number)
                break
            made.append((number, place.name))
            number = place.parent_no
        path = resolved[number]
        for below, name in reversed(made):
            if path is not None:
                path = path + b"/" + name if path else name
            resolved[below] = path
        return path

    def _must_path(self, place: Place) -> bytes:
        path = self._path(place)
        if path is None:
            raise _Waits(b"", Why.MISSING_HERE)
        self._busy.add(path)
        parent = path.rpartition(b"/")[0]
        self._must_be_known(place.parent_no, parent)
        self._placed.directories.add(parent)
        return path

    def _must_be_known(self, directory_no: int, path: bytes) -> None:
        """Wait where another directory stands at the path than the one that synced means.

        Somebody moved that one away and made another of its name: what belongs into the first
        must not land in the second.
        """
        if directory_no in self._proven or directory_no in self._made:
            return
        expected = self._paths.inode_of(directory_no)
        if path and expected is not None:
            stat = self._disk.stat(path)
            if stat is None or stat.inode != expected:
                raise _Waits(path, Why.MISSING_HERE)
        self._proven.add(directory_no)

    def _must_be_reachable(self, rows: tuple[SyncedRow, ...], source: Place, number: bytes) -> None:
        """Forget rows below a directory that synced has no more: nothing stands there."""
        if self._path(source) is None:
            self._drop(self._current(rows), number)
            raise _Waits(b"", Why.BLOCKED)

    def _current(self, rows: tuple[SyncedRow, ...]) -> tuple[SyncedRow, ...]:
        return self._ledger.telling_of(rows)

    def _agree(
        self,
        rows: Sequence[SyncedRow],
        gone: tuple[Key, ...] = (),
        number: bytes = b"",
        *,
        before: tuple[SyncedRow, ...] = (),
    ) -> None:
        orphans = self._orphans
        self._orphans = []
        stored, ended = self._ledger.agree(rows, gone, before, orphans)
        for row in rows:
            if row.kind is Kind.DIRECTORY:
                self._made[row.object_no] = Place(row.parent_no, row.name)
                self._resolved.clear()
        self._placed.outcomes.append(Agreed(stored, ended, number))

    def _must_leave_none_behind(self, claim: Claim, before: tuple[SyncedRow, ...]) -> None:
        """See that each file that loses its key to this claim gets one that becomes free.

        Nor may two files have one place in synced: what stands there would be taken for both.
        """
        if claim.place in self._held:
            raise _Waits(self._path(claim.place) or b"", Why.BLOCKED)
        self._orphans = self._ledger.orphans(claim, before)
        free = {key[0] for key in ended_keys(claim, before)}
        if any(row.object_no not in free for row in self._orphans):
            self._orphans = []
            raise _Waits(self._path(claim.place) or b"", Why.BLOCKED)

    def _check(self, path: bytes, row: SyncedRow, *, whole: bool) -> Stat:
        """See that what stands at the path is what synced says, in content too if `whole`."""
        stat = self._disk.stat(path)
        if stat is None:
            raise _Waits(path, Why.MISSING_HERE)
        if stat.inode != row.inode or int(stat.kind) != int(row.kind):
            raise _Waits(path, Why.CHANGED_HERE)
        if whole and not is_as_synced(stat, row):
            raise _Waits(path, Why.CHANGED_HERE)
        if whole and row.kind is Kind.FILE and self._disk.is_being_written(path):
            raise _Waits(path, Why.BEING_WRITTEN)
        return stat

    # -- steps ---------------------------------------------------------------------------------

    def _execute(self, job: Job) -> None:  # noqa: C901, PLR0912 - one branch for each step
        match job.step:
            case WriteFile():
                self._write(job, job.step)
            case MoveName():
                self._move(job, job.step)
            case RemoveFile():
                self._remove(job, job.step)
            case MakeDirectory(claim):
                path = self._must_path(claim.place)
                self._must_leave_none_behind(claim, ())
                stat = self._disk.make_directory(path)
                self._agree(self._new_rows(claim, stat), claim.gone, job.number)
            case RemoveTree():
                self._remove_tree(job, job.step)
            case RemoveDirectory():
                self._remove_directory(job, job.step)
            case SwapNames():
                self._swap(job, job.step)
            case MakeLink():
                self._link(job, job.step)
            case SetAttributes():
                self._set_attributes(job, job.step)
            case Renumber(rows):
                self._agree(rows)
            case Bind(None, rows, gone):
                if rows[0].kind is Kind.DIRECTORY and self._has_trouble:
                    # What was postponed may be found by this number only.
                    raise _Waits(self._path(place_of(job.step)) or b"", Why.BLOCKED)
                self._agree([], gone, before=self._current(rows))
            case Bind():
                self._bind(job, job.step)

    def _new_rows(self, claim: Claim, stat: Stat) -> list[SyncedRow]:
        now_ns = self._now_ns
        return [row_of(entry, stat, now_ns) for entry in claim.entries]

    def _write(self, job: Job, step: WriteFile) -> None:
        claim = step.claim
        path = self._must_path(claim.place)
        stage, intent = job.stage, job.intent
        if stage is None:
            raise _Waits(path, Why.CONTENT_AWAY)
        if not step.before:
            self._must_leave_none_behind(claim, ())
            # No intent: nothing is replaced. After a crash the file is a head's and binds.
            stat = self._disk.place_new(stage, path)
            self._agree(self._new_rows(claim, stat), claim.gone)
            return
        if intent is None:
            raise _Waits(path, Why.BLOCKED)
        rows = self._current(step.before)
        before = row_for(key_of(claim.entry), rows)
        self._check(path, before, whole=True)
        self._must_leave_none_behind(claim, rows)
        stat, displaced = self._disk.place_over(stage, path, intent.keep_as)
        self._placed.displaces = True
        self._agree(
            self._new_rows(claim, stat), ended_keys(claim, rows), intent.number, before=rows
        )
        if step.displaced_to is not None:
            if self._carry(intent, before, displaced, step):
                return
            # The old bytes are due at another name still: from history, by the next plan.
            self._placed.outcomes.append(Postponed(path, numbers_of(step), Why.BLOCKED))
        self._settle(intent, path, before, displaced)

    def _carry(self, intent: Intent, before: SyncedRow, displaced: Stat, step: WriteFile) -> bool:
        """Give the old bytes their new name in the tree, if they are the old bytes."""
        claim = step.displaced_to
        if claim is None or not self._is_the_version(intent, displaced, before):
            return False
        path = self._path(claim.place)
        if path is None or self._disk.is_stage_being_written(intent.keep_as):
            return False
        self._busy.add(path)
        self._placed.directories.add(path.rpartition(b"/")[0])
        try:
            stat = self._disk.restore_stage(intent.keep_as, path)
        except (NameTaken, NameMissing):
            self._placed.outcomes.append(Postponed(path, numbers_of(step), Why.TAKEN))
            return False
        self._agree(moved_rows(claim, (before,), stat))
        return True

    def _is_the_version(self, intent: Intent, displaced: Stat, row: SyncedRow) -> bool:
        """Whether what was displaced is what synced said, by its stat or else by its bytes.

        Times of a clock that was set forward make a row racy for years.
        """
        if is_as_displaced(displaced, row):
            return True
        looked = self._disk.look_stage(intent.keep_as)
        return (
            isinstance(looked, Looked)
            and int(looked.stat.kind) == int(row.kind)
            and looked.value == row.value
        )

    def _settle(
        self,
        intent: Intent,
        path: bytes,
        row: SyncedRow,
        displaced: Stat,
        *,
        is_quiet: bool = False,
    ) -> None:
        found = settle(
            self._disk,
            self._names,
            intent.keep_as,
            path,
            row,
            history=intent.history_name,
            is_unchanged=is_as_displaced(displaced, row),
            now_ns=self._now_ns,
            is_quiet=is_quiet,
        )
        self._placed.outcomes += found

    def _move(self, job: Job, step: MoveName) -> None:
        self._must_be_reachable(step.rows, step.source, job.number)
        source, target = self._must_path(step.source), self._must_path(step.target)
        rows = self._current(step.rows)
        is_for_another = is_of_another(step.claim, rows)
        before = self._check(source, rows[0], whole=is_for_another)
        if step.claim is not None:
            self._must_leave_none_behind(step.claim, rows)
        stat = self._disk.move(source, target)
        if is_for_another and not is_unwritten(before, stat):
            with suppress(NameTaken, NameMissing):
                self._disk.move(target, source)
                raise _Waits(source, Why.CHANGED_HERE)
        self._moved(step, rows, before, stat, job.number)

    def _moved(
        self,
        step: MoveName,
        rows: tuple[SyncedRow, ...],
        before: Stat,
        stat: Stat,
        number: bytes,
    ) -> None:
        # A rename changes ctime; that is ours only if all else was, and is, as synced said.
        is_ours = is_as_synced(before, rows[0]) and is_unwritten(before, stat)
        seen = stat if is_ours else None
        if step.claim is None:
            place = step.target
            moved = [row_at(row, place, seen) for row in self._ledger.telling_of(rows)]
            self._agree(moved, (), number)
            return
        agreed = moved_rows(step.claim, rows, seen)
        agreed += other_numbers(step, rows)
        self._agree(agreed, ended_keys(step.claim, rows), number, before=rows)

    def _swap(self, job: Job, step: SwapNames) -> None:
        one, other = self._must_path(step.one.source), self._must_path(step.other.source)
        one_rows, other_rows = self._current(step.one.rows), self._current(step.other.rows)
        is_for_another = is_of_another(step.one.claim, one_rows)
        before = self._check(one, one_rows[0], whole=is_for_another)
        is_for_another = is_of_another(step.other.claim, other_rows)
        other_before = self._check(other, other_rows[0], whole=is_for_another)
        # A side without a claim keeps a row of its own until it moves on.
        if step.one.claim is not None:
            leaving = one_rows if step.other.claim is None else (*one_rows, *other_rows)
            self._must_leave_none_behind(step.one.claim, leaving)
        self._disk.swap(one, other)
        stat, other_stat = self._disk.stat(other), self._disk.stat(one)
        self._moved(step.one, one_rows, before, stat or _NO_STAT, b"")
        self._moved(step.other, other_rows, other_before, other_stat or _NO_STAT, job.number)

    def _remove(self, job: Job, step: RemoveFile) -> None:
        self._must_be_reachable(step.rows, step.source, job.number)
        path = self._must_path(step.source)
        intent = job.intent
        if intent is None:
            raise _Waits(path, Why.BLOCKED)
        rows = self._current(step.rows)
        self._check(path, rows[0], whole=True)
        displaced = self._disk.take_away(path, intent.keep_as)
        self._placed.displaces = True
        if not self._is_the_version(
            intent, displaced, rows[0]
        ) or self._disk.is_stage_being_written(intent.keep_as):
            # Somebody was quicker: it goes back and is looked at like any edit.
            try:
                self._disk.restore_stage(intent.keep_as, path)
            except (NameTaken, NameMissing):
                pass
            else:
                raise _Waits(path, Why.CHANGED_HERE)
            self._drop(rows, intent.number)
            self._settle(intent, path, rows[0], displaced)
            return
        self._drop(rows, intent.number)
        self._settle(intent, path, rows[0], displaced, is_quiet=True)

    def _drop(self, rows: tuple[SyncedRow, ...], number: bytes) -> None:
        self._agree((), tuple(key_of(row) for row in rows), number, before=rows)

    def is_whole(self, step: RemoveTree) -> bool:
        """Whether a directory holds what synced says and nothing else, so that it may go whole."""
        path = self._path(step.source)
        return path is not None and is_as_synced_says(self._disk, path, step, self._current)

    def _remove_tree(self, job: Job, step: RemoveTree) -> None:
        path = self._must_path(step.source)
        intent = job.intent
        if self._has_trouble or intent is None:
            raise _Waits(path, Why.BLOCKED)
        row = self._current(step.rows)[0]
        self._check(path, row, whole=False)
        taken = self._disk.take_tree(path, intent.keep_as)
        self._placed.displaces = True
        if taken.inode != row.inode:
            self._disk.return_taken(intent.keep_as, path)
            raise _Waits(path, Why.CHANGED_HERE)
        outcomes = self._placed.outcomes
        try:
            away = put_away(self._disk, self._names, intent, path, self._now_ns)
        except RootLost:
            raise
        except DiskError as cause:
            # The intent stays open: recovery goes on with what is in tmp.
            self._placed.is_unfinished = True
            outcomes.append(failure(path, numbers_of(step), cause))
            return
        rows = tuple(now for removal in step.singly for now in self._current(removal.rows))
        self._drop(rows, intent.number)
        outcomes += away.outcomes
        outcomes += [Postponed(back, numbers_of(step), Why.NOT_EMPTY) for back in away.returned]

    def _remove_directory(self, job: Job, step: RemoveDirectory) -> None:
        path = self._must_path(step.source)
        if self._has_trouble:
            # What was postponed may stand in it, in synced at least.
            raise _Waits(path, Why.BLOCKED)
        rows = self._current(step.rows)
        self._check(path, rows[0], whole=False)
        try:
            self._disk.remove_directory(path)
        except NotEmpty:
            self._leave_over(job, path, rows)
            return
        self._drop(rows, job.number)

    def _leave_over(self, job: Job, path: bytes, rows: tuple[SyncedRow, ...]) -> None:
        """Keep a directory that holds nothing but what is ignored here; else wait."""
        for name, stat in self._disk.list_directory(path):
            inner = path + b"/" + name
            if not self._is_ignored(inner, stat.kind is FileKind.DIRECTORY):
                raise _Waits(inner, Why.NOT_EMPTY)
        if rows[0].leftover:
            self._close(job)
            return
        self._agree([replace(rows[0], leftover=True)], (), job.number)
        if rows[1:]:
            self._drop(rows[1:], b"")

    def _link(self, job: Job, step: MakeLink) -> None:
        claim = step.claim
        path = self._must_path(claim.place)
        entry = claim.entry
        if not step.before:
            self._must_leave_none_behind(claim, ())
            stat = self._disk.make_symlink(entry.value, path, entry.mtime_ns)
            self._agree(self._new_rows(claim, stat), claim.gone)
            return
        intent = job.intent
        if intent is None:
            raise _Waits(path, Why.BLOCKED)
        rows = self._current(step.before)
        before = row_for(key_of(entry), rows)
        self._check(path, before, whole=True)
        displaced = self._disk.take_away(path, intent.keep_as)
        self._placed.displaces = True
        try:
            stat = self._disk.make_symlink(entry.value, path, entry.mtime_ns)
        except DiskError:
            self._disk.restore_stage(intent.keep_as, path)
            raise
        self._agree(
            self._new_rows(claim, stat), ended_keys(claim, rows), intent.number, before=rows
        )
        self._settle(intent, path, before, displaced)

    def _set_attributes(self, job: Job, step: SetAttributes) -> None:
        entry = step.claim.entry
        path = self._must_path(step.claim.place)
        rows = self._current(step.rows)
        base = self._ledger.of(key_of(entry), rows)
        before = self._check(path, base, whole=True)
        mtime_ns = entry.mtime_ns if step.sets_mtime else None
        stat = self._disk.set_attributes(path, is_executable=bool(entry.mode), mtime_ns=mtime_ns)
        self._placed.files.append(path)
        if step.sets_mtime:
            # Setting the time hides a write of this very moment: a racy row is hashed again.
            base = replace(base, looked_at_ns=min(base.looked_at_ns, stat.mtime_ns))
            before = replace(before, mtime_ns=stat.mtime_ns)
        seen = stat if is_unwritten(before, stat) else None
        agreed = [settled_row(each, (base,), seen) for each in step.claim.entries]
        self._agree(agreed, ended_keys(step.claim, rows), job.number, before=rows)

    def _bind(self, job: Job, step: Bind) -> None:
        if step.claim is None:
            return
        entry = step.claim.entry
        path = self._must_path(step.claim.place)
        rows = self._current(step.rows) or self._look(path, entry)
        self._must_leave_none_behind(step.claim, rows)
        agreed = [settled_row(each, rows, None) for each in step.claim.entries]
        self._agree(agreed, ended_keys(step.claim, rows), job.number, before=rows)

    def _look(self, path: bytes, entry: Entry) -> tuple[SyncedRow, ...]:
        """Find out by the disk alone whether it is as wanted."""
        (looked,) = self._disk.look([path])
        if not isinstance(looked, Looked):
            raise _Waits(path, Why.MISSING_HERE)
        same_kind = int(looked.stat.kind) == int(entry.kind)
        if not same_kind or (entry.kind is not Kind.DIRECTORY and looked.value != entry.value):
            raise _Waits(path, Why.CHANGED_HERE)
        return (row_of(entry, looked.stat, looked.looked_at_ns),)
