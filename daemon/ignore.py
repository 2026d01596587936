"""Decide which names of a folder are not shared.

It never says what becomes of a name that is newly ignored: known objects keep their state, and
no event comes of it (docs/design.md, 5). It reads one file, `.dizzyignore`, through the Disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pathspec import GitIgnoreSpec

from daemon.disk import DiskError, FileKind, NameMissing

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.disk import Disk

RULES_NAME = b".dizzyignore"
PRIVATE_NAME = b".dizzyd"
RULES_LIMIT_BYTES = 1024 * 1024

_PRIVATE_BELOW = PRIVATE_NAME + b"/"
_FIRST_BYTES = b".~4"  # what every default editor's name but NAME~ begins with


class Ignore(Protocol):
    """What the scanner asks about a name."""

    def is_ignored(
        self, path: bytes, *, is_directory: bool, exists: Callable[[bytes], bool]
    ) -> bool:
        """Whether the name is left alone; `exists` tells of other paths in the same directory."""


def is_private(path: bytes) -> bool:
    """Whether the path is our own: `.dizzyd` at the root, or below it."""
    return path.startswith(PRIVATE_NAME) and (
        path == PRIVATE_NAME or path.startswith(_PRIVATE_BELOW)
    )


def is_editors_name(name: bytes) -> bool:
    """Whether an editor makes such a name for itself (but for NAME~, which needs NAME)."""
    if not name or name[0] not in _FIRST_BYTES:
        return False
    return (
        name == b"4913"
        or name.startswith((b".#", b"~$", b".goutputstream-"))
        or (name.startswith(b".") and name.endswith(b".swp") and len(name) > len(b"..swp") - 1)
    )


class IgnoreRules:
    """The rules of one folder, as of one content of its `.dizzyignore`. Never changes."""

    def __init__(self, text: bytes = b"", *, are_editors_ignored: bool = True) -> None:
        """Parse gitignore lines; a line that is no pattern is left out and named in `faults`."""
        self._are_editors_ignored = are_editors_ignored
        self.faults: list[str] = []
        lines = [line for line in text.splitlines() if line.strip() and line[:1] != b"#"]
        self._spec = self._compile(lines) if lines else None

    def _compile(self, lines: list[bytes]) -> GitIgnoreSpec:
        accepted: list[str] = []
        for line in lines:
            pattern = line.decode("utf-8", "surrogateescape")
            try:
                GitIgnoreSpec.from_lines([pattern])
            except ValueError:
                self.faults.append(pattern)
            else:
                accepted.append(pattern)
        return GitIgnoreSpec.from_lines(accepted)

    def is_ignored(
        self, path: bytes, *, is_directory: bool, exists: Callable[[bytes], bool]
    ) -> bool:
        """Whether the path is left alone, by its own name or by a directory's above it.

        Editors' names count for files and links only: a directory is never theirs.
        """
        if is_private(path):
            return True
        if not is_directory and self._are_editors_ignored:
            name = path[path.rfind(b"/") + 1 :]
            if is_editors_name(name):
                return True
            if len(name) > 1 and name[-1:] == b"~" and exists(path[:-1]):
                return True
        if self._spec is None:
            return False
        text = path.decode("utf-8", "surrogateescape")
        return self._spec.match_file(text + "/" if is_directory else text)


def load(disk: Disk, *, are_editors_ignored: bool = True) -> IgnoreRules:
    """Read the folder's rules; blocks. A folder without `.dizzyignore` has the default ones.

    Only a regular file of up to 1 MiB counts. Raises DiskError where it is there and cannot be
    read: then the rules are unknown, and the ones from before are to be kept.
    """
    stat = disk.stat(RULES_NAME)
    if stat is None or stat.kind is not FileKind.FILE:
        return IgnoreRules(are_editors_ignored=are_editors_ignored)
    if stat.size > RULES_LIMIT_BYTES:
        raise DiskError(".dizzyignore", "is larger than 1 MiB", hint="shorten it")
    try:
        text = disk.read(RULES_NAME, 0, stat.size, None) if stat.size else b""
    except NameMissing:
        text = b""
    return IgnoreRules(text, are_editors_ignored=are_editors_ignored)
