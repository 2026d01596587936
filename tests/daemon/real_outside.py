# paths are bytes here
"""Act on a real directory as a user's programs do, beside a LinuxDisk."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Protocol

from daemon import syscalls
from daemon.fs import LinuxDisk

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.fs_abilities import Abilities


class OpenFile(Protocol):
    """A file that a program keeps open for writing."""

    def write(self, content: bytes, *, offset: int = 0) -> None: ...

    def close(self) -> None: ...


class OutsideWriter(Protocol):
    """What the contract suite needs a user to be able to do; paths as in daemon.disk."""

    def read(self, path: bytes) -> bytes: ...

    def exists(self, path: bytes) -> bool: ...

    def write(self, path: bytes, content: bytes) -> None: ...

    def append(self, path: bytes, more: bytes) -> None: ...

    def open(self, path: bytes) -> OpenFile: ...

    def rename(self, source: bytes, target: bytes) -> None: ...

    def unlink(self, path: bytes) -> None: ...

    def hard_link(self, source: bytes, target: bytes) -> None: ...

    def symlink(self, target: bytes, path: bytes) -> None: ...

    def device(self, path: bytes) -> None: ...

    def mkdir(self, path: bytes) -> None: ...

    def rmdir(self, path: bytes) -> None: ...

    def chmod(self, path: bytes, mode: int) -> None: ...

    def utime(self, path: bytes, mtime_ns: int) -> None: ...


class RealFile:
    """An open descriptor."""

    def __init__(self, descriptor: int) -> None:
        """Own it."""
        self._descriptor = descriptor

    def write(self, content: bytes, *, offset: int = 0) -> None:
        os.pwrite(self._descriptor, content, offset)

    def close(self) -> None:
        os.close(self._descriptor)


class RealOutside:
    """A user of a real directory."""

    def __init__(self, root: bytes) -> None:
        """Act below `root`."""
        self.root = root

    def at(self, path: bytes) -> bytes:
        return self.root + b"/" + path

    def read(self, path: bytes) -> bytes:
        descriptor = os.open(self.at(path), os.O_RDONLY)
        with os.fdopen(descriptor, "rb") as file:
            return file.read()

    def exists(self, path: bytes) -> bool:
        return os.path.lexists(self.at(path))

    def write(self, path: bytes, content: bytes) -> None:
        descriptor = os.open(self.at(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)

    def append(self, path: bytes, more: bytes) -> None:
        descriptor = os.open(self.at(path), os.O_WRONLY | os.O_APPEND)
        with os.fdopen(descriptor, "wb") as file:
            file.write(more)

    def open(self, path: bytes) -> RealFile:
        return RealFile(os.open(self.at(path), os.O_WRONLY | os.O_CREAT, 0o644))

    def rename(self, source: bytes, target: bytes) -> None:
        os.rename(self.at(source), self.at(target))

    def exchange(self, one: bytes, other: bytes) -> None:
        here = os.open(self.root, os.O_PATH)
        syscalls.renameat2(here, one, here, other, syscalls.RENAME_EXCHANGE)
        os.close(here)

    def unlink(self, path: bytes) -> None:
        os.unlink(self.at(path))

    def hard_link(self, source: bytes, target: bytes) -> None:
        os.link(self.at(source), self.at(target))

    def symlink(self, target: bytes, path: bytes) -> None:
        os.symlink(target, self.at(path))

    def device(self, path: bytes) -> None:
        os.mkfifo(self.at(path))

    def mkdir(self, path: bytes) -> None:
        os.mkdir(self.at(path), 0o755)

    def rmdir(self, path: bytes) -> None:
        os.rmdir(self.at(path))

    def remove_tree(self, path: bytes) -> None:
        shutil.rmtree(self.at(path))

    def chmod(self, path: bytes, mode: int) -> None:
        os.chmod(self.at(path), mode)

    def utime(self, path: bytes, mtime_ns: int) -> None:
        os.utime(self.at(path), ns=(mtime_ns, mtime_ns))


FOLDER_ID = b"f" * 32


def make_linux_disk(
    place: Path, abilities: Abilities | None = None, *, umask: int = 0o022
) -> tuple[LinuxDisk, RealOutside]:
    """Prepare and open a new folder below `place`."""
    root = os.fsencode(place / "folder")
    os.mkdir(root, 0o755)
    LinuxDisk.prepare(root, FOLDER_ID)
    return LinuxDisk.open(root, umask=umask, abilities=abilities), RealOutside(root)
