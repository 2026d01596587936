"""Keep the files of one shared folder on a Linux file system.

This is the only way by which dizzyd reads or writes the user's files; its parts do the work:
fs_held (root, mark, lock), fs_below (reaching paths), fs_look and fs_read (reading), fs_stage
(new contents), fs_attributes (modes, owners, times), fs_names (changing the tree), fs_own and
fs_taken (tmp and history), fs_sync (durability), and the system calls under them. It refuses to
decide: what stands where, and what was displaced, is reported to the caller; nothing is ever
overwritten or removed but unfinished downloads, empty directories and what the caller said to
move away.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from daemon import fs_root
from daemon.disk import DiskError, LookFailure, NameMissing, Stat
from daemon.fs_abilities import Abilities, find_abilities
from daemon.fs_attributes import SHARED_BITS
from daemon.fs_below import (
    PRIVATE,
    READABLE,
    Tree,
    disk_error,
    is_reachable,
    kind_of,
    stat_of,
    unreachable,
)
from daemon.fs_held import HeldRoot
from daemon.fs_look import is_open_for_writing, look_many, standing
from daemon.fs_names import TreeNames
from daemon.fs_own import OwnDirectory, own_name
from daemon.fs_read import read_at, read_once_at
from daemon.fs_stage import Workshop
from daemon.fs_sync import Syncs
from daemon.fs_taken import Taken
from daemon.headroom import Space
from store.ids import BlobHash

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from daemon.disk import Buffer, Looked, NewFile, Stage
    from peers.wire import ChunkLine

_LISTS_LIMIT = 256  # chunk lists that nobody has taken yet


class LinuxDisk:
    """The files of one folder; implements daemon.disk.Disk.

    It holds the root, `.dizzyd/tmp` and `.dizzyd/history` open, and a lock on the mark. Any
    thread may call it, several at a time.
    """

    def __init__(self, held: HeldRoot, *, umask: int, abilities: Abilities | None) -> None:
        """Use LinuxDisk.open instead. Takes over what is held if it succeeds."""
        self._held = held
        self.abilities = abilities or find_abilities(held.root, held.tmp)
        able = self.abilities
        self._chunk_lists: deque[tuple[BlobHash, list[ChunkLine]]] = deque(maxlen=_LISTS_LIMIT)
        self._tree = Tree(held.root, has_openat2=able.openat2)
        self._shop = Workshop(
            held.tmp,
            self._tree,
            umask=umask & SHARED_BITS,
            has_tmpfile=able.tmpfile,
            has_noreplace=able.noreplace,
        )
        self._names = TreeNames(self._tree, self._shop, has_exchange=able.exchange)
        self._syncs = Syncs(held, self._tree, self._shop)
        self._tmp = OwnDirectory(held.tmp, b".dizzyd/tmp", self._tree)
        self._history = OwnDirectory(held.history, b".dizzyd/history", self._tree)
        self._taken = Taken(self._shop, held.history, has_openat2=able.openat2)

    # -- the root ---------------------------------------------------------------------------

    @staticmethod
    def prepare(root: bytes, folder_id: bytes) -> fs_root.Marker:
        """Make `.dizzyd` and its mark, durably; what is there stays. See fs_root.prepare."""
        return fs_root.prepare(root, folder_id)

    @staticmethod
    def find_marker(root: bytes) -> fs_root.Marker | None:
        """Tell which folder a path was shared as, if any."""
        return fs_root.find_marker(root)

    @classmethod
    def open(cls, root: bytes, *, umask: int, abilities: Abilities | None = None) -> LinuxDisk:
        """Hold a prepared folder; `root` is its resolved absolute path.

        `abilities` are found out where they are not given. Raises RootLost, RootHeld, DiskError.
        """
        held = HeldRoot(root)
        try:
            return cls(held, umask=umask, abilities=abilities)
        except BaseException as cause:
            held.close()
            if isinstance(cause, OSError):
                raise disk_error("open", root, cause) from cause
            raise

    @property
    def folder_id(self) -> bytes:
        """The id in the mark."""
        return self._held.marker.folder_id

    @property
    def root_path(self) -> bytes:
        """The path that the folder was opened by."""
        return self._held.path

    def check_root(self) -> None:
        """Raise RootLost unless the root is the very directory that was shared.

        The path must lead to the held device and inode, carry the same mark and be listable.
        A removed tmp or history is made again.
        """
        self._held.check()

    def close(self) -> None:
        """Let go of the root and of the lock on it. Idempotent; no other call may follow."""
        for stage in list(self._shop.open_stages):
            stage.close()
        self._held.close()

    # -- looking ----------------------------------------------------------------------------

    def list_directory(self, path: bytes) -> list[tuple[bytes, Stat]]:
        """List a directory with lstat of each name, unsorted, without `.dizzyd` at the root."""
        if path and not is_reachable(path):
            raise unreachable("list", path)
        try:
            directory = self._tree.open_directory(path, READABLE)
            try:
                listed = self._tree.list_names(directory)
            finally:
                os.close(directory)
        except OSError as cause:
            raise disk_error("list", path, cause) from cause
        if not path:
            return [found for found in listed if found[0] != PRIVATE]
        return listed

    def folds_names(self) -> bool:
        """Whether names that differ in case are one name here."""
        return self.abilities.folds

    def stat(self, path: bytes) -> Stat | None:
        """Lstat one path; None if it or a directory above it is not there."""
        if not path:
            return self._tree.stat_root()
        if not is_reachable(path):
            return None
        try:
            with self._tree.at("examine", path) as at:
                found = at.lstat()
                kind = self._tree.kind_at(at.directory, at.name, found)
                return stat_of(found, kind)
        except NameMissing:
            return None
        except DiskError as failure:
            if failure.errno == errno.ENAMETOOLONG:  # a name that this disk cannot hold
                return None
            raise

    def standing(self, placed: Mapping[bytes, Stat]) -> set[bytes]:
        """Name the paths that have inode, size and both times of these stats now."""
        return standing(self._tree, placed)

    def look(self, paths: Sequence[bytes]) -> list[Looked | LookFailure]:
        """Read and hash many files (links: read their target), in order of `paths`."""
        return look_many(self._tree, paths, self._note_chunks)

    def take_chunk_lists(self) -> list[tuple[BlobHash, list[ChunkLine]]]:
        """Take out the chunk lists of large files that were read whole since the last call."""
        taken: list[tuple[BlobHash, list[ChunkLine]]] = []
        with suppress(IndexError):
            while True:
                taken.append(self._chunk_lists.popleft())
        return taken

    def _note_chunks(self, value: bytes, lines: list[ChunkLine]) -> None:
        self._chunk_lists.append((BlobHash(value), lines))

    def is_being_written(self, path: bytes) -> bool:
        """Whether some process has the file open for writing (False where unknowable)."""
        try:
            with self._tree.at("open", path) as at:
                return is_open_for_writing(at.directory, at.name)
        except DiskError:
            return False

    def read(self, path: bytes, offset: int, length: int, expected: Stat | None) -> bytes:
        """Read a piece of a file. Raises NameMissing if it is not the `expected` file any more."""
        with self._tree.at("read", path) as at:
            return read_at(at.directory, at.name, offset, length, expected)

    def read_once(self, path: bytes, offset: int, length: int, expected: Stat | None) -> Buffer:
        """Read as read() does, what nobody will read again soon."""
        with self._tree.at("read", path) as at:
            return read_once_at(at.directory, at.name, offset, length, expected)

    def together(self) -> AbstractContextManager[None]:
        """Reach a directory once for the names of a round; not longer than 5 ms."""
        return self._tree.together()

    # -- stages -----------------------------------------------------------------------------

    def stage_many(self, files: Sequence[NewFile]) -> list[Stage]:
        """Write many small files at once, attributes set, not yet durable."""
        return list(self._shop.make_many(files))

    def open_stage(self, name: bytes, size: int = 0) -> Stage:
        """Open or make a named stage in tmp; what it held is kept, so that transfers resume."""
        return self._shop.open_named(own_name("open the stage", name), size)

    def sync(self) -> None:
        """Make all that was written to this file system so far durable (one syncfs)."""
        self._syncs.everything()

    def sync_directories(self, paths: Sequence[bytes]) -> None:
        """Make the names in these directories durable (many: one sync)."""
        self._syncs.directories(paths)

    def sync_files(self, paths: Sequence[bytes]) -> None:
        """Make these files and the names in their parents durable (many: one syncfs)."""
        self._syncs.files(paths)

    # -- putting in place ---------------------------------------------------------------------

    def place_new(self, stage: Stage, path: bytes) -> Stat:
        """Give a stage its name in the tree. Raises NameTaken, NameMissing (no parent)."""
        return self._names.place_new(stage, path)

    def place_each(self, pairs: Sequence[tuple[Stage, bytes]]) -> list[Stat | DiskError]:
        """Do place_new for many, in order, and close the stages that got their name."""
        return self._names.place_each(pairs)

    def place_over(self, stage: Stage, path: bytes, keep_as: bytes) -> tuple[Stat, Stat]:
        """Put a stage where a file stands; that file moves to tmp as `keep_as`, atomically."""
        return self._names.place_over(stage, path, keep_as)

    def take_away(self, path: bytes, keep_as: bytes) -> Stat:
        """Move a file or symlink out of the tree to tmp as `keep_as`."""
        return self._names.take_away(path, keep_as)

    def move(self, source: bytes, target: bytes) -> Stat:
        """Rename within the tree, replacing nothing. Raises NameTaken, NameMissing."""
        return self._names.move(source, target)

    def swap(self, one: bytes, other: bytes) -> None:
        """Exchange two names atomically. Raises NameMissing."""
        self._names.swap(one, other)

    def make_directory(self, path: bytes) -> Stat:
        """Make a directory. Raises NameTaken, NameMissing."""
        return self._names.make_directory(path)

    def remove_directory(self, path: bytes) -> None:
        """Remove an empty directory. Raises NotEmpty, NameMissing."""
        self._names.remove_directory(path)

    def make_symlink(self, target: bytes, path: bytes, mtime_ns: int) -> Stat:
        """Make a symlink. Raises NameTaken, NameMissing."""
        return self._names.make_symlink(target, path, mtime_ns)

    def set_attributes(self, path: bytes, *, is_executable: bool, mtime_ns: int | None) -> Stat:
        """Set the executable bit (where readable) and the time; masks setuid and the like."""
        return self._names.set_attributes(path, is_executable=is_executable, mtime_ns=mtime_ns)

    # -- what was displaced ---------------------------------------------------------------------

    def list_stages(self) -> list[tuple[bytes, Stat]]:
        """List the names in tmp."""
        return self._tmp.listed()

    def look_stage(self, name: bytes) -> Looked | LookFailure:
        """Hash a file in tmp (a displaced one, or an unfinished download)."""
        return self._tmp.look(name)

    def is_stage_being_written(self, name: bytes) -> bool:
        """As is_being_written, for a name in tmp."""
        return self._tmp.is_being_written(name)

    def restore_stage(self, name: bytes, path: bytes) -> Stat:
        """Move a displaced file back into the tree, replacing nothing. Raises NameTaken."""
        own_name("restore", name)
        with self._tree.at("restore", path) as at:
            self._shop.rename(self._held.tmp, name, at.directory, at.name)
            found = at.lstat()
            return stat_of(found, kind_of(found))

    def keep_stage(self, name: bytes, history_name: bytes) -> Stat:
        """Move a displaced file into history, replacing nothing. Raises NameTaken."""
        own_name("keep", name)
        own_name("keep", history_name)
        try:
            self._shop.rename(self._held.tmp, name, self._held.history, history_name)
            return self._history.stat(history_name)
        except OSError as cause:
            raise disk_error("keep", b".dizzyd/history/" + history_name, cause) from cause

    def remove_stage(self, name: bytes) -> None:
        """Remove an unfinished download from tmp; no error if it is gone."""
        self._tmp.remove(name)

    # -- directories that were taken away whole --------------------------------------------------

    def take_tree(self, path: bytes, keep_as: bytes) -> Stat:
        """Move a directory with all that is in it out of the tree to tmp as `keep_as`."""
        own_name("keep", keep_as)
        with self._tree.at("take away", path) as at:
            taken = self._taken.take(at, keep_as)
        self._tree.forget()
        return taken

    def list_taken(self, inner: bytes) -> list[tuple[bytes, Stat]]:
        """List a directory of it with lstat of each name. Raises NameMissing."""
        return self._taken.listed(inner)

    def keep_taken(self, inner: bytes, names: Sequence[tuple[bytes, bytes]]) -> list[bool]:
        """Move names of a directory of it into history; say which were moved."""
        for _, history_name in names:
            own_name("keep", history_name)
        return self._taken.keep(inner, names)

    def set_aside(self, inner: bytes, keep_as: bytes) -> Stat:
        """Move a name of it to tmp itself. Raises NameTaken, NameMissing."""
        return self._taken.set_aside(inner, own_name("keep", keep_as))

    def return_taken(self, inner: bytes, path: bytes) -> Stat:
        """Move a name of it back into the tree. Raises NameTaken, NameMissing."""
        with self._tree.at("return", path) as at:
            return self._taken.put_back(inner, at)

    def remove_taken(self, inner: bytes) -> None:
        """Remove an empty directory of it. Raises NotEmpty, NameMissing."""
        self._taken.remove(inner)

    # -- history ---------------------------------------------------------------------------------

    def is_history_being_written(self, name: bytes) -> bool:
        """As is_being_written, for a kept version."""
        return self._history.is_being_written(name)

    def read_history(self, name: bytes, offset: int, length: int) -> bytes:
        """Read a piece of a kept version. Raises NameMissing."""
        return self._history.read(name, offset, length)

    def look_history(self, name: bytes) -> Looked | LookFailure:
        """Hash a kept version."""
        return self._history.look(name)

    def remove_history(self, name: bytes) -> None:
        """Remove a kept version for good: only what daemon.pruning lets go. Idempotent."""
        self._history.remove(name)

    def list_history(self) -> list[tuple[bytes, Stat]]:
        """List the kept versions."""
        return self._history.listed()

    def space(self) -> Space:
        """Say how large the file system of the tree is, and how much of it is free."""
        try:
            found = os.fstatvfs(self._held.root)
        except OSError as cause:
            raise disk_error("examine", self._held.path, cause) from cause
        return Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)
