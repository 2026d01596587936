"""Make the TLS certificate of an agent, and read the agent out of a peer's.

It trusts no authority, name or date: a certificate here is only the envelope of a public key,
valid from 1970 to 9999, so that no wrong clock locks a node out. Whose key is acceptable is
decided by whoever dials (pinning) or by the hello, never by the TLS library.
"""

from __future__ import annotations

import base64
import os
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from store.errors import Malformed
from store.ids import ID_BYTES, AgentId

if TYPE_CHECKING:
    from store.signing import AgentKey

# The one certificate there is (RFC 5280, RFC 8410), but for key and signature:
#  3 sequence ‖ 2 what is signed ‖ 5 version 3 ‖ 3 serial number 1 ‖ 7 Ed25519 ‖ 2 issuer, empty
#  ‖ 34 validity ‖ 2 subject, empty ‖ 12 the key is Ed25519 = 70
_BEFORE_KEY: Final = bytes.fromhex(
    "3081ad 3061 a003020102 020101 300506032b6570 3000"
    "3020 170d3730303130313030303030305a 180f39393939313233313233353935395a"
    "3000 302a300506032b6570032100"
)
_BEFORE_SIGNATURE: Final = bytes.fromhex("300506032b6570 034100")  # 7 Ed25519 ‖ 3 bit string = 10
_CERTIFICATE_BYTES: Final = 176  # 70 + 32 key + 10 + 64 signature
_UNSIGNED_BYTES: Final = 3  # the outer sequence
_SECRET_KEY: Final = bytes.fromhex("302e020100 300506032b6570 04220420")  # + 32 seed = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Our own self-signed certificate, with its secret key."""

    der: bytes
    pem_with_key: bytes = field(repr=False)


def issue(key: AgentKey) -> Certificate:
    """Make the certificate of our own agent; the same key always gives the same bytes.

    It names nobody: subject and issuer are empty, the serial number is 1.
    """
    head = _BEFORE_KEY + key.agent
    der = head + _BEFORE_SIGNATURE + key.sign(head[_UNSIGNED_BYTES:])
    pem = _pem(b"CERTIFICATE", der) + _pem(b"PRIVATE KEY", _SECRET_KEY + key.seed)
    return Certificate(der=der, pem_with_key=pem)


def agent_of(certificate_der: bytes) -> AgentId:
    """Read the agent out of a certificate that TLS has already shown the peer to hold.

    Raises Malformed for any other layout than `issue` makes, so that no X.509 parser of ours
    faces a stranger. The certificate's own signature proves nothing more and is not checked.
    """
    key_end = len(_BEFORE_KEY) + ID_BYTES
    if (
        len(certificate_der) != _CERTIFICATE_BYTES
        or not certificate_der.startswith(_BEFORE_KEY)
        or not certificate_der.startswith(_BEFORE_SIGNATURE, key_end)
    ):
        raise Malformed("certificate", "is not one of an agent")
    return AgentId(certificate_der[len(_BEFORE_KEY) : key_end])


def certificate_hash(certificate_der: bytes) -> bytes:
    """Name a certificate as it was seen on a connection; a hello signs this."""
    return blake3(certificate_der).digest()


def server_context(certificate: Certificate) -> ssl.SSLContext:
    """Prepare TLS for the side that listens: 1.3 only, no session is ever resumed.

    Client certificates are not asked for: the ssl module could not accept an unknown
    self-signed one, so the caller proves itself in the hello that follows.
    """
    context = _tls13(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    _load(context, certificate)
    return context


def client_context() -> ssl.SSLContext:
    """Prepare TLS for the side that dials: 1.3 only, whoever it is may answer.

    The agent that answered is then compared with the one expected (pinned) before a byte is
    said; TLS itself proves that it holds the key of the certificate it showed.
    """
    context = _tls13(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _tls13(protocol: ssl._SSLMethod) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    return context


def _pem(kind: bytes, der: bytes) -> bytes:
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (kind, base64.encodebytes(der), kind)


def _load(context: ssl.SSLContext, certificate: Certificate) -> None:
    # The ssl module reads keys from named files only: an anonymous one in memory keeps the
    # secret off every disk.
    handle = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(handle, certificate.pem_with_key)
        context.load_cert_chain(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)
