"""Keep one folder in step: look, record, plan, apply, for as long as the node runs.

Two loops that know each other only through the database thread: one turns hints into acts and
acts into events, the other turns changes of state into files. A lost root stops both until it is
back; nothing is ever concluded from what cannot be seen.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from daemon import ignore as ignoring
from daemon.acts import Act, Created, Deleted, Moved
from daemon.apply import Applied, Applier
from daemon.contents import FolderContents
from daemon.differences import Differences, Problem, ProblemKind
from daemon.disk import Disk, DiskError
from daemon.displaced import DisplacedWatch
from daemon.durable import make_durable
from daemon.folder_tools import Tools, Trouble
from daemon.hints import Hint, HintKind, Watcher, WatchState
from daemon.journal import FolderJournal
from daemon.looks import QUIET_S, Again, AgainReason, LookSchedule, LookSet
from daemon.matching import ScanCause, is_mass_deletion, match
from daemon.outcomes import Postponed, Why
from daemon.planning import UnderWay, plan_changes, queue_unsynced, split_slow
from daemon.procedures import RecordActs
from daemon.record import Recorded
from daemon.scanner import scan
from daemon.shelf import Shelf
from daemon.steps import Plan, WriteFile
from peers.cancelling import TaskGroup
from peers.heads import Heads, is_in_sync
from store.access import Member, may_write
from store.folder import StoredFolder
from store.ids import AgentId, BatchId, BlobHash, FolderId, short
from store.records import SyncedRow

logger = logging.getLogger(__name__)

ROUTINE_SCAN_S = 3600.0
POLL_S = 30.0
ROOT_RETRY_S = 1.0
RETRY_FIRST_S = 0.05
RETRY_LONGEST_S = 5.0
AWAY_RETRY_S = 10.0
FAILED_RETRY_S = 5.0
DISPLACED_LOOK_S = 5.0
PLACING_PATIENCE_S = 0.5  # hints wait so long for apply to finish what it puts in place
IMPORT_PATIENCE_S = 30.0
_BUNCHES_AHEAD = 2


@dataclass(slots=True)
class _Retry:
    due_s: float
    delay_s: float


class FolderWork:
    """One folder at work. Owned by the loop; the database thread is asked in units."""

    def __init__(
        self,
        tools: Tools,
        *,
        folder_no: int,
        folder: FolderId,
        path: bytes,
        umask: int | None,
        ignores_editor_files: bool,
    ) -> None:
        """Prepare; run() does the work."""
        self._tools = tools
        self.folder_no = folder_no
        self.folder = folder
        self.path = path
        self._umask = umask
        self._ignores_editor_files = ignores_editor_files
        self.members: dict[AgentId, Member] = {}
        self.disk: Disk | None = None
        self.watch_state = WatchState.FULL
        self.trouble = Trouble()
        self.is_importing = True
        self.is_scanning = False
        self.is_applying = False
        self.is_joining = False
        self.skipped: dict[bytes, ProblemKind] = {}
        self.local_changes: set[bytes] = set()
        self.local_objects: set[int] = set()
        self.pending: tuple[int, int] = (0, 0)  # files, bytes
        self.last_change_ms: int | None = None
        self.peer_heads: dict[AgentId, Heads] = {}
        self.covered_seq = -1
        self._held: set[bytes] = set()  # paths whose deletion waits for a person's word
        self._is_confirmed = False
        self._journal = FolderJournal(tools.shelf, tools.engine, tools.core, folder_no)
        self._schedule = LookSchedule(self._known_paths)
        self._delivery = threading.Lock()
        self._delivered: list[Hint] = []
        self._is_announced = False
        self._hints: list[Hint] = []
        self._is_taking_hints = False
        self._hinted = asyncio.Event()
        self._changed = asyncio.Event()
        self._scan_asked: list[asyncio.Future[None]] = []
        self._retries: dict[int, _Retry] = {}
        self._away: set[int] = set()
        self._under_way = UnderWay()
        self._delays: dict[int, float] = {}
        self._away_due_s = 0.0
        self._slow = 0
        self._fresh: dict[BlobHash, bytes] = {}
        self._applier: Applier | None = None
        self._is_join_ready = False
        self._join_progress = (-1, 0.0)  # batches known, and since when
        self.was_settled = False
        self._ignore: ignoring.Ignore = ignoring.IgnoreRules()
        self._first_scan_done = False
        self._cause = ScanCause.START
        self._has_backlog = True
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- life -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled; a lost root is waited for."""
        self._loop = asyncio.get_running_loop()
        await self.refresh_members()
        while True:
            try:
                disk = await self._tools.pool.run(
                    self._tools.open_disk, self.path, self.folder, self._umask
                )
            except DiskError as lost:
                self._lose_root(lost)
                await asyncio.sleep(ROOT_RETRY_S)
                continue
            self.disk = disk
            try:
                await self._work(disk)
            except* DiskError as group:
                self._lose_root(_first(group))
            finally:
                self.disk = None
                self._tools.close_disk(disk)
            self._cause = ScanCause.ROOT_FAULT
            await asyncio.sleep(ROOT_RETRY_S)

    def _lose_root(self, cause: DiskError) -> None:
        if self.trouble.root is None:
            logger.warning("folder faulty folder=%s why=%s", short(self.folder), cause)
        remedy = cause.hint or "bring the folder back; it goes on by itself"
        self.trouble.root = (str(cause), remedy)

    async def _work(self, disk: Disk) -> None:
        tools = self._tools
        watcher = tools.watch(self.path)
        contents = FolderContents(
            shelf=tools.shelf,
            core=tools.core,
            pool=tools.pool,
            disk=disk,
            folder_no=self.folder_no,
            folder=self.folder,
            fetcher=tools.fetcher,
        )
        applier = Applier(
            disk,
            tools.pool,
            self._journal,
            contents,
            tools.clock,
            _Paths(tools.shelf, self.folder_no),
            is_ignored=self._is_ignored,
        )
        self._applier = applier
        self._under_way = UnderWay()
        displaced = DisplacedWatch(disk, tools.pool, self._journal, tools.clock)
        await tools.pool.run(watcher.start, self._deliver)
        try:
            self._journal.wall_ms = self._now_ms()
            await applier.recover()
            self.trouble.root = None
            self._schedule.rescan(self._now_s())
            self._has_backlog = True
            async with TaskGroup() as tasks:
                tasks.create_task(self._look_forever(disk, watcher))
                tasks.create_task(self._apply_forever(applier))
                tasks.create_task(self._watch_displaced(displaced))
        finally:
            await asyncio.shield(tools.pool.run(watcher.stop))

    # -- what others tell -----------------------------------------------------------------------

    def _deliver(self, hints: list[Hint]) -> None:
        """Take hints from the watcher's thread; one call wakes the loop for many bunches."""
        with self._delivery:
            self._delivered.extend(hints)
            is_announced, self._is_announced = self._is_announced, True
        if not is_announced and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take_hints)

    def _take_hints(self) -> None:
        with self._delivery:
            hints, self._delivered = self._delivered, []
            self._is_announced = False
        self._hints.extend(hints)
        if self.trouble.unreadable:
            self._forget_unreadable(hints)
        self.was_settled = False
        self._hinted.set()

    def changed(self) -> None:
        """State changed: the view may want other things on this disk."""
        self.was_settled = False
        self._changed.set()

    async def refresh_members(self) -> None:
        """Read who is a member now."""

        def read() -> tuple[dict[AgentId, Member], bool]:
            stored = self._tools.shelf[self.folder_no]
            return stored.log.members(), stored.is_joining

        self.members, self.is_joining = await self._tools.core.run(read)
        if self.may_write and self.local_changes:  # refused before we had the role
            self.local_changes.clear()
            self.local_objects.clear()
            self._schedule.rescan(self._now_s())
            self._hinted.set()
            self.changed()

    def peer_has(self, agent: AgentId, heads: Heads) -> None:
        """Note what a peer has of this folder."""
        self.peer_heads[agent] = heads
        self._hinted.set()
        own = self._own_log
        for head in heads.heads:
            if head.log == own:
                self.covered_seq = max(self.covered_seq, head.seq)

    def peer_gone(self, agent: AgentId) -> None:
        """Forget what a disconnected peer had."""
        self.peer_heads.pop(agent, None)
        self._hinted.set()

    def contents_available(self, blobs: Sequence[BlobHash]) -> None:
        """Note that contents that nobody had can be fetched now."""
        self.retry_away()

    def retry_away(self) -> None:
        """Try again what no peer at hand had."""
        if self._away:
            self._retries.update((no, _Retry(0.0, RETRY_FIRST_S)) for no in self._away)
            self._away.clear()
            self.changed()

    @property
    def _stored(self) -> StoredFolder:
        """The folder on the database thread."""
        return self._tools.shelf[self.folder_no]

    @property
    def _own_log(self) -> bytes:
        return self._tools.shelf[self.folder_no].own_log

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits to be looked at, recorded, planned or applied here."""
        return (
            self._first_scan_done
            and not self.is_scanning
            and not self.is_applying
            and not self._hints
            and not self._is_taking_hints
            and not self._changed.is_set()
            and not self._has_backlog
            and not self._slow
            and not self._retries
            and not self._away
            and self.trouble.root is None
            and self._schedule.next_due_s is None
        )

    @property
    def waiting_objects(self) -> set[int]:
        """The objects that are planned again later: what failed, what no peer at hand has."""
        return self._away.union(self._retries)

    @property
    def ignore(self) -> ignoring.Ignore:
        """What is not shared, as of the last full scan."""
        return self._ignore

    @property
    def has_work(self) -> bool:
        """Whether this disk is behind the state, or the state behind the disk.

        Who is told of work is told of its end too: peers compare only what is settled.
        """
        if not self.is_settled:
            self.was_settled = False
        return not self.is_settled

    async def scan_now(self) -> None:
        """Look at everything; returns when the walk and its recording are done."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._scan_asked.append(done)
        self._hinted.set()
        await done

    def confirm(self) -> None:
        """Let held deletions go on."""
        self._is_confirmed = True
        self._schedule.rescan(self._now_s())
        self._hinted.set()

    # -- looking --------------------------------------------------------------------------------

    def _known_paths(self, paths: Sequence[bytes]) -> list[bytes]:
        synced = self._tools.shelf[self.folder_no].synced
        rows = synced.rows_at_many(paths)
        return [path for path, at in zip(paths, rows, strict=True) if at]

    async def _look_forever(self, disk: Disk, watcher: Watcher) -> None:
        loop = asyncio.get_running_loop()
        next_routine_s = loop.time() + ROUTINE_SCAN_S
        while True:
            self._hinted.clear()
            hints, self._hints = self._hints, []
            self.watch_state = watcher.state
            if hints:
                await self._take_to_schedule(hints)
            asked, self._scan_asked = self._scan_asked, []
            if asked or loop.time() >= next_routine_s:
                self._schedule.rescan(self._now_s())
                next_routine_s = loop.time() + ROUTINE_SCAN_S
            if self._may_scan():
                where = self._schedule.due(self._now_s())
                if where:
                    await self._look(disk, where)
                for done in asked:
                    if not done.done():
                        done.set_result(None)
            else:
                self._scan_asked.extend(asked)
                await self._check_join(disk)
            await self._wait_for_hints(watcher, next_routine_s)

    async def _take_to_schedule(self, hints: list[Hint]) -> None:
        """Schedule looks for hints, once apply has put in place what it is at.

        Most hints of that time are of our own renames: they are judged together, by one look
        that finds nothing, when synced has followed.
        """
        self._is_taking_hints = True
        try:
            if self._applier is not None:
                await self._applier.rest(PLACING_PATIENCE_S)
            now, self._hints = self._hints, []
            hints = [*hints, *now]
            known = await self._tools.core.run(self._known_paths, self._schedule.asked(hints))
            self._schedule.touch(hints, self._now_s(), known)
        finally:
            self._is_taking_hints = False

    async def _wait_for_hints(self, watcher: Watcher, next_routine_s: float) -> None:
        loop = asyncio.get_running_loop()
        if self.is_settled:
            self._become_settled()
        due_s = self._schedule.next_due_s
        until_s = next_routine_s - loop.time()
        if due_s is not None and self._may_scan():
            until_s = min(until_s, due_s - self._now_s())
        if watcher.state is not WatchState.FULL:
            until_s = min(until_s, POLL_S)
        if not self._may_scan():
            until_s = min(until_s, 0.2)
        if until_s <= 0 or self._hints:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(until_s):
                await self._hinted.wait()
        except TimeoutError:
            if watcher.state is WatchState.POLLING:
                self._schedule.rescan(self._now_s())
            elif watcher.state is WatchState.PARTIAL:
                lost = [Hint(HintKind.LOST, path) for path in watcher.unwatched()]
                await self._tools.core.run(self._schedule.touch, lost, self._now_s())

    def _may_scan(self) -> bool:
        """Whether to look now: a joiner waits for the log of who imports still."""
        return not self.is_joining or self._is_join_ready

    async def _check_join(self, disk: Disk) -> None:
        """Find out whether local files may be bound: we have the log that our source has.

        An empty root has nothing to bind. A source that imports is waited for as long as it
        makes progress.
        """
        if not await self._tools.pool.run(disk.list_directory, b""):
            self._is_join_ready = True
            return
        now_s = self._now_s()
        wanted = [head.batch for heads in self.peer_heads.values() for head in heads.heads]
        if not wanted:
            return

        def count() -> tuple[int, int]:
            log = self._tools.shelf[self.folder_no].log
            return sum(not log.has(BatchId(batch)) for batch in wanted), log.batches

        missing, batches = await self._tools.core.run(count)
        if batches != self._join_progress[0]:
            self._join_progress = (batches, now_s)
        is_stuck = now_s - self._join_progress[1] > IMPORT_PATIENCE_S
        is_importing = any(heads.is_importing for heads in self.peer_heads.values())
        self._is_join_ready = not missing and (not is_importing or is_stuck)

    async def _look(self, disk: Disk, where: LookSet) -> None:
        """Scan where it is due and record what was found, both at once."""
        cause = self._cause if where.is_full else ScanCause.HINTED
        self.is_scanning = True
        bunches: asyncio.Queue[Differences | None] = asyncio.Queue(_BUNCHES_AHEAD)
        try:
            await self._load_ignore(disk, where)
            self._forget_problems(where)
            async with TaskGroup() as tasks:
                tasks.create_task(self._scan_into(disk, where, bunches))
                while (bunch := await bunches.get()) is not None:
                    await self._take_bunch(disk, bunch, cause, is_full=where.is_full)
            if where.is_full:
                await self._end_full_scan()
        finally:
            self.is_scanning = False

    async def _scan_into(
        self, disk: Disk, where: LookSet, bunches: asyncio.Queue[Differences | None]
    ) -> None:
        tools = self._tools
        try:
            async for bunch in scan(disk, self, self._ignore, tools.pool, tools.clock, where):
                await bunches.put(bunch)
        finally:
            if bunches.full():
                await asyncio.sleep(0)
            await bunches.put(None)

    def _is_ignored(self, path: bytes, is_directory: bool) -> bool:  # noqa: FBT001
        return self._ignore.is_ignored(path, is_directory=is_directory, exists=lambda _path: False)

    async def _load_ignore(self, disk: Disk, where: LookSet) -> None:
        if not (where.is_full or ignoring.RULES_NAME in where.paths or b"" in where.directories):
            return
        try:
            self._ignore = await self._tools.pool.run(
                lambda: ignoring.load(disk, are_editors_ignored=self._ignores_editor_files)
            )
            self.trouble.ignore = None
        except DiskError as bad:
            self.trouble.ignore = (str(bad), bad.hint)

    async def _end_full_scan(self) -> None:
        self._cause = ScanCause.ROUTINE
        if not self._first_scan_done or self.is_importing:
            self._first_scan_done = True
            self.is_importing = False
            if self.is_joining:
                await self._tools.core.run(
                    lambda: self._tools.shelf[self.folder_no].set_joining(is_joining=False)
                )
                self.is_joining = False
            self._has_backlog = True
            self._changed.set()
            self._tools.heads_changed(self.folder)

    # the SyncedTree that the scanner asks

    async def rows_in(self, directories: Sequence[bytes]) -> list[list[SyncedRow]]:
        """Give, for each directory path, the rows of all names that stand in it."""

        def read() -> list[list[SyncedRow]]:
            synced = self._tools.shelf[self.folder_no].synced
            return [synced.rows_in(path) for path in directories]

        return await self._tools.core.run(read)

    async def rows_at(self, paths: Sequence[bytes]) -> list[list[SyncedRow]]:
        """Give, for each path, the rows that stand there."""

        def read() -> list[list[SyncedRow]]:
            synced = self._tools.shelf[self.folder_no].synced
            return synced.rows_at_many(paths)

        return await self._tools.core.run(read)

    async def _take_bunch(
        self, disk: Disk, bunch: Differences, cause: ScanCause, *, is_full: bool
    ) -> None:
        self._note_problems(bunch.problems)
        acts = match(bunch)
        if bunch.is_last:
            acts = self._hold(acts, cause, is_full=is_full)
        if acts:
            await self._record(disk, acts)
        if bunch.agains:
            self._schedule.look_again(bunch.agains, self._now_s())

    def _hold(self, acts: list[Act], cause: ScanCause, *, is_full: bool) -> list[Act]:
        """Hold back a mass deletion that nobody watched, until it is confirmed.

        Only a full scan decides what is held; what is, stays so for any other look.
        """
        if is_full:
            missing = {act.path for act in acts if isinstance(act, Deleted)}
            synced = self._tools.shelf[self.folder_no].synced
            total = synced.files + synced.directories
            is_held = bool(self._held) or is_mass_deletion(len(missing), total, cause)
            self._held = missing if is_held and not self._is_confirmed else set()
            self._is_confirmed = False
        if not self._held:
            return acts
        return [act for act in acts if not (isinstance(act, Deleted) and act.path in self._held)]

    @property
    def held(self) -> int:
        """The number of deletions that wait for a person's word."""
        return len(self._held)

    def is_held(self, path: bytes) -> bool:
        """Whether the deletion of a path waits for a person's word."""
        return path in self._held

    def release_held(self) -> None:
        """Hold nothing any more: what was missing has been put back."""
        self._held = set()

    def _forget_problems(self, where: LookSet) -> None:
        """Forget what was wrong where a look begins; what still is wrong is found again."""
        if where.is_full:
            self.trouble.unreadable.clear()
            self.skipped.clear()
            return
        looked = {*where.paths, *where.trees}
        below = tuple(tree + b"/" for tree in where.trees)
        for path in list(self.trouble.unreadable):
            is_listed = path.rpartition(b"/")[0] in where.directories
            if path in looked or is_listed or path.startswith(below):
                del self.trouble.unreadable[path]

    def _forget_unreadable(self, hints: Sequence[Hint]) -> None:
        """Forget what was wrong under names that went: they are not looked at again."""
        went = {hint.path for hint in hints if hint.kind is HintKind.GONE}
        went.update(hint.source for hint in hints if hint.source)
        below = tuple(path + b"/" for path in went)
        for path in list(self.trouble.unreadable):
            if path in went or path.startswith(below):
                del self.trouble.unreadable[path]

    def _note_problems(self, problems: Sequence[Problem]) -> None:
        for problem in problems:
            if problem.kind is ProblemKind.UNREADABLE:
                self.trouble.unreadable[problem.path] = problem.why
            else:
                self.skipped[problem.path] = problem.kind

    # -- recording ------------------------------------------------------------------------------

    async def _record(self, disk: Disk, acts: Sequence[Act]) -> None:
        """Make what the acts name durable, then record them in one transaction."""
        tools = self._tools
        self.was_settled = False
        acts = self._not_busy(acts)
        if not acts:
            return
        self._fresh = await tools.pool.run(make_durable, disk, acts)
        self.last_change_ms = self._now_ms()
        command = RecordActs(
            folder_no=self.folder_no,
            acts=tuple(acts),
            wall_ms=self._now_ms(),
            covered_seq=self.covered_seq,
            busy=frozenset(),
            under_way=self._under_way,
        )

        def record() -> Recorded:
            recorded = tools.engine.perform(tools.procedures.record, command)
            tools.engine.run_until_idle()
            return recorded

        recorded = await tools.core.run(record)
        if recorded.look_again:
            agains = [Again(path, AgainReason.UNSURE, 0.1) for path in recorded.look_again]
            self._schedule.look_again(agains, self._now_s())
        self._note_local(acts, recorded)

    def _not_busy(self, acts: Sequence[Act]) -> Sequence[Act]:
        """Leave out what was seen where apply is at work just now: it is looked at once more."""
        applier = self._applier
        if applier is None:
            return acts
        quiet: list[Act] = []
        again: list[Again] = []
        for act in acts:
            paths = [act.source, act.target] if isinstance(act, Moved) else [act.path]
            if any(applier.is_busy(path) for path in paths):
                again.extend(Again(path, AgainReason.UNSURE, 0.05) for path in paths)
            else:
                quiet.append(act)
        if again:
            self._schedule.look_again(again, self._now_s())
        return quiet

    def _note_local(self, acts: Sequence[Act], recorded: Recorded) -> None:
        """Keep account of a reader's own changes: listed, never sent, never overwritten."""
        for act in acts:
            path = act.target if isinstance(act, Moved) else act.path
            self.local_changes.discard(path)
        self.local_changes.update(recorded.local_changes)
        refused = set(recorded.local_changes)
        for act in acts:
            if isinstance(act, Created):
                continue
            path = act.target if isinstance(act, Moved) else act.path
            nos = {row.object_no for row in act.rows}
            if path in refused:
                self.local_objects |= nos
            else:
                self.local_objects -= nos

    def take_fresh(self) -> dict[BlobHash, bytes]:
        """Give the small contents of what was recorded last, to go with the news of it."""
        fresh, self._fresh = self._fresh, {}
        return fresh

    # -- applying -------------------------------------------------------------------------------

    async def _apply_forever(self, applier: Applier) -> None:
        await self._tools.core.run(queue_unsynced, self._stored)
        async with TaskGroup() as large:
            while True:
                self._changed.clear()
                if self._may_apply() and await self._apply_once(applier, large):
                    continue
                await self._wait_for_changes()

    async def _apply_once(self, applier: Applier, large: asyncio.TaskGroup) -> bool:
        """Plan what changed and do it; whether there was anything to plan."""
        self.is_applying = True
        try:
            due = self._take_due()
            made, self._has_backlog = await self._tools.core.run(
                plan_changes,
                self._stored,
                due,
                frozenset(self.local_objects),
                self._under_way,
            )
            if made is None:
                return False
            quick, slow = split_slow(made)
            if quick.steps or quick.blocked:
                await self._carry_out(applier, quick)
            else:
                self._under_way.end(quick.objects)
            for one in slow:
                self._slow += 1
                large.create_task(self._carry_out_slow(applier, one))
            return True
        finally:
            self.is_applying = False

    async def _wait_for_changes(self) -> None:
        loop = asyncio.get_running_loop()
        if self.is_settled:
            self._become_settled()
        due_s = [retry.due_s for retry in self._retries.values()]
        if self._away:
            due_s.append(self._away_due_s)
        try:
            async with asyncio.timeout_at(min(due_s, default=None)):
                await self._changed.wait()
        except TimeoutError:
            if self._away and self._away_due_s <= loop.time():
                self.retry_away()

    def _become_settled(self) -> None:
        if not self.was_settled:
            self.was_settled = True
            self.pending = (0, 0)
            self.trouble.failed.clear()
            self._tools.heads_changed(self.folder)

    def _take_due(self) -> list[int]:
        now_s = asyncio.get_running_loop().time()
        due = [no for no, retry in self._retries.items() if retry.due_s <= now_s]
        for no in due:
            self._delays[no] = self._retries.pop(no).delay_s
        return due

    def _retry(self, object_nos: Sequence[int], first_s: float) -> None:
        """Plan some objects again after a while, which doubles each time."""
        now_s = asyncio.get_running_loop().time()
        for no in object_nos:
            delay_s = min(max(first_s, 2 * self._delays.pop(no, 0.0)), RETRY_LONGEST_S)
            self._retries[no] = _Retry(now_s + delay_s, delay_s)

    def _may_apply(self) -> bool:
        return self._first_scan_done or not self.is_joining

    async def _carry_out_slow(self, applier: Applier, made: Plan) -> None:
        try:
            await self._carry_out(applier, made)
        finally:
            self._slow -= 1
            self._changed.set()

    async def _carry_out(self, applier: Applier, made: Plan) -> None:
        """Apply a plan and note what is to be looked at or tried again."""
        self.was_settled = False
        self._journal.wall_ms = self._now_ms()
        writes = [step for step in made.steps if isinstance(step, WriteFile)]
        figures = (len(writes), sum(step.claim.entry.size for step in writes))
        self.pending = (self.pending[0] + figures[0], self.pending[1] + figures[1])
        try:
            applied = await applier.apply(made)
        finally:
            self._under_way.end(made.objects)
            self.pending = (self.pending[0] - figures[0], self.pending[1] - figures[1])
        self._note_applied(made, applied)
        arrived = list({BlobHash(step.claim.entry.value) for step in writes})
        if arrived:
            self._tools.blobs_arrived(self.folder, arrived)
        if applied.agreed:
            self.last_change_ms = self._now_ms()

    def _note_applied(self, made: Plan, applied: Applied) -> None:
        unfinished = {no for postponed in applied.postponed for no in postponed.object_nos}
        unfinished.update(no for failed in applied.failed for no in failed.object_nos)
        for no in made.objects - unfinished:
            self._delays.pop(no, None)
        self._note_postponed(applied.postponed)
        if not applied.failed:
            self.trouble.failed.clear()
        for failed in applied.failed:
            self.trouble.failed[failed.reason] = (failed.what, failed.remedy)
            self._retry(failed.object_nos, FAILED_RETRY_S)

    def _note_postponed(self, steps: Sequence[Postponed]) -> None:
        """Look where a step found another disk than synced says; plan it again later."""
        again: list[Again] = []
        gone: list[bytes] = []
        for postponed in steps:
            if postponed.why is Why.CONTENT_AWAY:
                if not self._away:
                    self._away_due_s = asyncio.get_running_loop().time() + AWAY_RETRY_S
                self._away.update(postponed.object_nos)
                continue
            if postponed.why is Why.MISSING_HERE:
                gone.append(postponed.path)
            elif postponed.why in (Why.TAKEN, Why.CHANGED_HERE, Why.NOT_EMPTY):
                # Not at once: perhaps somebody renames just now, and the other half is to come.
                again.append(Again(postponed.path, AgainReason.UNSURE, QUIET_S))
            self._retry(postponed.object_nos, RETRY_FIRST_S)
        if again or gone:
            self._schedule.look_again(again, self._now_s())
            self._schedule.miss(gone, self._now_s())
            self._hinted.set()

    async def _watch_displaced(self, displaced: DisplacedWatch) -> None:
        while True:
            await asyncio.sleep(DISPLACED_LOOK_S)
            self._journal.wall_ms = self._now_ms()
            await displaced.look()

    # -- small things ---------------------------------------------------------------------------

    def _now_s(self) -> float:
        return self._tools.clock.monotonic_s()

    def _now_ms(self) -> int:
        return self._tools.clock.now_ns() // 1_000_000

    @property
    def own_member(self) -> Member | None:
        """Our own role, None before we were admitted."""
        return self.members.get(self._tools.shelf.key.agent)

    @property
    def may_write(self) -> bool:
        """Whether our changes count."""
        return may_write(self.own_member)

    def in_sync_with(self, agent: AgentId, ours: Heads) -> bool:
        """Whether a peer has the same batches and the same state, and nothing is pending."""
        theirs = self.peer_heads.get(agent)
        return theirs is not None and is_in_sync(ours, theirs)


class _Paths:
    """The paths of directories by synced, read from worker threads: single look-ups only."""

    def __init__(self, shelf: Shelf, folder_no: int) -> None:
        self._shelf = shelf
        self._folder_no = folder_no

    def path_of(self, directory_no: int) -> bytes | None:
        return self._shelf[self._folder_no].synced.path_of(directory_no)

    def inode_of(self, directory_no: int) -> int | None:
        return self._shelf[self._folder_no].synced.inode_of(directory_no)


def _first(group: BaseExceptionGroup[DiskError]) -> DiskError:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return _first(error)
        return error
    raise group
