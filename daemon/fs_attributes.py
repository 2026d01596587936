"""Give files of ours the mode, owner, group, times and extended attributes that they are to have.

What travels is the executable bit and the modification time; the rest is of this disk. What is not
permitted is left as it is, and never opens a file to more people than could read it before.
"""

from __future__ import annotations

import os
import stat as modes
import time
from contextlib import suppress

from daemon.fs_below import clamped

SHARED_BITS = 0o777  # setuid, setgid and sticky never come from a peer
_READ_BITS = 0o444
_EXECUTE_BITS = 0o111
# Capabilities are a setuid bit by another name; the others are digests of the old content.
_NEVER_COPIED = ("security.capability", "security.ima", "security.evm")


def executable_mode(mode: int, *, is_executable: bool) -> int:
    """Give a mode the shared executable bit, where it is readable; special bits are masked."""
    mode &= SHARED_BITS
    if bool(mode & 0o100) == is_executable:
        return mode
    if not is_executable:
        return mode & ~_EXECUTE_BITS
    return mode | (mode & _READ_BITS) >> 2 | 0o100


def set_times(target: int | bytes, mtime_ns: int) -> None:
    """Set the modification time; the kernel clamps it to what the file system can hold."""
    os.utime(target, ns=(time.time_ns(), clamped(mtime_ns)))


def group_given(directory: int) -> int | None:
    """Give the group that a directory gives to what is made in it, if it does (setgid)."""
    found = os.fstat(directory)
    return found.st_gid if found.st_mode & modes.S_ISGID else None


def take_group(mine: int, group: int) -> None:
    """Do what creating it in a directory with setgid would have done."""
    found = os.fstat(mine)
    if found.st_gid == group:
        return
    with suppress(PermissionError):
        os.fchown(mine, -1, group)
        os.fchmod(mine, found.st_mode & SHARED_BITS)


def take_owner(mine: int, found: os.stat_result, mode: int) -> int:
    """Take owner and group where permitted; gives the mode that is then safe to set.

    Without the group, its bits would open the file to another group: it gets what others have.
    """
    have = os.fstat(mine)
    if (have.st_uid, have.st_gid) == (found.st_uid, found.st_gid):
        return mode
    try:
        os.fchown(mine, found.st_uid, found.st_gid)
    except OSError:
        try:
            os.fchown(mine, -1, found.st_gid)
        except OSError:
            others = mode & 0o007
            return (mode & 0o707) | (mode & 0o070 & others << 3)
    return mode


def copy_extended(source: bytes, mine: int) -> None:
    """Copy ACL and extended attributes where permitted, but those of the content itself."""
    try:
        names = os.listxattr(source)
    except OSError:
        return
    for name in names:
        if name not in _NEVER_COPIED:
            with suppress(OSError):
                os.setxattr(mine, name, os.getxattr(source, name))
