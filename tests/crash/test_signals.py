"""Stop nodes in every phase, for good or for a while."""

from __future__ import annotations

import resource
import signal
import time

import pytest

from tests.e2e.nodes import IS_FULL, STOP_LIMIT_S, Node, Nodes, agree, eventually, sized, start_all
from tests.e2e.trees import contents, fill, noise, write_files

STOPPED_S = sized(3, 60)
MANY = sized(800, 10_000)
PHASES = ("imports", "receives", "joins")
MORE_PHASES = ("starts", "applies", "sends", "rests")


@pytest.mark.parametrize("phase", PHASES + (MORE_PHASES if IS_FULL else ()))
def test_F3_sigterm_in_any_phase_ends_it_within_ten_seconds(nodes: Nodes, phase: str) -> None:
    node, other = nodes.add("node"), nodes.add("other")
    if phase == "starts":
        node.begin()
        time.sleep(0.5)
        assert node.process is not None
        node.process.send_signal(signal.SIGTERM)
        # before it has taken its signals over, the kernel ends it
        assert node.process.wait(STOP_LIMIT_S) in {0, -signal.SIGTERM}
        node.process = None
        node.start()
        node.stop()
        return
    start_all(node, other)
    nodes.share(node)
    if phase == "joins":
        invite = node.must("invite", "shared")
        node.stop()
        assert other.dizzyd("join", invite, str(other.folder)).code == 75
        other.stop()
        return
    nodes.join(node, other)
    source = {"imports": node, "sends": node, "applies": other, "receives": other}.get(phase)
    if source is not None:
        if phase in {"sends", "receives"}:
            (source.folder / "large").write_bytes(noise(30_000_000, seed=1))
        else:
            fill(source.folder, MANY, seed=2)
        time.sleep(0.3)

    node.stop()  # within STOP_LIMIT_S, exit code 0

    node.start()
    agree(node, other, within_s=60)
    if source is not None:
        assert contents(node.folder) == contents(source.folder)


def test_F4_a_node_that_was_stopped_goes_on(nodes: Nodes) -> None:
    node, other = nodes.add("node"), nodes.add("other")
    start_all(node, other)
    nodes.share(node)
    nodes.join(node, other)
    assert node.process is not None
    fill(other.folder, 200, seed=3)
    node.process.send_signal(signal.SIGSTOP)
    time.sleep(STOPPED_S)
    write_files(node.folder, {"meanwhile/here": b"here"})
    write_files(other.folder, {"meanwhile/there": b"there"})
    (other.folder / "d0000" / "f00000").unlink()

    node.process.send_signal(signal.SIGCONT)

    tree = agree(node, other, within_s=60)
    assert {"meanwhile/here", "meanwhile/there"} <= tree.keys()
    assert not [name for name in tree if "conflict" in name]


def _limit(node: Node, limit_bytes: int) -> None:
    assert node.process is not None
    resource.prlimit(node.process.pid, resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def test_F5_a_node_that_runs_out_of_memory_loses_nothing(nodes: Nodes) -> None:
    """The kernel kills without a word, which is F1; here it refuses, which is worse."""
    node, other = nodes.add("node"), nodes.add("other")
    start_all(node, other)
    nodes.share(node)
    nodes.join(node, other)
    _limit(node, 24 << 20)
    fill(node.folder, MANY, seed=4)
    (other.folder / "large").write_bytes(noise(20_000_000, seed=5))
    time.sleep(1.0)

    if node.process is not None and node.process.poll() is None:
        node.kill()
    node.process = None
    node.log.write_text("")  # that it says much where there is no memory is no fault
    node.start()

    agree(node, other, within_s=60)
    assert len(contents(other.folder)) == MANY + 1
    eventually("all is well", lambda: node.dizzyd("verify").code == 0)
