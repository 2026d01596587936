"""Read large files beside the looks, so that no small save waits until gigabytes are hashed.

A look hands over what takes long and goes on; once it is read, the path is looked at again and
the result taken, if the file is still the one that was read. Nothing is recorded here, and what
may belong to a move is not handed over: it is judged together with what went.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from daemon.comparing import read_many
from daemon.disk import Looked, LookFailure
from peers.cancelling import TaskGroup

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.comparing import File
    from daemon.core import Runner
    from daemon.disk import Disk

LARGE_BYTES = 16 << 20  # read in 10 ms: what a save may wait for
_AT_ONCE = 2  # of the pool's threads; reading more at once is no quicker
_KEPT_LIMIT = 64  # results that nobody took: their files went meanwhile


class Beside(Protocol):
    """What a scan asks about large files."""

    def take(self, file: File) -> Looked | LookFailure | None:
        """Give what reading it came to; None if it was not read yet."""

    def put(self, file: File, *, is_doubtful: bool) -> None:
        """Have it read; ask before whether somebody is writing to it, if that is doubtful."""


class LargeReads:
    """The large files of one folder that are being read. Owned by the loop."""

    def __init__(self, pool: Runner, on_read: Callable[[bytes], None]) -> None:
        """Read in `pool`; `on_read` gets each path once its result can be taken."""
        self._pool = pool
        self._on_read = on_read
        self._read: dict[bytes, Looked | LookFailure] = {}
        self._waiting: dict[bytes, tuple[File, bool]] = {}
        self._reading: set[bytes] = set()
        self._came = asyncio.Event()

    @property
    def is_reading(self) -> bool:
        """Whether something is read, or waits for it."""
        return bool(self._waiting or self._reading)

    def take(self, file: File) -> Looked | LookFailure | None:
        """As Beside.take; a result is given once."""
        look = self._read.pop(file.path, None)
        if isinstance(look, Looked) and look.stat != file.stat:
            return LookFailure.CHANGING  # so that it is not read again and again without a pause
        return look

    def put(self, file: File, *, is_doubtful: bool) -> None:
        """As Beside.put; of what is being read already the end is awaited first."""
        self._waiting[file.path] = (file, is_doubtful)
        self._came.set()

    async def run(self, disk: Disk) -> None:
        """Read what is handed over, until cancelled. What was under way before is forgotten."""
        self._waiting.clear()
        self._reading.clear()
        self._read.clear()
        async with TaskGroup() as tasks:
            for _ in range(_AT_ONCE):
                tasks.create_task(self._work(disk))

    async def _work(self, disk: Disk) -> None:
        while True:
            path = next((path for path in self._waiting if path not in self._reading), None)
            if path is None:
                self._came.clear()
                await self._came.wait()
                continue
            file, is_doubtful = self._waiting.pop(path)
            self._reading.add(path)
            try:
                [look] = await self._pool.run(read_many, disk, [file], [is_doubtful])
            finally:
                self._reading.discard(path)
                self._came.set()
            again = self._waiting.get(path)
            if again is not None and isinstance(look, Looked) and look.stat == again[0].stat:
                del self._waiting[path]  # it changed before the read, not after it
            self._read[path] = look
            while len(self._read) > _KEPT_LIMIT:
                del self._read[next(iter(self._read))]
            self._on_read(path)
