"""Make durable what was written to a folder: all of it, or some files and names.

An error is never passed over: what may be lost is told to whoever asked. Nothing is written here.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from daemon import syscalls
from daemon.disk import FileKind, NameMissing
from daemon.fs_below import READABLE, At, Tree, disk_error, is_reachable, kind_of, unreachable
from daemon.fs_read import READ

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.fs_held import HeldRoot
    from daemon.fs_stage import Workshop

_FEW = 16  # below this, each by itself is cheaper than the whole file system


class Syncs:
    """What makes one folder's files and names durable."""

    def __init__(self, held: HeldRoot, tree: Tree, shop: Workshop) -> None:
        """Use what the disk holds open."""
        self._held = held
        self._tree = tree
        self._shop = shop
        self._lock = threading.Lock()

    def everything(self) -> None:
        """Make all that was written to this file system so far durable (one syncfs).

        The descriptor was opened before any of our writes, so no error is missed. Where one is
        reported, each open stage is synced by itself; raises DiskError if one of them failed.
        """
        with self._lock:
            try:
                syscalls.syncfs(self._held.tmp)
            except OSError as cause:
                self._sync_stages(cause)

    def directories(self, paths: Sequence[bytes]) -> None:
        """Make the names in these directories durable (many: one sync)."""
        unique = set(paths)
        if len(unique) >= _FEW:
            self.everything()
            return
        for path in unique:
            self._sync_directory(path)

    def files(self, paths: Sequence[bytes]) -> None:
        """Make these files and the names in their parents durable (many: one syncfs)."""
        if len(paths) >= _FEW:
            self._everything_for_files()
            return
        parents: set[bytes] = set()
        for path in paths:
            parents.add(path.rpartition(b"/")[0])
            if not path:
                continue
            try:
                with self._tree.at("make durable", path) as at:
                    self._sync_name(at)
            except NameMissing:
                continue
        for parent in parents:
            self._sync_directory(parent)

    def _everything_for_files(self) -> None:
        # Another descriptor than everything() has: the kernel tells a lost write once to each,
        # and who looks at files must not hear what apply has to hear.
        try:
            syscalls.syncfs(self._held.root)
        except OSError as cause:
            raise disk_error("make durable", self._held.path, cause) from cause

    def _sync_stages(self, cause: OSError) -> None:
        """Find out whether what syncfs could not write was ours: any file on the disk counts."""
        for stage in list(self._shop.open_stages):
            if stage.is_open():
                try:
                    stage.make_durable()
                except OSError as failure:
                    raise disk_error("make durable", b".dizzyd/tmp", failure) from failure
        raise disk_error("make durable", self._held.path, cause) from cause

    def _sync_directory(self, path: bytes) -> None:
        if path and not is_reachable(path):
            raise unreachable("make durable", path)
        try:
            directory = self._tree.open_directory(path, READABLE)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as cause:
            error = disk_error("make durable", path, cause)
            if not isinstance(error, NameMissing):
                raise error from cause

    def _sync_name(self, at: At) -> None:
        kind = kind_of(at.lstat())
        if kind not in (FileKind.FILE, FileKind.DIRECTORY):
            return
        try:
            opened = os.open(at.name, READ, dir_fd=at.directory)
        except PermissionError:
            self._everything_for_files()
            return
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
