from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from daemon import service
from daemon.config import DEFAULT_PORT
from daemon.service import (
    Notifier,
    Unit,
    fill_unit,
    install_user_unit,
    is_out_of_reach,
    unit_of,
    unit_template,
)
from daemon.setup import PORTS_TRIED
from store.errors import DizzyError

COMMAND = ("/home/u/my venv/bin/dizzyd",)


def notified(notifier_of: str, tmp_path: Path) -> tuple[socket.socket, str]:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.settimeout(5)
    path = str(tmp_path / "notify")
    address = path if notifier_of == "path" else f"@{path}"
    listening.bind(path if notifier_of == "path" else f"\0{path}")
    return listening, address


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_the_service_manager_hears_every_change(kind: str, tmp_path: Path) -> None:
    listening, address = notified(kind, tmp_path)
    with listening:
        notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "60000000"}, pid=5)

        notifier.ready("sharing\n2 folders")
        notifier.reloading(123)
        notifier.alive()
        notifier.stopping()

        assert [listening.recv(1000) for _ in range(4)] == [
            b"READY=1\nSTATUS=sharing 2 folders",
            b"RELOADING=1\nMONOTONIC_USEC=123",
            b"WATCHDOG=1",
            b"STOPPING=1",
        ]
    assert notifier.watchdog_s == 60.0


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NOTIFY_SOCKET": "relative"},
        {"NOTIFY_SOCKET": "/nowhere/at/all"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "6"},
    ],
)
def test_outside_a_service_manager_nothing_happens(environment: dict[str, str]) -> None:
    notifier = Notifier(environment, pid=5)

    notifier.ready()
    notifier.alive()
    notifier.stopping()

    assert notifier.watchdog_s is None


@pytest.mark.parametrize("name", [service.USER_UNIT, service.SYSTEM_UNIT])
def test_the_units_hold_what_hazards_ask(name: str) -> None:
    unit = unit_template(name)

    for line in (
        "Type=notify", "WatchdogSec=60", "Restart=on-failure", "RestartPreventExitStatus=2",
        "KillMode=mixed", "TimeoutStopSec=30", "UMask=0022", "NoNewPrivileges=yes",
        "ProtectSystem=strict", "LimitCORE=0", "NoExecPaths=/", "CapabilityBoundingSet=",
    ):  # fmt: skip
        assert f"\n{line}\n" in unit, line
    if name == service.SYSTEM_UNIT:
        last = DEFAULT_PORT + PORTS_TRIED - 1
        assert f"SocketBindAllow=tcp:{DEFAULT_PORT}-{last}\n" in unit


def test_a_unit_names_the_installed_program() -> None:
    text = fill_unit(unit_template(service.SYSTEM_UNIT), COMMAND, ("/home/u/my venv", "/opt/py"))

    assert '\nExecStart="/home/u/my venv/bin/dizzyd" run\n' in text
    assert '\nExecPaths="/home/u/my venv"\nExecPaths=/opt/py\n' in text
    assert '\nBindReadOnlyPaths="/home/u/my venv"\n' in text
    assert "BindReadOnlyPaths=/opt" not in text


def test_a_users_unit_binds_nothing() -> None:
    text = fill_unit(unit_template(service.USER_UNIT), COMMAND, ("/home/u/my venv",))

    assert "BindReadOnlyPaths" not in text


def test_percent_signs_and_control_characters_in_paths() -> None:
    assert "ExecStart=/a/100%%/dizzyd run" in fill_unit(
        unit_template(service.USER_UNIT), ("/a/100%/dizzyd",), ()
    )
    with pytest.raises(DizzyError, match="cannot stand in a unit file"):
        fill_unit(unit_template(service.USER_UNIT), ("/a\nExecStart=/bin/sh",), ())


@pytest.mark.parametrize(
    ("cgroup", "name", "is_system"),
    [
        ("0::/system.slice/system-dizzyd.slice/dizzyd@alice.service", "dizzyd@alice.service", True),
        (
            "12:cpu:/\n1:name=systemd:/user.slice/user@1000.service/app.slice/dizzyd.service\n0::/",
            "dizzyd.service",
            False,
        ),
        ("0::/user.slice/user-1000.slice/session-3.scope", None, None),
        ("0::/system.slice/notdizzyd.service", None, None),
        ("", None, None),
    ],
)
def test_a_daemon_knows_its_unit(cgroup: str, name: str | None, is_system: bool | None) -> None:
    unit = unit_of(cgroup)

    assert unit == (None if name is None else Unit(name, is_system=bool(is_system)))


@pytest.mark.parametrize("path", ["/srv/my photos", "/srv/100% '$HOME'", "/srv/p"])
def test_the_command_that_lets_a_unit_write_a_folder_works_when_pasted(
    path: str, tmp_path: Path
) -> None:
    """Run by a real shell, with a sudo and a systemctl that only note what they are asked."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, script in (("sudo", 'exec "$@"'), ("systemctl", f'echo "$@" >> {tmp_path}/asked')):
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    folder = f"{tmp_path}{path}"
    command = Unit("dizzyd.service", is_system=False).allow(folder)
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tmp_path)}

    subprocess.run(["/bin/sh", "-c", command], env=environment, check=True)

    [written] = (tmp_path / ".config/systemd/user/dizzyd.service.d").iterdir()
    quoted = folder.replace("%", "%%")
    shown = f'"{quoted}"' if " " in folder else quoted
    assert written.read_text() == f"[Service]\nReadWritePaths={shown}\n"
    assert Path(folder).is_dir()
    asked = (tmp_path / "asked").read_text()
    assert asked == "--user daemon-reload\n--user restart dizzyd.service\n"
    system = Unit("dizzyd@alice.service", is_system=True).allow("/srv/p")
    assert "BindPaths=/srv/p" in system
    assert "sudo install -D -m 644 /dev/stdin /etc/systemd/system/dizzyd@alice.service.d/" in system
    assert system.endswith("sudo systemctl restart dizzyd@alice.service")


def test_install_writes_and_enables_the_users_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    fake = tmp_path / "bin" / "systemctl"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SUDO_USER", raising=False)

    told = install_user_unit()

    unit = tmp_path / "config" / "systemd" / "user" / "dizzyd.service"
    assert re.search(r"^ExecStart=/\S+ .*run$", unit.read_text(), re.MULTILINE)
    assert log.read_text() == "--user daemon-reload\n--user enable --now dizzyd.service\n"
    assert told[0] == f"wrote {unit}"
    assert "loginctl enable-linger" in told[-1]


def test_a_failing_systemctl_is_an_error_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "systemctl"
    fake.write_text("#!/bin/sh\necho 'no bus here' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SUDO_USER", raising=False)

    with pytest.raises(DizzyError, match="no bus here") as caught:
        install_user_unit()

    assert caught.value.hint.startswith("the unit is written; run it again: systemctl --user")
    assert (tmp_path / "config" / "systemd" / "user" / "dizzyd.service").exists()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize(
    ("name", "file", "limit"),
    [
        (service.SYSTEM_UNIT, "dizzyd@alice.service", 1.2),
        (service.USER_UNIT, "dizzyd.service", 2.0),
    ],
)
def test_the_sandbox_is_as_tight_as_promised(
    tmp_path: Path, name: str, file: str, limit: float
) -> None:
    unit = tmp_path / file
    unit.write_text(fill_unit(unit_template(name), ("/usr/bin/dizzyd",), ("/opt/dizzyd",)))

    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    found = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= limit


MOUNTS = r"""
20 1 254:0 / / ro,relatime shared:1 - ext4 /dev/vda rw
21 20 254:0 / /var/lib/dizzyd/alice rw,nosuid - ext4 /dev/vda rw
22 20 0:40 / /home rw,nosuid - tmpfs tmpfs rw
23 22 254:0 /home/alice/Photos /home/alice/Photos rw - ext4 /dev/vda rw
24 20 254:0 /tmp/systemd-private-1/tmp /tmp rw - ext4 /dev/vda rw
25 20 254:1 / /media/my\040disk rw - ext4 /dev/vdb rw
26 25 254:1 / /media/my\040disk/old rw - ext4 /dev/vdb rw
27 25 254:1 / /media/my\040disk/old ro - ext4 /dev/vdb rw
bad line
"""


@pytest.mark.parametrize(
    ("path", "is_refused"),
    [
        ("/srv/music", True),
        ("/home/alice/Music", True),
        ("/home/alice", True),
        ("/home/alice/Photos", False),
        ("/home/alice/Photos/2026", False),
        ("/home/alice/Photos2", True),
        ("/var/lib/dizzyd/alice/x", False),
        ("/tmp/x", True),
        ("/media/my disk/a", False),
        ("/media/my disk/old/a", True),
    ],
)
def test_what_the_sandbox_hides_is_out_of_reach(path: str, is_refused: bool) -> None:
    """On the empty /home of a system unit a folder would live until the next restart."""
    assert is_out_of_reach(path, MOUNTS) is is_refused
