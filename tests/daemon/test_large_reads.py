# paths are bytes here
"""A small save does not wait until a large file beside it is read."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import pytest
from blake3 import blake3

from daemon import reader
from daemon.acts import Created
from daemon.large_reads import LargeReads
from daemon.look_set import EVERYTHING, AgainReason, LookSet
from daemon.matching import match
from daemon.scanner import scan
from tests.daemon.looking import Bench, Inline, names

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from daemon.acts import Act

P = ParamSpec("P")
T = TypeVar("T")
BOTH = LookSet(paths=(b"large", b"small"))
LARGE = b"a large file"


class Held:
    """A pool whose work begins when it is let."""

    def __init__(self) -> None:
        self.may_run = asyncio.Event()

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        await self.may_run.wait()
        return fn(*args, **kwargs)

    async def settle(self) -> None:
        pass


class Looking:
    """A folder whose large files are read beside the looks."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.pool = Held()
        self.read: asyncio.Queue[bytes] = asyncio.Queue()
        self.reads = LargeReads(self.pool, self.read.put_nowait)
        self.reasons: list[AgainReason] = []

    async def look(self, where: LookSet) -> list[Act]:
        bench = self.bench
        acts: list[Act] = []
        self.reasons = []
        async for bunch in scan(
            bench.disk, bench.tree, bench.rules, Inline(), bench.clock, where, self.reads
        ):
            acts += match(bunch)
            self.reasons += [again.reason for again in bunch.agains]
        return acts

    def is_reading(self) -> bool:
        return self.reads.is_reading

    async def until_read(self) -> bytes:
        self.pool.may_run.set()
        async with asyncio.timeout(10):
            return await self.read.get()


@pytest.fixture
async def looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Looking]:
    monkeypatch.setattr(reader, "LARGE_BYTES", len(LARGE))
    bench = Bench(tmp_path)
    looking = Looking(bench)
    bench.write("large", LARGE)
    bench.write("small", b"small")
    running = asyncio.create_task(looking.reads.run(bench.disk))
    yield looking
    running.cancel()
    await asyncio.wait([running])
    bench.disk.close()


async def test_a_small_save_is_found_while_a_large_file_is_read(looking: Looking) -> None:
    assert names(await looking.look(BOTH)) == ["Created small"]
    assert looking.is_reading()

    assert await looking.until_read() == b"large"
    assert not looking.is_reading()
    (act,) = await looking.look(LookSet(paths=(b"large",)))

    assert isinstance(act, Created)
    assert (act.path, act.looked.value) == (b"large", blake3(LARGE).digest())


async def test_what_changed_after_it_was_read_is_left_for_later(looking: Looking) -> None:
    await looking.look(BOTH)
    await looking.until_read()
    looking.bench.write("large", LARGE + b" that grows")

    assert await looking.look(LookSet(paths=(b"large",))) == []
    assert AgainReason.CHANGING in looking.reasons

    assert await looking.look(LookSet(paths=(b"large",))) == []
    assert await looking.until_read() == b"large"
    (act,) = await looking.look(LookSet(paths=(b"large",)))
    assert isinstance(act, Created)
    assert act.looked.value == blake3(LARGE + b" that grows").digest()


async def test_a_file_that_changes_again_while_it_waits_is_read_once(looking: Looking) -> None:
    await looking.look(BOTH)
    looking.bench.write("large", LARGE + b" that grows")
    await looking.look(BOTH)

    assert await looking.until_read() == b"large"
    assert not looking.is_reading()
    (act,) = await looking.look(LookSet(paths=(b"large",)))
    assert isinstance(act, Created)
    assert act.looked.value == blake3(LARGE + b" that grows").digest()


async def test_a_full_scan_reads_all_itself(looking: Looking) -> None:
    assert names(await looking.look(EVERYTHING)) == ["Created large", "Created small"]
    assert not looking.is_reading()


async def test_a_large_file_that_was_renamed_stays_the_same_file(looking: Looking) -> None:
    looking.pool.may_run.set()
    await looking.bench.look(EVERYTHING)
    looking.bench.path("large").rename(looking.bench.path("other"))

    acts = await looking.look(LookSet(paths=(b"large", b"other")))

    assert names(acts) == ["Moved large other"]
