"""Speak with systemd: tell it how the daemon is, and install the daemon's unit.

sd_notify is one datagram (man 3 sd_notify); outside systemd it does nothing. The units are those
of systemd/, with the place of the installed program filled in.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.replacing import replace_file
from store.errors import DizzyError

if TYPE_CHECKING:
    from collections.abc import Mapping

USER_UNIT = "dizzyd.service"
SYSTEM_UNIT = "dizzyd@.service"
SYSTEM_UNITS = Path("/etc/systemd/system")
_SYSTEMCTL_TIMEOUT_S = 60
_HARMLESS_WORDS = ("Created symlink", "Removed ")  # what enable says before anything fails
_PRIVATE = ("/tmp", "/var/tmp")  # noqa: S108 - PrivateTmp= mounts others there
_MOUNT_FIELDS = 6  # id, parent, device, root, mount point, options; then optional ones
# Below these a system unit sees an empty directory (ProtectHome=tmpfs).
_HIDDEN_FROM_SYSTEM = ("/home", "/root", "/run/user")


class Notifier:
    """Tells the service manager how the daemon is; silent where there is none."""

    def __init__(self, environment: Mapping[str, str], pid: int) -> None:
        """Read NOTIFY_SOCKET and WATCHDOG_USEC as the service manager set them."""
        self._address = _socket_address(environment.get("NOTIFY_SOCKET", ""))
        self.watchdog_s = _watchdog_s(environment, pid) if self._address else None

    def ready(self, status: str = "") -> None:
        """Say that start-up is over."""
        self._send("READY=1", *([f"STATUS={_one_line(status)}"] if status else []))

    def status(self, text: str) -> None:
        """Show a line in `systemctl status`."""
        self._send(f"STATUS={_one_line(text)}")

    def reloading(self, monotonic_us: int) -> None:
        """Say that the configuration is being read anew; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={monotonic_us}")

    def stopping(self) -> None:
        """Say that the daemon is ending."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Feed the watchdog; call it from a main loop that is well, every `watchdog_s` / 2."""
        if self.watchdog_s is not None:
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.setblocking(False)  # noqa: FBT003 - its only parameter
            connection.sendto("\n".join(lines).encode(), self._address)


def _socket_address(text: str) -> str | None:
    if not text.startswith(("/", "@")):
        return None
    return f"\0{text[1:]}" if text.startswith("@") else text


def _watchdog_s(environment: Mapping[str, str], pid: int) -> float | None:
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    with suppress(ValueError):
        period_us = int(environment.get("WATCHDOG_USEC", "0"))
        return period_us / 1e6 if period_us > 0 else None
    return None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def unit_template(name: str) -> str:
    """Read a unit as it lies in the source tree, or beside this module where installed."""
    for directory in (
        Path(__file__).parent / "units",
        Path(__file__).parent.parent / "systemd",
    ):
        with suppress(OSError):
            return (directory / name).read_text("utf-8")
    raise DizzyError(f"unit {name}", "is missing from this installation")


def fill_unit(template: str, command: tuple[str, ...], roots: tuple[str, ...]) -> str:
    """Put the command line of the daemon and the roots of its program into a unit.

    Under a system unit roots in hidden places are bound back, read-only.
    """
    run = " ".join(_quote(part).replace("$", "$$") for part in (*command, "run"))
    text = re.sub(r"(?m)^ExecStart=.*$", lambda _: f"ExecStart={run}", template)
    wanted = [root for root in roots if not root.startswith(("/usr/", "/lib", "/bin"))]
    lines = [f"ExecPaths={_quote(root)}" for root in wanted]
    if re.search(r"(?m)^ProtectHome=tmpfs$", template):
        hidden = [root for root in wanted if _is_hidden(root)]
        lines += [f"BindReadOnlyPaths={_quote(root)}" for root in hidden]
    extra = "".join(f"{line}\n" for line in lines)
    return re.sub(r"(?m)^ExecPaths=.*\n", lambda match: match[0] + extra, text)


def _is_hidden(path: str) -> bool:
    return any(path == top or path.startswith(f"{top}/") for top in _HIDDEN_FROM_SYSTEM)


def _quote(text: str) -> str:
    """Write a word as a unit file wants it: % doubled, odd characters in quotes.

    In a command line $ is to be doubled too; in a path it stands for itself.
    """
    if any(ord(letter) < 0x20 for letter in text):  # noqa: PLR2004 - control characters
        raise DizzyError(f"path {text!a}", "cannot stand in a unit file")
    text = text.replace("\\", "\\\\").replace("%", "%%").replace('"', '\\"')
    return f'"{text}"' if re.search(r"[\s'\"\\;]", text) else text


@dataclass(frozen=True, slots=True)
class Unit:
    """The unit that this process runs in; `name` as systemd writes it."""

    name: str
    is_system: bool

    def allow(self, path: str) -> str:
        """Give the shell command that lets the unit write a folder: a drop-in and a restart.

        A bound path must exist when the unit starts, so it is made first.
        """
        sudo, scope = ("sudo ", "") if self.is_system else ("", " --user")
        key = "BindPaths" if self.is_system else "ReadWritePaths"
        base = str(SYSTEM_UNITS) if self.is_system else "~/.config/systemd/user"
        file = re.sub(r"[^A-Za-z0-9._-]", "-", path.strip("/")) + ".conf"
        line = shlex.quote(f"{key}={_quote(path)}")
        unit = shlex.quote(self.name)
        return (
            f"mkdir -p {shlex.quote(path)} && printf '%s\\n' '[Service]' {line}"
            f" | {sudo}install -D -m 644 /dev/stdin {base}/{unit}.d/{file}"
            f" && {sudo}systemctl{scope} daemon-reload && {sudo}systemctl{scope} restart {unit}"
        )

    def refusal(self, path: str) -> str | None:
        """Give `allow` for a path that the unit's sandbox hides or forbids, None for others."""
        try:
            mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
        except OSError:
            return None
        return self.allow(path) if is_out_of_reach(path, mounts) else None


def is_out_of_reach(path: str, mountinfo: str) -> bool:
    """Whether a sandbox keeps a path from us, by the lines of /proc/PID/mountinfo.

    It is on what is mounted read-only, or on what is not the machine's own: an empty tmpfs over
    /home, a private /tmp. What would be written there is gone when the unit stops.
    """
    best, is_forbidden = "", False
    for line in mountinfo.splitlines():
        mounted, _, source = line.partition(" - ")
        fields, kind = mounted.split(" "), source.split(" ")[0]
        if len(fields) < _MOUNT_FIELDS:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        is_above = path == point or path.startswith(point.rstrip("/") + "/")
        if is_above and len(point) >= len(best):  # of several at one point the last is on top
            options = fields[5].split(",")
            best = point
            is_forbidden = "ro" in options or kind == "tmpfs" or point in _PRIVATE
    return is_forbidden


def running_unit() -> Unit | None:
    """Tell which of our units this process runs in, if any."""
    try:
        text = Path("/proc/self/cgroup").read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return unit_of(text)


def unit_of(cgroups: str) -> Unit | None:
    """Find our unit in /proc/PID/cgroup: lines of number, controllers, path."""
    for line in cgroups.splitlines():
        path = line.split(":", 2)[-1]
        matched = re.search(r"/(dizzyd(@[^/]+)?\.service)(/|$)", path)
        if matched:
            return Unit(matched[1], is_system=not re.search(r"/user@\d+\.service/", path))
    return None


def _program() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Find how to start this very installation, and the directories that its code lies in."""
    script = Path(sys.executable).parent / "dizzyd"
    command = (str(script),) if os.access(script, os.X_OK) else (sys.executable, "-m", "daemon")
    interpreter = os.path.realpath(sys.executable)
    source = str(Path(__file__).resolve().parent.parent)
    roots = {sys.prefix, sys.base_prefix, str(Path(interpreter).parent.parent), source}
    return command, tuple(sorted(roots - {"/", "/usr"}))


def install_user_unit() -> list[str]:
    """Write and enable the unit of this user; returns what to tell them."""
    if os.geteuid() == 0 and os.environ.get("SUDO_USER"):
        raise DizzyError(
            "service install",
            "under sudo this would be root's own service",
            hint="without sudo for your own, or `sudo dizzyd service install --system`",
        )
    from daemon.home import user_directory

    base = os.environ.get("XDG_CONFIG_HOME") or f"{user_directory(os.environ)}/.config"
    unit = Path(base) / "systemd" / "user" / USER_UNIT
    _write_unit(unit, fill_unit(unit_template(USER_UNIT), *_program()))
    told = [f"wrote {unit}"]
    told += _systemctl("--user", "daemon-reload")
    told += _systemctl("--user", "enable", "--now", USER_UNIT)
    user = pwd.getpwuid(os.getuid()).pw_name
    told.append(f"to run also while you are logged out: loginctl enable-linger {user}")
    return told


def install_system_unit() -> list[str]:
    """Write and enable the system's unit for the user who called sudo; returns what to tell."""
    if os.geteuid() != 0:
        raise DizzyError(
            "service install", "--system needs root", hint="sudo dizzyd service install --system"
        )
    user = os.environ.get("SUDO_USER", "")
    if not user or user == "root":
        raise DizzyError(
            "service install",
            "it is not known for which user",
            hint="call it by sudo from the account whose files are to be shared",
        )
    unit = SYSTEM_UNITS / SYSTEM_UNIT
    _write_unit(unit, fill_unit(unit_template(SYSTEM_UNIT), *_program()))
    instance = SYSTEM_UNIT.replace("@", f"@{user}")
    told = [f"wrote {unit}"]
    told += _systemctl("daemon-reload")
    told += _systemctl("enable", "--now", instance)
    told.append(
        "each shared folder needs a drop-in, for example: "
        + Unit(instance, is_system=True).allow(str(Path(pwd.getpwnam(user).pw_dir) / "Photos"))
    )
    return told


def _write_unit(unit: Path, text: str) -> None:
    try:
        unit.parent.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise DizzyError(f"write {unit}", cause.strerror or str(cause)) from cause
    replace_file(unit, text.encode(), mode=0o644)


def _systemctl(*arguments: str) -> list[str]:
    """Run systemctl. Raises DizzyError with what it said; the unit stays written."""
    program = shutil.which("systemctl")
    shown = f"systemctl {' '.join(arguments)}"
    if program is None:
        raise DizzyError(shown, "there is no systemctl here", hint="the unit is written")
    try:
        done = subprocess.run(  # noqa: S603 - the program is found, the arguments are ours
            [program, *arguments],
            capture_output=True,
            text=True,
            timeout=_SYSTEMCTL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as cause:
        raise DizzyError(shown, "did not answer", hint="the unit is written") from cause
    if done.returncode:
        said = done.stderr.strip().splitlines()
        why = [line for line in said if not line.startswith(_HARMLESS_WORDS)] or ["failed"]
        raise DizzyError(shown, why[0], hint=f"the unit is written; run it again: {shown}")
    return [shown]
