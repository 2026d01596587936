"""Let users write at every system call of an apply: no byte of theirs is ever gone.

tests/daemon/test_apply.py does so at every call of the Disk; here the user acts between any two
system calls below it, also through descriptors and memory maps that were opened before.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from daemon import syscalls
from daemon.displaced import LOOK_AGAIN_NS
from store.records import Entry
from tests.daemon.applying import World
from tests.daemon.test_apply import _STORIES, _assert_user_is_heard
from tests.e2e.nodes import sized

STRIDE = sized(9, 1)  # DIZZYD_E2E=full takes every call
BYTES = b"by the user"
CALLS: tuple[tuple[object, str], ...] = (
    (os, "open"),
    (os, "stat"),
    (os, "fstat"),
    (os, "link"),
    (os, "rename"),
    (os, "unlink"),
    (os, "fsync"),
    (os, "utime"),
    (os, "fchmod"),
    (os, "pwrite"),
    (os, "mkdir"),
    (syscalls, "openat2"),
    (syscalls, "renameat2"),
    (syscalls, "syncfs"),
)


class Steps:
    """Counts system calls, and lets somebody act before one of them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.done = 0
        self.at = -1
        self.act: Callable[[], None] | None = None
        self._is_acting = True
        for owner, name in CALLS:
            patch.setattr(owner, name, partial(self._call, getattr(owner, name)))

    def _call(self, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._is_acting:
            if self.done == self.at and self.act is not None:
                self._is_acting = True
                self.act()
                self._is_acting = False
            self.done += 1
        return real(*args, **kwargs)

    def run(self, work: Callable[[], Any], at: int, act: Callable[[], None]) -> bool:
        """Do the work; whether it came so far that somebody acted."""
        self.done, self.at, self.act = 0, at, act
        self._is_acting = False
        try:
            work()
        finally:
            self._is_acting = True
        return self.done > at


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Callable[[], World]]:
    numbers = count()

    def make() -> World:
        world = World(tmp_path / f"folder{next(numbers)}")
        world.clock.ns = time.time_ns()  # what a user writes now is racy, as it really is
        return world

    return make  # type: ignore[return-value]  # each test closes its own


class Hand:
    """A user with the file open, mapped, or only its name in mind."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.opened: list[int] = []
        self.mapped: mmap.mmap | None = None

    def open(self) -> None:
        if self.path.is_file():
            self.opened.append(os.open(self.path, os.O_RDWR))

    def map(self) -> None:
        self.open()
        if self.opened and os.fstat(self.opened[0]).st_size:
            os.ftruncate(self.opened[0], len(BYTES))
            self.mapped = mmap.mmap(self.opened[0], len(BYTES))
        self.close()

    def close(self) -> None:
        while self.opened:
            os.close(self.opened.pop())

    # -- acts ----------------------------------------------------------------------------------

    def truncate(self) -> None:
        if self.path.is_file():
            with self.path.open("r+b") as file:
                file.truncate(0)
                file.write(BYTES)

    def rename_away(self) -> None:
        if self.path.is_file():
            self.path.write_bytes(BYTES)
            self.path.rename(self.path.with_name("away"))

    def write_and_delete(self) -> None:
        """Delete what one wrote: nobody has to keep that, and nothing may break."""
        self.path.write_bytes(b"short")
        self.path.unlink()

    def write_through(self) -> None:
        for opened in self.opened:
            os.pwrite(opened, BYTES, 0)
            os.ftruncate(opened, len(BYTES))

    def write_map(self) -> None:
        if self.mapped is not None:
            self.mapped[:] = BYTES


def apply(world: World, wanted: list[Entry]) -> None:
    asyncio.run(world.apply(wanted))


def settle(world: World) -> None:
    """Let what was displaced be looked at, as after ten seconds."""
    for _ in range(3):
        world.clock.ns += LOOK_AGAIN_NS + 1
        asyncio.run(world.watch.look())


def is_kept(world: World) -> bool:
    return any(each.endswith(BYTES) for each in world.all_contents())


@pytest.mark.parametrize("act", ["truncate", "rename_away", "write_and_delete"])
@pytest.mark.parametrize("story", _STORIES)
def test_P31_E11_E22_a_user_between_any_two_system_calls_loses_nothing(
    worlds: Callable[[], World], steps: Steps, story: str, act: str
) -> None:
    before, after = _STORIES[story]
    for number in count(0, STRIDE):
        world = worlds()
        asyncio.run(world.converge(before))
        hand = Hand(world.root / "a")
        wrote = hand.path.is_file()

        def meddle(hand: Hand = hand) -> None:
            nonlocal wrote
            wrote = hand.path.is_file()
            getattr(hand, act)()

        acted = steps.run(partial(apply, world, after), number, meddle)
        settle(world)
        if acted and wrote and act != "write_and_delete":
            assert is_kept(world), (story, act, number)
            if act == "truncate":
                _assert_user_is_heard(world)
        world.linux.close()
        if not acted:
            return


@pytest.mark.parametrize(("begin", "act"), [("open", "write_through"), ("map", "write_map")])
@pytest.mark.parametrize("story", ["replaced", "removed", "moved away", "conflict", "swapped"])
def test_P31_E22_a_file_held_open_or_mapped_is_written_to_at_any_system_call(
    worlds: Callable[[], World], steps: Steps, story: str, begin: str, act: str
) -> None:
    before, after = _STORIES[story]
    for number in count(0, STRIDE):
        for opens_at in (0, number):  # before all, or only then; what is written comes after all
            world = worlds()
            asyncio.run(world.converge(before))
            hand = Hand(world.root / "a")
            acted = steps.run(
                partial(apply, world, after),
                opens_at,
                getattr(hand, begin),
            )
            getattr(hand, act)()
            wrote = bool(hand.opened or hand.mapped)
            if hand.mapped is not None:
                hand.mapped.close()
            hand.close()
            settle(world)
            assert is_kept(world) or not wrote, (story, act, number)
            world.linux.close()
        if not acted:
            return
