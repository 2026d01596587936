from __future__ import annotations

import asyncio
import gc
import json
import os
import sqlite3
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from daemon import report
from daemon.core import InlineRunner, ThreadRunner
from daemon.differences import ProblemKind
from daemon.figures import FiguresReader, Question
from daemon.hints import WatchState
from daemon.outcomes import Reason
from daemon.report import Reporter, has_diverged, rfc3339
from daemon.status import FolderStatus, Problem, from_json, to_json
from peers.heads import Heads
from peers.link import Purpose
from peers.wire import Fork, Head
from store.access import Role
from store.ids import AgentId, LogId
from store.signing import sign_batch, verify
from tests.daemon.working import OLD_NS, Working, alone, eventually, pair

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LATER_NS = OLD_NS + 5_000_000_000


def hints(problems: tuple[Problem, ...]) -> str:
    return " ".join(problem.hint for problem in problems)


# -- small functions ------------------------------------------------------------------------------


def test_rfc3339_gives_milliseconds_and_nothing_for_never() -> None:
    assert rfc3339(1_763_899_200_123) == "2025-11-23T12:00:00.123Z"
    assert rfc3339(0) is None


async def test_change_tells_of_one_batch(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        row = node.db.execute(
            "SELECT b.no, f.name, b.header, l.agent, b.seq, b.id FROM batch b"
            " JOIN folder f ON f.no = b.folder_no JOIN log l ON l.no = b.log_no"
        ).fetchone()

        told = report.change(*row)

        assert told.cursor == "1"
        assert told.folder == "photos"
        assert told.at == "2023-11-14T22:13:20.000Z"
        assert told.fields["agent"] == node.key.agent.hex()
        assert told.fields["events"] == "1"


# -- a node alone ---------------------------------------------------------------------------------


async def test_status_of_a_node_alone(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        node.write("a.txt", b"alpha")
        node.write("sub/b.txt", b"beta")
        (node.root / "link").symlink_to("a.txt")
        await node.look()

        status = await node.status()

        assert status.is_healthy
        assert status.node.name == "desk"
        assert status.node.agent == node.key.agent.hex()
        assert status.node.pid == 4711
        assert status.node.listen == ("127.0.0.1:7499",)
        assert status.node.home == str(node.home.state)
        assert status.node.uptime_s is not None
        assert status.rejected == {"bad-signature": 0, "tls": 1}
        assert status.peers == ()
        [folder] = status.folders
        assert folder.name == "photos"
        assert folder.role == "owner"
        assert folder.state == "idle"
        assert folder.path == str(node.root)
        assert (folder.files, folder.directories, folder.bytes) == (3, 1, 14)
        assert (folder.pending.files, folder.pending.bytes) == (0, 0)
        assert folder.watch == "full"
        assert folder.log.batches == 2
        assert folder.log.events == 5
        [head] = folder.log.heads
        assert (head.agent, head.seq) == (node.key.agent.hex(), 1)
        assert folder.state_root == node.stored.state.root().hex()
        assert folder.last_change_at is not None
        assert from_json(json.loads(json.dumps(to_json(status)))) == status


async def test_the_count_of_events_follows_the_log(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        for number in range(3):
            node.write(f"{number}.txt", b"%d" % number)
            await node.look()
            assert (await node.folder_status()).log.events == number + 2

        assert node.stored_alone().log.count_events() == 4


async def test_a_stopped_node_still_tells_its_figures(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        node.write("a.txt", b"alpha")
        await node.look()
        await node.stop()
        node.open()
        await node.node.load()
        reporter = Reporter(
            node.node,
            node.home,
            listen=tuple,
            rejected=Counter,
            config_problem=lambda: None,
            pid=None,
        )

        status = await reporter.status()

        assert status.node.pid is None
        assert status.node.started_at is None
        [folder] = status.folders
        assert (folder.state, folder.files, folder.role) == ("paused", 1, "owner")
        assert folder.last_change_at is not None
        assert folder.state_root
        node.db.close()


async def test_the_state_is_scanning_until_the_first_walk_is_done(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        node.work._look.is_importing = True

        assert (await node.folder_status()).state == "scanning"


async def test_skipped_devices_are_named_and_no_problem(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        os.mkfifo(node.root / "pipe")
        await node.look()
        node.work.skipped[b"twin"] = ProblemKind.HARD_LINKED

        status = await node.status()

        assert status.folders[0].skipped == ("pipe",)
        assert status.is_healthy


# -- two nodes ------------------------------------------------------------------------------------


async def test_two_nodes_in_sync_say_so(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        owner.write("a.txt", b"alpha")
        await owner.look()
        await eventually(lambda: other.has("a.txt", b"alpha"))
        await other.settled()
        await _in_sync(owner)
        await _in_sync(other)

        here, there = await owner.status(), await other.status()

        assert here.folders[0].state_root == there.folders[0].state_root != ""
        assert here.folders[0].log.heads == there.folders[0].log.heads
        assert there.folders[0].role == "write"
        [peer] = here.peers
        assert peer.name == "laptop"
        assert peer.connected
        assert peer.agent == other.key.agent.hex()
        assert peer.address is not None
        assert peer.since is not None
        assert peer.rtt_ms is not None
        assert peer.received_bytes > 0
        assert peer.sent_bytes > 0
        assert here.is_healthy
        assert there.is_healthy


async def _in_sync(node: Working) -> None:
    async with asyncio.timeout(10):
        while not (await node.folder_status()).peers[0].in_sync:
            await asyncio.sleep(0.005)


async def test_a_peer_that_is_away_is_no_problem(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        await _in_sync(owner)
        await other.stop()
        await eventually(lambda: not owner.node.sessions.all())

        status = await owner.status()

        [peer] = status.peers
        assert not peer.connected
        assert peer.last_seen_at is not None
        assert peer.address is None
        assert not status.folders[0].peers[0].in_sync
        assert status.is_healthy


async def test_a_peer_was_last_seen_when_its_link_ended_however_long_ago_that_began(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path) as (owner, other):
        await _in_sync(owner)
        owner.node.book.get(other.key.agent).last_seen_ms = 0  # the link began long ago
        await other.stop()
        await eventually(lambda: owner.node.book.get(other.key.agent).last_seen_ms)

        [peer] = (await owner.status()).peers

        assert not peer.connected
        assert peer.last_seen_at is not None


async def test_a_peer_was_last_seen_when_we_stopped(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        await _in_sync(owner)
        known = owner.node.book.get(other.key.agent)
        known.last_seen_ms = 0

        await owner.stop()

        assert known.last_seen_ms > 0


async def test_what_a_peer_lacks_is_counted_by_heads(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        await _in_sync(owner)
        [before] = owner.work.standing.peer_heads.values()
        owner.write("a.txt", b"12345")
        owner.write("sub/b.txt", b"1234567")
        await owner.look()
        await eventually(lambda: other.has("a.txt", b"12345"))
        question = Question(
            folder_no=owner.work.folder_no,
            is_running=True,
            is_settled=True,
            theirs={other.key.agent: before},
        )

        reader = FiguresReader(owner.node.shelf, owner.node.world.clock)
        behind = reader.read([question])[owner.work.folder_no].behind[other.key.agent]

        assert (behind.events, behind.files, behind.bytes) == (3, 2, 12)


async def test_content_that_waits_is_pending_and_no_longer_when_it_came(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        other.work._apply._may_apply = lambda: False  # type: ignore[method-assign]
        owner.write("a.txt", b"12345")
        owner.write("b.txt", b"123")
        await owner.look()
        await eventually(lambda: other.stored.log.batches == owner.stored.log.batches)

        folder = await other.folder_status()

        assert (folder.pending.files, folder.pending.bytes) == (2, 8)
        assert folder.state == "syncing"
        assert not folder.peers[0].in_sync
        del other.work._apply._may_apply
        other.work.changed()
        await eventually(lambda: other.has("b.txt", b"123"))
        await other.settled()
        folder = await other.folder_status()
        assert (folder.pending.files, folder.pending.bytes) == (0, 0)
        assert folder.state == "idle"


async def test_a_large_backlog_is_counted_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.figures.BACKLOG_LIMIT", 1)
    async with pair(tmp_path) as (owner, other):
        other.work._apply._may_apply = lambda: False  # type: ignore[method-assign]
        for number in range(5):
            owner.write(f"{number}.txt", b"12345")
        await owner.look()
        await eventually(lambda: other.stored.log.batches == owner.stored.log.batches)

        folder = await other.folder_status()

        assert (folder.pending.files, folder.pending.bytes) == (5, 25)


async def test_conflict_copies_are_counted_and_no_problem(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        owner.write("a.txt", b"first")
        await owner.look()
        await eventually(lambda: other.has("a.txt", b"first"))
        await other.settled()
        await _cut(owner, other)
        owner.write("a.txt", b"by desk", mtime_ns=LATER_NS)
        other.write("a.txt", b"by laptop", mtime_ns=LATER_NS)
        owner.write("new.txt", b"new by desk")
        other.write("new.txt", b"another by laptop")
        await owner.look()
        await other.look()
        await _join(owner, other)

        await eventually(lambda: len(owner.names()) == len(other.names()) == 4)
        await owner.settled()
        await other.settled()

        here, there = await owner.status(), await other.status()
        assert here.folders[0].conflicts == there.folders[0].conflicts == 2
        assert here.is_healthy
        [copy] = [name for name in owner.names() if name.startswith("a (conflict")]
        (owner.root / copy).unlink()
        await owner.look()
        assert (await owner.folder_status()).conflicts == 1
        assert owner.stored_alone().synced.count_conflicts() == 1


async def _cut(owner: Working, other: Working) -> None:
    for node in (owner, other):
        node.node.book.get(owner.key.agent).hints.clear()
        node.node.book.get(other.key.agent).hints.clear()
    for session in [*owner.node.sessions.all(), *other.node.sessions.all()]:
        await session.link.close()
    await eventually(lambda: not owner.node.sessions.all() and not other.node.sessions.all())


async def _join(owner: Working, other: Working) -> None:
    other.node.book.get(owner.key.agent).hints.extend(owner.listener.addresses)
    link = await other.node.world.network.dial(
        owner.listener.addresses, owner.key.agent, Purpose.CONTROL
    )
    other.node.links.take(link)


async def test_a_name_that_only_looks_like_a_conflict_is_none(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        node.write("notes (conflict desk 2026-11-23 0a1b2c3d).txt", b"I wrote this name")
        await node.look()

        assert (await node.folder_status()).conflicts == 0


# -- problems -------------------------------------------------------------------------------------


def _held(node: Working) -> None:
    node.work.held._paths = {b"%d" % number for number in range(131)}


def _root(node: Working) -> None:
    node.work.trouble.root = ("the root is gone", "bring it back")


def _full(node: Working) -> None:
    node.work.trouble.failed[Reason.DISK_FULL] = ("disk full", "free space")


def _unreadable(node: Working) -> None:
    node.work.trouble.unreadable[b"secret"] = "Permission denied"


def _ignore(node: Working) -> None:
    node.work.trouble.ignore = (".dizzyignore: is larger than 1 MiB", "shorten it")


def _watch(node: Working) -> None:
    node.work._look.watch_state = WatchState.PARTIAL


def _newer(node: Working) -> None:
    node.stored.log.held_by_newer.add(AgentId(b"n" * 32))


@pytest.mark.parametrize(
    ("spoil", "state", "problem", "hint"),
    [
        (_held, "held", "131 deletions held", "dizzyd confirm photos"),
        (_held, "held", "131 deletions held", "dizzyd undo-deletions photos"),
        (_root, "faulty", "the root is gone", "bring it back"),
        (_full, "faulty", "disk full", "free space"),
        (_unreadable, "idle", "cannot read secret: Permission denied", "let dizzyd's user"),
        (_ignore, "idle", "larger than 1 MiB", "shorten it"),
        (_watch, "idle", "cannot be watched", "fs.inotify.max_user_watches"),
        (_newer, "idle", "needs a newer dizzyd", "install a newer"),
    ],
)
async def test_what_is_wrong_stands_among_the_problems(
    tmp_path: Path, spoil: Callable[[Working], None], state: str, problem: str, hint: str
) -> None:
    async with alone(tmp_path) as node:
        spoil(node)

        status = await node.status()
        [folder] = status.folders

        assert not status.is_healthy
        assert folder.state == state
        assert problem in folder.problems[0].problem
        assert hint in hints(folder.problems)


async def test_many_unreadable_names_are_few_problems(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        for number in range(100):
            node.work.trouble.unreadable[b"%03d" % number] = "Permission denied"

        problems = (await node.folder_status()).problems

        assert len(problems) == 9
        assert problems[-1].problem == "92 more names cannot be read"


async def test_a_bad_configuration_and_a_clone_are_problems_of_the_node(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        node.reporter._config_problem = lambda: Problem(problem="config.toml:3: bad", hint="fix")
        node.node.book.is_cloned = True

        problems = (await node.status()).node.problems

        assert problems[0].problem == "config.toml:3: bad"
        assert "key of this one" in problems[1].problem


async def test_A23_a_peer_whose_key_two_nodes_use_is_a_problem(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        owner.node.links.clones_seen.add(other.key.agent)

        [peer] = (await owner.status()).peers

        assert "two running nodes" in peer.problems[0].problem


async def test_A11_a_fork_is_told_of_its_agent(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        other.write("a.txt", b"alpha")
        await other.look()
        await eventually(lambda: owner.has("a.txt", b"alpha"))
        [first, *_] = other.stored.log.read([(other.stored.own_log, None, 0)], [], 1 << 20)[0]
        stored = owner.stored
        foreign = sign_batch(
            other.key,
            folder=stored.id,
            epoch=other.stored.epoch,
            seq=0,
            prev=None,
            deps=[head.batch for head in stored.log.heads() if head.agent == owner.key.agent],
            lamport=3,
            wall_ms=5,
            events=verify(first).events,
        )
        admitted = stored.admit([foreign], b"test")
        assert admitted.forked == {other.key.agent}

        [peer] = (await owner.status()).peers

        assert "its log of photos has two branches" in peer.problems[0].problem


async def test_a_fork_that_was_told_by_a_peer_is_a_problem_too(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        other.write("a.txt", b"alpha")
        await other.look()
        await eventually(lambda: owner.has("a.txt", b"alpha"))
        wire = other.stored.log.read([(other.stored.own_log, None, 0)], [], 1 << 20)[0][0]
        owner.node.replica.forks[b"x"] = Fork(
            owner.work.folder, wire.header, wire.signature, wire.header, wire.signature
        )

        [peer] = (await owner.status()).peers

        assert "two branches" in peer.problems[0].problem


async def test_A11_a_told_fork_that_proves_nothing_is_not_believed(tmp_path: Path) -> None:
    """What came as a fork was kept and passed on unread, and `status` failed for ever."""
    async with pair(tmp_path) as (owner, other):
        other.write("a.txt", b"alpha")
        await other.look()
        await eventually(lambda: owner.has("a.txt", b"alpha"))
        wire = other.stored.log.read([(other.stored.own_log, None, 0)], [], 1 << 20)[0][0]
        replica, folder = owner.node.replica, owner.work.folder

        for header in (b"no header", wire.header):
            told = Fork(folder, header, wire.signature, wire.header, wire.signature)
            assert not await replica.learn_fork(other.key.agent, told)

        assert not replica.forks
        [peer] = (await owner.status()).peers
        assert not peer.problems


async def test_equal_logs_and_unequal_states_are_said_loudly(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        await _in_sync(owner)
        said = owner.work.standing.peer_heads[other.key.agent]
        owner.work.standing.peer_heads[other.key.agent] = Heads(
            heads=said.heads, state_root=b"\x01" * 32, state_version=said.state_version
        )

        folder = await owner.folder_status()

        assert folder.state == "faulty"
        assert "the state is not that of laptop" in folder.problems[0].problem
        assert "dizzyd verify photos" in folder.problems[0].hint


def test_states_of_different_rules_or_unequal_logs_are_not_compared() -> None:
    head = Head(LogId(b"l" * 32), 3, b"b" * 32)
    ours = Heads(heads=(head,), state_root=b"1" * 32)

    assert has_diverged(ours, Heads(heads=(head,), state_root=b"2" * 32))
    assert not has_diverged(ours, Heads(heads=(), state_root=b"2" * 32))
    assert not has_diverged(ours, Heads(heads=(head,), state_root=b"2" * 32, state_version=2))
    assert not has_diverged(ours, Heads(heads=(head,), state_root=None))
    assert not has_diverged(ours, Heads(heads=(head,), state_root=b"2" * 32, is_importing=True))


async def test_a_damaged_database_is_a_problem_and_no_crash(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        await node.status()

        def damaged(_questions: object) -> object:
            raise sqlite3.DatabaseError("database disk image is malformed")

        node.reporter._reader.read = damaged  # type: ignore[method-assign,assignment]

        status = await node.status()

        assert "malformed" in status.node.problems[0].problem
        assert status.folders[0].name == "photos"


# -- quick whatever happens -----------------------------------------------------------------------


async def test_status_does_not_wait_for_a_busy_database_thread(tmp_path: Path) -> None:
    release = asyncio.Event()

    class Busy(InlineRunner):
        is_busy = False

        async def run(self, fn: Callable[..., Any], *args: object, **kwargs: object) -> Any:
            if self.is_busy:
                await release.wait()
            return await super().run(fn, *args, **kwargs)

    core = Busy()
    async with alone(tmp_path, core=core) as node:
        node.write("a.txt", b"alpha")
        await node.look()
        await node.status()
        core.is_busy = True
        loop = asyncio.get_running_loop()

        began_s = loop.time()
        folder = await node.folder_status()
        took_s = loop.time() - began_s

        assert folder.files == 1
        assert folder.state_root
        assert took_s < 0.15
        core.is_busy = False
        release.set()


async def test_G9_figures_that_fail_when_nobody_waits_for_them_are_no_complaint(
    tmp_path: Path,
) -> None:
    class Failing(InlineRunner):
        gate: asyncio.Event | None = None

        async def run(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if self.gate is not None:
                await self.gate.wait()
                raise sqlite3.OperationalError("disk I/O error")
            return await super().run(fn, *args, **kwargs)

    core = Failing()
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: complaints.append(context["message"])
    )
    async with alone(tmp_path, core=core) as node:
        await node.status()
        core.gate = asyncio.Event()
        await node.status()  # answered with the last figures
        core.gate.set()
        reading = node.reporter._reading
        assert reading is not None
        await asyncio.wait({reading})
        core.gate = None

        await node.status()
        del reading
        gc.collect()

    assert not complaints


async def test_status_beside_a_database_thread_of_its_own(tmp_path: Path) -> None:
    core = ThreadRunner("test-core", 1)
    try:
        async with alone(tmp_path, core=core) as node:
            node.write("a.txt", b"alpha")
            await node.look()

            assert (await node.folder_status()).files == 1
    finally:
        core.close()


async def test_status_costs_the_same_for_few_files_and_for_many(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        node.write("a.txt", b"alpha")
        await node.look()
        few = await _steps(node)
        (no_of_a,) = node.db.execute("SELECT object_no FROM synced").fetchone()
        node.db.execute("BEGIN")
        node.db.executemany(
            "INSERT INTO object SELECT ?1, folder_no, randomblob(32), kind, parent_no, ?2,"
            " place_event, place_key, last_move, base_parent_no, base_name, latest_lamport,"
            " head_event, head_key, value, size, mtime_ns, mode, flags FROM object"
            f" WHERE no = {no_of_a}",
            [(no, b"%d" % no) for no in range(1000, 31_000)],
        )
        node.db.executemany(
            "INSERT INTO synced SELECT ?1, copy_event, folder_no, parent_no, ?2, kind, value,"
            " ?1, size, mtime_ns, ctime_ns, mode, looked_at_ns, shared_mtime_ns, events,"
            f" placement, leftover FROM synced WHERE object_no = {no_of_a}",
            [(no, b"%d" % no) for no in range(1000, 31_000)],
        )
        node.db.execute("COMMIT")
        node.stored.reload()
        await node.folder_status()

        many = await _steps(node)

        folder = await node.folder_status()
        assert folder.files == 30_001
        assert many <= few + 2000


async def _steps(node: Working) -> int:
    """Count the steps of SQLite's machine for one status."""
    await node.folder_status()
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 100
        return 0

    node.db.connection.set_progress_handler(count, 100)
    await node.folder_status()
    node.db.connection.set_progress_handler(None, 0)
    return steps


async def test_a_readers_local_changes_are_counted_and_no_problem(tmp_path: Path) -> None:
    async with pair(tmp_path, Role.READ) as (owner, reader):
        owner.write("a.txt", b"alpha")
        await owner.look()
        await eventually(lambda: reader.has("a.txt", b"alpha"))
        await reader.settled()
        reader.write("a.txt", b"mine", mtime_ns=LATER_NS)
        reader.write("b.txt", b"mine too")
        await reader.look()

        status = await reader.status()
        folder: FolderStatus = status.folders[0]

        assert folder.local_changes == 2
        assert folder.role == "read"
        assert status.is_healthy
