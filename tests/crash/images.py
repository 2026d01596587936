"""Keep a small ext4 file system in a file, and cut the power under it.

Copying the file of a mounted image gives what a power cut at that instant leaves: nothing that
was not written through is in it. The copy is compared with the image afterwards and made again
until both are equal, so that it is of one instant. Root alone can mount.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

IMAGE_BYTES: Final = 48 << 20
_TRIES = 200
_UNMOUNT_LIMIT_S = 10.0


def why_not() -> str:
    """Say why images cannot be mounted here; empty where they can."""
    if os.geteuid() != 0:
        return "only root may mount an image"
    for tool in ("mkfs.ext4", "mount", "umount", "cmp"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices"
    return ""


class Image:
    """An ext4 file system in a file, mounted at `at` from beginning to end."""

    def __init__(self, at: Path, file: Path, size_bytes: int = IMAGE_BYTES) -> None:
        """Make and mount it."""
        self.at = at
        self._file = file
        self._cuts = 0
        with file.open("wb") as made:
            made.truncate(size_bytes)
        options = ["-q", "-F", "-m", "0", "-J", "size=4", "-E", "lazy_itable_init=0"]
        _run("mkfs.ext4", *options, str(file))
        at.mkdir(parents=True, exist_ok=True)
        self.mount()
        (at / "lost+found").rmdir()

    def mount(self) -> None:
        """Mount it where it belongs."""
        # The journal is committed by those who ask for it, and by nobody else.
        _run("mount", "-o", "loop,commit=600", str(self._file), str(self.at))

    def copy(self) -> Path:
        """Take what is on the disk at this instant."""
        self._cuts += 1
        taken = self._file.with_name(f"{self._file.name}.{self._cuts}")
        for _ in range(_TRIES):
            _run("cp", "--sparse=always", str(self._file), str(taken))
            if subprocess.run(["cmp", "-s", self._file, taken], check=False).returncode == 0:
                return taken
        raise AssertionError("the disk never rests")

    def become(self, taken: Path) -> None:
        """Go on with a copy, as after a power cut; whoever used the image has ended."""
        self.unmount()
        self._file.unlink()
        self._file = taken
        self.mount()

    def unmount(self) -> None:
        """Unmount, once the last of those that were killed has let go."""
        if not self.at.is_mount():
            return
        deadline_s = time.monotonic() + _UNMOUNT_LIMIT_S
        while subprocess.run(["umount", self.at], check=False, capture_output=True).returncode:
            if time.monotonic() > deadline_s:
                _run("umount", "--lazy", str(self.at))
                return
            time.sleep(0.01)  # the kernel tells nobody when a mount is no longer busy


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stderr)
