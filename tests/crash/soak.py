"""Let three nodes work for long and see that nothing grows: `python -m tests.crash.soak 60`.

Users work at random on all of them. Every half minute
memory, descriptors, threads and the write-ahead log of each are noted; the slopes of the last two
thirds are printed. In the end all trees are equal and as their users left them.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash import judge
from tests.crash.users import User
from tests.e2e.nodes import Node, Nodes, agree, start_all

_NOTE_S = 30.0
_SETTLED_WITHIN_S = 120.0
_FILES_LIMIT = 600


@dataclass(slots=True)
class _Growth:
    """What a process uses, noted again and again."""

    at_s: list[float] = field(default_factory=list)
    rss_kib: list[float] = field(default_factory=list)
    descriptors: list[float] = field(default_factory=list)
    threads: list[float] = field(default_factory=list)
    wal_kib: list[float] = field(default_factory=list)

    def note(self, node: Node) -> None:
        """Look at a running node."""
        assert node.process is not None
        process = Path("/proc") / str(node.process.pid)
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        self.at_s.append(time.monotonic())
        self.rss_kib.append(float(status["VmRSS"].split()[0]))
        self.threads.append(float(status["Threads"]))
        self.descriptors.append(len(os.listdir(process / "fd")))
        wal = node.home / "database-wal"
        self.wal_kib.append(wal.stat().st_size / 1024 if wal.exists() else 0.0)

    def told(self) -> str:
        """Say the last value of each and its slope an hour, without the first third."""
        first = len(self.at_s) // 3
        told = []
        for name in ("rss_kib", "descriptors", "threads", "wal_kib"):
            values = getattr(self, name)[first:]
            told.append(f"{name} {values[-1]:.0f}{self._slope(values, first)}")
        return ", ".join(told)

    def _slope(self, values: list[float], first: int) -> str:
        if len(values) < 3:
            return ""
        slope = statistics.linear_regression(self.at_s[first:], values).slope
        return f" ({slope * 3600:+.0f}/h)"


def run(base: Path, *, minutes: float, seed: int) -> str:
    """Let them work so long; gives the summary. Raises AssertionError."""
    chance = random.Random(seed)
    nodes = Nodes(base)
    try:
        three = [nodes.add(name) for name in ("one", "two", "three")]
        start_all(*three)
        nodes.share(three[0])
        for other in three[1:]:
            nodes.join(three[0], other)
        users = [User(node.folder, node.name, seed) for node in three]
        by_agent = dict(zip([node.must("id") for node in three], users, strict=True))
        growth = [_Growth() for _ in three]
        _work(three, users, growth, chance, minutes * 60)
        agree(*three, within_s=_SETTLED_WITHIN_S, with_times=False)
        files = judge.check_trees(three, users)
        events = judge.check_logs(three[-1], by_agent)
        complaints = nodes.complaints()
        assert not complaints, complaints
    finally:
        nodes.end()
    acts = sum(user.acts for user in users)
    lines = [f"  {n.name}: {one.told()}" for n, one in zip(three, growth, strict=True)]
    told = f"soak: {minutes:g} minutes, {acts} acts, {events} events, {files} files: all equal"
    return "\n".join([told, *lines])


def _work(
    three: list[Node], users: list[User], growth: list[_Growth], chance: random.Random, for_s: float
) -> None:
    until_s = time.monotonic() + for_s
    next_note_s = 0.0
    while time.monotonic() < until_s:
        user = chance.choice(users)
        user.act(chance.randrange(1, 8))
        if len(user.files) > _FILES_LIMIT:
            user.clear()
        time.sleep(chance.random() ** 2)
        if time.monotonic() >= next_note_s:
            next_note_s = time.monotonic() + min(_NOTE_S, for_s / 10)
            for node, one in zip(three, growth, strict=True):
                one.note(node)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.soak", description=__doc__)
    parser.add_argument("minutes", type=float, nargs="?", default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as base:
        print(run(Path(base), minutes=arguments.minutes, seed=arguments.seed), flush=True)


if __name__ == "__main__":
    main()
