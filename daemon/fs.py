"""Keep the files of one shared folder on a Linux file system.

This is the only way by which dizzyd reads or writes the user's files (with its parts fs_root,
fs_below, fs_look, fs_stage and the system calls under them). It refuses to decide: what stands
where, and what was displaced, is reported to the caller; nothing is ever overwritten or removed
but unfinished downloads, empty directories and what the caller said to move away.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from daemon import fs_root, syscalls
from daemon.disk import (
    DiskError,
    FileKind,
    LookFailure,
    NameMissing,
    RootLost,
    Stat,
    arriving_name,
)
from daemon.fs_abilities import Abilities, find_abilities
from daemon.fs_below import (
    PRIVATE,
    READABLE,
    At,
    Tree,
    disk_error,
    is_reachable,
    kind_of,
    shown,
    stat_of,
)
from daemon.fs_look import is_open_for_writing, look_many, look_name
from daemon.fs_stage import (
    MADE,
    SHARED_BITS,
    LinuxStage,
    Workshop,
    executable_mode,
    group_given,
    set_times,
)
from daemon.fs_taken import Taken
from daemon.headroom import Space
from store.ids import BlobHash

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from daemon.disk import Looked, NewFile, Stage
    from peers.wire import ChunkLine

_LISTS_LIMIT = 256  # chunk lists that nobody has taken yet
_FEW = 16  # below this, each by itself is cheaper than the whole file system
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_PLAIN = (FileKind.FILE, FileKind.SYMLINK)


class LinuxDisk:
    """The files of one folder; implements daemon.disk.Disk.

    It holds the root, `.dizzyd/tmp` and `.dizzyd/history` open, and a lock on the mark. Any
    thread may call it, several at a time.
    """

    def __init__(
        self, path: bytes, root: int, private: int, *, umask: int, abilities: Abilities | None
    ) -> None:
        """Use LinuxDisk.open instead. Takes over the descriptors if it succeeds."""
        self._path = path
        self._root = root
        self._private = private
        self._umask = umask & SHARED_BITS
        self._is_closed = False
        self._chunk_lists: deque[tuple[BlobHash, list[ChunkLine]]] = deque(maxlen=_LISTS_LIMIT)
        self._sync_lock = threading.Lock()
        self._heal_lock = threading.Lock()
        self._marker_file, self._marker = fs_root.open_locked(private, path)
        self._tmp = self._history = -1
        try:
            self._tmp = self._open_own(fs_root.TMP)
            self._history = self._open_own(fs_root.HISTORY)
            self._remove_made()
            self.abilities = abilities or find_abilities(root, self._tmp)
        except BaseException:
            self._close_own()
            raise
        self._tree = Tree(root, has_openat2=self.abilities.openat2)
        self._shop = Workshop(
            self._tmp,
            self._tree,
            umask=self._umask,
            has_tmpfile=self.abilities.tmpfile,
            has_noreplace=self.abilities.noreplace,
        )
        self._taken = Taken(self._shop, self._history, has_openat2=self.abilities.openat2)

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
        top = fs_root.open_root(root)
        private = -1
        try:
            private = fs_root.open_private(top, root)
            return cls(root, top, private, umask=umask, abilities=abilities)
        except BaseException as cause:
            os.close(top)
            if private >= 0:
                os.close(private)
            if isinstance(cause, OSError):
                raise disk_error("open", root, cause) from cause
            raise

    @property
    def folder_id(self) -> bytes:
        """The id in the mark."""
        return self._marker.folder_id

    @property
    def root_path(self) -> bytes:
        """The path that the folder was opened by."""
        return self._path

    def check_root(self) -> None:
        """Raise RootLost unless the root is the very directory that was shared.

        The path must lead to the held device and inode, carry the same mark and be listable.
        A removed tmp or history is made again.
        """
        try:
            there = os.lstat(self._path)
            if not os.path.samestat(there, os.fstat(self._root)):
                raise self._lost("another directory stands there now")
            private = os.stat(PRIVATE, dir_fd=self._root, follow_symlinks=False)
            if not os.path.samestat(private, os.fstat(self._private)):
                raise self._lost(".dizzyd is another one now")
            marker_file, marker = fs_root.open_marker(self._private, self._path)
            os.close(marker_file)
            if marker != self._marker:
                raise self._lost("it carries the mark of another folder")
            listing = os.open(b".", READABLE, dir_fd=self._root)
            try:
                with os.scandir(listing) as names:
                    next(names, None)
            finally:
                os.close(listing)
            self._heal()
        except OSError as cause:
            raise self._lost(cause.strerror or str(cause), cause.errno) from cause

    def close(self) -> None:
        """Let go of the root and of the lock on it. Idempotent; no other call may follow."""
        if self._is_closed:
            return
        self._is_closed = True
        for stage in list(self._shop.open_stages):
            stage.close()
        self._close_own()
        os.close(self._private)
        os.close(self._root)

    # -- looking ----------------------------------------------------------------------------

    def list_directory(self, path: bytes) -> list[tuple[bytes, Stat]]:
        """List a directory with lstat of each name, unsorted, without `.dizzyd` at the root."""
        if path and not is_reachable(path):
            raise _unreachable("list", path)
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
            return self._read_at(at.directory, at.name, offset, length, expected)

    def together(self) -> AbstractContextManager[None]:
        """Reach a directory once for the names of a round; not longer than 5 ms."""
        return self._tree.together()

    # -- stages -----------------------------------------------------------------------------

    def stage_many(self, files: Sequence[NewFile]) -> list[Stage]:
        """Write many small files at once, attributes set, not yet durable."""
        return list(self._shop.make_many(files))

    def open_stage(self, name: bytes) -> Stage:
        """Open or make a named stage in tmp; what it held is kept, so that transfers resume."""
        return self._shop.open_named(_own_name("open the stage", name))

    def sync(self) -> None:
        """Make all that was written to this file system so far durable (one syncfs).

        The descriptor was opened before any of our writes, so no error is missed. Where one is
        reported, each open stage is synced by itself; raises DiskError if one of them failed.
        """
        with self._sync_lock:
            try:
                syscalls.syncfs(self._tmp)
            except OSError as cause:
                self._sync_stages(cause)

    def sync_directories(self, paths: Sequence[bytes]) -> None:
        """Make the names in these directories durable (many: one sync)."""
        unique = set(paths)
        if len(unique) >= _FEW:
            self.sync()
            return
        for path in unique:
            self._sync_directory(path)

    def sync_files(self, paths: Sequence[bytes]) -> None:
        """Make these files and the names in their parents durable (many: one syncfs)."""
        if len(paths) >= _FEW:
            # Another descriptor than sync() has: the kernel tells a lost write once to each, and
            # who looks at files must not hear what apply has to hear.
            try:
                syscalls.syncfs(self._root)
            except OSError as cause:
                raise disk_error("make durable", self._path, cause) from cause
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

    # -- putting in place ---------------------------------------------------------------------

    def place_new(self, stage: Stage, path: bytes) -> Stat:
        """Give a stage its name in the tree. Raises NameTaken, NameMissing (no parent)."""
        with self._tree.at("make", path) as at:
            return _ours(stage).place(at, group_given(at.directory))

    def place_each(self, pairs: Sequence[tuple[Stage, bytes]]) -> list[Stat | DiskError]:
        """Do place_new for many, in order, and close the stages that got their name."""
        placed: list[Stat | DiskError] = []
        groups: dict[bytes, int | None] = {}  # that each directory gives to what is made in it
        for stage, path in pairs:
            parent = path.rpartition(b"/")[0]
            try:
                with self._tree.at("make", path) as at:
                    if parent not in groups:
                        groups[parent] = group_given(at.directory)
                    placed.append(_ours(stage).place(at, groups[parent]))
            except DiskError as cause:
                placed.append(cause)
            else:
                stage.close()
        return placed

    def place_over(self, stage: Stage, path: bytes, keep_as: bytes) -> tuple[Stat, Stat]:
        """Put a stage where a file stands; that file moves to tmp as `keep_as`, atomically."""
        ours = _ours(stage)
        _own_name("keep", keep_as)
        with self._tree.at("replace", path) as at:
            self._require_plain(at.lstat())
            ours.wear(at)
            if not self.abilities.exchange:
                return self._place_after_taking_away(ours, at, keep_as)
            before = ours.settle(keep_as)
            try:
                self._exchange(at, keep_as)
            except BaseException:
                ours.unsettle(before)
                raise
            placed = ours.used_up() or at.lstat()
            displaced = self._stat_own(self._tmp, keep_as)
            return stat_of(placed, FileKind.FILE), displaced

    def take_away(self, path: bytes, keep_as: bytes) -> Stat:
        """Move a file or symlink out of the tree to tmp as `keep_as`."""
        _own_name("keep", keep_as)
        with self._tree.at("take away", path) as at:
            return self._take(at, keep_as)

    def move(self, source: bytes, target: bytes) -> Stat:
        """Rename within the tree, replacing nothing. Raises NameTaken, NameMissing."""
        with self._tree.at("move", source) as old, self._tree.at("move to", target) as new:
            self._shop.rename(old.directory, old.name, new.directory, new.name)
            found = new.lstat()
            kind = kind_of(found)
        if kind is FileKind.DIRECTORY:
            self._tree.forget()
        return stat_of(found, kind)

    def swap(self, one: bytes, other: bytes) -> None:
        """Exchange two names atomically. Raises NameMissing."""
        with self._tree.at("swap", one) as first, self._tree.at("swap", other) as second:
            if self.abilities.exchange:
                syscalls.renameat2(
                    first.directory,
                    first.name,
                    second.directory,
                    second.name,
                    syscalls.RENAME_EXCHANGE,
                )
            else:
                self._swap_by_three(first, second)
        self._tree.forget()

    def make_directory(self, path: bytes) -> Stat:
        """Make a directory. Raises NameTaken, NameMissing."""
        with self._tree.at("make the directory", path) as at:
            os.mkdir(at.name, 0o777 & ~self._umask, dir_fd=at.directory)
            found = at.lstat()
            wanted = 0o777 & ~self._umask
            if found.st_mode & SHARED_BITS != wanted:
                # The process's own umask took more; what setgid the parent gave stays.
                self._set_directory_mode(at, wanted)
                found = at.lstat()
            return stat_of(found, kind_of(found))

    def remove_directory(self, path: bytes) -> None:
        """Remove an empty directory. Raises NotEmpty, NameMissing."""
        with self._tree.at("remove the directory", path) as at:
            os.rmdir(at.name, dir_fd=at.directory)
        self._tree.forget()

    def make_symlink(self, target: bytes, path: bytes, mtime_ns: int) -> Stat:
        """Make a symlink. Raises NameTaken, NameMissing."""
        with self._tree.at("make the link", path) as at:
            made = self._shop.own_name()
            os.symlink(target, made, dir_fd=self._tmp)
            try:
                self._set_link_time(self._tmp, made, mtime_ns)
                self._shop.rename(self._tmp, made, at.directory, at.name)
            except BaseException:
                with suppress(OSError):
                    os.unlink(made, dir_fd=self._tmp)
                raise
            found = at.lstat()
            return stat_of(found, kind_of(found))

    def set_attributes(self, path: bytes, *, is_executable: bool, mtime_ns: int | None) -> Stat:
        """Set the executable bit (where readable) and the time; masks setuid and the like."""
        with self._tree.at("set the attributes of", path) as at:
            flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
            held = os.open(at.name, flags, dir_fd=at.directory)
            try:
                # The descriptor is the file itself, whatever takes its name meanwhile.
                itself = b"/proc/self/fd/%d" % held
                found = os.fstat(held)
                kind = kind_of(found)
                if kind is FileKind.FILE:
                    mode = executable_mode(found.st_mode, is_executable=is_executable)
                    if mode != found.st_mode & 0o7777:
                        os.chmod(itself, mode)  # noqa: PTH101 - a descriptor, not a path
                if mtime_ns is not None and kind is not FileKind.DEVICE:
                    set_times(itself, mtime_ns)
                return stat_of(os.fstat(held), kind)
            finally:
                os.close(held)

    # -- what was displaced ---------------------------------------------------------------------

    def list_stages(self) -> list[tuple[bytes, Stat]]:
        """List the names in tmp."""
        return self._list_own(self._tmp)

    def look_stage(self, name: bytes) -> Looked | LookFailure:
        """Hash a file in tmp (a displaced one, or an unfinished download)."""
        return self._look_own(self._tmp, _own_name("look at", name))

    def is_stage_being_written(self, name: bytes) -> bool:
        """As is_being_written, for a name in tmp."""
        try:
            return is_open_for_writing(self._tmp, _own_name("open", name))
        except OSError:
            return False

    def restore_stage(self, name: bytes, path: bytes) -> Stat:
        """Move a displaced file back into the tree, replacing nothing. Raises NameTaken."""
        _own_name("restore", name)
        with self._tree.at("restore", path) as at:
            self._shop.rename(self._tmp, name, at.directory, at.name)
            found = at.lstat()
            return stat_of(found, kind_of(found))

    def keep_stage(self, name: bytes, history_name: bytes) -> Stat:
        """Move a displaced file into history, replacing nothing. Raises NameTaken."""
        _own_name("keep", name)
        try:
            self._shop.rename(self._tmp, name, self._history, _own_name("keep", history_name))
            return self._stat_own(self._history, history_name)
        except OSError as cause:
            raise disk_error("keep", b".dizzyd/history/" + history_name, cause) from cause

    def remove_stage(self, name: bytes) -> None:
        """Remove an unfinished download from tmp; no error if it is gone."""
        try:
            os.unlink(_own_name("remove", name), dir_fd=self._tmp)
        except FileNotFoundError:
            return
        except OSError as cause:
            raise disk_error("remove", b".dizzyd/tmp/" + name, cause) from cause

    # -- directories that were taken away whole --------------------------------------------------

    def take_tree(self, path: bytes, keep_as: bytes) -> Stat:
        """Move a directory with all that is in it out of the tree to tmp as `keep_as`."""
        _own_name("keep", keep_as)
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
            _own_name("keep", history_name)
        return self._taken.keep(inner, names)

    def set_aside(self, inner: bytes, keep_as: bytes) -> Stat:
        """Move a name of it to tmp itself. Raises NameTaken, NameMissing."""
        return self._taken.set_aside(inner, _own_name("keep", keep_as))

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
        try:
            return is_open_for_writing(self._history, _own_name("open", name))
        except OSError:
            return False

    def read_history(self, name: bytes, offset: int, length: int) -> bytes:
        """Read a piece of a kept version. Raises NameMissing."""
        _own_name("read", name)
        try:
            return self._read_at(self._history, name, offset, length, None)
        except OSError as cause:
            raise disk_error("read", b".dizzyd/history/" + name, cause) from cause

    def look_history(self, name: bytes) -> Looked | LookFailure:
        """Hash a kept version."""
        return self._look_own(self._history, _own_name("look at", name))

    def remove_history(self, name: bytes) -> None:
        """Remove a kept version for good: only what daemon.pruning lets go. Idempotent."""
        try:
            os.unlink(_own_name("remove", name), dir_fd=self._history)
        except FileNotFoundError:
            return
        except OSError as cause:
            raise disk_error("remove", b".dizzyd/history/" + name, cause) from cause

    def space(self) -> Space:
        """Say how large the file system of the tree is, and how much of it is free."""
        try:
            found = os.fstatvfs(self._root)
        except OSError as cause:
            raise disk_error("examine", self._path, cause) from cause
        return Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)

    def list_history(self) -> list[tuple[bytes, Stat]]:
        """List the kept versions."""
        return self._list_own(self._history)

    # -- parts --------------------------------------------------------------------------------

    def _open_own(self, name: bytes) -> int:
        with suppress(FileNotFoundError):
            return os.open(name, READABLE, dir_fd=self._private)
        fs_root.make_directory(self._private, name)
        return os.open(name, READABLE, dir_fd=self._private)

    def _close_own(self) -> None:
        for held in (self._tmp, self._history, self._marker_file):
            if held >= 0:
                os.close(held)

    def _remove_made(self) -> None:
        """Remove what a process that died left under names of ours; no file of a user has one."""
        with os.scandir(self._tmp) as entries:
            left = [os.fsencode(entry.name) for entry in entries]
        for name in left:
            if name.startswith(MADE):
                with suppress(OSError):
                    os.unlink(name, dir_fd=self._tmp)

    def _heal(self) -> None:
        """Make tmp and history again if somebody removed them, under the same descriptors."""
        with self._heal_lock:
            for name, held in ((fs_root.TMP, self._tmp), (fs_root.HISTORY, self._history)):
                if os.fstat(held).st_nlink == 0:
                    again = self._open_own(name)
                    os.dup2(again, held, inheritable=False)
                    os.close(again)

    def _lost(self, why: str, number: int | None = None) -> RootLost:
        return RootLost(
            f"find the folder at {shown(self._path)}",
            why,
            errno=number or 0,
            hint="is its disk mounted? nothing is deleted because of this",
        )

    def _sync_stages(self, cause: OSError) -> None:
        """Find out whether what syncfs could not write was ours: any file on the disk counts."""
        for stage in list(self._shop.open_stages):
            if stage.is_open():
                try:
                    stage.make_durable()
                except OSError as failure:
                    raise disk_error("make durable", b".dizzyd/tmp", failure) from failure
        raise disk_error("make durable", self._path, cause) from cause

    def _sync_directory(self, path: bytes) -> None:
        if path and not is_reachable(path):
            raise _unreachable("make durable", path)
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
            opened = os.open(at.name, _READ, dir_fd=at.directory)
        except PermissionError:
            self.sync()
            return
        try:
            os.fsync(opened)
        finally:
            os.close(opened)

    def _read_at(
        self, directory: int, name: bytes, offset: int, length: int, expected: Stat | None
    ) -> bytes:
        if kind_of(os.stat(name, dir_fd=directory, follow_symlinks=False)) is not FileKind.FILE:
            raise OSError(errno.ENOENT, "is no file (any more)")
        opened = os.open(name, _READ, dir_fd=directory)
        try:
            _check_same(opened, expected)
            content = _read_fully(opened, offset, length)
            _check_same(opened, expected)  # else it was written to meanwhile: torn, perhaps
            return content
        finally:
            os.close(opened)

    def _require_plain(self, found: os.stat_result) -> None:
        if kind_of(found) not in _PLAIN:
            raise OSError(errno.EEXIST, "neither a file nor a link stands there")

    def _exchange(self, at: At, keep_as: bytes) -> None:
        """Swap a settled stage with what stands at a name, unless that became a directory."""
        flag = syscalls.RENAME_EXCHANGE
        syscalls.renameat2(self._tmp, keep_as, at.directory, at.name, flag)
        displaced = os.stat(keep_as, dir_fd=self._tmp, follow_symlinks=False)
        if kind_of(displaced) not in _PLAIN:
            syscalls.renameat2(self._tmp, keep_as, at.directory, at.name, flag)
            self._require_plain(displaced)

    def _take(self, at: At, keep_as: bytes) -> Stat:
        self._require_plain(at.lstat())
        self._shop.rename(at.directory, at.name, self._tmp, keep_as)
        taken = os.stat(keep_as, dir_fd=self._tmp, follow_symlinks=False)
        if kind_of(taken) not in _PLAIN:
            self._shop.rename(self._tmp, keep_as, at.directory, at.name)
            self._require_plain(taken)
        return stat_of(taken, kind_of(taken))

    def _place_after_taking_away(
        self, stage: LinuxStage, at: At, keep_as: bytes
    ) -> tuple[Stat, Stat]:
        before = None
        if stage.name is None:
            before = stage.settle(arriving_name(keep_as))
        try:
            displaced = self._take(at, keep_as)
        except BaseException:
            if before is not None:
                stage.unsettle(before)
            raise
        return self._place_or_undo(stage, at, keep_as), displaced

    def _place_or_undo(self, stage: LinuxStage, at: At, keep_as: bytes) -> Stat:
        try:
            return stage.place(at, group_given(at.directory))
        except BaseException:
            # Somebody was quicker: then what was taken stays in tmp, and nothing is lost.
            with suppress(OSError):
                self._shop.rename(self._tmp, keep_as, at.directory, at.name)
            raise

    def _swap_by_three(self, first: At, second: At) -> None:
        second.lstat()
        aside = b"swap-tmp-" + os.urandom(8).hex().encode()
        self._shop.rename(first.directory, first.name, self._tmp, aside)
        try:
            self._shop.rename(second.directory, second.name, first.directory, first.name)
        except BaseException:
            with suppress(OSError):
                self._shop.rename(self._tmp, aside, first.directory, first.name)
            raise
        self._shop.rename(self._tmp, aside, second.directory, second.name)

    def _set_directory_mode(self, at: At, wanted: int) -> None:
        made = os.open(at.name, READABLE, dir_fd=at.directory)
        try:
            found = os.fstat(made)
            with suppress(OSError):
                # A default ACL of the parent decides alone, as for any other program.
                os.getxattr(made, "system.posix_acl_access")
                return
            os.fchmod(made, found.st_mode & 0o7000 | wanted)
        finally:
            os.close(made)

    def _set_link_time(self, directory: int, name: bytes, mtime_ns: int) -> None:
        held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            set_times(b"/proc/self/fd/%d" % held, mtime_ns)
        finally:
            os.close(held)

    def _stat_own(self, directory: int, name: bytes) -> Stat:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        return stat_of(found, kind_of(found))

    def _look_own(self, directory: int, name: bytes) -> Looked | LookFailure:
        return look_name(directory, name, None, effective_user=os.geteuid())

    def _list_own(self, directory: int) -> list[tuple[bytes, Stat]]:
        try:
            # Opened anew: a descriptor's position in the listing is shared by all who use it.
            listing = os.open(b".", READABLE, dir_fd=directory)
            try:
                listed = self._tree.list_names(listing)
            finally:
                os.close(listing)
        except OSError as cause:
            raise disk_error("list", b".dizzyd", cause) from cause
        return [found for found in listed if not found[0].startswith(b".")]


def _ours(stage: Stage) -> LinuxStage:
    if not isinstance(stage, LinuxStage):
        raise TypeError("a stage of another disk")
    return stage


def _own_name(operation: str, name: bytes) -> bytes:
    """Check a name in tmp or history; those that begin with a dot are the disk's own."""
    if not name or name[0] == ord(".") or b"/" in name or b"\0" in name:
        raise DiskError(f"{operation} {shown(name)}", "is no name of a stage", errno=errno.EINVAL)
    return name


def _unreachable(operation: str, path: bytes) -> DiskError:
    return DiskError(
        f"{operation} {shown(path)}", "is no path inside the folder", errno=errno.EINVAL
    )


def _check_same(opened: int, expected: Stat | None) -> None:
    if expected is None:
        return
    found = stat_of(os.fstat(opened), FileKind.FILE)
    if (found.inode, found.size, found.mtime_ns) != (
        expected.inode,
        expected.size,
        expected.mtime_ns,
    ):
        raise OSError(errno.ENOENT, "another file stands there now")


def _read_fully(opened: int, offset: int, length: int) -> bytes:
    piece = os.pread(opened, length, offset)
    if len(piece) == length or not piece:
        return piece
    pieces = [piece]
    total = len(piece)
    while total < length:
        piece = os.pread(opened, length - total, offset + total)
        if not piece:
            break
        pieces.append(piece)
        total += len(piece)
    return b"".join(pieces)
