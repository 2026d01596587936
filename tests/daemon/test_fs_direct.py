# paths are bytes here
"""Large contents are written past the page cache, byte for byte like any other."""

from __future__ import annotations

import errno
import fcntl
import itertools
import mmap
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon import syscalls
from daemon.disk import DiskError
from daemon.fs_direct import BLOCK_BYTES, DIRECT_FROM_BYTES, DirectWriter
from tests.daemon.real_outside import make_linux_disk

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        DirectWriter(descriptor).close()
    except OSError:
        pytest.skip("this file system has no writes past the cache")
    yield descriptor
    os.close(descriptor)


def written_past_cache(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Note (offset, length) of each write past the cache from here on."""
    noted: list[tuple[int, int]] = []
    really = os.pwrite

    def pwrite(descriptor: int, content: memoryview, offset: int) -> int:
        written = really(descriptor, content, offset)
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            noted.append((offset, written))
        return written

    monkeypatch.setattr(os, "pwrite", pwrite)
    return noted


@pytest.mark.parametrize("seed", range(8))
def test_ranges_in_any_order_from_several_threads_make_the_content(opened: int, seed: int) -> None:
    chance = random.Random(seed)
    content = chance.randbytes(12 * MIB + chance.randrange(5000))
    cuts = sorted({0, len(content), *(chance.randrange(len(content)) for _ in range(12))})
    cuts += [BLOCK_BYTES * chance.randrange(3000) for _ in range(4)]
    cuts = sorted({min(cut, len(content)) for cut in cuts})
    spans = list(itertools.pairwise(cuts))
    chance.shuffle(spans)
    writer = DirectWriter(opened)

    def write(span: tuple[int, int]) -> None:
        pieces = [content[at : min(at + 248 * 1024, span[1])] for at in range(*span, 248 * 1024)]
        writer.write(span[0], pieces)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(write, spans))
    writer.close()

    assert os.fstat(opened).st_size == len(content)
    assert os.pread(opened, len(content) + 1, 0) == content


def test_only_the_ends_of_a_range_go_through_the_cache(
    opened: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = written_past_cache(monkeypatch)
    writer = DirectWriter(opened)

    writer.write(100, [bytes(5 * MIB), b"1"])
    writer.write(9 * MIB + 1, [b"few", b"", b"bytes"])
    writer.close()

    assert noted == [(BLOCK_BYTES, 4 * MIB), (BLOCK_BYTES + 4 * MIB, MIB - BLOCK_BYTES)]


def test_a_file_system_that_refuses_in_the_end_gets_it_through_the_cache(
    opened: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, refused = os.pwrite, []

    def pwrite(descriptor: int, content: memoryview, offset: int) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(offset)
            raise OSError(errno.EINVAL, "no")
        return really(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    content = os.urandom(9 * MIB)
    writer = DirectWriter(opened)
    writer.write(0, [content])
    writer.close()

    assert os.pread(opened, len(content) + 1, 0) == content
    assert refused == [0]


def test_a_full_disk_is_an_error_past_the_cache_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, _ = make_linux_disk(tmp_path)

    def full(_descriptor: int, _content: memoryview, _offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    stage = disk.open_stage(b"download", DIRECT_FROM_BYTES)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskError) as raised:
        stage.write(0, bytes(MIB))
    monkeypatch.undo()
    stage.close()
    disk.close()

    assert raised.value.errno == errno.ENOSPC


def test_a_stage_for_a_large_content_is_written_past_the_cache_and_resumes(
    tmp_path: Path, opened: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    del opened  # only whether it can be
    disk, _ = make_linux_disk(tmp_path)
    noted = written_past_cache(monkeypatch)
    small, large = disk.open_stage(b"small", MIB), disk.open_stage(b"large", DIRECT_FROM_BYTES)
    small.write(0, bytes(MIB))
    assert noted == []
    large.write(0, b"1" * MIB, b"2" * MIB)
    assert noted == [(0, 2 * MIB)]
    large.close()

    again = disk.open_stage(b"large", DIRECT_FROM_BYTES)
    assert again.size() == 2 * MIB
    again.write(2 * MIB - 1, b"3" * MIB)
    assert again.read(MIB - 1, 2) == b"12"
    assert again.read(2 * MIB - 2, MIB + 5) == b"2" + b"3" * MIB
    disk.close()


@pytest.mark.parametrize("how", ["past the cache", "refused", "cut short", "kernel cannot say"])
def test_what_is_read_once_is_the_same_however_it_is_read(
    tmp_path: Path, opened: int, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    disk, _ = make_linux_disk(tmp_path)
    content = os.urandom(3 * MIB + 77)
    os.pwrite(opened, content, 0)
    os.fsync(opened)
    os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
    (tmp_path / "file").rename(Path(os.fsdecode(disk.root_path)) / "file")
    really, direct = os.preadv, []

    def preadv(descriptor: int, buffers: tuple[mmap.mmap], offset: int) -> int:
        direct.append(offset)
        if how == "refused":
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return really(descriptor, buffers, offset) - 5000 * (how == "cut short")

    def cached_pages(_descriptor: int, _offset: int, _length: int) -> int:
        if how == "kernel cannot say":
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        return 0

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(syscalls, "cached_pages", cached_pages)

    assert disk.read_once(b"file", 5, 2 * MIB, None) == content[5 : 5 + 2 * MIB]
    assert disk.read_once(b"file", MIB, 9 * MIB, None) == content[MIB:]
    assert disk.read_once(b"file", 5 * MIB, 2 * MIB, None) == b""
    assert bool(direct) == (how != "kernel cannot say")
    disk.close()


def test_what_is_cached_is_read_from_the_cache(
    tmp_path: Path, opened: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        assert syscalls.cached_pages(opened, 0, MIB) == 0
    except OSError:
        pytest.skip("this kernel does not say what is cached")
    disk, _ = make_linux_disk(tmp_path)
    content = os.urandom(2 * MIB)
    os.pwrite(opened, content, 0)
    (tmp_path / "file").rename(Path(os.fsdecode(disk.root_path)) / "file")
    monkeypatch.delattr(os, "preadv")

    assert disk.read_once(b"file", 0, 2 * MIB, None) == content
    disk.close()
