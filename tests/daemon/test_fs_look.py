"""Large files are written out while they are read, so that their sync finds little left."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from daemon import fs_look, syscalls
from daemon.disk import Looked, LookFailure
from tests.daemon.real_outside import make_linux_disk

if TYPE_CHECKING:
    import threading
    from pathlib import Path

    import pytest

MIB = 1 << 20
SLICE = 16 * MIB


def test_a_large_file_is_written_out_by_slices_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, outside = make_linux_disk(tmp_path)
    outside.write(b"large", os.urandom(MIB) * 40)
    outside.write(b"small", os.urandom(2 * MIB))
    calls: list[tuple[int, bool]] = []

    def write_out(_descriptor: int, offset: int, length: int, *, is_waiting: bool) -> None:
        assert length == SLICE
        calls.append((offset, is_waiting))

    monkeypatch.setattr(syscalls, "write_out", write_out)
    looks = disk.look([b"large", b"small"])
    disk.close()

    assert all(isinstance(look, Looked) for look in looks)
    # No more than two slices are ever on their way: what else is synced waits for no more.
    begun = [(SLICE * number, False) for number in range(3)]
    assert calls == [begun[0], begun[1], (0, True), begun[2], (SLICE, True)]


def test_writing_out_ends_with_a_look_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, outside = make_linux_disk(tmp_path)
    outside.write(b"large", os.urandom(MIB) * 40)
    was_told: list[bool] = []

    def write_out(_descriptor: int, _size: int, is_over: threading.Event) -> None:
        was_told.append(is_over.wait(10))

    def readv(_descriptor: int, _buffers: list[bytearray]) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fs_look, "_write_out", write_out)
    monkeypatch.setattr(os, "readv", readv)
    (failure,) = disk.look([b"large"])
    disk.close()

    assert failure is LookFailure.UNREADABLE
    assert was_told == [True]
