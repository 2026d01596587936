"""What a member can do to others with messages that are well formed: nothing that lasts."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from daemon import own_tail
from peers import wire
from store.ids import FolderId, blob_hash
from store.signing import AgentKey
from tests.daemon.working import Working, eventually, pair

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


def say_heads(liar: Working, victim: Working, *heads: wire.Head) -> None:
    """Say in the liar's name that it has these heads beside its own."""
    session = liar.node.sessions.session(victim.key.agent)
    if session is not None:
        truth = liar.stored.log.heads()
        said = tuple(wire.Head(one.log, one.seq, one.batch) for one in truth)
        folder = liar.stored.id
        session.send(wire.HeadsSaid(folder, (*said, *heads), None, 1, False, False, False))


@asynccontextmanager
async def claiming(liar: Working, victim: Working) -> AsyncIterator[None]:
    """Claim without a pause to have more of the victim's log, ever other batches."""

    async def claim() -> None:
        for number in itertools.count(1):
            batch = number.to_bytes(32, "big")
            say_heads(liar, victim, wire.Head(victim.stored.own_log, 10**6 + number, batch))
            await asyncio.sleep(0.02)

    task = asyncio.create_task(claim())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_A12_who_claims_more_of_our_log_than_there_is_stops_us_once_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_tail, "STUCK_S", 0.5)
    monkeypatch.setattr(own_tail, "GATHER_S", 0.1)
    async with pair(tmp_path) as (liar, victim):
        async with claiming(liar, victim), asyncio.timeout(20):
            await eventually(lambda: victim.work.tail.is_lagging)
            for number in range(5):
                name, content = f"{number}.txt", b"%d" % number
                victim.write(name, content)
                await victim.look()
                await eventually(lambda: liar.has(name, content))  # noqa: B023 - awaited here

        own = [h for h in victim.stored.log.heads() if h.agent == victim.key.agent]
        assert len(own) <= 2, "one more for the claim that was believed"


async def test_A12_a_claim_that_is_renewed_all_the_time_is_waited_for_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_tail, "LONGEST_S", 0.5)
    monkeypatch.setattr(own_tail, "GATHER_S", 0.1)
    async with pair(tmp_path) as (liar, victim), claiming(liar, victim), asyncio.timeout(20):
        await eventually(lambda: victim.work.tail.is_lagging)

        await eventually(lambda: not victim.work.tail.is_lagging)

        victim.write("mine.txt", b"mine")
        await victim.look()
        await eventually(lambda: liar.has("mine.txt", b"mine"))


async def test_H3_sessions_that_end_by_a_fault_of_ours_are_followed_by_growing_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (owner, other):
        failed_at_s: list[float] = []

        async def fail(*_: object) -> None:
            failed_at_s.append(asyncio.get_running_loop().time())
            raise RuntimeError("a fault")

        monkeypatch.setattr(other.node.replica, "admit", fail)
        owner.write("a.txt", b"a")
        await owner.look()

        await eventually(lambda: len(failed_at_s) >= 5)

        # 0.2 s, 0.4 s, 0.8 s and 1.6 s, less up to half by chance
        assert failed_at_s[4] - failed_at_s[0] > 1.4
        monkeypatch.undo()
        await eventually(lambda: other.has("a.txt", b"a"), within_s=20)


async def test_a_member_has_few_links_for_contents_at_a_time(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        owner.node.book.get(other.key.agent).hints.extend(other.listener.addresses)

        links = [await owner.node.calling.open_bulk(other.key.agent) for _ in range(12)]

        await eventually(lambda: [link.is_closed for link in links] == [True] * 8 + [False] * 4)
        assert owner.node.sessions.session(other.key.agent) is not None
        for link in links:
            await link.close()


async def test_a_fault_while_contents_are_served_ends_the_link_and_not_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (owner, other):
        faults: list[int] = []

        async def fail(*_: object) -> None:
            faults.append(1)
            raise RuntimeError("a fault")

        monkeypatch.setattr(owner.node.replica, "read_blob", fail)
        owner.write("large", bytes(3 << 20))
        await owner.look()
        await eventually(lambda: len(faults) > 1)
        monkeypatch.undo()

        await eventually(lambda: other.has("large", bytes(3 << 20)), within_s=20)


async def test_A17_contents_of_a_folder_are_read_for_its_members_alone(tmp_path: Path) -> None:
    async with pair(tmp_path) as (owner, other):
        owner.write("a.txt", b"secret")
        await owner.look()
        replica, folder = owner.node.replica, owner.work.folder
        blob, stranger = blob_hash(b"secret"), AgentKey.from_seed(bytes(32)).agent
        absent = FolderId(stranger)

        assert await replica.read_blob(other.key.agent, folder, blob, 0, 100) == b"secret"
        assert await replica.read_small(other.key.agent, folder, [blob], 100) == [b"secret"]
        for agent, place in ((stranger, folder), (other.key.agent, absent), (stranger, absent)):
            assert await replica.read_blob(agent, place, blob, 0, 100) is None
            assert await replica.read_small(agent, place, [blob], 100) == [None]
            assert not replica.may_read(agent, place)
