"""Make what is to be shared, the same in every run, and tell when it is on the other side.

Seeing disturbs little: names are waited for one after the other, by a stat or a listing of the
one that is lacking, never by a walk.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from blake3 import blake3

from daemon import syscalls

_KIB: Final = 1 << 10
_MIB: Final = 1 << 20
_SEED: Final = 20_261_123
_IN_SEEN: Final = 0x8 | 0x40 | 0x80 | 0x100 | 0x200  # closed, moved from and to, made, removed
PATIENCE_S: Final = 180.0
_NOT_SHARED: Final = {".dizzyd", ".stfolder"}
_LOOK_S: Final = 0.003


class TooSlow(Exception):
    """What was waited for did not come."""


def noise(count: int) -> bytes:
    """Give bytes that cannot be compressed."""
    return random.Random(_SEED).randbytes(count)


def small_files(
    root: Path, count: int, *, longest_bytes: int = 16 * _KIB, directories: int = 200
) -> None:
    """Write `count` files of 1 KiB to `longest_bytes`, no two alike."""
    chance = random.Random(_SEED)
    pool = noise(_MIB)
    directories = max(1, min(directories, count // 10))
    for number in range(directories):
        (root / f"d{number:03}").mkdir(parents=True)
    for number in range(count):
        size = chance.randrange(_KIB, longest_bytes + 1)
        start = chance.randrange(len(pool) - size)
        with open(root / f"d{number % directories:03}" / f"f{number:06}", "wb") as file:
            file.write(number.to_bytes(8, "big") + pool[start : start + size - 8])


def flat_files(root: Path, count: int) -> None:
    """Write `count` files of 1 KiB into one directory."""
    pool = noise(_MIB)
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        start = number * 997 % (len(pool) - _KIB)
        (root / f"b{number:05}").write_bytes(number.to_bytes(8, "big") + pool[start : start + 1016])


def source_tree(root: Path) -> None:
    """Copy Python's standard library."""
    ignored = shutil.ignore_patterns("site-packages", "dist-packages")
    shutil.copytree(sysconfig.get_paths()["stdlib"], root, symlinks=True, ignore=ignored)


def large_file(path: Path, size_mib: int) -> None:
    """Write a file in which no two blocks are alike."""
    pool = noise(_MIB)
    with path.open("wb") as file:
        for number in range(size_mib):
            file.write(number.to_bytes(8, "big"))
            file.write(pool[8:])


def with_byte_before(path: Path, like: Path) -> None:
    """Copy a file with one byte more at its start."""
    with path.open("wb") as file, like.open("rb") as source:
        file.write(b"+")
        shutil.copyfileobj(source, file, _MIB)


def digest(root: Path) -> dict[str, str]:
    """Say what a tree holds: the kind of each path, and its content."""
    found: dict[str, str] = {}
    for directory, names, files in os.walk(root):
        if Path(directory) == root:
            names[:] = [name for name in names if name not in _NOT_SHARED]
        for name in names:
            found[os.path.relpath(os.path.join(directory, name), root)] = "directory"
        for name in files:
            path = Path(directory, name)
            told = str(path.readlink()) if path.is_symlink() else _hash(path)
            found[os.path.relpath(path, root)] = told
    return found


def _hash(path: Path) -> str:
    if path.stat().st_size > 64 * _MIB:
        return blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()
    return blake3(path.read_bytes()).hexdigest()


def wait_until(is_there: Callable[[], bool], what: str, look_s: float = _LOOK_S) -> None:
    """Ask again and again, a few milliseconds apart. Raises TooSlow.

    A measured program tells nobody when it is done, and what would watch its files takes part.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_there():
        if time.monotonic() > deadline_s:
            raise TooSlow(what)
        time.sleep(look_s)


def wait_for_each(checks: Sequence[Callable[[], bool]], what: str) -> None:
    """Wait for one thing after the other: each look is at the first that is lacking."""
    for check in checks:
        wait_until(check, what)


def listings(there: Path, like: Path) -> list[Callable[[], bool]]:
    """Give a check for each directory of a tree: it holds as many names as in `like`."""
    checks: list[Callable[[], bool]] = []
    for directory, names, files in os.walk(like):
        target, count = there / os.path.relpath(directory, like), len(names) + len(files)
        checks.append(partial(_holds_names, target, count))
    return checks


def _holds_names(directory: Path, count: int) -> bool:
    return _count(directory) >= count


def _count(directory: Path) -> int:
    try:
        return len(os.listdir(directory))
    except FileNotFoundError:
        return -1


class Watch:
    """Sees names change in one directory without asking."""

    def __init__(self, descriptor: int) -> None:
        """Use an inotify instance."""
        self._descriptor = descriptor

    def wait_until(self, is_there: Callable[[], bool], what: str) -> None:
        """Look once for each time that something happened there. Raises TooSlow."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not is_there():
            if time.monotonic() > deadline_s:
                raise TooSlow(what)
            if select.select([self._descriptor], [], [], 1.0)[0]:
                os.read(self._descriptor, 64 * _KIB)


@contextmanager
def watching(directory: Path) -> Iterator[Watch]:
    """Watch one directory, not what is below."""
    descriptor = syscalls.inotify_init()
    try:
        syscalls.inotify_add(descriptor, os.fsencode(directory), _IN_SEEN)
        yield Watch(descriptor)
    finally:
        os.close(descriptor)


def holds(path: Path, content: bytes) -> bool:
    """Tell whether a small file is there with this content."""
    try:
        return path.read_bytes() == content
    except FileNotFoundError:
        return False
