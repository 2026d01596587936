"""Turn hints into looks, and what is found into events, for as long as it runs.

When to look is daemon.looks', what a look finds daemon.scanner's, what it means daemon.matching's,
and what is written of it daemon.recording's; here they follow each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from daemon import ignore as ignoring
from daemon.acts import Act, Edited
from daemon.apply import Applier
from daemon.differences import Differences
from daemon.disk import Disk, DiskError
from daemon.echoes import is_only_a_place, silenced
from daemon.found_problems import FoundProblems
from daemon.held import HeldDeletions, is_reversion, may_be_reversion
from daemon.hint_box import HintBox
from daemon.hints import Hint, HintKind, Watcher, WatchState
from daemon.join_gate import JoinGate
from daemon.journal import was_displaced_since
from daemon.known_rows import KnownRows
from daemon.large_reads import Beside, LargeReads
from daemon.late_moves import LateMoves, gone_from_there, known_elsewhere, suspects
from daemon.look_set import Again, AgainReason, LookSet
from daemon.looks import LookSchedule
from daemon.matching import ScanCause, match
from daemon.recording import Recording
from daemon.restless import Restless
from daemon.scanner import scan
from daemon.standing import Standing
from peers.cancelling import TaskGroup
from store.ids import BlobHash

ROUTINE_SCAN_S = 3600.0
POLL_S = 30.0
PLACING_PATIENCE_S = 0.5  # hints wait so long for apply to finish what it puts in place
_JOIN_POLL_S = 0.2
_BUNCHES_AHEAD = 6  # read and not recorded: the first sync waits for all that a copy has left


class LookLoop:
    """The way from disk to log of one folder. Owned by the event loop."""

    def __init__(
        self,
        standing: Standing,
        *,
        ignores_editor_files: bool,
        on_idle: Callable[[], None],
        on_scanned: Callable[[], None],
        on_tail: Callable[[], None],
    ) -> None:
        """Prepare.

        `on_idle` is called whenever nothing is left to look at, `on_scanned` when the first full
        scan has ended, `on_tail` when what we lacked of our own log is here again.
        """
        self._standing = standing
        self._tools = standing.tools
        self._ignores_editor_files = ignores_editor_files
        self._on_idle = on_idle
        self._on_scanned = on_scanned
        self._on_tail = on_tail
        self.known = KnownRows(standing)
        self._schedule = LookSchedule(self.known.paths_among)
        self._box = HintBox(self._take_hints)
        self._gate = JoinGate(standing)
        self._late = LateMoves()
        self.large = LargeReads(self._tools.pool, self._large_was_read)
        self._hints: list[Hint] = []
        self._is_taking_hints = False
        self._woken = asyncio.Event()
        self._scan_asked: list[asyncio.Future[None]] = []
        self._looks_asked: list[tuple[LookSet, asyncio.Future[None]]] = []
        self._recording = Recording(standing, self._schedule)
        self._cause = ScanCause.START
        self.ignore: ignoring.Ignore = ignoring.IgnoreRules()
        self.held = HeldDeletions()
        self.watch_state = WatchState.FULL
        self.problems = FoundProblems(standing.trouble)
        self.restless = Restless()
        self.is_importing = True
        self.is_scanning = False

    # -- what others tell and ask ------------------------------------------------------------

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits to be looked at or recorded."""
        return (
            self._standing.is_scanned
            and not self.is_scanning
            and not self._hints
            and not self._is_taking_hints
            and not self.large.is_reading
            and not self._standing.tail.is_lagging
            and self._schedule.next_due_s is None
        )

    @property
    def _may_look(self) -> bool:
        """Whether what a look finds may be written now."""
        return self._gate.is_open and not self._standing.tail.is_lagging

    def wake(self) -> None:
        """Go through what is due: something changed that it may depend on."""
        self._woken.set()

    def look_at_all(self) -> None:
        """Look at everything soon."""
        self._schedule.rescan(self._standing.now_s())
        self._woken.set()

    async def scan_now(self) -> None:
        """Look at everything; returns when the walk and its recording are done."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._scan_asked.append(done)
        self._woken.set()
        await done

    async def look_now(self, where: LookSet) -> None:
        """Look at some places; returns when what was found is recorded."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._looks_asked.append((where, done))
        self._woken.set()
        await done

    def look_again(self, agains: Sequence[Again], missing: Sequence[bytes] = ()) -> None:
        """Look at these paths again, and at what stood at missing ones."""
        self._schedule.look_again(agains, self._standing.now_s())
        self._schedule.miss(missing, self._standing.now_s())
        self._woken.set()

    def _large_was_read(self, path: bytes) -> None:
        self.look_again([Again(path, AgainReason.UNSURE, 0.0)])

    def take_fresh(self) -> dict[BlobHash, bytes]:
        """Give the small contents of what was recorded last, to go with the news of it."""
        return self._recording.take_fresh()

    def is_ignored(self, path: bytes, is_directory: bool) -> bool:  # noqa: FBT001
        """Whether a name is not shared, as of the last full scan."""
        return self.ignore.is_ignored(path, is_directory=is_directory, exists=lambda _path: False)

    async def start(self, watcher: Watcher) -> None:
        """Begin to watch; what happens from now on is looked at."""
        self._box.open()
        await self._tools.pool.run(watcher.start, self._box.put)

    def root_lost(self) -> None:
        """Note that what is found next was not watched while it changed."""
        self._cause = ScanCause.ROOT_FAULT

    def set_back(self) -> None:
        """Note that we know less of our own log than others do: look again, as at a start."""
        self._cause = ScanCause.START
        self.look_at_all()

    async def _check_gates(self, disk: Disk) -> None:
        """Find out whether to look by now.

        Raises:
            DiskError: the root cannot be listed.
        """
        standing = self._standing
        if not self._gate.is_open:
            await self._gate.check(disk)
        has_others = len(standing.members.keys() - {self._tools.shelf.key.agent}) > 0
        if await standing.tail.look(
            standing.heads_of_others(), standing.now_s(), has_others=has_others
        ):
            if standing.own_member is not None:
                self._gate.open()
            self._on_tail()

    def _take_hints(self, hints: list[Hint]) -> None:
        self._hints.extend(hints)
        self.problems.forget_gone(hints)
        self._standing.was_settled = False
        self._woken.set()

    # -- when to look --------------------------------------------------------------------------

    async def run(self, disk: Disk, watcher: Watcher) -> None:
        """Look until cancelled.

        Raises:
            DiskError: the root is lost.
        """
        loop = asyncio.get_running_loop()
        next_routine_s = loop.time() + ROUTINE_SCAN_S
        while True:
            self._woken.clear()
            hints, self._hints = self._hints, []
            self.watch_state = watcher.state
            if hints:
                await self._take_to_schedule(disk, hints)
            asked, self._scan_asked = self._scan_asked, []
            if asked or loop.time() >= next_routine_s:
                self._schedule.rescan(self._standing.now_s())
                next_routine_s = loop.time() + ROUTINE_SCAN_S
            if self._may_look:
                where = self._schedule.due(self._standing.now_s())
                if where:
                    await self._look(disk, where)
                await self._look_as_asked(disk)
                for done in asked:
                    if not done.done():
                        done.set_result(None)
            else:
                self._scan_asked.extend(asked)
                await self._check_gates(disk)
            await self._wait_for_hints(watcher, next_routine_s)

    async def _look_as_asked(self, disk: Disk) -> None:
        looks, self._looks_asked = self._looks_asked, []
        for where, done in looks:
            if not done.done():
                await self._look(disk, where, is_asked=True)
                done.set_result(None)

    async def _take_to_schedule(self, disk: Disk, hints: list[Hint]) -> None:
        """Schedule looks for hints, once apply has put in place what it is at.

        Most hints of that time are of our own renames: they are judged together, by one look
        that finds nothing, when synced has followed.
        """
        self._is_taking_hints = True
        try:
            applier = self._standing.applier
            is_at_rest = applier is None or await applier.rest(PLACING_PATIENCE_S)
            now, self._hints = self._hints, []
            hints = await self._but_echoes(disk, [*hints, *now])
            if applier is not None and not is_at_rest:
                hints = self._but_early(applier, hints)
            if not hints:
                return
            known = await self._tools.core.run(self.known.paths_among, self._schedule.asked(hints))
            self._schedule.touch(hints, self._standing.now_s(), known)
        finally:
            self._is_taking_hints = False

    async def _but_echoes(self, disk: Disk, hints: list[Hint]) -> list[Hint]:
        """Leave out hints of what apply put in place and nobody changed since."""
        applier = self._standing.applier
        placed = applier.echoes.among(hints) if applier is not None else {}
        for path in (ignoring.RULES_NAME, *self.problems.paths()):
            placed.pop(path, None)  # a look there does more than to compare
        if not placed:
            return hints
        return await self._tools.pool.run(silenced, disk, hints, placed)

    def _but_early(self, applier: Applier, hints: list[Hint]) -> list[Hint]:
        """Keep for later what says no more than that apply is at work there still."""
        places = {hint.path for hint in hints if is_only_a_place(hint)}
        early = {path for path in places if applier.is_busy(path)}
        if not early:
            return hints
        self._hints[:0] = [hint for hint in hints if hint.path in early]
        return [hint for hint in hints if hint.path not in early]

    async def _wait_for_hints(self, watcher: Watcher, next_routine_s: float) -> None:
        self._on_idle()
        due_s = self._schedule.next_due_s
        until_s = next_routine_s - asyncio.get_running_loop().time()
        if due_s is not None and self._may_look:
            until_s = min(until_s, due_s - self._standing.now_s())
        if watcher.state is not WatchState.FULL:
            until_s = min(until_s, POLL_S)
        if not self._may_look:
            until_s = min(until_s, _JOIN_POLL_S)
        if until_s <= 0 or self._hints:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(until_s):
                await self._woken.wait()
        except TimeoutError:
            if watcher.state is WatchState.POLLING:
                self._schedule.rescan(self._standing.now_s())
            elif watcher.state is WatchState.PARTIAL:
                lost = [Hint(HintKind.LOST, path) for path in watcher.unwatched()]
                await self._tools.core.run(self._schedule.touch, lost, self._standing.now_s())

    # -- one look ------------------------------------------------------------------------------

    async def _look(self, disk: Disk, where: LookSet, *, is_asked: bool = False) -> None:
        """Scan where it is due and record what was found, both at once.

        Large files are read beside it, and found by a look of their own; not where one asked.
        """
        beside = None if is_asked else self.large
        cause = self._cause if where.is_full else ScanCause.HINTED
        self.is_scanning = True
        bunches: asyncio.Queue[Differences | None] = asyncio.Queue(_BUNCHES_AHEAD)
        try:
            await self._load_ignore(disk, where)
            self.problems.forget(where)
            self.restless.begin(where)
            if where.is_full:
                self._standing.reverted.begin()
            async with TaskGroup() as tasks:
                tasks.create_task(self._scan_into(disk, where, bunches, beside))
                while (bunch := await bunches.get()) is not None:
                    await self._take_bunch(disk, bunch, cause, is_full=where.is_full)
            self.restless.end()
            if where.is_full:
                await self._end_full_scan()
        finally:
            self.is_scanning = False

    async def _scan_into(
        self,
        disk: Disk,
        where: LookSet,
        bunches: asyncio.Queue[Differences | None],
        beside: Beside | None,
    ) -> None:
        tools = self._tools
        found = scan(disk, self.known, self.ignore, tools.pool, tools.clock, where, beside)
        try:
            async for bunch in found:
                await bunches.put(bunch)
        except Exception:
            await bunches.put(None)  # whatever it is, what was found before it is recorded
            raise
        # Not where we are cancelled: nobody takes anything any more, and the queue may be full.
        await bunches.put(None)

    async def _load_ignore(self, disk: Disk, where: LookSet) -> None:
        if not (where.is_full or ignoring.RULES_NAME in where.paths or b"" in where.directories):
            return
        trouble = self._standing.trouble
        try:
            self.ignore = await self._tools.pool.run(
                lambda: ignoring.load(disk, are_editors_ignored=self._ignores_editor_files)
            )
            trouble.ignore = None
        except DiskError as bad:
            trouble.ignore = (str(bad), bad.hint)

    async def _take_bunch(
        self, disk: Disk, bunch: Differences, cause: ScanCause, *, is_full: bool
    ) -> None:
        self.problems.note(bunch.problems)
        reverted = self._standing.reverted
        acts = await self._without_late_moves(disk, reverted.without_held(match(bunch)))
        if is_full:
            acts = await self._without_reversions(acts, cause)
        if bunch.is_last:
            if is_full:
                synced = self._standing.synced
                self.held.decide(acts, synced.files + synced.directories, cause)
                acts = [*acts, *reverted.decide()]
            acts = self.held.without_held(acts)
        if acts:
            await self._recording.record(disk, acts)
        if bunch.agains:
            now_s = self._standing.now_s()
            self._schedule.look_again(bunch.agains, now_s)
            self.restless.note(bunch.agains, now_s)

    async def _without_late_moves(self, disk: Disk, acts: list[Act]) -> list[Act]:
        """Keep back what was renamed while we looked, and have both its names looked at."""
        tools, standing = self._tools, self._standing
        if not (news := suspects(acts)):
            return acts
        renames = await tools.core.run(known_elsewhere, standing.synced, news)
        if renames:
            renames = await tools.pool.run(gone_from_there, disk, renames)
        if not renames:
            return acts
        kept = self._late.keep_back(acts, renames, standing.now_s())
        self._schedule.look_again_at_moves(kept.renames, standing.now_s())
        return kept.acts

    async def _without_reversions(self, acts: list[Act], cause: ScanCause) -> list[Act]:
        """Keep back, to the end of the scan, files that are what they were before."""
        edits = [act for act in acts if isinstance(act, Edited) and may_be_reversion(act, cause)]
        if not edits:
            return acts

        def find() -> list[Edited]:
            stored, no = self._standing.stored, self._standing.folder_no
            unmeant = [act for act in edits if is_reversion(act, stored.has_had)]
            return [
                act
                for act in unmeant
                if not any(was_displaced_since(stored.db, no, row) for row in act.rows)
            ]

        found = await self._tools.core.run(find)
        self._standing.reverted.suspect(found)
        paths = {act.path for act in found}
        return [act for act in acts if not (isinstance(act, Edited) and act.path in paths)]

    async def _end_full_scan(self) -> None:
        standing = self._standing
        self._cause = ScanCause.ROUTINE
        if standing.is_scanned and not self.is_importing:
            return
        standing.is_scanned = True
        self.is_importing = False
        if standing.is_joining:
            await self._tools.core.run(lambda: standing.stored.set_joining(is_joining=False))
            standing.is_joining = False
        self._on_scanned()
