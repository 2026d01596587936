"""See what becomes of a look that cannot be ended as it was begun."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING, Any

from daemon import look_loop
from tests.daemon.working import alone, eventually

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

_FILES = 4000  # more bunches than wait in the queue


async def test_E2_a_look_whose_recording_fails_ends_although_more_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with alone(tmp_path) as node:
        look: Any = node.work._look
        queues: list[asyncio.Queue[Any]] = []
        real_scan = look._scan_into

        async def scan_into(disk: Any, where: Any, bunches: asyncio.Queue[Any], beside: Any) -> Any:
            queues.append(bunches)
            await real_scan(disk, where, bunches, beside)

        async def fail(_disk: Any, _acts: Any) -> None:
            await eventually(queues[-1].full)
            raise sqlite3.OperationalError("database or disk is full")

        for number in range(_FILES):
            node.write(f"f{number}", b"%d" % number)
        with monkeypatch.context() as broken:
            broken.setattr(look_loop, "_BUNCHES_AHEAD", 2)
            broken.setattr(look, "_scan_into", scan_into)
            broken.setattr(look._recording, "record", fail)
            node.work.look_at_all()
            await eventually(lambda: node.work.trouble.root is not None)

        await eventually(lambda: node.stored.synced.files == _FILES, within_s=30)
