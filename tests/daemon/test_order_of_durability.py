"""See that nothing is said before it is durable, call by call (docs/design.md, 5)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon import replacing, syscalls
from daemon.acts import Act, Created, Deleted, Moved
from daemon.disk import Looked
from daemon.durable import make_durable
from store.db import open_database
from tests.daemon.applying import World
from tests.daemon.planning import ROOT, file_entry


class Calls(list[str]):
    """What was asked of the kernel and of the journal, in order."""

    def note(self, owner: object, name: str, told: Callable[..., str], patch: Any) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.append(told(*args))
            return real(*args, **kwargs)

        patch.setattr(owner, name, call)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "folder")
    yield made
    made.linux.close()


@pytest.fixture
def synced(world: World, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The paths that were made durable, below the folder."""
    calls = Calls()

    def path_of(descriptor: int) -> str:
        return os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), world.root)

    calls.note(os, "fsync", path_of, monkeypatch)
    calls.note(syscalls, "syncfs", lambda _descriptor: "everything", monkeypatch)
    return calls


def look(world: World, path: bytes) -> Looked:
    (looked,) = world.linux.look([path])
    assert isinstance(looked, Looked)
    return looked


def test_F2_what_events_name_is_durable_first_and_the_names_with_it(
    world: World, synced: Calls
) -> None:
    for name in ("in/new", "to/moved", "from/left", "out/left"):
        (world.root / name).parent.mkdir()
        (world.root / name).write_bytes(b"content")
    acts: list[Act] = [
        Created(b"in/new", look(world, b"in/new")),
        Moved(b"from/moved", b"to/moved", (), look(world, b"to/moved")),
        Deleted(b"out/gone", ()),
    ]

    make_durable(world.linux, acts)

    assert set(synced) >= {"in/new", "in", "to/moved", "to", "from", "out"}
    # a file's bytes before its name: else the name may outlive them
    assert synced.index("in/new") < synced.index("in")


def test_F2_many_changes_are_one_sync_of_everything(world: World, synced: Calls) -> None:
    for number in range(20):
        (world.root / f"f{number}").write_bytes(b"content")
    paths = [b"f%d" % number for number in range(20)]

    make_durable(world.linux, [Created(path, look(world, path)) for path in paths])

    assert synced == ["everything"]


@pytest.mark.parametrize(
    ("before", "after", "act"),
    [
        ([], [file_entry(1, ROOT, b"a", b"two")], "place_each"),
        (
            [file_entry(1, ROOT, b"a", b"one")],
            [file_entry(1, ROOT, b"a", b"two")],
            "place_over",
        ),
        ([file_entry(1, ROOT, b"a", b"one")], [], "take_away"),
        ([file_entry(1, ROOT, b"a", b"one")], [file_entry(1, ROOT, b"b", b"one")], "move"),
    ],
)
def test_F2_P32_applying_is_durable_step_by_step(
    world: World, monkeypatch: pytest.MonkeyPatch, before: list[Any], after: list[Any], act: str
) -> None:
    asyncio.run(world.converge(before))
    for name in ("begin", "commit"):
        real = getattr(world.journal, name)

        def call(given: Any, name: str = name, real: Any = real) -> Any:
            world.faults.names.append(name)
            return real(given)

        monkeypatch.setattr(world.journal, name, call)
    world.faults.names.clear()

    asyncio.run(world.apply(after))

    said = [name for name in world.faults.names if name in {"begin", "commit", act, *SYNCS}]
    at = said.index(act)
    if "stage_many" in world.faults.names:
        assert "sync" in said[:at], "contents come before their names"
    assert act == "place_each" or "begin" in said[:at], "an intent comes before what it covers"
    assert SYNCS.intersection(said[at:]), "the names are made durable"
    assert said[-1] == "commit"
    assert said.count("commit") == 1, "synced comes last"


SYNCS = {"sync", "sync_directories"}


def test_F2_a_transaction_is_on_the_disk_when_it_ends(tmp_path: Path) -> None:
    database = open_database(tmp_path / "database")

    assert database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


def test_F2_D7_a_file_of_ours_is_durable_before_it_replaces_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls()

    def told(descriptor: int) -> str:
        is_directory = Path(f"/proc/self/fd/{descriptor}").is_dir()
        return "sync the directory" if is_directory else "sync the file"

    calls.note(os, "fsync", told, monkeypatch)
    calls.note(os, "rename", lambda *_names: "rename", monkeypatch)

    replacing.replace_file(tmp_path / "config.toml", b"text")

    assert calls == ["sync the file", "rename", "sync the directory"]
