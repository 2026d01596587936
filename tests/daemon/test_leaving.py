"""See a folder that is left, or begins anew, while its log is on the way: the link goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from store.ids import BatchId
from tests.daemon.working import eventually, pair

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("at", ["heads", "unknown_batches", "read_batches", "admit"])
async def test_a_folder_that_stops_while_peers_talk_of_it_ends_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    async with pair(tmp_path) as (owner, other):
        here, there = (owner, other) if at in {"heads", "read_batches"} else (other, owner)
        link = here.node.crossing.link_of(there.key.agent)
        asked = getattr(here.node.replica, at)
        stored = here.stored
        is_asked = has_stopped = False

        async def stop_first(*args: Any, **kwargs: Any) -> Any:
            nonlocal is_asked, has_stopped
            if not is_asked:
                is_asked = True
                await here.node.folders.stop(stored.id)
                has_stopped = True
            return await asked(*args, **kwargs)

        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(here.node.replica, at, stop_first)
            owner.write("a", b"a")
            if at == "unknown_batches":
                lacking = [BatchId(bytes(32))]
                assert await here.node.replica.unknown_batches(stored.id, lacking) == lacking
            elif at == "read_batches":
                assert await here.node.replica.read_batches(stored.id, [], [], 1) == ([], False)
            else:
                owner.work.look_at_all()
            await eventually(lambda: has_stopped)
        here.node.shelf.put(stored)
        await here.node.folders.begin(stored)
        owner.work.look_at_all()

        await eventually(lambda: other.has("a", b"a"))
        assert here.node.crossing.link_of(there.key.agent) is link
