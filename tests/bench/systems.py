"""Run what is measured: two directories kept equal by dizzyd, or by another program.

Each system owns its processes and says when both sides rest. None is told what is measured.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from tests.bench import machine
from tests.bench.others import Rsync, Syncthing, Unison
from tests.bench.workloads import TooSlow, wait_until

_ROOT: Final = Path(__file__).resolve().parent.parent.parent
_STOP_S: Final = 20.0


class System(Protocol):
    """Keeps `left` and `right` equal."""

    name: str
    left: Path
    right: Path
    is_watching: bool  # whether it sees changes by itself

    def start(self) -> None:
        """Begin; both directories may hold files."""

    def kick(self) -> None:
        """Bring over what changed, where it does not by itself."""

    def settle(self) -> None:
        """Return when both sides rest."""

    def process_ids(self) -> list[int]:
        """List the processes that run for it now."""

    def spent_cpu_s(self) -> float:
        """Sum the CPU seconds of all its processes, ended ones included."""

    def close(self) -> None:
        """End all."""


class _UnixHttp(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("dizzyd", timeout=30.0)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(os.fspath(self._path))


class DizzyNode:
    """One daemon with a home of its own."""

    def __init__(self, base: Path, name: str) -> None:
        """Prepare its home below `base`."""
        self.name = name
        self.folder = base / name / "shared"
        self.home = base / name / "home"
        self._output = base / name / "output"
        self._process: subprocess.Popen[bytes] | None = None
        self._spent_s = 0.0
        self.folder.mkdir(parents=True)
        self.must("init", "--name", name, "--listen", f"127.0.0.1:{machine.free_port()}")

    @property
    def _environment(self) -> dict[str, str]:
        places = {f"XDG_{one}_HOME": str(self.home / one) for one in ("CONFIG", "DATA", "CACHE")}
        return {
            **os.environ,
            **places,
            "HOME": str(self.home),
            "DIZZYD_HOME": str(self.home / "node"),
            "PYTHONPATH": str(_ROOT),
        }

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "daemon", *arguments]

    def must(self, *arguments: str) -> str:
        """Run one command, which has to succeed; gives its stdout."""
        done = subprocess.run(
            self._command(*arguments),
            env=self._environment,
            cwd=self.folder.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise TooSlow(f"dizzyd {arguments[0]} ended with {done.returncode}: {done.stderr}")
        return done.stdout.strip()

    def start(self, *arguments: str) -> None:
        """Start the daemon and return when it answers."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command("run", *arguments),
                env=self._environment,
                cwd=self.folder.parent,
                stdout=output,
                stderr=output,
            )
        wait_until(self._answers, "dizzyd answers")

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise TooSlow(f"dizzyd ended: {self._output.read_text()[-2000:]}")
        try:
            self.status()
        except OSError:
            return False
        return True

    def status(self) -> dict[str, Any]:
        """Ask for everything, without the cost of a command."""
        connection = _UnixHttp(self.home / "node" / "control.sock")
        try:
            connection.request("GET", "/api/v1/status")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found
        finally:
            connection.close()

    def is_idle(self) -> bool:
        """Tell whether the one folder rests."""
        folders = self.status()["folders"]
        return bool(folders) and all(folder["state"] == "idle" for folder in folders)

    @property
    def process_id(self) -> int | None:
        """The daemon's process."""
        return None if self._process is None else self._process.pid

    def spent_cpu_s(self) -> float:
        """Give the CPU seconds of all its lives."""
        now_s = 0.0 if self._process is None else machine.cpu_s([self._process.pid])
        return self._spent_s + now_s

    def stop(self) -> None:
        """End the daemon."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._spent_s = self.spent_cpu_s()
        process, self._process = self._process, None
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Dizzyd:
    """Two daemons on loopback."""

    name = "dizzyd"
    is_watching = True

    def __init__(self, base: Path) -> None:
        """Prepare both homes."""
        self.nodes = [DizzyNode(base, "left"), DizzyNode(base, "right")]
        self.left, self.right = (node.folder for node in self.nodes)

    def start(self) -> None:
        """Share the left folder, start both, join."""
        self.start_apart()
        self.join()
        self.settle()

    def start_apart(self) -> None:
        """Start both; the left one shares, the right one does not know of it."""
        left, right = self.nodes
        left.start("--first-folder", str(left.folder))
        right.start()
        wait_until(left.is_idle, "the left side rests")

    def join(self) -> None:
        """Let the right side join with what it holds."""
        left, right = self.nodes
        right.must("join", left.must("invite", left.folder.name), str(right.folder))

    def kick(self) -> None:
        """Do nothing: it watches."""

    def settle(self) -> None:
        """Wait as a user would."""
        for node in self.nodes:
            node.must("wait", "--timeout", "120")

    def process_ids(self) -> list[int]:
        """List both daemons."""
        return [node.process_id for node in self.nodes if node.process_id is not None]

    def spent_cpu_s(self) -> float:
        """Sum of both."""
        return sum(node.spent_cpu_s() for node in self.nodes)

    def close(self) -> None:
        """End both."""
        for node in self.nodes:
            node.stop()


SYSTEMS: Final[dict[str, Callable[[Path], System]]] = {
    "dizzyd": Dizzyd,
    "rsync": Rsync,
    "unison": Unison,
    "syncthing": Syncthing,
}


def is_installed(name: str) -> bool:
    """Tell whether a system can be measured here."""
    return name == "dizzyd" or shutil.which(name) is not None


@contextmanager
def running(name: str, base: Path) -> Iterator[System]:
    """Prepare a system, and end all of it after use. It is not started yet."""
    with ExitStack() as stack:
        system = SYSTEMS[name](base)
        stack.callback(system.close)
        yield system


def now_s() -> float:
    """Give the clock by which everything is measured."""
    return time.perf_counter()
