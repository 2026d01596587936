"""Keep a directory whose files are known in two versions: what restore and repair work on.

Its contents say which file and version they are, so that what a crash leaves is judged by itself:
every file whole, as it was or as it is wanted, and no version gone from all nodes.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from tests.e2e.nodes import Node, eventually

NAME: Final = "album"
_FILES: Final = 120
_LARGE_BYTES: Final = 1_500_000
_TOLD: Final = "d0/f4"  # the file by which it is told that work has begun


def now() -> str:
    """Give the present moment; whatever is recorded from now on is later."""
    at_s = time.time()
    eventually("the clock goes on", lambda: time.time() > at_s + 0.005)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_s)) + f".{int(at_s % 1 * 1000):03d}Z"


class Album:
    """One album; `version` 1 and 2 differ in every way in which a restore has work to do."""

    def __init__(self, seed: str) -> None:
        """Think of its contents."""
        self.versions: dict[int, dict[str, bytes | str]] = {
            version: _made(seed, version) for version in (1, 2)
        }

    def write(self, at: Path, version: int) -> None:
        """Write a version instead of what is there, as its user; what it lacks is removed."""
        root, wanted = at / NAME, self.versions[version]
        for path in sorted(root.rglob("*"), reverse=True):
            name = str(path.relative_to(root))
            if path.is_dir() and not path.is_symlink():
                if not any(each.startswith(name + "/") for each in wanted):
                    path.rmdir()
            elif isinstance(wanted.get(name), str) or path.is_symlink() or name not in wanted:
                path.unlink()
        for name, content in wanted.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                path.symlink_to(content)
            else:
                path.write_bytes(content)

    def read(self, at: Path) -> dict[str, bytes | str]:
        """Read what stands there."""
        root = at / NAME
        return {
            str(path.relative_to(root)): os.readlink(path)
            if path.is_symlink()
            else path.read_bytes()
            for path in root.rglob("*")
            if path.is_symlink() or not path.is_dir()
        }

    def has_begun(self, at: Path, version: int) -> bool:
        """Whether one of the first files to come back has come."""
        try:
            return (at / NAME / _TOLD).read_bytes() == self.versions[version][_TOLD]
        except OSError:
            return False

    def judge(self, at: Path) -> None:
        """See that each name has what it had, or what is wanted, and none is lost."""
        found, first, second = self.read(at), self.versions[1], self.versions[2]
        for name, content in found.items():
            assert content in {first.get(name), second.get(name)}, f"torn or unknown: {name}"
        lost = [name for name in second if not os.path.lexists(at / NAME / name)]
        assert not lost, f"gone: {lost}"

    def judge_kept(self, nodes: Sequence[Node]) -> None:
        """See that every content of either version is to be had from the folders of the nodes."""
        kept = {
            path.read_bytes()
            for node in nodes
            for path in [*(node.folder / ".dizzyd/history").iterdir(), *node.folder.rglob("*")]
            if path.is_file() and not path.is_symlink()
        }
        for version in self.versions.values():
            for name, content in version.items():
                assert isinstance(content, str) or content in kept, f"nobody has {name} any more"

    def remove(self, at: Path) -> None:
        """Remove it, as its user."""
        shutil.rmtree(at / NAME)

    def rot(self, node: Node, chance: random.Random) -> None:
        """Change bytes of a stopped node's files as a bad disk does: nothing else tells of it."""
        files = [path for path in (node.folder / NAME).rglob("*") if _is_file(path)]
        with closing(sqlite3.connect(node.home / "database")) as db:
            for path in {node.folder / NAME / _TOLD, *chance.sample(files, len(files) // 2)}:
                before = path.stat()
                content = bytearray(path.read_bytes())
                content[chance.randrange(len(content))] ^= 1
                path.write_bytes(content)
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
                db.execute(
                    "UPDATE synced SET ctime_ns = ?, looked_at_ns = looked_at_ns + 3000000000"
                    " WHERE inode = ?",
                    (path.stat().st_ctime_ns, before.st_ino),
                )
            db.commit()


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _made(seed: str, version: int) -> dict[str, bytes | str]:
    chance = random.Random(f"{seed}/{version}")
    made: dict[str, bytes | str] = {}
    for number in range(_FILES):
        content = f"{seed} {number} {version} ".encode() + chance.randbytes(3000)
        if number == 0:
            content += chance.randbytes(_LARGE_BYTES)
        made[f"d{number % 4}/f{number}"] = content
    if version == 1:
        made |= {"gone": b"gone, and wanted " + seed.encode(), "link": "d0/f0"}
        made |= {"was a file": b"file " + seed.encode(), "was a tree/in": b"in " + seed.encode()}
        made["was a link"] = "d1"
    else:
        made |= {"link": _TOLD, "was a link": b"now a file " + seed.encode()}
        made["was a file"] = "elsewhere"
        made["was a tree"] = b"now a file " + seed.encode()
    return made
