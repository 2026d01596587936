"""Random user operations with the hints of a watcher: looks alone bring the rows to the disk."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.hints import Hint, HintKind
from daemon.look_set import LookSet
from daemon.looks import LookSchedule
from tests.daemon.looking import Bench
from tests.daemon.test_scanner_random import operate, operations

Operation = tuple[str, str, Any]
History = list[tuple[Operation, float]]
PAUSES_S = st.sampled_from([0.0, 0.0, 0.01, 0.06, 0.7])
steps = st.lists(st.tuples(operations, PAUSES_S), max_size=14)


class Entry:
    def __init__(self, path: Path) -> None:
        found = path.lstat()
        self.is_directory = path.is_dir() and not path.is_symlink()
        self.inode = found.st_ino
        self.stamp = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_nlink)


def snapshot(root: Path) -> dict[bytes, Entry]:
    return {
        os.fsencode(path.relative_to(root)): Entry(path)
        for path in root.rglob("*")
        if ".dizzyd" not in path.parts
    }


def hints_of(
    before: dict[bytes, Entry], after: dict[bytes, Entry], moved: dict[bytes, bytes]
) -> list[Hint]:
    """Say what inotify would: renames of names, not of what is carried below them."""
    hints: list[Hint] = []
    left = tuple(source + b"/" for source in moved.values())
    came = tuple(target + b"/" for target in moved)
    for path, entry in sorted(before.items(), reverse=True):
        if path not in after and path not in moved.values() and not path.startswith(left):
            hints.append(Hint(HintKind.GONE, path, entry.is_directory))
    for target, source in moved.items():
        hints.append(Hint(HintKind.MOVED_HERE, target, after[target].is_directory, source))
    for path, entry in sorted(after.items()):
        old = before.get(path)
        if path in moved or path.startswith(came):
            continue
        if old is None or old.inode != entry.inode:
            hints.append(Hint(HintKind.APPEARED, path, entry.is_directory))
            if not entry.is_directory:
                hints.append(Hint(HintKind.CLOSED, path))
        elif old.stamp != entry.stamp and not entry.is_directory:
            hints += [Hint(HintKind.CHANGED, path), Hint(HintKind.CLOSED, path)]
    return hints


def renames_of(
    operation: Operation, before: dict[bytes, Entry], after: dict[bytes, Entry]
) -> dict[bytes, bytes]:
    """Find the renames that an operation made, for those kinds that the hints name."""
    kind, path, extra = operation
    one = path.encode()
    moved: dict[bytes, bytes] = {}
    if kind == "rename":
        moved = {extra.encode(): one}
    elif kind == "swap":
        moved = {extra.encode(): one, one: extra.encode()}
    elif kind == "wrap":
        moved = {one + b"/" + extra.encode(): one}
    return {
        target: source
        for target, source in moved.items()
        if source in before
        and target in after
        and before[source].inode == after[target].inode
        and source != target
    }


async def live(folder: Path, history: History, *, forget: set[int]) -> None:
    bench = Bench(folder)
    schedule = LookSchedule(bench.tree.known)
    now_s = 100.0

    async def settle(until_s: float) -> None:
        nonlocal now_s
        while (due_s := schedule.next_due_s) is not None and due_s <= until_s:
            now_s = max(now_s, due_s)
            where = schedule.due(now_s)
            if where:
                await bench.look(where)
                schedule.look_again(bench.agains, now_s)
        now_s = until_s

    try:
        for number, (operation, pause_s) in enumerate(history):
            before = snapshot(bench.root)
            operate(bench.root, operation)
            after = snapshot(bench.root)
            hints = hints_of(before, after, renames_of(operation, before, after))
            if number not in forget:
                schedule.touch(hints, now_s)
            await settle(now_s + pause_s)
        if forget:
            schedule.touch([Hint(HintKind.LOST, b"")], now_s)
        await settle(now_s + 60.0)
        assert schedule.next_due_s is None
        assert bench.in_rows() == bench.on_disk()
        assert not schedule.due(now_s)
    finally:
        bench.disk.close()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps)
def test_hints_alone_bring_the_rows_to_what_is_on_disk(history: History) -> None:
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(live(Path(name) / "folder", history, forget=set()))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps, st.sets(st.integers(0, 13), min_size=1))
def test_P34_after_lost_hints_one_scan_finds_the_rest(history: History, forget: set[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(live(Path(name) / "folder", history, forget=forget))


def test_an_empty_look_set_is_false() -> None:
    assert not LookSet()
