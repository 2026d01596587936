"""Know every content that users wrote, and say which of them must still be there.

A content that no user overwrote or removed must stand in the tree of every node in the end
(property 19), whether a scan ever read it or it was displaced before (property 31). It knows
nothing of logs, only of contents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Iterable


class Oracle:
    """The map of all written contents; contents are named by their BLAKE3."""

    def __init__(self) -> None:
        """Begin with nothing written."""
        self.written: dict[bytes, bytes] = {}
        self.gone: set[bytes] = set()  # a user destroyed it, having it on disk
        self.copies: set[bytes] = set()  # may stand at several paths
        self.seen: set[bytes] = set()  # a scan read it, or may have
        self.excused: set[bytes] = set()  # lost in a power cut before anybody was told
        self._makers: dict[bytes, set[object]] = {}  # who made a file of this name
        self._left: dict[bytes, list[tuple[object, bytes]]] = {}  # what was renamed from it

    def wrote(self, content: bytes) -> None:
        """Note that a user let a file hold this content."""
        if content:
            self.written[blake3(content).digest()] = content

    def destroyed(self, content: bytes) -> None:
        """Note that a user overwrote or removed a file holding it."""
        self.gone.add(blake3(content).digest())

    def copied(self, content: bytes) -> None:
        """Note that a user let a second file hold it."""
        self.copies.add(blake3(content).digest())

    def made(self, path: bytes, maker: object) -> None:
        """Note that a user made a file of this name."""
        self._makers.setdefault(path, set()).add(maker)
        self._part_namesakes(path)

    def renamed(self, path: bytes, content: bytes, maker: object) -> None:
        """Note that a user gave a file of this name another one."""
        self._left.setdefault(path, []).append((maker, content))
        self._part_namesakes(path)

    def _part_namesakes(self, path: bytes) -> None:
        """Let the content of one of two people's files of one name stand twice.

        They are one object, unless the one is renamed before it is heard of: that is a deletion of
        the one object and another one. Who moves the first meanwhile makes the deletion void, and
        it shows again what stands at the new name as well (docs/decisions/0012).
        """
        for maker, content in self._left.get(path, ()):
            if self._makers.get(path, set()) - {maker}:
                self.copied(content)

    def looked(self, _path: bytes, value: bytes) -> None:
        """Note that a node's scan read it."""
        self.seen.add(value)

    def owed(self) -> set[bytes]:
        """Name the contents that must be in every tree."""
        return self.written.keys() - self.gone - self.excused

    def missing(self, contents: Iterable[bytes]) -> list[bytes]:
        """List the contents owed that are not among these."""
        found = {blake3(content).digest() for content in contents}
        return sorted(self.written[each] for each in self.owed() - found)
