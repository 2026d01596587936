"""Hand a node this machine: its clocks, its randomness, its folders and its addresses.

What a running node (daemon.app) and one that is stopped (daemon.offline) are both wired to. It
opens nothing by itself.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Sequence

from daemon import report, syscalls
from daemon.calling import Network
from daemon.config import Config, read_config
from daemon.core import Runner
from daemon.disk import Disk, RootLost
from daemon.fs import LinuxDisk
from daemon.healing import Machine
from daemon.home import Home, user_directory
from daemon.joining import Joining
from daemon.memory import Memory
from daemon.node import Node, World
from daemon.operations import NodeOperations
from daemon.service import running_unit
from daemon.sharing import Sharing
from daemon.watcher import watcher_for
from peers.address import Address, parse_all
from peers.addresses import own_addresses
from peers.interfaces import interface_addresses
from store.ids import FolderId


class SystemClock:
    """The clocks of this machine."""

    def now_ns(self) -> int:
        """Give the wall clock, in nanoseconds."""
        return time.time_ns()

    def monotonic_s(self) -> float:
        """Give a clock that never goes back."""
        return time.monotonic()


MACHINE = Machine(
    random_bytes=secrets.token_bytes,
    monotonic_s=time.monotonic,
    stamp=lambda: time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
)


def _default_umask() -> int:
    umask = os.umask(0o022)
    os.umask(umask)
    return umask


def open_disk(root: bytes, folder: FolderId, umask: int | None) -> Disk:
    """Hold a folder's files. Raises RootLost where the root is not that folder's."""
    disk = LinuxDisk.open(root, umask=_default_umask() if umask is None else umask)
    if disk.folder_id != folder:
        disk.close()
        raise RootLost(
            f"open {os.fsdecode(root)}",
            "it carries the mark of another folder",
            hint="bring the folder back, or `dizzyd leave` it",
        )
    return disk


def close_disk(disk: Disk) -> None:
    """Let go of a folder's files."""
    if isinstance(disk, LinuxDisk):
        disk.close()


def _prepare_disk(root: bytes, folder: FolderId) -> bytes:
    return LinuxDisk.prepare(root, folder).instance


def _find_marker(root: bytes) -> bytes | None:
    marker = LinuxDisk.find_marker(root)
    return None if marker is None else marker.folder_id


def load_config(home: Home) -> Config:
    """Read the configuration of a home. Raises ConfigError."""
    return read_config(home.config, state=home.state, user_home=user_directory(os.environ))


def make_world(core: Runner, pool: Runner, network: Network) -> World:
    """Give a node this machine."""
    return World(
        clock=SystemClock(),
        random_bytes=secrets.token_bytes,
        core=core,
        pool=pool,
        network=network,
        open_disk=open_disk,
        close_disk=close_disk,
        watch=watcher_for,
        rested=Memory(syscalls.resident_bytes, syscalls.give_memory_back).rested,
    )


def make_operations(
    node: Node,
    home: Home,
    reporter: report.Reporter,
    listening: Callable[[], Sequence[Address]],
) -> NodeOperations:
    """Give a node its operations."""

    def addresses() -> Sequence[Address]:
        announce = parse_all(node.config.node.announce)
        return own_addresses(listening(), announce, interface_addresses())

    unit = running_unit()
    sharing = Sharing(
        node,
        home,
        user_home=user_directory(os.environ),
        prepare_disk=_prepare_disk,
        find_marker=_find_marker,
        refusal=(lambda _: None) if unit is None else unit.refusal,
    )
    return NodeOperations(node, sharing, Joining(node, sharing, addresses), reporter)
