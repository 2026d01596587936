"""Hold the rates of config.toml: over all peers together, within 5 %, and nobody small waits."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from peers.limits import RateLimit
from tests.peers.replicas import FOLDER, nodes, with_bulk
from tests.peers.test_fetch import MIB, Memory, meet
from tests.peers.test_session import simulate

RATE = 4 * MIB
SIZE = 8 * MIB
TOLERANCE = 0.05


def now_s() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("peers", [1, 3])
def test_upload_keeps_its_rate_over_all_peers_together(peers: int) -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        source, *others = nodes(peers + 1)
        source.sessions.upload.change(RATE)
        (ref,) = source.replica.keep(Random(1).randbytes(SIZE))
        await meet(tasks, source, others)
        await asyncio.sleep(30)  # an idle time is no credit
        began_s = now_s()

        fetches = [other.fetcher.fetch_large(FOLDER, ref, Memory()) for other in others]
        assert all(await asyncio.gather(*fetches))

        assert peers * SIZE / (now_s() - began_s) == pytest.approx(RATE, rel=TOLERANCE)

    simulate(story)


@pytest.mark.parametrize("peers", [1, 3])
def test_download_keeps_its_rate_over_all_peers_together(peers: int) -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        reader, *others = nodes(peers + 1)
        reader.fetcher.download.change(RATE)
        contents = [Random(number).randbytes(SIZE) for number in range(peers)]
        for other in others:
            refs = other.replica.keep(*contents)
        await meet(tasks, reader, others)
        await asyncio.sleep(30)
        began_s = now_s()

        fetches = [reader.fetcher.fetch_large(FOLDER, ref, Memory()) for ref in refs]
        assert all(await asyncio.gather(*fetches))

        assert peers * SIZE / (now_s() - began_s) == pytest.approx(RATE, rel=TOLERANCE)

    simulate(story)


@pytest.mark.parametrize("is_upload", [False, True])
def test_many_small_contents_keep_the_rate_too(is_upload: bool) -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        reader, source = nodes(2)
        limit = source.sessions.upload if is_upload else reader.fetcher.download
        limit.change(RATE)
        random = Random(1)
        contents = [random.randbytes(random.randrange(1, 16_000)) for _ in range(1000)]
        refs = source.replica.keep(*contents)
        await meet(tasks, reader, [source])
        await asyncio.sleep(30)
        began_s = now_s()

        found = await reader.fetcher.fetch_small(FOLDER, refs)

        assert len(found) == len(refs)
        took_s = now_s() - began_s
        assert sum(map(len, contents)) / took_s == pytest.approx(RATE, rel=TOLERANCE)

    simulate(story)


@pytest.mark.parametrize("is_upload", [False, True])
def test_a_small_save_waits_for_no_limit(is_upload: bool) -> None:
    """Three transfers fill the rate; news of a save, and a small content, pass at once."""

    async def story(tasks: asyncio.TaskGroup) -> None:
        source, *others = nodes(4)
        reader = others[0]
        with_bulk(tasks, [source, *others])
        limit = source.sessions.upload if is_upload else reader.fetcher.download
        limit.change(RATE)
        (large,) = source.replica.keep(Random(1).randbytes(8 * SIZE))
        (small,) = source.replica.keep(b"a small save")
        await meet(tasks, source, others)
        fetching = [
            tasks.create_task(other.fetcher.fetch_large(FOLDER, large, Memory()))
            for other in (others if is_upload else [reader])
        ]
        await asyncio.sleep(5)

        signed = source.write(b"\x91\x01")
        await asyncio.sleep(0.05)
        assert signed.id in reader.batches
        began_s = now_s()
        assert await reader.fetcher.fetch_small(FOLDER, [small])
        assert now_s() - began_s <= 0.05
        assert not any(task.done() for task in fetching)

    simulate(story)


def test_what_may_owe_is_paid_for_by_what_comes_after_it() -> None:
    async def story(tasks: asyncio.TaskGroup) -> None:
        limit = RateLimit(1000)
        await asyncio.sleep(10)
        began_s = now_s()
        await limit.take(500, may_owe=True)
        assert now_s() == began_s
        await limit.take(500)
        assert now_s() - began_s == pytest.approx(0.95)
        await limit.take(2000, may_owe=True)
        assert now_s() - began_s == pytest.approx(0.95)
        await limit.take(1, may_owe=True)  # so much is owed already that it waits
        assert now_s() - began_s == pytest.approx(2.951)

    simulate(story)


def test_shares_are_small_where_the_rate_is() -> None:
    assert RateLimit().share(10 * MIB) == 10 * MIB
    assert RateLimit(RATE).share(10 * MIB) == RATE // 20
    assert RateLimit(1000).share(10 * MIB) == 16 * 1024
    assert RateLimit(RATE).share(7) == 7
