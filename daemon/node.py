"""Run a whole node: its folders at work, its connections, who may come in.

Everything that touches a machine (clock, disk, watcher, network) is handed in, so that the
simulator runs this very code. Wiring of the real ones is in daemon.app.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from daemon.config import Config
from daemon.core import Runner
from daemon.disk import Disk
from daemon.displaced import Clock
from daemon.ended import EndedFolder, keep_told, read_ended
from daemon.engine import Engine
from daemon.folder_tools import Tools
from daemon.folder_work import FolderWork
from daemon.hints import Watcher
from daemon.peer_book import PeerBook
from daemon.places import Places, Reading
from daemon.procedures import EndFolder, Procedures
from daemon.replica import NodeReplica, SharedFolder
from daemon.shelf import Shelf
from daemon.signals import BatchesCommitted, ObjectsChanged
from daemon.stored_lists import StoredChunkLists
from daemon.subscription import Emit, ListenerKind
from daemon.traffic import Traffic
from peers.address import Address, parse_all
from peers.backoff import Reconnection
from peers.crossing import Crossing
from peers.fetch import Fetcher
from peers.handshake import Verdict
from peers.invite import Invite, InviteId, InviteKey
from peers.limits import RateLimit
from peers.link import Link, Purpose
from peers.sessions import Sessions
from store.access import Role, is_membership
from store.db import Database
from store.errors import DizzyError, TryLater
from store.folder import StoredFolder
from store.ids import AgentId, BlobHash, FolderId, short
from store.signing import AgentKey

logger = logging.getLogger(__name__)

CALM_S = 1.0  # a session that lasted so long was a success: the next call comes soon
NO_ADDRESS_S = 5.0
WORK_AGAIN_S = 5.0


class Network(Protocol):
    """How this node calls others; calls of others come to Node.take_link."""

    async def dial(
        self,
        addresses: Sequence[Address],
        agent: AgentId,
        purpose: Purpose,
        *,
        invite: Invite | None = None,
    ) -> Link:
        """Reach the agent at one of the addresses. Raises TryLater (NoAnswer) and DizzyError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The machine, as this node sees it."""

    clock: Clock
    random_bytes: Callable[[int], bytes]
    core: Runner
    pool: Runner
    network: Network
    open_disk: Callable[[bytes, FolderId, int | None], Disk]
    close_disk: Callable[[Disk], None]
    watch: Callable[[bytes], Watcher]


class Node:
    """One agent at work. Make it, load() it, then run() it."""

    def __init__(
        self,
        *,
        world: World,
        database: Database,
        key: AgentKey,
        config: Config,
        reading: Reading | None = None,
    ) -> None:
        """Wire everything; nothing is read or opened yet.

        Without `reading` contents are looked up over the one connection, on the database thread.
        """
        self.world = world
        self.key = key
        self.config = config
        self.shelf = Shelf(database, key, world.random_bytes)
        self.engine = Engine(
            clock=world.clock, random_bytes=world.random_bytes, transactions=self.shelf
        )
        self.procedures = Procedures(self.shelf)
        reading = reading or Reading(database=database, runner=world.core)
        self.places = Places(self.shelf, reading)
        self.chunk_lists = StoredChunkLists(self.shelf, world.core, reading)
        self.book = PeerBook(database, world.core, key)
        self.works: dict[FolderId, FolderWork] = {}
        self.ended: dict[FolderId, EndedFolder] = {}
        self._shared: dict[FolderId, SharedFolder] = {}
        self.fetcher = Fetcher(
            world.pool,
            open_bulk=self._open_bulk,
            download=RateLimit(config.limits.download_bytes_per_s),
            lists=self.chunk_lists,
        )
        self.replica = NodeReplica(
            shelf=self.shelf,
            engine=self.engine,
            procedures=self.procedures,
            core=world.core,
            pool=world.pool,
            places=self.places,
            clock=world.clock,
            book=self.book,
            folders=self._shared,
            on_connection=self._connections_changed,
        )
        self.sessions = Sessions(
            self.replica,
            world.pool,
            self.fetcher,
            upload=RateLimit(config.limits.upload_bytes_per_s),
        )
        self.crossing = Crossing(key.agent)
        self.rejected: Counter[str] = Counter()
        self.traffic = Traffic()
        self.clones_seen: set[AgentId] = set()
        self._tasks: asyncio.TaskGroup | None = None
        self._work_tasks: dict[FolderId, asyncio.Task[None]] = {}
        self._dial_tasks: dict[AgentId, asyncio.Task[None]] = {}
        self._nudges: dict[AgentId, asyncio.Event] = {}
        self._called: set[AgentId] = set()  # once at least, and nobody answered
        self._resting: set[AgentId] = set()  # nobody needs them called
        self._stopping = asyncio.Lock()
        self._rng = random.Random(int.from_bytes(world.random_bytes(8), "big"))  # noqa: S311
        self._loop: asyncio.AbstractEventLoop | None = None
        self.damage = ""  # of the database that this one replaced
        self.found_damage: tuple[str, ...] = ()  # by the scrub
        self.on_damage: Callable[[str], None] = lambda _: None
        self.on_admitted: Callable[[AgentId, str, FolderId], None] = lambda *_: None
        self.on_ended: Callable[[EndedFolder], None] = lambda _: None
        self._subscribe()

    # -- life -----------------------------------------------------------------------------------

    async def load(self, *, is_suspicious: bool = False) -> None:
        """Read folders and peers from the database, and make their works.

        Where the home is not surely the one that was here last, every folder opens an epoch.
        """

        def read() -> list[tuple[StoredFolder, EndedFolder | None]]:
            self.shelf.load()
            if is_suspicious:
                self.shelf.renew_epochs()
            self.book.load()
            self.book.rebuild_from(
                [stored.no for stored in self.shelf if stored.is_rebuilt],
                [peer.agent for peer in self.config.peers.values()],
            )
            return [(stored, self._read_ended(stored)) for stored in self.shelf]

        for stored, ended in await self.world.core.run(read):
            if ended is None:
                self._add_work(stored)
            else:
                self.ended[ended.folder] = self._shared[ended.folder] = ended
        for peer in self.config.peers.values():
            known = self.book.get(peer.agent)
            known.name = known.name or peer.name
            known.hints.extend(parse_all(peer.addresses))

    async def run(self) -> None:
        """Work until cancelled."""
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(self.fetcher.run())
            for work in self.works.values():
                await self._start(work)
            await self.call_members()

    def _add_work(self, stored: StoredFolder) -> FolderWork:
        config = next((f for f in self.config.folders.values() if f.id == stored.id), None)
        world = self.world
        work = FolderWork(
            Tools(
                shelf=self.shelf,
                engine=self.engine,
                procedures=self.procedures,
                core=world.core,
                pool=world.pool,
                places=self.places,
                chunk_lists=self.chunk_lists,
                clock=world.clock,
                fetcher=self.fetcher,
                history=lambda: self.config.history,
                open_disk=world.open_disk,
                close_disk=world.close_disk,
                watch=world.watch,
                heads_changed=self._heads_changed,
                blobs_arrived=self.sessions.blob_arrived,
            ),
            folder_no=stored.no,
            folder=stored.id,
            path=stored.path,
            umask=None if config is None else config.umask,
            ignores_editor_files=True if config is None else config.ignore_editor_files,
        )
        self.works[stored.id] = work
        self._shared[stored.id] = work
        return work

    async def _start(self, work: FolderWork) -> None:
        await work.refresh_members()
        if self._tasks is not None:
            task = self._tasks.create_task(self._run_work(work))
            self._work_tasks[work.folder] = task

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
                work.trouble.root = _told(failure)
                if isinstance(_innermost(failure), sqlite3.Error):  # a disk, and no bug of ours
                    why = work.trouble.root[0]
                    logger.error("folder stopped folder=%s why=%s", short(work.folder), why)  # noqa: TRY400
                else:
                    logger.exception("folder stopped folder=%s", short(work.folder))
            await asyncio.sleep(WORK_AGAIN_S)

    async def add_folder(self, stored: StoredFolder) -> FolderWork:
        """Begin to work on a folder that was shared or joined just now."""
        work = self._add_work(stored)
        await self._start(work)
        await self.sessions.folders_changed()
        return work

    async def stop_folder(self, folder: FolderId) -> None:
        """Let a folder rest; what was begun on its disk is finished."""
        work = self.works.pop(folder)
        self._shared.pop(folder, None)
        await self._stop_work(work)
        self.shelf.drop(work.folder_no)
        await self.sessions.folders_changed()

    async def _stop_work(self, work: FolderWork) -> None:
        task = self._work_tasks.pop(work.folder, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await work.put_away()

    async def drop_folder(self, folder: FolderId) -> None:
        """Stop with a folder, be it ended; its files, history and log stay."""
        ended = self.ended.pop(folder, None)
        if ended is None:
            folder_no = self.works[folder].folder_no
            await self.stop_folder(folder)
        else:
            folder_no = ended.folder_no
            self._shared.pop(folder, None)
            self.shelf.drop(folder_no)
            await self.sessions.folders_changed()
        await self.world.core.run(self.shelf.deactivate, folder_no)

    # -- the end of a folder ----------------------------------------------------------------------

    async def end_folder(self, work: FolderWork) -> None:
        """Record that a folder of our own has ended for all, and stop with it."""
        command = EndFolder(
            folder_no=work.folder_no, wall_ms=self.world.clock.now_ns() // 1_000_000
        )

        def end() -> None:
            self.engine.perform(self.procedures.end, command)
            self.engine.run_until_idle()

        await self.world.core.run(end)
        await self._stop_ended(work)

    def _read_ended(self, stored: StoredFolder) -> EndedFolder | None:
        ending = stored.ending
        return None if ending is None else read_ended(stored, ending, self._keep_told)

    def _keep_told(self, ended: EndedFolder) -> None:
        told = sorted(ended.told)
        self._spawn(self.world.core.run(keep_told, self.shelf.db, ended.folder_no, told))

    async def _stop_ended(self, work: FolderWork) -> None:
        """Stop with a folder whose end is in the log; from now on its log alone is served."""

        def read() -> EndedFolder | None:
            stored = self.shelf.find(work.folder)
            return None if stored is None else self._read_ended(stored)

        async with self._stopping:
            ended = await self.world.core.run(read)
            if ended is None or self.works.get(work.folder) is not work:
                return
            logger.info("folder ended by its owner folder=%s", short(work.folder))
            del self.works[work.folder]
            self.ended[work.folder] = self._shared[work.folder] = ended
            for agent, heads in work.peer_heads.items():
                ended.peer_has(agent, heads)
            await self._stop_work(work)
            self.on_ended(ended)
        await self.sessions.folders_changed()
        await self.call_members()

    async def _ended_changed(self, ended: EndedFolder) -> None:
        """Read anew who is to be told: somebody was let in without knowing of the end."""
        stored = self.shelf.find(ended.folder)
        if stored is not None:
            ended.members = await self.world.core.run(stored.log.members)
            await self.sessions.folders_changed()
            await self.call_members()

    # -- what happens on the database thread ------------------------------------------------------

    def _subscribe(self) -> None:
        self.engine.subscribe(
            self._announce_to_peers, kind=ListenerKind.POLICY, in_transaction=False
        )
        self.engine.subscribe(self._wake_planner, kind=ListenerKind.POLICY, in_transaction=False)

    def _announce_to_peers(self, event: BatchesCommitted, emit: Emit[object]) -> None:
        """Tell the loop of durable batches; it sends our own, and reads members anew."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell, event)

    def _wake_planner(self, event: ObjectsChanged, emit: Emit[object]) -> None:
        """Tell the loop that the view may want other things on disk."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake, event.folder_no)

    def _wake(self, folder_no: int) -> None:
        for work in self.works.values():
            if work.folder_no == folder_no:
                work.changed()

    def _tell(self, event: BatchesCommitted) -> None:
        for work in self.works.values():
            if work.folder_no != event.folder_no:
                continue
            if event.is_own:
                self.sessions.announce(work.folder, event.batches, work.take_fresh())
            if any(is_membership(batch.events[0]) for batch in event.batches):
                self._spawn(self._members_changed(work))
        for ended in self.ended.values():
            if ended.folder_no != event.folder_no:
                continue
            if event.is_own:
                self.sessions.announce(ended.folder, event.batches)
            if any(is_membership(batch.events[0]) for batch in event.batches):
                self._spawn(self._ended_changed(ended))

    async def _members_changed(self, work: FolderWork) -> None:
        if work.folder not in self.works:
            return
        await work.refresh_members()
        await self.sessions.folders_changed()
        await self.call_members()
        await self._stop_ended(work)

    def _spawn(self, work: object) -> None:
        if self._tasks is not None:
            self._tasks.create_task(work)  # type: ignore[arg-type]

    # -- connections ----------------------------------------------------------------------------

    def take_link(self, link: Link) -> None:
        """Take a proven link, called or calling, and serve it for its life."""
        self.traffic.add(link)
        if link.purpose is Purpose.BULK:
            self._spawn(self.sessions.serve_bulk(link))
        else:
            self._spawn(self._serve(link))

    async def _serve(self, link: Link) -> None:
        meeting = self.crossing.meet(link)
        logger.debug(
            "link agent=%s is_dialler=%s is=%s", short(link.agent), link.is_dialler, meeting.value
        )
        if meeting.is_clone:
            self.clones_seen.add(link.agent)
        if not meeting.keeps_new:
            await link.close()
            return
        label = link.label.decode("utf-8", "replace")
        try:
            await self.book.note_seen(link.agent, label, self.world.clock.now_ns() // 1_000_000)
            ended = await self.sessions.open(link).run()
            logger.debug("session ended agent=%s why=%s", short(link.agent), ended.reason)
            if ended.is_struck:
                self.rejected["struck-off"] += 1
        except Exception as failure:  # a fault of one session must not end the node
            if isinstance(_innermost(failure), sqlite3.Error):
                why = _told(failure)[0]
                logger.error("session failed agent=%s why=%s", short(link.agent), why)  # noqa: TRY400
            else:
                logger.exception("session failed agent=%s", short(link.agent))
            await link.close()
        finally:
            self.crossing.forget(link)
            await self.world.core.run(self._forget_waiting, link.agent)
            if self.crossing.link_of(link.agent) is None:
                for work in self.works.values():
                    work.peer_gone(link.agent)
            self._nudge(link.agent)

    def _forget_waiting(self, agent: AgentId) -> None:
        for stored in self.shelf:
            stored.log.forget_waiting(agent)

    def _heads_changed(self, folder: FolderId) -> None:
        """Tell peers what we have; what they wanted while it was being moved stands again."""
        self.sessions.heads_changed(folder)
        wanted = self.sessions.wanted(folder)
        if wanted:
            self._spawn(self._serve_late(folder, wanted))

    async def _serve_late(self, folder: FolderId, wanted: Sequence[BlobHash]) -> None:
        here = await self.replica.which_are_here(folder, wanted)
        self.sessions.blob_arrived(folder, here)

    def _connections_changed(self) -> None:
        for work in self.works.values():
            work.retry_away()

    def _nudge(self, agent: AgentId) -> None:
        event = self._nudges.get(agent)
        if event is not None:
            event.set()

    async def _open_bulk(self, agent: AgentId) -> Link:
        """Open a connection of its own for contents, to where the peer is connected now."""
        peer = self.book.get(agent)
        places = list(peer.places())
        current = self.crossing.link_of(agent)
        if current is not None and current.is_dialler:
            places[:0] = parse_all([current.address])
        if not places:
            raise TryLater("bulk", "no address of that peer is known")
        try:
            link = await self.world.network.dial(places, agent, Purpose.BULK)
        except DizzyError as failure:
            raise OSError(str(failure)) from failure
        self.traffic.add(link)
        return link

    async def call_members(self) -> None:
        """See to it that somebody calls every other member."""
        wanted = self._wanted()
        for agent in sorted(wanted & self._resting):
            self._nudge(agent)
        for agent in sorted(wanted - self._dial_tasks.keys()):
            if self._tasks is not None:
                self._nudges[agent] = asyncio.Event()
                self._dial_tasks[agent] = self._tasks.create_task(self._keep_calling(agent))
        self._tell_unanswered()

    def _wanted(self) -> set[AgentId]:
        """Say whom to call: the members of our folders, and who has to hear that one ended."""
        wanted: set[AgentId] = set()
        for work in self.works.values():
            wanted.update(work.members)
            wanted.update(self.book.sources(work.folder_no))
        for ended in self.ended.values():
            wanted.update(ended.untold)
        wanted.discard(self.key.agent)
        return wanted

    def _tell_unanswered(self) -> None:
        """Tell folders whose other members were all called in vain: nobody is to be waited for."""
        for work in self.works.values():
            others = {*work.members, *self.book.sources(work.folder_no)}
            if others - {self.key.agent} <= self._called:
                work.tail.nobody_answers()

    async def _keep_calling(self, agent: AgentId) -> None:
        """Call a member whenever no connection to it is there, with growing pauses."""
        pauses = Reconnection(self._rng)
        nudge = self._nudges[agent]
        loop = asyncio.get_running_loop()
        while True:
            nudge.clear()
            self._resting.discard(agent)
            if self.crossing.link_of(agent) is not None:
                pauses.reset()
                pause_s = None
            elif agent not in self._wanted():
                self._resting.add(agent)
                pause_s = None
            else:
                places = self.book.get(agent).places()
                began_s = loop.time()
                is_linked = bool(places) and await self._call(agent, places)
                if not is_linked and agent not in self._called:
                    self._called.add(agent)
                    self._tell_unanswered()
                if is_linked and loop.time() - began_s > CALM_S:
                    pauses.reset()
                pause_s = pauses.next_delay_s() if places else NO_ADDRESS_S
            try:
                async with asyncio.timeout(pause_s):
                    await nudge.wait()
                if pause_s is None and agent not in self._resting:
                    await asyncio.sleep(pauses.next_delay_s())
            except TimeoutError:
                pass

    async def _call(self, agent: AgentId, places: Sequence[Address]) -> bool:
        try:
            link = await self.world.network.dial(places, agent, Purpose.CONTROL)
        except DizzyError as failure:
            logger.debug("no answer agent=%s why=%s", short(agent), failure.why)
            return False
        self.traffic.add(link)
        await self._serve(link)
        return True

    def network_changed(self) -> None:
        """Call everybody at once: addresses changed, or the machine woke up."""
        for nudge in self._nudges.values():
            nudge.set()

    # -- the door (peers.handshake.Door) -----------------------------------------------------------

    async def admit_member(self, agent: AgentId) -> bool:
        """Tell whether the agent is a current member of any folder of ours."""
        return bool(self.replica.folders_shared_with(agent))

    async def invite_key(self, invite: InviteId) -> InviteKey | None:
        """Give the key of an invite of ours, open, used or expired."""

        def read() -> InviteKey | None:
            row = self.shelf.db.execute(
                "SELECT secret FROM invite WHERE id = ?", (invite,)
            ).fetchone()
            return None if row is None else InviteKey(row[0])

        return await self.world.core.run(read)

    async def claim_invite(self, invite: InviteId, agent: AgentId, label: bytes) -> Verdict:
        """Use up an invite for the agent that proved its secret, and record its role."""
        now_ms = self.world.clock.now_ns() // 1_000_000
        verdict, folder_no = await self.world.core.run(
            self._claim_invite, invite, agent, label, now_ms
        )
        if verdict is Verdict.WELCOME:
            for work in self.works.values():
                if work.folder_no == folder_no:
                    await self._members_changed(work)
                    self.on_admitted(agent, label.decode("utf-8", "replace"), work.folder)
        return verdict

    def _claim_invite(
        self, invite: InviteId, agent: AgentId, label: bytes, now_ms: int
    ) -> tuple[Verdict, int]:
        db = self.shelf.db
        row = db.execute(
            "SELECT folder_no, role, expires_ms, used_by FROM invite WHERE id = ?", (invite,)
        ).fetchone()
        if row is None:
            return Verdict.INVITE_EXPIRED, 0
        folder_no, role, expires_ms, used_by = row
        if used_by is not None:
            return (Verdict.WELCOME if used_by == agent else Verdict.INVITE_USED), folder_no
        if expires_ms <= now_ms:
            return Verdict.INVITE_EXPIRED, folder_no
        stored = self.shelf.get(folder_no)
        if stored is None or stored.ending is not None:
            return Verdict.INVITE_EXPIRED, folder_no
        with self.shelf.begin():
            stored.is_touched = True
            db.execute("UPDATE invite SET used_by = ? WHERE id = ?", (agent, invite))
            batches = stored.grant(
                agent,
                Role(role),
                label=label,
                expires_ms=None,
                may_delegate=False,
                wall_ms=now_ms,
            )
        self.engine.post(
            BatchesCommitted(folder_no=folder_no, batches=tuple(batches), is_own=True)
        )
        self.engine.run_until_idle()
        return Verdict.WELCOME, folder_no


def _innermost(failure: BaseException) -> BaseException:
    """Give the first cause in a group of failures."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure


def _told(failure: BaseException) -> tuple[str, str]:
    """Say for a person what stopped us, and what to do."""
    cause = _innermost(failure)
    if isinstance(cause, sqlite3.Error):
        return (
            f"the database in the home cannot be used: {cause}",
            "see that the disk of the home is well and has space; it goes on by itself",
        )
    return f"stopped by {type(cause).__name__}: {cause}", "it is tried again"
