"""See that nothing is said before it is durable, call by call (docs/design.md, 5)."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon import replacing, syscalls
from daemon.acts import Act, Created, Deleted, Moved
from daemon.disk import Looked
from daemon.durable import make_durable
from daemon.figures import FiguresReader, Question
from peers.heads import Heads
from store.access import Role
from store.db import Database, open_database
from store.signing import AgentKey
from tests.daemon.applying import World
from tests.daemon.planning import ROOT, file_entry
from tests.daemon.working import eventually, pair


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


class Commits(list[str]):
    """Of each transaction that wrote: "synced" when it ended, or "lazy"."""

    def __init__(self, database: Database, *, is_settled: bool = True) -> None:
        super().__init__()
        if is_settled:
            database.settle()  # whatever an earlier process left
        self._how = "synced"
        self._before = 0
        self._connection = database.connection
        database.connection.set_trace_callback(self._take)

    def _take(self, statement: str) -> None:
        if statement.startswith("PRAGMA synchronous ="):
            self._how = "synced" if statement.endswith("FULL") else "lazy"
        elif statement.startswith("BEGIN"):
            self._before = self._connection.total_changes
        elif statement == "COMMIT" and self._connection.total_changes > self._before:
            self.append(self._how)

    def owed_at(self, word: str) -> list[list[str]]:
        """Give, for each time that the word stands there, what was lazy since the last sync."""
        owed: list[list[str]] = []
        waiting: list[str] = []
        for said in self:
            if said == "synced":
                waiting = []
            elif said == "lazy":
                waiting = [*waiting, said]
            elif said == word:
                owed.append(waiting)
        return owed


def write(database: Database) -> None:
    with database.transaction():
        database.set_meta("written", b"")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = open_database(tmp_path / "database")
    yield made
    made.close()


def test_F2_what_is_committed_lazily_is_durable_once_it_is_settled(database: Database) -> None:
    commits = Commits(database)

    with database.lazily(is_owed=True):
        write(database)
    database.settle()
    database.settle()

    assert commits == ["lazy", "synced"]


def test_F2_a_synced_commit_settles_all_that_came_before_it(database: Database) -> None:
    commits = Commits(database)

    with database.lazily(is_owed=True):
        write(database)
    write(database)
    database.settle()

    assert commits == ["lazy", "synced"]


def test_F2_a_transaction_that_wrote_nothing_settles_nothing(database: Database) -> None:
    commits = Commits(database)

    with database.lazily(is_owed=True):
        write(database)
    with database.transaction():
        database.execute("DELETE FROM intent WHERE id = ?", (b"none",))
    database.settle()

    assert commits == ["lazy", "synced"]


def test_F2_rows_that_are_written_as_they_were_settle_all_the_same(tmp_path: Path) -> None:
    """SQLite writes no page for a row that stays as it is, and then syncs none."""
    database = open_database(tmp_path / "database")
    write(database)
    with database.lazily(is_owed=True):
        write(database)
    log = tmp_path / "database-wal"
    before = log.stat().st_size

    with database.transaction():
        database.execute("UPDATE meta SET value = value")
    database.settle()

    assert log.stat().st_size > before, "a COMMIT without pages is not synced"
    database.close()


def test_F2_what_is_not_owed_waits_for_the_next_commit(database: Database) -> None:
    commits = Commits(database)

    with database.lazily(is_owed=False):
        write(database)
    database.settle()

    assert commits == ["lazy"]


def test_F2_what_a_killed_process_left_is_settled_first(tmp_path: Path) -> None:
    killed = open_database(tmp_path / "database")
    with killed.lazily(is_owed=True):
        write(killed)
    database = open_database(tmp_path / "database")
    rows_before = database.connection.total_changes

    database.settle()

    assert database.connection.total_changes > rows_before
    database.close()
    killed.close()


async def test_F2_batches_of_others_are_durable_before_anything_is_done_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (owner, other):
        commits = Commits(other.db)
        replica: Any = other.node.replica
        disk: Any = other.work.disk
        place_each, read_heads = disk.place_each, replica._read_heads

        def place(pairs: Any) -> Any:
            commits.append("placed")
            return place_each(pairs)

        def say(*given: Any) -> Heads:
            heads: Heads = read_heads(*given)
            if heads.is_applied:
                commits.append("said")
            return heads

        monkeypatch.setattr(disk, "place_each", place)
        monkeypatch.setattr(replica, "_read_heads", say)
        for count in range(3):
            owner.write(f"new{count}", b"content %d" % count)
            await owner.look()
            await eventually(lambda: other.names() == owner.names())
        await eventually(lambda: "said" in commits[-2:])

        assert commits.count("lazy") >= 3, "else nothing is tested here"
        assert commits.owed_at("placed") == [[]] * 3
        assert [] in commits.owed_at("said")
        assert not any(commits.owed_at("said"))


async def test_F2_what_is_said_to_be_applied_is_durable_where_no_file_came_of_it(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path) as (owner, other):
        commits = Commits(other.db)
        granted = owner.stored.grant(
            AgentKey.from_seed(bytes(32)).agent,
            Role.READ,
            label=b"tablet",
            expires_ms=None,
            may_delegate=False,
            wall_ms=1_700_000_000_002,
        )
        folder = owner.stored.id
        await other.node.replica.admit(folder, owner.key.agent, granted)
        assert commits == ["lazy"]

        heads = await other.node.replica.heads(folder)

        assert heads.is_applied
        assert commits == ["lazy", "synced"]


async def test_F2_figures_of_a_settled_folder_are_durable_beside_one_that_is_not(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path) as (owner, _other):
        commits = Commits(owner.db)
        with owner.db.lazily(is_owed=True):
            write(owner.db)
        reader = FiguresReader(owner.node.shelf, owner.node.world.clock)

        reader.read(
            [
                Question(folder_no=owner.work.folder_no, is_running=True, is_settled=True),
                Question(folder_no=-1, is_running=True, is_settled=False),
            ]
        )

        assert commits == ["lazy", "synced"]


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


def _full(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = code
    return error


def _unwritable(database: Database, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(_key: str, _value: bytes) -> None:
        raise _full(code)

    monkeypatch.setattr(database, "set_meta", fail)


def test_E2_F2_a_full_disk_makes_durable_what_it_has_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = open_database(tmp_path / "database")
    with killed.lazily(is_owed=False):
        write(killed)
    database = open_database(tmp_path / "database")
    synced = Calls()
    synced.note(os, "fsync", lambda at: os.readlink(f"/proc/self/fd/{at}"), monkeypatch)
    _unwritable(database, monkeypatch, sqlite3.SQLITE_FULL)

    database.settle()
    database.settle()

    assert synced == [str(tmp_path / "database-wal")]
    database.close()
    killed.close()


def test_F2_a_sync_that_failed_is_owed_and_no_later_one_hides_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(database)
    with database.lazily(is_owed=False):
        write(database)
    with monkeypatch.context() as broken:
        _unwritable(database, broken, sqlite3.SQLITE_IOERR)
        for _ in range(2):
            with pytest.raises(sqlite3.OperationalError):
                database.sync()
    commits = Commits(database, is_settled=False)

    database.settle()

    assert commits == ["synced"]


async def test_F2_own_batches_whose_sync_failed_are_told_once_they_are_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (one, other):
        file = one.write("a.txt", b"alpha")
        await one.look()
        await eventually(lambda: other.has("a.txt", b"alpha"))
        told = Calls()

        def state(*_about: object) -> str:
            return "owed" if one.db._owes_sync else "durable"

        told.note(one.node.sessions, "announce", state, monkeypatch)
        failed: list[str] = []

        def fail() -> None:
            one.db._owes_sync = True
            failed.append("a sync")
            if len(failed) == 1:
                one.node.engine.run_until_idle()  # as any unit behind this one does
            raise _full(sqlite3.SQLITE_IOERR)

        file.chmod(0o755)
        with monkeypatch.context() as broken:
            broken.setattr("daemon.recording.names_facts", lambda _act: False)
            broken.setattr(one.db, "sync", fail)
            one.work.look_at_all()
            await eventually(lambda: one.work.trouble.root is not None)

        await eventually(lambda: (other.root / "a.txt").stat().st_mode & 0o100)
        assert failed
        assert "owed" not in told
