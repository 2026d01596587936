from __future__ import annotations

import sys
from pathlib import Path

import pytest

from daemon.greeting import greeting, program


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed dizzyd, in an environment whose path has a blank."""
    path = tmp_path / "my venv" / "bin" / "dizzyd"
    path.parent.mkdir(parents=True)
    path.touch(0o755)
    monkeypatch.setattr(sys, "executable", str(path.parent / "python"))
    return path


def test_what_to_type_is_the_absolute_path_where_the_search_path_has_another(script: Path) -> None:
    assert program({"PATH": "/usr/bin"}) == f"'{script}'"


def test_what_to_type_is_the_name_alone_where_that_finds_this_installation(script: Path) -> None:
    assert program({"PATH": f"/nowhere:{script.parent}"}) == "dizzyd"


def test_what_to_type_selects_the_same_node(script: Path) -> None:
    environment = {"PATH": str(script.parent), "DIZZYD_HOME": "/srv/my node"}

    assert program(environment) == "DIZZYD_HOME='/srv/my node' dizzyd"


def test_a_checkout_without_a_script_is_called_as_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    assert program({"PATH": ""}) == f"{tmp_path}/python -m daemon"


def test_the_greeting_has_folder_listen_address_and_the_next_command(script: Path) -> None:
    text = greeting(
        [("my photos", "/home/u/Pho\x1btos")], ["[::]:7499"], {"PATH": str(script.parent)}
    )

    assert text == (
        "sharing my photos: /home/u/Pho\\x1btos\n"
        "listening on [::]:7499\n"
        "next, in another terminal: dizzyd invite 'my photos'\n"
    )


def test_without_a_folder_the_next_command_is_share(script: Path) -> None:
    text = greeting([], [], {"PATH": str(script.parent)})

    assert text == "not listening\nnext, in another terminal: dizzyd share PATH\n"
