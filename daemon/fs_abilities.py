"""Find out what kernel and file system can do, by trying each once in `.dizzyd/tmp`.

Nothing is concluded from version numbers or names of file systems: both have been wrong.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec import Struct

from daemon import syscalls
from daemon.disk import DiskError
from daemon.fs_below import PATH_ONLY
from daemon.fs_stage import MADE

if TYPE_CHECKING:
    from collections.abc import Callable

_ONE, _OTHER = MADE + b"probe-1", MADE + b"probe-2"
# A disk that is full or read-only now says nothing about what it could do otherwise.
_SAYS_NOTHING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE)


class Abilities(Struct, frozen=True, kw_only=True):
    """What kernel and file system can do; each has a slower way around it.

    `folds`: names that differ in case are one name.
    """

    openat2: bool = True
    tmpfile: bool = True
    noreplace: bool = True
    exchange: bool = True
    folds: bool = False


def find_abilities(root: int, tmp: int) -> Abilities:
    """Try everything in an open tmp. Raises DiskError if no file can be made there."""
    try:
        has_openat2 = _can(lambda: _open_below(root))
        has_tmpfile = _can(lambda: _link_anonymous(tmp))
        if not _can(lambda: _make_both(tmp)):
            raise DiskError("try", "nothing can be made in .dizzyd/tmp", errno=errno.EACCES)
        folds = _is_there(tmp, _ONE.upper())
        return Abilities(
            folds=folds,
            openat2=has_openat2,
            tmpfile=has_tmpfile,
            exchange=_can(lambda: _rename(tmp, syscalls.RENAME_EXCHANGE)),
            noreplace=_can(lambda: _rename_new(tmp)),
        )
    finally:
        for name in (_ONE, _OTHER):
            with suppress(OSError):
                os.unlink(name, dir_fd=tmp)


def _is_there(tmp: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=tmp, follow_symlinks=False)
    except OSError:
        return False
    return True


def _can(attempt: Callable[[], None]) -> bool:
    try:
        attempt()
    except OSError as cause:
        return cause.errno in _SAYS_NOTHING
    return True


def _open_below(root: int) -> None:
    os.close(syscalls.openat2(root, b".", PATH_ONLY, syscalls.RESOLVE_BENEATH))


def _link_anonymous(tmp: int) -> None:
    opened = os.open(b".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=tmp)
    try:
        source = b"/proc/self/fd/%d" % opened
        os.link(source, _ONE, dst_dir_fd=tmp, follow_symlinks=True)
    finally:
        os.close(opened)


def _make_both(tmp: int) -> None:
    for name in (_ONE, _OTHER):
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        os.close(os.open(name, flags, 0o600, dir_fd=tmp))


def _rename(tmp: int, flag: int) -> None:
    syscalls.renameat2(tmp, _ONE, tmp, _OTHER, flag)


def _rename_new(tmp: int) -> None:
    os.unlink(_OTHER, dir_fd=tmp)
    _rename(tmp, syscalls.RENAME_NOREPLACE)
