"""Read and write `host:port`.

Pure and light, since the configuration and every command that takes an address read it: it
resolves no name and opens no socket.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from store.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

PORT: Final = 7499
_HIGHEST_PORT: Final = 65535
_HOST_LIMIT_BYTES: Final = 247  # with brackets and the longest port it stays within 255
_LABEL_LIMIT_BYTES: Final = 63  # between two dots (RFC 1035): no resolver is asked for another
_HOST_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-_")
_ZONE_LETTERS = _HOST_LETTERS | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ:@")


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A host (name, IPv4 or IPv6 without brackets) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        """Write it as it is pasted: `host:port`, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for every interface (`[::]`, `0.0.0.0`)."""
        return self.host in ("::", "0.0.0.0")  # noqa: S104 - read, not bound

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `host:port`; the port may be 0, which asks the system for a free one.

        Names are lowered and IP addresses brought to their usual form, so that equal addresses
        are equal. Raises UsageError that names the text.
        """
        host, separator, port = text.strip().rpartition(":")
        if not separator or not port.isascii() or not port.isdigit() or len(port) > len("65535"):
            raise _bad(text, "has no port")
        if int(port) > _HIGHEST_PORT:
            raise _bad(text, f"has a port above {_HIGHEST_PORT}")
        if host.startswith("[") and host.endswith("]"):
            return cls(_ipv6(text, host[1:-1]), int(port))
        if ":" in host:
            raise _bad(text, "has an IPv6 address without brackets")
        return cls(_host(text, host), int(port))


def _bad(text: str, why: str) -> UsageError:
    shown = text.encode("unicode_escape").decode("ascii")
    return UsageError(
        f"address {shown[:80]}", why, hint=f"write HOST:PORT or [IPV6]:PORT, e.g. nas.lan:{PORT}"
    )


def _ipv6(text: str, host: str) -> str:
    bare, percent, zone = host.partition("%")
    try:
        address = str(ipaddress.IPv6Address(bare))
    except ValueError as cause:
        raise _bad(text, "has no IPv6 address in its brackets") from cause
    if percent and not (zone and _ZONE_LETTERS.issuperset(zone) and len(zone) <= 15):  # noqa: PLR2004 - IFNAMSIZ less its NUL
        raise _bad(text, "has a strange zone after the %")
    return address + percent + zone


def _host(text: str, host: str) -> str:
    lowered = host.lower()
    if not lowered.strip("-._") or not _HOST_LETTERS.issuperset(lowered):
        raise _bad(text, "has no host name" if not lowered else "has a strange host name")
    if len(lowered) > _HOST_LIMIT_BYTES:
        raise _bad(text, "has a host name that is too long")
    if any(not 0 < len(label) <= _LABEL_LIMIT_BYTES for label in _labels(lowered)):
        raise _bad(text, "has a host name with an empty part, or one of more than 63 letters")
    if lowered.replace(".", "").isdigit():
        try:
            return str(ipaddress.IPv4Address(lowered))
        except ValueError as cause:
            raise _bad(text, "has no valid IPv4 address") from cause
    return lowered


def _labels(host: str) -> list[str]:
    return host.removesuffix(".").split(".")  # the last dot is the root's


def parse_all(texts: Iterable[str]) -> tuple[Address, ...]:
    """Read several addresses, each once, in their order. Raises UsageError."""
    return tuple(dict.fromkeys(map(Address.parse, texts)))
