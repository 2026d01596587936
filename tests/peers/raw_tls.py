"""Speak TLS 1.3 to a node by hand, record by record, to say what no library would say.

OpenSSL shakes hands and reads; from then on each record is enciphered here (RFC 8446, 5 and 7),
with the secret that its key log gives.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import ssl
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from peers import certificate
from peers.handshake import Caller
from peers.link import Purpose

if TYPE_CHECKING:
    from pathlib import Path

    from peers.identity import Identity
    from store.ids import AgentId
    from tests.peers.meeting import Node

HANDSHAKE: Final = 22
CONTENT: Final = 23
KEY_UPDATE: Final = bytes((24, 0, 0, 1, 1))  # and the other side is to do the same
_PLAIN_LIMIT_BYTES: Final = 16384


class RawTls:
    """A client whose records are made by hand after the handshake."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Made by raw_tls."""
        self.reader, self.writer = reader, writer
        self.shown = b""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._secret = b""
        self._number = 0

    async def shake_hands(self, keys: Path) -> None:
        """Do what any client does first."""
        context = certificate.client_context()
        context.keylog_filename = str(keys)
        self._tls = context.wrap_bio(self._incoming, self._outgoing)
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.writer.write(self._outgoing.read())
                self._incoming.write(await self.reader.read(65536))
        self.writer.write(self._outgoing.read())
        self.shown = self._tls.getpeercert(binary_form=True) or b""
        assert self._tls.cipher()[0] == "TLS_AES_256_GCM_SHA384"  # type: ignore[index]
        lines = [line.split() for line in keys.read_text().splitlines()]
        self._use(
            next(bytes.fromhex(one[2]) for one in lines if one[0] == "CLIENT_TRAFFIC_SECRET_0")
        )

    async def read_frame(self) -> bytes:
        """Read the next frame, through OpenSSL."""
        return await self._read_exactly(int.from_bytes(await self._read_exactly(4), "big"))

    def record(self, content: bytes, kind: int = CONTENT) -> bytes:
        """Encipher one record; the next one follows it."""
        plain = content + bytes((kind,))
        head = bytes((CONTENT, 3, 3)) + (len(plain) + 16).to_bytes(2, "big")
        nonce = int.from_bytes(self._iv, "big") ^ self._number
        self._number += 1
        return head + self._cipher.encrypt(nonce.to_bytes(12, "big"), plain, head)

    def key_update(self) -> bytes:
        """Give a record that changes our keys and wants the other side to change its own."""
        made = self.record(KEY_UPDATE, HANDSHAKE)
        self._use(_expand(self._secret, b"traffic upd", 48))
        return made

    def frame(self, content: bytes) -> bytes:
        """Give the records of a frame."""
        framed = len(content).to_bytes(4, "big") + content
        limit = _PLAIN_LIMIT_BYTES
        return b"".join(self.record(framed[at : at + limit]) for at in range(0, len(framed), limit))

    async def prove(self, identity: Identity, host: AgentId) -> None:
        """Become a proven member."""
        caller = Caller(
            identity,
            expected=host,
            certificate_hash=certificate.certificate_hash(self.shown),
            purpose=Purpose.CONTROL,
            nonce=os.urandom(32),
        )
        self.writer.write(self.frame(caller.hello()))
        self.writer.write(self.frame(caller.prove(await self.read_frame())))

    async def _read_exactly(self, size: int) -> bytes:
        assert self._tls is not None
        found = b""
        while len(found) < size:
            try:
                found += self._tls.read(size - len(found))
            except ssl.SSLWantReadError:
                self._incoming.write(await self.reader.read(65536))
        return found

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._number = 0
        self._cipher = AESGCM(_expand(secret, b"key", 32))
        self._iv = _expand(secret, b"iv", 12)


async def raw_tls(node: Node, keys: Path) -> RawTls:
    """Call a node and shake hands with it; `keys` is a file to be made."""
    reader, writer = await asyncio.open_connection(node.address.host, node.address.port)
    raw = RawTls(reader, writer)
    await raw.shake_hands(keys)
    return raw


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label of one block (RFC 8446, 7.1)."""
    full = b"tls13 " + label
    wanted = size.to_bytes(2, "big") + bytes((len(full),)) + full + b"\0" + b"\1"
    return hmac.new(secret, wanted, hashlib.sha384).digest()[:size]
