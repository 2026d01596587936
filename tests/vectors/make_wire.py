"""Write wire-1.json anew: `python -m tests.vectors.make_wire`; only a new version may change it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from peers import certificate
from peers.address import Address
from peers.addresses import sign
from peers.handshake import Caller, Host, Verdict, knows_secret
from peers.identity import Identity
from peers.invite import Invite
from peers.link import Purpose
from store.ids import FolderId
from store.signing import AgentKey

if TYPE_CHECKING:
    from peers.handshake import Claim

PATH = Path(__file__).with_name("wire-1.json")


def make() -> dict[str, dict[str, str | int | list[str]]]:
    """Run every format of docs/wire.md once with fixed inputs."""
    host_key, caller_key = (AgentKey.from_seed(bytes((n,)) * 32) for n in (1, 2))
    host = Identity(key=host_key, label=b"desktop", instance=b"H" * 16)
    caller = Identity(key=caller_key, label="höhle".encode(), instance=b"C" * 16)
    addresses = (Address("192.0.2.7", 7499), Address("2001:db8::7", 7499), Address("nas.lan", 80))
    invite = Invite(
        inviter=host_key.agent,
        folder=FolderId(bytes(range(32))),
        folder_name="Ferien ✈".encode(),
        addresses=addresses,
        secret=bytes(range(100, 116)),
        expires_ms=1_795_000_000_000,
        role=2,
    )
    shown = certificate.issue(host_key).der
    seen = certificate.certificate_hash(shown)
    calling = Caller(
        caller,
        expected=host_key.agent,
        certificate_hash=seen,
        purpose=Purpose.JOIN,
        nonce=b"n" * 32,
        invite=invite,
    )
    answering = Host(host, certificate_hash=seen, nonce=b"m" * 32)
    answer = answering.answer(calling.hello())
    proof = calling.prove(answer)
    claim: Claim = answering.check(proof)
    assert knows_secret(claim, invite.key)
    welcome = answering.welcome(claim, Verdict.WELCOME, invite.key)
    assert calling.finish(welcome).agent == host_key.agent
    signed = sign(caller_key, 7, addresses)
    return {
        "certificate": {"seed": host_key.seed.hex(), "der": shown.hex()},
        "invite": {
            "inviter": invite.inviter.hex(),
            "folder": invite.folder.hex(),
            "folder_name": invite.folder_name.hex(),
            "addresses": [str(address) for address in addresses],
            "secret": invite.secret.hex(),
            "expires_ms": invite.expires_ms,
            "role": invite.role,
            "line": invite.encode(),
            "id": invite.id.hex(),
            "key": invite.key.hex(),
        },
        "hello": {
            "caller_seed": caller_key.seed.hex(),
            "hello": calling.hello().hex(),
            "answer": answer.hex(),
            "proof": proof.hex(),
            "welcome": welcome.hex(),
        },
        "addresses": {
            "agent": signed.agent.hex(),
            "counter": signed.counter,
            "addresses": [text.decode() for text in signed.addresses],
            "signature": signed.signature.hex(),
        },
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(make(), indent=1) + "\n", "ascii")
