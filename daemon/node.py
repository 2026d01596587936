"""Wire a whole node: its folders at work (daemon.folders), its connections, and what tells whom.

Whom to call is daemon.calling, who may come in daemon.door, how links are served daemon.links.

Everything that touches a machine (clock, disk, watcher, network) is handed in, so that the
simulator runs this very code. The real ones are in daemon.machine, their wiring in daemon.app.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from daemon.calling import Calling, Network
from daemon.config import Config
from daemon.core import Runner
from daemon.disk import Disk
from daemon.displaced import Clock, Names
from daemon.door import NodeDoor
from daemon.ended import EndedFolder
from daemon.engine import Engine
from daemon.folder_tools import Tools
from daemon.folder_work import FolderWork
from daemon.folders import Folders
from daemon.hints import Watcher
from daemon.links import Links
from daemon.peer_book import PeerBook
from daemon.places import Places, Reading
from daemon.procedures import Procedures
from daemon.replica import NodeReplica
from daemon.shelf import Shelf
from daemon.signals import BatchesCommitted, ObjectsChanged
from daemon.snapshots import Rule, Snapshots
from daemon.stored_lists import StoredChunkLists
from daemon.subscription import Emit, ListenerKind
from daemon.traffic import Traffic
from daemon.troubles import told
from peers.address import Address, parse_all
from peers.backoff import Offences
from peers.crossing import Crossing
from peers.fetch import Fetcher
from peers.limits import RateLimit
from peers.sessions import Sessions
from store.access import is_membership
from store.db import Database
from store.folder import StoredFolder
from store.ids import AgentId, BlobHash, FolderId
from store.signing import AgentKey

logger = logging.getLogger(__name__)


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
    rested: Callable[[], None] = lambda: None  # told when a folder has nothing more to do


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
        checkpoints: Rule | None = None,
    ) -> None:
        """Wire everything; nothing is read or opened yet.

        Without `reading` contents are looked up over the one connection, on the database thread.
        """
        self.world = world
        self.names = Names(world.clock)
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
        self.folders = self._make_folders()
        self.works = self.folders.works
        self.ended = self.folders.ended
        self.crossing = Crossing(key.agent)
        self.traffic = Traffic()
        rng = random.Random(int.from_bytes(world.random_bytes(8), "big"))  # noqa: S311
        offences = Offences(rng)
        self.calling = self._make_calling(rng, offences)
        self.fetcher = self._make_fetcher()
        self.snapshots = Snapshots(self, checkpoints or Rule())
        self.replica = self._make_replica()
        self.sessions = self._make_sessions()
        self.links = self._make_links(offences)
        self.door = self._make_door()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.damage = ""  # of the database that this one replaced
        self.found_damage: tuple[str, ...] = ()  # by the scrub
        self.on_damage: Callable[[str], None] = lambda _: None
        self.on_admitted: Callable[[AgentId, str], None] = lambda *_: None
        self._subscribe()

    def _make_folders(self) -> Folders:
        return Folders(
            self.shelf,
            self.engine,
            self.procedures,
            self.world.core,
            self.world.clock,
            make_work=self._make_work,
            tell_peers=self._tell_peers,
            call_members=self._call_members,
        )

    def _make_calling(self, rng: random.Random, offences: Offences) -> Calling:
        return Calling(
            agent=self.key.agent,
            network=self.world.network,
            book=self.book,
            crossing=self.crossing,
            traffic=self.traffic,
            rng=rng,
            offences=offences,
            works=self.works,
            ended=self.ended,
            serve=lambda link: self.links.serve(link),  # noqa: PLW0108 - there are none yet
        )

    def _make_fetcher(self) -> Fetcher:
        return Fetcher(
            self.world.pool,
            open_bulk=self.calling.open_bulk,
            download=RateLimit(self.config.limits.download_bytes_per_s),
            lists=self.chunk_lists,
        )

    def _make_replica(self) -> NodeReplica:
        return NodeReplica(
            shelf=self.shelf,
            engine=self.engine,
            procedures=self.procedures,
            core=self.world.core,
            pool=self.world.pool,
            places=self.places,
            clock=self.world.clock,
            book=self.book,
            folders=self.folders.shared,
            on_connection=self._connections_changed,
            read_snapshot=self.snapshots.read,
        )

    def _make_sessions(self) -> Sessions:
        return Sessions(
            self.replica,
            self.world.pool,
            self.fetcher,
            upload=RateLimit(self.config.limits.upload_bytes_per_s),
            snapshots=self.snapshots,
        )

    def _make_door(self) -> NodeDoor:
        return NodeDoor(
            self.shelf,
            self.engine,
            self.world.core,
            self.world.clock,
            shared_with=self.replica.folders_shared_with,
            welcomed=self._welcomed,
        )

    def _make_links(self, offences: Offences) -> Links:
        return Links(
            core=self.world.core,
            clock=self.world.clock,
            shelf=self.shelf,
            book=self.book,
            crossing=self.crossing,
            traffic=self.traffic,
            offences=offences,
            sessions=self.sessions,
            works=self.works,
            spawn=self.folders.spawn,
            call_soon=self.calling.nudge,
        )

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
            return [(stored, self.folders.read_ended(stored)) for stored in self.shelf]

        for stored, ended in await self.world.core.run(read):
            if ended is None:
                self.folders.add(stored)
            else:
                self.folders.add_ended(ended)
        for peer in self.config.peers.values():
            known = self.book.get(peer.agent)
            known.name = known.name or peer.name
            known.hints.extend(parse_all(peer.addresses))

    async def run(self) -> None:
        """Work until cancelled."""
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.fetcher.run())
            await self.folders.run(tasks)
            await self.calling.run(tasks)

    def _make_work(self, stored: StoredFolder) -> FolderWork:
        config = next((f for f in self.config.folders.values() if f.id == stored.id), None)
        world = self.world
        return FolderWork(
            Tools(
                shelf=self.shelf,
                engine=self.engine,
                procedures=self.procedures,
                core=world.core,
                pool=world.pool,
                places=self.places,
                chunk_lists=self.chunk_lists,
                clock=world.clock,
                names=self.names,
                fetcher=self.fetcher,
                history=lambda: self.config.history,
                open_disk=world.open_disk,
                close_disk=world.close_disk,
                watch=world.watch,
                heads_changed=self._heads_changed,
                rested=world.rested,
                blobs_arrived=self.sessions.blob_arrived,
            ),
            folder_no=stored.no,
            folder=stored.id,
            path=stored.path,
            umask=None if config is None else config.umask,
            ignores_editor_files=True if config is None else config.ignore_editor_files,
        )

    # -- what happens on the database thread ------------------------------------------------------

    def _subscribe(self) -> None:
        self.engine.subscribe(
            self._announce_to_peers, kind=ListenerKind.POLICY, in_transaction=False
        )
        self.engine.subscribe(self._wake_planner, kind=ListenerKind.POLICY, in_transaction=False)

    def _announce_to_peers(self, event: BatchesCommitted, emit: Emit[object]) -> None:
        """Tell the loop of durable batches; it sends our own, and reads members anew."""
        if event.is_own:
            self.shelf.db.settle()  # owed where who recorded could not sync: tried again later
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
                self.folders.spawn(self.folders.members_changed(work))
        for ended in self.ended.values():
            if ended.folder_no != event.folder_no:
                continue
            if event.is_own:
                self.sessions.announce(ended.folder, event.batches)
            if any(is_membership(batch.events[0]) for batch in event.batches):
                self.folders.spawn(self.folders.ended_changed(ended))

    # -- connections ----------------------------------------------------------------------------

    async def reachable_at(self, places: Sequence[Address]) -> None:
        """Sign where we can be reached if that changed, tell it, and call everybody then.

        What cannot be written now (a full disk) is told to nobody: the caller comes again.
        """
        try:
            changed = await self.book.set_own(places)
        except sqlite3.OperationalError as full:
            logger.debug("addresses not signed why=%s", told(full)[0])
            return
        if changed is not None:
            await self.sessions.addresses_changed([changed])
            self.calling.network_changed()

    def _heads_changed(self, folder: FolderId) -> None:
        """Tell peers what we have; what they wanted while it was being moved stands again."""
        self.sessions.heads_changed(folder)
        wanted = self.sessions.wanted(folder)
        if wanted:
            self.folders.spawn(self._serve_late(folder, wanted))

    async def _serve_late(self, folder: FolderId, wanted: Sequence[BlobHash]) -> None:
        here = await self.replica.which_are_here(folder, wanted)
        self.sessions.blob_arrived(folder, here)

    def _connections_changed(self) -> None:
        for work in self.works.values():
            work.retry_away()

    async def _tell_peers(self) -> None:
        await self.sessions.folders_changed()

    async def _call_members(self) -> None:
        await self.calling.call_members()

    async def _welcomed(self, folder_no: int, agent: AgentId, label: str) -> None:
        for work in self.works.values():
            if work.folder_no == folder_no:
                await self.folders.members_changed(work)
                self.on_admitted(agent, label)
