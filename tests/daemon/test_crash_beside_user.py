"""A user writes at an instant of apply, and then the node is killed: the user is still heard.

Bytes that were displaced and are none that synced knew are a change of their own, whoever finds
them in tmp or in history after the crash.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest

from tests.daemon.applying import Crash, World
from tests.daemon.test_apply import _STORIES, _assert_user_is_heard, _in_place
from tests.daemon.test_taking import _AFTER, _TREE
from tests.e2e.nodes import IS_FULL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from store.records import Entry

_MANY_CALLS: Final = 20
_STEP: Final = 1 if IS_FULL else 5  # of many calls, so many from one instant to the next


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Callable[[], World]]:
    made: list[World] = []

    def make() -> World:
        made.append(World(tmp_path / f"folder{len(made)}"))
        return made[-1]

    yield make
    for each in made:
        with suppress(OSError):
            each.linux.close()


def _crash() -> None:
    raise Crash


def _by_name(path: Path) -> Callable[[], None]:
    return partial(_in_place, path)


def _by_descriptor(path: Path) -> Callable[[], None]:
    """Open now, as a program that has had the file open for long; write and close later."""
    opened = os.open(path, os.O_WRONLY | os.O_APPEND)

    def write() -> None:
        os.write(opened, b"by the user")
        os.close(opened)

    return write


@pytest.mark.parametrize("writer", [_by_name, _by_descriptor])
@pytest.mark.parametrize("story", ["replaced", "removed", "moved away", "conflict", "a directory"])
def test_P31_F1_a_writer_is_heard_after_a_crash_at_any_later_call(
    worlds: Callable[[], World], story: str, writer: Callable[[Path], Callable[[], None]]
) -> None:
    before, after = _STORIES.get(story, (_TREE, _AFTER))
    name = "d/a" if story == "a directory" else "a"
    calls = _count_calls(worlds(), before, after)
    step = _STEP if calls > _MANY_CALLS else 1
    for at in range(0, calls, step):
        for end in range(at + at // step % step, calls, step):
            world = worlds()
            asyncio.run(world.converge(before))
            start = world.faults.calls
            world.faults.before[start + at] = writer(world.root / name)
            world.faults.after[start + end] = _crash
            with suppress(Crash):
                asyncio.run(world.apply(after))
                continue  # what the user did made it shorter
            asyncio.run(world.restart())

            assert world.journal.intents == {}
            _assert_user_is_heard(world)
            world.linux.close()


def _count_calls(world: World, before: list[Entry], after: list[Entry]) -> int:
    asyncio.run(world.converge(before))
    start = world.faults.calls
    asyncio.run(world.apply(after))
    assert world.faults.calls > start + 2
    return world.faults.calls - start
