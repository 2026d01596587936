"""A node that answers from what a test put into it, behind the real interface."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from daemon.answers import (
    Change,
    FolderPeers,
    History,
    Identity,
    InviteMade,
    Joined,
    Member,
    Rebuilt,
    RestoreLine,
    VerifyLine,
)
from daemon.control import ControlServer, Operations
from daemon.home import Home
from daemon.naming import find_folder
from daemon.status import FolderPeer, FolderStatus, NodeStatus, PeerStatus, Status
from store.errors import DizzyError, TryLater

ROOT = Path(__file__).resolve().parent.parent.parent
# What a process started by a test imports: this source, and what this process was given.
PYTHONPATH = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


def healthy_status() -> Status:
    return Status(
        node=NodeStatus(
            name="laptop",
            agent="aa" * 32,
            version="0.1.0",
            pid=4711,
            home="/home/u/.local/share/dizzyd",
            listen=("[::]:7499",),
            started_at="2026-11-20T10:00:00.000Z",
            uptime_s=3 * 86400 + 5.0,
        ),
        folders=(
            FolderStatus(
                name="photos",
                id="bb" * 32,
                path="/home/u/Photos",
                role="owner",
                state="idle",
                files=1204,
                bytes=734003200,
                peers=(FolderPeer(agent="cc" * 32, in_sync=True),),
            ),
        ),
        peers=(PeerStatus(agent="cc" * 32, name="desktop", connected=True, rtt_ms=0.41),),
        rejected={"bad-signature": 0},
    )


@dataclass
class FakeNode:
    """Records every call; `fails` makes the operation of that name raise."""

    status_now: Status = field(default_factory=healthy_status)
    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    fails: dict[str, Exception] = field(default_factory=dict)
    lines: list[VerifyLine] = field(default_factory=list)
    history_now: History | None = None
    restored: list[RestoreLine] = field(default_factory=list)
    content: list[bytes] = field(default_factory=list)
    fails_after_lines: DizzyError | None = None
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    was_cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def _called(self, operation: str, *arguments: object) -> None:
        self.calls.append((operation, arguments))
        if operation in self.fails:
            raise self.fails[operation]

    async def status(self) -> Status:
        self._called("status")
        return self.status_now

    async def share(self, path: str, name: str | None) -> str:
        self._called("share", path, name)
        return "dd" * 32

    async def invite(
        self, name: str, role: str, expires_s: float, addresses: tuple[str, ...]
    ) -> InviteMade:
        self._called("invite", name, role, expires_s, addresses)
        find_folder(name, self.status_now.folders)
        return InviteMade(text="dizzyd1abc", addresses=addresses or ("192.0.2.1:7499",))

    async def join(self, invite: str, path: str | None, name: str | None) -> Joined:
        self._called("join", invite, path, name)
        return Joined(name="pho\x1btos", path=path or "/home/u/Photos", folder_id="ee" * 32)

    async def leave(self, name: str) -> None:
        self._called("leave", name)

    async def unshare(self, name: str) -> None:
        self._called("unshare", name)

    async def identity(self) -> Identity:
        self._called("identity")
        return Identity(name="laptop", agent="aa" * 32)

    async def peers(self) -> list[FolderPeers]:
        self._called("peers")
        member = Member(agent="cc" * 32, name="desk\ntop", role="write", connected=True)
        return [FolderPeers(name="photos", id="bb" * 32, members=(member,))]

    async def repair(self, name: str | None) -> AsyncIterator[VerifyLine]:
        self._called("repair", name)
        yield VerifyLine(kind="repaired", text="photos: a.jpg: the shared version is back")
        yield VerifyLine(kind="summary", text="1 damage repaired")

    async def verify(self, name: str | None) -> AsyncIterator[VerifyLine]:
        self._called("verify", name)
        for line in self.lines:
            yield line
        if self.fails_after_lines is not None:
            raise self.fails_after_lines

    async def rebuild(self, name: str | None) -> list[Rebuilt]:
        self._called("rebuild", name)
        return [Rebuilt(name="photos", id="bb" * 32, state_root="ff" * 32, events=1301)]

    async def scan(self, name: str | None) -> None:
        self._called("scan", name)

    async def wait(self, name: str | None, timeout_s: float) -> None:
        self._called("wait", name, timeout_s)
        if timeout_s > 1000:
            self.waiting.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.was_cancelled.set()
        if timeout_s < 1:
            raise TryLater("wait", "not in sync yet", hint="`dizzyd status` says what is missing")

    async def cat(self, path_or_hash: str, cwd: str) -> AsyncIterator[bytes]:
        self._called("cat", path_or_hash, cwd)
        for piece in self.content:
            yield piece
        if self.fails_after_lines is not None:
            raise self.fails_after_lines

    async def history(self, path: str) -> History:
        self._called("history", path)
        assert self.history_now is not None
        return self.history_now

    async def restore(
        self, path: str, at_ms: int | None, digits: str | None, to: str | None
    ) -> AsyncIterator[RestoreLine]:
        self._called("restore", path, at_ms, digits, to)
        for line in self.restored:
            yield line

    async def confirm(self, name: str) -> None:
        self._called("confirm", name)

    async def undo_deletions(self, name: str) -> None:
        self._called("undo_deletions", name)

    async def revert(self, name: str) -> None:
        self._called("revert", name)

    async def reload(self) -> None:
        self._called("reload")

    async def changes(self, after: str | None) -> AsyncIterator[Change]:
        self._called("changes", after)
        fields = {"path": "a.txt"}
        yield Change(cursor="1", folder="bb" * 32, kind="edited", at="…Z", fields=fields)
        self.waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.was_cancelled.set()


def as_operations(node: FakeNode) -> Operations:
    """Prove by its type that the fake is what the server asks for."""
    return node


def make_home(directory: Path) -> Home:
    home = Home(config=directory / "config.toml", state=directory)
    home.prepare()
    return home


@asynccontextmanager
async def served(node: FakeNode, home: Home) -> AsyncIterator[ControlServer]:
    """Serve the fake on the real control socket, with the home's lock held."""
    server = ControlServer(as_operations(node), home)
    with home.locked():
        await server.start()
        try:
            yield server
        finally:
            await server.stop()


class Ended(NamedTuple):
    code: int
    out: str
    err: str


async def dizzyd(
    home: Home,
    *arguments: str | bytes,
    extra: dict[str, str] | None = None,
    cwd: Path | None = None,
    before: str = "",
) -> Ended:
    """Run the real command line as a process; `before` is Python that runs in it first."""
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": PYTHONPATH,
        "HOME": str(home.state / "nobody"),
        "DIZZYD_HOME": str(home.state),
        **(extra or {}),
    }
    start = ["-m", "daemon"]
    if before:
        start = ["-c", f"{before}\nimport sys\nfrom daemon.cli import main\nsys.exit(main())"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *start,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
        env=environment,
        cwd=cwd or home.state,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode is not None
    decoded = (text.decode("utf-8", "surrogateescape") for text in (out, err))
    return Ended(process.returncode, *decoded)


# Put before the command line of a process: a stopped node that answers from the fake.
STOPPED_NODE = """
import sys, types
from contextlib import contextmanager
from dataclasses import replace
from tests.daemon.fake_node import FakeNode, healthy_status
from daemon.answers import VerifyLine

@contextmanager
def open_node(home):
    now = healthy_status()
    node = FakeNode(status_now=replace(now, node=replace(now.node, pid=None, uptime_s=None)))
    node.lines = [VerifyLine(kind="summary", text="stopped and well")]
    node.content = [b"kept ", b"bytes"]
    yield node

offline = types.ModuleType("daemon.offline")
offline.open_node = open_node
sys.modules["daemon.offline"] = offline
"""


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)
