"""Keep the folders of a node at work, one task each, until they are stopped, left or ended.

What goes wrong in one folder does not end the others. A folder that its owner ended is worked on
no more: it is held to tell its members, and nothing of its files is touched.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine, Sequence

from daemon.core import Runner
from daemon.displaced import Clock
from daemon.ended import EndedFolder, keep_told, read_ended
from daemon.engine import Engine
from daemon.folder_work import FolderWork
from daemon.procedures import EndFolder, Procedures
from daemon.replica import SharedFolder
from daemon.shelf import Shelf
from daemon.troubles import innermost, told
from store.folder import StoredFolder
from store.ids import AgentId, FolderId, short

logger = logging.getLogger(__name__)

WORK_AGAIN_S = 5.0


class Folders:
    """The folders of one node. Owned by the loop."""

    def __init__(
        self,
        shelf: Shelf,
        engine: Engine,
        procedures: Procedures,
        core: Runner,
        clock: Clock,
        *,
        make_work: Callable[[StoredFolder], FolderWork],
        tell_peers: Callable[[], Awaitable[None]],
        call_members: Callable[[], Awaitable[None]],
    ) -> None:
        """Know how to tell which folders are shared now, and who is to be called."""
        self._shelf = shelf
        self._engine = engine
        self._procedures = procedures
        self._core = core
        self._clock = clock
        self._make_work = make_work
        self._tell_peers = tell_peers
        self._call_members = call_members
        self.works: dict[FolderId, FolderWork] = {}
        self.ended: dict[FolderId, EndedFolder] = {}
        self.shared: dict[FolderId, SharedFolder] = {}
        self.on_ended: Callable[[EndedFolder], None] = lambda _: None
        self._tasks: asyncio.TaskGroup | None = None
        self._work_tasks: dict[FolderId, asyncio.Task[None]] = {}
        self._stopping = asyncio.Lock()

    def add(self, stored: StoredFolder) -> FolderWork:
        """Make the work of a folder; it does not begin yet."""
        work = self._make_work(stored)
        self.works[stored.id] = self.shared[stored.id] = work
        return work

    def add_ended(self, ended: EndedFolder) -> None:
        """Hold a folder that has ended."""
        self.ended[ended.folder] = self.shared[ended.folder] = ended

    async def run(self, tasks: asyncio.TaskGroup) -> None:
        """Begin to work on all of them, as tasks of the group."""
        self._tasks = tasks
        for work in self.works.values():
            await self._start(work)

    def spawn(self, work: Coroutine[object, object, object]) -> None:
        """Run something beside, until it is done or the node ends."""
        if self._tasks is not None:
            self._tasks.create_task(work)

    async def _start(self, work: FolderWork) -> None:
        await work.refresh_members()
        if self._tasks is not None:
            task = self._tasks.create_task(self._run_work(work))
            self._work_tasks[work.folder] = task

    async def begin(self, stored: StoredFolder) -> FolderWork:
        """Begin to work on a folder that was shared or joined just now."""
        work = self.add(stored)
        await self._start(work)
        await self._tell_peers()
        return work

    async def stop(self, folder: FolderId) -> None:
        """Let a folder rest; what was begun on its disk is finished."""
        work = self.works.pop(folder)
        self.shared.pop(folder, None)
        await self._stop_work(work)
        self._shelf.drop(work.folder_no)
        await self._tell_peers()

    async def drop(self, folder: FolderId) -> None:
        """Stop with a folder, be it ended; its files, history and log stay."""
        ended = self.ended.pop(folder, None)
        if ended is None:
            folder_no = self.works[folder].folder_no
            await self.stop(folder)
        else:
            folder_no = ended.folder_no
            self.shared.pop(folder, None)
            self._shelf.drop(folder_no)
            await self._tell_peers()
        await self._core.run(self._shelf.deactivate, folder_no)

    async def end(self, work: FolderWork) -> None:
        """Record that a folder of our own has ended for all, and stop with it."""
        command = EndFolder(folder_no=work.folder_no, wall_ms=self._clock.now_ns() // 1_000_000)

        def end() -> None:
            self._engine.perform(self._procedures.end, command)
            self._engine.run_until_idle()

        await self._core.run(end)
        await self._stop_ended(work)

    async def _stop_ended(self, work: FolderWork) -> None:
        """Stop with a folder whose end is in the log; from now on its log alone is served."""

        def read() -> EndedFolder | None:
            stored = self._shelf.find(work.folder)
            return None if stored is None else self.read_ended(stored)

        async with self._stopping:
            ended = await self._core.run(read)
            if ended is None or self.works.get(work.folder) is not work:
                return
            logger.info("folder ended by its owner folder=%s", short(work.folder))
            del self.works[work.folder]
            self.ended[work.folder] = self.shared[work.folder] = ended
            for agent, heads in work.standing.peer_heads.items():
                ended.peer_has(agent, heads)
            await self._stop_work(work)
            self.on_ended(ended)
        await self._tell_peers()
        await self._call_members()

    async def ended_changed(self, ended: EndedFolder) -> None:
        """Read anew who is to be told: somebody was let in without knowing of the end."""
        stored = self._shelf.find(ended.folder)
        if stored is not None:
            ended.members = await self._core.run(stored.log.members)
            await self._tell_peers()
            await self._call_members()

    async def members_changed(self, work: FolderWork) -> None:
        """Read anew who the members are; the folder may have ended with it."""
        if work.folder not in self.works:
            return
        await work.refresh_members()
        await self._tell_peers()
        await self._call_members()
        await self._stop_ended(work)

    def read_ended(self, stored: StoredFolder) -> EndedFolder | None:
        """Give the folder as an ended one if it has; on the database thread."""
        ending = stored.ending
        return None if ending is None else read_ended(stored, ending, self._keep_told)

    def _keep_told(self, ended: EndedFolder) -> None:
        self.spawn(self._write_told(ended.folder_no, sorted(ended.told)))

    async def _write_told(self, folder_no: int, agents: Sequence[AgentId]) -> None:
        try:
            await self._core.run(keep_told, self._shelf.db, folder_no, agents)
        except sqlite3.OperationalError as full:  # who was told is told again after a restart
            logger.warning("not noted who knows of an ending why=%s", told(full)[0])

    async def _run_work(self, work: FolderWork) -> None:
        """Keep a folder at work; what goes wrong in one folder does not end the others."""
        while True:
            try:
                await work.run()
            except asyncio.CancelledError:
                if asyncio.current_task() is self._work_tasks.get(work.folder):
                    raise
                return  # this folder alone was stopped
            except Exception as failure:  # a fault of one folder must not end the others
                work.trouble.root = told(failure)
                if isinstance(innermost(failure), sqlite3.Error):  # a disk, and no bug of ours
                    why = work.trouble.root[0]
                    logger.error("folder stopped folder=%s why=%s", short(work.folder), why)  # noqa: TRY400
                else:
                    logger.exception("folder stopped folder=%s", short(work.folder))
            await asyncio.sleep(WORK_AGAIN_S)

    async def _stop_work(self, work: FolderWork) -> None:
        task = self._work_tasks.pop(work.folder, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await work.put_away()
