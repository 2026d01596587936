"""Try all mutants, or those whose rule or file has a word: `python -m tests.mutants durable`."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.mutants.catalogue import MUTANTS
from tests.mutants.trial import Verdict, copy_project, place_of, try_out


def main(words: list[str]) -> int:
    """Print a line for each mutant and a summary; 0 only if every one was caught."""
    chosen = [m for m in MUTANTS if all(word in m.rule or word in m.file for word in words)]
    counts: Counter[Verdict] = Counter()
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        tree = copy_project(Path(scratch))
        for mutant in chosen:
            where = f"{mutant.file}:{place_of(mutant, tree)}"
            verdict, noticed, took_s = try_out(mutant, tree)
            counts[verdict] += 1
            print(f"{verdict.value:<9} {took_s:5.1f} s  {where:<28} {mutant.rule}", flush=True)
            print(f"{'':<19}{noticed}", flush=True)
    told = ", ".join(f"{counts[verdict]} {verdict.value.lower()}" for verdict in Verdict)
    print(f"mutants: {len(chosen)} breakages of safety rules: {told}")
    return int(counts[Verdict.CAUGHT] != len(chosen))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
