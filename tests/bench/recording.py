"""Measure what a node does to record what people did, without a network and in one thread.

`python -m tests.bench.recording [FILES]` makes real files, and prints microseconds of CPU for each
one, by stage, and the statements executed: first as FILES new files appear, then as the times of
all are set, as their directory is renamed, and as it is removed. `--profile STAGE` profiles one
stage. It measures the work alone: beside threads that want the interpreter's lock it costs more.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pstats
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from daemon.durable import make_durable
from daemon.fs import LinuxDisk
from daemon.ignore import IgnoreRules
from daemon.look_set import EVERYTHING, LookSet
from daemon.matching import match
from daemon.record import Recorder
from daemon.scanner import scan
from store.db import open_database
from store.folder import StoredFolder
from store.founding import share_folder
from store.ids import Epoch
from store.records import SyncedRow
from store.signing import AgentKey
from tests.bench.stages import Stages
from tests.bench.workloads import small_files

P = ParamSpec("P")
T = TypeVar("T")

_STAGES = {"compare_many": "list", "read_many": "read"}


class _Node:
    """The way from disk to log, all of it in this thread."""

    def __init__(self, ground: Path, stages: Stages, *, files: int) -> None:
        self.root = ground / "folder"
        self.root.mkdir()
        small_files(ground / "tree", files)
        folder_key = AgentKey.generate(b"2" * 32)
        LinuxDisk.prepare(bytes(self.root), folder_key.agent)
        self.disk = LinuxDisk.open(bytes(self.root), umask=0o022)
        self.stored: StoredFolder = share_folder(
            open_database(ground / "database"),
            AgentKey.generate(b"1" * 32),
            folder_key=folder_key,
            name="bench",
            label=b"sender",
            path=bytes(self.root),
            epoch=Epoch(b"e" * 16),
            nonce=b"n" * 16,
            wall_ms=1,
        )
        self.stages = stages
        self.files = files

    # -- what the scanner asks for ----------------------------------------------------------------

    def now_ns(self) -> int:
        return time.time_ns()

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        # fn, or what guarded(disk, fn, ...) is to call
        called = [getattr(one, "__name__", "") for one in (fn, *args[1:2])]
        stage = next((_STAGES[name] for name in called if name in _STAGES), "look")
        with self.stages.stage(stage):
            return fn(*args, **kwargs)

    async def rows_in(self, directories: Sequence[bytes]) -> list[list[SyncedRow]]:
        with self.stages.stage("synced"):
            return [self.stored.synced.rows_in(path) for path in directories]

    async def rows_at(self, paths: Sequence[bytes]) -> list[list[SyncedRow]]:
        with self.stages.stage("synced"):
            return self.stored.synced.rows_at_many(paths)

    # -- one look ---------------------------------------------------------------------------------

    async def look(self, where: LookSet) -> None:
        """Look and record, as daemon.look_loop does."""
        stage = self.stages.stage
        with stage("scan"):
            async for bunch in scan(self.disk, self, IgnoreRules(), self, self, where):
                with stage("match"):
                    acts = match(bunch)
                if not acts:
                    continue
                with stage("durable"):
                    make_durable(self.disk, acts)
                with stage("record"), self.stored.change():
                    Recorder(self.stored, time.time_ns() // 1_000_000, -1).record(acts)
                self.stored.take_changes()
        with stage("root"):
            self.stored.state.root()

    def change(self, what: str) -> LookSet:
        """Do what people do; give where to look."""
        tree = self.root / "tree"
        if what == "create":
            (self.root.parent / "tree").rename(tree)
            time.sleep(0.1)  # past the racy rule: else each file would be looked at once more
            return LookSet(trees=(b"tree",))
        if what == "touch":
            for path in tree.glob("*/*"):
                os.utime(path, ns=(1, 1_500_000_000_123_456_789))
            return EVERYTHING
        if what == "rename":
            tree.rename(self.root / "other")
            return LookSet(paths=(b"other", b"tree"), moves={b"other": b"tree"})
        shutil.rmtree(self.root / "other")
        return LookSet(paths=(b"other",))


def _look_counted(node: _Node, look: LookSet) -> None:
    asyncio.run(node.look(look))  # by a name of its own, for profilers


def _measure(ground: str, stages: Stages, files: int, change: str) -> Stages:
    """Measure one change; those before it are made, too, and not counted."""
    with tempfile.TemporaryDirectory(dir=ground) as where:
        node = _Node(Path(where), Stages(), files=files)
        for what in ("create", "touch", "rename", "remove"):
            look = node.change(what)
            if what != change:
                asyncio.run(node.look(look))
                continue
            node.stages = stages
            if stages.is_counting:
                node.stored.db.connection.set_trace_callback(stages.count)
            _look_counted(node, look)
            break
        node.disk.close()
        node.stored.db.close()
    return stages


def main() -> None:
    """Do each change twice: once for time, once for statements (counting costs)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=int, nargs="?", default=20_000)
    parser.add_argument("--only", default=("create", "touch", "rename", "remove"), nargs="+")
    parser.add_argument("--profile", default="", metavar="STAGE")
    parser.add_argument("--ground", default=None, help="where files and databases are made")
    arguments = parser.parse_args()
    for change in arguments.only:
        stages = _measure(arguments.ground, Stages(arguments.profile), arguments.files, change)
        counts = _measure(arguments.ground, Stages(is_counting=True), arguments.files, change)
        stages.cpu_s.pop("", None)
        print(change)
        for name, cpu_s in stages.cpu_s.items():
            each_us = cpu_s / arguments.files * 1e6
            print(f"  {name:10} {each_us:7.1f} us a file  {counts.statements[name]:7} statements")
        print(f"  {'all':10} {sum(stages.cpu_s.values()) / arguments.files * 1e6:7.1f} us a file")
        if arguments.profile:
            pstats.Stats(stages.profile).sort_stats("tottime").print_stats(35)


if __name__ == "__main__":
    main()
