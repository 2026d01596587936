"""Prove who calls: the hello on a fresh TLS stream, as pure steps.

    caller                            host
      hello (versions, nonce)   →
                                ←   answer (version, nonce)
      proof (who, why, signed)  →
                                ←   welcome, or the connection closes without a word

Nothing here opens, waits or decides who is welcome: the bytes come in and go out, the nonces
are arguments, and a Door judges. A stranger never gets past fixed byte layouts, and every
refusal looks the same to him, but for one who proves that he knows the secret of an invite: he
is told that it is used or expired (docs/wire.md, Hello).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Final, Protocol

from blake3 import blake3

from peers.invite import InviteId, InviteKey
from peers.link import Purpose
from store.errors import DizzyError
from store.ids import ID_BYTES, AgentId, short
from store.signing import verify_signature

if TYPE_CHECKING:
    from peers.identity import Identity
    from peers.invite import Invite

WIRE_VERSION: Final = 1
HELLO_LIMIT_BYTES: Final = 4096
HELLO_DEADLINE_S: Final = 5.0
NONCE_BYTES: Final = 32

_HELLO_BYTES: Final = 36  # 2 lowest version + 2 highest + 32 nonce; more is for later versions
_ANSWER_BYTES: Final = 34  # 2 version + 32 nonce
_PROOF_BYTES: Final = 180  # see _claim, and 32 proof of the invite + 64 signature; + label
_WELCOME_BYTES: Final = 52  # 1 verdict + 2 state version + 16 instance + 1 + 32 proof; + label
_NO_INVITE: Final = bytes(ID_BYTES)

_HELLO_DOMAIN = b"dizzyd/hello/1"
_SIGN_DOMAIN = b"dizzyd/sign/hello/1"
_JOINER_DOMAIN = b"dizzyd/invite/joiner/1"
_INVITER_DOMAIN = b"dizzyd/invite/inviter/1"


class Refusal(Enum):
    """Why a caller was turned away; counted in `status`, never said to the caller."""

    TLS = "no-tls"
    MALFORMED = "malformed-hello"
    LEFT = "left-during-hello"
    SIGNATURE = "bad-hello-signature"
    OURSELVES = "our-own-key"
    STRANGER = "unknown-agent"
    NO_INVITE = "unknown-invite"
    INVITE_USED = "invite-used"
    INVITE_EXPIRED = "invite-expired"
    DEADLINE = "hello-deadline"
    CROWD = "too-many-strangers"
    UNJUDGED = "door-failed"


class HelloRefused(DizzyError):
    """The caller proved nothing that opens the door."""

    def __init__(self, refusal: Refusal) -> None:
        """Keep the reason, which is for our own counters only."""
        super().__init__("hello", refusal.value)
        self.refusal = refusal


class HelloFailed(DizzyError):
    """The host's side of the hello is not what was expected; `why` is for the person here."""


class InviteUsed(DizzyError):
    """The inviter says that this invite admitted somebody else already."""


class InviteExpired(DizzyError):
    """The inviter says that this invite expired."""


class Verdict(IntEnum):
    """What a host says to a caller that proved an invite, or is a member."""

    WELCOME = 0
    INVITE_USED = 1
    INVITE_EXPIRED = 2


class Door(Protocol):
    """Who may come in. Asked only about agents that proved their key."""

    async def admit_member(self, agent: AgentId) -> bool:
        """Tell whether the agent is a current member of any folder of ours."""

    async def invite_key(self, invite: InviteId) -> InviteKey | None:
        """Give the key of an invite of ours, open, used or expired; None if there is none."""

    async def claim_invite(self, invite: InviteId, agent: AgentId, label: bytes) -> Verdict:
        """Use up the invite for this agent, which proved its secret, in one atomic write.

        Of several agents exactly one is ever welcome; the same agent is welcome again.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """What a finished hello tells about the other side."""

    agent: AgentId
    purpose: Purpose
    instance: bytes
    label: bytes
    state_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A caller's proof whose signature was found right; the agent is who it says."""

    other: Other
    invite: InviteId
    invite_proof: bytes
    transcript: bytes  # up to, not including, invite_proof
    signature: bytes


class Caller:
    """The dialling side: `hello`, `prove`, `finish`, each once and in this order."""

    __slots__ = (
        "_certificate",
        "_expected",
        "_hello",
        "_identity",
        "_invite",
        "_purpose",
        "_transcript",
    )

    def __init__(
        self,
        identity: Identity,
        *,
        expected: AgentId,
        certificate_hash: bytes,
        purpose: Purpose,
        nonce: bytes,
        invite: Invite | None = None,
    ) -> None:
        """Prepare to call `expected`, whose certificate as seen has this hash; it is pinned."""
        if (purpose is Purpose.JOIN) != (invite is not None) or len(nonce) != NONCE_BYTES:
            raise ValueError("joining, and only joining, needs an invite; and a nonce 32 bytes")
        self._identity = identity
        self._expected = expected
        self._certificate = certificate_hash
        self._purpose = purpose
        self._invite = invite
        self._hello = _two(WIRE_VERSION) + _two(WIRE_VERSION) + nonce
        self._transcript = b""

    def hello(self) -> bytes:
        """Open the conversation."""
        return self._hello

    def prove(self, answer: bytes) -> bytes:
        """Prove our agent, and where we join the secret, bound to this very connection.

        Raises HelloFailed where the host speaks no version of ours.
        """
        if len(answer) < _ANSWER_BYTES:
            raise HelloFailed("hello", "the answer is cut short")
        version = int.from_bytes(answer[:2], "big")
        if version != WIRE_VERSION:
            raise HelloFailed(
                "hello",
                f"the other node speaks version {version} of the wire, this one {WIRE_VERSION}",
                hint="bring both nodes to the same release of dizzyd",
            )
        invite = self._invite
        claim = _claim(self._identity, self._purpose, invite.id if invite else _NO_INVITE)
        transcript = _transcript(self._certificate, self._expected, self._hello, answer) + claim
        proof = _keyed(invite.key, _JOINER_DOMAIN, transcript) if invite else _NO_INVITE
        signature = self._identity.key.sign(_signed(transcript + proof))
        self._transcript = transcript + proof + signature
        return claim + proof + signature

    def finish(self, welcome: bytes) -> Other:
        """Read the host's verdict; where we join, only from one that knows the secret too.

        Raises InviteUsed or InviteExpired as the inviter says, HelloFailed for nonsense.
        """
        label_bytes = welcome[19] if len(welcome) >= _WELCOME_BYTES else 0
        if len(welcome) != _WELCOME_BYTES + label_bytes or welcome[0] not in list(Verdict):
            raise HelloFailed("hello", "the welcome cannot be read")
        if self._invite is not None:
            said = self._transcript + welcome[:-ID_BYTES]
            proof = _keyed(self._invite.key, _INVITER_DOMAIN, said)
            if not hmac.compare_digest(proof, welcome[-ID_BYTES:]):
                raise HelloFailed("hello", "the other node does not know the invite's secret")
        match Verdict(welcome[0]):
            case Verdict.INVITE_USED:
                raise InviteUsed("join", "the invite was used already", hint="ask for a new one")
            case Verdict.INVITE_EXPIRED:
                raise InviteExpired("join", "the invite has expired", hint="ask for a new one")
            case Verdict.WELCOME:
                return Other(
                    agent=self._expected,
                    purpose=self._purpose,
                    state_version=int.from_bytes(welcome[1:3], "big"),
                    instance=welcome[3:19],
                    label=welcome[20 : 20 + label_bytes],
                )


class Host:
    """The side that was called: `answer`, `check`, then `welcome`, each once."""

    __slots__ = ("_certificate", "_identity", "_nonce", "_speaks_ours", "_transcript")

    def __init__(self, identity: Identity, *, certificate_hash: bytes, nonce: bytes) -> None:
        """Prepare to answer one caller, whom we show the certificate with this hash."""
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"a nonce has {NONCE_BYTES} bytes")
        self._identity = identity
        self._certificate = certificate_hash
        self._nonce = nonce
        self._speaks_ours = False
        self._transcript = b""

    def answer(self, hello: bytes) -> bytes:
        """Answer anyone who speaks; the same to member and stranger. Raises HelloRefused."""
        if not _HELLO_BYTES <= len(hello) <= HELLO_LIMIT_BYTES:
            raise HelloRefused(Refusal.MALFORMED)
        answer = _two(WIRE_VERSION) + self._nonce
        self._transcript = _transcript(self._certificate, self._identity.agent, hello, answer)
        lowest, highest = int.from_bytes(hello[:2], "big"), int.from_bytes(hello[2:4], "big")
        self._speaks_ours = lowest <= WIRE_VERSION <= highest
        return answer

    def check(self, proof: bytes) -> Claim:
        """Prove that the caller holds the key of the agent that it says it is.

        Raises HelloRefused. Nothing was looked up yet, so nobody learns who is a member without
        that member's key.
        """
        label_bytes = proof[83] if len(proof) >= _PROOF_BYTES else 0
        if len(proof) != _PROOF_BYTES + label_bytes or proof[0] not in list(Purpose):
            raise HelloRefused(Refusal.MALFORMED)
        if not self._speaks_ours:  # it read our version in the answer and should have left
            raise HelloRefused(Refusal.MALFORMED)
        purpose, invite = Purpose(proof[0]), InviteId(proof[51:83])
        claim, invite_proof, signature = proof[:-96], proof[-96:-64], proof[-64:]
        if purpose is not Purpose.JOIN and (invite != _NO_INVITE or invite_proof != _NO_INVITE):
            raise HelloRefused(Refusal.MALFORMED)
        agent = AgentId(proof[19:51])
        transcript = self._transcript + claim
        if not verify_signature(agent, _signed(transcript + invite_proof), signature):
            raise HelloRefused(Refusal.SIGNATURE)
        if agent == self._identity.agent:
            raise HelloRefused(Refusal.OURSELVES)
        return Claim(
            other=Other(
                agent=agent,
                purpose=purpose,
                state_version=int.from_bytes(proof[1:3], "big"),
                instance=proof[3:19],
                label=proof[84 : 84 + label_bytes],
            ),
            invite=invite,
            invite_proof=invite_proof,
            transcript=transcript,
            signature=signature,
        )

    def welcome(self, claim: Claim, verdict: Verdict, key: InviteKey | None = None) -> bytes:
        """Say the verdict; with an invite's key, prove that we know its secret too."""
        # 1 verdict + 2 state version + 16 instance + 1 label length + label, then 32 proof
        label = self._identity.label
        said = b"".join(
            (
                bytes((verdict,)),
                _two(self._identity.state_version),
                self._identity.instance,
                bytes((len(label),)),
                label,
            )
        )
        if key is None:
            return said + _NO_INVITE
        heard = claim.transcript + claim.invite_proof + claim.signature
        return said + _keyed(key, _INVITER_DOMAIN, heard + said)


def knows_secret(claim: Claim, key: InviteKey) -> bool:
    """Tell whether the caller proved, on this very connection, that it knows the secret."""
    expected = _keyed(key, _JOINER_DOMAIN, claim.transcript)
    return hmac.compare_digest(expected, claim.invite_proof)


async def judge(host: Host, claim: Claim, door: Door) -> tuple[Verdict, bytes]:
    """Let the door decide about a proven caller; give the verdict and what to say.

    Anything but WELCOME is said, then the connection closes. Raises HelloRefused where nothing
    may be said. An invite is used up when this returns WELCOME for a joiner.
    """
    other = claim.other
    if other.purpose is not Purpose.JOIN:
        if not await door.admit_member(other.agent):
            raise HelloRefused(Refusal.STRANGER)
        return Verdict.WELCOME, host.welcome(claim, Verdict.WELCOME)
    key = await door.invite_key(claim.invite)
    if key is None or not knows_secret(claim, key):
        raise HelloRefused(Refusal.NO_INVITE)
    verdict = await door.claim_invite(claim.invite, other.agent, other.label)
    return verdict, host.welcome(claim, verdict, key)


def pin(found: AgentId, expected: AgentId, own: AgentId) -> None:
    """Refuse to say a word to anyone but the agent expected. Raises HelloFailed."""
    if found == expected:
        return
    if found == own:
        raise HelloFailed("dial", "this node itself answers there")
    raise HelloFailed("dial", f"another agent answers there, {short(found)}")


def _claim(identity: Identity, purpose: Purpose, invite: bytes) -> bytes:
    # 1 purpose + 2 state version + 16 instance + 32 agent + 32 invite + 1 label length = 84
    return b"".join(
        (
            bytes((purpose,)),
            _two(identity.state_version),
            identity.instance,
            identity.agent,
            invite,
            bytes((len(identity.label),)),
            identity.label,
        )
    )


def _transcript(certificate: bytes, host: AgentId, hello: bytes, answer: bytes) -> bytes:
    # 14 domain + 32 certificate + 32 host + 4 + hello + 4 + answer
    return b"".join(
        (
            _HELLO_DOMAIN,
            certificate,
            host,
            len(hello).to_bytes(4, "big"),
            hello,
            len(answer).to_bytes(4, "big"),
            answer,
        )
    )


def _signed(transcript: bytes) -> bytes:
    return _SIGN_DOMAIN + blake3(transcript).digest()  # 19 + 32 = 51


def _keyed(key: InviteKey, domain: bytes, transcript: bytes) -> bytes:
    return blake3(domain + blake3(transcript).digest(), key=key).digest()


def _two(number: int) -> bytes:
    return number.to_bytes(2, "big")
