"""Run N random histories: `python -m tests.sim 10000`."""

from __future__ import annotations

import sys

from tests.sim.run import run

if __name__ == "__main__":
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    run(["--n", *sys.argv[1:]] if first.isdigit() else sys.argv[1:])
