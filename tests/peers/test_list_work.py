"""Show that short questions about large contents cost a node bounded work."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from peers import wire
from peers.work import WorkBudget
from store.ids import blob_hash
from tests.peers.replicas import FOLDER, nodes
from tests.peers.test_fetch import LARGE, MIB, Memory, Piece, listed, meet
from tests.peers.test_session import Attacker, simulate

if TYPE_CHECKING:
    from store.ids import AgentId
    from tests.peers.replicas import Node

OLD = blob_hash(b"an old version of which nothing is left")
RATE = MIB
CREDIT = 4 * MIB


def count_reads(node: Node) -> list[int]:
    """Note how much is read of contents from now on."""
    sizes: list[int] = []
    read = node.replica.read_blob

    async def counted(*args: object) -> bytes | None:
        content = await read(*args)  # type: ignore[arg-type]
        sizes.append(len(content or b""))
        return content

    node.replica.read_blob = counted  # type: ignore[method-assign, assignment]
    return sizes


def grudging(node: Node) -> None:
    """Let a node do little work for each agent."""
    node.sessions.new_budget = lambda: WorkBudget(RATE, CREDIT)


def test_A20_one_peer_that_asks_again_and_again_for_differences_causes_bounded_work() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        grudging(a)
        (ref,) = a.replica.keep(LARGE)
        await a.fetcher.lists.keep(FOLDER, ref.hash, listed(LARGE))
        await a.fetcher.lists.keep(FOLDER, OLD, listed(LARGE[:MIB]))
        attacker = Attacker(tasks, a, 2)
        await attacker.begin()
        sizes = count_reads(a)
        loop = asyncio.get_running_loop()
        began_s = loop.time()

        for number in range(1, 51):
            await attacker.say(wire.WantDifference(number, FOLDER, ref.hash, OLD, 0))
        await asyncio.sleep(20)

        assert 0 < sum(sizes) <= CREDIT + RATE * (loop.time() - began_s) + len(LARGE)
        assert b.agent == attacker.key.agent

    simulate(story)


def test_A20_all_links_of_one_peer_have_one_budget_and_each_peer_its_own() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, _, _ = nodes(3)
        grudging(a)
        one, other = key_agents()

        assert a.sessions.budget(one) is a.sessions.budget(one)
        assert a.sessions.budget(one) is not a.sessions.budget(other)
        await a.sessions.budget(one).take(100 * MIB - CREDIT // 2)  # waits for what it earned
        began_s = asyncio.get_running_loop().time()
        await a.sessions.budget(other).take(CREDIT)
        assert asyncio.get_running_loop().time() == began_s

    simulate(story)


def key_agents() -> tuple[AgentId, AgentId]:
    _, b, c = nodes(3)
    return b.agent, c.agent


def test_a_question_that_is_taken_back_costs_nothing() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        (a, _) = nodes(2)
        (ref,) = a.replica.keep(LARGE)
        await a.fetcher.lists.keep(FOLDER, ref.hash, listed(LARGE))
        await a.fetcher.lists.keep(FOLDER, OLD, listed(LARGE[:MIB]))
        attacker = Attacker(tasks, a, 2)
        await attacker.begin()
        sizes = count_reads(a)

        for number in range(1, 11):
            await attacker.say(wire.WantDifference(number, FOLDER, ref.hash, OLD, 0))
        for number in range(1, 11):
            await attacker.say(wire.Cancel(number))
        await asyncio.sleep(5)

        assert sum(sizes) <= 2 * len(LARGE)

    simulate(story)


def test_an_honest_edit_waits_for_no_budget() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        a, b = nodes(2)
        new = LARGE[: 4 * MIB] + b"inserted" + LARGE[4 * MIB :]
        (ref,) = b.replica.keep(new)
        await b.fetcher.lists.keep(FOLDER, blob_hash(LARGE), listed(LARGE))
        await meet(tasks, a, [b])
        loop = asyncio.get_running_loop()
        began_s = loop.time()

        assert await a.fetcher.fetch_large(FOLDER, ref, Memory(), [Piece(LARGE, blob_hash(LARGE))])

        assert loop.time() - began_s < 1

    simulate(story)
