"""A node in a control group of 128 MiB: it imports, receives and sends, and is not killed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.nodes import Nodes, agree, sized, start_all
from tests.e2e.trees import contents, fill, noise

LIMIT_BYTES: Final = 128 << 20
FILES: Final = sized(3000, 20_000)
LARGE_BYTES: Final = sized(150_000_000, 1_000_000_000)
_ROOT: Final = Path("/sys/fs/cgroup")


class Group:
    """A control group with a limit of memory, of either version of the kernel's interface."""

    def __init__(self, name: str) -> None:
        """Make it. Raises OSError where that is not possible."""
        old = (_ROOT / "memory" / "memory.limit_in_bytes").exists()
        self._at = (_ROOT / "memory" if old else _ROOT) / name
        self._at.mkdir()
        limit, swap = (
            ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
            if old
            else ("memory.max", "memory.swap.max")
        )
        try:
            (self._at / limit).write_text(str(LIMIT_BYTES))
            with suppress(OSError):  # where there is no swap there is nothing to limit
                (self._at / swap).write_text(str(LIMIT_BYTES) if old else "0")
        except OSError:
            self._at.rmdir()
            raise
        self._events = self._at / ("memory.oom_control" if old else "memory.events")

    def take(self, pid: int) -> None:
        """Move a process with all its threads into it."""
        (self._at / "cgroup.procs").write_text(str(pid))

    @property
    def kills(self) -> int:
        """How often the kernel killed for memory in here."""
        told = dict(line.split() for line in self._events.read_text().splitlines())
        return int(told.get("oom_kill", "0"))

    def remove(self) -> None:
        """Remove it; the kernel lets go of it a moment after its last process."""
        for _ in range(100):
            with suppress(OSError):
                self._at.rmdir()
                return
            time.sleep(0.05)


@pytest.fixture
def group() -> Iterator[Group]:
    try:
        made = Group(f"dizzyd-test-{os.getpid()}")
    except OSError as reason:
        pytest.skip(f"no control group for memory: {reason}")
    yield made
    made.remove()


@pytest.mark.root
def test_H6_a_node_with_128_mib_imports_sends_and_receives(nodes: Nodes, group: Group) -> None:
    small, other = nodes.add("small"), nodes.add("other")
    start_all(small, other)
    assert small.process is not None
    group.take(small.process.pid)
    nodes.share(other)
    nodes.join(other, small)

    fill(small.folder, FILES, seed=1)
    agree(small, other, within_s=120)
    fill(other.folder / "theirs", FILES, seed=2)
    (other.folder / "large").write_bytes(noise(LARGE_BYTES, seed=3))
    agree(small, other, within_s=180)
    (small.folder / "larger").write_bytes(noise(LARGE_BYTES, seed=4))
    agree(small, other, within_s=180)

    assert small.process.poll() is None
    assert group.kills == 0
    assert contents(small.folder) == contents(other.folder)
    verified = small.dizzyd("verify")
    assert verified.code == 0, verified
    small.kill()  # before the group goes
