from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LOCKS = ("requirements.txt", "requirements-dev.txt")


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_requirement_has_hashes_and_no_place(name: str) -> None:
    text = (ROOT / name).read_text()
    requirements = re.findall(
        r"(?m)^(\S+)==\S+ \\\n((?:    --hash=sha256:[0-9a-f]{64}.*\n)+)", text
    )

    named = re.findall(r"(?m)^[a-z]\S*==", text)
    assert len(requirements) == len(named) > 20
    assert not re.search(r"://|(?m:^-)|file:|--(index|find|trusted|extra)", text)
    assert not re.search(r"(^|\s)/\w", text)


def test_the_locks_hold_everything_that_is_asked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = project["project"]["dependencies"]
    asked_dev = project["project"]["optional-dependencies"]["dev"]
    build = project["build-system"]["requires"]

    for name, wanted in ((LOCKS[0], asked + build), (LOCKS[1], asked + asked_dev)):
        locked = set(re.findall(r"(?m)^([a-z0-9-]+)==", (ROOT / name).read_text()))
        names = {re.split(r"[<>=]", requirement)[0].lower() for requirement in wanted}
        assert names <= locked


def test_both_locks_agree() -> None:
    run, dev = (
        dict(re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", (ROOT / name).read_text())) for name in LOCKS
    )

    shared = run.keys() & dev.keys()
    assert len(shared) > 15
    assert {name: run[name] for name in shared} == {name: dev[name] for name in shared}


def test_no_code_lies_beside_the_units() -> None:
    assert {path.suffix for path in (ROOT / "systemd").iterdir()} == {".service"}


def test_the_command_and_the_module_are_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert project["scripts"] == {"dizzyd": "daemon.cli:main"}
    assert "from daemon.cli import main" in (ROOT / "daemon" / "__main__.py").read_text()


CHECKS = ("test", "tests", "sim", "crash", "powercut", "sweep", "mutants", "soak", "bench")


@pytest.mark.parametrize("target", CHECKS)
def test_no_check_of_make_sees_the_real_home(target: str) -> None:
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "--directory", str(ROOT), target],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    command = done.stdout.replace("\\\n", "")
    (line,) = [line for line in command.splitlines() if line.startswith("home=$(mktemp -d)")]

    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "DIZZYD_HOME", "XDG_RUNTIME_DIR"):
        assert re.search(rf'\b{name}="\$home', line), name


def test_no_recipe_of_the_makefile_runs_a_word_that_it_only_quotes() -> None:
    recipes = [x for x in (ROOT / "Makefile").read_text().splitlines() if x.startswith("\t")]

    assert recipes
    assert not [line for line in recipes if "`" in line]
