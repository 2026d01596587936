"""See that no content is believed that does not hash to its name, whoever has it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daemon import fs_root
from daemon.contents import _read_all
from daemon.fs import LinuxDisk
from daemon.places import Place
from peers.large import Filling
from store.ids import blob_hash
from store.records import BlobRef

RIGHT, WRONG = b"as it was", b"as it is!"
REF = BlobRef(hash=blob_hash(RIGHT), size=len(RIGHT))


class Memory:
    """A sink in memory."""

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)

    def write(self, offset: int, *pieces: bytes | bytearray | memoryview) -> None:
        chunk = b"".join(pieces)
        self.content[offset : offset + len(chunk)] = chunk

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])

    def size(self) -> int:
        return len(self.content)

    def hash(self) -> bytes:
        return blob_hash(bytes(self.content))


def test_G8_a_local_content_that_rotted_is_not_served(tmp_path: Path) -> None:
    fs_root.prepare(os.fsencode(tmp_path), b"f" * 32)
    disk = LinuxDisk.open(os.fsencode(tmp_path), umask=0o022)
    (tmp_path / "rotten").write_bytes(WRONG)
    (tmp_path / "good").write_bytes(RIGHT)
    rotten, good = (Place(name, disk.stat(name)) for name in (b"rotten", b"good"))

    assert _read_all(disk, [REF], {REF.hash: [rotten]}) == {}
    assert _read_all(disk, [REF], {REF.hash: [rotten, good]}) == {REF.hash: RIGHT}
    disk.close()


@pytest.mark.parametrize("content", [WRONG, RIGHT])
def test_A16_what_was_here_already_counts_in_the_last_hash(content: bytes) -> None:
    filling = Filling(REF, Memory(content))  # type: ignore[arg-type]  # hashes are plain bytes

    assert filling.is_right() is (content == RIGHT)


@pytest.mark.parametrize("content", [WRONG, RIGHT])
def test_A16_what_came_is_hashed_as_it_comes(content: bytes) -> None:
    filling = Filling(REF, Memory(b""))  # type: ignore[arg-type]

    ranges = [(0, [content[:4], content[4:]])]
    assert filling.may_hash(ranges)
    filling.write_all(ranges, is_hashing=True)
    filling.wrote(ranges, is_hashed=True)

    assert filling.is_right() is (content == RIGHT)
