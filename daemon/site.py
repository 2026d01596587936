"""Keep what the steps of one plan share: where things are, what synced says, what came of it.

Every step looks here before it acts (`check`) and says here what it did (`agree`). Nothing is
changed on the disk but what `settle` keeps of a displaced file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from daemon.agreeing import ended_keys, is_as_synced, row_of
from daemon.differences import is_row_racy
from daemon.disk import Disk, DiskError, Looked, Stage, Stat
from daemon.displaced import Names, is_as_displaced, settle
from daemon.ledger import Ledger
from daemon.outcomes import Agreed, Intent, Outcome, Reopened, Settled, Why, failure
from daemon.steps import Claim, Key, Place, Step, key_of, numbers_of
from daemon.whereabouts import Waits, Whereabouts
from store.ids import Kind
from store.records import SyncedRow


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

    `directories` for the names in them, `files` for bits and times that were set in place. `new`
    are the files that got their content, as they stood then.
    """

    outcomes: list[Outcome]
    directories: set[bytes]
    files: list[bytes] = field(default_factory=list)
    displaces: bool = False
    new: list[tuple[bytes, Stat]] = field(default_factory=list)
    is_unfinished: bool = False  # what stands in tmp is to be seen to by recovery


class Site:
    """The state of one plan while its steps are done."""

    def __init__(
        self,
        disk: Disk,
        whereabouts: Whereabouts,
        names: Names,
        *,
        steps: Sequence[Step],
        is_ignored: Callable[[bytes, bool], bool],
    ) -> None:
        """`is_ignored(path, is_directory)` is asked for what keeps a directory from leaving."""
        self.disk = disk
        self.whereabouts = whereabouts
        self.names = names
        self.is_ignored = is_ignored
        self.ledger = Ledger(steps)
        self.orphans: list[SyncedRow] = []
        self.has_begun = False  # the step of this moment may have changed the disk
        self.has_trouble = False
        self.held: set[Place] = set()  # where synced has what could not be moved or removed
        self.now_ns = 0
        self.placed = Placed([], set())
        self.path = whereabouts.path
        self.must_path = whereabouts.must_path
        self.touch = whereabouts.touch

    def begin(self, now_ns: int) -> None:
        """Begin a segment of steps."""
        self.whereabouts.begin()
        self.now_ns = now_ns
        self.placed = Placed([], self.whereabouts.touched)

    @property
    def hand(self) -> Disk:
        """The disk, for a call that changes it: an error from now on leaves a step half done."""
        self.has_begun = True
        return self.disk

    def check(self, path: bytes, row: SyncedRow, *, whole: bool) -> Stat:
        """See that what stands at the path is what synced says, in content too if `whole`."""
        stat = self.disk.stat(path)
        if stat is None:
            raise Waits(path, Why.MISSING_HERE)
        if stat.inode != row.inode or int(stat.kind) != int(row.kind):
            raise Waits(path, Why.CHANGED_HERE)
        if whole and not is_as_synced(stat, row):
            raise Waits(path, Why.CHANGED_HERE)
        if whole and row.kind is Kind.FILE and self.disk.is_being_written(path):
            raise Waits(path, Why.BEING_WRITTEN)
        return stat

    def current(self, rows: tuple[SyncedRow, ...]) -> tuple[SyncedRow, ...]:
        """Give what synced says by now of the objects that these rows are about."""
        return self.ledger.telling_of(rows)

    def new_rows(self, claim: Claim, stat: Stat) -> list[SyncedRow]:
        """Make the rows of what was put in place just now."""
        now_ns = self.now_ns
        return [row_of(entry, stat, now_ns) for entry in claim.entries]

    def made(self, path: bytes, claim: Claim, stat: Stat) -> list[SyncedRow]:
        """Give the rows of a file that was put in place just now; hints of it are expected."""
        rows = self.new_rows(claim, stat)
        if not is_row_racy(rows[0]):
            self.placed.new.append((path, stat))
        return rows

    def agree(
        self,
        rows: Sequence[SyncedRow],
        gone: tuple[Key, ...] = (),
        number: bytes = b"",
        *,
        before: tuple[SyncedRow, ...] = (),
    ) -> None:
        """Have synced say these rows from now on, and nothing for the keys that are `gone`."""
        orphans = self.orphans
        self.orphans = []
        stored, ended = self.ledger.agree(rows, gone, before, orphans)
        for row in rows:
            if row.kind is Kind.DIRECTORY:
                self.whereabouts.note_directory(row.object_no, Place(row.parent_no, row.name))
        self.placed.outcomes.append(Agreed(stored, ended, number))

    def drop(self, rows: tuple[SyncedRow, ...], number: bytes) -> None:
        """Have synced say nothing any more for these rows."""
        self.agree((), tuple(key_of(row) for row in rows), number, before=rows)

    def close(self, job: Job) -> None:
        """Say that the intent of a job is done with."""
        if job.intent is not None:
            self.placed.outcomes.append(Settled(job.intent.number))

    def fail(self, job: Job, path: bytes, cause: DiskError) -> None:
        """Say that an error ended a job; what may be half done is recovery's matter."""
        self.placed.outcomes.append(failure(path, numbers_of(job.step), cause))
        if self.has_begun:
            self.leave_open(job)
        else:
            self.close(job)

    def leave_open(self, job: Job) -> None:
        """Leave the intent of a job to recovery."""
        if job.intent is None:
            return
        self.placed.is_unfinished = True
        now = self.ledger.now(job.step)
        if now != job.step:
            self.placed.outcomes.append(Reopened(replace(job.intent, step=now)))

    def must_leave_none_behind(self, claim: Claim, before: tuple[SyncedRow, ...]) -> None:
        """See that each file that loses its key to this claim gets one that becomes free.

        Nor may two files have one place in synced: what stands there would be taken for both.
        """
        if claim.place in self.held:
            raise Waits(self.path(claim.place) or b"", Why.BLOCKED)
        self.orphans = self.ledger.orphans(claim, before)
        free = {key[0] for key in ended_keys(claim, before)}
        if any(row.object_no not in free for row in self.orphans):
            self.orphans = []
            raise Waits(self.path(claim.place) or b"", Why.BLOCKED)

    def must_be_reachable(self, rows: tuple[SyncedRow, ...], source: Place, number: bytes) -> None:
        """Forget rows below a directory that synced has no more: nothing stands there."""
        if self.path(source) is None:
            self.drop(self.current(rows), number)
            raise Waits(b"", Why.BLOCKED)

    def is_the_version(self, intent: Intent, displaced: Stat, row: SyncedRow) -> bool:
        """Whether what was displaced is what synced said, by its stat or else by its bytes.

        Times of a clock that was set forward make a row racy for years.
        """
        if is_as_displaced(displaced, row):
            return True
        looked = self.disk.look_stage(intent.keep_as)
        return (
            isinstance(looked, Looked)
            and int(looked.stat.kind) == int(row.kind)
            and looked.value == row.value
        )

    def settle(
        self,
        intent: Intent,
        path: bytes,
        row: SyncedRow,
        displaced: Stat,
        *,
        is_quiet: bool = False,
    ) -> None:
        """Keep what a step displaced; a user's bytes among it become a change of theirs."""
        found = settle(
            self.disk,
            self.names,
            intent.keep_as,
            path,
            row,
            history=intent.history_name,
            is_unchanged=is_as_displaced(displaced, row),
            now_ns=self.now_ns,
            is_quiet=is_quiet,
        )
        self.placed.outcomes += found
