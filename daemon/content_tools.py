"""Define what the writers of contents of one folder share.

Values only; nothing here does anything.
"""

from __future__ import annotations

from dataclasses import dataclass

from daemon.applied import Blobs
from daemon.core import Runner
from daemon.disk import Disk
from daemon.displaced import Names
from daemon.putting import Putting
from daemon.runs import Runs


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentTools:
    """Where contents come from (`blobs`), and by whom they are put in place (`putting`)."""

    disk: Disk
    runner: Runner
    blobs: Blobs
    names: Names
    runs: Runs
    putting: Putting
