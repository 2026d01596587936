"""Make a node: its home, its key and its first config.toml.

Completes what is missing and replaces nothing; knows no folder and starts nothing.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from daemon.config import DEFAULT_PORT, split_address
from daemon.config_edit import write_new_config
from daemon.key_file import make_key, read_key
from store.errors import DizzyError
from store.signing import AgentKey

if TYPE_CHECKING:
    from daemon.home import Home
    from store.ids import AgentId

PORTS_TRIED = 100  # the units allow these, so keep systemd/*.service in step
_KEY_SEED_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeNode:
    """What was made; `is_new` is False where key and config were both there already."""

    agent: AgentId
    is_new: bool


def make_node(home: Home, *, name: str | None, listen: str | None) -> MadeNode:
    """Make what is missing of a node; the caller holds the home's lock.

    A config.toml or a key that is there stays as it is. `listen` None takes the default port or
    the next free one.
    """
    has_config, has_key = home.config.exists(), home.key.exists()
    if not has_key and home.database.exists():
        raise DizzyError(
            f"key {home.key}",
            "is missing, and the database beside it belongs to it",
            hint="bring the key back from a backup, or move the database away",
        )
    if not has_config:
        write_new_config(home.config, name=name, listen=listen or free_listen_address())
    if not has_key:
        make_key(home.key, AgentKey.generate(os.urandom(_KEY_SEED_BYTES)))
    return MadeNode(agent=read_key(home.key).agent, is_new=not (has_config and has_key))


def free_listen_address(port: int = DEFAULT_PORT) -> str:
    """Find the first free port for both families, from the default one on.

    Raises DizzyError where none of a hundred is free.
    """
    host = "[::]" if _has_ipv6() else "0.0.0.0"  # noqa: S104 - a peer must reach us
    for candidate in range(port, port + PORTS_TRIED):
        address = f"{host}:{candidate}"
        if _is_free(address):
            return address
    raise DizzyError(
        "listen",
        f"no port of {port} to {port + PORTS_TRIED - 1} is free",
        hint="give one with `dizzyd init --listen HOST:PORT`",
    )


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _is_free(address: str) -> bool:
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as cause:
        if cause.errno in {errno.EADDRINUSE, errno.EACCES}:
            return False
        raise DizzyError(f"listen {address}", cause.strerror or str(cause)) from cause
    return True
