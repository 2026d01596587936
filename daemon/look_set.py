"""Define where the scanner is to look, and what is to be looked at once more.

These are values; when is daemon.looks' to say.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from enum import IntEnum

from msgspec import Struct


class AgainReason(IntEnum):
    """Why a path is to be looked at once more."""

    RACY = 0  # read too soon after it changed to be sure
    CHANGING = 1  # it changed while it was read, or is being written
    UNSURE = 2  # it went or came while we looked, or could not be read
    UNLISTED = 3  # a directory that could not be listed: all below is to be looked at


class Again(Struct, frozen=True, gc=False):
    """A path to look at once more, not before `delay_s` from now."""

    path: bytes
    reason: AgainReason
    delay_s: float


class LookSet(Struct, frozen=True, kw_only=True):
    """Where the scanner is to look now.

    `paths` one by one; `directories` listed, without the known directories below them; `trees`
    with all below. `moves` gives for a path where a rename took it from. `settled` are paths
    that were closed after writing. `is_full` means the whole folder, whatever else is named.
    """

    paths: tuple[bytes, ...] = ()
    directories: tuple[bytes, ...] = ()
    trees: tuple[bytes, ...] = ()
    moves: dict[bytes, bytes] = {}
    settled: frozenset[bytes] = frozenset()
    is_full: bool = False

    def __bool__(self) -> bool:
        """Whether there is anywhere to look."""
        return bool(self.is_full or self.paths or self.directories or self.trees)


EVERYTHING = LookSet(is_full=True)


def parent_of(path: bytes) -> bytes:
    """Name the directory that holds a path; the root's is the root."""
    return path[: path.rfind(b"/")] if b"/" in path else b""


def below_any(paths: Iterable[bytes], directories: Container[bytes]) -> set[bytes]:
    """Give those paths that stand below one of the directories.

    What was found of a directory is not asked again of what it holds: a thousand directories, each
    in the one before, have half a million pairs.
    """
    asked: set[bytes] = set()
    below: set[bytes] = set()
    for path in sorted(paths):  # a directory comes before what it holds
        above = parent_of(path)
        if above in asked:
            is_below = above in below or above in directories
        else:
            is_below = _is_below_one_of(path, directories)
        if is_below:
            below.add(path)
        asked.add(path)
    return below


def _is_below_one_of(path: bytes, directories: Container[bytes]) -> bool:
    """Whether a directory above this path is among those given."""
    while path := parent_of(path):
        if path in directories:
            return True
    return False
