from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from daemon import repairing
from daemon.contents import FolderContents
from daemon.repairing import beside, repair
from store.ids import BlobHash, blob_hash
from tests.daemon.test_verifying import findings_of, flip, rot
from tests.daemon.working import Working, alone, eventually, pair

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.answers import VerifyLine

NEW_NS = 1_700_000_000_000_000_000


async def repaired(node: Working) -> tuple[list[str], VerifyLine]:
    """Repair; give what it says of damage, and the summary."""
    lines = [line async for line in repair(node.node, list(node.node.works.values()))]
    unheard = ("progress", "pending")
    texts = [f"{line.kind} {line.text}" for line in lines[:-1] if line.kind not in unheard]
    assert lines[-1].kind == "summary"
    return texts, lines[-1]


async def filled(owner: Working, other: Working) -> None:
    owner.write("a.txt", b"alpha")
    owner.write("sub/large.bin", bytes(range(256)) * 12_000)
    await owner.look()
    await eventually(
        lambda: (
            other.has("a.txt", b"alpha")
            and other.names() == owner.names()
            and other.work.is_settled
            and owner.work.is_settled
            and owner.stored.state.root() == other.stored.state.root()
        )
    )


@pytest.mark.parametrize("path", ["a.txt", "sub/large.bin"])
async def test_G8_a_flipped_file_is_healed_from_a_peer_and_kept_in_history(
    tmp_path: Path, path: str
) -> None:
    async with pair(tmp_path) as (owner, other):
        await filled(owner, other)
        good = other.read(path)
        batches = other.stored.log.batches
        rot(other, path)
        bad = other.read(path)
        assert len(await findings_of(other)) == 1

        texts, summary = await repaired(other)

        assert texts == [
            f"repaired photos: {path}: the shared version is back, the damaged one is in history"
        ]
        assert summary.exit_code == 0
        assert other.read(path) == good
        assert bad in other.history()
        assert owner.read(path) == good
        assert not await findings_of(other)
        await other.look()
        assert other.stored.log.batches == owner.stored.log.batches == batches


async def test_G8_a_flipped_file_that_no_peer_has_now_waits_and_is_healed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repairing, "WAIT_S", 5.0)
    async with pair(tmp_path) as (owner, other):
        await filled(owner, other)
        await owner.stop()
        rot(other, "a.txt")
        bad = other.read("a.txt")

        texts, summary = await repaired(other)

        assert texts == ["waiting photos: a.txt: no peer has it now"]
        assert summary.exit_code == 75
        assert other.read("a.txt") == bad
        owner.open()
        await owner.start(other)
        await eventually(lambda: other.has("a.txt", b"alpha"))
        assert bad in other.history()
        assert owner.read("a.txt") == b"alpha"


async def test_G1_a_wrong_record_of_a_good_file_is_put_right(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        node.write("a.txt", b"alpha")
        await node.look()
        before = (node.root / "a.txt").stat()
        node.db.execute("UPDATE synced SET value = ? WHERE kind = 0", (bytes(32),))
        assert await findings_of(node)

        texts, _ = await repaired(node)

        assert texts == ["repaired photos: a.txt: only its record was wrong"]
        assert (node.root / "a.txt").stat() == before
        assert not await findings_of(node)


@pytest.mark.parametrize("how", ["flipped", "gone", "flipped, and the folder tidies up meanwhile"])
async def test_G8_a_version_in_history_is_fetched_again(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (owner, other):
        await filled(owner, other)
        other.write("same.txt", b"alpha")  # so that the version can still be had
        await other.look()
        owner.write("a.txt", b"better", mtime_ns=NEW_NS)
        await owner.look()
        await eventually(lambda: other.history() == [b"alpha"])
        await eventually(lambda: owner.has("same.txt", b"alpha"))
        await eventually(lambda: other.db.execute("SELECT count(*) FROM kept").fetchone()[0])
        await other.settled()
        [kept] = (other.root / ".dizzyd" / "history").iterdir()
        other.db.execute("DELETE FROM displaced")
        if how == "gone":
            kept.unlink()
        else:
            kept.write_bytes(flip(kept.read_bytes()))
        assert len(await findings_of(other)) == 1
        if "tidies" in how:
            monkeypatch.setattr(FolderContents, "small", _tidying(other))

        texts, summary = await repaired(other)

        assert [text.rpartition(": ")[2] for text in texts] == ["a good copy is kept again"]
        assert summary.exit_code == 0
        assert b"alpha" in other.history()
        assert len(other.history()) == (1 if how == "gone" else 2)
        assert not await findings_of(other)


def _tidying(node: Working) -> Any:
    """Fetch small contents, and remove what downloads left in tmp, as a folder at rest does."""
    applier, small = node.work.applier, FolderContents.small
    assert applier is not None

    async def tidied_meanwhile(self: FolderContents, *arguments: Any) -> dict[BlobHash, bytes]:
        found = await small(self, *arguments)
        applier._large._may_have_left = True
        await applier.forget_downloads()
        return found

    return tidied_meanwhile


async def test_G1_a_wrong_state_is_folded_anew(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        node.write("a.txt", b"alpha")
        await node.look()
        root = node.stored.state.root()
        node.db.execute("UPDATE object SET size = 99 WHERE kind = 0")
        assert await findings_of(node)

        texts, _ = await repaired(node)

        assert texts == ["repaired photos: its state: folded anew from the log"]
        assert not await findings_of(node)
        assert node.stored.state.root() == root


async def test_G1_a_damaged_batch_lets_the_daemon_replace_its_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repairing, "REPLACE_S", 0.0)
    async with alone(tmp_path) as node:
        node.write("a.txt", b"alpha")
        await node.look()
        [(no, body)] = node.db.execute(
            "SELECT no, body FROM batch ORDER BY no DESC LIMIT 1"
        ).fetchall()
        node.db.execute("UPDATE batch SET body = ? WHERE no = ?", (flip(body), no))
        told: list[str] = []
        node.node.on_damage = told.append

        texts, summary = await repaired(node)
        await eventually(lambda: told)

        assert "built anew" in texts[-1]
        assert summary.exit_code == 0
        assert "batch" in told[0]


async def test_nothing_to_repair(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        node.write("a.txt", b"alpha")
        await node.look()

        texts, summary = await repaired(node)

        assert (texts, summary.text, summary.exit_code) == ([], "nothing to repair", 0)


def test_a_good_copy_stands_beside_the_damaged_version() -> None:
    value = blob_hash(b"alpha").hex()
    name = os.fsencode(f"20261123T120000.000000009Z-7-{value}-notes.txt")

    found = beside(name)

    assert found == os.fsencode(f"20261123T120000.000000010Z-7-{value}-notes.txt")
