"""Make the content of a file in `.dizzyd/tmp` before it is visible in the tree.

A stage is anonymous (O_TMPFILE) where the file system can, else a name of ours that begins with
`.made-tmp-`; or it has a name of the caller's, so that a transfer can resume. How modes, owners
and times are given is daemon.fs_attributes' part, putting stages in place daemon.fs_names'.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat as modes
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from daemon import syscalls
from daemon.disk import DiskError, FileKind, NameTaken
from daemon.fs_attributes import copy_extended, executable_mode, set_times, take_group, take_owner
from daemon.fs_below import clamped, disk_error, kind_of, stat_of
from daemon.fs_direct import DIRECT_FROM_BYTES, DirectWriter, write_all
from daemon.fs_look import hash_descriptor
from store.ids import BlobHash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.disk import Buffer, NewFile, Stat
    from daemon.fs_below import At, Tree

MADE = b".made-tmp-"
_WRITE_OUT_BYTES = 32 << 20
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Workshop:
    """The directory tmp of one folder, and what its stages have in common."""

    def __init__(
        self, directory: int, tree: Tree, *, umask: int, has_tmpfile: bool, has_noreplace: bool
    ) -> None:
        """Work in an open directory that the caller closes."""
        self.directory = directory
        self.tree = tree
        self.umask = umask
        self.has_tmpfile = has_tmpfile
        self.has_noreplace = has_noreplace
        self._numbers = itertools.count()
        self.open_stages: set[LinuxStage] = set()

    def new_mode(self, *, is_executable: bool) -> int:
        """Give the mode of a file that replaces nothing."""
        return (0o777 if is_executable else 0o666) & ~self.umask

    def own_name(self) -> bytes:
        """Make up a name of ours; what carries one is removed when the disk is opened."""
        return b"%s%d" % (MADE, next(self._numbers))

    def make_many(self, files: Sequence[NewFile]) -> list[LinuxStage]:
        """Make and fill one stage for each file, or none at all. Raises DiskError."""
        made: list[LinuxStage] = []
        now_ns = time.time_ns()
        modes_of = (self.new_mode(is_executable=False), self.new_mode(is_executable=True))
        sets_mode = dict.fromkeys(modes_of, True)
        try:
            for file in files:
                mode = modes_of[file.is_executable]
                stage = self._make_one(file, mode, now_ns, sets_mode=sets_mode[mode])
                if sets_mode[mode] and self.has_tmpfile:
                    # What the kernel made of the mode, under umask and default ACL, it does again.
                    sets_mode[mode] = stage.had_mode != mode
                made.append(stage)
        except OSError as cause:
            for stage in made:
                stage.close()
            raise disk_error("write to", b".dizzyd/tmp", cause) from cause
        return made

    def _make_one(self, file: NewFile, mode: int, now_ns: int, *, sets_mode: bool) -> LinuxStage:
        name: bytes | None = None
        try:
            if self.has_tmpfile:
                flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
                opened = os.open(b".", flags, mode, dir_fd=self.directory)
            else:
                opened = self._open_own(name := self.own_name())
        except OSError as cause:
            if cause.errno != errno.EMFILE:
                raise
            return self._make_closed(file, mode, now_ns)
        stage = LinuxStage(self, opened, name, is_own=True)
        try:
            if sets_mode:
                stage.had_mode = modes.S_IMODE(os.fstat(opened).st_mode)
            self._fill(opened, file, mode if sets_mode else None, now_ns)
        except BaseException:
            stage.close()
            raise
        stage.is_executable = file.is_executable
        return stage

    def _make_closed(self, file: NewFile, mode: int, now_ns: int) -> LinuxStage:
        """Make a stage that keeps no descriptor: for when there are none left.

        One is free for an instant all the same, while another thread's call ends; where not,
        the failure is EMFILE.
        """
        name = self.own_name()
        opened = self._open_own(name)
        stage = LinuxStage(self, -1, name, is_own=True)
        try:
            self._fill(opened, file, mode, now_ns)
        except BaseException:
            stage.close()
            raise
        finally:
            os.close(opened)
        stage.is_executable = file.is_executable
        return stage

    def _open_own(self, name: bytes) -> int:
        return os.open(name, _NEW_FILE, 0o600, dir_fd=self.directory)

    def _fill(self, opened: int, file: NewFile, mode: int | None, now_ns: int) -> None:
        write_all(opened, 0, file.content)
        if mode is not None:
            os.fchmod(opened, mode)
        os.utime(opened, ns=(now_ns, clamped(file.mtime_ns)))

    def open_named(self, name: bytes, size: int) -> LinuxStage:
        """Open or make a stage that keeps its name; `size` is what it is to have. Raises DiskError.

        What is large is written past the page cache, where that can be.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            opened = os.open(name, flags, 0o600, dir_fd=self.directory)
            found = os.fstat(opened)
        except OSError as cause:
            raise disk_error("open the stage", name, cause) from cause
        if kind_of(found) is not FileKind.FILE or found.st_nlink != 1:
            os.close(opened)
            raise DiskError(
                "open the stage " + name.decode("ascii", "backslashreplace"),
                "it is no file of ours alone",
                errno=errno.EEXIST,
            )
        stage = LinuxStage(self, opened, name, is_own=False)
        if size >= DIRECT_FROM_BYTES:
            with suppress(OSError):  # this disk cannot: it is written as small ones are
                stage.direct = DirectWriter(opened)
        return stage

    def rename(self, source: int, name: bytes, target: int, new_name: bytes) -> None:
        """Rename, replacing nothing. Raises OSError, EEXIST among them."""
        if self.has_noreplace:
            syscalls.renameat2(source, name, target, new_name, syscalls.RENAME_NOREPLACE)
            return
        found = os.stat(name, dir_fd=source, follow_symlinks=False)
        if not modes.S_ISDIR(found.st_mode):
            # No hard links here, or none of this file. Where it is the directory that refuses us,
            # the rename below says so.
            with suppress(PermissionError, NotImplementedError):
                self._rename_by_link(source, name, target, new_name)
                return
        # The last resort is a check that can be overtaken: file systems without RENAME_NOREPLACE
        # and without hard links only.
        with suppress(FileNotFoundError):
            os.stat(new_name, dir_fd=target, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)

    def _rename_by_link(self, source: int, name: bytes, target: int, new_name: bytes) -> None:
        os.link(name, new_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        try:
            os.unlink(name, dir_fd=source)
        except OSError:
            os.unlink(new_name, dir_fd=target)
            raise


class LinuxStage:
    """A file being made; implements daemon.disk.Stage."""

    __slots__ = (
        "_descriptor",
        "_is_own",
        "_name",
        "_shop",
        "_unsent_bytes",
        "direct",
        "had_mode",
        "is_executable",
    )

    def __init__(
        self, shop: Workshop, descriptor: int, name: bytes | None, *, is_own: bool
    ) -> None:
        """Own `descriptor` (-1: opened when needed); an own name is removed at close."""
        self._shop = shop
        self._descriptor = descriptor
        self._name = name
        self._is_own = is_own
        self._unsent_bytes = 0
        self.is_executable = False
        self.had_mode = -1  # when it was made; -1 unknown
        self.direct: DirectWriter | None = None
        shop.open_stages.add(self)

    @property
    def name(self) -> bytes | None:
        """Its name in tmp; None while it would be gone after close()."""
        return None if self._is_own else self._name

    def descriptor(self) -> int:
        """Give the open file. Raises OSError."""
        if self._descriptor < 0:
            if self._name is None:
                raise OSError(errno.EBADF, "the stage is closed or used up")
            self._descriptor = os.open(
                self._name,
                os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC,
                dir_fd=self._shop.directory,
            )
        return self._descriptor

    def write(self, offset: int, *pieces: Buffer) -> None:
        """Write all of the pieces, one behind the other, from `offset` on. Raises DiskError."""
        try:
            if self.direct is not None:
                self.direct.write(offset, pieces)
                return
            for piece in pieces:
                write_all(self.descriptor(), offset, piece)
                offset += len(piece)
                self._unsent_bytes += len(piece)
        except OSError as cause:
            raise self._error("write", cause) from cause
        if self._unsent_bytes >= _WRITE_OUT_BYTES:
            # The disk begins while more is coming, so that the sync at the end finds little left.
            syscalls.start_writing_out(self._descriptor)
            self._unsent_bytes = 0

    def read(self, offset: int, length: int) -> bytes:
        """Read back up to `length` bytes."""
        try:
            return os.pread(self.descriptor(), length, offset)
        except OSError as cause:
            raise self._error("read", cause) from cause

    def size(self) -> int:
        """Give the number of bytes up to the highest written one."""
        try:
            return os.fstat(self.descriptor()).st_size
        except OSError as cause:
            raise self._error("examine", cause) from cause

    def hash(self) -> BlobHash:
        """BLAKE3 of its content as it stands."""
        try:
            return BlobHash(hash_descriptor(self.descriptor()))
        except OSError as cause:
            raise self._error("read", cause) from cause

    def finish(self, *, is_executable: bool, mtime_ns: int, like: bytes | None) -> None:
        """Set its attributes; a `like` that is gone counts as None."""
        self.is_executable = is_executable
        try:
            descriptor = self.descriptor()
            os.fchmod(descriptor, self._shop.new_mode(is_executable=is_executable))
            set_times(descriptor, mtime_ns)
        except OSError as cause:
            raise self._error("set the attributes of", cause) from cause
        if like is not None:
            with suppress(DiskError), self._shop.tree.at("copy the attributes of", like) as at:
                self.wear(at)

    def wear(self, at: At) -> None:
        """Take on owner, group, mode, ACL and extended attributes of the file that stands there.

        What is not permitted is left; the executable bit is the stage's own.
        """
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        other = os.open(at.name, flags, dir_fd=at.directory)
        try:
            found = os.fstat(other)
            if kind_of(found) is not FileKind.FILE:
                return
            mine = self.descriptor()
            mode = executable_mode(found.st_mode, is_executable=self.is_executable)
            mode = take_owner(mine, found, mode)
            copy_extended(b"/proc/self/fd/%d" % other, mine)
            if modes.S_IMODE(os.fstat(mine).st_mode) != mode:
                os.fchmod(mine, mode)
        finally:
            os.close(other)

    def place(self, at: At, group: int | None) -> Stat:
        """Give it a name in the tree where there is none. Raises OSError; then nothing changed.

        `group` is what group_given says of the directory.
        """
        if group is not None:
            take_group(self.descriptor(), group)
        self._give_name(at.directory, at.name)
        self._name = None
        self._is_own = False
        found = at.lstat() if self._descriptor < 0 else os.fstat(self._descriptor)
        return stat_of(found, FileKind.FILE)

    def settle(self, name: bytes) -> tuple[bytes | None, bool]:
        """Take a name in tmp, replacing nothing; gives what unsettle() needs. Raises OSError."""
        before = (self._name, self._is_own)
        if name != self._name:
            self._give_name(self._shop.directory, name)
            self._name = name
        return before

    def leave(self) -> None:
        """Leave the name that settle() took to recovery."""
        self._is_own = False

    def unsettle(self, before: tuple[bytes | None, bool]) -> None:
        """Undo settle() after an exchange that failed."""
        name, is_own = before
        self._is_own = is_own
        if name is not None and self._name is not None and name != self._name:
            with suppress(OSError):
                self._shop.rename(self._shop.directory, self._name, self._shop.directory, name)
                self._name = name
        # An anonymous one stays under the name that it took, and goes with close().

    def used_up(self) -> os.stat_result | None:
        """Forget its name: it has one in the tree now. Gives its stat where it is open."""
        self._name = None
        self._is_own = False
        return os.fstat(self._descriptor) if self._descriptor >= 0 else None

    def make_durable(self) -> None:
        """Make its content durable by itself. Raises OSError."""
        os.fsync(self.descriptor())

    def is_open(self) -> bool:
        """Whether close() has still something to do."""
        return self._descriptor >= 0 or (self._is_own and self._name is not None)

    def close(self) -> None:
        """Let go of it; an anonymous one is gone then, a named one stays in tmp."""
        self._shop.open_stages.discard(self)
        if self.direct is not None:
            self.direct.close()
            self.direct = None
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
        if self._is_own and self._name is not None:
            with suppress(OSError):
                os.unlink(self._name, dir_fd=self._shop.directory)
        self._name = None
        self._is_own = False

    def _give_name(self, directory: int, name: bytes) -> None:
        if self._name is None:
            os.link(
                b"/proc/self/fd/%d" % self.descriptor(),
                name,
                dst_dir_fd=directory,
                follow_symlinks=True,
            )
        else:
            self._shop.rename(self._shop.directory, self._name, directory, name)

    def _error(self, operation: str, cause: OSError) -> DiskError:
        error = disk_error(operation, b".dizzyd/tmp/" + (self._name or b"(a new file)"), cause)
        if isinstance(error, NameTaken):
            return error
        return DiskError(error.what, error.why, errno=error.errno, hint=error.hint)
