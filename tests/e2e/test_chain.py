from __future__ import annotations

from tests.e2e.nodes import Node, Nodes, agree, eventually, start_all
from tests.e2e.trees import contents, fill, noise, write_files


def make_chain(nodes: Nodes) -> tuple[Node, Node, Node]:
    """Three nodes, of which nobody can call the ends: all that they say goes by the middle."""
    first, middle, last = nodes.add("first"), nodes.add("middle"), nodes.add("last")
    start_all(first, middle, last)
    nodes.share(first)
    nodes.join(first, middle, role="admin")
    agree(first, middle)
    assert first.relay is not None
    assert last.relay is not None
    first.relay.cut()
    last.relay.cut()
    nodes.join(middle, last)
    agree(first, middle, last)
    return first, middle, last


def connections(node: Node) -> set[str]:
    return {peer["name"] for peer in node.status()["peers"] if peer["connected"]}


def test_a_change_goes_from_end_to_end(nodes: Nodes) -> None:
    first, middle, last = make_chain(nodes)
    assert (connections(first), connections(last)) == ({"middle"}, {"middle"})

    write_files(first.folder, {"small": b"1", "large": noise(3_000_000, seed=8)})
    agree(first, middle, last)
    (last.folder / "small").write_bytes(b"of the last")
    (last.folder / "large").rename(last.folder / "renamed")
    agree(first, middle, last)

    assert contents(first.folder).keys() == {"small", "renamed"}
    assert (connections(first), connections(last)) == ({"middle"}, {"middle"})


def test_a_change_arrives_when_its_author_is_gone(nodes: Nodes) -> None:
    first, middle, last = make_chain(nodes)
    last.stop()

    fill(first.folder, 150, seed=9)
    write_files(first.folder, {"large": noise(3_000_000, seed=10)})
    agree(first, middle)
    first.stop()
    last.start()
    agree(middle, last)

    assert len(contents(last.folder)) == 151
    first.start()
    agree(first, middle, last)


def test_the_ends_connect_when_the_middle_is_gone(nodes: Nodes) -> None:
    first, middle, last = make_chain(nodes)
    middle.stop()
    (first.folder / "news").write_bytes(b"of the first")
    for end in (first, last):
        assert end.relay is not None
        end.relay.open()

    agree(first, last)

    assert (last.folder / "news").read_bytes() == b"of the first"
    eventually("they are connected", lambda: connections(first) == {"last"})
    (last.folder / "answer").write_bytes(b"of the last")
    agree(first, last)
    middle.start()
    agree(first, middle, last)
