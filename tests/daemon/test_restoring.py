from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daemon.answers import RestoreLine
from daemon.cat import cat_hash
from daemon.config import HistoryConfig
from daemon.contents import FolderContents
from daemon.disk import LookFailure
from daemon.displaced import DisplacedWatch
from daemon.fs import LinuxDisk
from daemon.history import history
from daemon.journal import FolderJournal
from daemon.restoring import Restoring
from store.access import Role
from store.errors import DizzyError, TryLater
from store.ids import BlobHash, blob_hash
from tests.daemon.working import Working, alone, eventually, pair
from tests.e2e.trees import Tree, read_tree

if TYPE_CHECKING:
    from collections.abc import Sequence


async def restore(
    node: Working,
    path: str,
    *,
    at_ms: int | None = None,
    digits: str | None = None,
    to: Path | None = None,
) -> list[RestoreLine]:
    target = None if to is None else (None, os.fsencode(to))
    run = Restoring(node.node, node.work, path.encode()).run(at_ms, digits, target)
    return [line async for line in run if line.kind not in ("log", "progress")]


def summary(lines: Sequence[RestoreLine]) -> RestoreLine:
    assert [line.kind for line in lines].count("summary") == 1
    return lines[-1]


async def next_ms() -> int:
    """Give the present moment; whatever is recorded from now on is later."""
    now_ms = time.time_ns() // 1_000_000
    await eventually(lambda: time.time_ns() // 1_000_000 > now_ms)
    return now_ms


# -- any past state -------------------------------------------------------------------------------


def play(node: Working, rng: random.Random) -> None:
    """Do something that users do to files, directories, links, modes and times."""
    files = [p for p in node.root.rglob("*") if p.is_file() and ".dizzyd" not in p.parts]
    directories = [p for p in node.root.rglob("*") if p.is_dir() and ".dizzyd" not in p.parts]
    parent = rng.choice([node.root, *directories])
    name = f"n{rng.randrange(8)}"
    match rng.randrange(8):
        case 0 | 1 if not os.path.lexists(parent / name):
            (parent / name).write_bytes(rng.randbytes(rng.randrange(2000)))
        case 2 if not os.path.lexists(parent / name):
            (parent / name).mkdir()
        case 3 if not os.path.lexists(parent / name):
            (parent / name).symlink_to(f"../{rng.randrange(9)}")
        case 4 if files:
            rng.choice(files).write_bytes(rng.randbytes(rng.randrange(2000)))
        case 5 if files:
            path = rng.choice(files)
            if not path.is_symlink():
                path.chmod(rng.choice([0o644, 0o755]))
                os.utime(path, ns=(0, rng.randrange(10**18)))
        case 6 if [*files, *directories]:
            path = rng.choice([*files, *directories])
            target = parent / name
            is_inside = path == target or path in target.parents
            if not is_inside and not os.path.lexists(target):
                path.rename(target)
        case 7 if files:
            rng.choice(files).unlink()
        case _:
            pass


def _is_equal(one: Working, other: Working) -> bool:
    return read_tree(one.root) == read_tree(other.root)


@pytest.mark.parametrize("seed", range(4))
async def test_any_past_state_byte_for_byte_at_every_moment_sampled(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    samples: list[tuple[int, Tree]] = []
    async with pair(tmp_path) as (one, other):
        nodes = [one, other]
        for _ in range(12):
            acting, hearing = rng.sample(nodes, 2)
            for _ in range(rng.randrange(1, 4)):
                play(acting, rng)
            await acting.look()
            was = read_tree(acting.root)
            await eventually(partial(_is_equal, acting, hearing))
            await hearing.settled()
            samples.append((await next_ms(), was))

        for index, (at_ms, was) in enumerate(samples):
            there = tmp_path / f"then-{index}"
            lines = await restore(rng.choice(nodes), "", at_ms=at_ms, to=there)
            assert summary(lines).exit_code == 0, lines
            assert read_tree(there) == was

        at_ms, was = rng.choice(samples)
        before = read_tree(one.root)
        lines = await restore(one, "", at_ms=at_ms)
        if summary(lines).exit_code == 0:
            now = read_tree(one.root)
            assert {path: now[path] for path in was} == was
            assert now.keys() - was.keys() <= before.keys()
        await eventually(lambda: read_tree(other.root) == read_tree(one.root))


# -- safe -----------------------------------------------------------------------------------------


async def _two_versions(node: Working) -> None:
    node.write("a.txt", b"one")
    node.write("copy of one.txt", b"one")
    await node.look()
    node.write("a.txt", b"two", mtime_ns=1_600_000_001_000_000_000)
    await node.look()


async def test_E1_a_restore_leaves_min_free_of_the_disk(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        await _two_versions(node)
        full = HistoryConfig(min_free_bytes=1 << 60, min_free_ratio=None)
        node.node.config = replace(node.node.config, history=full)

        lines = await restore(node, "a.txt")

        [line] = [line for line in lines if line.kind == "failed"]
        assert "a.txt: disk full" in line.text
        assert summary(lines).exit_code == 1
        assert node.read("a.txt") == b"two"
        node.node.config = replace(node.node.config, history=HistoryConfig())
        assert summary(await restore(node, "a.txt")).exit_code == 0
        assert node.read("a.txt") == b"one"


class _Crashed(BaseException):
    pass


async def test_F1_a_crash_after_a_version_was_replaced_leaves_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with alone(tmp_path) as node:
        await _two_versions(node)

        async def crash(_self: FolderJournal, _outcomes: object) -> None:
            raise _Crashed

        with monkeypatch.context() as patched:
            patched.setattr("daemon.returning.settle", _raise_crashed)
            patched.setattr(FolderJournal, "commit", crash)
            with pytest.raises(_Crashed):
                await restore(node, "a.txt")
        await node.stop()
        assert node.read("a.txt") == b"one"
        assert node.history() == []

        node.open()
        await node.start()
        assert node.read("a.txt") == b"one"
        assert node.history() == [b"two"]
        assert (await node.folder_status()).history.versions == 1
        found = await history(node.node, node.work, b"a.txt")
        assert found.objects[0].events[-1].what == "changed"


def _raise_crashed(*_arguments: object, **_named: object) -> None:
    raise _Crashed


async def test_E11_what_a_user_writes_while_a_restore_replaces_is_kept_and_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with alone(tmp_path) as node:
        await _two_versions(node)
        place_over = LinuxDisk.place_over

        def write_first(self: LinuxDisk, *arguments: Any) -> Any:
            node.write("a.txt", b"at the last instant")
            return place_over(self, *arguments)

        monkeypatch.setattr(LinuxDisk, "place_over", write_first)
        await restore(node, "a.txt")
        monkeypatch.undo()
        await node.look()

        contents = {path.read_bytes() for path in node.root.iterdir() if path.is_file()}
        assert contents == {b"one", b"at the last instant"}
        assert b"at the last instant" in node.history()


async def _removed_in_two_looks(node: Working) -> None:
    for name in ("a", "b", "sub/c"):
        node.write(f"d/{name}", name.encode())
        node.write(f"copies/{name}", name.encode())
    await node.look()
    (node.root / "d/a").unlink()
    (node.root / "d/sub/c").unlink()
    await node.look()
    shutil.rmtree(node.root / "d")
    await node.look()


async def test_a_directory_whose_removal_took_several_looks_comes_back_whole(
    tmp_path: Path,
) -> None:
    async with alone(tmp_path) as node:
        await _removed_in_two_looks(node)

        lines = await restore(node, "d")

        assert summary(lines).exit_code == 0, lines
        assert {"d/a", "d/b", "d/sub", "d/sub/c"} <= node.names()


async def test_what_was_removed_long_before_its_directory_stays_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.deletions.PAUSE_MS", -1)
    async with alone(tmp_path) as node:
        await _removed_in_two_looks(node)

        lines = await restore(node, "d")

        assert summary(lines).exit_code == 0, lines
        assert {name for name in node.names() if name.startswith("d/")} == {"d/b", "d/sub"}


async def test_a_removal_begins_behind_the_last_change_of_what_it_took(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        await _removed_in_two_looks(node)
        node.write("d/a", b"again")
        node.write("copies/again", b"again")
        await node.look()
        (node.root / "d/a").unlink()
        await node.look()
        (node.root / "d").rmdir()
        await node.look()

        await restore(node, "d")

        assert {name for name in node.names() if name.startswith("d/")} == {"d/a"}
        assert node.read("d/a") == b"again"


async def test_an_edit_not_seen_yet_is_recorded_before_it_is_replaced(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        await _two_versions(node)
        (node.root / "a.txt").write_bytes(b"three")  # no watcher tells

        await restore(node, "a.txt", digits=blob_hash(b"one").hex()[:8])

        assert node.read("a.txt") == b"one"
        assert node.names() == {"a.txt", "copy of one.txt"}
        assert node.history() == [b"three"]
        events = (await history(node.node, node.work, b"a.txt")).objects[0].events
        assert [event.size for event in events] == [3, 3, 5, 3]


async def test_a_file_that_appears_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with alone(tmp_path) as node:
        await _two_versions(node)
        (node.root / "a.txt").unlink()
        await node.look()
        place_new = LinuxDisk.place_new

        def write_first(self: LinuxDisk, *arguments: Any) -> Any:
            node.write("a.txt", b"mine")
            return place_new(self, *arguments)

        monkeypatch.setattr(LinuxDisk, "place_new", write_first)
        digits = (await history(node.node, node.work, b"a.txt")).objects[0].events[0].hash
        lines = await restore(node, "a.txt", digits=digits)

        assert [line.kind for line in lines] == ["failed", "summary"]
        assert summary(lines).exit_code == 1
        assert node.read("a.txt") == b"mine"


async def test_what_stands_in_the_way_is_kept_or_named(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        node.write("was file", b"file")
        node.write("was directory/in it", b"in it")
        (node.root / "was link").symlink_to("target")
        node.write("copies/file", b"file")
        node.write("copies/in it", b"in it")
        await node.look()
        at_ms = await next_ms()
        (node.root / "was file").unlink()
        (node.root / "was directory/in it").unlink()
        (node.root / "was directory").rmdir()
        (node.root / "was link").unlink()
        await node.look()
        node.write("was file/now directory", b"later")
        node.write("was directory", b"now file")
        node.write("was link", b"now file too")
        await node.look()

        lines = await restore(node, "", at_ms=at_ms)
        await node.look()

        assert [line.text.partition(":")[0] for line in lines if line.kind == "failed"] == [
            "was file"
        ]
        assert node.read("was directory/in it") == b"in it"
        assert os.readlink(node.root / "was link") == "target"
        assert sorted(node.history()) == [b"now file", b"now file too"]
        assert node.read("was file/now directory") == b"later"


async def look_at_displaced(node: Working) -> None:
    world, disk = node.node.world, node.work.disk
    assert disk is not None
    await DisplacedWatch(disk, world.pool, node.work._journal, world.clock, node.node.names).look()


async def test_E22_late_writes_to_what_made_way_for_a_directory_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.displaced.LOOK_AGAIN_NS", 0)
    async with alone(tmp_path) as node:
        node.write("name/in it", b"in it")
        node.write("copy", b"in it")
        await node.look()
        at_ms = await next_ms()
        (node.root / "name/in it").unlink()
        (node.root / "name").rmdir()
        await node.look()
        node.write("name", b"now file")
        await node.look()

        with (node.root / "name").open("ab") as held:
            await restore(node, "", at_ms=at_ms)
            assert node.read("name/in it") == b"in it"
            await look_at_displaced(node)
            held.write(b", written on")
        await look_at_displaced(node)
        await look_at_displaced(node)

        await node.look()

        assert b"now file, written on" in node.history()
        assert b"now file, written on" in {
            node.read(name) for name in node.names() if (node.root / name).is_file()
        }
        assert not node.db.execute("SELECT * FROM displaced").fetchall()


async def test_E22_late_writes_to_what_nobody_knew_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.displaced.LOOK_AGAIN_NS", 0)
    async with alone(tmp_path) as node:
        await _two_versions(node)
        node.write(".dizzyignore", b"a.txt")
        await node.look()
        digits = blob_hash(b"one").hex()[:8]
        node.db.execute("DELETE FROM synced WHERE name = ?", (b"a.txt",))  # it was never recorded

        with (node.root / "a.txt").open("ab") as held:
            await restore(node, "a.txt", digits=digits)
            assert node.read("a.txt") == b"one"
            await look_at_displaced(node)
            held.write(b", written on")
        await look_at_displaced(node)
        await look_at_displaced(node)

        assert node.history() == [b"two, written on"]
        assert not node.db.execute("SELECT * FROM displaced").fetchall()


async def test_E11_what_changes_while_it_is_looked_at_after_a_restore_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.displaced.LOOK_AGAIN_NS", 0)
    async with alone(tmp_path) as node:
        await _two_versions(node)
        look_stage = LinuxDisk.look_stage

        def write_meanwhile(self: LinuxDisk, name: bytes) -> Any:
            if name.startswith(b"displaced"):
                monkeypatch.setattr(LinuxDisk, "look_stage", look_stage)
                (node.root / ".dizzyd/tmp" / os.fsdecode(name)).write_bytes(b"saved just now")
                return LookFailure.CHANGING
            return look_stage(self, name)

        monkeypatch.setattr(LinuxDisk, "look_stage", write_meanwhile)
        await restore(node, "a.txt")
        await look_at_displaced(node)
        await node.look()

        assert b"saved just now" in node.history()
        assert b"saved just now" in {
            node.read(name) for name in node.names() if (node.root / name).is_file()
        }


async def test_contents_that_nobody_has_are_named_and_the_rest_is_restored(
    tmp_path: Path,
) -> None:
    async with alone(tmp_path) as node:
        node.write("d/lost", b"lost")
        node.write("d/kept", b"kept")
        await node.look()
        at_ms = await next_ms()
        node.write("d/lost", b"written over by its user")
        (node.root / "d/kept").rename(node.root / "kept elsewhere")
        await node.look()

        lines = await restore(node, "d", at_ms=at_ms)

        assert [(line.kind, line.text[:6]) for line in lines[:1]] == [("missing", "d/lost")]
        assert summary(lines).exit_code == 1
        assert node.read("d/kept") == b"kept"
        assert node.read("d/lost") == b"written over by its user"
        outside = tmp_path / "outside"
        lines = await restore(node, "d", at_ms=at_ms, to=outside)
        assert summary(lines).exit_code == 1
        assert sorted(path.name for path in outside.iterdir()) == ["kept"]
        assert not [path for path in tmp_path.iterdir() if "tmp" in path.name]


async def test_a_reader_restores_elsewhere_only(tmp_path: Path) -> None:
    async with pair(tmp_path, Role.READ) as (owner, reader):
        owner.write("a.txt", b"one")
        await owner.look()
        await eventually(lambda: reader.has("a.txt", b"one"))
        owner.write("a.txt", b"two", mtime_ns=1_600_000_001_000_000_000)
        await owner.look()
        await eventually(lambda: reader.has("a.txt", b"two"))
        await reader.settled()

        with pytest.raises(DizzyError, match="only read") as refused:
            await restore(reader, "a.txt")
        assert "--to" in refused.value.hint
        await restore(reader, "a.txt", to=tmp_path / "one.txt")
        assert (tmp_path / "one.txt").read_bytes() == b"one"


async def test_large_contents_come_back_from_history_and_from_a_peer(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(3 << 20)
    async with pair(tmp_path) as (owner, other):
        owner.write("large", content)
        await owner.look()
        await eventually(lambda: other.has("large", content))
        owner.write("large", b"small now", mtime_ns=1_600_000_001_000_000_000)
        await owner.look()
        await eventually(lambda: other.has("large", b"small now"))
        await asyncio.gather(owner.settled(), other.settled())

        await restore(owner, "large", to=tmp_path / "from a peer")
        await restore(other, "large")

        assert (tmp_path / "from a peer").read_bytes() == content
        await eventually(lambda: owner.has("large", content))


async def test_a_restore_under_way_is_no_download_that_came_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = random.Random(1).randbytes(3 << 20)
    async with alone(tmp_path) as node:
        node.write("large", content)
        node.write("copy", content)
        await node.look()
        node.write("large", b"small now", mtime_ns=1_600_000_001_000_000_000)
        await node.look()
        applier = node.work.applier
        assert applier is not None
        large = FolderContents.large

        async def tidied_meanwhile(self: FolderContents, *arguments: Any) -> bool:
            is_whole = await large(self, *arguments)
            applier._large._may_have_left = True  # the download of somebody else ended
            await applier.forget_downloads()
            return is_whole

        monkeypatch.setattr(FolderContents, "large", tidied_meanwhile)
        lines = await restore(node, "large")

        assert [line.kind for line in lines] == ["summary"]
        assert node.read("large") == content


async def _cat(node: Working, blob: BlobHash) -> bytes:
    return b"".join([piece async for piece in cat_hash(node.node, blob)])


@pytest.mark.parametrize("size", [0, 100, 3 << 20])
async def test_cat_reads_what_is_true_from_disk_history_or_a_peer(
    tmp_path: Path, size: int
) -> None:
    content = random.Random(2).randbytes(size)
    async with pair(tmp_path) as (owner, other):
        owner.write("a", content)
        await owner.look()
        await eventually(lambda: other.has("a", content))
        await other.settled()
        assert await _cat(other, blob_hash(content)) == content  # a file
        owner.write("a", b"new", mtime_ns=1_600_000_001_000_000_000)
        await owner.look()
        await eventually(lambda: other.has("a", b"new"))
        await other.settled()

        assert await _cat(other, blob_hash(content)) == content  # history
        assert await _cat(owner, blob_hash(content)) == content  # a peer
        assert [path.name for path in (owner.root / ".dizzyd/tmp").iterdir()] == []


async def test_the_download_of_a_cat_is_left_alone_by_a_folder_at_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = random.Random(2).randbytes(3 << 20)
    async with pair(tmp_path) as (owner, other):
        owner.write("a", content)
        await owner.look()
        await eventually(lambda: other.has("a", content))
        owner.write("a", b"new", mtime_ns=1_600_000_001_000_000_000)
        await owner.look()
        await eventually(lambda: other.has("a", b"new"))
        await owner.settled()
        applier, stages = owner.work.applier, owner.root / ".dizzyd/tmp"
        assert applier is not None
        fetch = owner.node.fetcher.fetch_large
        seen: list[int] = []

        async def tidied_meanwhile(*arguments: Any) -> bool:
            is_whole = await fetch(*arguments)
            applier._large._may_have_left = True  # the download of somebody else ended
            await applier.forget_downloads()
            seen.append(len(list(stages.iterdir())))
            return is_whole

        monkeypatch.setattr(owner.node.fetcher, "fetch_large", tidied_meanwhile)

        assert await _cat(owner, blob_hash(content)) == content
        assert seen == [1]
        assert not list(stages.iterdir())


async def test_cat_never_shows_damaged_bytes(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        owner.write("a", b"one")
        await owner.look()
        await eventually(lambda: other.has("a", b"one"))
        owner.write("a", b"two", mtime_ns=1_600_000_001_000_000_000)
        await owner.look()
        await eventually(lambda: other.has("a", b"two"))
        await other.settled()
        [kept] = (other.root / ".dizzyd/history").iterdir()
        kept.write_bytes(b"0ne")

        with pytest.raises(TryLater):
            await _cat(other, blob_hash(b"one"))
