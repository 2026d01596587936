"""A system call that changes names fails, once or twice in a row: nothing is lost, nothing doubled.

Two in a row fail the undoing of the first, too. On disks without EXCHANGE and NOREPLACE a rename
is several calls.
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from daemon import fs, syscalls
from daemon.fs_abilities import Abilities
from tests.daemon.applying import World
from tests.daemon.planning import ROOT, directory_entry, file_entry, link_entry, listing_of
from tests.daemon.test_apply import _STORIES
from tests.e2e.nodes import IS_FULL

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from store.records import Entry

_NAMING = ("link", "unlink", "rename", "symlink", "mkdir", "rmdir")
_ALL = {
    **{name: story for name, story in _STORIES.items() if name != "touched"},
    "a link replaced": (
        [link_entry(1, ROOT, b"a", b"one")],
        [link_entry(1, ROOT, b"a", b"two")],
    ),
    "a directory moved": (
        [directory_entry(1, ROOT, b"d"), file_entry(2, 1, b"a", b"one")],
        [directory_entry(1, ROOT, b"e"), file_entry(2, 1, b"b", b"one")],
    ),
    "a directory removed": (
        [directory_entry(1, ROOT, b"d"), file_entry(2, 1, b"a", b"one")],
        [],
    ),
}
_DISKS = {
    "as it is": Abilities(),
    "without exchange": Abilities(exchange=False),
    "without both": Abilities(exchange=False, noreplace=False),
}


class _Failing:
    """Counts calls that change names; lets some of them fail."""

    def __init__(self, patched: pytest.MonkeyPatch, first: int, times: int) -> None:
        self.count = 0
        self._failing = range(first, first + times)
        for name in _NAMING:
            patched.setattr(os, name, self._wrapped(getattr(os, name)))
        patched.setattr(syscalls, "renameat2", self._wrapped(syscalls.renameat2))

    def _wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.count += 1
            if self.count - 1 in self._failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*arguments, **named)

        return wrapped


@pytest.mark.parametrize("times", [1, 2, 3] if IS_FULL else [2])
@pytest.mark.parametrize("disk", _DISKS)
@pytest.mark.parametrize("story", _ALL)
def test_E2_F6_a_name_that_could_not_be_changed_is_neither_lost_nor_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, story: str, disk: str, times: int
) -> None:
    before, after = _ALL[story]
    monkeypatch.setattr(fs, "find_abilities", lambda _root, _tmp: _DISKS[disk])
    first = 0
    while _fails_at(tmp_path / str(first), before, after, first, times):
        first += 1
    assert first


def _fails_at(
    root: Path, before: list[Entry], after: list[Entry], first: int, times: int
) -> bool:
    """Converge although calls fail; whether there was such a call at all."""
    world = World(root)
    asyncio.run(world.converge(before))
    contents = world.all_contents()
    with pytest.MonkeyPatch.context() as patched:
        failing = _Failing(patched, first, times)
        asyncio.run(world.apply(after))
    asyncio.run(world.apply(after))  # sees to what is half done: no look judges it before
    assert contents <= world.all_contents()
    asyncio.run(world.converge(after))
    assert world.listing() == listing_of(after)
    assert contents <= world.all_contents()
    assert world.journal.intents == {}
    assert world.private("tmp") == []
    world.linux.close()
    return failing.count > first
