"""Read the golden vectors of docs/wire.md by that text alone, with nothing of peers."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

from blake3 import blake3
from nacl.signing import SigningKey, VerifyKey

from tests.vectors.make_wire import PATH, make

DOCUMENT = Path(__file__).parents[2] / "docs" / "wire.md"
VECTORS = json.loads(PATH.read_text("ascii"))
INVITE, HELLO, ADDRESSES = VECTORS["invite"], VECTORS["hello"], VECTORS["addresses"]
HOST = bytes.fromhex(INVITE["inviter"])


def hashed(*parts: bytes, key: bytes | None = None) -> bytes:
    joined = b"".join(parts)
    return blake3(joined, key=key).digest() if key else blake3(joined).digest()


def counted(text: str) -> bytes:
    return bytes((len(text),)) + text.encode()


def test_formats_are_as_they_were() -> None:
    assert make() == VECTORS


def test_invite_is_as_the_document_says() -> None:
    secret, folder = bytes.fromhex(INVITE["secret"]), bytes.fromhex(INVITE["folder"])
    name = bytes.fromhex(INVITE["folder_name"])
    body = b"\x01" + HOST + folder + secret + INVITE["expires_ms"].to_bytes(8, "big")
    body += bytes((INVITE["role"], len(name))) + name + bytes((len(INVITE["addresses"]),))
    body += b"".join(map(counted, INVITE["addresses"]))
    line = "dizzyd1." + base64.urlsafe_b64encode(body).decode().rstrip("=")
    check = base64.urlsafe_b64encode(hashed(b"dizzyd/invite/check/1", line.encode())[:6]).decode()

    assert INVITE["line"] == f"{line}.{check}"
    assert INVITE["id"] == hashed(b"dizzyd/invite/1", HOST, folder, secret).hex()
    context = "dizzyd 2026-11 invite proof key v1"
    key = blake3(HOST + folder + secret, derive_key_context=context).digest()
    assert INVITE["key"] == key.hex()


def test_certificate_is_as_the_document_says() -> None:
    der = bytes.fromhex(VECTORS["certificate"]["der"])
    secret = SigningKey(bytes.fromhex(VECTORS["certificate"]["seed"]))

    assert len(der) == 176
    assert der[70:102] == bytes(secret.verify_key) == HOST
    secret.verify_key.verify(der[3:102], der[-64:])


def test_hello_is_as_the_document_says() -> None:
    hello, answer, proof, welcome = (
        bytes.fromhex(HELLO[name]) for name in ("hello", "answer", "proof", "welcome")
    )
    key = bytes.fromhex(INVITE["key"])
    claim, invite_proof, signature = proof[:-96], proof[-96:-64], proof[-64:]
    agent, label_bytes = proof[19:51], proof[83]
    transcript = b"".join(
        (
            b"dizzyd/hello/1",
            hashed(bytes.fromhex(VECTORS["certificate"]["der"])),
            HOST,
            len(hello).to_bytes(4, "big"),
            hello,
            len(answer).to_bytes(4, "big"),
            answer,
            claim,
        )
    )

    assert (len(hello), len(answer)) == (36, 34)
    assert len(proof) == 180 + label_bytes
    assert len(welcome) == 52 + welcome[19]
    assert len(transcript) == 204 + len(hello) + label_bytes
    assert agent == bytes(SigningKey(bytes.fromhex(HELLO["caller_seed"])).verify_key)
    assert proof[51:83].hex() == INVITE["id"]
    joiner = hashed(b"dizzyd/invite/joiner/1", hashed(transcript), key=key)
    assert invite_proof == joiner
    signed = b"dizzyd/sign/hello/1" + hashed(transcript + invite_proof)
    VerifyKey(agent).verify(signed, signature)
    heard = transcript + invite_proof + signature + welcome[:-32]
    assert len(heard) == len(transcript) + 116 + welcome[19]
    assert welcome[-32:] == hashed(b"dizzyd/invite/inviter/1", hashed(heard), key=key)


def test_addresses_are_as_the_document_says() -> None:
    agent, texts = bytes.fromhex(ADDRESSES["agent"]), ADDRESSES["addresses"]
    preimage = b"dizzyd/addresses/1" + agent + ADDRESSES["counter"].to_bytes(8, "big")
    preimage += bytes((len(texts),)) + b"".join(map(counted, texts))

    assert len(preimage) == 59 + sum(1 + len(text) for text in texts)
    VerifyKey(agent).verify(
        b"dizzyd/sign/addresses/1" + hashed(preimage), bytes.fromhex(ADDRESSES["signature"])
    )


def test_certificate_in_the_document_is_the_one_made() -> None:
    block = DOCUMENT.read_text("utf-8").split("certificate, DER")[1].split("```")[0]
    numbers = [int(line.split()[0]) for line in block.splitlines() if re.match(r" +\d", line)]

    assert sum(numbers[:-1]) == numbers[-1] == len(bytes.fromhex(VECTORS["certificate"]["der"]))
