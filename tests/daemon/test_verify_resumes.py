"""A verify that was cut short goes on where it was, and forgets nothing that it found."""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from daemon import positions, verifying
from daemon.verifying import verify
from tests.daemon.test_verifying import lines_of, rot
from tests.daemon.working import OLD_NS, Working, alone, eventually, pair

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.answers import VerifyLine

FILES = 12
FILE_BYTES = 100_000


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.file_inspection.UNIT_BYTES", 1)


async def fill(node: Working) -> None:
    """Bring files, half of them in one directory."""
    for number in range(FILES):
        where = "flat" if number % 2 else f"d{number:02}"
        node.write(f"{where}/f{number:02}", b"%d" % number * (FILE_BYTES // len(str(number))))
    await node.look()


async def cut_short(node: Working, files: int) -> list[VerifyLine]:
    """Begin a verify, and end it after so many files, as Ctrl-C does."""
    lines: list[VerifyLine] = []
    read = 0
    async with aclosing(verify(node.node, list(node.node.works.values()))) as told:
        async for line in told:
            lines.append(line)
            before = lines[-2].done_bytes if len(lines) > 1 else 0
            read += line.kind == "progress" and line.done_bytes - before >= FILE_BYTES // 2
            if read == files:
                break
    return lines


def read_files(lines: list[VerifyLine]) -> int:
    done = [line.done_bytes for line in lines if line.kind == "progress"]
    return sum(b - a >= FILE_BYTES // 2 for a, b in pairwise(done))


@pytest.mark.parametrize("files", [3, 8])
async def test_a_verify_that_was_cut_short_goes_on_where_it_was(tmp_path: Path, files: int) -> None:
    async with alone(tmp_path) as node:
        await fill(node)
        await cut_short(node, files)

        rest = await lines_of(node)
        whole = await lines_of(node)

        assert read_files(rest) == FILES - files
        assert "before it was cut short" in rest[-1].text
        assert rest[-1].done_bytes == pytest.approx(whole[-1].done_bytes, abs=FILE_BYTES)
        assert read_files(whole) == FILES
        assert "before" not in whole[-1].text


async def test_a_verify_that_was_cut_short_tells_again_what_it_had_found(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        await fill(node)
        rot(node, "d04/f04")
        first = await cut_short(node, 7)
        assert [line.kind for line in first].count("finding") == 1

        rest = await lines_of(node)

        assert "d04/f04" in next(line.text for line in rest if line.kind == "finding")
        assert rest[-1].findings == 1
        assert read_files(rest) == FILES - 2


async def test_a_verify_goes_on_in_history_too(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        for version in range(2):
            for number in range(6):
                owner.write(
                    f"f{number}", bytes([number, version]) * FILE_BYTES, mtime_ns=OLD_NS + version
                )
            await owner.look()
            await eventually(partial(other.has, "f5", bytes([5, version]) * FILE_BYTES))
            await other.settled()
        [(history,)] = other.db.execute("SELECT count(*) FROM kept").fetchall()
        assert history == 6

        await cut_short(other, 8)
        rest = await lines_of(other)

        assert read_files(rest) == 4
        assert not rest[-1].findings


async def test_a_verify_that_was_cut_short_long_ago_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with alone(tmp_path) as node:
        await fill(node)
        await cut_short(node, 5)
        now_ms = verifying.now_ms
        monkeypatch.setattr(verifying, "now_ms", lambda node: now_ms(node) + positions.LIMIT_MS)

        assert read_files(await lines_of(node)) == FILES


async def test_E1_a_disk_that_takes_no_note_ends_no_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with alone(tmp_path) as node:
        await fill(node)
        node.db.execute("PRAGMA query_only = 1")

        await cut_short(node, 5)
        lines = await lines_of(node)
        node.db.execute("PRAGMA query_only = 0")

        assert read_files(lines) == FILES
        assert not lines[-1].findings
