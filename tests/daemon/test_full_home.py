"""See a node whose home's disk is full go on, and do later what it could not write."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING, Any, cast

from daemon.core import InlineRunner
from daemon.ended import EndedFolder
from peers.address import Address
from store.ids import AgentId
from tests.daemon.working import Working, alone, eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HERE = (Address.parse("192.0.2.7:7499"),)


class FullCore(InlineRunner):
    """The database thread of a home whose disk is full for a while."""

    is_full = False

    async def run(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.is_full:
            raise sqlite3.OperationalError("database or disk is full")
        return await super().run(fn, *args, **kwargs)


def _own_address(node: Working) -> list[bytes]:
    return [each for record in node.node.book.records() for each in record.addresses]


async def test_E2_an_address_that_changes_while_the_disk_is_full_is_signed_later(
    tmp_path: Path,
) -> None:
    core = FullCore()
    async with alone(tmp_path, core=core) as node:
        core.is_full = True
        await node.node.reachable_at(HERE)
        told = _own_address(node)
        core.is_full = False

        await node.node.reachable_at(HERE)

        assert told == []  # nobody hears of what a restart would forget
        assert _own_address(node) == [b"192.0.2.7:7499"]
        stored = node.db.execute("SELECT count(*) FROM peer WHERE length(addresses) > 0").fetchone()
        assert stored == (1,)


async def test_E2_who_was_told_of_an_ending_while_the_disk_is_full_ends_no_node(
    tmp_path: Path,
) -> None:
    class Ended:
        folder_no = 1
        told = frozenset({AgentId(bytes(32))})

    core = FullCore()
    async with alone(tmp_path, core=core) as node:
        ended = cast("EndedFolder", Ended())
        core.is_full = True
        node.node.folders._keep_told(ended)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        core.is_full = False
        assert not node._tasks[0].done()

        node.node.folders._keep_told(ended)
        await eventually(lambda: node.db.meta("told/1") == bytes(32))
