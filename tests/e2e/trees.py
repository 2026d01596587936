"""Read a shared folder as its user sees it, and make material to share."""

from __future__ import annotations

import os
import random
import shutil
import stat
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from store.ids import blob_hash


class Found(NamedTuple):
    """What stands at one path: kind, the owner's executable bit, mtime, content or target."""

    kind: str
    is_executable: bool = False
    mtime_ns: int = 0
    value: bytes = b""


Tree = dict[str, Found]


class Standing(NamedTuple):
    """What changes when a file is written or replaced, even by the same bytes."""

    inode: int
    ctime_ns: int


def read_tree(root: Path, *, with_times: bool = True) -> Tree:
    """Read everything in a folder but what is ours. Directories have no times of their own."""
    found: Tree = {}
    for path, status in _walk(root):
        name = os.fsdecode(os.path.relpath(path, os.fsencode(root)))
        mtime_ns = status.st_mtime_ns if with_times else 0
        if stat.S_ISLNK(status.st_mode):
            found[name] = Found("symlink", mtime_ns=mtime_ns, value=os.readlink(path))
        elif stat.S_ISDIR(status.st_mode):
            found[name] = Found("directory")
        elif stat.S_ISREG(status.st_mode):
            is_executable = bool(status.st_mode & stat.S_IXUSR)
            found[name] = Found("file", is_executable, mtime_ns, _hash(path))
        else:
            found[name] = Found("special")
    return found


def standing(root: Path) -> dict[str, Standing]:
    """Note inode and ctime of every file, to see later that nothing was written."""
    return {
        os.fsdecode(path): Standing(status.st_ino, status.st_ctime_ns)
        for path, status in _walk(root)
        if stat.S_ISREG(status.st_mode)
    }


def _walk(root: Path) -> list[tuple[bytes, os.stat_result]]:
    found = []
    waiting = [os.fsencode(root)]
    while waiting:
        directory = waiting.pop()
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            if name == b".dizzyd" and directory == os.fsencode(root):
                continue
            status = os.lstat(path)
            found.append((path, status))
            if stat.S_ISDIR(status.st_mode):
                waiting.append(path)
    return found


_hashes: dict[tuple[int, int, int, int, int], bytes] = {}


def _hash(path: bytes) -> bytes:
    """Hash a file, once for as long as the kernel says it is the same."""
    status = os.stat(path)
    key = (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
    if key not in _hashes:
        _hashes[key] = blob_hash(Path(os.fsdecode(path)).read_bytes())
    return _hashes[key]


def difference(left: Tree, right: Tree, limit: int = 12) -> str:
    """Say where two trees differ, for whoever reads the failure."""
    lines = [
        f"  {name!r}: {_shown(left.get(name))} | {_shown(right.get(name))}"
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    ]
    more = [f"  and {len(lines) - limit} more"] if len(lines) > limit else []
    return "\n".join(lines[:limit] + more)


def _shown(found: Found | None) -> str:
    if found is None:
        return "missing"
    value = found.value[:4].hex() if found.kind == "file" else repr(found.value)
    return f"{found.kind} {value} x={found.is_executable:d} {found.mtime_ns}"


def contents(root: Path) -> dict[str, bytes]:
    """Read all files of a small folder whole."""
    return {
        name: (root / name).read_bytes()
        for name, found in read_tree(root).items()
        if found.kind == "file"
    }


def write_files(root: Path, files: Mapping[str, bytes]) -> None:
    """Write small files, with the directories they lie in."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def fill(root: Path, count: int, *, seed: int, longest_bytes: int = 400) -> int:
    """Write many small files of different content, 100 in a directory; gives their bytes."""
    chance = random.Random(seed)
    total = 0
    for number in range(count):
        if number % 100 == 0:
            directory = root / f"d{number // 100:04}"
            directory.mkdir(parents=True, exist_ok=True)
        content = chance.randbytes(chance.randrange(16, longest_bytes))
        (directory / f"f{number:05}").write_bytes(content)
        total += len(content)
    return total


def noise(count: int, *, seed: int) -> bytes:
    """Make bytes that no compression makes smaller."""
    return random.Random(seed).randbytes(count)


def write_large(path: Path, count: int, *, seed: int) -> None:
    """Write a large file of noise in pieces of 16 MiB."""
    chance = random.Random(seed)
    with path.open("wb") as file:
        while count:
            piece = min(count, 16 << 20)
            file.write(chance.randbytes(piece))
            count -= piece


def copy_standard_library(to: Path, *, is_whole: bool) -> None:
    """Copy Python's standard library, or a good part of it, times and modes included."""
    source = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "dist-packages", "__pycache__", "test", "idlelib", "ensurepip"}
    parts = {"asyncio", "collections", "concurrent", "ctypes", "dbm", "email", "encodings", "html"}
    parts |= {"http", "importlib", "json", "logging", "multiprocessing", "re", "unittest", "xml"}

    def skipped(directory: str, names: list[str]) -> set[str]:
        if is_whole:
            return {"site-packages", "dist-packages"} & set(names)
        gone = {n for n in names if n in left_out or n.startswith("config-")}
        if Path(directory) == source:
            gone |= {n for n in names if (source / n).is_dir() and n not in parts}
        return gone

    shutil.copytree(source, to, symlinks=True, ignore=skipped)
