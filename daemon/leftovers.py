"""See to what a crash left in `.dizzyd/tmp` and in history: displaced and unfinished files.

A file in tmp whose bytes are not the intended ones was displaced; it is looked at and goes to
history, or back to its place where the new one never arrived. Nothing but unfinished downloads
is removed. What synced says afterwards is daemon.recovery's part.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Enum

from daemon.disk import (
    Disk,
    FileKind,
    Looked,
    NameMissing,
    NameTaken,
    Stat,
    arriving_name,
)
from daemon.displaced import (
    Clock,
    Names,
    found_kept,
    keep_unknown,
    moment_in,
    row_of_kind,
    settle,
)
from daemon.outcomes import Intent, Outcome, SetAside, Watched
from daemon.steps import MakeLink, WriteFile
from daemon.taking import put_away_unknown
from store.ids import BlobHash
from store.records import SyncedRow

FETCH_PREFIX = b"fetch-tmp-"
_DISPLACED_PREFIX = b"displaced-tmp-"


class Left(Enum):
    """What an interrupted step has left where something stood."""

    OLD = 0  # nothing was displaced, or it stands there again
    NEW = 1  # the old one left and the new one came, wherever a user moved it since
    NEITHER = 2  # the old one left and the new one never came: what stands there is somebody's


class Leftovers:
    """What one recovery finds in tmp and history."""

    def __init__(self, disk: Disk, clock: Clock, names: Names, outcomes: list[Outcome]) -> None:
        """Say in `outcomes`, which others write too, what became of each."""
        self._disk = disk
        self._clock = clock
        self._names = names
        self._outcomes = outcomes
        self._staged: dict[bytes, Stat] = {}  # what was in tmp when this began
        self._kept_at: dict[bytes, bytes] | None = None  # names in history by their moments

    def begin(self) -> None:
        """Find what is in tmp."""
        self._staged = dict(self._disk.list_stages())

    def has(self, name: bytes) -> bool:
        """Whether tmp had this name when this began."""
        return name in self._staged

    def is_free(self, path: bytes) -> bool:
        """Whether nothing stands at a path although its directory is there."""
        parent = path.rpartition(b"/")[0]
        if parent and self._disk.stat(parent) is None:
            return False
        return self._disk.stat(path) is None

    # -- what an intent displaced ----------------------------------------------------------------

    def finish(
        self, intent: Intent, row: SyncedRow, path: bytes | None, intended: bytes | None
    ) -> Left:
        """See to what was displaced from `path`; say what the step has left there.

        `row` is what synced says of it, `intended` the bytes (their hash) that replace it. Where
        the new one did not come, the old one stands again.
        """
        for name in (intent.keep_as, intent.stage):
            if name and name in self._staged:
                return self._finish_staged(intent, name, row, path, intended)
        kept = self._find_kept(intent.history_name)
        if kept is None:
            return Left.OLD
        # An earlier recovery may have kept it, and ended before it could say so.
        left = Left.NEITHER if self._never_came(intent, intent.keep_as, path) else Left.NEW
        looked = self._disk.look_history(kept)
        if not isinstance(looked, Looked):
            return left
        if isinstance(intent.step, SetAside):
            row = row_of_kind(row, looked)
        self._outcomes += found_kept(kept, path or b"", row, looked, self._clock.now_ns())
        return left

    def _find_kept(self, wished: bytes) -> bytes | None:
        """Find in history what was displaced at a moment; its bytes may be none that we knew."""
        if not wished:
            return None
        if self._kept_at is None:
            self._kept_at = {moment_in(name): name for name, _ in self._disk.list_history()}
        return self._kept_at.get(moment_in(wished))

    def _finish_staged(
        self,
        intent: Intent,
        name: bytes,
        row: SyncedRow,
        path: bytes | None,
        intended: bytes | None,
    ) -> Left:
        """See to what tmp has under `name`.

        That nothing stands at the place does not tell: a user may have moved the new one on.
        """
        stands = None if path is None else self._disk.stat(path)
        if stands is not None and stands.inode == self._staged[name].inode:
            # Without NOREPLACE a rename is a link and an unlink: it was not taken away after all.
            self._disk.remove_stage(name)
            return Left.OLD
        is_free = path is not None and self.is_free(path)
        never_came = self._never_came(intent, name, path) or (is_free and _is_made_there(intent))
        looked = self._disk.look_stage(name)
        if not never_came and isinstance(looked, Looked) and looked.value == intended:
            # What is in tmp is the new content: the old one was never displaced.
            self._disk.remove_stage(name)
            return Left.OLD
        if never_came and is_free and path is not None:
            # The new one never arrived: the old one stands again.
            try:
                self._disk.restore_stage(name, path)
            except (NameTaken, NameMissing):
                pass
            else:
                return Left.OLD
        if isinstance(intent.step, SetAside) and isinstance(looked, Looked):
            row = row_of_kind(row, looked)
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
        return Left.NEITHER if never_came else Left.NEW

    def _never_came(self, intent: Intent, name: bytes, path: bytes | None) -> bool:
        """Whether the new one still waits for the place that the old one, `name`, has left.

        A link never waits: where something else stands, it is taken not to have come.
        """
        step = intent.step
        if isinstance(step, MakeLink):
            looked = None if path is None else self._disk.look([path])[0]
            return isinstance(looked, Looked) and looked.value != step.claim.entry.value
        if name != intent.keep_as or not isinstance(step, WriteFile | SetAside):
            return False
        return arriving_name(name) in self._staged or intent.stage in self._staged

    # -- tmp -----------------------------------------------------------------------------------

    def clean(self, in_use: Collection[bytes], is_wanted: Callable[[BlobHash], bool]) -> None:
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

    def sweep(self) -> None:
        """Remove what never arrived."""
        for name in self._staged:
            if name.startswith(arriving_name(b"")):
                self._disk.remove_stage(name)


def _is_made_there(intent: Intent) -> bool:
    """Whether the new one is made at its place and is never in tmp."""
    step = intent.step
    return isinstance(step, MakeLink) or (isinstance(step, SetAside) and not step.value)
