"""Hold a shared folder: its root, `.dizzyd/tmp` and `.dizzyd/history` open, its mark locked.

Refuses to go on with another directory than the one that was shared (RootLost), and to share
one with another daemon (RootHeld). Nothing here looks at the user's files.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress

from daemon import fs_root
from daemon.disk import RootLost
from daemon.fs_below import PRIVATE, READABLE, disk_error, shown
from daemon.fs_stage import MADE


class HeldRoot:
    """The descriptors of one folder; they stay the same until close()."""

    def __init__(self, path: bytes) -> None:
        """Hold a prepared folder by its resolved path. Raises RootLost, RootHeld, DiskError."""
        self.path = path
        self.root = fs_root.open_root(path)
        self._private = self._marker_file = self.tmp = self.history = -1
        self._is_closed = False
        self._heal_lock = threading.Lock()
        try:
            self._private = fs_root.open_private(self.root, path)
            self._marker_file, self.marker = fs_root.open_locked(self._private, path)
            self.tmp = self._open_own(fs_root.TMP)
            self.history = self._open_own(fs_root.HISTORY)
            self._remove_made()
        except BaseException as cause:
            self.close()
            if isinstance(cause, OSError):
                raise disk_error("open", path, cause) from cause
            raise

    def check(self) -> None:
        """Raise RootLost unless the root is the very directory that was shared.

        The path must lead to the held device and inode, carry the same mark and be listable.
        A removed tmp or history is made again.
        """
        try:
            there = os.lstat(self.path)
            if not os.path.samestat(there, os.fstat(self.root)):
                raise self._lost("another directory stands there now")
            private = os.stat(PRIVATE, dir_fd=self.root, follow_symlinks=False)
            if not os.path.samestat(private, os.fstat(self._private)):
                raise self._lost(".dizzyd is another one now")
            marker_file, marker = fs_root.open_marker(self._private, self.path)
            os.close(marker_file)
            if marker != self.marker:
                raise self._lost("it carries the mark of another folder")
            listing = os.open(b".", READABLE, dir_fd=self.root)
            try:
                with os.scandir(listing) as names:
                    next(names, None)
            finally:
                os.close(listing)
            self._heal()
        except OSError as cause:
            raise self._lost(cause.strerror or str(cause), cause.errno) from cause

    def close(self) -> None:
        """Let go of the root and of the lock on it. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        for held in (self.tmp, self.history, self._marker_file, self._private, self.root):
            if held >= 0:
                os.close(held)

    def _open_own(self, name: bytes) -> int:
        with suppress(FileNotFoundError):
            return os.open(name, READABLE, dir_fd=self._private)
        fs_root.make_directory(self._private, name)
        return os.open(name, READABLE, dir_fd=self._private)

    def _remove_made(self) -> None:
        """Remove what a process that died left under names of ours; no file of a user has one."""
        with os.scandir(self.tmp) as entries:
            left = [os.fsencode(entry.name) for entry in entries]
        for name in left:
            if name.startswith(MADE):
                with suppress(OSError):
                    os.unlink(name, dir_fd=self.tmp)

    def _heal(self) -> None:
        """Make tmp and history again if somebody removed them, under the same descriptors."""
        with self._heal_lock:
            for name, held in ((fs_root.TMP, self.tmp), (fs_root.HISTORY, self.history)):
                if os.fstat(held).st_nlink == 0:
                    again = self._open_own(name)
                    os.dup2(again, held, inheritable=False)
                    os.close(again)

    def _lost(self, why: str, number: int | None = None) -> RootLost:
        return RootLost(
            f"find the folder at {shown(self.path)}",
            why,
            errno=number or 0,
            hint="is its disk mounted? nothing is deleted because of this",
        )
