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
import threading
from pathlib import Path

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

_M_ARENA_MAX = -8

_libc = ctypes.CDLL(None, use_errno=True)

# One foreign function for each shape of arguments: declared types cost a third of wrapped ones.
_openat2 = ctypes.CDLL(None, use_errno=True)["syscall"]
_openat2.restype = ctypes.c_long
_openat2.argtypes = (
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.c_size_t,
)
_renameat2 = ctypes.CDLL(None, use_errno=True)["syscall"]
_renameat2.restype = ctypes.c_long
_renameat2.argtypes = (
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
)
_statx = getattr(_libc, "statx", None)
if _statx is not None:
    _statx.argtypes = (
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_void_p,
    )
_SYNC_FILE_RANGE_WRITE = 2
_SYNC_FILE_RANGE_WAIT = 1 | 2 | 4  # for what is on its way, for the rest, until all of it is there
_sync_file_range = getattr(_libc, "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_CACHESTAT = 451  # one number on every architecture (asm-generic, Linux 6.5)
_CACHESTAT_BYTES = 40  # nr_cache, nr_dirty, nr_writeback, nr_evicted, nr_recently_evicted: u64
_cachestat = ctypes.CDLL(None, use_errno=True)["syscall"]
_cachestat.restype = ctypes.c_long
_cachestat.argtypes = (
    ctypes.c_long,
    ctypes.c_uint,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.c_uint,
)
_add_watch = _libc.inotify_add_watch
_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_kept = threading.local()


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_hows: dict[tuple[int, int], ctypes.c_void_p] = {}
_kept_hows: list[_OpenHow] = []


def _failure(*names: bytes) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), *names[:1])


def openat2(directory: int, path: bytes, flags: int, resolve: int) -> int:
    """Open `path` below a directory under the rules of `resolve`; close-on-exec is added."""
    how = _hows.get((flags, resolve))
    if how is None:
        # The kernel only reads it, so one instance serves every thread.
        made = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
        _kept_hows.append(made)
        how = _hows[flags, resolve] = ctypes.c_void_p(ctypes.addressof(made))
    for _ in range(_RACES_LIMIT):
        opened = _openat2(_OPENAT2, directory, path, how, _OPEN_HOW_BYTES)
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
    if _renameat2(_RENAMEAT2, source_directory, source, target_directory, target, flags):
        raise _failure(source)


def syncfs(descriptor: int) -> None:
    """Make a whole file system durable; raises what went wrong since `descriptor` was opened."""
    while _libc.syncfs(ctypes.c_int(descriptor)):
        if ctypes.get_errno() != errno.EINTR:
            raise _failure()


def start_writing_out(descriptor: int) -> None:
    """Have the kernel begin to write a file's changed pages out; says nothing of durability."""
    if _sync_file_range is not None:
        _sync_file_range(descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)


def write_out(descriptor: int, offset: int, length: int, *, is_waiting: bool) -> None:
    """Have the kernel write a range out, and wait for it or not; says nothing of durability."""
    if _sync_file_range is not None:
        flags = _SYNC_FILE_RANGE_WAIT if is_waiting else _SYNC_FILE_RANGE_WRITE
        _sync_file_range(descriptor, offset, length, flags)


def cached_pages(descriptor: int, offset: int, length: int) -> int:
    """Count the pages of a range of a file that are in the page cache.

    Raises OSError where the kernel cannot say (ENOSYS), or will not for that file.
    """
    answer = ctypes.create_string_buffer(_CACHESTAT_BYTES)
    span = struct.pack("=QQ", offset, length)
    if _cachestat(_CACHESTAT, descriptor, span, answer, 0):
        raise _failure()
    pages: int = struct.unpack_from("=Q", answer)[0]
    return pages


def is_mount_root(directory: int, name: bytes) -> bool:
    """Tell whether something is mounted at a name (False where the kernel cannot say)."""
    if _statx is None:
        return False
    answer = getattr(_kept, "answer", None)
    if answer is None:
        answer = _kept.answer = ctypes.create_string_buffer(_STATX_BYTES)
    flags = _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT
    if _statx(directory, name, flags, _STATX_MASK_NONE, answer):
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
    watch: int = _add_watch(descriptor, path, mask)
    if watch < 0:
        raise _failure(path)
    return watch


def inotify_remove(descriptor: int, watch: int) -> None:
    """Stop a watch; no error if the kernel has dropped it already."""
    _libc.inotify_rm_watch(ctypes.c_int(descriptor), ctypes.c_int(watch))


def resident_bytes() -> int:
    """Count the memory of this process; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def give_memory_back() -> None:
    """Let malloc return what is free (glibc alone; elsewhere nothing happens)."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


def share_arenas(count: int) -> None:
    """Let all threads share so many arenas of malloc (glibc alone; elsewhere nothing happens)."""
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, count)
