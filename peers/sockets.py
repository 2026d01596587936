"""Bind listening sockets, and read the names of sockets.

Only listens; who calls is none of its business.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from peers.address import Address
from store.errors import DizzyError

if TYPE_CHECKING:
    from collections.abc import Sequence

_BACKLOG: Final = 256
_PORTS_TRIED: Final = 100
_HIGHEST_PORT: Final = 65535
_NO_IPV6: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class PortBusy(DizzyError):
    """A listen address cannot be had."""


def listen_on(addresses: Sequence[Address]) -> list[socket.socket]:
    """Listen on all addresses or none; `[::]` takes both families, a name all that it has.

    Raises PortBusy that names the address.
    """
    bound: list[socket.socket] = []
    try:
        for address in addresses:
            bound += _bind(address)
    except PortBusy:
        for opened in bound:
            opened.close()
        raise
    return bound


def first_free_port(first: int) -> int:
    """Find a port that can be listened on at every address, `first` or one soon after.

    Raises PortBusy after a hundred.
    """
    for port in range(first, min(first + _PORTS_TRIED, _HIGHEST_PORT + 1)):
        with suppress(PortBusy):
            for bound in _bind(Address("::", port)):
                bound.close()
            return port
    raise PortBusy(f"listen on a port from {first} on", f"the next {_PORTS_TRIED} are busy")


def address_of(name: tuple[Any, ...]) -> Address:
    """Read a socket's name; an IPv4 caller at an IPv6 socket is shown as IPv4."""
    host = str(name[0])
    return Address(host.removeprefix("::ffff:") if "." in host else host, int(name[1]))


def _bind(address: Address) -> list[socket.socket]:
    """Listen on one address, or on all that its name has. Raises PortBusy."""
    bound: list[socket.socket] = []
    try:
        for family, place in _places(address):
            bound.append(_listen(family, place, is_dual=address.host == "::"))
    except OSError as cause:
        for opened in bound:
            opened.close()
        if address.host == "::" and cause.errno in _NO_IPV6:
            return _bind(Address("0.0.0.0", address.port))  # noqa: S104 - asked for
        why = os.strerror(cause.errno).lower() if cause.errno else str(cause)
        raise PortBusy(
            f"listen on {address}",
            "the port is in use" if cause.errno == errno.EADDRINUSE else why,
            hint="stop what uses it, or set another address at `listen` in [node]",
        ) from cause
    return bound


def _places(address: Address) -> list[tuple[int, tuple[Any, ...]]]:
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return list(dict.fromkeys((family, place) for family, _, _, _, place in found))


def _listen(family: int, place: tuple[Any, ...], *, is_dual: bool) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.settimeout(0)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if is_dual else 1)
        listening.bind(place)
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
