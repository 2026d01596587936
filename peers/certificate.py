"""Make the TLS certificate of an agent, and read the agent out of a peer's.

It trusts no authority, name or date: a certificate here is only the envelope of a public key,
valid from 1970 to 9999, so that no wrong clock locks a node out. Whose key is acceptable is
decided by whoever dials (pinning) or by the hello, never by the TLS library.
"""

from __future__ import annotations

import datetime as dt
import os
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from blake3 import blake3
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from store.errors import Malformed
from store.ids import AgentId

if TYPE_CHECKING:
    from store.signing import AgentKey

CERTIFICATE_LIMIT_BYTES: Final = 4096
_FROM = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_UNTIL = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A self-signed certificate, with the secret key where it is our own."""

    der: bytes
    pem_with_key: bytes = field(repr=False)


def issue(key: AgentKey) -> Certificate:
    """Make the certificate of our own agent; the same key always gives the same bytes.

    It names nobody: subject and issuer are empty, the serial number is 1.
    """
    secret = Ed25519PrivateKey.from_private_bytes(key.seed)
    nobody = x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(nobody)
        .issuer_name(nobody)
        .public_key(secret.public_key())
        .serial_number(1)
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .sign(secret, algorithm=None)
    )
    secret_pem = secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Certificate(
        der=certificate.public_bytes(Encoding.DER),
        pem_with_key=certificate.public_bytes(Encoding.PEM) + secret_pem,
    )


def agent_of(certificate_der: bytes) -> AgentId:
    """Read the agent out of a certificate that TLS has already shown the peer to hold.

    Raises Malformed for anything but one X.509 certificate with an Ed25519 key. Dates, names
    and the certificate's own signature mean nothing and are not looked at.
    """
    if len(certificate_der) > CERTIFICATE_LIMIT_BYTES:
        raise Malformed("certificate", f"has {len(certificate_der)} bytes")
    try:
        public = x509.load_der_x509_certificate(certificate_der).public_key()
    except (ValueError, UnsupportedAlgorithm) as cause:
        raise Malformed("certificate", "cannot be read") from cause
    if not isinstance(public, Ed25519PublicKey):
        raise Malformed("certificate", "has a key that is not Ed25519")
    return AgentId(public.public_bytes(Encoding.Raw, PublicFormat.Raw))


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


def _load(context: ssl.SSLContext, certificate: Certificate) -> None:
    # The ssl module reads keys from named files only: an anonymous one in memory keeps the
    # secret off every disk.
    handle = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(handle, certificate.pem_with_key)
        context.load_cert_chain(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)
