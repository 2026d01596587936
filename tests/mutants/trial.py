"""Break a copy of the project on purpose, one rule at a time, and see which tests notice.

A mutant is caught where pytest ran and a test failed; one that cannot be put in, or whose tests
cannot even be collected, is an error, so that nothing is counted as caught by accident.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from enum import Enum
from pathlib import Path
from typing import Final

from tests.mutants.catalogue import Mutant

ROOT: Final = Path(__file__).resolve().parent.parent.parent
_LIMIT_S = 600
_TESTS_FAILED = 1  # what pytest ends with
_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")


class Verdict(Enum):
    """What became of a mutant."""

    CAUGHT = "caught"
    SURVIVED = "SURVIVED"
    BROKEN = "BROKEN"  # the tests could not run


def place_of(mutant: Mutant, root: Path = ROOT) -> int:
    """Give the line at which a mutant begins. Raises ValueError unless it fits exactly once."""
    text = (root / mutant.file).read_text()
    count = text.count(mutant.old)
    if count != 1:
        raise ValueError(f"{mutant.file}: {count} places for the mutant of {mutant.rule!r}")
    return text[: text.index(mutant.old)].count("\n") + 1


def copy_project(into: Path) -> Path:
    """Copy all that tests need."""
    tree = into / "tree"
    shutil.copytree(ROOT, tree, ignore=_LEFT_OUT, symlinks=True)
    return tree


def try_out(mutant: Mutant, tree: Path) -> tuple[Verdict, str, float]:
    """Break the copy, run the tests, mend it; gives the verdict, who noticed, and seconds."""
    place_of(mutant, tree)
    file = tree / mutant.file
    whole = file.read_text()
    file.write_text(whole.replace(mutant.old, mutant.new))
    began_s = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "--tb=line", "-p", "no:cacheprovider",
             "--basetemp", str(tree.parent / "basetemp"), *mutant.proofs],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )  # fmt: skip
    finally:
        file.write_text(whole)
    took_s = time.monotonic() - began_s
    if done.returncode == 0:
        return Verdict.SURVIVED, "", took_s
    noticed = re.search(r"^FAILED (\S+)", done.stdout, re.MULTILINE)
    if done.returncode != _TESTS_FAILED or noticed is None:
        return Verdict.BROKEN, done.stdout[-800:] + done.stderr[-400:], took_s
    return Verdict.CAUGHT, noticed[1].removeprefix("tests/"), took_s
