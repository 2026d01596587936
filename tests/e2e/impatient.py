"""Run the daemon as `python -m daemon` does, but with checkpoints after few batches and at once.

A checkpoint is made after 10,000 batches and a minute of rest, and who was away is waited for for
a month: no test waits for that. Nothing else is other than in the daemon.
"""

from __future__ import annotations

import sys
from functools import partial

from daemon import node, snapshots
from daemon.cli import main
from store import acknowledged

if __name__ == "__main__":
    vars(snapshots)["_LOOK_S"] = 0.3
    vars(node)["Rule"] = partial(snapshots.Rule, from_batches=40, rest_s=0.5)
    vars(acknowledged)["AWAY_MS"] = 3000
    sys.exit(main())
