"""Reach the files in `.dizzyd/tmp` and `.dizzyd/history` by their names.

Names that begin with a dot are the disk's own and are refused; no link is followed. What becomes
of a file is the caller's to say; nothing is removed but what it names.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from daemon.disk import DiskError
from daemon.fs_below import READABLE, Tree, disk_error, kind_of, shown, stat_of
from daemon.fs_look import is_open_for_writing, look_name
from daemon.fs_read import read_at

if TYPE_CHECKING:
    from daemon.disk import Looked, LookFailure, Stat


def own_name(operation: str, name: bytes) -> bytes:
    """Check a name in tmp or history; those that begin with a dot are the disk's own."""
    if not name or name[0] == ord(".") or b"/" in name or b"\0" in name:
        raise DiskError(f"{operation} {shown(name)}", "is no name of a stage", errno=errno.EINVAL)
    return name


class OwnDirectory:
    """One of the two directories, held open by the caller."""

    def __init__(self, directory: int, path: bytes, tree: Tree) -> None:
        """Use an open directory; `path` is how errors name it."""
        self._directory = directory
        self._path = path
        self._tree = tree

    def listed(self) -> list[tuple[bytes, Stat]]:
        """List its names with lstat of each. Raises DiskError."""
        try:
            # Opened anew: a descriptor's position in the listing is shared by all who use it.
            listing = os.open(b".", READABLE, dir_fd=self._directory)
            try:
                listed = self._tree.list_names(listing)
            finally:
                os.close(listing)
        except OSError as cause:
            raise disk_error("list", b".dizzyd", cause) from cause
        return [found for found in listed if not found[0].startswith(b".")]

    def stat(self, name: bytes) -> Stat:
        """Lstat a name. Raises OSError."""
        found = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
        return stat_of(found, kind_of(found))

    def look(self, name: bytes) -> Looked | LookFailure:
        """Hash a file."""
        own_name("look at", name)
        return look_name(self._directory, name, None, effective_user=os.geteuid())

    def is_being_written(self, name: bytes) -> bool:
        """Whether some process has the file open for writing (False where unknowable)."""
        try:
            return is_open_for_writing(self._directory, own_name("open", name))
        except OSError:
            return False

    def read(self, name: bytes, offset: int, length: int) -> bytes:
        """Read a piece of a file. Raises NameMissing."""
        own_name("read", name)
        try:
            return read_at(self._directory, name, offset, length, None)
        except OSError as cause:
            raise disk_error("read", self._path + b"/" + name, cause) from cause

    def remove(self, name: bytes) -> None:
        """Remove a file for good. Idempotent."""
        try:
            os.unlink(own_name("remove", name), dir_fd=self._directory)
        except FileNotFoundError:
            return
        except OSError as cause:
            raise disk_error("remove", self._path + b"/" + name, cause) from cause
