"""Watch a folder with inotify: one instance, one thread.

Reads the kernel's queue into memory before it thinks, so that bursts which overflow slower
readers pass. It refuses to say what happened: what it reports are hints, and whatever it may
have missed becomes LOST or stands in unwatched().
"""

from __future__ import annotations

import errno
import logging
import os
import select
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from daemon import syscalls
from daemon.bunch import HintBunch
from daemon.fs_below import PRIVATE, READABLE, Tree, shown
from daemon.fs_root import HISTORY, TMP, open_root
from daemon.hints import Hint, HintKind, WatchState

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

IN_MODIFY = 0x2
IN_ATTRIB = 0x4
IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_UNMOUNT = 0x2000
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x1000000
IN_EXCL_UNLINK = 0x4000000
IN_ISDIR = 0x40000000

_WATCHED = (
    IN_MODIFY
    | IN_ATTRIB
    | IN_CLOSE_WRITE
    | IN_MOVED_FROM
    | IN_MOVED_TO
    | IN_CREATE
    | IN_DELETE
    | IN_ONLYDIR
    | IN_EXCL_UNLINK
)
_WATCHED_ROOT = _WATCHED | IN_DELETE_SELF | IN_MOVE_SELF
_WATCHED_PRIVATE = IN_MOVED_FROM | IN_MOVED_TO | IN_ONLYDIR
_APPEARED, _CHANGED, _CLOSED = HintKind.APPEARED, HintKind.CHANGED, HintKind.CLOSED

_HEADER = struct.Struct("iIII")  # watch 4, mask 4, cookie 4, length of the name 4: sum 16
_READ_BYTES = 64 << 10
_HELD_BYTES = 64 << 20  # what is read ahead of thinking; beyond it the kernel's queue fills
_BUNCH_LIMIT = 4096  # hints
_DRAIN_EVERY = 64  # directories walked between two reads of the queue
_PAIR_S = 0.010  # the other half of a rename comes within this, or not at all
_RETRY_S = 30.0
# A save is told at once, event by event, also one that is followed by the next without pause.
# More hints than this a second are a burst: there events gather first, which costs the listener
# fewer calls; after a burst it takes a while until single ones are told at once again.
_HINTS_AT_ONCE = 64.0
_HINTS_A_SECOND = 400.0
_HINTS_OWED = 100.0
_GATHER_S = 0.025
_TOLD_ONE_BY_ONE = 256  # names found in a new directory and below; of more the whole tree is told
_OWN_GATHER_S = 0.005  # where all that was heard is of our own renames in tmp and history


class Inotify:
    """One inotify instance of the kernel."""

    def __init__(self) -> None:
        """Open it. Raises OSError: EMFILE at the limit of instances."""
        self.descriptor = syscalls.inotify_init()

    def add(self, path: bytes, mask: int) -> int:
        """Watch a directory; an already watched inode gives the same number again."""
        return syscalls.inotify_add(self.descriptor, path, mask)

    def remove(self, watch: int) -> None:
        """Stop a watch; no error if it is gone."""
        syscalls.inotify_remove(self.descriptor, watch)

    def read(self) -> bytes:
        """Give whole events, nothing if there are none now."""
        try:
            return os.read(self.descriptor, _READ_BYTES)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """End it and all its watches."""
        os.close(self.descriptor)


class _Directory:
    """A directory that is watched, or should be."""

    __slots__ = ("children", "is_private", "name", "parent", "prefix", "watch")

    def __init__(self, parent: _Directory | None, name: bytes, *, is_private: bool = False) -> None:
        self.parent = parent
        self.name = name
        self.children: dict[bytes, _Directory] = {}
        self.watch = -1
        self.is_private = is_private
        self.prefix: bytes = parent.prefix + name + b"/" if parent is not None else b""

    @property
    def path(self) -> bytes:
        return self.prefix[:-1]

    def attach(self, parent: _Directory, name: bytes) -> None:
        """Stand at another place, and everything below with it."""
        self.parent = parent
        self.name = name
        parent.children[name] = self
        stack = [self]
        while stack:
            directory = stack.pop()
            above = directory.parent.prefix if directory.parent is not None else b""
            directory.prefix = above + directory.name + b"/"
            stack.extend(directory.children.values())

    def detach(self) -> None:
        """Stand nowhere."""
        if self.parent is not None and self.parent.children.get(self.name) is self:
            del self.parent.children[self.name]
        self.parent = None


class _Leaving:
    """The first half of a rename, waiting for the second."""

    __slots__ = ("directory", "due_s", "is_directory", "path")

    def __init__(
        self, path: bytes | None, directory: _Directory | None, due_s: float, *, is_directory: bool
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
        self._limit_reached = False
        self._unwatched: dict[_Directory, None] = {}
        self._watches: dict[int, _Directory] = {}
        self._leaving: dict[int, _Leaving] = {}
        self._overlaid: dict[bytes, _Directory] = {}
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._bunch = HintBunch()
        self._root = _Directory(None, b"")
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
        self._tree = Tree(top)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.epoll()
        self._poll.register(self._kernel.descriptor, select.EPOLLIN)
        self._poll.register(self._wake, select.EPOLLIN)
        self._enter(self._root, is_told=False)
        self._enter_private()
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
        self._poll.close()
        kernel.close()
        os.close(self._wake)
        os.close(self._top)

    @property
    def state(self) -> WatchState:
        """How much is watched now."""
        if self._kernel is None:
            return WatchState.POLLING
        return WatchState.PARTIAL if self._unwatched else WatchState.FULL

    @property
    def is_limit_reached(self) -> bool:
        """Whether the kernel refused a watch because of fs.inotify.max_user_watches."""
        return self._limit_reached and bool(self._unwatched)

    def unwatched(self) -> list[bytes]:
        """Directories that could not be watched; each is to be polled with all below it."""
        if self._kernel is None:
            return [b""]
        return sorted(directory.path for directory in list(self._unwatched))

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
                    self._parse(events)
                    self._drain()
                    self._speak()
                self._keep_time()
                self._speak()
        except OSError:
            # The kernel took the instance from us: nothing more will come, say so by polling.
            logger.exception("watch.failed root=%s", shown(self._root_path))
            self._unwatched[self._root] = None
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
        if self._unwatched:
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
                    self._drop(directory)
        if self._rewalk_due_s is not None and self._rewalk_due_s <= now_s:
            self._rewalk()
        if self._unwatched and self._retry_due_s <= now_s:
            self._retry_due_s = now_s + _RETRY_S
            self._retry()

    def _parse(self, events: bytes) -> None:
        offset, end = 0, len(events)
        unpack = _HEADER.unpack_from
        handle = self._handle
        while offset < end:
            watch, mask, cookie, length = unpack(events, offset)
            offset += 16
            name = events[offset : offset + length].rstrip(b"\0") if length else b""
            offset += length
            handle(watch, mask, cookie, name)

    # -- one event ----------------------------------------------------------------------------

    def _handle(self, watch: int, mask: int, cookie: int, name: bytes) -> None:
        if mask & IN_Q_OVERFLOW:
            self._overflow()
            return
        directory = self._watches.get(watch)
        if directory is None or (directory.is_private and name):
            self._heard_own = True
            if directory is not None:
                self._handle_private(mask, cookie)
            return
        self._heard_others = True
        if not name:
            self._handle_itself(directory, watch, mask)
        elif directory is self._root and name == PRIVATE:
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

    def _handle_directory(self, above: _Directory, name: bytes, mask: int, cookie: int) -> None:
        path = above.prefix + name
        known = above.children.get(name)
        if mask & IN_CREATE:
            self._bunch.touch(_APPEARED, path, is_directory=True)
            self._enter_new(above, name)
        elif mask & IN_DELETE:
            if known is not None:
                self._drop(known)
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
            if known is not None and known in self._unwatched:
                self._try_again(known)

    def _arrive(self, above: _Directory, name: bytes, left: _Leaving | None) -> None:
        path = above.prefix + name
        self._bunch.move(path, None if left is None else left.path, is_directory=True)
        known = above.children.get(name)
        if known is not None:  # replaced if empty, or the other half of an exchange
            known.detach()
            self._overlaid[path] = known
        if left is None or left.directory is None or left.directory.parent is not None:
            self._enter_new(above, name)
        else:
            left.directory.attach(above, name)

    def _handle_itself(self, directory: _Directory, watch: int, mask: int) -> None:
        if mask & IN_IGNORED:
            self._watches.pop(watch, None)
            if directory.watch == watch:
                directory.watch = -1
        if directory.is_private:
            return
        if mask & IN_UNMOUNT or (
            directory is self._root and mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_ATTRIB)
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
            self._drop(left.directory)
        self._bunch.go(left.path, is_directory=left.is_directory)

    # -- the tree of watches --------------------------------------------------------------------

    def _enter_new(self, above: _Directory, name: bytes) -> None:
        directory = above.children.get(name)
        if directory is None:
            directory = _Directory(above, name)
            above.children[name] = directory
        self._enter(directory, is_told=True)

    def _enter(self, top: _Directory, *, is_told: bool) -> None:
        """Watch a directory and all below it, and tell what is found there.

        Of many names the tree is told, once it is watched: a look at it finds them all.
        """
        stack = [top]
        count = 0
        told_from = len(self._bunch)
        is_large = False
        while stack:
            directory = stack.pop()
            stack.extend(self._enter_one(directory, is_told=is_told and not is_large))
            count += 1
            if not is_large and len(self._bunch) - told_from > _TOLD_ONE_BY_ONE:
                is_large = True
            if not count % _DRAIN_EVERY:
                self._drain()
                if len(self._bunch) >= _BUNCH_LIMIT:
                    self._speak()
                    told_from = 0
        if is_large and top.parent is not None:
            self._bunch.lose(top.path)

    def _enter_one(self, directory: _Directory, *, is_told: bool) -> list[_Directory]:
        self._unwatched.pop(directory, None)
        try:
            opened = self._tree.open_directory(directory.path, READABLE)
        except OSError as cause:
            self._refused(directory, cause)
            return []
        try:
            self._watch(directory, opened)
            return self._read_names(directory, opened, is_told=is_told)
        except OSError as cause:
            self._refused(directory, cause)
            return []
        finally:
            os.close(opened)

    def _watch(self, directory: _Directory, opened: int) -> None:
        kernel = self._kernel
        if kernel is None:
            return
        mask = _WATCHED_ROOT if directory is self._root else _WATCHED
        # Through the descriptor: what took the name meanwhile, a symlink say, is not watched.
        watch = kernel.add(b"/proc/self/fd/%d" % opened, mask)
        before = self._watches.get(watch)
        if before is not None and before is not directory:
            before.watch = -1  # it came here by a rename whose events are still to be read
            before.detach()
        if directory.watch not in (-1, watch):
            self._forget_watch(directory)
        self._watches[watch] = directory
        directory.watch = watch

    def _read_names(self, directory: _Directory, opened: int, *, is_told: bool) -> list[_Directory]:
        found: list[_Directory] = []
        names: set[bytes] = set()
        children = directory.children
        with os.scandir(opened) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if directory is self._root and name == PRIVATE:
                    continue
                is_directory = entry.is_dir(follow_symlinks=False)
                if is_told:
                    path = directory.prefix + name
                    self._bunch.touch(_APPEARED, path, is_directory=is_directory)
                if is_directory:
                    names.add(name)
                    child = children.get(name)
                    if child is None:
                        child = children[name] = _Directory(directory, name)
                    found.append(child)
        if len(names) < len(children):
            for name in [name for name in children if name not in names]:
                self._drop(children[name])
        return found

    def _refused(self, directory: _Directory, cause: OSError) -> None:
        if cause.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
            if directory is self._root:
                self._unwatched[directory] = None
                return
            # Gone already, or something is mounted there, which is not ours to enter.
            self._drop(directory)
            return
        if cause.errno == errno.ENOSPC and not self._limit_reached:
            self._limit_reached = True
            logger.warning("watch.limit reached: raise fs.inotify.max_user_watches")
        for child in list(directory.children.values()):
            self._drop(child)
        self._unwatched[directory] = None

    def _drop(self, top: _Directory) -> None:
        """Forget a directory and all below it."""
        top.detach()
        stack = [top]
        while stack:
            directory = stack.pop()
            stack.extend(directory.children.values())
            self._unwatched.pop(directory, None)
            self._forget_watch(directory)

    def _forget_watch(self, directory: _Directory) -> None:
        watch = directory.watch
        directory.watch = -1
        if watch != -1 and self._watches.get(watch) is directory:
            del self._watches[watch]
            if self._kernel is not None:
                self._kernel.remove(watch)

    def _enter_private(self) -> None:
        """Watch tmp and history for renames only, so that our own come in pairs."""
        if self._kernel is None:
            return
        for name in (TMP, HISTORY):
            try:
                opened = self._tree.open_directory(PRIVATE + b"/" + name, READABLE)
            except OSError:
                continue
            try:
                watch = self._kernel.add(b"/proc/self/fd/%d" % opened, _WATCHED_PRIVATE)
                self._watches[watch] = _Directory(None, name, is_private=True)
            except OSError:
                continue  # then they come as single halves: harmless
            finally:
                os.close(opened)

    # -- what was missed ------------------------------------------------------------------------

    def _overflow(self) -> None:
        logger.warning("watch.overflow root=%s: scanning", shown(self._root_path))
        if self._rewalk_due_s is None:
            self._rewalk_due_s = self._clock_s()

    def _rewalk(self) -> None:
        """Find directories whose events were lost; only then is a scan worth its while."""
        self._leaving.clear()
        self._overlaid.clear()
        self._enter(self._root, is_told=False)
        self._enter_private()
        self._rewalk_due_s = None
        self._bunch.lose(b"")

    def _retry(self) -> None:
        for directory in list(self._unwatched):
            if directory in self._unwatched:
                self._try_again(directory)
        if not self._unwatched:
            self._limit_reached = False

    def _try_again(self, directory: _Directory) -> None:
        self._enter(directory, is_told=False)
        if directory not in self._unwatched:
            self._bunch.lose(directory.path)
