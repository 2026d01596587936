"""A folder that is left or ended in the middle of applying: nothing stays half done on its disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.daemon.working import Working, eventually, pair


def open_intents(node: Working) -> int:
    (count,) = node.db.execute("SELECT count(*) FROM intent").fetchone()
    return int(count)


@pytest.mark.parametrize("how", ["left", "ended"])
async def test_F1_what_was_begun_is_finished_when_a_folder_stops_for_good(
    how: str, tmp_path: Path
) -> None:
    async with pair(tmp_path) as (owner, other):
        owner.write("a", b"one")
        await owner.look()
        await eventually(lambda: other.has("a", b"one"))
        await other.settled()
        journal = other.work._journal
        commit = journal.commit
        begun = asyncio.Event()

        async def stuck(outcomes: object) -> None:
            begun.set()
            await asyncio.Event().wait()

        journal.commit = stuck  # type: ignore[method-assign]
        owner.write("a", b"two", mtime_ns=10**18)
        await owner.look()
        await asyncio.wait_for(begun.wait(), 10)
        assert open_intents(other) == 1
        journal.commit = commit  # type: ignore[method-assign]
        [stopped] = other.node.works

        if how == "left":
            await other.node.folders.drop(stopped)
        else:
            await owner.node.folders.end(owner.work)
            await eventually(lambda: stopped in other.node.ended and not open_intents(other))
            assert stopped in owner.node.ended

        assert open_intents(other) == 0
        assert other.read("a") in {b"one", b"two"}
        assert {other.read("a"), *other.history()} >= {b"one"}
        assert not [path for path in (other.root / ".dizzyd/tmp").iterdir() if path.is_file()]
