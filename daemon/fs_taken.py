"""Reach what stands in `.dizzyd/tmp` below a directory that was taken out of the tree whole.

Somebody may have such a directory open, or be in it, and change names meanwhile: everything is
resolved below tmp as paths are below the root, and no link is followed. What becomes of the names
is the caller's to say; nothing is ever replaced.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from daemon.disk import FileKind
from daemon.fs_below import READABLE, At, Tree, disk_error, kind_of, stat_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.disk import Stat
    from daemon.fs_stage import Workshop


class Taken:
    """The directories in tmp that were part of the tree."""

    def __init__(self, shop: Workshop, history: int, *, has_openat2: bool) -> None:
        """Use open directories that the caller closes."""
        self._shop = shop
        self._history = history
        self._tree = Tree(shop.directory, has_openat2=has_openat2)

    def take(self, at: At, keep_as: bytes) -> Stat:
        """Move a directory of the tree to tmp. Raises OSError; then nothing changed."""
        _require_directory(at.lstat())
        self._shop.rename(at.directory, at.name, self._shop.directory, keep_as)
        taken = os.stat(keep_as, dir_fd=self._shop.directory, follow_symlinks=False)
        if kind_of(taken) is not FileKind.DIRECTORY:
            self._shop.rename(self._shop.directory, keep_as, at.directory, at.name)
            _require_directory(taken)
        return stat_of(taken, FileKind.DIRECTORY)

    def listed(self, inner: bytes) -> list[tuple[bytes, Stat]]:
        """List a directory of it. Raises DiskError."""
        try:
            directory = self._tree.open_directory(inner, READABLE)
            try:
                return self._tree.list_names(directory)
            finally:
                os.close(directory)
        except OSError as cause:
            raise disk_error("list", _shown(inner), cause) from cause

    def keep(self, inner: bytes, names: Sequence[tuple[bytes, bytes]]) -> list[bool]:
        """Move names into history and say which; the others stay. Raises DiskError."""
        rename, history = self._shop.rename, self._history
        moved = []
        try:
            directory = self._tree.open_directory(inner, READABLE)
            try:
                for name, history_name in names:
                    try:
                        rename(directory, name, history, history_name)
                    except (FileNotFoundError, FileExistsError):
                        moved.append(False)
                    else:
                        moved.append(True)
            finally:
                os.close(directory)
        except OSError as cause:
            raise disk_error("keep what is in", _shown(inner), cause) from cause
        return moved

    def set_aside(self, inner: bytes, keep_as: bytes) -> Stat:
        """Move a name to tmp itself. Raises DiskError."""
        with self._tree.at("set aside", inner) as at:
            self._shop.rename(at.directory, at.name, self._shop.directory, keep_as)
            found = os.stat(keep_as, dir_fd=self._shop.directory, follow_symlinks=False)
            return stat_of(found, kind_of(found))

    def put_back(self, inner: bytes, target: At) -> Stat:
        """Move a name into the tree. Raises DiskError."""
        with self._tree.at("return", inner) as at:
            self._shop.rename(at.directory, at.name, target.directory, target.name)
        found = target.lstat()
        return stat_of(found, kind_of(found))

    def remove(self, inner: bytes) -> None:
        """Remove an empty directory. Raises DiskError."""
        with self._tree.at("remove", inner) as at:
            os.rmdir(at.name, dir_fd=at.directory)


def _require_directory(found: os.stat_result) -> None:
    if kind_of(found) is not FileKind.DIRECTORY:
        raise OSError(errno.EEXIST, "no directory stands there")


def _shown(inner: bytes) -> bytes:
    return b".dizzyd/tmp/" + inner
