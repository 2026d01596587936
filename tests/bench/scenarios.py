"""What is measured: each scenario prepares a system, starts the clock, changes, and sees.

The clock starts with the change and stops when the other side is seen to have it; nothing is
prepared behind its back but the files that are moved in. Trees are compared by content after it.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from tests.bench import machine, workloads
from tests.bench.systems import Dizzyd, System, now_s, running
from tests.bench.workloads import digest, listings, wait_for_each, wait_until, watching

_MIB: Final = 1 << 20
_NS: Final = 10**9
_PAUSE_S: Final = 0.02  # between asking or saving twice: load, as a person or a program makes it
_LONG_AGO_NS: Final = 1_500_000_000_123_456_789
_SAVES: Final = 100
_RAPID_SAVES: Final = 50
_BURST: Final = 1000
_TOUCHED: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large everything is."""

    files: int
    large_mib: int
    idle_s: float


@dataclass(slots=True)
class Measure:
    """One figure, and what it cost: CPU seconds and bytes of memory of all processes."""

    name: str
    value: float
    unit: str = "s"
    cpu_s: float | None = None
    wire_bytes: int | None = None
    resident_bytes: int | None = None
    settled_s: float | None = None
    more: dict[str, float] = field(default_factory=dict)


class DifferentTrees(Exception):
    """The measured system did not do its work."""


@dataclass(slots=True)
class Bench:
    """One system on fresh ground."""

    ground: Path
    system: System
    sizes: Sizes

    @property
    def staging(self) -> Path:
        """Where files are made before they are moved in: the same file system."""
        made = self.ground / "staging"
        made.mkdir(exist_ok=True)
        return made

    @contextmanager
    def measuring(self, name: str) -> Iterator[Measure]:
        """Time the block; then wait for rest, and see that both sides are equal."""
        measure = Measure(name, 0.0)
        cpu_s, wire = self.system.spent_cpu_s(), machine.loopback_bytes()
        began_s = now_s()
        yield measure
        measure.value = measure.value or now_s() - began_s
        self.system.settle()
        measure.settled_s = now_s() - began_s
        measure.cpu_s = self.system.spent_cpu_s() - cpu_s
        measure.wire_bytes = machine.loopback_bytes() - wire
        measure.resident_bytes = machine.resident_bytes(self.system.process_ids())
        self.must_be_equal()

    def must_be_equal(self) -> None:
        """Compare both sides by content."""
        left, right = digest(self.system.left), digest(self.system.right)
        if left != right:
            odd = sorted(n for n in left.keys() | right.keys() if left.get(n) != right.get(n))
            raise DifferentTrees(f"{len(odd)} paths differ, first {odd[:3]}")


def _moved_in(bench: Bench, name: str, like: Path) -> Measure:
    """Measure how long a prepared tree takes to appear."""
    system = bench.system
    checks = listings(system.right / "tree", like)
    with bench.measuring(name) as measure:
        like.rename(system.left / "tree")
        system.kick()
        wait_for_each(checks, name)
    return measure


def new_files(bench: Bench) -> list[Measure]:
    """Thousands of small files appear."""
    bench.system.start()
    made = bench.staging / "tree"
    workloads.small_files(made, bench.sizes.files)
    return [_moved_in(bench, "new files", made)]


def source_tree(bench: Bench) -> list[Measure]:
    """A source tree appears."""
    bench.system.start()
    made = bench.staging / "tree"
    workloads.source_tree(made)
    return [_moved_in(bench, "source tree", made)]


def large_file(bench: Bench) -> list[Measure]:
    """One large file appears."""
    system = bench.system
    system.start()
    made = bench.staging / "large"
    workloads.large_file(made, bench.sizes.large_mib)
    there = system.right / "large"
    with watching(system.right) as watch, bench.measuring("large file") as measure:
        made.rename(system.left / "large")
        system.kick()
        watch.wait_until(there.exists, "large file")
    measure.more["mib_s"] = bench.sizes.large_mib / measure.value
    return [measure]


def large_insert(bench: Bench) -> list[Measure]:
    """One byte is inserted at the start of a large file."""
    large = _with_large_file(bench)
    made = bench.staging / "inserted"
    workloads.with_byte_before(made, large)
    there, size = bench.system.right / "large", made.stat().st_size
    name = "byte inserted before a large file"
    with watching(bench.system.right) as watch, bench.measuring(name) as measure:
        made.rename(large)
        bench.system.kick()
        watch.wait_until(lambda: there.exists() and there.stat().st_size == size, name)
    return [measure]


def large_rewrite(bench: Bench) -> list[Measure]:
    """One MiB is rewritten in the middle of a large file, in place."""
    large = _with_large_file(bench)
    there, offset = bench.system.right / "large", bench.sizes.large_mib // 2 * _MIB
    content = workloads.noise(_MIB)[::-1]
    name = "1 MiB rewritten in a large file"
    with watching(bench.system.right) as watch, bench.measuring(name) as measure:
        with large.open("r+b") as file:
            file.seek(offset)
            file.write(content)
        bench.system.kick()
        watch.wait_until(lambda: _holds_at(there, offset, content), name)
    return [measure]


def _with_large_file(bench: Bench) -> Path:
    large = bench.system.left / "large"
    workloads.large_file(large, bench.sizes.large_mib)
    os.utime(large, ns=(_LONG_AGO_NS, _LONG_AGO_NS))  # Unison misses a change of equal size in 2 s
    bench.system.start()
    return large


def _holds_at(path: Path, offset: int, content: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return os.pread(file.fileno(), len(content), offset) == content
    except FileNotFoundError:  # some take the old one away first
        return False


def save_beside_large(bench: Bench) -> list[Measure]:
    """Small files are saved while a large one is on its way."""
    system = bench.system
    if not system.is_watching:
        return []
    system.start()
    made = bench.staging / "large"
    workloads.large_file(made, bench.sizes.large_mib)
    there, large = system.right / "save", system.right / "large"
    taken_s: list[float] = []
    name = "small save beside a large file"
    with watching(system.right) as watch, bench.measuring(name) as measure:
        made.rename(system.left / "large")
        while not large.exists() and len(taken_s) < _SAVES:
            content = b"saved for the %d. time\n" % len(taken_s) * 50
            began_s = now_s()
            (system.left / "save").write_bytes(content)
            watch.wait_until(partial(workloads.holds, there, content), "save")
            taken_s.append(now_s() - began_s)
            time.sleep(_PAUSE_S)
        watch.wait_until(large.exists, "large file")
        measure.value, measure.unit = 1000 * statistics.median(taken_s), "ms"
    measure.more["max_ms"] = 1000 * max(taken_s)
    measure.more["saves"] = len(taken_s)
    return [measure]


def control_while_importing(bench: Bench) -> list[Measure]:
    """The control API is asked again and again while thousands of files are imported."""
    system = bench.system
    if not isinstance(system, Dizzyd):
        return []
    system.start()
    made = bench.staging / "tree"
    workloads.small_files(made, bench.sizes.files)
    checks = listings(system.right / "tree", made)
    taken_s: list[float] = []
    name = "status asked while importing"
    with bench.measuring(name) as measure:
        made.rename(system.left / "tree")
        while not all(check() for check in checks):
            began_s = now_s()
            system.nodes[0].status()
            taken_s.append(now_s() - began_s)
            time.sleep(_PAUSE_S)
        taken_s.sort()
        measure.value, measure.unit = 1000 * statistics.median(taken_s), "ms"
    measure.more["p99_ms"] = 1000 * taken_s[int(len(taken_s) * 0.99)]
    return [measure]


def saves(bench: Bench) -> list[Measure]:
    """One small file is saved, again and again, and each time waited for."""
    system = bench.system
    system.start()
    there = system.right / "save"
    taken_s = []
    with watching(system.right) as watch, bench.measuring("small save") as measure:
        for number in range(_SAVES):
            content = b"saved for the %d. time\n" % number * 50 + b"." * number
            began_s = now_s()
            (system.left / "save").write_bytes(content)
            system.kick()
            watch.wait_until(partial(workloads.holds, there, content), "save")
            taken_s.append(now_s() - began_s)
        taken_s.sort()
        measure.value, measure.unit = 1000 * statistics.median(taken_s), "ms"
    measure.more["p95_ms"] = 1000 * taken_s[int(_SAVES * 0.95)]
    return [measure]


def burst(bench: Bench) -> list[Measure]:
    """Many new files are written into one directory."""
    system = bench.system
    (system.left / "burst").mkdir()
    system.start()
    model = bench.staging / "burst"
    workloads.flat_files(model, _BURST)
    checks = listings(system.right / "burst", model)
    with bench.measuring("burst") as measure:
        workloads.flat_files(system.left / "burst", _BURST)
        system.kick()
        wait_for_each(checks, "burst")
    return [measure]


def rapid_saves(bench: Bench) -> list[Measure]:
    """One file is saved many times without a pause; the last save counts."""
    system = bench.system
    system.start()
    here, there = system.left / "rapid", system.right / "rapid"
    with watching(system.right) as watch, bench.measuring("rapid saves") as measure:
        for number in range(_RAPID_SAVES):
            content = b"%d " % number * 1000
            here.write_bytes(content)
        began_s = now_s()
        system.kick()
        watch.wait_until(lambda: workloads.holds(there, content), "rapid saves")
        measure.value = now_s() - began_s
    return [measure]


def _with_directory(bench: Bench) -> Path:
    system = bench.system
    workloads.small_files(
        system.left / "tree", bench.sizes.files // 2, longest_bytes=2048, directories=100
    )
    system.start()
    return system.left / "tree"


def rename_directory(bench: Bench) -> list[Measure]:
    """A directory with thousands of files gets another name."""
    tree = _with_directory(bench)
    there = bench.system.right / "renamed"
    with watching(bench.system.right) as watch, bench.measuring("directory renamed") as measure:
        tree.rename(tree.with_name("renamed"))
        bench.system.kick()
        watch.wait_until(there.exists, "directory renamed")
    return [measure]


def delete_directory(bench: Bench) -> list[Measure]:
    """A directory with thousands of files is deleted."""
    tree = _with_directory(bench)
    there = bench.system.right / "tree"
    with bench.measuring("directory deleted") as measure:
        shutil.rmtree(tree)
        bench.system.kick()
        wait_until(lambda: not there.exists(), "directory deleted")
    return [measure]


def touch(bench: Bench) -> list[Measure]:
    """Many files get another time and keep their content."""
    workloads.flat_files(bench.system.left / "tree", _TOUCHED)
    bench.system.start()
    paths = sorted((bench.system.left / "tree").iterdir())
    time_ns = _LONG_AGO_NS
    checks: list[Callable[[], bool]] = [
        partial(_has_time, bench.system.right / "tree" / path.name, time_ns) for path in paths
    ]
    with bench.measuring("times changed") as measure:
        for path in paths:
            os.utime(path, ns=(time_ns, time_ns))
        bench.system.kick()
        wait_for_each(checks, "times changed")
    return [measure]


def _has_time(path: Path, time_ns: int) -> bool:
    return path.stat().st_mtime_ns // _NS == time_ns // _NS  # Unison sets whole seconds


def first_meeting(bench: Bench) -> list[Measure]:
    """Both sides hold the same files when they first meet."""
    system = bench.system
    for folder in (system.left, system.right):
        workloads.small_files(folder / "tree", bench.sizes.files)
    inodes = _inodes(system.right)
    if isinstance(system, Dizzyd):
        system.start_apart()
        with bench.measuring("first meeting") as measure:
            system.join()
            system.settle()
    else:
        with bench.measuring("first meeting") as measure:
            system.start()
    if _inodes(system.right) != inodes:
        raise DifferentTrees("a file was written again at the first meeting")
    return [measure]


def _inodes(folder: Path) -> set[int]:
    return {
        entry.inode()
        for directory in (folder / "tree").iterdir()
        for entry in os.scandir(directory)
    }


def at_rest(bench: Bench) -> list[Measure]:
    """What a node with many files costs: memory and idling; restart and `status` of dizzyd."""
    system = bench.system
    if not system.is_watching:
        return []
    system.start()
    made = bench.staging / "tree"
    workloads.small_files(made, bench.sizes.files)
    _moved_in(bench, "new files", made)
    process_ids = system.process_ids()
    memory = Measure("memory of both", machine.resident_bytes(process_ids) / 2**20, "MiB")
    measures = [memory, _idle(system, bench.sizes.idle_s)]
    if isinstance(system, Dizzyd):
        measures += [_status(system), _restart(system)]
    return measures


def _status(system: Dizzyd) -> Measure:
    taken_ms = []
    for _ in range(20):
        began_s = now_s()
        system.nodes[0].must("status")
        taken_ms.append(1000 * (now_s() - began_s))
    return Measure("status", statistics.median(taken_ms), "ms", more={"max_ms": max(taken_ms)})


def _idle(system: System, idle_s: float) -> Measure:
    before_s, began_s = system.spent_cpu_s(), now_s()
    wait_until(lambda: now_s() - began_s >= idle_s, "time", look_s=idle_s / 4)
    spent_s = system.spent_cpu_s() - before_s
    return Measure("idle, CPU seconds a minute", spent_s * 60 / idle_s, "s")


def _restart(system: Dizzyd) -> Measure:
    node = system.nodes[0]
    node.stop()
    began_s, cpu_s = now_s(), node.spent_cpu_s()
    node.start()
    wait_until(node.is_idle, "idle after the restart", look_s=0.02)
    taken_s = now_s() - began_s
    return Measure("restart until idle", taken_s, cpu_s=node.spent_cpu_s() - cpu_s)


Scenario = Callable[[Bench], list[Measure]]
SCENARIOS: Final[dict[str, Scenario]] = {
    "new-files": new_files,
    "source-tree": source_tree,
    "large-file": large_file,
    "large-insert": large_insert,
    "large-rewrite": large_rewrite,
    "save-beside-large": save_beside_large,
    "control": control_while_importing,
    "save": saves,
    "burst": burst,
    "rapid-saves": rapid_saves,
    "rename": rename_directory,
    "delete": delete_directory,
    "touch": touch,
    "first-meeting": first_meeting,
    "at-rest": at_rest,
}


def run(name: str, system_name: str, sizes: Sizes, ground: Path) -> Sequence[Measure]:
    """Run one scenario with one system on fresh ground."""
    base = ground / "system"
    base.mkdir()
    with running(system_name, base) as system:
        return SCENARIOS[name](Bench(ground, system, sizes))
