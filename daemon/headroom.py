"""Say whether a disk has room for what is to be written, and keep some of it free.

Pure: sizes are handed in. Below what is to be kept free nothing is written by dizzyd; the user's
own programs need that room, and so does their next save.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from daemon.terminal import counted, size

if TYPE_CHECKING:
    from daemon.config import HistoryConfig


class Space(Struct, frozen=True, gc=False):
    """The size of a file system, and what an ordinary user may still write, in bytes."""

    total: int
    free: int


def kept_free(config: HistoryConfig, space: Space) -> int:
    """Give how many bytes are to stay free on a disk."""
    if config.min_free_bytes is not None:
        return config.min_free_bytes
    return int(space.total * (config.min_free_ratio or 0.0))


def missing_bytes(config: HistoryConfig, space: Space, needed: int) -> int:
    """Give how many bytes must become free before so many more can be written; 0: there is room."""
    return max(0, needed + kept_free(config, space) - space.free) if needed else 0


def shortage(missing: int, versions: int, history_bytes: int) -> tuple[str, str]:
    """Put into words that there is no room, what history costs, and what helps."""
    remedy = "free space; it goes on by itself"
    if versions:
        cost = f"history here is {size(history_bytes)} in {counted(versions, 'version')}"
        remedy += f"; {cost}, [history] keep limits it"
    return f"disk full: {size(missing)} short of min_free", remedy
