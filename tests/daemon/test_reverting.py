from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from daemon.reverting import put_back_deleted, revert_local_changes
from store.access import Role
from store.errors import DizzyError
from tests.daemon.working import OLD_NS, Working, alone, eventually, pair

if TYPE_CHECKING:
    from pathlib import Path

LATER_NS = OLD_NS + 5_000_000_000


def tree(node: Working) -> dict[str, bytes | None]:
    """Read names and contents."""
    return {
        name: node.read(name) if (node.root / name).is_file() else None for name in node.names()
    }


async def _shared(owner: Working, reader: Working) -> dict[str, bytes | None]:
    """Bring a few files to the reader."""
    owner.write("one.txt", b"one")
    owner.write("two.txt", b"two")
    owner.write("sub/three.txt", b"three")
    owner.write("sub/deep/four.txt", b"four")
    await owner.look()
    await eventually(lambda: tree(reader) == tree(owner))
    await reader.settled()
    return tree(owner)


async def _revert(owner: Working, reader: Working) -> None:
    await revert_local_changes(reader.node, reader.work)
    await eventually(lambda: tree(reader) == tree(owner))
    await reader.look()
    assert tree(reader) == tree(owner)


async def test_revert_is_refused_where_the_node_may_write(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        node.write("own.txt", b"own")
        await node.look()

        with pytest.raises(DizzyError, match="may write") as refused:
            await revert_local_changes(node.node, node.work)

        assert refused.value.hint
        assert node.read("own.txt") == b"own"


async def test_revert_moves_a_readers_edit_to_history_and_brings_the_shared_bytes_back(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path, Role.READ) as (owner, reader):
        await _shared(owner, reader)
        reader.write("one.txt", b"mine now", mtime_ns=LATER_NS)
        await reader.look()
        assert (await reader.folder_status()).local_changes == 1

        await _revert(owner, reader)

        assert reader.history() == [b"mine now"]
        assert (await reader.folder_status()).local_changes == 0
        assert (reader.root / "one.txt").stat().st_mtime_ns == OLD_NS
        await eventually(lambda: reader.work.is_settled)
        status = await reader.folder_status()
        assert status.history.versions == 1
        assert status.history.bytes == len(b"mine now")


async def test_revert_moves_what_a_reader_made_to_history_and_removes_its_directories(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path, Role.READ) as (owner, reader):
        await _shared(owner, reader)
        reader.write("new.txt", b"new")
        reader.write("made/here/deep.txt", b"deep")
        (reader.root / "made" / "link").symlink_to("nowhere")
        await reader.look()
        assert (await reader.folder_status()).local_changes >= 2

        await _revert(owner, reader)

        kept = reader.root / ".dizzyd" / "history"
        assert {path.read_bytes() for path in kept.iterdir() if not path.is_symlink()} == {
            b"new",
            b"deep",
        }
        assert [path.readlink().name for path in kept.iterdir() if path.is_symlink()] == ["nowhere"]
        rows = reader.db.execute("SELECT count(*) FROM synced WHERE object_no < 0").fetchone()
        assert rows == (0,)


async def test_revert_puts_moved_names_back_without_a_byte_sent(tmp_path: Path) -> None:
    async with pair(tmp_path, Role.READ) as (owner, reader):
        await _shared(owner, reader)
        inode = (reader.root / "one.txt").stat().st_ino
        (reader.root / "one.txt").rename(reader.root / "sub" / "renamed.txt")
        (reader.root / "sub").rename(reader.root / "other")
        fetched = reader.node.fetcher.received_bytes
        await reader.look()

        await _revert(owner, reader)

        assert (reader.root / "one.txt").stat().st_ino == inode
        assert reader.node.fetcher.received_bytes == fetched
        assert reader.history() == []


async def test_revert_undoes_a_swap_and_a_move_into_a_directory_of_the_readers_own(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path, Role.READ) as (owner, reader):
        await _shared(owner, reader)
        (reader.root / "one.txt").rename(reader.root / "aside")
        (reader.root / "two.txt").rename(reader.root / "one.txt")
        (reader.root / "aside").rename(reader.root / "two.txt")
        (reader.root / "mine").mkdir()
        (reader.root / "sub").rename(reader.root / "mine" / "sub")
        await reader.look()

        await _revert(owner, reader)

        assert reader.history() == []


async def test_revert_brings_deleted_files_and_directories_back(tmp_path: Path) -> None:
    async with pair(tmp_path, Role.READ) as (owner, reader):
        await _shared(owner, reader)
        (reader.root / "sub" / "deep" / "four.txt").unlink()
        (reader.root / "sub" / "deep").rmdir()
        (reader.root / "two.txt").unlink()
        await reader.look()

        await _revert(owner, reader)


async def test_revert_sets_the_shared_executable_bit_and_time_again(tmp_path: Path) -> None:
    async with pair(tmp_path, Role.READ) as (owner, reader):
        await _shared(owner, reader)
        file = reader.root / "one.txt"
        file.chmod(0o755)
        os.utime(file, ns=(LATER_NS, LATER_NS))

        await _revert(owner, reader)

        await eventually(lambda: not file.stat().st_mode & 0o100)
        assert file.stat().st_mtime_ns == OLD_NS


async def test_revert_lets_a_waiting_newer_version_come(tmp_path: Path) -> None:
    async with pair(tmp_path, Role.READ) as (owner, reader):
        await _shared(owner, reader)
        reader.write("one.txt", b"mine", mtime_ns=LATER_NS)
        await reader.look()
        owner.write("one.txt", b"newer", mtime_ns=LATER_NS)
        await owner.look()
        await eventually(lambda: reader.node.shelf[1].log.batches == owner.stored.log.batches)
        await reader.look()
        assert reader.read("one.txt") == b"mine"

        await _revert(owner, reader)

        assert reader.read("one.txt") == b"newer"
        assert reader.history() == [b"mine"]


async def test_revert_that_was_cut_off_by_a_stop_is_done_at_the_next_start(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path, Role.READ) as (owner, reader):
        await _shared(owner, reader)
        reader.write("one.txt", b"mine", mtime_ns=LATER_NS)
        reader.write("new.txt", b"new")
        (reader.root / "two.txt").unlink()
        await reader.look()
        standing = reader.work.standing
        applier, standing.applier = standing.applier, None
        reader.work._apply._may_apply = lambda: False  # type: ignore[method-assign]
        await revert_local_changes(reader.node, reader.work)
        standing.applier = applier
        await reader.stop()

        reader.open()
        await reader.start(owner)

        await eventually(lambda: tree(reader) == tree(owner))
        assert sorted(reader.history()) == [b"mine", b"new"]


async def test_revert_leaves_what_is_ignored_alone(tmp_path: Path) -> None:
    async with pair(tmp_path, Role.READ) as (owner, reader):
        await _shared(owner, reader)
        reader.write("sub/.notes.swp", b"vim")
        reader.write("made/.other.swp", b"vim too")
        await reader.look()

        await revert_local_changes(reader.node, reader.work)
        await reader.look()

        assert reader.read("sub/.notes.swp") == b"vim"
        assert reader.read("made/.other.swp") == b"vim too"
        assert reader.history() == []


async def test_undo_deletions_is_refused_where_none_is_held(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        with pytest.raises(DizzyError, match="nothing is held"):
            await put_back_deleted(node.node, node.work)


async def test_undo_deletions_brings_held_files_back_and_records_no_deletion(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path) as (owner, other):
        for number in range(130):
            owner.write(f"many/{number}.txt", b"content %d" % number)
        owner.write("stays.txt", b"stays")
        await owner.look()
        await eventually(lambda: tree(other) == tree(owner), 20)
        await other.settled()
        before = tree(owner)
        batches = other.stored.log.batches
        await other.stop()
        for file in (other.root / "many").iterdir():
            file.unlink()
        (other.root / "many").rmdir()
        other.open()
        await other.start(owner)
        await eventually(lambda: other.work.held)
        status = await other.folder_status()
        assert status.state == "held"
        assert status.held_deletions == 131
        assert "undo-deletions photos" in status.problems[0].hint

        await put_back_deleted(other.node, other.work)
        await eventually(lambda: tree(other) == before, 20)
        await other.look()

        assert not other.work.held
        assert tree(owner) == before
        assert other.stored.log.batches == batches
        assert (await other.folder_status()).problems == ()


OLD_TIME_NS = 1_600_000_000_000_000_000
NEW_TIME_NS = 1_700_000_000_000_000_000


async def edited_many(owner: Working, other: Working, number: int) -> None:
    """Give both nodes files in two versions each, the newer ones on disk."""
    for version, mtime_ns in ((b"older", OLD_TIME_NS), (b"newer", NEW_TIME_NS)):
        for no in range(number):
            owner.write(f"d/f{no}", b"%b %d" % (version, no), mtime_ns=mtime_ns)
        await owner.look()
    await eventually(
        lambda: tree(other) == tree(owner) and other.work.is_settled and owner.work.is_settled, 30
    )


def put_back_files(node: Working, number: int, mtime_ns: int = OLD_TIME_NS) -> None:
    for no in range(number):
        node.write(f"d/f{no}", b"older %d" % no, mtime_ns=mtime_ns)


async def test_A12_restored_files_are_held_and_newer_ones_elsewhere_stay(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        await edited_many(owner, other, 120)
        before, batches = tree(owner), owner.stored.log.batches
        await other.stop()
        put_back_files(other, 120)
        other.write("d/new", b"an edit of its own")
        other.open()

        await other.start(owner)
        await eventually(lambda: other.work.standing.reverted)
        await eventually(lambda: owner.has("d/new", b"an edit of its own"))
        owner.write("d/f7", b"newest", mtime_ns=NEW_TIME_NS + 1)
        await owner.look()
        await other.look()
        status = await other.folder_status()

        assert (status.state, status.held_reversions) == ("held", 120)
        assert "undo-deletions photos" in status.problems[0].hint
        assert other.has("d/f7", b"older 7")
        await put_back_deleted(other.node, other.work)
        await eventually(lambda: other.has("d/f7", b"newest"))
        await eventually(lambda: tree(other) == tree(owner), 20)
        assert {p: c for p, c in tree(other).items() if p in before and p != "d/f7"} == {
            p: c for p, c in before.items() if p != "d/f7"
        }
        assert b"older 9" in other.history()
        assert owner.stored.log.batches == batches + 2
        assert (await other.folder_status()).problems == ()


async def test_A12_restored_files_are_shared_once_confirmed(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        await edited_many(owner, other, 120)
        await other.stop()
        put_back_files(other, 120)
        other.open()
        await other.start(owner)
        await eventually(lambda: other.work.standing.reverted)

        other.work.confirm()
        await other.look()
        await eventually(lambda: owner.has("d/f7", b"older 7") and owner.has("d/f99", b"older 99"))

        assert not other.work.standing.reverted
        assert not any("conflict" in name for name in owner.names())


@pytest.mark.parametrize(("number", "mtime_ns"), [(50, OLD_TIME_NS), (120, NEW_TIME_NS + 9)])
async def test_few_older_files_and_those_of_new_times_are_edits(
    tmp_path: Path, number: int, mtime_ns: int
) -> None:
    async with pair(tmp_path) as (owner, other):
        await edited_many(owner, other, 120)
        await other.stop()
        put_back_files(other, number, mtime_ns)
        other.open()

        await other.start(owner)
        await eventually(lambda: owner.has("d/f7", b"older 7"))

        assert not other.work.standing.reverted


async def test_A12_an_edit_of_a_held_file_that_nobody_saw_yet_is_not_taken_back(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path) as (owner, other):
        await edited_many(owner, other, 120)
        await other.stop()
        put_back_files(other, 120)
        other.open()
        await other.start(owner)
        await eventually(lambda: other.work.standing.reverted)
        other.write("d/f7", b"saved this very moment")  # no watcher tells

        await put_back_deleted(other.node, other.work)
        await eventually(lambda: other.has("d/f8", b"newer 8"))
        await other.settled()

        assert other.read("d/f7") == b"saved this very moment"
        await other.look()
        await eventually(lambda: owner.has("d/f7", b"saved this very moment"))
