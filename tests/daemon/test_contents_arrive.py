"""Show that a wanted content arrives soon whatever happens to links and files meanwhile.

Real files, real sockets: what holds in virtual time (tests/peers/test_handing_over.py) holds here.
"""

from __future__ import annotations

import asyncio
import os
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from daemon.places import Place
from peers import lane, stream
from tests.daemon.working import Working, eventually, pair

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from peers.link import Link
    from store.ids import BlobHash

SOON_S = 6.0  # on a busy machine; what is tried again at a fixed time comes after 10 s
SMALL = Random(1).randbytes(200_000)  # too much to go along with the news
LARGE = Random(2).randbytes(24 << 20)


def links_of(node: Working, *, is_bulk: bool) -> list[Link]:
    """Give the links that a node has now."""
    bulk = [link for links in node.node.links._bulk_links.values() for link in links]
    sessions = [session.link for session in node.node.sessions.all()]
    return bulk if is_bulk else [*bulk, *sessions]


def cut(links: Sequence[Link]) -> None:
    """Reset connections in the middle of whatever is under way."""
    for link in links:
        link._stream.abort("cut by a test")  # type: ignore[attr-defined]


def fill(node: Working, count: int) -> dict[str, bytes]:
    random = Random(3)
    sizes = [random.randrange(12_000) for _ in range(count)]
    files = {f"d/{number:04}": random.randbytes(size) for number, size in enumerate(sizes)}
    for name, content in files.items():
        node.write(name, content)
    return files


@pytest.mark.parametrize("is_bulk", [True, False], ids=["for contents", "all"])
@pytest.mark.parametrize("cutter", ["source", "receiver"])
async def test_F8_links_that_are_cut_with_bytes_under_way_cost_no_time(
    tmp_path: Path, cutter: str, is_bulk: bool
) -> None:
    async with pair(tmp_path) as (owner, other):
        files = fill(owner, 1500)
        owner.write("large", LARGE)
        began_bytes = other.node.fetcher.received_bytes
        loop = asyncio.get_running_loop()

        async def cut_thrice() -> None:
            for _ in range(3):
                before = len(list(other.root.glob("d/*")))
                await eventually(
                    lambda before=before: (
                        len(list(other.root.glob("d/*"))) > before + 50  # type: ignore[misc]
                        or other.has("large", LARGE)
                    )
                )
                cut(links_of(owner if cutter == "source" else other, is_bulk=is_bulk))

        cutting = asyncio.create_task(cut_thrice())
        await owner.look()
        began_s = loop.time()
        await eventually(
            lambda: (
                other.has("large", LARGE)
                and all(other.has(name, content) for name, content in files.items())
            ),
            within_s=60,
        )
        await cutting

        assert loop.time() - began_s < 3 * SOON_S
        most = sum(map(len, files.values())) + len(LARGE)
        assert other.node.fetcher.received_bytes - began_bytes < most + (4 << 20)


async def test_H3_a_link_that_lives_and_brings_nothing_is_left_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "TICK_S", 0.1)  # so that signs of life come all the time
    monkeypatch.setattr(lane, "STALL_S", 1.0)
    async with pair(tmp_path) as (owner, other):
        read = owner.node.replica.read_small
        hung: list[int] = []

        async def hang_once(*arguments: Any) -> list[bytes | None]:
            if not hung and len(arguments[2]) > 50:
                hung.append(1)
                await asyncio.get_running_loop().create_future()
            return await read(*arguments)

        monkeypatch.setattr(owner.node.replica, "read_small", hang_once)
        files = fill(owner, 300)
        await owner.look()

        await eventually(lambda: bool(hung))
        await eventually(
            lambda: all(other.has(name, content) for name, content in files.items()), 2 * SOON_S
        )


class Meddling:
    """Does something between the moment a content is found and that at which it is read."""

    def __init__(self, node: Working, meddle: Callable[[], None], times: int = 1) -> None:
        self._find = node.node.replica._serving._finder.find
        self._meddle = meddle
        self.left = times

    async def find(self, no: int, blobs: Sequence[BlobHash]) -> dict[BlobHash, list[Place]]:
        found = await self._find(no, blobs)
        if found and self.left:
            self.left -= 1
            self._meddle()
        return found


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_a_file_that_is_renamed_while_it_is_served_arrives_soon(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (owner, other):
        old, new = owner.root / "old", owner.root / "new"
        meddling = Meddling(owner, lambda: os.rename(old, new))
        monkeypatch.setattr(owner.node.replica._serving, "_finder", meddling)
        owner.write("old", content)
        await owner.look()
        await eventually(lambda: not meddling.left)

        await owner.work.scan_now()
        await eventually(lambda: other.has("new", content), SOON_S)


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("times", [1, 3])
async def test_a_file_that_is_away_for_a_moment_is_asked_for_again_soon(
    tmp_path: Path, content: bytes, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody tells when it is back: it was moved there and back between two looks."""
    async with pair(tmp_path) as (owner, other):
        path, aside = owner.root / "file", tmp_path / "aside"
        loop = asyncio.get_running_loop()

        def take_away() -> None:
            if path.exists():  # else it is away already
                os.rename(path, aside)
                loop.call_later(0.02, os.rename, aside, path)

        meddling = Meddling(owner, take_away, times)
        monkeypatch.setattr(owner.node.replica._serving, "_finder", meddling)
        owner.write("file", content)
        await owner.look()

        await eventually(lambda: other.has("file", content), SOON_S)
