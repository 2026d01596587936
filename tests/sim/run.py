"""Run many random histories: `python -m tests.sim 10000`, or with `--n 10000 --seed 0 --jobs 2`.

Each seed is one history of three nodes, by one mix of users, network, crashes and troubles after
the other. Some are played again, in a process whose sets are
ordered otherwise, and must leave the same trace. A failure prints its seed, the command that
plays it again, and the history cut down to what is needed. Exit 1 if anything failed.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from tests.sim.history import (
    DISK_OPTIONS,
    FOLDING,
    MIXES,
    NODES,
    READERS,
    History,
    dump,
    load,
)
from tests.sim.shrink import shrink
from tests.sim.world import ALL_CHECKS, Verdict, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.sim.world import Place, SimNode

DEFAULT_NODE = "tests.sim.real"
ALL_MIXES = "all"
SAMPLE = 50  # one seed in so many is played twice
SHRINK_TRIES = 400
SHOWN_FAILURES = 3
TOLD_EVERY = 500  # histories: minutes pass without a word otherwise


class Under(NamedTuple):
    """What is tested: a module with `make(place)`, and perhaps its own MIX and CHECKS."""

    make: Callable[[Place], SimNode]
    mix: Mapping[str, int] | None
    checks: frozenset[str]


class Played(NamedTuple):
    """One seed, as a worker reports it."""

    seed: int
    trace: str
    failures: tuple[str, ...]
    virtual_s: float


def under_test(module_name: str) -> Under:
    """Find the nodes to test."""
    module = importlib.import_module(module_name)
    return Under(
        make=module.make,
        mix=getattr(module, "MIX", None),
        checks=getattr(module, "CHECKS", ALL_CHECKS),
    )


class Choice(NamedTuple):
    """What to play: on which nodes, how long histories, by which mix."""

    node: str
    length: int
    mix: str

    def mix_of(self, seed: int) -> str:
        """Give the mix of a seed: each in turn, where all are asked for."""
        names = list(MIXES)
        return names[seed % len(names)] if self.mix == ALL_MIXES else self.mix


def play(choice: Choice, seed: int, history: History | None = None) -> Verdict:
    """Play one history."""
    mix = choice.mix_of(seed)
    is_real = choice.node == DEFAULT_NODE
    under = under_test(NODES.get(mix, DEFAULT_NODE) if is_real else choice.node)
    return World(
        seed,
        under.make,
        history=history,
        length=choice.length,
        mix=under.mix or MIXES[mix],
        checks=under.checks,
        disk_options=DISK_OPTIONS.get(mix),
        reader=READERS.get(mix),
        folds_from=FOLDING.get(mix),
    ).run()


def play_many(choice: Choice, seeds: Sequence[int]) -> list[Played]:
    """Play some seeds; what a worker process does."""
    played = []
    for seed in seeds:
        verdict = play(choice, seed)
        played.append(Played(seed, verdict.trace, verdict.failures, verdict.virtual_s))
        if not gc.get_freeze_count():
            del verdict
            gc.collect()
            gc.freeze()  # modules and caches: no later collection need go through them
    return played


def main(argv: Sequence[str] | None = None) -> int:
    """Play what the command line asks for; give the exit code."""
    options = _parse(argv)
    if options.trace:
        for seed in options.trace:
            print(seed, play(_choice(options), seed).trace)
        return 0
    if options.replay is not None or options.only is not None:
        return _replay(options)
    began_s = time.perf_counter()
    failed: list[Played] = []
    traces: dict[int, str] = {}
    virtual_s = 0.0
    for played in _all(options):
        traces[played.seed] = played.trace
        virtual_s += played.virtual_s
        if len(traces) % TOLD_EVERY == 0:
            took_s = time.perf_counter() - began_s
            told = f"{len(traces)} histories, {len(failed)} failed, {took_s:.0f} s"
            print(told, file=sys.stderr, flush=True)
        if played.failures:
            failed.append(played)
            if len(failed) <= SHOWN_FAILURES:
                _tell(options, played)
            else:
                print(_headline(options, played.seed))
    unequal = _unequal(options, traces)
    for seed in unequal:
        print(f"seed {seed}: another trace in another process; it depends on the order of a set")
    took_s = time.perf_counter() - began_s
    sampled = len(_sample(options))
    print(
        f"{len(traces)} histories, {len(failed)} failed; {sampled} played twice,"
        f" {len(unequal)} with another trace; {virtual_s / 86_400:.1f} days in {took_s:.0f} s"
    )
    return 1 if failed or unequal else 0


def _choice(options: argparse.Namespace) -> Choice:
    return Choice(options.node, options.length, options.mix)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.run", description=__doc__)
    parser.add_argument("--n", type=int, default=1000, help="how many histories")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--length", type=int, default=60, help="steps in a history")
    parser.add_argument("--mix", choices=(ALL_MIXES, *MIXES), default=ALL_MIXES)
    parser.add_argument("--node", default=DEFAULT_NODE, help="module with make(place)")
    parser.add_argument("--only", type=int, help="play this one seed, and shrink its failure")
    parser.add_argument("--replay", type=Path, help="play a history written as JSON")
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--trace", type=int, nargs="+", help="print the traces of these seeds")
    return parser.parse_args(argv)


def _all(options: argparse.Namespace) -> Iterator[Played]:
    seeds = range(options.seed, options.seed + options.n)
    if options.jobs <= 1:
        for seed in seeds:
            yield from play_many(_choice(options), [seed])
        return
    size = max(1, min(25, options.n // options.jobs))
    parts = [seeds[start : start + size] for start in range(0, options.n, size)]
    with ProcessPoolExecutor(options.jobs) as workers:
        running = [workers.submit(play_many, _choice(options), part) for part in parts]
        for future in running:
            yield from future.result()


def _tell(options: argparse.Namespace, played: Played) -> None:
    print(_headline(options, played.seed))
    for failure in played.failures[:5]:
        print(f"  {failure}")
    if not options.no_shrink:
        _print_shrunk(options, played.seed, play(_choice(options), played.seed))


def _headline(options: argparse.Namespace, seed: int) -> str:
    return f"seed {seed} failed; again: {_command(options, seed)}"


def _command(options: argparse.Namespace, seed: int) -> str:
    length = "" if options.length == 60 else f" --length {options.length}"
    node = "" if options.node == DEFAULT_NODE else f" --node {options.node}"
    mix = f" --mix {Choice(options.node, options.length, options.mix).mix_of(seed)}"
    return f"PYTHONHASHSEED=0 python -m tests.sim.run --only {seed}{length}{node}{mix}"


def _print_shrunk(options: argparse.Namespace, seed: int, verdict: Verdict) -> None:
    kinds = verdict.kinds

    def still_fails(history: History) -> bool:
        return bool(play(_choice(options), seed, history).kinds & kinds)

    short = shrink(list(verdict.history), still_fails, tries=SHRINK_TRIES)
    print(f"  {len(verdict.history)} steps shrink to {len(short)}:")
    print(dump(short))


def _replay(options: argparse.Namespace) -> int:
    history = None if options.replay is None else load(options.replay.read_text())
    seed = options.seed if options.only is None else options.only
    verdict = play(_choice(options), seed, history)
    for failure in verdict.failures:
        print(failure)
    if verdict.failures and not options.no_shrink:
        _print_shrunk(options, seed, verdict)
    print(f"seed {seed}: {len(verdict.failures)} failures, trace {verdict.trace[:16]}")
    return 1 if verdict.failures else 0


def _sample(options: argparse.Namespace) -> list[int]:
    return list(range(options.seed, options.seed + options.n, SAMPLE))


def _unequal(options: argparse.Namespace, traces: Mapping[int, str]) -> list[int]:
    """Play the sample in a process with another order of sets; list those that differ."""
    command = [sys.executable, "-m", "tests.sim.run", "--length", str(options.length)]
    command += ["--node", options.node, "--mix", options.mix]
    command += ["--trace", *map(str, _sample(options))]
    ran = subprocess.run(
        command,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    again = dict(line.split() for line in ran.stdout.splitlines())
    return [seed for seed in _sample(options) if again.get(str(seed)) != traces[seed]]


def run(arguments: Sequence[str]) -> NoReturn:
    """Be the program: sets of bytes are to be ordered alike in every run."""
    if "PYTHONHASHSEED" not in os.environ:
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.sim.run", *arguments],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    sys.exit(main(arguments))


if __name__ == "__main__":
    run(sys.argv[1:])
