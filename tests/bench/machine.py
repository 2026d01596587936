"""Measure what processes use, and give each run ground that nothing was deleted from.

Reads /proc and makes file systems; knows no dizzyd.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWNET: Final = 0x40000000
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
_MIB: Final = 1 << 20


def cpu_s(process_ids: Iterable[int]) -> float:
    """Sum the CPU seconds that processes used so far, ended children of theirs included."""
    ticks = 0
    for number in process_ids:
        after_name = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, after_name[11:15]))
    return ticks / _TICKS_A_SECOND


def resident_bytes(process_ids: Iterable[int]) -> int:
    """Sum the resident memory of processes."""
    total = 0
    for number in process_ids:
        for line in Path(f"/proc/{number}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1]) * 1024
    return total


def descendants(process_ids: Iterable[int]) -> list[int]:
    """List processes and all that they started."""
    started: dict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # ended meanwhile
            continue
        started[parent].append(int(stat.parent.name))
    found = list(process_ids)
    for number in found:
        found.extend(started[number])
    return found


def load() -> float:
    """Give the load average of the last minute."""
    return os.getloadavg()[0]


def go_first() -> None:
    """Let this process and its children run before other work of the machine, as root.

    A session is scheduled as one group, whose priority counts more than that of its members:
    run the benchmark by `setsid -w`, or the group is the whole terminal. Kernel threads (of the
    loop device, of write-out) stay where they are.
    """
    group = Path("/proc/self/autogroup")
    if group.exists():
        group.write_text("-15")
    os.nice(-15)


def enter_own_world() -> bool:
    """Give this process a loopback and mounts of its own, as root; tell whether that worked.

    Then every byte on loopback is one of ours, and mounts end with the process.
    """
    if os.geteuid() != 0:
        return False
    if ctypes.CDLL(None).unshare(_CLONE_NEWNS | _CLONE_NEWNET):
        return False
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    with socket.socket() as asking:
        fcntl.ioctl(asking, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))
    return True


def loopback_bytes() -> int:
    """Count what went over loopback since it exists, TCP and IP included."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == "lo":
            return int(figures.split()[0])
    return 0


def free_port() -> int:
    """Find a port on loopback that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as asked:
        port: int = asked.getsockname()[1]
        return port


@contextmanager
def fresh_ground(base: Path | None, *, is_image: bool, size_mib: int) -> Iterator[Path]:
    """Give an empty directory: a new ext4 of its own, or one on the file system that is there.

    ext4 avoids inodes that were freed a moment ago, which makes creating files several times
    slower after a clean-up; so figures of two runs in one file system do not compare.
    """
    scratch = Path(tempfile.mkdtemp(prefix="dizzyd-bench-", dir=base))
    ground = scratch / "ground"
    ground.mkdir()
    try:
        if is_image:
            _mount_image(scratch / "image", ground, size_mib)
        yield ground
    finally:
        if is_image:
            subprocess.run(["umount", "--lazy", str(ground)], check=False)
        shutil.rmtree(scratch, ignore_errors=True)


def _mount_image(image: Path, ground: Path, size_mib: int) -> None:
    with image.open("wb") as file:
        file.truncate(size_mib * _MIB)
    lazy = "lazy_itable_init=0,lazy_journal_init=0"  # no kernel thread fills tables meanwhile
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", lazy, str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(ground)], check=True)
    _pass_cache_below(image)


def _pass_cache_below(image: Path) -> None:
    """Let the image reach the disk below by O_DIRECT, as far as its file system can.

    Else each page is cached and written twice, by one kernel thread, and the image's speed is
    that of the machine's free memory: no disk that anybody synchronises has a second cache below.
    """
    listing = ["losetup", "--noheadings", "--output", "NAME", "--associated", str(image)]
    device = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.strip()
    direct = ["losetup", "--direct-io=on", device]
    subprocess.run(direct, check=False, stderr=subprocess.DEVNULL)


def can_mount_images() -> bool:
    """Tell whether loop-mounted images work here."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        return False
    try:
        with fresh_ground(None, is_image=True, size_mib=16):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
