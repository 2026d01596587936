"""Call the Linux system calls that Python has no name for.

Each function is one call and raises OSError as os does. Nothing here decides anything: what is
allowed and what a failure means is said in daemon.fs. Calls release the interpreter's lock.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

_OPENAT2 = 437  # one number on every architecture (asm-generic, Linux 5.6)
_RENAMEAT2 = {"x86_64": 316, "aarch64": 276, "riscv64": 276, "armv7l": 382, "ppc64le": 357}.get(
    platform.machine()
)
_RACES_LIMIT = 1000  # times that a resolution is tried again
_OPEN_HOW_BYTES = 24  # flags u64, mode u64, resolve u64
_STATX_BYTES = 256
_STATX_MASK_NONE = 0
_STATX_ATTR_MOUNT_ROOT = 0x2000
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_NO_AUTOMOUNT = 0x800
_STATFS_BYTES = 256  # struct statfs is 120 bytes on 64-bit; f_type is its first long

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_statx = getattr(_libc, "statx", None)


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_hows: dict[tuple[int, int], _OpenHow] = {}


def _failure(*names: bytes) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), *names[:1])


def openat2(directory: int, path: bytes, flags: int, resolve: int) -> int:
    """Open `path` below a directory under the rules of `resolve`; close-on-exec is added."""
    how = _hows.get((flags, resolve))
    if how is None:
        # The kernel only reads it, so one instance serves every thread.
        how = _hows[flags, resolve] = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    for _ in range(_RACES_LIMIT):
        opened = _syscall(
            ctypes.c_long(_OPENAT2),
            ctypes.c_int(directory),
            ctypes.c_char_p(path),
            ctypes.byref(how),
            ctypes.c_size_t(_OPEN_HOW_BYTES),
        )
        if opened >= 0:
            return int(opened)
        # EAGAIN: a rename elsewhere raced with the resolution; the kernel asks to try again.
        if ctypes.get_errno() not in (errno.EINTR, errno.EAGAIN):
            break
    raise _failure(path)


def renameat2(
    source_directory: int, source: bytes, target_directory: int, target: bytes, flags: int
) -> None:
    """Rename one name under RENAME_NOREPLACE or RENAME_EXCHANGE."""
    if _RENAMEAT2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    failed = _syscall(
        ctypes.c_long(_RENAMEAT2),
        ctypes.c_int(source_directory),
        ctypes.c_char_p(source),
        ctypes.c_int(target_directory),
        ctypes.c_char_p(target),
        ctypes.c_uint(flags),
    )
    if failed:
        raise _failure(source)


def syncfs(descriptor: int) -> None:
    """Make a whole file system durable; raises what went wrong since `descriptor` was opened."""
    while _libc.syncfs(ctypes.c_int(descriptor)):
        if ctypes.get_errno() != errno.EINTR:
            raise _failure()


def is_mount_root(directory: int, name: bytes) -> bool:
    """Tell whether something is mounted at a name (False where the kernel cannot say)."""
    if _statx is None:
        return False
    answer = ctypes.create_string_buffer(_STATX_BYTES)
    failed = _statx(
        ctypes.c_int(directory),
        ctypes.c_char_p(name),
        ctypes.c_int(_AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT),
        ctypes.c_uint(_STATX_MASK_NONE),
        answer,
    )
    if failed:
        return False
    # struct statx: stx_mask u32, stx_blksize u32, stx_attributes u64 at offset 8.
    attributes: int = struct.unpack_from("=Q", answer, 8)[0]
    return bool(attributes & _STATX_ATTR_MOUNT_ROOT)


def file_system_type(path: bytes) -> int:
    """Give the magic number of the file system that holds `path` (statfs f_type)."""
    answer = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc.statfs(ctypes.c_char_p(path), answer):
        raise _failure(path)
    kind: int = struct.unpack_from("l", answer, 0)[0]
    return kind & 0xFFFFFFFF


def inotify_init() -> int:
    """Make an inotify instance, non-blocking and close-on-exec."""
    descriptor: int = _libc.inotify_init1(ctypes.c_int(os.O_NONBLOCK | os.O_CLOEXEC))
    if descriptor < 0:
        raise _failure()
    return descriptor


def inotify_add(descriptor: int, path: bytes, mask: int) -> int:
    """Watch a path; the number of the watch. ENOSPC: the limit of watches is reached."""
    watch: int = _libc.inotify_add_watch(
        ctypes.c_int(descriptor), ctypes.c_char_p(path), ctypes.c_uint32(mask)
    )
    if watch < 0:
        raise _failure(path)
    return watch


def inotify_remove(descriptor: int, watch: int) -> None:
    """Stop a watch; no error if the kernel has dropped it already."""
    _libc.inotify_rm_watch(ctypes.c_int(descriptor), ctypes.c_int(watch))
