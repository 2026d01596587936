"""Hold the units under a real systemd: sandbox, readiness, refusals that help, stop, restart."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.booted import PROGRAM, USER, Machine, boot, why_not
from tests.e2e.nodes import STOP_LIMIT_S, eventually

pytestmark = pytest.mark.root

HOME = f"/home/{USER}"
UNIT = f"dizzyd@{USER}.service"
STATE = f"DIZZYD_HOME=/var/lib/dizzyd/{USER}"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    missing = why_not()
    if missing:
        pytest.skip(missing)
    base: Path = tmp_path_factory.mktemp("boot")
    try:
        with boot(base) as booted:
            yield booted
    except OSError as cause:
        pytest.skip(f"no systemd boots here: {cause}")


def paste(machine: Machine, refused: str, user: str | None = None) -> None:
    """Do what a refusal says, as a person would: by a shell."""
    [hint] = re.findall(r"(?m)^hint: (.*)$", refused)
    machine.must("sh", "-c", hint.replace("sudo ", ""), user=user)


def status(machine: Machine, *variables: str) -> dict[str, Any]:
    told = machine.run("env", *variables, PROGRAM, "status", "--json", user=USER)
    assert told.returncode == 0, told
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def prepared(machine: Machine, path: str) -> None:
    machine.must("sh", "-c", f"mkdir -p '{path}' && echo 1 > '{path}/one'")
    machine.must("chown", "-R", f"{USER}:", path)


@pytest.mark.parametrize("path", [f"{HOME}/my $Photos 5%", "/srv/music"])
def test_the_system_unit_shares_what_it_is_allowed_to(machine: Machine, path: str) -> None:
    machine.must("env", f"SUDO_USER={USER}", PROGRAM, "service", "install", "--system")
    prepared(machine, path)

    refused = machine.run("env", STATE, PROGRAM, "share", path, user=USER)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"dizzyd: share {path}: the service unit may not write there")
    paste(machine, refused.stderr)
    machine.must("chown", f"{USER}:", path)
    folder = machine.must("env", STATE, PROGRAM, "share", path, user=USER)

    def one() -> dict[str, Any]:
        [found] = [one for one in status(machine, STATE)["folders"] if one["id"] == folder]
        assert isinstance(found, dict)
        return found

    eventually("it imports", lambda: one()["files"] == 1)
    assert one()["watch"] == "full"
    change = f"cd '{path}' && mkdir d && mv one d/two && ln -s two d/link"
    machine.must("sh", "-c", change, user=USER)
    eventually("it sees a change", lambda: (one()["files"], one()["directories"]) == (2, 1))
    assert one()["problems"] == []
    machine.must("env", STATE, PROGRAM, "verify", user=USER)
    owner = machine.must("stat", "-c", "%U %a", f"{path}/.dizzyd")
    assert owner == f"{USER} 700"


def test_the_system_unit_is_ready_reloads_stops_and_comes_back(machine: Machine) -> None:
    machine.must("env", f"SUDO_USER={USER}", PROGRAM, "service", "install", "--system")

    def shown(what: str) -> str:
        return machine.must("systemctl", "show", UNIT, "--value", "-p", what)

    machine.must("systemctl", "reload", UNIT)
    assert shown("ActiveState") == "active"
    assert shown("WatchdogTimestampMonotonic") != "0"
    began_s = time.monotonic()
    machine.must("systemctl", "stop", UNIT)
    assert time.monotonic() - began_s < STOP_LIMIT_S
    assert (shown("Result"), shown("ExecMainStatus")) == ("success", "0")

    machine.must("systemctl", "start", UNIT)  # returns when READY=1 came
    assert status(machine, STATE)["node"]["pid"] is not None
    machine.must("kill", "-KILL", shown("MainPID"))
    eventually("it is started again", lambda: shown("NRestarts") == "1")
    eventually("and is ready", lambda: shown("ActiveState") == "active")
    machine.must("systemctl", "disable", "--now", UNIT)


def test_the_users_unit_works_in_the_home_and_where_it_is_allowed_to(machine: Machine) -> None:
    machine.must("rm", "-rf", f"/var/lib/dizzyd/{USER}")
    machine.must("install", "-d", "-m", "700", "-o", USER, "/run/user/4711")
    machine.must("systemctl", "start", "user@4711.service")
    machine.must(PROGRAM, "service", "install", user=USER)
    inside, outside = f"{HOME}/Docs", "/media/disk/Docs 2"
    for path in (inside, outside):
        prepared(machine, path)

    machine.must(PROGRAM, "share", inside, user=USER)
    refused = machine.run(PROGRAM, "share", outside, user=USER)
    assert refused.returncode == 1
    paste(machine, refused.stderr, user=USER)
    machine.must(PROGRAM, "share", outside, user=USER)

    eventually("both import", lambda: [f["files"] for f in status(machine)["folders"]] == [1, 1])
    machine.must("systemctl", "--user", "stop", "dizzyd", user=USER)
    asked = ("systemctl", "--user", "show", "dizzyd", "--value", "-p", "Result")
    assert machine.must(*asked, user=USER) == "success"
