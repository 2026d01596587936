"""Measure dizzyd, beside others where they are installed: `python -m tests.bench --help`.

A benchmark, not a test: nothing fails for being slow. Systems take turns within each scenario, so
that a busy moment of the machine meets all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench import machine, scenarios
from tests.bench.scenarios import SCENARIOS, DifferentTrees, Measure, Sizes
from tests.bench.systems import SYSTEMS, is_installed
from tests.bench.workloads import TooSlow

Row = dict[str, Any]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=sorted(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--files", type=int, default=20_000, metavar="N")
    parser.add_argument("--large", type=int, default=1024, metavar="MIB", help="2048 for 2 GiB")
    parser.add_argument("--idle", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--runs", type=int, default=1, metavar="K")
    parser.add_argument("--peers", default="", metavar="NAMES", help="rsync,unison,syncthing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append a line for each figure")
    parser.add_argument("--ground", type=Path, metavar="DIRECTORY", help="where to work")
    parser.add_argument("--first", action="store_true", help="before other work here (root)")
    parser.add_argument("--no-image", action="store_true", help="no loop-mounted ext4")
    return parser.parse_args()


def _commit() -> str:
    root = Path(__file__).resolve().parent
    asked = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _note(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class _Rows:
    """The figures so far."""

    def __init__(self, json_file: Path | None) -> None:
        self._json_file = json_file
        self._commit = _commit()
        self._values: dict[str, dict[str, list[Measure]]] = defaultdict(lambda: defaultdict(list))
        self._loads: list[float] = []

    def add(self, system: str, scenario: str, measure: Measure, load: float) -> None:
        self._values[measure.name][system].append(measure)
        self._loads.append(load)
        row: Row = {"at": round(time.time()), "commit": self._commit, "load": load}
        row |= {"system": system, "scenario": scenario, **asdict(measure)}
        _note(f"  {system} {measure.name}: {_shown(row)}")
        if self._json_file is not None:
            with self._json_file.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def table(self) -> str:
        systems = list(dict.fromkeys(name for by in self._values.values() for name in by))
        head = "| | " + " | ".join(systems) + " |"
        lines = [head, "|---" * (len(systems) + 1) + "|"]
        for name, by_system in self._values.items():
            ours = by_system.get("dizzyd", [])
            cells = [_cell(by_system.get(system, []), ours) for system in systems]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        if self._loads:
            lines.append(f"\nload average {min(self._loads):.1f} to {max(self._loads):.1f}")
        return "\n".join(lines)


def _shown(row: Row) -> str:
    told = [f"{row['value']:.3g} {row['unit']}"]
    if row["settled_s"] is not None:
        told.append(f"at rest {row['settled_s']:.2f} s")
    if row["cpu_s"] is not None:
        told.append(f"CPU {row['cpu_s']:.2f} s")
    if row["wire_bytes"] is not None:
        told.append(f"wire {row['wire_bytes'] / 1e6:.3f} MB")
    if row["resident_bytes"]:
        told.append(f"memory {row['resident_bytes'] / 2**20:.0f} MiB")
    told += [f"{name} {value:.3g}" for name, value in row["more"].items()]
    return ", ".join([*told, f"load {row['load']:.1f}"])


def _cell(measures: list[Measure], ours: list[Measure]) -> str:
    """Show the median, the range, and how many times ours it is."""
    if not measures:
        return "-"
    values = [measure.value for measure in measures]
    cell = f"{statistics.median(values):.3g} {measures[0].unit}"
    if len(values) > 1:
        cell += f" ({min(values):.3g} to {max(values):.3g})"
    if ours and ours is not measures:
        times = statistics.median(values) / statistics.median(one.value for one in ours)
        cell += f" = {times:.2g} x"
    for name in measures[0].more:
        cell += f", {name} {statistics.median(m.more[name] for m in measures):.3g}"
    wired = [measure.wire_bytes for measure in measures if measure.wire_bytes is not None]
    if wired:
        cell += f", {statistics.median(wired) / 1e6:.3g} MB"
    used = [measure.cpu_s for measure in measures if measure.cpu_s is not None]
    if used:
        cell += f", CPU {statistics.median(used):.2f} s"
    return cell


def main() -> int:
    """Run what was asked for and print a table; 1 if a system did not do its work."""
    asked = _arguments()
    names = ["dizzyd", *filter(None, asked.peers.split(","))]
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown:
        _note(f"not known here: {', '.join(unknown)}")
        return 2
    systems = [name for name in names if is_installed(name)]
    if asked.first:
        machine.go_first()
    has_own_world = machine.enter_own_world()
    has_image = has_own_world and not asked.no_image and machine.can_mount_images()
    if not has_own_world:
        _note("not root: bytes of everything on loopback are counted, and files lie on this disk")
    sizes = Sizes(files=asked.files, large_mib=asked.large, idle_s=asked.idle)
    size_mib = 4 * asked.large + asked.files // 10 + 2048
    rows = _Rows(asked.json)
    failures = 0
    for scenario in asked.only:
        for _ in range(asked.runs):
            for system in systems:
                load = machine.load()
                with machine.fresh_ground(
                    asked.ground, is_image=has_image, size_mib=size_mib
                ) as ground:
                    try:
                        for measure in scenarios.run(scenario, system, sizes, ground):
                            rows.add(system, scenario, measure, load)
                    except (TooSlow, DifferentTrees) as failed:
                        failures += 1
                        _note(f"  {system} {scenario}: FAILED: {failed}")
    sys.stdout.write(rows.table() + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
