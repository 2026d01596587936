"""Say where an agent can be reached, signed so that anyone may pass it on.

Pure: it resolves no name and opens no socket. The addresses of this machine's interfaces come
in as arguments (peers.interfaces). An address is only a hint; who answers there is proven by
the connection.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from peers.address import PORT, Address, parse_all
from peers.wire import SignedAddresses
from store.errors import BadSignature, Malformed, UsageError
from store.ids import short
from store.signing import AgentKey, verify_signature

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "ADDRESSES_LIMIT",
    "PORT",
    "Address",
    "SignedAddresses",
    "is_cloned",
    "own_addresses",
    "parse_all",
    "sign",
    "supersedes",
    "verify",
]

ADDRESSES_LIMIT: Final = 16

_LOOPBACK = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
_DOMAIN = b"dizzyd/addresses/1"
_SIGN_DOMAIN = b"dizzyd/sign/addresses/1"


def own_addresses(
    listen: Sequence[Address], announce: Sequence[Address], interfaces: Iterable[str]
) -> tuple[Address, ...]:
    """Choose what to tell peers about where we can be reached, at most ADDRESSES_LIMIT.

    `announce` is told as written where it is given; else the listen addresses, loopback too. A
    wildcard stands for the interfaces' addresses of its kind (`[::]`: both kinds) without
    loopback and link-local ones; on a machine that has no other, for loopback. Port 0 reaches
    nobody and is left out.
    """
    ips = [ip for text in interfaces if (ip := _reachable(text)) is not None] or _LOOPBACK
    told: dict[Address, None] = {}
    for address in announce or listen:
        if not address.is_wildcard:
            told[address] = None
            continue
        for ip in ips:
            if ip.version == 4 or address.host == "::":  # noqa: PLR2004 - IPv4
                told[Address(str(ip), address.port)] = None
    return tuple(address for address in told if address.port)[:ADDRESSES_LIMIT]


def _reachable(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:  # an address with a zone, or none
        return None
    if ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast:
        return None
    return ip


def sign(key: AgentKey, counter: int, addresses: Sequence[Address]) -> SignedAddresses:
    """Sign our own list; `counter` must be greater than in any list signed before."""
    if len(addresses) > ADDRESSES_LIMIT:
        raise Malformed("addresses", f"are {len(addresses)}, at most {ADDRESSES_LIMIT} may be told")
    texts = tuple(str(address).encode("ascii") for address in addresses)
    digest = _digest(key.agent, counter, texts)
    return SignedAddresses(key.agent, counter, texts, key.sign(_SIGN_DOMAIN + digest))


def verify(signed: SignedAddresses) -> tuple[Address, ...]:
    """Prove that the agent signed this list, and read it.

    Raises BadSignature, and Malformed where an address is none or could reach nobody (a
    wildcard, port 0).
    """
    digest = _digest(signed.agent, signed.counter, signed.addresses)
    if not verify_signature(signed.agent, _SIGN_DOMAIN + digest, signed.signature):
        raise BadSignature("addresses", f"are not signed by agent {short(signed.agent)}")
    try:
        addresses = parse_all(text.decode("ascii") for text in signed.addresses)
    except (UsageError, UnicodeDecodeError) as cause:
        raise Malformed("addresses", f"of agent {short(signed.agent)} cannot be read") from cause
    if any(address.is_wildcard or not address.port for address in addresses):
        raise Malformed("addresses", f"of agent {short(signed.agent)} reach nobody")
    return addresses


def supersedes(offered: SignedAddresses, known: SignedAddresses | None) -> bool:
    """Tell whether a verified list replaces the one we know of the same agent.

    The highest counter wins. Two lists with one counter come from a cloned key; then the
    greater digest wins, so that all nodes keep the same.
    """
    return known is None or _rank(offered) > _rank(known)


def is_cloned(own_counter: int, offered: SignedAddresses) -> bool:
    """Tell whether a verified list under our own key is newer than any that we signed."""
    return offered.counter > own_counter


def _rank(signed: SignedAddresses) -> tuple[int, bytes]:
    return signed.counter, _digest(signed.agent, signed.counter, signed.addresses)


def _digest(agent: bytes, counter: int, addresses: Sequence[bytes]) -> bytes:
    # 18 domain + 32 agent + 8 counter + 1 count + each 1 + length = 59 + n + sum of lengths
    parts = [_DOMAIN, agent, counter.to_bytes(8, "big"), bytes((len(addresses),))]
    for text in addresses:
        parts += (bytes((len(text),)), text)
    return blake3(b"".join(parts)).digest()
