"""Ask this machine for the addresses of its network interfaces.

Only reads; nothing is watched (comparing two answers tells that the network changed) and no
netlink socket is opened, so that the daemon's sandbox need not allow one.
"""

from __future__ import annotations

import array
import fcntl
import ipaddress
import socket
import struct
from pathlib import Path
from typing import Final

_SIOCGIFCONF: Final = 0x8912
_REQUEST_BYTES: Final = 40  # struct ifreq on 64-bit Linux: 16 name + 24 union
_REQUESTS: Final = 256
_IF_INET6: Final = Path("/proc/net/if_inet6")
_UNUSABLE_FLAGS: Final = 0x08 | 0x20 | 0x40  # duplicate found, deprecated, tentative


def interface_addresses() -> list[str]:
    """List IPv4 and IPv6 addresses that are up, loopback and link-local ones too."""
    return _ipv4() + _ipv6()


def _ipv4() -> list[str]:
    answers = array.array("B", bytes(_REQUEST_BYTES * _REQUESTS))
    place, size = answers.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            told = fcntl.ioctl(asked.fileno(), _SIOCGIFCONF, struct.pack("iL", size, place))
        except OSError:  # a sandbox without IPv4
            return []
    used, _ = struct.unpack("iL", told)
    # 16 name, then a struct sockaddr_in: 2 family, 2 port, 4 address
    return [
        socket.inet_ntoa(answers[start + 20 : start + 24].tobytes())
        for start in range(0, used, _REQUEST_BYTES)
    ]


def _ipv6() -> list[str]:
    try:
        lines = _IF_INET6.read_text("ascii").splitlines()
    except OSError:  # a machine without IPv6
        return []
    found = []
    for line in lines:
        digits, _, _, _, flags, _ = line.split()
        if not int(flags, 16) & _UNUSABLE_FLAGS:
            found.append(str(ipaddress.IPv6Address(bytes.fromhex(digits))))
    return found
