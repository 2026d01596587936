from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.nodes import Node, Nodes, agree, eventually, start_all
from tests.e2e.relay import free_port


@pytest.fixture
def three(nodes: Nodes) -> tuple[Node, Node, Node]:
    """An owner that shares, and two that know nobody."""
    owner, one, two = nodes.add("owner"), nodes.add("one"), nodes.add("two")
    start_all(owner, one, two)
    nodes.share(owner)
    return owner, one, two


def test_an_invite_admits_one_peer_once(three: tuple[Node, Node, Node]) -> None:
    owner, one, two = three
    invite = owner.must("invite", "shared")

    one.must("join", invite, str(one.folder))
    again = one.dizzyd("join", invite, str(one.folder))
    used = two.dizzyd("join", invite, str(two.folder))

    assert again.code == 0
    assert used.code == 1
    assert "used" in used.err
    assert "hint:" in used.err
    assert not two.folder.exists() or not list(two.folder.iterdir())
    agree(owner, one)


def test_a_place_where_nothing_can_be_made_is_refused_before_the_invite_is_used(
    three: tuple[Node, Node, Node],
) -> None:
    owner, one, two = three
    invite = owner.must("invite", "shared")

    refused = one.dizzyd("join", invite, "/etc/passwd/below")

    assert refused.code == 1
    assert refused.err.startswith("dizzyd: join shared: ")
    assert len(refused.err.splitlines()) == 2
    two.must("join", invite, str(two.folder))


def test_two_joiners_race_for_one_invite(three: tuple[Node, Node, Node]) -> None:
    owner, one, two = three
    invite = owner.must("invite", "shared")

    with ThreadPoolExecutor(2) as both:
        ended = list(
            both.map(lambda node: node.dizzyd("join", invite, str(node.folder)), (one, two))
        )

    assert sorted(e.code for e in ended) == [0, 1]
    winner = (one, two)[[e.code for e in ended].index(0)]
    agree(owner, winner)
    members = owner.dizzyd("peers", "--json").out
    assert members.count('"agent"') == 2


def test_an_invite_that_expired(three: tuple[Node, Node, Node]) -> None:
    owner, one, _two = three
    ended = owner.dizzyd("invite", "shared", "--expires", "1")
    assert ended.code == 0, ended
    invite = ended.out.strip()

    made_s = time.time()
    eventually("it expires", lambda: time.time() > made_s + 1)

    late = one.dizzyd("join", invite, str(one.folder))
    assert late.code == 1
    assert "expired" in late.err


def test_an_invite_that_is_not_whole(three: tuple[Node, Node, Node]) -> None:
    owner, one, _two = three
    invite = owner.must("invite", "shared")
    middle = len(invite) // 2
    other = "A" if invite[middle] != "A" else "B"

    for damaged in (
        invite[:middle] + other + invite[middle + 1 :],
        invite[:-5],
        invite[5:],
        invite + invite,
        "hello",
        "",
    ):
        ended = one.dizzyd("join", damaged, str(one.folder))
        assert ended.code == 2, (damaged, ended)
        assert ended.err.startswith("dizzyd: join: ")
        assert not one.folder.exists()
    one.must("join", f"  {invite[:middle]}\n {invite[middle:]}\n", str(one.folder))


def test_an_invite_made_here_or_while_stopped(three: tuple[Node, Node, Node]) -> None:
    owner, one, _two = three

    own = owner.dizzyd("join", owner.must("invite", "shared"))
    assert own.code == 1
    assert "made here" in own.err

    owner.stop()
    ended = owner.dizzyd("invite", "shared")
    assert ended.code == 0, ended
    assert owner.relay is not None
    assert owner.relay.address in ended.err
    nobody = one.dizzyd("join", ended.out.strip(), str(one.folder))
    assert nobody.code == 75
    assert owner.relay.address in nobody.err
    owner.start()
    one.must("join", ended.out.strip(), str(one.folder))
    agree(owner, one)


def test_an_invite_to_where_nobody_listens(three: tuple[Node, Node, Node]) -> None:
    owner, one, _two = three
    places = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"]
    made = owner.dizzyd("invite", "shared", "--address", places[0], "--address", places[1])

    ended = one.dizzyd("join", made.out.strip(), str(one.folder))

    assert all(place in made.err for place in places)
    assert ended.code == 75
    assert all(place in ended.err for place in places)
    assert "port" in ended.err.partition("hint: ")[2]
    assert one.status()["folders"] == []


def test_a_joiner_names_the_folder_and_the_default_place(three: tuple[Node, Node, Node]) -> None:
    owner, one, two = three

    one.must("join", owner.must("invite", "shared"))
    two.must("join", owner.must("invite", "shared"), "--name", "theirs")

    assert one.about()["path"] == str(one.user_home / "shared")
    assert two.about("theirs")["path"] == str(two.user_home / "theirs")
    taken = two.dizzyd("share", str(two.user_home / "theirs"))
    assert taken.code == 1
