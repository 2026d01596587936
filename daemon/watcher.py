"""Choose how a folder is watched, and watch it portably with watchdog.

The portable watcher uses nothing but watchdog's public observer, so it can miss things that it
never hears of: a full scan every now and then is the truth there, more than elsewhere.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileAttribEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

from daemon import syscalls
from daemon.bunch import HintBunch
from daemon.fs_below import PRIVATE
from daemon.fs_root import open_root
from daemon.hints import Hint, HintKind, WatchState
from daemon.inotify import InotifyWatcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from watchdog.observers.api import BaseObserver

    from daemon.hints import Watcher

logger = logging.getLogger(__name__)

# Changes made elsewhere never reach this kernel: statfs(2), f_type.
_REMOTE = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x65735546: "FUSE",
    0x01021997: "9P",
    0x5346414F: "AFS",
    0x00C36400: "Ceph",
    0x47504653: "GPFS",
    0x0BD00BD0: "Lustre",
}
# watchdog says so before it throws more away and watches anew: look once more when it has done so.
_LOST_AGAIN_S = 1.0
_LIMITS = (errno.ENOSPC, errno.EMFILE)
_EVENTS = [
    FileAttribEvent,
    FileCreatedEvent,
    FileModifiedEvent,
    FileClosedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    DirCreatedEvent,
    DirMovedEvent,
    DirDeletedEvent,
]


class PollingWatcher:
    """Watches nothing: the folder is scanned every now and then. Implements Watcher."""

    def start(self, deliver: Callable[[list[Hint]], None]) -> None:
        """Deliver nothing."""

    def stop(self) -> None:
        """End. Idempotent."""

    @property
    def state(self) -> WatchState:
        """Say that everything is polled."""
        return WatchState.POLLING

    def unwatched(self) -> list[bytes]:
        """Give the root: all of it is to be polled."""
        return [b""]


def remote_kind(root: bytes) -> str | None:
    """Name the kind of file system where others change files unseen, or give None."""
    try:
        return _REMOTE.get(syscalls.file_system_type(root)) if _is_linux() else None
    except OSError:
        return None


def _is_linux() -> bool:
    return sys.platform.startswith("linux")


def watcher_for(root: bytes) -> Watcher:
    """Choose the watcher for a folder: our own on Linux, watchdog's elsewhere, or polling."""
    if remote_kind(root) is not None:
        return PollingWatcher()
    if _is_linux():
        return InotifyWatcher(root)
    return WatchdogWatcher(root)


class WatchdogWatcher:
    """Watches one folder through watchdog; implements daemon.hints.Watcher."""

    def __init__(self, root: bytes) -> None:
        """Prepare to watch a resolved absolute path."""
        self._root = root.rstrip(b"/") or b"/"
        self._observer: BaseObserver | None = None
        self._is_polling = False
        self._is_stopping = False
        self._bunch = HintBunch()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._lost_again_s: float | None = None
        self._listener = _OverflowListener(self._lose)

    def start(self, deliver: Callable[[list[Hint]], None]) -> None:
        """Begin; `deliver` is called with bunches of hints from a thread of the watcher.

        Raises RootLost if the root cannot be opened.
        """
        os.close(open_root(self._root))
        self._deliver = deliver
        # It warns of each directory that it met twice, with its whole object as text.
        warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"watchdog\.")
        observer = Observer()
        handler = _Handler(self._take)
        try:
            observer.schedule(
                handler, os.fsdecode(self._root), recursive=True, event_filter=_EVENTS
            )
            observer.start()
        except OSError as cause:
            if cause.errno not in _LIMITS:
                raise
            logger.warning("watch.refused reason=%s", cause.strerror)
            self._is_polling = True
            return
        logging.getLogger("watchdog").addHandler(self._listener)
        self._observer = observer
        self._thread = threading.Thread(target=self._run, name="dizzyd-hints", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; no hint is delivered after this returned. Idempotent."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        logging.getLogger("watchdog").removeHandler(self._listener)
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            observer.join()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    @property
    def state(self) -> WatchState:
        """How much is watched, as far as watchdog tells."""
        return WatchState.POLLING if self._is_polling else WatchState.FULL

    def unwatched(self) -> list[bytes]:
        """Directories known not to be watched: all or none."""
        return [b""] if self._is_polling else []

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._bunch and not self._is_stopping:
                    self._wait()
                if self._is_stopping:
                    return
                hints = self._bunch.take()
            if hints:
                self._deliver(hints)

    def _wait(self) -> None:
        if self._lost_again_s is None:
            self._changed.wait()
            return
        left_s = self._lost_again_s - time.monotonic()
        if left_s > 0:
            self._changed.wait(left_s)
            return
        self._lost_again_s = None
        self._bunch.lose(b"")

    def _lose(self) -> None:
        with self._changed:
            if self._lost_again_s is None:  # watchdog's log has two lines for one overflow
                self._bunch.lose(b"")
            self._lost_again_s = time.monotonic() + _LOST_AGAIN_S
            self._changed.notify()

    def _take(self, event: FileSystemEvent) -> None:
        path = self._relative(event.src_path)
        with self._changed:
            if event.event_type == "moved":
                self._take_move(path, self._relative(event.dest_path), event)
            elif path is not None:
                self._take_plain(path, event)
            if self._bunch:
                self._changed.notify()

    def _take_plain(self, path: bytes, event: FileSystemEvent) -> None:
        if not path:
            if event.event_type == "deleted":
                self._bunch.lose(b"")
            return
        is_directory = event.is_directory
        match event.event_type:
            case "created":
                self._bunch.touch(HintKind.APPEARED, path, is_directory=is_directory)
            case "modified" | "attrib":
                self._bunch.touch(HintKind.CHANGED, path, is_directory=is_directory)
            case "closed":
                self._bunch.touch(HintKind.CLOSED, path)
            case "deleted":
                self._bunch.go(path, is_directory=is_directory)

    def _take_move(
        self, source: bytes | None, target: bytes | None, event: FileSystemEvent
    ) -> None:
        if event.is_synthetic:
            return  # what a moved directory carries is no news
        if target is not None:
            self._bunch.move(target, source, is_directory=event.is_directory)
        elif source is not None and not self._bunch.is_hinted(source):
            self._bunch.go(source, is_directory=event.is_directory)

    def _relative(self, path: bytes | str) -> bytes | None:
        """Give the path below the root; None for what is ours or lies elsewhere."""
        whole = os.fsencode(path)
        if whole == self._root:
            return b""
        if not whole.startswith(self._root + b"/"):
            return None
        below = whole[len(self._root) + 1 :]
        return None if below == PRIVATE or below.startswith(PRIVATE + b"/") else below


class _Handler(FileSystemEventHandler):
    def __init__(self, take: Callable[[FileSystemEvent], None]) -> None:
        super().__init__()
        self._take = take

    def on_any_event(self, event: FileSystemEvent) -> None:
        self._take(event)


class _OverflowListener(logging.Handler):
    """watchdog says only to its log that the kernel's queue overflowed."""

    def __init__(self, lose: Callable[[], None]) -> None:
        super().__init__(level=logging.WARNING)
        self._lose = lose

    def emit(self, record: logging.LogRecord) -> None:
        if "overflow" in record.getMessage().lower():
            self._lose()
