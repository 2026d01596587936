"""Run the real node in the simulator: its engine, log, state, planner, sessions and apply.

Only what touches a machine is replaced: clock, threads, disk, watcher, network. The members of
the shared folder are set before the first life, as if all had joined while it was empty. Nothing
here decides anything.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, cast

from blake3 import blake3

from daemon.config import Config, FolderConfig, HistoryConfig, LimitsConfig, NodeConfig
from daemon.disk import DiskError, RootLost
from daemon.node import Node, World
from daemon.outcomes import Reason
from daemon.snapshots import Rule
from peers.address import Address
from store.access import Role
from store.codec import decode_header
from store.db import Database, memory_database
from store.errors import DizzyError, TryLater
from store.folder import StoredFolder
from store.founding import add_folder, share_folder
from store.ids import AgentId, Epoch, FolderId
from store.objects import Changes
from store.signing import AgentKey, verify
from tests.sim.loop import Crashed, VirtualLoop
from tests.sim.net import Port, Said

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from daemon.disk import Disk
    from daemon.folder_work import FolderWork
    from daemon.hints import Watcher
    from peers.invite import Invite
    from peers.link import Link, Purpose
    from store.signing import WireBatch
    from tests.sim.world import Place

PORT = 7499
DIAL_LIMIT_S = 5.0
LOOK_S = 0.05  # how often quiet() asks
SHARED_AT_MS = 1_767_225_000_000  # ten minutes before every history begins
FOLDER_KEY = AgentKey.from_seed(b"\xff" * 32)
FOLDER = FolderId(FOLDER_KEY.agent)


# What is ignored stays on one node: every name that users make is to be compared.
_FOLDER_CONFIG = FolderConfig(
    name="shared", path=Path("/shared"), id=FOLDER, ignore_editor_files=False
)


@cache
def key_of(name: str) -> AgentKey:
    """Give the key of the agent of that name, the same in every run."""
    return AgentKey.from_seed(blake3(b"agent/" + name.encode()).digest())


@cache
def founded(names: tuple[str, ...], index: int) -> bytes:
    """Give the database of one node, all nodes being members of the folder of the first."""
    database = memory_database()
    if index:
        wires = _batches_of(opened(founded(names, 0)))
        epoch = Epoch(bytes([index]) * 16)
        no = add_folder(database, folder=FOLDER, name="shared", path=b"/shared", epoch=epoch)
        stored = StoredFolder(database, no, FOLDER, key_of(names[index]))
        stored.admit([verify(wire) for wire in wires], key_of(names[0]).agent)
    else:
        stored = share_folder(
            database,
            key_of(names[0]),
            folder_key=FOLDER_KEY,
            name="shared",
            label=names[0].encode(),
            path=b"/shared",
            epoch=Epoch(bytes(16)),
            nonce=bytes(16),
            wall_ms=SHARED_AT_MS,
        )
        for name in names[1:]:
            stored.grant(
                key_of(name).agent,
                Role.WRITE,
                label=name.encode(),
                expires_ms=None,
                may_delegate=False,
                wall_ms=SHARED_AT_MS,
            )
    stored.state.root()  # 4096 buckets are hashed once for all histories
    return database.connection.serialize()


def opened(image: bytes) -> Database:
    """Give a database in memory that begins as this image."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.deserialize(image)
    connection.execute("PRAGMA cache_size = -512")
    return Database(connection)


def _batches_of(database: Database) -> list[WireBatch]:
    no = database.execute("SELECT no FROM folder").fetchone()[0]
    stored = StoredFolder(database, no, FOLDER, FOLDER_KEY)
    heads = stored.log.heads()
    return list(stored.log.read([(head.log, None, head.seq) for head in heads], [], 1 << 40)[0])


class CrashingDatabase(Database):
    """A database whose process may end just before or just behind a commit."""

    def __init__(self, connection: sqlite3.Connection, on_commit: Callable[[bool], None]) -> None:
        """Tell `on_commit` of both instants; False before, True behind."""
        super().__init__(connection)
        self._on_commit = on_commit

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything inside one change, as any database does."""
        if self.in_transaction:
            with super().transaction():
                yield
            return
        with super().transaction():
            yield
            self._on_commit(False)
        self._on_commit(True)


class SimNetwork:
    """Calls of a node, over its port."""

    def __init__(self, port: Port, said: Said) -> None:
        """Say of ourselves what `said` says."""
        self._port = port
        self._said = said

    async def dial(
        self,
        addresses: Sequence[Address],
        agent: AgentId,
        purpose: Purpose,
        *,
        invite: Invite | None = None,
    ) -> Link:
        """Reach the agent at one of the addresses, within the time that a real call has."""
        cause: DizzyError = TryLater("call", "no address")
        for address in addresses:
            try:
                async with asyncio.timeout(DIAL_LIMIT_S):
                    return await self._port.dial(
                        self._said,
                        address.host,
                        expected=agent,
                        purpose=purpose,
                        invite=invite,
                    )
            except DizzyError as refused:
                cause = refused
            except TimeoutError:
                cause = TryLater("call", "no answer")
        raise cause


class RealNode:
    """One life of a real node."""

    def __init__(self, place: Place, *, joins: bool = False) -> None:
        """Wire it to its place; with `joins` it begins by binding the files that are there."""
        self._place = place
        self._port = place.port
        disk, watcher = place.disk, place.watcher
        life, index = place.life, place.index
        if "connection" not in place.home:
            database = self._found(place)
            if joins and index:
                database.set_meta("joining/1", b"1")
            place.home["connection"] = database.connection
        connection = cast("sqlite3.Connection", place.home["connection"])
        self._database = CrashingDatabase(connection, place.commit)
        key = key_of(place.name)
        random = Random(f"bytes/{place.seed}/{place.name}/{life}")
        self._said = Said(agent=key.agent, label=place.name.encode(), instance=random.randbytes(16))

        def open_disk(_root: bytes, _folder: FolderId, _umask: int | None) -> Disk:
            try:
                disk.reopen()
                disk.check_root()
            except RootLost:
                raise
            except DiskError as fault:
                raise RootLost(fault.what, fault.why, errno=fault.errno) from fault
            return disk

        def watch(_root: bytes) -> Watcher:
            return watcher

        self.node = Node(
            world=World(
                clock=place.clock,
                random_bytes=random.randbytes,
                core=place.core,
                pool=place.pool,
                network=SimNetwork(place.port, self._said),
                open_disk=open_disk,
                close_disk=lambda _disk: None,
                watch=watch,
            ),
            database=self._database,
            key=key,
            config=Config(
                node=NodeConfig(name=place.name),
                folders={"shared": _FOLDER_CONFIG},
                peers={},
                history=HistoryConfig(),
                limits=LimitsConfig(),
            ),
            checkpoints=Rule(from_batches=1, growth=0, gain=0),
        )
        self._task: asyncio.Task[None] | None = None

    def _found(self, place: Place) -> Database:
        """Make the database of the first life."""
        return opened(founded(place.names, place.index))

    @property
    def work(self) -> FolderWork:
        """The one folder at work."""
        return self.node.works[FOLDER]

    # -- SimNode ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load, listen, and begin to work."""
        await self.node.load()
        for name in self._place.names:
            if name != self._place.name:
                known = self.node.book.get(key_of(name).agent)
                known.hints.append(Address(name, PORT))
        self._task = self._place.loop.create_task(self.node.run())
        self._task.add_done_callback(self._ended)
        self._port.listen(self._said, self.node.links.take, self._door)

    async def _door(self, caller: Said, _invite: Invite | None) -> None:
        if not await self.node.door.admit_member(caller.agent):
            raise TryLater("call", "the connection closes without a word")

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not _has_crashed(error):
            self._place.loop.errors.append(f"{self._place.name} ended: {_told(error)}")

    async def stop(self) -> None:
        """Cancel and wait, as SIGTERM does."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def crash(self) -> None:
        """Cancel; whatever still runs finds its place closed."""
        if self._task is not None:
            self._task.cancel()

    async def scan(self) -> None:
        """Look at everything."""
        await self.work.scan_now()

    async def checkpoint(self) -> None:
        """Make a checkpoint of what the node has, where it would not have to wait for others."""
        node = self.node
        work = node.works.get(FOLDER)
        if self._task is not None and work is not None and not work.tail.is_lagging:
            await node.world.core.run(node.snapshots.make_now, work.folder_no)

    async def quiet(self) -> None:
        """Wait until nothing is pending here."""
        while not self._is_quiet():
            await asyncio.sleep(LOOK_S)

    def _is_quiet(self) -> bool:
        """Whether nothing is pending but what cannot come to be here.

        That is contents that no peer has, see lacking(), and names that the disk cannot hold.
        """
        if FOLDER not in self.node.works:
            return False  # it is only starting
        retries = self.work._apply._retries
        away, retries._away = retries._away, {}
        waiting = retries._waiting
        if set(self.work.trouble.failed) == {Reason.CANNOT_EXIST}:
            retries._waiting = {}
        try:
            return self.work.is_settled
        finally:
            retries._away = away
            retries._waiting = waiting

    def lacking(self) -> set[bytes]:
        """Name the contents that no peer at hand has."""
        by_content = self.work._apply._retries._away if FOLDER in self.node.works else {}
        away = set().union(*by_content.values())
        if not away:
            return set()
        entries = self.stored.view().entries(Changes(set(away), set()))[1]
        return {entry.value for entry in entries if entry.object_no in away}

    def state_root(self) -> bytes:
        """Name the state."""
        return self.stored.state.root()

    def heads(self) -> object:
        """Give the heads of all logs, and whether anything waits to be applied."""
        log = self.stored.log
        return (
            sorted((head.log, head.seq, head.batch) for head in log.heads()),
            log.has_unapplied(),
        )

    def events(self) -> int:
        """Count the events of its own log."""
        return sum(decode_header(header).count for header, _ in self._own_batches() if header)

    def has_published(self, content: bytes) -> bool:
        """Whether its own log names this content."""
        value = blake3(content).digest()
        return any(value in body for _, body in self._own_batches())

    def problems(self) -> list[str]:
        """List what is wrong."""
        if FOLDER not in self.node.works:
            return ["it has not started"]
        work = self.work
        found = [f"root: {work.trouble.root}"] if work.trouble.root else []
        folds = self._place.files.fold is not None
        found += [
            f"failed: {what}"
            for reason, what in work.trouble.failed.items()
            if not folds or reason is not Reason.CANNOT_EXIST
        ]
        found += [f"unreadable: {path!r}" for path in work.trouble.unreadable]
        found += [f"held: {len(work.held)}"] if work.held else []
        found += [f"rejected: {dict(each)}" for each in (self.node.links.rejected,) if each]
        return found

    # -- inside -----------------------------------------------------------------------------------

    @property
    def stored(self) -> StoredFolder:
        """Its log, state and synced."""
        found = self.node.shelf.find(FOLDER)
        if found is None:  # it is only starting
            return StoredFolder(self._database, 1, FOLDER, self.node.key)
        return found

    def _own_batches(self) -> list[tuple[bytes, bytes]]:
        return self._database.execute(
            "SELECT b.header, b.body FROM batch b JOIN log l ON l.no = b.log_no WHERE l.agent = ?",
            (self._said.agent,),
        ).fetchall()


def _has_crashed(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(_has_crashed(each) for each in error.exceptions)
    return isinstance(error, Crashed)


def _told(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_told(each) for each in error.exceptions)
    line = ""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        line = f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name}"
        trace = trace.tb_next
    return f"{error!r} at {line}"


class _Telltale(logging.Handler):
    """Tell the loop of what a node caught, wrote to its log, and went on from."""

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record at the level ERROR."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if not isinstance(loop, VirtualLoop):
            return
        error = record.exc_info[1] if record.exc_info else None
        loop.errors.append(record.getMessage() + ("" if error is None else f": {_told(error)}"))


def listen_to_logs() -> None:
    """Have errors that nodes log and go on from counted as failures of the run."""
    logger = logging.getLogger("daemon")
    if not any(isinstance(each, _Telltale) for each in logger.handlers):
        logger.addHandler(_Telltale(logging.ERROR))


def make(place: Place) -> RealNode:
    """Make a real node."""
    listen_to_logs()
    return RealNode(place)


def make_joining(place: Place) -> RealNode:
    """Make a real node that has just joined, if it is not the first."""
    listen_to_logs()
    return RealNode(place, joins=True)
