"""Replace one of our own small files whole, durably and privately.

Not for files of a shared folder: those go through daemon.disk.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from store.errors import DizzyError

if TYPE_CHECKING:
    from pathlib import Path


def replace_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Put `content` at `path`; when this returns it is durable.

    On any failure (a full disk, say) the old file is untouched and no temporary file stays.
    A symlink at `path` is followed, so that a config kept elsewhere stays there.
    """
    target = os.path.realpath(path)
    temporary = f"{target}.tmp-{os.getpid()}"
    try:
        _write_durably(temporary, content, mode)
        os.rename(temporary, target)  # noqa: PTH104 - target is a str on purpose
        _make_directory_durable(os.path.dirname(target))  # noqa: PTH120
    except OSError as cause:
        with suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise DizzyError(
            f"write {path}", cause.strerror or str(cause), hint="the old file is as it was"
        ) from cause


def _write_durably(temporary: str, content: bytes, mode: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(temporary)  # noqa: PTH108
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(temporary, flags, mode)
    try:
        os.fchmod(descriptor, mode)  # whatever the umask
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_directory_durable(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
