"""Three real nodes: the owner ends the folder, for those at hand, away, and let in by others."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.e2e.nodes import Node, Nodes, agree, eventually, start_all
from tests.e2e.trees import contents, write_files


@pytest.fixture
def three(nodes: Nodes) -> tuple[Node, Node, Node]:
    """An owner, a member that stays and one that will be away; all know each other."""
    owner, stays, away = (nodes.add(name) for name in ("owner", "stays", "away"))
    start_all(owner, stays, away)
    nodes.share(owner)
    nodes.join(owner, stays, role="admin")
    nodes.join(owner, away)
    write_files(owner.folder, {"a": b"1", "d/b": b"2"})
    agree(owner, stays, away)

    def knows_all(node: Node) -> bool:
        return [peer["connected"] for peer in node.status()["peers"]] == [True, True]

    for node in (owner, stays, away):
        eventually(f"{node.name} is connected with both", partial(knows_all, node))
    return owner, stays, away


def ended(node: Node) -> dict[str, Any]:
    """Give the one ended folder of a node that shares no other."""
    status = node.status()
    assert not status["folders"]
    [found] = status["ended"]
    assert isinstance(found, dict)
    return found


def has_ended(node: Node) -> bool:
    return not node.status()["folders"] and bool(node.status()["ended"])


def assert_rests(node: Node) -> None:
    """It says so, and nothing is wrong."""
    told = node.dizzyd("status")
    assert told.code == 0, told
    assert "its files stay" in told.out
    assert "shared" not in node.config.read_text().replace(str(node.folder), "")


def test_unshare_ends_a_folder_for_those_at_hand_and_for_those_away(
    three: tuple[Node, Node, Node],
) -> None:
    owner, stays, away = three
    away.stop()
    write_files(away.folder, {"mine": b"written while away", "a": b"edited while away"})

    asked = owner.dizzyd("unshare", "shared")

    assert (asked.code, asked.out, asked.err) == (0, "", "ended for all: shared\n")
    eventually("the other one heard of it", lambda: has_ended(stays))
    eventually("the owner knows", lambda: len(ended(owner)["untold"]) == 1)
    for node in (owner, stays):
        assert_rests(node)
        assert contents(node.folder) == {"a": b"1", "d/b": b"2"}
    assert "ended by you" in owner.dizzyd("status").out
    assert "ended by its owner" in stays.dizzyd("status").out

    # the owner is gone for good: whoever was away hears of it from the other one
    owner.kill()
    stays.stop()
    write_files(stays.folder, {"later": b"nobody gets this"})
    start_all(stays, away)
    eventually("who was away heard of it", lambda: has_ended(away))
    assert_rests(away)
    assert contents(away.folder) == {
        "a": b"edited while away",
        "d/b": b"2",
        "mine": b"written while away",
    }
    eventually("and the other one knows", lambda: ended(stays)["untold"] == [])
    assert (stays.folder / ".dizzyd" / "history").is_dir()

    # the owner comes back, knows at once that all were told, and stays what it is
    owner.start()
    eventually("the owner hears that all know", lambda: ended(owner)["untold"] == [])
    eventually("and so does who was away", lambda: ended(away)["untold"] == [])
    for node in (owner, stays, away):
        node.stop()
    start_all(owner, stays, away)
    for node in (owner, stays, away):
        assert_rests(node)
        assert node.dizzyd("wait", "shared", "--timeout", "1").code == 1
        assert node.dizzyd("wait", "shared", "--timeout", "1").code == 1
        assert not any(peer["connected"] for peer in node.status()["peers"])


def test_unshare_while_stopped_is_told_after_the_start(three: tuple[Node, Node, Node]) -> None:
    owner, stays, away = three
    owner.stop()

    assert owner.dizzyd("unshare", "shared").code == 0

    assert "ended by you" in owner.dizzyd("status").out
    assert not has_ended(stays)
    owner.start()
    for node in (stays, away):
        eventually("it heard of it", partial(has_ended, node))
        assert_rests(node)
    eventually("the owner knows", lambda: ended(owner)["untold"] == [])


def test_nobody_but_the_owner_can_and_nobody_goes_on_alone(
    three: tuple[Node, Node, Node], nodes: Nodes
) -> None:
    owner, stays, away = three
    invite = stays.must("invite", "shared")
    refused = stays.dizzyd("unshare", "shared")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("dizzyd: unshare shared: only its owner can\nhint: ")
    old = owner.about()["id"]

    owner.must("unshare", "shared")
    for node in (stays, away):
        eventually("it heard of it", partial(has_ended, node))

    again = owner.dizzyd("unshare", "shared")
    assert again.code == 1
    assert "has ended already" in again.err
    stranger = nodes.add("stranger")
    stranger.start()
    assert stranger.dizzyd("join", invite).code != 0
    assert not stranger.status()["folders"]
    back = away.dizzyd("join", invite)
    assert (back.code, "its owner has ended this folder" in back.err) == (1, True)

    # forgotten by its name; the path can be shared anew, as another folder with the same files
    stays.must("leave", "shared")
    assert not stays.status()["ended"]
    fresh = away.must("share", str(away.folder))
    assert fresh != old
    eventually("its files are in it", lambda: away.about()["files"] == 2)
    assert away.dizzyd("status").code == 0
    nodes.join(away, stays)
    with stays.recording():
        write_files(stays.folder, {"new": b"3"})
    assert agree(away, stays)
    assert contents(away.folder) == {"a": b"1", "d/b": b"2", "new": b"3"}
    assert away.dizzyd("leave", fresh[:8]).code == 0
    assert [one["id"] for one in away.status()["ended"]] == [old]
