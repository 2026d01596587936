"""Be a user who writes, renames and deletes in a folder, and remembers every version written.

A file's content says whose it is, which file, which version and how long, so that any bytes found
anywhere are judged by themselves: a version that was written whole, or torn. Files belong to one
user each, so that nothing here is ever a conflict.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from store.ids import blob_hash

_PIECE_LIMIT_BYTES = 30_000
_LARGE_EACH = 40  # so many files, and one of them travels in chunks
_LARGE_BYTES = 1_100_000
_HEADER_FIELDS = 4


class Version(NamedTuple):
    """One content that one file of one user had."""

    user: str
    number: int
    version: int


@dataclass(slots=True)
class _File:
    """A file: `version` stands there, `latest` is the last that its user wrote."""

    number: int
    path: str
    version: int
    latest: int


def content_of(version: Version) -> bytes:
    """Make the bytes of a version, the same each time."""
    chance = random.Random("/".join(map(str, version)))
    size = chance.randrange(_PIECE_LIMIT_BYTES) if chance.random() < 0.7 else chance.randrange(200)
    if version.number % _LARGE_EACH == _LARGE_EACH - 1:
        size += _LARGE_BYTES
    header = b"%s %d %d %d\n" % (version.user.encode(), version.number, version.version, size)
    return header + chance.randbytes(size)


def version_in(content: bytes) -> Version | None:
    """Tell which version the bytes are; None where they are none that is whole."""
    fields = content.partition(b"\n")[0].split(b" ")
    if len(fields) != _HEADER_FIELDS or not all(field.isdigit() for field in fields[1:]):
        return None
    found = Version(fields[0].decode("ascii", "replace"), int(fields[1]), int(fields[2]))
    return found if content_of(found) == content else None


class User:
    """One person at one node. Whole saves (fsync, rename) for even files, in place for odd."""

    WEIGHTS: Final = {
        "create": 6, "edit": 16, "rename": 4, "delete": 2, "make": 1, "move": 2, "remove": 1,
    }  # fmt: skip

    def __init__(self, root: Path, name: str, seed: int, *, is_careful: bool = False) -> None:
        """`is_careful`: every save is whole, as an editor's."""
        self.root = root
        self.name = name
        self.is_careful = is_careful
        self.files: dict[int, _File] = {}
        self.directories: list[str] = []
        self.versions: dict[bytes, Version] = {}
        self.deleted: set[int] = set()
        self.acts = 0
        self._chance = random.Random(f"{name}/{seed}")
        self._numbers = iter(range(1 << 30))
        self._scratch = root.parent / f"scratch-{name}"

    def saves_whole(self, number: int) -> bool:
        """Whether a file's versions are put in place by a rename, after an fsync."""
        return self.is_careful or number % 2 == 0

    def expected(self) -> dict[str, Version]:
        """Give what stands where, of this user."""
        return {
            file.path: Version(self.name, file.number, file.version) for file in self.files.values()
        }

    def act(self, count: int = 1) -> None:
        """Do something, as people do."""
        for _ in range(count):
            verb = self._chance.choices(list(self.WEIGHTS), list(self.WEIGHTS.values()))[0]
            getattr(self, f"_{verb}")()
            self.acts += 1

    def one_of_each(self) -> None:
        """Do all that people do, once, whatever was done before."""
        for verb in ("create", "make", "create", "edit", "edit", "rename", "move", "delete"):
            getattr(self, f"_{verb}")()
        self.acts += 8

    def burst(self, count: int) -> None:
        """Bring many files at once."""
        for _ in range(count):
            self._create()
        self.acts += count

    def clear(self) -> None:
        """Delete most of it, one by one."""
        for file in list(self.files.values())[:-5]:
            (self.root / file.path).unlink()
            del self.files[file.number]
            self.deleted.add(file.number)

    def adopt(self) -> None:
        """Take for one's own what stands on the disk, after it lost what was not durable."""
        self.directories = []
        found: dict[int, _File] = {}
        for path, content in self._standing():
            version = version_in(content)
            number = version.number if version else self._numbered(path)
            known = self.files.get(number)
            latest = max(known.latest if known else 0, version.version if version else 0)
            found[number] = _File(number, path, version.version if version else latest, latest)
        self.files = found

    def _numbered(self, path: str) -> int:
        """Tell from its name which file is torn."""
        return int(path.rpartition("-")[2])

    def _standing(self) -> Iterator[tuple[str, bytes]]:
        for directory, directories, names in os.walk(self.root):
            if Path(directory) == self.root:
                directories[:] = [name for name in directories if name.startswith(self.name)]
            below = os.path.relpath(directory, self.root)
            self.directories += [os.path.normpath(os.path.join(below, d)) for d in directories]
            for name in names:
                if not name.startswith(self.name):
                    continue
                path = os.path.normpath(os.path.join(below, name))
                yield path, (self.root / path).read_bytes()

    # -- acts ----------------------------------------------------------------------------------

    def _directory(self) -> str:
        return self._chance.choice(["", *self.directories])

    def _place(self, number: int) -> str:
        return os.path.join(self._directory(), f"{self.name}-{self._chance.randrange(99)}-{number}")

    def _any(self) -> _File | None:
        return self._chance.choice(list(self.files.values())) if self.files else None

    def _create(self) -> None:
        number = next(self._numbers)
        file = _File(number, self._place(number), 0, 0)
        self.files[number] = file
        self._save(file)

    def _edit(self) -> None:
        file = self._any()
        if file is not None:
            self._save(file)

    def _save(self, file: _File) -> None:
        file.version = file.latest = file.latest + 1
        version = Version(self.name, file.number, file.version)
        content = content_of(version)
        self.versions[blob_hash(content)] = version
        path = self.root / file.path
        if not self.saves_whole(file.number):
            path.write_bytes(content)
            return
        self._scratch.mkdir(exist_ok=True)
        temporary = self._scratch / "saved"
        with temporary.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        temporary.rename(path)

    def _rename(self) -> None:
        file = self._any()
        if file is not None:
            target = self._place(file.number)
            (self.root / file.path).rename(self.root / target)
            file.path = target

    def _delete(self) -> None:
        file = self._any()
        if file is not None:
            (self.root / file.path).unlink()
            del self.files[file.number]
            self.deleted.add(file.number)

    def _make(self) -> None:
        if len(self.directories) < 12:
            path = os.path.join(self._directory(), f"{self.name}-d{next(self._numbers)}")
            (self.root / path).mkdir()
            self.directories.append(path)

    def _move(self) -> None:
        if not self.directories:
            return
        source = self._chance.choice(self.directories)
        parent = self._directory()
        if (parent + "/").startswith(source + "/"):
            return
        target = os.path.join(parent, f"{self.name}-d{next(self._numbers)}")
        (self.root / source).rename(self.root / target)
        self.directories = [self._moved(path, source, target) for path in self.directories]
        for file in self.files.values():
            file.path = self._moved(file.path, source, target)

    @staticmethod
    def _moved(path: str, source: str, target: str) -> str:
        if path != source and not path.startswith(source + "/"):
            return path
        return target + path[len(source) :]

    def _remove(self) -> None:
        if len(self.directories) < 4:
            return
        path = self._chance.choice(self.directories)
        below = path + "/"
        if sum(file.path.startswith(below) for file in self.files.values()) > 20:
            return
        shutil.rmtree(self.root / path)
        self.directories = [d for d in self.directories if d != path and not d.startswith(below)]
        for number in [n for n, file in self.files.items() if file.path.startswith(below)]:
            del self.files[number]
            self.deleted.add(number)
