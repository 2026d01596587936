"""Find where names are on this disk while the steps of a plan move them about.

By the committed synced rows, and by the directories that were made since. Where another directory
stands at a path than the one that synced means, the step has to wait: nothing is put into it.
"""

from __future__ import annotations

from typing import Protocol

from daemon.disk import Disk
from daemon.outcomes import Why
from daemon.steps import Place


class DirectoryPaths(Protocol):
    """Finds directories on this disk by the committed synced rows."""

    def path_of(self, directory_no: int) -> bytes | None:
        """Give the path of a directory, the root's being empty; None if it is not there."""

    def inode_of(self, directory_no: int) -> int | None:
        """Give the inode that it had when synced last saw it; None for the root."""


class Waits(Exception):
    """A step has to wait."""

    def __init__(self, path: bytes, why: Why) -> None:
        """Say of which path, which may be unknown (empty), and why."""
        self.path = path
        self.why = why


class Whereabouts:
    """Where the names of one plan are; what is touched becomes busy before."""

    def __init__(self, disk: Disk, paths: DirectoryPaths, busy: set[bytes]) -> None:
        """`busy` gets every path before it is touched."""
        self._disk = disk
        self._paths = paths
        self._busy = busy
        self._made: dict[int, Place] = {}  # directories not yet known to `paths`
        self._resolved: dict[int, bytes | None] = {}
        self._proven: set[int] = set()  # directories found to be those that synced means
        self.touched: set[bytes] = set()  # directories whose names changed in this segment

    def begin(self) -> None:
        """Begin a segment: what was found out before may have changed since."""
        self.touched = set()
        self._resolved.clear()
        self._proven.clear()

    def committed(self) -> None:
        """Forget directories that `paths` knows by now."""
        self._made.clear()
        self._resolved.clear()

    def note_directory(self, directory_no: int, place: Place) -> None:
        """Note where a directory stands from now on."""
        self._made[directory_no] = place
        self._resolved.clear()

    def touch(self, path: bytes) -> None:
        """Say that a name is about to be changed."""
        self._busy.add(path)
        self.touched.add(path.rpartition(b"/")[0])

    def path(self, place: Place) -> bytes | None:
        """Find where a name is now; None where its directory is not there."""
        parent = self._directory_path(place.parent_no)
        if parent is None:
            return None
        return parent + b"/" + place.name if parent else place.name

    def must_path(self, place: Place) -> bytes:
        """Find where a name is, before it is touched. Raises Waits."""
        path = self.path(place)
        if path is None:
            raise Waits(b"", Why.MISSING_HERE)
        self._busy.add(path)
        parent = path.rpartition(b"/")[0]
        self._must_be_known(place.parent_no, parent)
        self.touched.add(parent)
        return path

    def _directory_path(self, number: int) -> bytes | None:
        resolved = self._resolved
        if number in resolved:
            return resolved[number]
        made: list[tuple[int, bytes]] = []  # from the bottom up to one that `paths` knows (E13)
        while number not in resolved:
            place = self._made.get(number)
            if place is None:
                resolved[number] = self._paths.path_of(number)
                break
            made.append((number, place.name))
            number = place.parent_no
        path = resolved[number]
        for below, name in reversed(made):
            if path is not None:
                path = path + b"/" + name if path else name
            resolved[below] = path
        return path

    def _must_be_known(self, directory_no: int, path: bytes) -> None:
        """Wait where another directory stands at the path than the one that synced means.

        Somebody moved that one away and made another of its name: what belongs into the first
        must not land in the second.
        """
        if directory_no in self._proven or directory_no in self._made:
            return
        expected = self._paths.inode_of(directory_no)
        if path and expected is not None:
            stat = self._disk.stat(path)
            if stat is None or stat.inode != expected:
                raise Waits(path, Why.MISSING_HERE)
        self._proven.add(directory_no)
