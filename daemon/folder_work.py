"""Keep one folder at work for as long as the node runs: find its root, run its two loops.

A lost root stops both loops until it is back; nothing is ever concluded from what cannot be seen.
How a folder stands is daemon.standing's (`standing`), what the loops do daemon.look_loop's and
daemon.apply_loop's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from daemon import ignore as ignoring
from daemon.apply import Applier
from daemon.apply_loop import ApplyLoop
from daemon.contents import FolderContents
from daemon.differences import ProblemKind
from daemon.disk import Disk, DiskError
from daemon.displaced import DisplacedWatch
from daemon.folder_tools import Tools, Trouble
from daemon.held import HeldDeletions
from daemon.hints import WatchState
from daemon.journal import FolderJournal
from daemon.look_loop import LookLoop
from daemon.look_set import LookSet
from daemon.own_tail import OwnTail
from daemon.planning import UnderWay
from daemon.pruning import Pruner
from daemon.shelf import Shelf
from daemon.standing import Standing
from peers.beat import until_beat_s
from peers.cancelling import TaskGroup
from peers.heads import Heads
from store.access import Member
from store.ids import AgentId, BlobHash, FolderId, short
from store.records import SyncedRow

logger = logging.getLogger(__name__)

ROOT_RETRY_S = 1.0
_LAGGING = (
    "this home knows less of its own changes than its peers do: they are taken back first",
    "it goes on by itself; a home that was restored or set back writes a new log then",
)

_NO_LOG = (
    "the database was lost, and no peer has brought the log yet",
    "start or reach a peer of config.toml; without any, `dizzyd leave` and share it again",
)


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
        self.disk: Disk | None = None
        self.tail = OwnTail(tools.shelf, tools.core, folder_no)
        self.standing = Standing(tools=tools, folder_no=folder_no, folder=folder, tail=self.tail)
        self._journal = FolderJournal(tools.shelf, tools.engine, tools.core, folder_no)
        self._look = LookLoop(
            self.standing,
            ignores_editor_files=ignores_editor_files,
            on_idle=self._settle,
            on_scanned=self._scanned,
            on_tail=self._tail_is_back,
        )
        self._apply = ApplyLoop(self.standing, self._journal, self._look, self._settle)
        self._pruner = Pruner(tools, folder_no, lambda: self.is_settled)

    # -- life -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled; a lost root is waited for."""
        await self.tail.start(self.standing.now_s())
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
                # A cancelled wait stops no thread: what still runs holds this disk's descriptors.
                await self._tools.pool.settle()
                self._tools.close_disk(disk)
            self._look.root_lost()
            await asyncio.sleep(ROOT_RETRY_S)

    def _lose_root(self, cause: DiskError) -> None:
        if self.trouble.root is None:
            logger.warning("folder faulty folder=%s why=%s", short(self.folder), cause)
        remedy = cause.hint or "bring the folder back; it goes on by itself"
        self.trouble.root = (str(cause), remedy)

    async def _work(self, disk: Disk) -> None:
        tools = self._tools
        watcher = tools.watch(self.path)
        applier = self._make_applier(disk)
        self.standing.applier = applier
        self.standing.under_way = UnderWay()
        displaced = DisplacedWatch(disk, tools.pool, self._journal, tools.clock, tools.names)
        await self._look.start(watcher)
        try:
            self._journal.wall_ms = self.standing.now_ms()
            await applier.recover()
            self.trouble.root = None
            self._look.look_at_all()
            async with TaskGroup() as tasks:
                tasks.create_task(self._look.run(disk, watcher))
                tasks.create_task(self._look.large.run(disk))
                tasks.create_task(self._apply.run(applier, disk))
                tasks.create_task(self._pruner.run(disk))
                tasks.create_task(self._watch_displaced(displaced, disk))
        finally:
            await asyncio.shield(tools.pool.run(watcher.stop))

    async def put_away(self) -> None:
        """Finish what was begun on the disk and let go of it: nobody may ever start here again.

        What a step displaced goes to history, whether it was cut short now or by a kill before.
        """
        disk, self.disk = self.disk, None
        try:
            if disk is None:
                disk = await self._tools.pool.run(
                    self._tools.open_disk, self.path, self.folder, self._umask
                )
            try:
                self._journal.wall_ms = self.standing.now_ms()
                await self._make_applier(disk).recover()
            finally:
                self._tools.close_disk(disk)
        except DiskError as lost:
            logger.warning("folder put away as it is folder=%s why=%s", short(self.folder), lost)

    def _make_applier(self, disk: Disk) -> Applier:
        tools = self._tools
        contents = FolderContents(
            places=tools.places,
            pool=tools.pool,
            disk=disk,
            folder_no=self.folder_no,
            folder=self.folder,
            fetcher=tools.fetcher,
        )
        return Applier(
            disk,
            tools.pool,
            self._journal,
            contents,
            tools.clock,
            _Paths(tools.shelf, self.folder_no),
            names=tools.names,
            is_ignored=self._look.is_ignored,
        )

    async def _watch_displaced(self, displaced: DisplacedWatch, disk: Disk) -> None:
        """Look at what was displaced, and at the root: a disk that is taken away says nothing."""
        while True:
            await asyncio.sleep(until_beat_s(asyncio.get_running_loop().time()))
            await self._tools.pool.run(disk.check_root)
            self._journal.wall_ms = self.standing.now_ms()
            await displaced.look()

    def _scanned(self) -> None:
        self._tell_tail()
        self._apply.begin_anew()
        self._tools.heads_changed(self.folder)

    def _settle(self) -> None:
        """Tell peers, once, that nothing is to be done here: who is settled is compared."""
        if self.is_settled and not self.standing.was_settled:
            self.standing.was_settled = True
            self._apply.pending = (0, 0)
            self.trouble.failed.clear()
            self.trouble.space = None
            self._tools.heads_changed(self.folder)
            self._tools.rested()

    # -- what others tell -----------------------------------------------------------------------

    def changed(self) -> None:
        """State changed: the view may want other things on this disk."""
        self.standing.was_settled = False
        self._apply.changed()

    async def refresh_members(self) -> None:
        """Read who is a member now."""
        standing = self.standing

        def read() -> tuple[dict[AgentId, Member], bool]:
            return standing.stored.log.members(), standing.stored.is_joining

        standing.members, standing.is_joining = await self._tools.core.run(read)
        self._tell_tail()
        if standing.may_write and standing.local.paths:  # refused before we had the role
            standing.local.clear()
            self._look.look_at_all()
            self.changed()

    def peer_has(self, agent: AgentId, heads: Heads) -> None:
        """Note what a peer has of this folder."""
        self.standing.note_heads(agent, heads)
        self._look.wake()

    async def compare(self, agent: AgentId, heads: Heads) -> None:
        """See whether a peer knows more of our own log than we do; then that comes first."""
        if await self.tail.heard(agent, heads, self.standing.now_s()):
            logger.warning("own log is longer elsewhere folder=%s", short(self.folder))
            self._look.set_back()
            self._tell_tail()

    def _tell_tail(self) -> None:
        is_unknown = self.standing.is_rebuilding and self.standing.own_member is None
        if is_unknown:
            self.trouble.tail = _NO_LOG
        else:
            self.trouble.tail = _LAGGING if self.tail.is_lagging else None

    def _tail_is_back(self) -> None:
        logger.info("own log is complete folder=%s", short(self.folder))
        self._tell_tail()
        self.changed()

    def peer_gone(self, agent: AgentId) -> None:
        """Forget what a disconnected peer had."""
        self.standing.peer_heads.pop(agent, None)
        self._look.wake()

    def contents_available(self, blobs: Sequence[BlobHash]) -> None:
        """Note that contents that nobody had can be fetched now."""
        self._apply.retry_away(blobs)

    def retry_away(self) -> None:
        """Try again what no peer at hand had."""
        self._apply.retry_away()

    async def scan_now(self) -> None:
        """Look at everything; returns when the walk and its recording are done."""
        await self._look.scan_now()

    def look_at_all(self) -> None:
        """Look at everything soon."""
        self._look.look_at_all()

    async def look_now(self, where: LookSet) -> None:
        """Look at some places; returns when what was found is recorded."""
        await self._look.look_now(where)

    def history_limits_changed(self) -> None:
        """Prune by the configuration as it is now."""
        self._pruner.wake()

    def confirm(self) -> None:
        """Let held deletions and reversions go on."""
        self.held.confirm()
        self.standing.reverted.release()
        self._apply.begin_anew()
        self._look.look_at_all()

    def take_fresh(self) -> dict[BlobHash, bytes]:
        """Give the small contents of what was recorded last, to go with the news of it."""
        return self._look.take_fresh()

    # -- what others ask ------------------------------------------------------------------------

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits to be looked at, recorded, planned or applied here."""
        return self._look.is_settled and self._apply.is_settled and self.trouble.root is None

    @property
    def has_work(self) -> bool:
        """Whether this disk is behind the state, or the state behind the disk.

        Who is told of work is told of its end too: peers compare only what is settled.
        """
        if not self.is_settled:
            self.standing.was_settled = False
        return not self.is_settled

    @property
    def applier(self) -> Applier | None:
        """Who puts things in place here, None while the root is lost."""
        return None if self.disk is None else self.standing.applier

    @property
    def waiting_objects(self) -> set[int]:
        """The objects that are planned again later: what failed, what no peer at hand has."""
        return self._apply.waiting_objects

    @property
    def pending(self) -> tuple[int, int]:
        """The files and bytes that are being written here."""
        return self._apply.pending

    @property
    def is_applying(self) -> bool:
        """Whether a plan is made or carried out just now."""
        return self._apply.is_applying

    @property
    def is_scanning(self) -> bool:
        """Whether a look goes on just now."""
        return self._look.is_scanning

    @property
    def is_importing(self) -> bool:
        """Whether the first full scan has not ended yet."""
        return self._look.is_importing

    @property
    def ignore(self) -> ignoring.Ignore:
        """What is not shared, as of the last full scan."""
        return self._look.ignore

    @property
    def held(self) -> HeldDeletions:
        """The deletions that wait for a person's word."""
        return self._look.held

    @property
    def skipped(self) -> dict[bytes, ProblemKind]:
        """What is no file, directory or link, or cannot be here: by path."""
        return self._look.problems.skipped

    @property
    def restless(self) -> list[bytes]:
        """The files that are written without a rest, and so are not shared yet."""
        return self._look.restless.named(self.standing.now_s())

    @property
    def watch_state(self) -> WatchState:
        """How much of the folder is watched."""
        return self._look.watch_state

    @property
    def trouble(self) -> Trouble:
        """What is wrong here now."""
        return self.standing.trouble

    @property
    def members(self) -> dict[AgentId, Member]:
        """Everybody's role, as of the last membership event."""
        return self.standing.members

    async def rows_in(self, directories: Sequence[bytes]) -> list[list[SyncedRow]]:
        """Give, for each directory path, the rows of all names that stand in it."""
        return await self._look.known.rows_in(directories)

    async def rows_at(self, paths: Sequence[bytes]) -> list[list[SyncedRow]]:
        """Give, for each path, the rows that stand there."""
        return await self._look.known.rows_at(paths)


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
