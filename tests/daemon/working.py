"""Nodes at work in one process: real files, real SQLite, real TLS on loopback.

Watchers say nothing and calls run inline, so that a test decides when is looked.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from daemon.config import Config, HistoryConfig, LimitsConfig, NodeConfig
from daemon.core import InlineRunner
from daemon.fs import LinuxDisk
from daemon.hints import Hint, WatchState
from daemon.home import Home
from daemon.machine import SystemClock, close_disk, open_disk
from daemon.node import Node, World
from daemon.report import Reporter
from peers import certificate
from peers.address import Address
from peers.dialer import Dialer
from peers.identity import Identity
from peers.listener import Listener
from store.access import Role
from store.db import open_database
from store.folder import StoredFolder
from store.founding import add_folder, share_folder
from store.ids import EPOCH_BYTES, Epoch, FolderId
from store.signing import AgentKey, verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from daemon.core import Runner
    from daemon.folder_work import FolderWork
    from daemon.status import FolderStatus, Status

OLD_NS = 1_600_000_000_123_456_789


async def eventually(holds: Callable[[], object], within_s: float = 10.0) -> None:
    """Wait until something is so; the one place that waits."""
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.005)


class SilentWatcher:
    def __init__(self, _root: bytes) -> None:
        self.state = WatchState.FULL

    def start(self, deliver: Callable[[list[Hint]], None]) -> None:
        pass

    def stop(self) -> None:
        pass

    def unwatched(self) -> list[bytes]:
        return []


class Working:
    """One node with one folder at `root`."""

    def __init__(
        self,
        base: Path,
        name: str,
        seed: int,
        *,
        core: Runner | None = None,
        pool: Runner | None = None,
    ) -> None:
        self.name = name
        self.root = base / name / "folder"
        self.root.mkdir(parents=True, exist_ok=True)
        self.home = Home(config=base / name / "config.toml", state=base / name / "home")
        self.home.state.mkdir(exist_ok=True)
        self.key = AgentKey.from_seed(seed.to_bytes(32, "big"))
        self.identity = Identity(
            key=self.key, label=name.encode(), instance=secrets.token_bytes(16)
        )
        self.core = core or InlineRunner()
        self.pool = pool or InlineRunner()
        self.open()
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Open the database and wire the node anew, as a start does."""
        self.db = open_database(self.home.database)
        self.node = Node(
            world=World(
                clock=SystemClock(),
                random_bytes=secrets.token_bytes,
                core=self.core,
                pool=self.pool,
                network=Dialer(self.identity, random_bytes=os.urandom),
                open_disk=open_disk,
                close_disk=close_disk,
                watch=SilentWatcher,
            ),
            database=self.db,
            key=self.key,
            config=Config(
                node=NodeConfig(name=self.name, listen=("127.0.0.1:0",)),
                folders={},
                peers={},
                history=HistoryConfig(),
                limits=LimitsConfig(),
            ),
        )
        self.listener = Listener(
            self.identity,
            certificate.issue(self.key),
            door=self.node.door,
            on_link=self.node.links.take,
            random_bytes=os.urandom,
        )
        self.reporter = Reporter(
            self.node,
            self.home,
            listen=lambda: ("127.0.0.1:7499",),
            rejected=lambda: Counter({"tls": 1}),
            config_problem=lambda: None,
            pid=4711,
        )

    # -- the folder -----------------------------------------------------------------------------

    def share(self, folder_key: AgentKey) -> None:
        LinuxDisk.prepare(os.fsencode(self.root), FolderId(folder_key.agent))
        share_folder(
            self.db,
            self.key,
            folder_key=folder_key,
            name="photos",
            label=self.name.encode(),
            path=os.fsencode(self.root),
            epoch=Epoch(secrets.token_bytes(EPOCH_BYTES)),
            nonce=bytes(16),
            wall_ms=1_700_000_000_000,
        )

    def admit(self, other: Working, role: Role) -> None:
        """Give another node a role, and let it hold what we have of the folder."""
        stored = self.stored_alone()
        stored.grant(
            other.key.agent,
            role,
            label=other.name.encode(),
            expires_ms=None,
            may_delegate=False,
            wall_ms=1_700_000_000_001,
        )
        wires, _ = stored.log.read(
            [(head.log, None, head.seq) for head in stored.log.heads()], [], 1 << 40
        )
        LinuxDisk.prepare(os.fsencode(other.root), stored.id)
        no = add_folder(
            other.db,
            folder=stored.id,
            name="photos",
            path=os.fsencode(other.root),
            epoch=Epoch(secrets.token_bytes(EPOCH_BYTES)),
        )
        StoredFolder(other.db, no, stored.id, other.key).admit(
            [verify(wire) for wire in wires], self.key.agent
        )

    def stored_alone(self) -> StoredFolder:
        no, folder = self.db.execute("SELECT no, id FROM folder").fetchone()
        return StoredFolder(self.db, no, FolderId(folder), self.key)

    @property
    def stored(self) -> StoredFolder:
        return next(iter(self.node.shelf))

    @property
    def work(self) -> FolderWork:
        return next(iter(self.node.works.values()))

    # -- life -----------------------------------------------------------------------------------

    async def start(self, *others: Working, is_suspicious: bool = False) -> None:
        """Load and run; call `others` where they listen."""
        self.listener.open([Address.parse("127.0.0.1:0")])
        await self.node.load(is_suspicious=is_suspicious)
        for other in others:
            self.node.book.get(other.key.agent).hints.extend(other.listener.addresses)
        self._tasks = [
            asyncio.create_task(self.node.run()),
            asyncio.create_task(self.listener.serve()),
        ]
        await self.settled()

    async def stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        self.db.close()

    async def settled(self) -> None:
        await eventually(lambda: self.work.is_settled)

    async def look(self) -> None:
        await self.work.scan_now()
        await self.settled()

    async def status(self) -> Status:
        return await self.reporter.status()

    async def folder_status(self) -> FolderStatus:
        [folder] = (await self.status()).folders
        return folder

    # -- files ----------------------------------------------------------------------------------

    def write(self, path: str, content: bytes, *, mtime_ns: int = OLD_NS) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        os.utime(file, ns=(mtime_ns, mtime_ns))
        return file

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def names(self) -> set[str]:
        found = {str(path.relative_to(self.root)) for path in self.root.rglob("*")}
        return {path for path in found if not path.startswith(".dizzyd")}

    def history(self) -> list[bytes]:
        kept = sorted((self.root / ".dizzyd" / "history").iterdir())
        return [path.read_bytes() for path in kept]

    def has(self, path: str, content: bytes) -> bool:
        file = self.root / path
        return file.is_file() and file.read_bytes() == content


FOLDER_SEED = b"\xf0" * 32


@asynccontextmanager
async def alone(
    base: Path, *, core: Runner | None = None, pool: Runner | None = None
) -> AsyncIterator[Working]:
    """Run one node that shares a folder with nobody."""
    node = Working(base, "desk", 1, core=core, pool=pool)
    node.share(AgentKey.from_seed(FOLDER_SEED))
    await node.start()
    try:
        yield node
    finally:
        await node.stop()


@asynccontextmanager
async def pair(base: Path, role: Role = Role.WRITE) -> AsyncIterator[tuple[Working, Working]]:
    """Run the owner of a folder and another member, connected."""
    owner, other = Working(base, "desk", 1), Working(base, "laptop", 2)
    owner.share(AgentKey.from_seed(FOLDER_SEED))
    owner.admit(other, role)
    await owner.start()
    await other.start(owner)
    try:
        here, there = other.work.standing, owner.work.standing
        await eventually(lambda: bool(here.peer_heads and there.peer_heads))
        yield owner, other
    finally:
        await other.stop()
        await owner.stop()
