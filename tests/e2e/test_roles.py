from __future__ import annotations

import shutil

import pytest

from tests.e2e.nodes import Node, Nodes, agree, eventually, start_all
from tests.e2e.trees import contents, write_files

BASE = {"text": b"base", "sub/other": b"base", "away": b"base"}


@pytest.fixture
def read_only(nodes: Nodes) -> tuple[Node, Node]:
    """An owner and a reader that agree on three files."""
    owner, reader = nodes.add("owner"), nodes.add("reader")
    owner.folder.mkdir()
    write_files(owner.folder, BASE)
    start_all(owner, reader)
    nodes.share(owner)
    nodes.join(owner, reader, role="read")
    agree(owner, reader)
    return owner, reader


def change_locally(reader: Node) -> None:
    write_files(reader.folder, {"text": b"of the reader", "own": b"new"})
    (reader.folder / "away").unlink()
    eventually("it is noticed", lambda: reader.about()["local_changes"] == 3)


def test_a_readers_changes_stay_where_they_are(read_only: tuple[Node, Node]) -> None:
    owner, reader = read_only
    assert reader.about()["role"] == "read"
    before = owner.events()

    change_locally(reader)
    write_files(owner.folder, {"news": b"still arrive", "text": b"a newer one"})

    eventually("news arrive", lambda: contents(reader.folder).get("news") == b"still arrive")
    found = contents(reader.folder)
    assert (found["text"], found["own"]) == (b"of the reader", b"new")
    assert "away" not in found
    assert contents(owner.folder) == BASE | {"news": b"still arrive", "text": b"a newer one"}
    assert owner.events() == before + 2
    assert reader.about()["log"]["heads"] == owner.about()["log"]["heads"]


def test_a_reader_stays_as_it_is_over_a_restart(read_only: tuple[Node, Node]) -> None:
    owner, reader = read_only
    change_locally(reader)

    reader.stop()
    reader.start()

    eventually("it is known again", lambda: reader.about()["local_changes"] == 3)
    assert contents(reader.folder)["text"] == b"of the reader"
    assert contents(owner.folder) == BASE


def test_revert_brings_the_shared_state_back(read_only: tuple[Node, Node]) -> None:
    owner, reader = read_only
    change_locally(reader)
    write_files(owner.folder, {"text": b"a newer one"})
    eventually(
        "it is recorded", lambda: owner.about()["state_root"] == reader.about()["state_root"]
    )

    reader.must("revert", "shared")
    agree(owner, reader)

    assert contents(reader.folder) == BASE | {"text": b"a newer one"}
    assert reader.about()["local_changes"] == 0
    kept = [path for path in (reader.folder / ".dizzyd" / "history").rglob("*") if path.is_file()]
    assert {b"of the reader", b"new"} <= {path.read_bytes() for path in kept}


def test_a_reader_can_not_invite(read_only: tuple[Node, Node]) -> None:
    ended = read_only[1].dizzyd("invite", "shared")

    assert ended.code == 1
    assert ended.err.startswith("dizzyd: invite shared: this node may not give the role write\n")


def test_only_the_owner_gives_admin_and_an_admin_gives_the_rest(nodes: Nodes) -> None:
    owner, admin, writer = nodes.add("owner"), nodes.add("admin"), nodes.add("writer")
    start_all(owner, admin, writer)
    nodes.share(owner)
    nodes.join(owner, admin, role="admin")
    agree(owner, admin)
    nodes.join(admin, writer, role="write")
    agree(owner, admin, writer)

    assert writer.dizzyd("invite", "shared", "--role", "read").code == 1
    assert admin.dizzyd("invite", "shared", "--role", "admin").code == 1
    roles = {node.name: node.about()["role"] for node in (owner, admin, writer)}
    assert roles == {"owner": "owner", "admin": "admin", "writer": "write"}
    (writer.folder / "by the writer").write_bytes(b"1")
    agree(owner, admin, writer)
    assert contents(owner.folder) == {"by the writer": b"1"}


def test_a_reader_passes_on_what_it_has(nodes: Nodes) -> None:
    owner, reader, other = nodes.add("owner"), nodes.add("reader"), nodes.add("other")
    start_all(owner, reader, other)
    nodes.share(owner)
    nodes.join(owner, reader, role="read")
    nodes.join(owner, other, role="write")
    agree(owner, reader, other)

    other.stop()
    write_files(owner.folder, BASE)
    agree(owner, reader)
    owner.stop()
    other.start()
    agree(reader, other)

    assert contents(other.folder) == BASE
    shutil.rmtree(other.folder / "sub")
    agree(reader, other)
