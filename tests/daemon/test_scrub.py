from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from daemon import scrub
from daemon.positions import Position
from daemon.repairing import repair
from daemon.scrub import Scrub
from store.db import Database
from tests.daemon.test_verifying import rot
from tests.daemon.working import Working, alone, eventually, pair

if TYPE_CHECKING:
    from pathlib import Path


async def fill(node: Working) -> None:
    for number in range(6):
        node.write(f"d{number}/f", b"content %d" % number)
    await node.look()


def directory_in(noted: bytes | None) -> bytes:
    """Give the last directory that was read."""
    return msgspec.msgpack.decode(noted or b"", type=Position).directory


async def test_G1_the_scrub_finds_what_rots_and_repair_clears_it(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        await fill(owner)
        await eventually(lambda: owner.names() == other.names() and other.work.is_settled)
        rot(other, "d3/f")

        await Scrub(other.node).read_round()

        [problem] = (await other.status()).node.problems
        assert "d3/f: its bytes are not those recorded" in problem.problem
        assert "dizzyd repair" in problem.hint
        _ = [line async for line in repair(other.node, [other.work])]
        assert not (await other.status()).node.problems
        assert other.read("d3/f") == b"content 3"


async def test_a_scrub_that_was_cut_short_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub, "NOTE_EVERY_BYTES", 1)
    monkeypatch.setattr("daemon.file_inspection.DIRECTORIES_AT_ONCE", 1)
    async with alone(tmp_path) as node:
        await fill(node)
        first = asyncio.create_task(Scrub(node.node).read_round())
        loop, set_meta = asyncio.get_running_loop(), Database.set_meta

        def cut_short(db: Database, key: str, value: bytes) -> None:
            set_meta(db, key, value)
            if key == "scrub/1" and directory_in(value) >= b"d2":
                loop.call_soon_threadsafe(first.cancel)

        monkeypatch.setattr(Database, "set_meta", cut_short)
        await asyncio.wait([first])
        monkeypatch.setattr(Database, "set_meta", set_meta)
        assert first.cancelled()
        assert b"d2" <= directory_in(node.db.meta("scrub/1")) < b"d5"
        rot(node, "d0/f")  # read already: found in the next round
        rot(node, "d5/f")

        await Scrub(node.node).read_round()
        [found] = node.node.found_damage
        assert "d5/f" in found
        await Scrub(node.node).read_round()

        assert len(node.node.found_damage) == 2


async def test_a_scrub_is_due_once_in_a_while(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        await fill(node)
        reading = Scrub(node.node)
        assert await reading._is_due()

        await reading.read_round()

        assert not await reading._is_due()
        node.db.set_meta("scrub-ended", b"%d" % (2**50))  # the clock was set back since
        assert await reading._is_due()
