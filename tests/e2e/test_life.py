from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time

import pytest

from tests.e2e.nodes import STOP_LIMIT_S, Node, Nodes, Pair, agree, eventually, start_all
from tests.e2e.trees import contents, fill, standing, write_files


@pytest.fixture
def alone(nodes: Nodes) -> Node:
    """A node that runs and shares a few files."""
    node = nodes.add("alone")
    node.folder.mkdir()
    fill(node.folder, 300, seed=19)
    node.start()
    nodes.share(node)
    eventually("it imports", lambda: node.about()["files"] == 300)
    eventually("it rests", lambda: node.about()["state"] == "idle")
    return node


# -- starting and stopping -------------------------------------------------------------------------


def test_a_restart_over_an_unchanged_tree_makes_no_event(pair: Pair) -> None:
    fill(pair.left.folder, 300, seed=20)
    (pair.left.folder / "link").symlink_to("d0000")
    (pair.left.folder / "empty").mkdir()
    pair.agree()
    before = [(node.events(), standing(node.folder)) for node in (pair.left, pair.right)]

    for node in (pair.left, pair.right):
        node.stop()
    start_all(pair.left, pair.right)
    pair.agree()
    for node in (pair.left, pair.right):
        node.must("scan", "shared")
    pair.agree()

    assert [(node.events(), standing(node.folder)) for node in (pair.left, pair.right)] == before


def test_sigterm_ends_it_at_once_while_it_works(nodes: Nodes) -> None:
    node = nodes.add("busy")
    node.folder.mkdir()
    fill(node.folder, 3000, seed=21)
    node.start()
    nodes.share(node)

    began_s = time.monotonic()
    node.stop()  # holds it to exit code 0

    assert time.monotonic() - began_s < STOP_LIMIT_S
    assert not (node.home / "control.sock").exists()
    node.start()
    eventually("it goes on", lambda: node.about()["files"] == 3000)


def test_sigterm_while_a_peer_is_connected_and_stalled(pair: Pair) -> None:
    assert pair.left.relay is not None
    assert pair.right.relay is not None
    pair.left.relay.stall()
    pair.right.relay.stall()
    (pair.left.folder / "news").write_bytes(os.urandom(2_000_000))

    pair.left.stop()

    pair.mend()
    pair.left.start()
    pair.agree()


def test_sigint_ends_it_cleanly(alone: Node) -> None:
    assert alone.process is not None
    process, alone.process = alone.process, None

    process.send_signal(signal.SIGINT)

    assert process.wait(STOP_LIMIT_S) == 0


def test_a_second_run_is_refused_within_a_second(alone: Node) -> None:
    began_s = time.monotonic()
    ended = alone.dizzyd("run")
    took_s = time.monotonic() - began_s

    assert ended.code == 1
    assert ended.err.count("\n") == 2
    assert "already" in ended.err or "running" in ended.err
    assert took_s < 1
    assert alone.process is not None
    assert alone.status()["node"]["pid"] == alone.process.pid


def test_a_busy_port_is_named(nodes: Nodes, alone: Node) -> None:
    other = nodes.add("other")
    other.config.write_text(f'[node]\nlisten = ["127.0.0.1:{alone.port}"]\n')

    ended = other.dizzyd("run")

    assert ended.code == 1
    assert f"127.0.0.1:{alone.port}" in ended.err
    assert "Traceback" not in ended.err


def test_the_home_is_for_its_user_alone(alone: Node) -> None:
    found = [alone.home, *alone.home.rglob("*")]

    assert {stat.S_IMODE(path.stat().st_mode) for path in found if path.is_dir()} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in found if not path.is_dir()} == {0o600}


def test_a_socket_and_a_pipe_are_named_and_skipped(alone: Node) -> None:
    os.mkfifo(alone.folder / "pipe")
    write_files(alone.folder, {"beside": b"1"})

    eventually("what is beside is taken", lambda: alone.about()["files"] == 301)

    status = alone.dizzyd("status")
    assert status.code == 0, status


# -- the configuration -----------------------------------------------------------------------------


def test_sighup_takes_a_new_configuration(alone: Node) -> None:
    assert alone.process is not None
    text = alone.config.read_text()
    alone.config.write_text(text.replace('name = "alone"', 'name = "renamed"'))

    alone.process.send_signal(signal.SIGHUP)

    eventually("the new name shows", lambda: alone.status()["node"]["name"] == "renamed")


def test_sighup_with_a_bad_configuration_keeps_the_old_one(alone: Node) -> None:
    assert alone.process is not None
    text = alone.config.read_text()
    alone.config.write_text(text.replace("listen =", "lisen ="))

    alone.process.send_signal(signal.SIGHUP)

    eventually("status says so", lambda: alone.dizzyd("status").code == 4)
    [problem] = alone.status()["node"]["problems"]
    assert "lisen" in problem["problem"]
    assert "listen" in problem["hint"] + problem["problem"]
    assert alone.about()["state"] == "idle"
    alone.config.write_text(text)
    alone.process.send_signal(signal.SIGHUP)
    eventually("it is healthy again", lambda: alone.dizzyd("status").code == 0)


def test_sighup_takes_how_a_folder_writes_and_what_it_ignores(pair: Pair) -> None:
    left, right = pair.left, pair.right
    assert right.process is not None
    text = right.config.read_text()
    keys = 'umask = "077"\nignore_editor_files = false\n'
    right.config.write_text(text.replace("[folders.shared]\n", f"[folders.shared]\n{keys}"))

    right.process.send_signal(signal.SIGHUP)
    write_files(right.folder, {".#lock": b"of an editor"})
    eventually("it is shared", (left.folder / ".#lock").exists)
    write_files(left.folder, {"later": b"1"})
    pair.agree()

    assert stat.S_IMODE((right.folder / "later").stat().st_mode) == 0o600
    assert right.dizzyd("status").code == 0


def test_sighup_says_that_listen_waits_for_a_start(alone: Node) -> None:
    assert alone.process is not None
    text = alone.config.read_text()
    alone.config.write_text(text.replace('listen = ["', 'listen = ["127.0.0.1:0", "'))

    alone.process.send_signal(signal.SIGHUP)

    eventually("status says so", lambda: alone.dizzyd("status").code == 4)
    [problem] = alone.status()["node"]["problems"]
    assert problem["problem"] == "listen: takes effect at the next start"
    alone.config.write_text(text)
    alone.process.send_signal(signal.SIGHUP)
    eventually("it is healthy again", lambda: alone.dizzyd("status").code == 0)


# -- roots that vanish -----------------------------------------------------------------------------


def test_a_root_that_vanishes_deletes_nothing(pair: Pair) -> None:
    write_files(pair.left.folder, {"kept/one": b"1", "kept/two": b"2"})
    tree = pair.agree()
    aside = pair.left.user_home / "aside"

    pair.left.folder.rename(aside)
    eventually("it is faulty", lambda: pair.left.about()["state"] == "faulty")
    assert pair.left.dizzyd("status").code == 4
    assert pair.right.tree() == tree
    aside.rename(pair.left.folder)

    assert pair.agree() == tree
    write_files(pair.left.folder, {"kept/three": b"3"})
    pair.agree()


def test_a_mass_deletion_while_stopped_is_held(pair: Pair) -> None:
    fill(pair.left.folder / "mass", 400, seed=22)
    pair.agree()
    pair.left.stop()
    shutil.rmtree(pair.left.folder / "mass")
    write_files(pair.left.folder, {"new": b"new"})

    pair.left.start()
    eventually("it is held", lambda: pair.left.about()["state"] == "held")
    eventually("the rest goes on", (pair.right.folder / "new").exists)
    assert len(contents(pair.right.folder / "mass")) == 400
    assert pair.left.about()["held_deletions"] > 400

    pair.left.must("undo-deletions", "shared")
    pair.agree()
    assert len(contents(pair.left.folder / "mass")) == 400

    pair.left.stop()
    shutil.rmtree(pair.left.folder / "mass")
    pair.left.start()
    eventually("it is held again", lambda: pair.left.about()["state"] == "held")
    pair.left.must("confirm", "shared")
    pair.agree()
    assert not (pair.right.folder / "mass").exists()


def test_a_folder_that_another_daemon_holds_is_refused(nodes: Nodes, alone: Node) -> None:
    other = nodes.add("other")
    other.start()

    ended = other.dizzyd("share", str(alone.folder))

    assert ended.code == 1
    assert ended.err.count("\n") == 2
    assert alone.about()["state"] == "idle"


# -- what the commands print -----------------------------------------------------------------------


def test_status_for_people_and_machines(pair: Pair) -> None:
    pair.agree()

    people = pair.left.dizzyd("status")
    machines = pair.left.status()

    assert people.code == 0
    assert re.match(r"left +healthy, up \d+", people.out)
    assert "~/shared" in people.out
    assert "in sync" in people.out
    [peer] = machines["peers"]
    assert (peer["name"], peer["connected"]) == ("right", True)
    assert peer["rtt_ms"] >= 0
    [folder] = machines["folders"]
    [member] = folder["peers"]
    assert (member["agent"], member["in_sync"]) == (peer["agent"], True)
    assert (member["behind"]["events"], member["behind"]["bytes"]) == (0, 0)
    plain = [path for path in pair.left.folder.rglob("*") if ".dizzyd" not in path.parts]
    sizes = [path.lstat().st_size for path in plain if path.is_symlink() or path.is_file()]
    assert (folder["files"], folder["bytes"]) == (len(sizes), sum(sizes))


def test_commands_work_while_stopped(pair: Pair) -> None:
    write_files(pair.left.folder, {"text": b"content"})
    pair.agree()
    identity, root = pair.left.must("id"), pair.left.about()["state_root"]
    pair.left.stop()

    assert pair.left.must("id") == identity
    stopped = pair.left.dizzyd("status", "--json")
    assert stopped.code == 3
    assert json.loads(stopped.out)["node"]["pid"] is None
    assert pair.left.must("cat", str(pair.left.folder / "text")) == "content"
    assert "right" in pair.left.dizzyd("peers").out
    assert pair.left.dizzyd("rebuild", "shared").code == 0
    verified = pair.left.dizzyd("verify")
    assert (verified.code, verified.out) == (0, "")
    for command in (["scan"], ["wait"], ["join", "x"], ["confirm", "shared"], ["revert", "shared"]):
        assert pair.left.dizzyd(*command).code in {2, 3}, command
    assert pair.left.dizzyd("wait").code == 3

    pair.left.start()
    pair.agree()
    assert pair.left.about()["state_root"] == root


def test_verify_and_rebuild_find_all_well(pair: Pair) -> None:
    fill(pair.left.folder, 50, seed=23)
    pair.agree()
    write_files(pair.right.folder, {"d0000/f00001": b"edited"})
    (pair.right.folder / "d0000" / "f00002").unlink()
    pair.agree()

    for node in (pair.left, pair.right):
        verified = node.dizzyd("verify", "shared")
        assert (verified.code, verified.out) == (0, ""), verified
        assert verified.err.count("\n") == 1
        root = node.about()["state_root"]
        assert node.dizzyd("rebuild").code == 0
        assert node.about()["state_root"] == root
    pair.agree()


def test_a_database_that_is_missing_is_damage(alone: Node) -> None:
    alone.stop()
    for path in alone.home.glob("database*"):
        path.rename(alone.user_home / path.name)

    ended = alone.dizzyd("verify")

    assert ended.code == 1, ended
    assert ended.out or ended.err


def test_cat_reads_old_and_new_contents(pair: Pair) -> None:
    write_files(pair.left.folder, {"text": b"first version"})
    pair.agree()
    (pair.left.folder / "text").write_bytes(b"second version")
    pair.agree()

    path = str(pair.right.folder / "text")
    assert pair.right.dizzyd("cat", path).out == "second version"
    assert pair.right.dizzyd("cat", "text", cwd=pair.right.folder).out == "second version"


def test_a_closed_stdout_is_no_traceback(alone: Node) -> None:
    for command in (["status"], ["status", "--json"], ["id"], ["peers"], ["--help"]):
        script = f'exec >&-; exec "$0" -m daemon {" ".join(command)}'
        done = subprocess.run(
            ["sh", "-c", script, sys.executable],
            env=alone.environment,
            cwd=alone.user_home,
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert b"Traceback" not in done.stderr, done.stderr
        assert done.returncode in {0, 1}


def test_a_daemon_with_closed_streams_runs(nodes: Nodes) -> None:
    node = nodes.add("quiet")
    process = subprocess.Popen(
        ["sh", "-c", 'exec <&- >&- 2>&-; exec "$0" -m daemon run', sys.executable],
        env=node.environment,
        cwd=node.user_home,
    )
    try:
        eventually("it answers", lambda: node.dizzyd("status").code == 0)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_LIMIT_S) == 0


def test_a_pipe_that_nobody_reads_does_not_stop_it(nodes: Nodes) -> None:
    node = nodes.add("unread")
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "daemon", "run"],
        env=node.environment,
        cwd=node.user_home,
        stdout=writing,
        stderr=writing,
    )
    os.close(writing)
    os.close(reading)
    try:
        eventually("it answers", lambda: node.dizzyd("status").code == 0)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_LIMIT_S) == 0


def test_names_are_escaped_before_a_terminal(nodes: Nodes) -> None:
    node = nodes.add("odd")
    odd = node.user_home / "odd \x1b[31m name"
    odd.mkdir()
    node.start()

    assert node.dizzyd("share", str(odd)).code == 2
    node.must("share", str(odd), "--name", "plain")

    assert "\x1b" not in node.dizzyd("status").out


def test_wait_without_a_peer_ends_at_its_timeout(alone: Node) -> None:
    ended = alone.dizzyd("wait", "shared", "--timeout", "0.2")

    assert ended.code == 75
    assert "no peer" in ended.err


def test_a_new_name_of_a_node_is_shown_to_its_peers(nodes: Nodes) -> None:
    one, two = nodes.add("one"), nodes.add("two")
    start_all(one, two)
    nodes.share(one)
    nodes.join(one, two)
    agree(one, two)
    two.stop()
    two.config.write_text(two.config.read_text().replace('name = "two"', 'name = "second"'))
    two.start()

    eventually("the new name shows", lambda: one.status()["peers"][0]["name"] == "second")
