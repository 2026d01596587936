"""Keep a tree of inotify watches as a folder has directories, and find what cannot be watched.

A directory is opened below the root and watched through its descriptor, so that nothing outside
the folder ever is. What cannot be watched stands in `unwatched`, to be polled with all below it.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING

from daemon.fs_below import PRIVATE, READABLE, Tree
from daemon.fs_root import HISTORY, TMP
from daemon.hints import HintKind
from daemon.inotify_kernel import WATCHED, WATCHED_PRIVATE, WATCHED_ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.bunch import HintBunch
    from daemon.inotify_kernel import Inotify

logger = logging.getLogger(__name__)

_TOLD_ONE_BY_ONE = 256  # names found in a new directory and below; of more the whole tree is told
_DRAIN_EVERY = 64  # directories walked between two reads of the queue
_BUNCH_LIMIT = 4096  # hints


class WatchedDirectory:
    """A directory that is watched, or should be."""

    __slots__ = ("children", "is_private", "name", "parent", "prefix", "watch")

    def __init__(
        self, parent: WatchedDirectory | None, name: bytes, *, is_private: bool = False
    ) -> None:
        """Stand below `parent`; the root has none. `is_private` for our own tmp and history."""
        self.parent = parent
        self.name = name
        self.children: dict[bytes, WatchedDirectory] = {}
        self.watch = -1
        self.is_private = is_private
        self.prefix: bytes = parent.prefix + name + b"/" if parent is not None else b""

    @property
    def path(self) -> bytes:
        """Its path in the folder, the root's being empty."""
        return self.prefix[:-1]

    def attach(self, parent: WatchedDirectory, name: bytes) -> None:
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


class WatchTree:
    """The watches of one folder. Used by the watcher's thread alone, once it runs."""

    def __init__(
        self,
        bunch: HintBunch,
        *,
        read_ahead: Callable[[], None],
        speak: Callable[[], None],
    ) -> None:
        """Watch nothing yet. What is found goes to `bunch`.

        In a long walk the kernel's queue is emptied by `read_ahead`, and a full bunch by `speak`.
        """
        self._bunch = bunch
        self._read_ahead = read_ahead
        self._speak = speak
        self._kernel: Inotify | None = None
        self.root = WatchedDirectory(None, b"")
        self.watches: dict[int, WatchedDirectory] = {}
        self.unwatched: dict[WatchedDirectory, None] = {}
        self._unfound: dict[WatchedDirectory, None] = {}  # their paths led nowhere
        self.is_limit_reached = False

    def begin(self, kernel: Inotify, tree: Tree) -> None:
        """Watch the whole folder, and our own tmp and history for renames."""
        self._kernel = kernel
        self._tree = tree
        self.enter(self.root, is_told=False)
        self.enter_private()

    def end(self) -> None:
        """Ask nothing more of the kernel: its instance is being closed."""
        self._kernel = None

    def enter_new(self, above: WatchedDirectory, name: bytes) -> None:
        """Watch a directory that appeared, and tell what is found in it."""
        directory = above.children.get(name)
        if directory is None:
            directory = WatchedDirectory(above, name)
            above.children[name] = directory
        self.enter(directory, is_told=True)

    def enter(self, top: WatchedDirectory, *, is_told: bool) -> None:
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
                self._read_ahead()
                if len(self._bunch) >= _BUNCH_LIMIT:
                    self._speak()
                    told_from = 0
        if is_large and top.parent is not None:
            self._bunch.lose(top.path)

    def attach(self, top: WatchedDirectory, above: WatchedDirectory, name: bytes) -> None:
        """Have a directory stand at another place, with all below it.

        What was made in it just before, and was not found by its path any more, is watched now.
        """
        top.attach(above, name)
        for directory in list(self._unfound):
            if directory in self._unfound and self._is_in_tree(directory):
                self.enter(directory, is_told=True)

    def _is_in_tree(self, directory: WatchedDirectory) -> bool:
        above: WatchedDirectory | None = directory
        while above is not None and above is not self.root:
            above = above.parent
        return above is self.root

    def drop(self, top: WatchedDirectory) -> None:
        """Forget a directory and all below it."""
        top.detach()
        stack = [top]
        while stack:
            directory = stack.pop()
            stack.extend(directory.children.values())
            self.unwatched.pop(directory, None)
            self._unfound.pop(directory, None)
            self._forget_watch(directory)

    def enter_private(self) -> None:
        """Watch tmp and history for renames only, so that our own come in pairs."""
        if self._kernel is None:
            return
        for name in (TMP, HISTORY):
            try:
                opened = self._tree.open_directory(PRIVATE + b"/" + name, READABLE)
            except OSError:
                continue
            try:
                watch = self._kernel.add(b"/proc/self/fd/%d" % opened, WATCHED_PRIVATE)
                self.watches[watch] = WatchedDirectory(None, name, is_private=True)
            except OSError:
                continue  # then they come as single halves: harmless
            finally:
                os.close(opened)

    def _enter_one(self, directory: WatchedDirectory, *, is_told: bool) -> list[WatchedDirectory]:
        self.unwatched.pop(directory, None)
        self._unfound.pop(directory, None)
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

    def _watch(self, directory: WatchedDirectory, opened: int) -> None:
        kernel = self._kernel
        if kernel is None:
            return
        mask = WATCHED_ROOT if directory is self.root else WATCHED
        # Through the descriptor: what took the name meanwhile, a symlink say, is not watched.
        watch = kernel.add(b"/proc/self/fd/%d" % opened, mask)
        before = self.watches.get(watch)
        if before is not None and before is not directory:
            before.watch = -1  # it came here by a rename whose events are still to be read
            before.detach()
        if directory.watch not in (-1, watch):
            self._forget_watch(directory)
        self.watches[watch] = directory
        directory.watch = watch

    def _read_names(
        self, directory: WatchedDirectory, opened: int, *, is_told: bool
    ) -> list[WatchedDirectory]:
        found: list[WatchedDirectory] = []
        names: set[bytes] = set()
        children = directory.children
        with os.scandir(opened) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if directory is self.root and name == PRIVATE:
                    continue
                is_directory = entry.is_dir(follow_symlinks=False)
                if is_told:
                    path = directory.prefix + name
                    self._bunch.touch(HintKind.APPEARED, path, is_directory=is_directory)
                if is_directory:
                    names.add(name)
                    child = children.get(name)
                    if child is None:
                        child = children[name] = WatchedDirectory(directory, name)
                    found.append(child)
        if len(names) < len(children):
            for name in [name for name in children if name not in names]:
                self.drop(children[name])
        return found

    def _refused(self, directory: WatchedDirectory, cause: OSError) -> None:
        if cause.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
            if directory is self.root:
                self.unwatched[directory] = None
                return
            if cause.errno == errno.ENOENT and directory.parent is not None:
                # Gone, or carried along by a rename above it: the events to come will tell.
                self._unfound[directory] = None
                self._forget_watch(directory)
                return
            # Something is mounted there, which is not ours to enter, or it is none any more.
            self.drop(directory)
            return
        if cause.errno == errno.ENOSPC and not self.is_limit_reached:
            self.is_limit_reached = True
            logger.warning("watch.limit reached: raise fs.inotify.max_user_watches")
        for child in list(directory.children.values()):
            self.drop(child)
        self.unwatched[directory] = None

    def _forget_watch(self, directory: WatchedDirectory) -> None:
        watch = directory.watch
        directory.watch = -1
        if watch != -1 and self.watches.get(watch) is directory:
            del self.watches[watch]
            if self._kernel is not None:
                self._kernel.remove(watch)
