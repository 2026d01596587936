from __future__ import annotations

import errno
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from daemon.config import Config, HistoryConfig, LimitsConfig, NodeConfig
from daemon.disk import DiskError
from daemon.displaced import parse_history_name
from daemon.fs import LinuxDisk
from daemon.headroom import Space, kept_free, missing_bytes, shortage
from daemon.reverting import revert_local_changes
from store.access import Role
from tests.daemon.working import OLD_NS, Working, alone, eventually, pair

DAY_NS = 86_400 * 10**9


def limit(node: Working, **history: Any) -> None:
    """Write another [history] into the configuration, as a reload does."""
    node.node.config = Config(
        node=NodeConfig(name=node.name, listen=("127.0.0.1:0",)),
        folders={},
        peers={},
        history=HistoryConfig(**history),
        limits=LimitsConfig(),
    )
    node.work.history_limits_changed()


async def edited(owner: Working, other: Working, path: str, contents: list[bytes]) -> None:
    """Let one node write versions, each of which reaches the other."""
    for number, content in enumerate(contents):
        owner.write(path, content, mtime_ns=OLD_NS + number * 10**9)
        await owner.look()
        await eventually(lambda c=content: other.has(path, c))  # type: ignore[misc]
        await other.settled()


def age(node: Working, days: int) -> None:
    """Make all that is kept older, by its names in history and in the database."""
    history = node.root / ".dizzyd/history"
    for path in list(history.iterdir()):
        old = path.name.encode()
        parsed = parse_history_name(old)
        assert parsed is not None
        second, fraction = divmod(parsed.at_ns - days * DAY_NS, 10**9)
        at = datetime.fromtimestamp(second, UTC).strftime("%Y%m%dT%H%M%S")
        new = f"{at}.{fraction:09d}Z-".encode() + old.partition(b"-")[2]
        path.rename(history / new.decode())
        with node.stored.change():
            node.db.execute("UPDATE kept SET name = ? WHERE name = ?", (new, old))


async def in_step(node: Working) -> None:
    """Hold rows, files and status together."""
    names = {name for (name,) in node.db.execute("SELECT name FROM kept")}
    assert {path.name.encode() for path in (node.root / ".dizzyd/history").iterdir()} == names
    status = (await node.folder_status()).history
    sizes = [len(content) for content in node.history()]
    assert (status.versions, status.bytes) == (len(sizes), sum(sizes))


async def test_history_is_kept_for_ever_unless_it_is_limited(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        await edited(owner, other, "a", [b"one", b"two", b"three"])
        age(other, 5000)

        other.work.history_limits_changed()
        await other.look()

        assert other.history() == [b"one", b"two"]
        await in_step(other)


async def test_what_is_older_than_keep_goes_and_nothing_younger(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        await edited(owner, other, "a", [b"one", b"two", b"three"])
        age(other, 200)
        await edited(owner, other, "a", [b"four"])
        assert sorted(other.history()) == [b"one", b"three", b"two"]

        limit(other, keep_s=180 * 86_400.0)
        await eventually(lambda: other.history() == [b"three"])

        await in_step(other)
        assert other.has("a", b"four")


async def test_the_oldest_go_until_history_is_as_small_as_asked(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        await edited(owner, other, "a", [b"1" * 10, b"2" * 10, b"3" * 10, b"4" * 10])
        age(other, 1)

        limit(other, keep_bytes=20)
        await eventually(lambda: len(other.history()) == 2)

        assert other.history() == [b"2" * 10, b"3" * 10]
        await in_step(other)


async def test_what_was_in_conflict_or_never_shared_never_goes(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        await edited(owner, other, "a", [b"base"])
        await edited(owner, other, "plain", [b"old", b"new"])
        await other.stop()
        owner.write("a", b"of the owner", mtime_ns=OLD_NS + 10**9)
        await owner.look()
        other.write("a", b"of the other", mtime_ns=OLD_NS + 2 * 10**9)
        other.open()
        await other.start(owner)
        await eventually(lambda: len(owner.names()) == 3 and len(other.names()) == 3)
        for name in sorted(owner.names() - {"plain"}):
            (owner.root / name).unlink()
        await owner.look()
        await eventually(lambda: other.names() == {"plain"})
        await other.settled()
        kept = sorted(other.history())
        assert b"of the owner" in kept
        assert b"of the other" in kept

        age(other, 200)
        limit(other, keep_s=86_400.0)
        await eventually(lambda: b"old" not in other.history())

        assert {b"of the owner", b"of the other"} <= set(other.history())


async def test_bytes_that_no_object_had_never_go(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        await edited(owner, other, "a", [b"one", b"two"])
        age(other, 200)
        name = f"20200101T000000.000000001Z-0-{'ab' * 32}-found in the way"
        (other.root / ".dizzyd/history" / name).write_bytes(b"never shared")
        with other.stored.change():
            other.db.execute(
                "INSERT INTO kept VALUES (?, ?, 0, ?, 12)",
                (other.stored.no, name.encode(), b"\xab" * 32),
            )

        limit(other, keep_s=86_400.0)
        await eventually(lambda: other.history() == [b"never shared"])
        await in_step(other)


async def test_E22_what_somebody_may_still_write_to_never_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.pruning._WATCHED_NS", 0)
    async with pair(tmp_path) as (owner, other):
        await edited(owner, other, "a", [b"one", b"two"])
        await edited(owner, other, "d/open", [b"held"])
        await edited(owner, other, "d/closed", [b"closed"])
        with other.stored.change():  # nobody writes to what was replaced
            other.db.execute("DELETE FROM displaced")
        with (other.root / "d/open").open("ab") as held:
            shutil.rmtree(owner.root / "d")
            await owner.look()
            await eventually(lambda: not (other.root / "d").exists())
            await other.settled()

            limit(other, keep_bytes=1)
            await eventually(lambda: b"one" not in other.history())
            held.write(b", written on")

        assert b"held, written on" in other.history()


async def test_bytes_of_a_known_file_that_were_never_shared_never_go(tmp_path: Path) -> None:
    async with pair(tmp_path, Role.READ) as (owner, other):
        await edited(owner, other, "a", [b"one", b"two"])
        other.write("a", b"of the reader alone")
        await other.look()
        await revert_local_changes(other.node, other.work)
        await eventually(lambda: other.has("a", b"two"))
        await other.settled()
        assert sorted(other.history()) == [b"of the reader alone", b"one"]

        age(other, 200)
        limit(other, keep_s=86_400.0)
        await eventually(lambda: b"one" not in other.history())

        assert other.history() == [b"of the reader alone"]


async def test_F1_a_crash_while_pruning_leaves_rows_and_files_in_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crashed(BaseException):
        pass

    async with pair(tmp_path) as (owner, other):
        await edited(owner, other, "a", [b"one", b"two", b"three"])
        age(other, 200)
        remove = LinuxDisk.remove_history
        removed: list[bytes] = []

        def crash(self: LinuxDisk, name: bytes) -> None:
            if removed:
                raise Crashed
            removed.append(name)
            remove(self, name)

        limited = HistoryConfig(keep_s=86_400.0)
        with monkeypatch.context() as patched:
            patched.setattr(LinuxDisk, "remove_history", crash)
            other.node.config = Config(
                node=other.node.config.node,
                folders={},
                peers={},
                history=limited,
                limits=LimitsConfig(),
            )
            pruner = other.work._pruner
            assert other.work.disk is not None
            with pytest.raises(Crashed):
                await pruner.prune(other.work.disk)
        assert len(other.history()) == 1
        await other.stop()

        other.open()
        await other.start(owner)
        await eventually(lambda: other.history() == [])
        await in_step(other)


async def test_E4_a_history_that_cannot_be_written_stops_nothing_and_is_pruned_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: LinuxDisk, _name: bytes) -> None:
        raise DiskError("remove", "read-only file system", errno=errno.EROFS)

    async with pair(tmp_path) as (owner, other):
        await edited(owner, other, "a", [b"one", b"two", b"three"])
        age(other, 200)
        with monkeypatch.context() as patched:
            patched.setattr(LinuxDisk, "remove_history", refuse)
            limit(other, keep_s=86_400.0)
            await eventually(lambda: other.stored.db.meta(f"pruning/{other.stored.no}"))
            await edited(owner, other, "b", [b"goes on"])
            assert (await other.folder_status()).problems == ()
        assert len(other.history()) == 2

        other.work.history_limits_changed()
        await eventually(lambda: other.history() == [])
        await in_step(other)


# -- room on the disk -----------------------------------------------------------------------------


def test_what_is_kept_free_is_a_share_or_a_size() -> None:
    space = Space(total=1000, free=100)

    assert kept_free(HistoryConfig(), space) == 10
    assert kept_free(HistoryConfig(min_free_bytes=77, min_free_ratio=None), space) == 77
    assert missing_bytes(HistoryConfig(), space, 90) == 0
    assert missing_bytes(HistoryConfig(), space, 91) == 1
    assert missing_bytes(HistoryConfig(min_free_bytes=500, min_free_ratio=None), space, 0) == 0


def test_a_shortage_says_what_history_costs() -> None:
    what, remedy = shortage(1_181_116_006, 3, 81920)

    assert what == "disk full: 1.1 GiB short of min_free"
    assert "history here is 80 KiB in 3 versions" in remedy
    assert shortage(1, 0, 0)[1] == "free space; it goes on by itself"


async def test_E1_below_min_free_applying_waits_says_so_and_goes_on_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (owner, other):
        await edited(owner, other, "a", [b"one", b"two"])
        space = [Space(total=1000, free=5)]
        monkeypatch.setattr(
            LinuxDisk,
            "space",
            lambda self: Space(1000, 1000) if self is not other.work.disk else space[0],
        )
        owner.write("b", b"bytes")
        await owner.look()
        await eventually(lambda: other.work.trouble.space is not None)

        status = await other.folder_status()
        assert status.state == "faulty"
        assert [problem.problem for problem in status.problems] == [
            "disk full: 10 bytes short of min_free"
        ]
        assert "history here is 3 bytes in 1 version" in status.problems[0].hint
        assert status.pending.files == 1
        assert not other.has("b", b"bytes")

        space[0] = Space(total=1000, free=500)
        await eventually(lambda: other.has("b", b"bytes"))
        await other.settled()
        assert (await other.folder_status()).problems == ()
        assert other.history() == [b"one"]


async def test_a_large_plan_that_finds_no_room_is_no_longer_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (owner, other):
        monkeypatch.setattr(LinuxDisk, "space", lambda _self: Space(total=1 << 30, free=5))
        owner.write("large", b"large" * 300_000)
        await owner.look()
        await eventually(lambda: other.work.trouble.space is not None)
        applier = other.work.standing.applier

        await eventually(lambda: not other.work._apply._slow)

        assert applier is not None
        assert not applier._runs._running
        assert not applier._runs._latest


async def test_min_free_does_not_hold_back_what_is_recorded_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinuxDisk, "space", lambda _self: Space(1000, 0))
    async with alone(tmp_path) as node:
        node.write("a", b"a")
        await node.look()

        assert (await node.folder_status()).files == 1
        assert (await node.folder_status()).problems == ()
