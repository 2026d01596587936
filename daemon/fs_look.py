"""Read files as they were at one instant, and hash them.

A file counts as read only if lstat before, fstat and lstat after agree; anything else is
CHANGING. Devices, sockets and FIFOs are never opened, links never followed, access times not
touched where that is allowed. Nothing here writes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from blake3 import blake3

from daemon.disk import FileKind, Looked, LookFailure
from daemon.fs_below import PATH_ONLY, PRIVATE, is_reachable, kind_of, stat_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.fs_below import Tree

SMALL_BYTES = 1 << 20  # one kept buffer of this size for each thread
_BIG_BYTES = 8 << 20  # threads of blake3 only pay from here on
_CHECK_EVERY_BYTES = 64 << 20  # a file that grows for minutes is given up early
_HELD_DIRECTORIES = 32
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_NO_NAMES = (b"", b".", b"..")
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

_kept = threading.local()


def kept_buffer() -> memoryview:
    """Give this thread's buffer of SMALL_BYTES; it is valid until the thread's next call."""
    buffer: memoryview | None = getattr(_kept, "buffer", None)
    if buffer is None:
        buffer = _kept.buffer = memoryview(bytearray(SMALL_BYTES))
    return buffer


def look_name(
    directory: int, name: bytes, tree: Tree | None, *, effective_user: int
) -> Looked | LookFailure:
    """Look at one name in one open directory; mounts are told apart where `tree` is given."""
    looked_at_ns = time.time_ns()
    try:
        before = os.stat(name, dir_fd=directory, follow_symlinks=False)
        kind = kind_of(before)
        if kind is FileKind.FILE:
            return _look_file(directory, name, before, looked_at_ns, effective_user)
        if kind is FileKind.SYMLINK:
            target = os.readlink(name, dir_fd=directory)
            after = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if _identity(before) != _identity(after):
                return LookFailure.CHANGING
            return Looked(stat_of(before, kind), target, looked_at_ns)
        if tree is not None:
            kind = tree.kind_at(directory, name, before)
        return Looked(stat_of(before, kind), b"", looked_at_ns)
    except OSError as cause:
        return failure_of(cause)


def failure_of(cause: OSError) -> LookFailure:
    """Say what a failed call means for a look: never that a file is gone unless it is."""
    return LookFailure.GONE if cause.errno in _GONE else LookFailure.UNREADABLE


def _identity(found: os.stat_result) -> tuple[int, int, int, int, int]:
    return (
        found.st_mtime_ns,
        found.st_ctime_ns,
        found.st_size,
        found.st_ino,
        found.st_dev,
    )


def _open_file(directory: int, name: bytes, found: os.stat_result, effective_user: int) -> int:
    flags = _OPEN
    if found.st_uid == effective_user:
        flags |= os.O_NOATIME
    try:
        return os.open(name, flags, dir_fd=directory)
    except PermissionError:
        if flags == _OPEN:
            raise
        return os.open(name, _OPEN, dir_fd=directory)


def _look_file(
    directory: int, name: bytes, before: os.stat_result, looked_at_ns: int, effective_user: int
) -> Looked | LookFailure:
    try:
        opened = _open_file(directory, name, before, effective_user)
    except OSError as cause:
        if cause.errno == errno.ELOOP:  # a symlink took its place this instant
            return LookFailure.CHANGING
        raise
    try:
        identity = _identity(before)
        if _identity(os.fstat(opened)) != identity:
            return LookFailure.CHANGING
        size = before.st_size
        if size <= SMALL_BYTES:
            buffer = kept_buffer()
            count = os.readv(opened, (buffer,))
            value = blake3(buffer[:count]).digest()
        else:
            count, value = _hash_big(opened, identity)
    finally:
        os.close(opened)
    after = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if count != size or _identity(after) != identity:
        return LookFailure.CHANGING
    return Looked(stat_of(before, FileKind.FILE), value, looked_at_ns)


def _hash_big(opened: int, identity: tuple[int, int, int, int, int]) -> tuple[int, bytes]:
    """Hash as many bytes as the file had; stops early, with a short count, once it changed."""
    size = identity[2]
    if size < _BIG_BYTES:
        hasher = blake3()
        buffer = kept_buffer()
    else:
        hasher = blake3(max_threads=blake3.AUTO)
        buffer = memoryview(bytearray(_BIG_BYTES))
    with suppress(OSError):
        os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    total = 0
    check_at = _CHECK_EVERY_BYTES
    while total < size:
        count = os.readv(opened, (buffer[: min(len(buffer), size - total)],))
        if not count:
            break
        hasher.update(buffer[:count])
        total += count
        if total >= check_at:
            check_at += _CHECK_EVERY_BYTES
            if _identity(os.fstat(opened)) != identity:
                return -1, b""
    return total, hasher.digest()


def hash_descriptor(opened: int) -> bytes:
    """Hash what an open file of ours holds, from its first byte to its last."""
    size = os.fstat(opened).st_size
    is_big = size >= _BIG_BYTES
    buffer = memoryview(bytearray(_BIG_BYTES)) if is_big else kept_buffer()
    hasher = blake3(max_threads=blake3.AUTO) if is_big else blake3()
    offset = 0
    while count := os.preadv(opened, (buffer,), offset):
        hasher.update(buffer[:count])
        offset += count
    return hasher.digest()


def look_many(tree: Tree, paths: Sequence[bytes]) -> list[Looked | LookFailure]:
    """Look at many paths, in order; a directory is opened once where its names stand together."""
    effective_user = os.geteuid()
    held: dict[bytes, int | LookFailure] = {}
    results: list[Looked | LookFailure] = []
    add = results.append
    try:
        for path in paths:
            parent, _, name = path.rpartition(b"/")
            if name in _NO_NAMES or 0 in name or (not parent and name == PRIVATE):
                add(LookFailure.GONE if path else _look_root(tree))
                continue
            directory = held.get(parent)
            if directory is None:
                if len(held) >= _HELD_DIRECTORIES:
                    _close_all(held)
                directory = held[parent] = _open_parent(tree, path, parent)
            if isinstance(directory, LookFailure):
                add(directory)
                continue
            looked = look_name(directory, name, tree, effective_user=effective_user)
            add(looked)
            # After a long read a held directory may be somewhere else: find it again by its path.
            if isinstance(looked, Looked) and looked.stat.size > _BIG_BYTES:
                _close_all(held)
    finally:
        _close_all(held)
    return results


def _look_root(tree: Tree) -> Looked | LookFailure:
    try:
        return Looked(tree.stat_root(), b"", time.time_ns())
    except OSError as cause:
        return failure_of(cause)


def _open_parent(tree: Tree, path: bytes, parent: bytes) -> int | LookFailure:
    if not is_reachable(path):
        return LookFailure.GONE
    try:
        return tree.open_directory(parent, PATH_ONLY)
    except OSError as cause:
        return failure_of(cause)


def _close_all(held: dict[bytes, int | LookFailure]) -> None:
    for directory in held.values():
        if not isinstance(directory, LookFailure):
            os.close(directory)
    held.clear()


def is_open_for_writing(directory: int, name: bytes) -> bool:
    """Tell whether anyone has a file open for writing; False where that cannot be known.

    A read lease is refused exactly then (fcntl(2)). Raises OSError if it cannot be opened.
    """
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if kind_of(found) is not FileKind.FILE:
        return False
    opened = _open_file(directory, name, found, os.geteuid())
    try:
        # Who opens it in the very instant of our lease makes the kernel signal us: SIGIO would
        # end the process, SIGURG is ignored unless somebody asked for it.
        fcntl.fcntl(opened, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(opened, fcntl.F_SETLEASE, fcntl.F_RDLCK)  # it ends when we close
    except BlockingIOError:
        return True
    except OSError:  # not our file, or a file system without leases
        return False
    finally:
        os.close(opened)
    return False
