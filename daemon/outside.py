"""Write a tree to a place outside of every shared folder, whole, and never over anything.

It is made under a temporary name beside its place, made durable, and renamed in one step; a name
that is taken is refused. It reads nothing and follows no symlink of what it writes. Of a tree
whose writing ends early nothing stays.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from blake3 import blake3

from daemon import syscalls
from daemon.fs_direct import write_all
from store.errors import DizzyError
from store.ids import BlobHash

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from daemon.disk import Buffer

_TEMPORARY = b".dizzyd-tmp-restore-"
_PIECE_BYTES = 1 << 20


class OutsideTree:
    """One tree (or file, or symlink) in the making. Blocks; use it in a worker thread.

    Paths are relative to the tree; the empty one is the thing itself.
    """

    def __init__(self, target: bytes) -> None:
        """Prepare for an absolute path. Raises DizzyError if it is taken or has no parent."""
        self._target = target
        parent = os.path.dirname(target)  # noqa: PTH120 - bytes
        if os.path.lexists(target):
            raise DizzyError(
                f"restore to {os.fsdecode(target)}",
                "something stands there already",
                hint="give another --to; nothing is ever overwritten",
            )
        if not os.path.isdir(parent):  # noqa: PTH112 - bytes
            raise DizzyError(
                f"restore to {os.fsdecode(target)}",
                f"there is no directory {os.fsdecode(parent)}",
                hint=f"mkdir -p {os.fsdecode(parent)}",
            )
        name = _TEMPORARY + secrets.token_hex(8).encode()
        self._made = os.path.join(parent, name)  # noqa: PTH118 - bytes

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove what was not put in place."""
        with suppress(FileNotFoundError):
            if os.path.isdir(self._made) and not os.path.islink(self._made):  # noqa: PTH112, PTH114
                shutil.rmtree(self._made)
            else:
                os.unlink(self._made)  # noqa: PTH108 - bytes

    def make_directory(self, path: bytes) -> None:
        """Make a directory."""
        os.mkdir(self._at(path))  # noqa: PTH102 - bytes

    def make_symlink(self, path: bytes, target: bytes, mtime_ns: int) -> None:
        """Make a symlink."""
        os.symlink(target, self._at(path))  # noqa: PTH211 - bytes
        os.utime(self._at(path), ns=(mtime_ns, mtime_ns), follow_symlinks=False)

    def open_file(self, path: bytes) -> OutsideFile:
        """Begin a file; dress() and close() it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return OutsideFile(os.open(self._at(path), flags, 0o666))

    def remove_file(self, path: bytes) -> None:
        """Remove a file whose content is not to be had."""
        os.unlink(self._at(path))  # noqa: PTH108 - bytes

    def put_in_place(self) -> None:
        """Make all of it durable and give it its name. Raises DizzyError if that is taken."""
        if not os.path.lexists(self._made):
            return
        parent = os.open(os.path.dirname(self._target), os.O_RDONLY | os.O_DIRECTORY)  # noqa: PTH120
        try:
            syscalls.syncfs(parent)
            self._rename(parent)
            os.fsync(parent)
        except FileExistsError as cause:
            raise DizzyError(
                f"restore to {os.fsdecode(self._target)}",
                "something appeared there meanwhile",
                hint="give another --to; nothing is ever overwritten",
            ) from cause
        finally:
            os.close(parent)

    def _rename(self, parent: int) -> None:
        made, target = os.path.basename(self._made), os.path.basename(self._target)  # noqa: PTH119
        try:
            syscalls.renameat2(parent, made, parent, target, syscalls.RENAME_NOREPLACE)
        except OSError as cause:
            if cause.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
            # No such rename here (NFS): make the name first, which nobody else can then.
            if os.path.isdir(self._made) and not os.path.islink(self._made):  # noqa: PTH112, PTH114
                os.mkdir(target, dir_fd=parent)
                os.rename(made, target, src_dir_fd=parent, dst_dir_fd=parent)
            else:
                os.link(made, target, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
                os.unlink(made, dir_fd=parent)

    def _at(self, path: bytes) -> bytes:
        return os.path.join(self._made, path) if path else self._made  # noqa: PTH118 - bytes


class OutsideFile:
    """A file in the making: a Stage as far as contents are put together in it."""

    name = None

    def __init__(self, descriptor: int) -> None:
        """Take over an open, empty file."""
        self._descriptor = descriptor

    def write(self, offset: int, *pieces: Buffer) -> None:
        """Write all of the pieces, one behind the other, from `offset` on."""
        for piece in pieces:
            write_all(self._descriptor, offset, piece)
            offset += len(piece)

    def read(self, offset: int, length: int) -> bytes:
        """Read back up to `length` bytes."""
        return os.pread(self._descriptor, length, offset)

    def size(self) -> int:
        """Give the number of bytes up to the highest written one."""
        return os.fstat(self._descriptor).st_size

    def hash(self) -> BlobHash:
        """BLAKE3 of its content as it stands."""
        hashed = blake3()
        offset = 0
        while piece := os.pread(self._descriptor, _PIECE_BYTES, offset):
            hashed.update(piece)
            offset += len(piece)
        return BlobHash(hashed.digest())

    def finish(self, *, is_executable: bool, mtime_ns: int, like: bytes | None) -> None:
        """Set the executable bit where the file is readable, and the time; `like` is nobody."""
        mode = os.fstat(self._descriptor).st_mode & 0o777
        if is_executable:
            os.fchmod(self._descriptor, mode | (mode & 0o444) >> 2)
        os.utime(self._descriptor, ns=(mtime_ns, mtime_ns))

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)
