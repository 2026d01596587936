"""Steer the shim: count a node's system calls on its files, and fail or crash at one of them."""

from __future__ import annotations

import errno
import mmap
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

CRASH: Final = -1
SOURCE: Final = Path(__file__).with_name("shim.c")

# What a call may fail with; reads fail with EIO alone.
FAILURES: Final = {
    "o": (errno.EIO, errno.EACCES, errno.EMFILE),
    "w": (errno.ENOSPC, errno.EIO),
    "s": (errno.EIO, errno.ENOSPC),
    "t": (errno.EIO, errno.ENOSPC),
    "a": (errno.EIO, errno.EACCES),
    "u": (errno.EIO, errno.EACCES),
    "m": (errno.ENOSPC, errno.EIO, errno.EACCES),
    "l": (errno.ENOSPC, errno.EIO, errno.EACCES),
    "r": (errno.ENOSPC, errno.EIO, errno.EACCES),
    "p": (errno.EIO,),
}
_NUMBERS = struct.Struct("=IIIiIIII")
_HIT_BYTES = 480
_TRACE_BYTES = 3072
_SIZE = _NUMBERS.size + _HIT_BYTES + _TRACE_BYTES


def why_not() -> str:
    """Say why there is no shim here; empty where there is one."""
    return "" if shutil.which("cc") else "there is no C compiler (cc)"


def build(into: Path) -> Path:
    """Compile the shim."""
    made = into / "shim.so"
    options = ["-O1", "-Wall", "-shared", "-fPIC", "-std=gnu11", "-o", str(made), str(SOURCE)]
    subprocess.run(["cc", *options, "-ldl"], check=True, capture_output=True)
    return made


class Shim:
    """The shim in the processes of one node."""

    def __init__(self, library: Path, control: Path) -> None:
        """Map the control file; nothing is armed."""
        control.write_bytes(bytes(_SIZE))
        with control.open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), _SIZE)
        self.environment = {
            "LD_PRELOAD": str(library),
            "DIZZYD_SHIM": str(control),
        }

    def set_places(self, places: Sequence[Path]) -> None:
        """Say what is counted: files below these, in processes that start from now on."""
        self.environment["DIZZYD_SHIM_PLACES"] = ":".join(map(str, places))

    def arm(self, *, target: int = 0, action: int = 0, times: int = 1, pid: int = 0) -> None:
        """Count from now on; act at the call of number `target`, from 1, and so many times."""
        self._map[_NUMBERS.size :] = bytes(_SIZE - _NUMBERS.size)
        self._map[: _NUMBERS.size] = _NUMBERS.pack(0, 0, target, action, times, 0, pid, 0)
        self._map[:4] = struct.pack("=I", 1)

    def disarm(self) -> None:
        """Let everything pass."""
        self._map[:4] = bytes(4)

    @property
    def counted(self) -> int:
        """How many calls there were."""
        return int(_NUMBERS.unpack(self._map[: _NUMBERS.size])[1])

    @property
    def hits(self) -> int:
        """How many calls were acted at."""
        return int(_NUMBERS.unpack(self._map[: _NUMBERS.size])[5])

    @property
    def hit(self) -> str:
        """The last call that was acted at, and its path."""
        return self._text(_NUMBERS.size, _HIT_BYTES)

    @property
    def trace(self) -> str:
        """A letter for each call, as in FAILURES."""
        return self._text(_NUMBERS.size + _HIT_BYTES, _TRACE_BYTES)

    def _text(self, at: int, length: int) -> str:
        return self._map[at : at + length].partition(b"\0")[0].decode(errors="replace")
