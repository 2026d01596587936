"""Mark a directory as a shared folder, find the mark again, and let one daemon hold it.

The mark is `.dizzyd/folder`: three lines of ASCII, at most 256 bytes.

    dizzyd 1
    folder   <64 hex digits: the folder's id>
    instance <32 hex digits: random, made with the mark>

The lock is a flock on that very file. Nothing here looks at the user's files.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from contextlib import suppress

from msgspec import Struct

from daemon.disk import DiskError, RootHeld, RootLost
from daemon.fs_below import PRIVATE, READABLE, disk_error, shown

MARKER = b"folder"
TMP = b"tmp"
HISTORY = b"history"
_GITIGNORE = b".gitignore"
_NEW_MARKER = b"folder.tmp"
_MARKER_LIMIT_BYTES = 256
_INSTANCE_BYTES = 16
_pattern = re.compile(rb"dizzyd 1\nfolder ([0-9a-f]{64})\ninstance ([0-9a-f]{32})\n").fullmatch
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Marker(Struct, frozen=True, gc=False):
    """What `.dizzyd/folder` says."""

    folder_id: bytes
    instance: bytes


def open_root(root: bytes) -> int:
    """Open the root directory. Raises RootLost."""
    try:
        return os.open(root, READABLE)
    except OSError as cause:
        raise RootLost(
            f"open {shown(root)}",
            cause.strerror or str(cause),
            errno=cause.errno or 0,
            hint="is its disk mounted?",
        ) from cause


def open_private(root: int, path: bytes) -> int:
    """Open `.dizzyd` below an open root. Raises RootLost."""
    try:
        return os.open(PRIVATE, READABLE, dir_fd=root)
    except OSError as cause:
        raise _lost(path, f".dizzyd: {cause.strerror}", cause.errno) from cause


def open_marker(private: int, path: bytes) -> tuple[int, Marker]:
    """Open and read the mark; the caller closes the descriptor. Raises RootLost."""
    try:
        held = os.open(MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=private)
    except OSError as cause:
        raise _lost(path, f".dizzyd/folder: {cause.strerror}", cause.errno) from cause
    try:
        matched = _pattern(os.pread(held, _MARKER_LIMIT_BYTES, 0))
    except OSError as cause:
        os.close(held)
        raise _lost(path, f".dizzyd/folder: {cause.strerror}", cause.errno) from cause
    if matched is None:
        os.close(held)
        raise _lost(path, ".dizzyd/folder is not a mark of dizzyd", errno.EINVAL)
    return held, Marker(bytes.fromhex(matched[1].decode()), bytes.fromhex(matched[2].decode()))


def find_marker(root: bytes) -> Marker | None:
    """Tell which folder a path was shared as, if any; the lock is neither needed nor taken."""
    try:
        top = open_root(root)
    except RootLost:
        return None
    try:
        private = open_private(top, root)
        try:
            held, marker = open_marker(private, root)
            os.close(held)
            return marker
        finally:
            os.close(private)
    except RootLost:
        return None
    finally:
        os.close(top)


def take_lock(held: int, path: bytes) -> None:
    """Lock an open mark for as long as the descriptor lives. Raises RootHeld."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as cause:
        raise RootHeld(
            f"hold {shown(path)}",
            "another dizzyd holds this path",
            errno=errno.EWOULDBLOCK,
            hint="stop that one, or `dizzyd leave` the folder there",
        ) from cause
    except OSError as cause:
        if cause.errno not in _NO_LOCKS:  # a file system without locks: nothing to hold
            raise disk_error("lock", path, cause) from cause


def is_current(private: int, held: int) -> bool:
    """Tell whether an open mark is still the one that stands there."""
    try:
        there = os.stat(MARKER, dir_fd=private, follow_symlinks=False)
    except OSError:
        return False
    return os.path.samestat(there, os.fstat(held))


def open_locked(private: int, path: bytes) -> tuple[int, Marker]:
    """Open the mark and lock it, whatever replaces it meanwhile. Raises RootLost, RootHeld."""
    while True:
        held, marker = open_marker(private, path)
        try:
            take_lock(held, path)
            if is_current(private, held):
                return held, marker
        except DiskError:
            os.close(held)
            raise
        os.close(held)


def prepare(root: bytes, folder_id: bytes) -> Marker:
    """Make `.dizzyd` with the mark of a folder; what is there already stays.

    A mark of another folder is replaced (its history stays). When this returns everything is
    durable. Raises RootLost, RootHeld (held by a daemon, be it this one), DiskError.
    """
    top = open_root(root)
    try:
        make_directory(top, PRIVATE)
        private = open_private(top, root)
        try:
            for name in (TMP, HISTORY):
                make_directory(private, name)
            _make_file(private, _GITIGNORE, b"*\n")
            marker = _mark(private, root, folder_id)
            os.fsync(private)
            os.fsync(top)
            return marker
        finally:
            os.close(private)
    except OSError as cause:
        raise disk_error("mark", root, cause) from cause
    finally:
        os.close(top)


def make_directory(parent: int, name: bytes) -> None:
    """Make a directory of ours, for its owner only, without a default ACL; it may exist."""
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return
    made = os.open(name, READABLE, dir_fd=parent)
    try:
        os.fchmod(made, 0o700)
        # Inherited from the tree it would give every staged file the rights of this directory.
        with suppress(OSError):
            os.removexattr(made, "system.posix_acl_default")
    finally:
        os.close(made)


def _mark(private: int, root: bytes, folder_id: bytes) -> Marker:
    held = -1
    try:
        with suppress(RootLost):
            held, marker = open_locked(private, root)
            if marker.folder_id == folder_id:
                return marker
        marker = Marker(folder_id, os.urandom(_INSTANCE_BYTES))
        text = f"dizzyd 1\nfolder {folder_id.hex()}\ninstance {marker.instance.hex()}\n"
        with suppress(FileNotFoundError):
            os.unlink(_NEW_MARKER, dir_fd=private)
        _make_file(private, _NEW_MARKER, text.encode())
        os.rename(_NEW_MARKER, MARKER, src_dir_fd=private, dst_dir_fd=private)
        return marker
    finally:
        if held >= 0:
            os.close(held)


def _make_file(directory: int, name: bytes, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        made = os.open(name, flags, 0o600, dir_fd=directory)
    except FileExistsError:
        return
    try:
        os.fchmod(made, 0o600)
        os.write(made, content)
        os.fsync(made)
    finally:
        os.close(made)


def _lost(path: bytes, why: str, number: int | None) -> RootLost:
    return RootLost(
        f"find the folder at {shown(path)}",
        why,
        errno=number or 0,
        hint="is its disk mounted? nothing is deleted because of this",
    )
