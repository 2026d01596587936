"""Open what lies below one directory, and nothing else, however names change meanwhile.

Every path is resolved by the kernel below a held descriptor (openat2: beneath, no symlinks, no
mounts), or where openat2 is missing by a walk that follows no symlink. Calls then act on one
name in one open directory. Nothing here reads or writes content.
"""

from __future__ import annotations

import errno
import os
import re
import stat as modes
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self

from daemon import syscalls
from daemon.disk import DiskError, FileKind, NameMissing, NameTaken, NotEmpty, Stat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

PRIVATE = b".dizzyd"
PATH_ONLY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READABLE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

# Empty names, `.`, `..` and NUL anywhere; our own directory at the root.
_unsafe = re.compile(rb"(?:^|/)\.{0,2}(?:/|\Z)|\0|\A\.dizzyd(?:/|\Z)").search
_RESOLVE = (
    syscalls.RESOLVE_BENEATH
    | syscalls.RESOLVE_NO_SYMLINKS
    | syscalls.RESOLVE_NO_MAGICLINKS
    | syscalls.RESOLVE_NO_XDEV
)
_PIECE_BYTES = 4000  # PATH_MAX is 4096 with the final NUL
_KINDS = {
    modes.S_IFREG: FileKind.FILE,
    modes.S_IFDIR: FileKind.DIRECTORY,
    modes.S_IFLNK: FileKind.SYMLINK,
}
_TYPE_BITS = 0o170000
_INT64_LIMIT = 2**63
_HELD_DIRECTORIES = 32
_HELD_S = 0.005  # so long, at most, a directory once reached is believed to be at its path


def is_reachable(path: bytes) -> bool:
    """Tell whether a path may name something in the tree at all (not the root itself)."""
    return not _unsafe(path)


def shown(path: bytes) -> str:
    """Write a path so that it is safe in a terminal, a log and a page."""
    text = path.decode("utf-8", "backslashreplace") or "the root"
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def disk_error(operation: str, path: bytes, cause: OSError) -> DiskError:
    """Turn a failed system call into the error that daemon.disk promises for it."""
    what = f"{operation} {shown(path)}"
    why = cause.strerror or str(cause)
    number = cause.errno or errno.EIO
    match number:
        case errno.ENOENT | errno.ENOTDIR | errno.ELOOP:
            return NameMissing(what, why, errno=number)
        case errno.EEXIST:
            return NameTaken(what, why, errno=number)
        case errno.ENOTEMPTY:
            return NotEmpty(what, why, errno=number)
        case errno.ENOSPC | errno.EDQUOT:
            return DiskError(what, why, errno=number, hint="free some space; it goes on by itself")
        case errno.EMFILE | errno.ENFILE:
            return DiskError(what, why, errno=number, hint="raise the limit of open files")
        case _:
            return DiskError(what, why, errno=number)


def unreachable(operation: str, path: bytes) -> DiskError:
    """Make the error about a path that leads out of the folder."""
    return DiskError(
        f"{operation} {shown(path)}", "is no path inside the folder", errno=errno.EINVAL
    )


def kind_of(found: os.stat_result) -> FileKind:
    """Tell what an lstat describes, mounts aside."""
    return _KINDS.get(found.st_mode & _TYPE_BITS, FileKind.DEVICE)


def stat_of(found: os.stat_result, kind: FileKind) -> Stat:
    """Keep of an lstat what the scanner compares; every number fits a signed 64-bit integer."""
    inode = found.st_ino
    if inode >= _INT64_LIMIT:  # hashed inode numbers (FUSE, CIFS) use all 64 bits
        inode -= 2 * _INT64_LIMIT
    mtime_ns = found.st_mtime_ns
    if not -_INT64_LIMIT <= mtime_ns < _INT64_LIMIT:
        mtime_ns = clamped(mtime_ns)
    return Stat(
        kind, inode, found.st_size, mtime_ns, found.st_ctime_ns, found.st_mode, found.st_nlink
    )


def clamped(time_ns: int) -> int:
    """Bring a time into what a signed 64-bit count of nanoseconds holds (1677 to 2262)."""
    return max(-_INT64_LIMIT, min(time_ns, _INT64_LIMIT - 1))


class At:
    """One name in one open directory, for the length of a `with`; OSError becomes DiskError."""

    __slots__ = ("_is_held", "_operation", "_path", "_tree", "directory", "name")

    def __init__(self, tree: Tree, operation: str, path: bytes) -> None:
        """Remember what is to be done, for the sentence of a failure."""
        self._tree = tree
        self._operation = operation
        self._path = path
        self.directory = -1
        self.name = b""
        self._is_held = False

    def __enter__(self) -> Self:
        """Open the directory that holds the name."""
        if _unsafe(self._path):
            raise DiskError(
                f"{self._operation} {shown(self._path)}",
                "is no path inside the folder",
                errno=errno.EINVAL,
            )
        parent, _, self.name = self._path.rpartition(b"/")
        try:
            self.directory, self._is_held = self._tree.reach(parent)
        except OSError as cause:
            raise disk_error(self._operation, self._path, cause) from cause
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the directory."""
        if not self._is_held:
            os.close(self.directory)
        if isinstance(value, OSError):
            raise disk_error(self._operation, self._path, value) from value

    def lstat(self) -> os.stat_result:
        """Give the lstat of the name."""
        return os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)


class _Held:
    """Directories that one thread has open for a moment."""

    __slots__ = ("directories", "until_s")

    def __init__(self) -> None:
        self.directories: dict[bytes, int] = {}
        self.until_s = 0.0

    def let_go(self) -> None:
        directories, self.directories = self.directories, {}
        for directory in directories.values():
            os.close(directory)


class Tree:
    """The directories below one held root."""

    def __init__(self, root: int, *, has_openat2: bool = True) -> None:
        """Use `root`, an open directory that the caller closes."""
        self._root = root
        self._device = os.fstat(root).st_dev
        self._has_openat2 = has_openat2
        self._local = threading.local()

    @property
    def device(self) -> int:
        """The device that the root lies on."""
        return self._device

    def stat_root(self) -> Stat:
        """Give the stat of the root itself. Raises OSError."""
        return stat_of(os.fstat(self._root), FileKind.DIRECTORY)

    def at(self, operation: str, path: bytes) -> At:
        """Reach one name: `with tree.at("move", path) as at`."""
        return At(self, operation, path)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Reach a directory once for many names of it, in this thread, for the block."""
        held = self._local.held = _Held()
        try:
            yield
        finally:
            self._local.held = None
            held.let_go()

    def forget(self) -> None:
        """Reach every directory anew: one of them got another path."""
        held: _Held | None = getattr(self._local, "held", None)
        if held is not None:
            held.let_go()

    def reach(self, path: bytes) -> tuple[int, bool]:
        """Give an open directory, and whether it is held for others too: then do not close it."""
        held: _Held | None = getattr(self._local, "held", None)
        if held is None:
            return self.open_directory(path, PATH_ONLY), False
        now_s = time.monotonic()
        if now_s >= held.until_s or len(held.directories) >= _HELD_DIRECTORIES:
            held.let_go()
            held.until_s = now_s + _HELD_S
        directory = held.directories.get(path)
        if directory is None:
            directory = held.directories[path] = self.open_directory(path, PATH_ONLY)
        return directory, True

    def open_directory(self, path: bytes, flags: int) -> int:
        """Open a directory below the root; the caller closes it.

        Raises OSError: ENOENT, ENOTDIR, ELOOP (a symlink on the way), EXDEV (a mount), EACCES.
        The path must be reachable or empty.
        """
        if not self._has_openat2:
            return self._walk(path, flags)
        try:
            if not path:
                return syscalls.openat2(self._root, b".", flags, _RESOLVE)
            if len(path) <= _PIECE_BYTES:
                return syscalls.openat2(self._root, path, flags, _RESOLVE)
            return self._open_by_pieces(path, flags)
        except OSError as cause:
            # EPERM: a seccomp filter older than openat2 (containers) answers so.
            if cause.errno not in (errno.ENOSYS, errno.EPERM):
                raise
            self._has_openat2 = False
            return self._walk(path, flags)

    def _open_by_pieces(self, path: bytes, flags: int) -> int:
        held = self._root
        try:
            while len(path) > _PIECE_BYTES:
                cut = path.rindex(b"/", 0, _PIECE_BYTES)
                reached = syscalls.openat2(held, path[:cut], PATH_ONLY, _RESOLVE)
                held = self._let_go(held, reached)
                path = path[cut + 1 :]
            return syscalls.openat2(held, path, flags, _RESOLVE)
        finally:
            self._let_go(held, -1)

    def _walk(self, path: bytes, flags: int) -> int:
        names = path.split(b"/") if path else []
        held = self._root
        try:
            for name in names:
                reached = os.open(name, PATH_ONLY, dir_fd=held)
                held = self._let_go(held, reached)
                if os.fstat(held).st_dev != self._device:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            return os.open(b".", flags, dir_fd=held)
        finally:
            self._let_go(held, -1)

    def _let_go(self, held: int, instead: int) -> int:
        if held != self._root:
            with suppress(OSError):
                os.close(held)
        return instead

    def kind_at(self, directory: int, name: bytes, found: os.stat_result) -> FileKind:
        """Tell what stands at a name, mounts included."""
        kind = kind_of(found)
        if kind is FileKind.DIRECTORY and found.st_dev != self._device:
            return FileKind.MOUNT
        if syscalls.is_mount_root(directory, name):
            return FileKind.MOUNT
        return kind

    def list_names(self, directory: int) -> list[tuple[bytes, Stat]]:
        """List an open directory with lstat of each name; one that goes meanwhile is left out.

        Raises OSError when any name cannot be examined: a list with holes would look like
        deletions.
        """
        listed: list[tuple[bytes, Stat]] = []
        add = listed.append
        encode = os.fsencode
        device = self._device
        kinds = _KINDS
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                kind = kinds.get(found.st_mode & _TYPE_BITS, FileKind.DEVICE)
                # What is mounted over a name has another inode than the name in its directory.
                if entry.inode() != found.st_ino or (
                    kind is FileKind.DIRECTORY and found.st_dev != device
                ):
                    kind = self.kind_at(directory, encode(entry.name), found)
                add((encode(entry.name), stat_of(found, kind)))
        return listed
