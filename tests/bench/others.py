"""Run the others that dizzyd is measured beside: rsync, Unison, Syncthing, where installed.

Each is set up to be at its quickest for two directories of one machine: no discovery, no relays,
and Syncthing's watcher waits 1 s instead of 10.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from tests.bench import machine
from tests.bench.workloads import TooSlow, wait_until

_API_KEY = "bench"
_FOLDER = "bench"
_STOP_S = 20.0


class OneShot:
    """A program that is run after each change and ends when it has brought it over."""

    name = ""
    is_watching = False

    def __init__(self, base: Path) -> None:
        self.left, self.right = base / "left", base / "right"
        self._home = base / "home"
        for made in (self.left, self.right, self._home):
            made.mkdir()
        self._server: subprocess.Popen[bytes] | None = None
        self._port = machine.free_port()
        self._children_s = self._children_cpu_s()

    def _children_cpu_s(self) -> float:
        times = os.times()
        return times.children_user + times.children_system

    def _serve(self, *command: str) -> None:
        self._server = subprocess.Popen(
            command,
            env={**os.environ, "HOME": str(self._home), "UNISON": str(self._home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def listens() -> bool:
            with socket.socket() as asking:
                return asking.connect_ex(("127.0.0.1", self._port)) == 0

        wait_until(listens, f"{self.name} listens")

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command,
            env={**os.environ, "HOME": str(self._home), "UNISON": str(self._home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise TooSlow(f"{command[0]} ended with {done.returncode}: {done.stderr[-500:]!r}")

    def settle(self) -> None:
        """Nothing goes on after a run."""

    def process_ids(self) -> list[int]:
        """List the server."""
        return [] if self._server is None else machine.descendants([self._server.pid])

    def spent_cpu_s(self) -> float:
        """Count the runs that ended, and the server."""
        return self._children_cpu_s() - self._children_s + machine.cpu_s(self.process_ids())

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.terminate()
            self._server.wait()


class Rsync(OneShot):
    """rsync to its own daemon over plain TCP, one way."""

    name = "rsync"

    def start(self) -> None:
        """Start the daemon and bring over what is there."""
        config = self._home / "rsyncd.conf"
        config.write_text(
            "use chroot = no\nreverse lookup = no\n"
            f"[right]\npath = {self.right}\nread only = no\n"
            f"uid = {os.getuid()}\ngid = {os.getgid()}\n"
        )
        self._serve(
            *("rsync", "--daemon", "--no-detach", f"--port={self._port}", f"--config={config}"),
            "--address=127.0.0.1",
        )
        self.kick()

    def kick(self) -> None:
        """Run it once."""
        to = f"rsync://127.0.0.1:{self._port}/right/"
        self._run("rsync", "-a", "--modify-window=-1", "--delete", f"{self.left}/", to)


class Unison(OneShot):
    """Unison to its own socket server."""

    name = "unison"

    def start(self) -> None:
        """Start the server and bring over what is there."""
        self._serve("unison", "-socket", str(self._port), "-listen", "127.0.0.1")
        self.kick()

    def kick(self) -> None:
        """Run it once."""
        to = f"socket://127.0.0.1:{self._port}/{self.right}"
        self._run(
            "unison",
            str(self.left),
            to,
            "-batch",
            "-times",
            "-silent",
            "-auto",
            "-confirmbigdel=false",
        )


class _SyncthingNode:
    """One Syncthing with a home of its own."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder, self.home = folder, home
        self.port, self.control_port = machine.free_port(), machine.free_port()
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        made = subprocess.run(
            ["syncthing", "generate", f"--home={home}", "--no-default-folder"],
            env=self._environment,
            capture_output=True,
            check=False,
        )
        if made.returncode:
            raise TooSlow(f"syncthing generate: {made.stderr[-500:]!r}")
        device = ET.parse(home / "config.xml").getroot().find("device")
        if device is None:
            raise TooSlow("syncthing generate made no device")
        self.device = device.attrib["id"]

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "HOME": str(self.home), "STNOUPGRADE": "1", "STNORESTART": "1"}

    def configure(self, other: _SyncthingNode) -> None:
        """Know the other one, and nobody else."""
        both = "".join(
            f'<device id="{node.device}"><address>tcp://127.0.0.1:{node.port}</address></device>'
            for node in (self, other)
        )
        members = "".join(f'<device id="{node.device}"></device>' for node in (self, other))
        (self.home / "config.xml").write_text(
            f"""<configuration version="36">
<folder id="{_FOLDER}" label="{_FOLDER}" path="{self.folder}" type="sendreceive"
 rescanIntervalS="3600" fsWatcherEnabled="true" fsWatcherDelayS="1">{members}</folder>
{both}<gui enabled="true" tls="false"><address>127.0.0.1:{self.control_port}</address>
<apikey>{_API_KEY}</apikey></gui>
<options><listenAddress>tcp://127.0.0.1:{self.port}</listenAddress>
<globalAnnounceEnabled>false</globalAnnounceEnabled>
<localAnnounceEnabled>false</localAnnounceEnabled><relaysEnabled>false</relaysEnabled>
<natEnabled>false</natEnabled><urAccepted>-1</urAccepted><startBrowser>false</startBrowser>
<crashReportingEnabled>false</crashReportingEnabled><reconnectionIntervalS>1</reconnectionIntervalS>
</options></configuration>"""
        )

    def start(self) -> None:
        """Start it and return when it answers."""
        self.process = subprocess.Popen(
            ["syncthing", "serve", f"--home={self.home}", "--no-browser"],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: self.ask("system/ping") is not None, "syncthing answers", 0.05)
        wait_until(self._has_scanned, "syncthing's first scan", 0.05)

    def _has_scanned(self) -> bool:
        return self.ask(f"db/scan?folder={_FOLDER}", "POST") is not None

    def ask(self, what: str, method: str = "GET") -> dict[str, Any] | None:
        """Ask its REST API; None while it does not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.control_port, timeout=60.0)
        try:
            connection.request(method, f"/rest/{what}", headers={"X-API-Key": _API_KEY})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                return None
            found: dict[str, Any] = json.loads(body) if body.strip() else {}
        except (OSError, http.client.HTTPException):
            return None
        else:
            return found
        finally:
            connection.close()

    def holdings(self) -> tuple[int, ...] | None:
        """Count what its folder holds; None unless it rests with nothing left to fetch."""
        found = self.ask(f"db/status?folder={_FOLDER}")
        if found is None or found["state"] != "idle" or found["needTotalItems"]:
            return None
        return tuple(found[what] for what in ("localFiles", "localDirectories", "localBytes"))

    def is_connected(self, other: _SyncthingNode) -> bool:
        """Tell whether it is connected to the other one."""
        found = self.ask("system/connections")
        return found is not None and found["connections"][other.device]["connected"]

    def sees_complete(self, other: _SyncthingNode) -> bool:
        """Tell whether it believes the other one to have all."""
        found = self.ask(f"db/completion?folder={_FOLDER}&device={other.device}")
        return found is not None and found["completion"] == 100 and not found["needItems"]

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Syncthing:
    """Two Syncthings on loopback, whose watchers wait 1 s."""

    name = "syncthing"
    is_watching = True

    def __init__(self, base: Path) -> None:
        """Prepare both homes."""
        self._nodes = [
            _SyncthingNode(base / side / "shared", base / side / "home")
            for side in ("left", "right")
        ]
        first, second = self._nodes
        self.left, self.right = first.folder, second.folder
        first.configure(second)
        second.configure(first)

    def start(self) -> None:
        """Start both and wait until they know each other and rest."""
        for node in self._nodes:
            node.start()
        self.settle()

    def kick(self) -> None:
        """Do nothing: it watches."""

    def settle(self) -> None:
        """Wait until each is idle and sees the other complete."""
        wait_until(self._rests, "syncthing rests", 0.05)

    def _rests(self) -> bool:
        first, second = self._nodes
        held = first.holdings()
        return (
            held is not None
            and held == second.holdings()
            and first.is_connected(second)
            and first.sees_complete(second)
            and second.sees_complete(first)
        )

    def process_ids(self) -> list[int]:
        """List all its processes."""
        known = [node.process.pid for node in self._nodes if node.process is not None]
        return machine.descendants(known)

    def spent_cpu_s(self) -> float:
        """Sum of all."""
        return machine.cpu_s(self.process_ids())

    def close(self) -> None:
        """End both."""
        for node in self._nodes:
            node.stop()
