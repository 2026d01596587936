"""Run real nodes as processes: start, stop, kill, ask, and wait until they agree.

Black box: nothing here looks into a node but by its commands, and into a folder but as its user
does. Every node has a home and a user's home of its own, so the real one is never touched.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.e2e.relay import LOOPBACK, Exchange, Relay, free_port
from tests.e2e.trees import Tree, difference, read_tree

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PATIENCE_S: Final = 30.0
COMMAND_LIMIT_S: Final = 90.0
STOP_LIMIT_S: Final = 10.0
IS_FULL: Final = os.environ.get("DIZZYD_E2E") == "full"  # the sizes of a real library
_LOOK_S = 0.03


def sized(default: int, full: int) -> int:
    """Choose between the size of every run and that of DIZZYD_E2E=full."""
    return full if IS_FULL else default


def eventually(what: str, holds: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    """Wait until something holds; the one place that waits. Tells what was seen last."""
    deadline_s = time.monotonic() + within_s
    while True:
        seen: object = None
        try:
            if holds():
                return
        except (AssertionError, OSError) as not_yet:
            seen = not_yet
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {within_s:.0f} s: {what}\n{seen or ''}")
        time.sleep(_LOOK_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A command that ended."""

    code: int
    out: str
    err: str


class _ControlSocket(http.client.HTTPConnection):
    """The control API of a home, whatever the length of its path."""

    def __init__(self, home: Path) -> None:
        super().__init__("dizzyd", timeout=COMMAND_LIMIT_S)
        self._home = home

    def connect(self) -> None:
        """Connect by a short path to the socket."""
        directory = os.open(self._home, os.O_PATH)
        try:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{directory}/control.sock")
        finally:
            os.close(directory)


class Node:
    """One node of its own on this machine, with one folder that most tests share."""

    def __init__(
        self, base: Path, name: str, exchange: Exchange, *, has_relay: bool = True
    ) -> None:
        self.name = name
        self.user_home = base / name
        self.home = self.user_home / "dizzyd"
        self.folder = self.user_home / "shared"
        self.port = free_port()
        self.relay: Relay | None = exchange.relay(self.port) if has_relay else None
        self.program = "daemon"  # the module that is run; commands are always dizzyd's
        self.process: subprocess.Popen[bytes] | None = None
        self._greeted_bytes = 0
        self.user_home.mkdir(parents=True)
        self._write_config()

    def _write_config(self) -> None:
        """Write what `init` would; `run` completes the home."""
        announce = [self.relay.address] if self.relay is not None else []
        self.home.mkdir(mode=0o700)
        self.config.write_text(
            f'[node]\nname = "{self.name}"\nlisten = ["{LOOPBACK}:{self.port}"]\n'
            f"announce = {json.dumps(announce)}\n"
        )

    @property
    def config(self) -> Path:
        """The file config.toml."""
        return self.home / "config.toml"

    @property
    def log(self) -> Path:
        """What the daemon wrote to stderr, in all its lives."""
        return self.user_home / "daemon.log"

    @property
    def greeting(self) -> Path:
        """What the daemon wrote to stdout, in all its lives."""
        return self.user_home / "daemon.out"

    @property
    def environment(self) -> dict[str, str]:
        """An environment in which nothing leads to the real home."""
        home = self.user_home
        return {
            "PATH": os.defpath,  # no dizzyd in it, so that greetings name the whole path
            "PYTHONPATH": str(ROOT),
            "HOME": str(home),
            "DIZZYD_HOME": str(self.home),
            "XDG_CONFIG_HOME": str(home / "xdg" / "config"),
            "XDG_DATA_HOME": str(home / "xdg" / "data"),
            "XDG_CACHE_HOME": str(home / "xdg" / "cache"),
            "XDG_STATE_HOME": str(home / "xdg" / "state"),
            "XDG_RUNTIME_DIR": str(home / "xdg" / "run"),
            "LC_ALL": "C.UTF-8",
            "DIZZYD_LOG": os.environ.get("DIZZYD_LOG", "INFO"),
        }

    # -- life -----------------------------------------------------------------------------------

    def start(self, *arguments: str) -> None:
        """Start the daemon and return when it answers."""
        self.begin(*arguments)
        self.await_greeting()

    def begin(self, *arguments: str) -> None:
        """Start the daemon and do not wait for it."""
        assert self.process is None
        self._greeted_bytes = self.greeting.stat().st_size if self.greeting.exists() else 0
        with self.log.open("ab") as log, self.greeting.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.program, "run", *arguments],
                env=self.environment,
                cwd=self.user_home,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
            )

    def await_greeting(self) -> None:
        """Return when the daemon answers."""
        process = self.process
        assert process is not None

        def greets() -> bool:
            assert process.poll() is None, f"{self.name} ended: {self._tail()}"
            return b"listening on" in self.greeting.read_bytes()[self._greeted_bytes :]

        eventually(f"{self.name} runs", greets)

    def stop(self) -> None:
        """End the daemon as an init system does, and hold it to its promise."""
        assert self.process is not None
        process, self.process = self.process, None
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{self.name} did not stop: {self._tail()}") from None
        assert code == 0, f"{self.name} ended with {code}: {self._tail()}"

    def kill(self) -> None:
        """End the daemon as a power cut does."""
        assert self.process is not None
        process, self.process = self.process, None
        process.kill()
        process.wait()

    def end(self) -> None:
        """End whatever is left, and say what the log complains about."""
        if self.process is not None:
            self.kill()
        if self.relay is not None:
            self.relay.close()

    def _tail(self) -> str:
        return self.log.read_text()[-3000:]

    # -- asking ---------------------------------------------------------------------------------

    def dizzyd(self, *arguments: str, cwd: Path | None = None, **more: str) -> Ended:
        """Run one command; more are variables of its environment."""
        done = subprocess.run(
            [sys.executable, "-m", "daemon", *arguments],
            env=self.environment | more,
            cwd=cwd or self.user_home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
        return Ended(code=done.returncode, out=done.stdout.decode(), err=done.stderr.decode())

    def must(self, *arguments: str) -> str:
        """Run a command that has to succeed; gives its first line of stdout."""
        ended = self.dizzyd(*arguments)
        assert ended.code == 0, (arguments, ended)
        return ended.out.partition("\n")[0]

    def status(self) -> dict[str, Any]:
        """Ask for everything, as `status --json` does."""
        connection = _ControlSocket(self.home)
        try:
            connection.request("GET", "/api/v1/status")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return found

    def about(self, folder: str = "shared") -> dict[str, Any]:
        """Ask for one folder."""
        folders = [f for f in self.status()["folders"] if f["name"] == folder]
        assert len(folders) == 1, f"{self.name} has no folder {folder}"
        found: dict[str, Any] = folders[0]
        return found

    def events(self, folder: str = "shared") -> int:
        """Count the events in the log."""
        count: int = self.about(folder)["log"]["events"]
        return count

    def tree(self, *, with_times: bool = True) -> Tree:
        """Read the folder."""
        return read_tree(self.folder, with_times=with_times)

    @contextmanager
    def recording(self, count: int = 1) -> Iterator[None]:
        """Return from the block when what it did is in the log: at least `count` events more."""
        before = self.events()
        yield

        def is_recorded() -> bool:
            now = self.about()
            return int(now["log"]["events"]) >= before + count and now["state"] == "idle"

        eventually(f"{self.name} records {count} events", is_recorded)

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Let the daemon find all that the block does at once, however long that takes here."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


class Nodes:
    """Some nodes that share one folder, and the lines between them."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.exchange = Exchange()
        self.all: list[Node] = []

    def add(self, name: str, *, has_relay: bool = True) -> Node:
        """Make a node; it does not run yet."""
        made = Node(self.base, name, self.exchange, has_relay=has_relay)
        self.all.append(made)
        return made

    def share(self, owner: Node) -> None:
        """Let a running node share its folder."""
        owner.folder.mkdir(exist_ok=True)
        owner.must("share", str(owner.folder))

    def join(self, inviter: Node, joiner: Node, role: str = "write") -> None:
        """Let a running node join the folder of another."""
        joiner.must("join", inviter.must("invite", "shared", "--role", role), str(joiner.folder))

    def cut(self) -> None:
        """Part all nodes, and return when they know."""
        for node in self.all:
            if node.relay is not None:
                node.relay.cut()
        for node in self.all:
            eventually(f"{node.name} is alone", partial(_is_alone, node))

    def mend(self) -> None:
        """Let the nodes find each other again."""
        for node in self.all:
            if node.relay is not None:
                node.relay.open()

    @property
    def passed_bytes(self) -> int:
        """Count what went over all lines."""
        return sum(node.relay.passed_bytes for node in self.all if node.relay is not None)

    def end(self) -> None:
        """End every process and every relay."""
        for node in self.all:
            node.end()
        self.exchange.end()

    def complaints(self) -> str:
        """Give what no log may hold: a traceback."""
        logs = [(node, node.log.read_text()) for node in self.all if node.log.exists()]
        return "\n".join(
            f"{node.name}: {text[max(0, text.index('Traceback') - 300) :][:3000]}"
            for node, text in logs
            if "Traceback" in text
        )


class Pair(Nodes):
    """Two running nodes that share a folder: `left` made it, `right` joined."""

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.left = self.add("left")
        self.right = self.add("right")

    def meet(self) -> Pair:
        """Start both and let them share."""
        start_all(self.left, self.right)
        self.share(self.left)
        self.join(self.left, self.right)
        self.agree()
        return self

    def agree(self, within_s: float = PATIENCE_S) -> Tree:
        """Wait until both agree."""
        return agree(self.left, self.right, within_s=within_s)


def start_all(*nodes: Node) -> None:
    """Start some nodes side by side and return when all answer."""
    for node in nodes:
        node.begin()
    for node in nodes:
        node.await_greeting()


def _connected(node: Node) -> bool:
    return any(peer["connected"] for peer in node.status()["peers"])


def _is_alone(node: Node) -> bool:
    return not _connected(node)


def agree(*nodes: Node, within_s: float = PATIENCE_S, with_times: bool = True) -> Tree:
    """Wait until trees and states of the nodes are equal and nothing is pending.

    Gives the tree that all have.
    """
    trees: list[Tree] = []
    found: list[dict[str, Any]] = []

    def is_equal() -> bool:
        found[:] = [node.about() for node in nodes]
        trees[:] = [node.tree(with_times=with_times) for node in nodes]
        for node, tree in zip(nodes, trees, strict=True):
            assert tree == trees[0], (
                f"{nodes[0].name} | {node.name}\n{difference(trees[0], tree)}\n"
                + _told(nodes, found)
            )
        for one in found:
            assert _standing(one) == _standing(found[0]), _told(nodes, found)
            assert (one["state"], one["problems"]) == ("idle", []), _told(nodes, found)
            assert one["pending"] == {"files": 0, "bytes": 0}, _told(nodes, found)
            assert any(peer["in_sync"] for peer in one["peers"]), _told(nodes, found)
        return True

    eventually("equal trees, equal states, nothing pending", is_equal, within_s)
    return trees[0]


def _standing(folder: dict[str, Any]) -> object:
    heads = sorted((head["agent"], head["seq"], head["batch"]) for head in folder["log"]["heads"])
    return folder["state_root"], heads


def _told(nodes: Sequence[Node], found: Sequence[dict[str, Any]]) -> str:
    """Say what matters of each folder, for whoever reads the failure."""
    lines = []
    for node, one in zip(nodes, found, strict=True):
        heads = sorted(f"{head['agent'][:4]}/{head['seq']}" for head in one["log"]["heads"])
        synced = {peer["agent"][:4]: peer["in_sync"] for peer in one["peers"]}
        keys = ("state", "pending", "held_deletions", "local_changes", "problems")
        lines.append(
            f"{node.name}: root {one['state_root'][:8]} heads {heads} in sync {synced} "
            f"{ {key: one[key] for key in keys} }"
        )
    return "\n".join(lines)
