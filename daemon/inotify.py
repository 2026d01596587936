"""Watch a folder with inotify: one instance, one thread, which makes hints of its events.

Reads the kernel's queue into memory before it thinks, so that bursts which overflow slower
readers pass. It refuses to say what happened: what it reports are hints, and whatever it may
have missed becomes LOST or stands in unwatched().
"""

from __future__ import annotations

import errno
import logging
import os
import select
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from daemon.bunch import HintBunch
from daemon.fs_below import PRIVATE, Tree, shown
from daemon.fs_root import open_root
from daemon.hints import Hint, HintKind, WatchState
from daemon.inotify_kernel import (
    IN_ATTRIB,
    IN_CLOSE_WRITE,
    IN_CREATE,
    IN_DELETE,
    IN_DELETE_SELF,
    IN_IGNORED,
    IN_ISDIR,
    IN_MODIFY,
    IN_MOVE_SELF,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_Q_OVERFLOW,
    IN_UNMOUNT,
    Inotify,
    parse,
)
from daemon.watch_tree import WatchedDirectory, WatchTree

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

_APPEARED, _CHANGED, _CLOSED = HintKind.APPEARED, HintKind.CHANGED, HintKind.CLOSED

_HELD_BYTES = 64 << 20  # what is read ahead of thinking; beyond it the kernel's queue fills
_PAIR_S = 0.010  # the other half of a rename comes within this, or not at all
_RETRY_S = 30.0
# A save is told at once, event by event, also one that is followed by the next without pause.
# More hints than this a second are a burst: there events gather first, which costs the listener
# fewer calls; after a burst it takes a while until single ones are told at once again.
_HINTS_AT_ONCE = 64.0
_HINTS_A_SECOND = 400.0
_HINTS_OWED = 100.0
_GATHER_S = 0.025
_OWN_GATHER_S = 0.005  # where all that was heard is of our own renames in tmp and history


class _Leaving:
    """The first half of a rename, waiting for the second."""

    __slots__ = ("directory", "due_s", "is_directory", "path")

    def __init__(
        self,
        path: bytes | None,
        directory: WatchedDirectory | None,
        due_s: float,
        *,
        is_directory: bool,
    ) -> None:
        self.path = path  # None: from our own tmp or history
        self.directory = directory
        self.due_s = due_s
        self.is_directory = is_directory


class InotifyWatcher:
    """Watches one folder; implements daemon.hints.Watcher.

    start() returns when every directory is watched that can be, so a scan after it misses
    nothing. Where a directory cannot be watched, it and everything below it is to be polled.
    """

    def __init__(
        self,
        root: bytes,
        *,
        kernel: Callable[[], Inotify] = Inotify,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to watch a resolved absolute path."""
        self._root_path = root
        self._make_kernel = kernel
        self._clock_s = clock_s
        self._kernel: Inotify | None = None
        self._thread: threading.Thread | None = None
        self._is_stopping = False
        self._leaving: dict[int, _Leaving] = {}
        self._overlaid: dict[bytes, WatchedDirectory] = {}
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._bunch = HintBunch()
        self._tree = WatchTree(self._bunch, read_ahead=self._drain, speak=self._speak)
        self._rewalk_due_s: float | None = None
        self._retry_due_s = 0.0
        self._spoken_s = 0.0
        self._allowance = _HINTS_AT_ONCE
        self._heard_own = False  # since the last wake
        self._heard_others = False

    # -- what daemon.hints.Watcher asks ---------------------------------------------------------

    def start(self, deliver: Callable[[list[Hint]], None]) -> None:
        """Begin; `deliver` is called with bunches of hints from the watcher's thread.

        Raises RootLost if the root cannot be opened.
        """
        self._deliver = deliver
        top = open_root(self._root_path)
        try:
            self._kernel = self._make_kernel()
        except OSError as cause:
            os.close(top)
            if cause.errno not in (errno.EMFILE, errno.ENOSYS, errno.ENOMEM):
                raise
            logger.warning("watch.no_instance reason=%s", cause.strerror)
            return
        self._top = top
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.epoll()
        self._poll.register(self._kernel.descriptor, select.EPOLLIN)
        self._poll.register(self._wake, select.EPOLLIN)
        self._tree.begin(self._kernel, Tree(top))
        self._retry_due_s = self._clock_s() + _RETRY_S
        self._thread = threading.Thread(target=self._run, name="dizzyd-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; no hint is delivered after this returned. Idempotent."""
        self._is_stopping = True
        if self._kernel is None:
            return
        with suppress(OSError):
            os.eventfd_write(self._wake, 1)
        if self._thread is threading.current_thread():
            return
        if self._thread is not None:
            self._thread.join()
        kernel, self._kernel = self._kernel, None
        self._tree.end()
        self._poll.close()
        kernel.close()
        os.close(self._wake)
        os.close(self._top)

    @property
    def state(self) -> WatchState:
        """How much is watched now."""
        if self._kernel is None:
            return WatchState.POLLING
        return WatchState.PARTIAL if self._tree.unwatched else WatchState.FULL

    @property
    def is_limit_reached(self) -> bool:
        """Whether the kernel refused a watch because of fs.inotify.max_user_watches."""
        return self._tree.is_limit_reached and bool(self._tree.unwatched)

    def unwatched(self) -> list[bytes]:
        """Directories that could not be watched; each is to be polled with all below it."""
        if self._kernel is None:
            return [b""]
        return sorted(directory.path for directory in list(self._tree.unwatched))

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                self._poll.poll(self._timeout_s())
                if self._allowance < 1:
                    select.select((self._wake,), (), (), _GATHER_S)
                elif self._heard_own and not self._heard_others:
                    # Apply is at it, name after name: waking for each would slow it down.
                    select.select((self._wake,), (), (), _OWN_GATHER_S)
                self._heard_own = self._heard_others = False
                self._drain()
                while self._held and not self._is_stopping:
                    events = self._held.popleft()
                    self._held_bytes -= len(events)
                    for watch, mask, cookie, name in parse(events):
                        self._handle(watch, mask, cookie, name)
                    self._drain()
                    self._speak()
                self._keep_time()
                self._speak()
        except OSError:
            # The kernel took the instance from us: nothing more will come, say so by polling.
            logger.exception("watch.failed root=%s", shown(self._root_path))
            self._tree.unwatched[self._tree.root] = None
            if not self._is_stopping:
                self._deliver([Hint(HintKind.LOST, b"", is_directory=True)])

    def _speak(self) -> None:
        if self._bunch and not self._is_stopping:
            hints = self._bunch.take()
            if hints:
                now_s = self._clock_s()
                earned = (now_s - self._spoken_s) * _HINTS_A_SECOND
                left = min(self._allowance + earned, _HINTS_AT_ONCE) - len(hints)
                self._allowance = max(left, -_HINTS_OWED)
                self._spoken_s = now_s
                self._deliver(hints)

    def _drain(self) -> None:
        kernel = self._kernel
        if kernel is None:
            return
        while self._held_bytes < _HELD_BYTES:
            events = kernel.read()
            if not events:
                return
            self._held.append(events)
            self._held_bytes += len(events)

    def _timeout_s(self) -> float | None:
        due_s = [leaving.due_s for leaving in self._leaving.values()]
        if self._rewalk_due_s is not None:
            due_s.append(self._rewalk_due_s)
        if self._tree.unwatched:
            due_s.append(self._retry_due_s)
        # poll(2) counts milliseconds; a little more, so as not to wake just before.
        return max(0.0, min(due_s) - self._clock_s()) + 0.001 if due_s else None

    def _keep_time(self) -> None:
        now_s = self._clock_s()
        if self._leaving:
            late = [cookie for cookie, half in self._leaving.items() if half.due_s <= now_s]
            for cookie in late:
                self._went(self._leaving.pop(cookie))
        if self._overlaid and not self._leaving:
            overlaid, self._overlaid = self._overlaid, {}
            for directory in overlaid.values():
                if directory.parent is None:
                    self._tree.drop(directory)
        if self._rewalk_due_s is not None and self._rewalk_due_s <= now_s:
            self._rewalk()
        if self._tree.unwatched and self._retry_due_s <= now_s:
            self._retry_due_s = now_s + _RETRY_S
            self._retry()

    # -- one event ----------------------------------------------------------------------------

    def _handle(self, watch: int, mask: int, cookie: int, name: bytes) -> None:
        if mask & IN_Q_OVERFLOW:
            self._overflow()
            return
        directory = self._tree.watches.get(watch)
        if directory is None or (directory.is_private and name):
            self._heard_own = True
            if directory is not None:
                self._handle_private(mask, cookie)
            return
        self._heard_others = True
        if not name:
            self._handle_itself(directory, watch, mask)
        elif directory is self._tree.root and name == PRIVATE:
            if mask & (IN_DELETE | IN_MOVED_FROM):
                self._bunch.lose(b"")  # the mark is gone: the root must be checked
        elif mask & IN_ISDIR:
            self._handle_directory(directory, name, mask, cookie)
        else:
            self._handle_file(directory.prefix + name, mask, cookie)

    def _handle_file(self, path: bytes, mask: int, cookie: int) -> None:
        if mask & IN_CLOSE_WRITE:
            self._bunch.touch(_CLOSED, path)
        elif mask & (IN_MODIFY | IN_ATTRIB):
            self._bunch.touch(_CHANGED, path)
        elif mask & IN_CREATE:
            self._bunch.touch(_APPEARED, path)
        elif mask & IN_DELETE:
            self._bunch.go(path)
        elif mask & IN_MOVED_FROM:
            due_s = self._clock_s() + _PAIR_S
            self._leaving[cookie] = _Leaving(path, None, due_s, is_directory=False)
        elif mask & IN_MOVED_TO:
            left = self._leaving.pop(cookie, None)
            self._bunch.move(path, None if left is None else left.path)

    def _handle_directory(
        self, above: WatchedDirectory, name: bytes, mask: int, cookie: int
    ) -> None:
        path = above.prefix + name
        known = above.children.get(name)
        if mask & IN_CREATE:
            self._bunch.touch(_APPEARED, path, is_directory=True)
            self._tree.enter_new(above, name)
        elif mask & IN_DELETE:
            if known is not None:
                self._tree.drop(known)
            self._bunch.go(path, is_directory=True)
        elif mask & IN_MOVED_FROM:
            leaver = self._overlaid.pop(path, known)
            if leaver is not None:
                leaver.detach()
            due_s = self._clock_s() + _PAIR_S
            self._leaving[cookie] = _Leaving(path, leaver, due_s, is_directory=True)
        elif mask & IN_MOVED_TO:
            self._arrive(above, name, self._leaving.pop(cookie, None))
        elif mask & IN_ATTRIB:
            self._bunch.touch(_CHANGED, path, is_directory=True)
            if known is not None and known in self._tree.unwatched:
                self._try_again(known)

    def _arrive(self, above: WatchedDirectory, name: bytes, left: _Leaving | None) -> None:
        path = above.prefix + name
        self._bunch.move(path, None if left is None else left.path, is_directory=True)
        known = above.children.get(name)
        if known is not None:  # replaced if empty, or the other half of an exchange
            known.detach()
            self._overlaid[path] = known
        if left is None or left.directory is None or left.directory.parent is not None:
            self._tree.enter_new(above, name)
        else:
            self._tree.attach(left.directory, above, name)

    def _handle_itself(self, directory: WatchedDirectory, watch: int, mask: int) -> None:
        if mask & IN_IGNORED:
            self._tree.watches.pop(watch, None)
            if directory.watch == watch:
                directory.watch = -1
        if directory.is_private:
            return
        if mask & IN_UNMOUNT or (
            directory is self._tree.root and mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_ATTRIB)
        ):
            self._bunch.lose(directory.path)

    def _handle_private(self, mask: int, cookie: int) -> None:
        if mask & IN_MOVED_FROM:
            due_s = self._clock_s() + _PAIR_S
            self._leaving[cookie] = _Leaving(None, None, due_s, is_directory=False)
        elif mask & IN_MOVED_TO:
            left = self._leaving.pop(cookie, None)
            # What we exchanged stands there anew, and was hinted as moved here already.
            if left is not None and left.path is not None and not self._bunch.is_hinted(left.path):
                self._went(left)

    def _went(self, left: _Leaving) -> None:
        if left.path is None:
            return
        if left.directory is not None and left.directory.parent is None:
            self._tree.drop(left.directory)
        self._bunch.go(left.path, is_directory=left.is_directory)

    # -- what was missed ------------------------------------------------------------------------

    def _overflow(self) -> None:
        logger.warning("watch.overflow root=%s: scanning", shown(self._root_path))
        if self._rewalk_due_s is None:
            self._rewalk_due_s = self._clock_s()

    def _rewalk(self) -> None:
        """Find directories whose events were lost; only then is a scan worth its while."""
        self._leaving.clear()
        self._overlaid.clear()
        self._tree.enter(self._tree.root, is_told=False)
        self._tree.enter_private()
        self._rewalk_due_s = None
        self._bunch.lose(b"")

    def _retry(self) -> None:
        for directory in list(self._tree.unwatched):
            if directory in self._tree.unwatched:
                self._try_again(directory)
        if not self._tree.unwatched:
            self._tree.is_limit_reached = False

    def _try_again(self, directory: WatchedDirectory) -> None:
        self._tree.enter(directory, is_told=False)
        if directory not in self._tree.unwatched:
            self._bunch.lose(directory.path)
