from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess

from tests.e2e.nodes import STOP_LIMIT_S, Node, Nodes, eventually
from tests.e2e.trees import contents, write_files

FOLDER = "Dizzy"


def make_run(node: Node) -> str:
    """Do what `make run` does after installing; gives the next command that it prints."""
    node.folder = node.user_home / FOLDER
    node.start("--first-folder", str(node.folder))
    found = re.search(r"next.*?: +(.+)\n", node.greeting.read_text())
    assert found is not None, node.greeting.read_text()
    return found[1]


def agree_there(*nodes: Node) -> None:
    def is_equal() -> bool:
        roots = {node.about(FOLDER)["state_root"] for node in nodes}
        return len(roots) == 1 and all(node.tree() == nodes[0].tree() for node in nodes)

    eventually("both are equal", is_equal)


def test_four_commands_share_a_folder(nodes: Nodes) -> None:
    """README's first page: two fresh homes, no PATH given to join."""
    here, there = nodes.add("here"), nodes.add("there")

    command = make_run(here)
    made = subprocess.run(
        shlex.split(f"env {command}"),
        env={"PATH": os.defpath, "PYTHONPATH": here.environment["PYTHONPATH"]},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    make_run(there)
    write_files(here.folder, {"of here": b"1"})
    write_files(there.folder, {"of there": b"2"})
    joined = there.dizzyd("join", made.stdout.strip())

    assert joined.code == 0, joined
    agree_there(here, there)
    assert contents(there.folder) == {"of here": b"1", "of there": b"2"}
    assert [f["name"] for f in there.status()["folders"]] == [FOLDER]
    assert there.about(FOLDER)["id"] == here.about(FOLDER)["id"]
    assert there.config.read_text().count("[folders.") == 1
    assert there.dizzyd("wait").code == 0
    assert there.dizzyd("status").code == 0

    there.stop()
    make_run(there)
    (there.folder / "of here").unlink()
    agree_there(here, there)


def test_our_own_folder_with_a_member_is_not_given_up(nodes: Nodes) -> None:
    here, there, third = nodes.add("here"), nodes.add("there"), nodes.add("third")
    for node in (here, there):
        make_run(node)
    third.start()
    third.must("join", there.must("invite", FOLDER), str(third.folder))

    ended = there.dizzyd("join", here.must("invite", FOLDER))

    assert ended.code == 1
    assert "--name" in ended.err
    assert len(there.status()["folders"]) == 1


def test_make_run_goes_on_with_what_is_there(nodes: Nodes) -> None:
    here = nodes.add("here")
    make_run(here)
    identity = here.about(FOLDER)["id"]
    here.stop()

    make_run(here)

    assert here.about(FOLDER)["id"] == identity
    assert str(here.folder) in here.greeting.read_text()
    assert str(here.port) in here.greeting.read_text()


def test_a_fresh_home_takes_the_next_free_port(nodes: Nodes) -> None:
    here = nodes.add("here")
    here.config.unlink()
    here.home.rmdir()

    here.start("--first-folder", str(here.user_home / FOLDER))

    assert re.search(r'listen = \["\[::\]:\d+"\]', here.config.read_text())
    [listen] = here.status()["node"]["listen"]
    assert listen.startswith("[::]:")


def test_ctrl_c_ends_what_make_started(nodes: Nodes) -> None:
    here = nodes.add("here")
    make_run(here)
    assert here.process is not None
    process, here.process = here.process, None

    process.send_signal(signal.SIGINT)

    assert process.wait(STOP_LIMIT_S) == 0
