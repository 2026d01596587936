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
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from blake3 import blake3

from daemon import syscalls
from daemon.differences import RACY_MARGIN_NS
from daemon.disk import FileKind, Looked, LookFailure
from daemon.fs_below import PATH_ONLY, PRIVATE, is_reachable, kind_of, stat_of
from peers.chunks import Cutter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from daemon.disk import Stat
    from daemon.fs_below import Tree
    from peers.wire import ChunkLine

SMALL_BYTES = 1 << 20  # one kept buffer of this size for each thread
_BIG_BYTES = 8 << 20  # threads of blake3 only pay from here on
_LISTED_LIMIT_BYTES = 64 << 30  # 256,000 chunks: a list is held in memory
_SLICE_BYTES = 16 << 20  # written out at once: a small save's sync waits behind two of them
_CHECK_EVERY_BYTES = 64 << 20  # a file that grows for minutes is given up early
_HELD_DIRECTORIES = 32
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_NO_NAMES = (b"", b".", b"..")
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

NoteChunks = Callable[[bytes, "list[ChunkLine]"], None]
_Cut = Callable[[memoryview], "list[ChunkLine]"]

_kept = threading.local()


def kept_buffer() -> memoryview:
    """Give this thread's buffer of SMALL_BYTES; it is valid until the thread's next call."""
    buffer: memoryview | None = getattr(_kept, "buffer", None)
    if buffer is None:
        buffer = _kept.buffer = memoryview(bytearray(SMALL_BYTES))
    return buffer


def look_name(
    directory: int,
    name: bytes,
    tree: Tree | None,
    *,
    effective_user: int,
    note_chunks: NoteChunks | None = None,
) -> Looked | LookFailure:
    """Look at one name in one open directory; mounts are told apart where `tree` is given."""
    looked_at_ns = time.time_ns()
    try:
        before = os.stat(name, dir_fd=directory, follow_symlinks=False)
        kind = kind_of(before)
        if kind is FileKind.FILE:
            return _look_file(directory, name, before, effective_user, note_chunks)
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


def _wait_until_old(found: os.stat_result) -> int:
    """Wait until a file's time is old enough for one look to do; gives the time of the look.

    It was closed this instant, most likely: at most 20 ms are spent where else all of a large
    file would be read twice (see daemon.differences.is_racy).
    """
    now_ns = time.time_ns()
    young_ns = now_ns - found.st_mtime_ns
    if 0 <= young_ns < RACY_MARGIN_NS:
        time.sleep((RACY_MARGIN_NS - young_ns) / 1e9)  # in a thread of the pool
        now_ns = time.time_ns()
    return now_ns


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
    directory: int,
    name: bytes,
    before: os.stat_result,
    effective_user: int,
    note_chunks: NoteChunks | None,
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
            looked_at_ns = time.time_ns()
            buffer = kept_buffer()
            count = os.readv(opened, (buffer,))
            value = blake3(buffer[:count]).digest()
        else:
            looked_at_ns = _wait_until_old(before)
            count, value = _hash_big(opened, identity, note_chunks)
    finally:
        os.close(opened)
    after = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if count != size or _identity(after) != identity:
        return LookFailure.CHANGING
    return Looked(stat_of(before, FileKind.FILE), value, looked_at_ns)


def _hash_big(
    opened: int, identity: tuple[int, int, int, int, int], note_chunks: NoteChunks | None
) -> tuple[int, bytes]:
    """Hash as many bytes as the file had; stops early, with a short count, once it changed.

    It is cut into chunks by the way, each byte being read once.
    """
    size = identity[2]
    with suppress(OSError):
        os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    pieces = _pieces(opened, identity)
    if note_chunks is None or size > _LISTED_LIMIT_BYTES:
        hasher = _hasher(size)
        total = 0
        for piece in pieces:
            hasher.update(piece)
            total += len(piece)
        return total, hasher.digest()
    if size < _BIG_BYTES:
        total, value, lines = _hash_and_cut(pieces, _hasher(size), _run_now)
    else:
        # Beside it: cutting costs a little more than reading and hashing.
        with _being_written_out(opened, size), ThreadPoolExecutor(1, "cut") as beside:
            total, value, lines = _hash_and_cut(pieces, _hasher(size), beside.submit)
    if total == size:
        note_chunks(value, lines)
    return total, value


@contextmanager
def _being_written_out(opened: int, size: int) -> Iterator[None]:
    """Have a file written to the disk while the block reads it, and return when it is there.

    It has to be durable before anything is said of it (daemon.durable); so its sync finds little
    left. By slices, because all that goes to the disk in one go is waited for by whoever syncs
    something small meanwhile. Given up where the block fails.
    """
    is_over = threading.Event()
    with ThreadPoolExecutor(1, "write-out") as beside:
        writing = beside.submit(_write_out, opened, size, is_over)
        try:
            yield
        except BaseException:
            is_over.set()
            raise
        writing.result()


def _write_out(opened: int, size: int, is_over: threading.Event) -> None:
    for offset in range(0, size, _SLICE_BYTES):
        if is_over.is_set():
            return
        syscalls.write_out(opened, offset, _SLICE_BYTES, is_waiting=False)
        if offset:
            syscalls.write_out(opened, offset - _SLICE_BYTES, _SLICE_BYTES, is_waiting=True)


def _hasher(size: int) -> blake3:
    return blake3() if size < _BIG_BYTES else blake3(max_threads=blake3.AUTO)


def _pieces(opened: int, identity: tuple[int, int, int, int, int]) -> Iterator[memoryview]:
    """Read a file in order; a piece stays as it is until the next but one is asked for.

    It ends early where the file ends, or has changed.
    """
    size = identity[2]
    if size < _BIG_BYTES:
        buffers = [memoryview(bytearray(min(size, SMALL_BYTES))) for _ in range(2)]
    else:
        buffers = [memoryview(bytearray(_BIG_BYTES)) for _ in range(2)]
    total = 0
    check_at = _CHECK_EVERY_BYTES
    while total < size:
        buffers.reverse()
        buffer = buffers[0]
        count = os.readv(opened, (buffer[: min(len(buffer), size - total)],))
        if not count:
            return
        total += count
        if total >= check_at:
            check_at += _CHECK_EVERY_BYTES
            if _identity(os.fstat(opened)) != identity:
                return
        yield buffer[:count]


def _hash_and_cut(
    pieces: Iterator[memoryview],
    hasher: blake3,
    submit: Callable[[_Cut, memoryview], Future[list[ChunkLine]]],
) -> tuple[int, bytes, list[ChunkLine]]:
    cutter = Cutter()
    lines: list[ChunkLine] = []
    cutting: Future[list[ChunkLine]] | None = None
    total = 0
    for piece in pieces:
        if cutting is not None:
            lines += cutting.result()  # before its buffer is read into again
        cutting = submit(cutter.feed, piece)
        hasher.update(piece)
        total += len(piece)
    if cutting is not None:
        lines += cutting.result()
    return total, hasher.digest(), lines + cutter.finish()


def _run_now(cut: _Cut, piece: memoryview) -> Future[list[ChunkLine]]:
    done: Future[list[ChunkLine]] = Future()
    done.set_result(cut(piece))
    return done


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


def look_many(
    tree: Tree, paths: Sequence[bytes], note_chunks: NoteChunks | None = None
) -> list[Looked | LookFailure]:
    """Look at many paths, in order; a directory is opened once where its names stand together.

    `note_chunks` gets the hash and the chunks of each file of more than 1 MiB.
    """
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
            looked = look_name(
                directory, name, tree, effective_user=effective_user, note_chunks=note_chunks
            )
            add(looked)
            # After a long read a held directory may be somewhere else: find it again by its path.
            if isinstance(looked, Looked) and looked.stat.size > _BIG_BYTES:
                _close_all(held)
    finally:
        _close_all(held)
    return results


def standing(tree: Tree, placed: Mapping[bytes, Stat]) -> set[bytes]:
    """Name the paths that have inode, size and both times of these stats now."""
    by_directory: defaultdict[bytes, list[tuple[bytes, bytes, Stat]]] = defaultdict(list)
    for path, stat in placed.items():
        parent, _, name = path.rpartition(b"/")
        by_directory[parent].append((path, name, stat))
    same: set[bytes] = set()
    for parent, names in by_directory.items():
        directory = _open_parent(tree, names[0][0], parent)
        if isinstance(directory, LookFailure):
            continue
        try:
            for path, name, stat in names:
                with suppress(OSError):
                    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    if _has_stat(found, stat):
                        same.add(path)
        finally:
            os.close(directory)
    return same


def _has_stat(found: os.stat_result, stat: Stat) -> bool:
    return (
        found.st_ino == stat.inode
        and found.st_ctime_ns == stat.ctime_ns
        and found.st_mtime_ns == stat.mtime_ns
        and found.st_size == stat.size
    )


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
