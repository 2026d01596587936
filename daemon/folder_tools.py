"""Define what a folder at work is given, and how it says what is wrong.

Values only; nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from daemon.config import HistoryConfig
from daemon.core import Runner
from daemon.disk import Disk
from daemon.displaced import Clock, Names
from daemon.engine import Engine
from daemon.hints import Watcher
from daemon.outcomes import Reason
from daemon.places import Places
from daemon.procedures import Procedures
from daemon.shelf import Shelf
from daemon.stored_lists import StoredChunkLists
from peers.fetch import Fetcher
from store.ids import BlobHash, FolderId


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What all folders of a node share."""

    shelf: Shelf
    engine: Engine
    procedures: Procedures
    core: Runner
    pool: Runner
    places: Places
    chunk_lists: StoredChunkLists
    clock: Clock
    names: Names
    fetcher: Fetcher
    history: Callable[[], HistoryConfig]
    # opens the files of a folder, or raises RootLost / RootHeld
    open_disk: Callable[[bytes, FolderId, int | None], Disk]
    close_disk: Callable[[Disk], None]
    watch: Callable[[bytes], Watcher]
    heads_changed: Callable[[FolderId], None]
    rested: Callable[[], None]  # told when a folder has nothing more to do
    blobs_arrived: Callable[[FolderId, Sequence[BlobHash]], None]


@dataclass(slots=True, kw_only=True)
class Trouble:
    """What is wrong with a folder now: sentence and remedy, by where it comes from."""

    root: tuple[str, str] | None = None
    failed: dict[Reason, tuple[str, str]] = field(default_factory=dict)
    unreadable: dict[bytes, str] = field(default_factory=dict)
    space: tuple[str, str] | None = None
    ignore: tuple[str, str] | None = None
    watch: tuple[str, str] | None = None
    tail: tuple[str, str] | None = None
