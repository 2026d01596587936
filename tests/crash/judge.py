"""Judge what is left after crashes: trees, logs and databases of nodes that shared a folder.

What must hold (docs/threats.md, F): a version once recorded is never followed by an older one, by
whoever; only its user's node ever says anything about a file; nothing that stands under a
synchronised name is torn; no batch that a node ever counted is missing; databases are whole.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from msgspec import Struct

from store import codec, events
from store.ids import FolderId, Kind, ObjectId, object_id
from tests.crash.users import User, version_in
from tests.e2e.nodes import Node
from tests.e2e.trees import read_tree


class Said(Struct, frozen=True):
    """One event about one object, and who said it where in which log."""

    agent: str
    batch: bytes
    object: bytes
    event: events.ObjectEvent


def batches_of(home: Path) -> set[str]:
    """Give the ids of all batches in a node's log."""
    with closing(_opened(home)) as database:
        return {row[0].hex() for row in database.execute("SELECT id FROM batch")}


def said_in(home: Path) -> list[Said]:
    """Read every event about an object, in order of the logs."""
    said = []
    with closing(_opened(home)) as database:
        rows = database.execute("SELECT id, header, body FROM batch ORDER BY lamport, id")
        for batch, encoded, body in rows.fetchall():
            header = codec.decode_header(encoded)
            for encoded_event in codec.split_events(body, header.count):
                event = events.decode(encoded_event)
                if isinstance(event, events.ObjectEvent):
                    of = _object_of(FolderId(header.folder), event)
                    said.append(Said(header.agent.hex(), batch, of, event))
    return said


def _opened(home: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{home / 'database'}?mode=ro", uri=True)


def _object_of(folder: FolderId, event: events.ObjectEvent) -> bytes:
    if isinstance(event, events.ObjectCreated):
        parent, kind = ObjectId(event.parent), Kind(event.kind)
        return object_id(folder, parent, kind, event.generation, event.name)
    return event.object


def check_database(home: Path) -> None:
    """See that SQLite finds the database whole; the daemon does not run."""
    with closing(_opened(home)) as database:
        found = database.execute("PRAGMA integrity_check").fetchall()
    assert found == [("ok",)], found


def check_logs(at: Node, users: Mapping[str, User]) -> int:
    """Check what the log at a node says of the users' files; `users` by agent. Gives events."""
    by_name = {user.name: agent for agent, user in users.items()}
    versions = {hash_: v for user in users.values() for hash_, v in user.versions.items()}
    latest: dict[tuple[str, int], int] = {}
    places: dict[bytes, tuple[str, int]] = {}
    names: dict[tuple[str, int], tuple[bytes, bytes]] = {}
    said = said_in(at.home)
    for one in said:
        event = one.event
        content = getattr(event, "content", None)
        if isinstance(content, events.Content):
            version = versions.get(content.hash)
            if version is None:
                continue  # torn by its own user; that it is nowhere in the end is seen in trees
            file = (version.user, version.number)
            assert by_name[version.user] == one.agent, f"said by another than {version}: {event}"
            before = latest.get(file, 0)
            assert version.version >= before, f"after version {before} came {version}"
            if isinstance(event, events.ObjectCreated):
                place = (event.parent, event.name)
                is_again = version.version == before and names.get(file) == place
                names[file] = place
                places[one.object] = file
            else:
                is_again = version.version == before
            assert not is_again, f"recorded again: {version}"
            latest[file] = version.version
        elif isinstance(event, events.ObjectDeleted) and one.object in places:
            user, _ = places[one.object]
            assert by_name[user] == one.agent, f"deleted by another: {places[one.object]}"
    return len(said)


def recorded(home: Path, user: User) -> dict[int, int]:
    """Give, for each file of a user, the highest version that a log has."""
    found: dict[int, int] = {}
    for one in said_in(home):
        content = getattr(one.event, "content", None)
        version = user.versions.get(content.hash) if isinstance(content, events.Content) else None
        if version is not None:
            found[version.number] = max(version.version, found.get(version.number, 0))
    return found


def check_trees(
    nodes: Sequence[Node], users: Collection[User], *, may_be_torn: Collection[int] = ()
) -> int:
    """Check that each user's files stand everywhere as that user left them; gives their number.

    `may_be_torn`: files that the power took from their user while they were not saved.
    """
    expected = {path: v for user in users for path, v in user.expected().items()}
    for node in nodes:
        tree = read_tree(node.folder)
        files = {path for path, found in tree.items() if found.kind == "file"}
        assert files == expected.keys(), (
            f"{node.name}: missing {sorted(expected.keys() - files)[:9]}, "
            f"more {sorted(files - expected.keys())[:9]}"
        )
        for path, wanted in expected.items():
            found_version = version_in((node.folder / path).read_bytes())
            if found_version is None and wanted.number in may_be_torn:
                continue
            assert found_version == wanted, f"{node.name}: {path} is {found_version}, not {wanted}"
    return len(expected)


def check_tmp(node: Node, *, may_hold_displaced: bool = False) -> None:
    """See that nothing is left in tmp; everything has arrived.

    `may_hold_displaced`: what could not be moved to history waits there for the next start.
    """
    left = sorted(path.name for path in (node.folder / ".dizzyd" / "tmp").iterdir())
    if may_hold_displaced:
        left = [name for name in left if not name.startswith("displaced-tmp-")]
    assert not left, f"{node.name} left in tmp: {left}"


def counted(about: Mapping[str, Any]) -> set[str]:
    """Give the heads that a status counts: none of them may ever be missing again."""
    return {str(head["batch"]) for head in about["log"]["heads"]}
