"""Define what a watcher may say: where to look, never what happened.

Events for the log come only from disk against synced; a hint decides merely when and where the
scanner looks. Losing any hint costs time, not truth.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Protocol

from msgspec import Struct


class HintKind(IntEnum):
    """What the operating system reported for one path."""

    CLOSED = 0  # a file was closed after writing: look at once
    MOVED_HERE = 1  # a name was put here by a rename; `source` is the old path if known
    APPEARED = 2  # a new name: look when it is quiet
    GONE = 3  # a name was deleted or moved away: judged together with others
    CHANGED = 4  # content or attributes changed, the file may still be open
    LOST = 5  # the watcher missed something: `path` (empty: everything) must be scanned


class Hint(Struct, frozen=True, gc=False):
    """One hint. `path` is relative to the folder's root."""

    kind: HintKind
    path: bytes
    is_directory: bool = False
    source: bytes | None = None


class WatchState(IntEnum):
    """How much of the folder is watched."""

    FULL = 0
    PARTIAL = 1  # some directories are polled (watch limit)
    POLLING = 2  # no watching here at all (NFS, SMB, no inotify instance)


class Watcher(Protocol):
    """Watches one folder from start to stop."""

    def start(self, deliver: Callable[[list[Hint]], None]) -> None:
        """Begin; `deliver` is called with bunches of hints from any thread."""

    def stop(self) -> None:
        """End; no hint is delivered after this returned. Idempotent."""

    @property
    def state(self) -> WatchState:
        """How much is watched now."""

    def unwatched(self) -> list[bytes]:
        """Directories that could not be watched and are to be polled."""
