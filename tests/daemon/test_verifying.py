from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from daemon.config import Config, FolderConfig, HistoryConfig, LimitsConfig, NodeConfig
from daemon.inspection import Inspection
from daemon.positions import Position
from daemon.scratch import Scratch
from daemon.verifying import verify
from store.ids import FolderId
from tests.daemon.working import OLD_NS, Working, alone, eventually, pair

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.answers import VerifyLine

LATER_NS = OLD_NS + 5_000_000_000


async def lines_of(node: Working) -> list[VerifyLine]:
    return [line async for line in verify(node.node, list(node.node.works.values()))]


async def findings_of(node: Working) -> list[str]:
    lines = await lines_of(node)
    found = [line.text for line in lines if line.kind == "finding"]
    assert lines[-1].kind == "summary"
    assert lines[-1].findings == len(found)
    return found


async def fill(node: Working) -> None:
    node.write("a.txt", b"alpha")
    node.write("sub/b.txt", b"beta")
    node.write("sub/c.bin", bytes(3_000_000))
    (node.root / "link").symlink_to("a.txt")
    await node.look()


def flip(content: bytes, at: int = -1) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 1
    return bytes(changed)


def rot(node: Working, path: str) -> None:
    """Change a bit of a file as a bad disk does: nothing else about the file tells of it."""
    file = node.root / path
    before = file.stat()
    file.write_bytes(flip(file.read_bytes()))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    node.db.execute(
        "UPDATE synced SET ctime_ns = ? WHERE inode = ?", (file.stat().st_ctime_ns, before.st_ino)
    )


async def test_verify_finds_nothing_wrong_with_a_healthy_folder(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        await fill(node)

        lines = await lines_of(node)

        assert [line for line in lines if line.kind in ("finding", "pending")] == []
        summary = lines[-1]
        assert summary.kind == "summary"
        assert "all is well" in summary.text
        assert summary.done_bytes == summary.total_bytes > 3_000_000
        done = [line.done_bytes for line in lines if line.kind == "progress"]
        assert done == sorted(done)


async def test_verify_finds_a_flipped_bit_of_a_file(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        await fill(node)
        rot(node, "sub/b.txt")

        [text] = await findings_of(node)

        assert text.startswith("photos: sub/b.txt: its bytes are not those recorded")


async def test_verify_does_not_call_a_users_edit_damage(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        await fill(node)
        node.write("a.txt", b"ALPHA", mtime_ns=LATER_NS)
        node.write("new.txt", b"new")

        assert await findings_of(node) == []


async def test_verify_tells_of_a_file_that_is_gone_without_calling_it_damage(
    tmp_path: Path,
) -> None:
    async with alone(tmp_path) as node:
        await fill(node)
        (node.root / "a.txt").unlink()

        lines = await lines_of(node)

        assert [line.text for line in lines if line.kind == "pending"] == [
            "photos: a.txt: is not on disk any more"
        ]
        assert lines[-1].findings == 0


async def test_G1_verify_tells_of_an_epoch_that_no_log_has(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        await fill(node)
        await node.stop()
        with closing(sqlite3.connect(node.home.database)) as db:
            db.execute("UPDATE folder SET epoch = ?", (b"another epoch...",))
            db.commit()
        node.open()
        await node.start()

        lines = await lines_of(node)

        [told] = [line.text for line in lines if line.kind == "pending"]
        assert "our next change begins a new log" in told
        node.write("later.txt", b"later")
        await node.look()
        lines = await lines_of(node)
        assert not [line for line in lines if line.kind in ("pending", "finding")]


async def test_verify_names_a_path_as_it_is(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        name = os.fsdecode(b"\xff\x1b[2J\n")
        node.write(name, b"content")
        await node.look()
        rot(node, name)

        [text] = await findings_of(node)

        assert name in text  # the command line escapes what it shows


@pytest.mark.parametrize("column", ["header", "signature", "body"])
async def test_P3_verify_finds_a_flipped_bit_of_a_batch(tmp_path: Path, column: str) -> None:
    async with alone(tmp_path) as node:
        await fill(node)
        no, stored = node.db.execute(
            f"SELECT no, {column} FROM batch ORDER BY no DESC LIMIT 1"
        ).fetchone()
        node.db.execute(f"UPDATE batch SET {column} = ? WHERE no = ?", (flip(stored), no))

        [text] = await findings_of(node)

        assert text.startswith("photos: batch ")


async def test_verify_finds_every_flipped_byte_of_a_batch(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        node.write("a.txt", b"alpha")
        await node.look()
        [(no, header, signature, body)] = node.db.execute(
            "SELECT no, header, signature, body FROM batch ORDER BY no DESC LIMIT 1"
        ).fetchall()
        for column, stored in (("header", header), ("signature", signature), ("body", body)):
            for at in range(0, len(stored), 7):
                node.db.execute(
                    f"UPDATE batch SET {column} = ? WHERE no = ?", (flip(stored, at), no)
                )
                assert await _log_findings(node), (column, at)
            node.db.execute(f"UPDATE batch SET {column} = ? WHERE no = ?", (stored, no))
        assert not await _log_findings(node)


async def _log_findings(node: Working) -> list[str]:
    inspection = Inspection(node.node, node.work, Position(0))
    return [line.text async for line in inspection.log() if line.kind == "finding"]


@pytest.mark.parametrize(
    ("column", "value"),
    [("seq", 7), ("lamport", 99), ("is_void", 1), ("is_applied", 0), ("log_no", 999)],
)
async def test_verify_finds_a_batch_that_is_filed_wrongly(
    tmp_path: Path, column: str, value: int
) -> None:
    async with alone(tmp_path) as node:
        await fill(node)
        node.db.execute(
            f"UPDATE batch SET {column} = ? WHERE no = (SELECT max(no) FROM batch)", (value,)
        )

        assert await findings_of(node)


async def test_verify_finds_a_batch_that_is_lost(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        await fill(node)
        node.write("later.txt", b"later")
        await node.look()
        node.db.execute("DELETE FROM batch WHERE no = 2")

        found = await findings_of(node)

        assert any("is not in the log, and others follow it" in text for text in found)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("value", b"\x00" * 32),
        ("size", 77),
        ("mtime_ns", 5),
        ("mode", 1),
        ("flags", 0),
        ("name", b"other"),
        ("head_event", b"\x01" * 32),
        ("kind", 2),
        ("last_move", b"\x02" * 32),
        ("latest_lamport", 1000),
    ],
)
async def test_verify_finds_a_changed_row_of_the_state(
    tmp_path: Path, column: str, value: object
) -> None:
    async with alone(tmp_path) as node:
        await fill(node)
        node.db.execute(f"UPDATE object SET {column} = ? WHERE name = ?", (value, b"b.txt"))

        found = await findings_of(node)

        assert any(
            "sub/b.txt: its state is not what the log says" in text and column in text
            for text in found
        )


async def test_verify_finds_a_lost_and_a_foreign_object(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        await fill(node)
        columns = [row[1] for row in node.db.execute("PRAGMA table_info(object)")]
        kept = ", ".join("999" if c == "no" else "x'aa'" if c == "id" else c for c in columns)
        node.db.execute(f"INSERT INTO object SELECT {kept} FROM object WHERE name = x'612e747874'")
        node.db.execute("DELETE FROM object WHERE name = ?", (b"b.txt",))

        found = await findings_of(node)

        assert any("sub/b.txt: is missing in the state" in text for text in found)
        assert any("object aa stands in the state, not in the log" in text for text in found)


async def test_verify_finds_a_wrong_state_root(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        await fill(node)
        node.stored.state.root()
        node.stored.state.buckets._hashes[:32] = b"\x07" * 32
        node.stored.state.buckets._root = None

        [text] = await findings_of(node)

        assert "the state root is" in text


async def test_verify_finds_a_flipped_bit_and_a_gap_in_history(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        for number in range(3):
            owner.write(f"{number}.txt", b"first %d" % number)
        await owner.look()
        await eventually(lambda: other.has("2.txt", b"first 2"))
        for number in range(3):
            owner.write(f"{number}.txt", b"second %d" % number, mtime_ns=LATER_NS)
        await owner.look()
        await eventually(lambda: len(other.history()) == 3)
        await other.settled()
        other.db.execute("DELETE FROM displaced")
        assert await findings_of(other) == []
        first, second, _ = sorted((other.root / ".dizzyd" / "history").iterdir())
        first.chmod(0o600)
        first.write_bytes(flip(first.read_bytes()))
        second.unlink()

        found = await findings_of(other)

        assert sorted(found) == sorted(
            [
                f"photos: history: {first.name}: its bytes are not those that were kept",
                f"photos: history: {second.name}: is gone",
            ]
        )


async def test_verify_waits_with_what_somebody_may_still_be_writing(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        owner.write("a.txt", b"first")
        await owner.look()
        await eventually(lambda: other.has("a.txt", b"first"))
        owner.write("a.txt", b"second", mtime_ns=LATER_NS)
        await owner.look()
        await eventually(lambda: other.history() == [b"first"])
        [kept] = (other.root / ".dizzyd" / "history").iterdir()
        kept.chmod(0o600)
        kept.write_bytes(b"fir5t")

        assert await findings_of(other) == []


async def test_verify_waits_with_what_went_with_its_directory_just_now(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        owner.write("d/a.txt", b"first")
        await owner.look()
        await eventually(lambda: other.has("d/a.txt", b"first"))
        (owner.root / "d/a.txt").unlink()
        (owner.root / "d").rmdir()
        await owner.look()
        await eventually(lambda: other.history() == [b"first"])
        await eventually(lambda: other.db.execute("SELECT 1 FROM kept").fetchone())
        [kept] = (other.root / ".dizzyd" / "history").iterdir()
        kept.chmod(0o600)
        kept.write_bytes(b"fir5t")

        assert await findings_of(other) == []


async def test_verify_calls_content_on_its_way_pending(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        owner.write("a.txt", b"first")
        await owner.look()
        await eventually(lambda: other.has("a.txt", b"first"))
        other.work._apply._may_apply = lambda: False  # type: ignore[method-assign]
        owner.write("b.txt", b"12345")
        await owner.look()
        await eventually(lambda: other.stored.log.batches == owner.stored.log.batches)

        lines = await lines_of(other)

        assert [line.text for line in lines if line.kind == "pending"] == [
            "photos: 1 file, 5 bytes still on the way"
        ]
        assert lines[-1].findings == 0


async def test_verify_follows_a_log_that_grows_meanwhile(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        await fill(node)
        for number in range(60):
            node.write(f"more/{number}", b"%d" % number)
        await node.look()
        is_first = True
        found = []

        async for line in verify(node.node, [node.work]):
            found.append(line)
            if line.kind == "progress" and line.done_bytes and is_first:
                is_first = False
                node.write("a.txt", b"changed while it is read", mtime_ns=LATER_NS)
                node.write("fresh.txt", b"fresh")
                await node.look()

        assert [line for line in found if line.kind in ("finding", "pending")] == []


async def test_verify_of_a_stopped_node_opens_the_disk_itself(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        await fill(node)
        rot(node, "a.txt")
        await node.stop()
        node.open()
        await node.node.load()
        assert node.work.disk is None

        [text] = await findings_of(node)

        assert "a.txt" in text
        assert node.work.disk is None
        node.db.close()


async def test_verify_reports_a_root_that_is_lost(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        await fill(node)
        await node.stop()
        node.root.rename(tmp_path / "elsewhere")
        node.open()
        await node.node.load()

        found = await findings_of(node)

        assert found
        assert all("a.txt" not in text for text in found)
        (tmp_path / "elsewhere").rename(node.root)
        node.db.close()


async def test_verify_reports_a_damaged_page_and_goes_on(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        await fill(node)
        rot(node, "a.txt")
        await node.stop()
        with closing(sqlite3.connect(node.home.database)) as plain:
            (page,) = plain.execute(
                "SELECT rootpage FROM sqlite_master WHERE name = 'event'"
            ).fetchone()
            (page_size,) = plain.execute("PRAGMA page_size").fetchone()
        with node.home.database.open("r+b") as file:
            file.seek((page - 1) * page_size)
            file.write(b"\xee" * 64)
        node.open()
        await node.node.load()

        found = await findings_of(node)

        assert any("database" in text for text in found)
        assert any("a.txt: its bytes are not" in text for text in found)
        node.db.close()


async def test_verify_calls_a_folder_that_only_the_configuration_knows_damage(
    tmp_path: Path,
) -> None:
    async with alone(tmp_path) as node:
        node.node.config = Config(
            node=NodeConfig(name="desk"),
            folders={
                "lost": FolderConfig(name="lost", path=tmp_path / "x", id=FolderId(b"\x01" * 32)),
                "by-hand": FolderConfig(name="by-hand", path=tmp_path / "y"),
            },
            peers={},
            history=HistoryConfig(),
            limits=LimitsConfig(),
        )

        [text] = await findings_of(node)

        assert text.startswith("lost: config.toml names it")


async def test_scratch_leaves_the_database_of_the_node_alone(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        await fill(node)
        before = list(node.db.connection.iterdump())

        await findings_of(node)

        assert list(node.db.connection.iterdump()) == before
        Scratch(node.work.folder).close()
