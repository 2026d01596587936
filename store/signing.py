"""Sign batches and verify them: the one door through which foreign batches enter.

A `SignedBatch` exists only if its signature, sizes, count and events_root were found right, so
whoever holds one need not check again. This module decides nothing about roles, order or
meaning: a well signed batch may still be void, early or unknown in kind.

What is signed is always a short hash or a fixed layout with a domain prefix of its own
(docs/log-format.md), never a long message: Ed25519 hashes what it signs by SHA-512.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import InitVar, dataclass
from typing import Annotated, Final, Self

from msgspec import Meta, Struct
from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from store import ids
from store.codec import (
    BODY_LIMIT_BYTES,
    EVENTS_LIMIT,
    FORMAT_VERSION,
    HEADER_LIMIT_BYTES,
    Header,
    decode_header,
    encode_header,
    join_events,
    merkle_root,
    split_events,
    split_thinned,
)
from store.errors import BadSignature, Malformed
from store.events import (
    EVENT_LIMIT_BYTES,
    FIRST_FOLDER_TAG,
    FIRST_OPTIONAL_TAG,
    FolderShared,
    tag_of,
)
from store.ids import AgentId, BatchId, Epoch, EventId, FolderId, LogId

SEED_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

_BATCH_DOMAIN = b"dizzyd/sign/batch/1"
_FOLDER_DOMAIN = b"dizzyd/sign/folder/1"
_SMALLEST_EVENT_BYTES = 3  # its u16 length and one byte
_SEAL = object()


class WireBatch(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """One batch as a peer sent it or a disk kept it: nothing about it is known to be true."""

    header: Annotated[bytes, Meta(max_length=HEADER_LIMIT_BYTES)]
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
    body: Annotated[bytes, Meta(max_length=BODY_LIMIT_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SignedBatch:
    """A batch that its agent signed; made only by `verify`, `verify_thinned` and `sign_batch`.

    Two of them are the same batch if their `id` is the same. Its events are not decoded. Only a
    batch of a snapshot is not whole: the events that were left out of it are empty.
    """

    id: BatchId
    header: Header
    log: LogId
    header_bytes: bytes
    signature: bytes
    body: bytes
    events: list[bytes]
    event_ids: list[EventId]
    tags: frozenset[int]  # all that occur in events
    is_whole: bool = True
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        """Refuse to exist unless this module made it."""
        if seal is not _SEAL:
            raise TypeError("a SignedBatch is made by signing.verify or signing.sign_batch alone")

    @property
    def wire(self) -> WireBatch:
        """The same bytes, to be sent or stored."""
        return WireBatch(self.header_bytes, self.signature, self.body)

    @property
    def is_about_folder(self) -> bool:
        """Whether it holds events of membership and log, and so nothing else."""
        return bool(self.events[0]) and _is_folder_tag(tag_of(self.events[0]))


class AgentKey:
    """An Ed25519 key pair: an agent's, or for a moment a new folder's.

    The secret is only given out by `seed`, for the one file that keeps it; it is in no repr.
    """

    __slots__ = ("_secret", "agent")

    def __init__(self, agent: AgentId, secret: bytes) -> None:
        """Use `from_seed` or `generate`."""
        self.agent = agent
        self._secret = secret

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """Derive the pair from its 32-byte seed (RFC 8032, 5.1.5). Raises Malformed."""
        if len(seed) != SEED_BYTES:
            raise Malformed("agent key", f"has {len(seed)} bytes, not {SEED_BYTES}")
        public, secret = crypto_sign_seed_keypair(seed)
        return cls(AgentId(public), secret)

    @classmethod
    def generate(cls, random_bytes: bytes) -> Self:
        """Make a new pair from 32 bytes of the system's randomness, fresh and used once."""
        return cls.from_seed(random_bytes)

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes from which `from_seed` makes this key again."""
        return self._secret[:SEED_BYTES]

    def sign(self, message: bytes) -> bytes:
        """Give the 64-byte Ed25519 signature of the message."""
        return crypto_sign(message, self._secret)[:SIGNATURE_BYTES]

    def __repr__(self) -> str:
        """Show the public half, shortened."""
        return f"AgentKey({ids.short(self.agent)})"


def verify_signature(agent: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether the agent signed the message; any malformed input is simply False."""
    if len(signature) != SIGNATURE_BYTES or len(agent) != ids.ID_BYTES:
        return False
    try:
        crypto_sign_open(signature + message, agent)
    except BadSignatureError:
        return False
    return True


def verify(wire: WireBatch) -> SignedBatch:
    """Prove a foreign batch, cheapest checks first.

    Raises Malformed for wrong sizes, types, counts, root or mixed kinds of events, BadSignature
    where the agent in the header did not sign it. Nothing of the events is decoded but tags.
    """
    if len(wire.signature) != SIGNATURE_BYTES:
        raise Malformed("batch", f"has a signature of {len(wire.signature)} bytes")
    if len(wire.body) > BODY_LIMIT_BYTES:
        raise Malformed("batch", f"has a body of {len(wire.body)} bytes")
    header = decode_header(wire.header)
    if header.body_size != len(wire.body):
        raise Malformed("batch", "has a body of another size than its header says")
    if header.count * _SMALLEST_EVENT_BYTES > header.body_size:
        raise Malformed("batch", "has fewer bytes than so many events need")
    identity = _proven_id(header, wire)
    events = split_events(wire.body, header.count)
    tags = _checked_tags(events)
    log = ids.log_id(header.folder, header.agent, header.epoch)
    event_ids = ids.event_ids(log, header.seq, events)
    if merkle_root(event_ids) != header.events_root:
        raise Malformed(f"batch {ids.short(identity)}", "has events that its root does not cover")
    return SignedBatch(
        id=identity,
        header=header,
        log=log,
        header_bytes=wire.header,
        signature=wire.signature,
        body=wire.body,
        events=events,
        event_ids=event_ids,
        tags=tags,
        seal=_SEAL,
    )


def verify_thinned(wire: WireBatch) -> SignedBatch:
    """Prove a batch of a snapshot, of whose body events may have been left out.

    A whole one is proven as `verify` does. Of a thinned one only the header is: that the events
    left in it are its own, and that the others do not matter, is the word of whoever signed the
    snapshot. A batch about the folder is always whole. Raises Malformed, BadSignature.
    """
    header = decode_header(wire.header)
    if header.body_size == len(wire.body):
        return verify(wire)
    events = split_thinned(wire.body, header.count)
    kept = [event for event in events if event]
    absent = len(events) - len(kept)
    room = header.body_size - len(wire.body)  # the bytes that were left out
    if not absent <= room <= absent * EVENT_LIMIT_BYTES:
        raise Malformed("batch", "is thinned by other bytes than its header leaves room for")
    tags = frozenset(map(tag_of, kept))
    if any(map(_is_folder_tag, tags)):
        raise Malformed("batch", "is about the folder and not whole")
    log = ids.log_id(header.folder, header.agent, header.epoch)
    return SignedBatch(
        id=_proven_id(header, wire),
        header=header,
        log=log,
        header_bytes=wire.header,
        signature=wire.signature,
        body=wire.body,
        events=events,
        event_ids=ids.event_ids(log, header.seq, events),
        tags=tags,
        is_whole=False,
        seal=_SEAL,
    )


def _proven_id(header: Header, wire: WireBatch) -> BatchId:
    """Give the id of a batch whose header its agent signed. Raises BadSignature."""
    identity = ids.batch_id(wire.header)
    if not verify_signature(header.agent, _BATCH_DOMAIN + identity, wire.signature):
        raise BadSignature(
            f"batch {ids.short(identity)}", f"is not signed by agent {ids.short(header.agent)}"
        )
    return identity


def has_signed_twice(folder: FolderId, one: WireBatch, other: WireBatch) -> bool:
    """Whether these prove that one agent signed two batches for one place of a log of a folder.

    Their bodies are not looked at: the headers are the proof.
    """
    try:
        headers = [decode_header(wire.header) for wire in (one, other)]
        identities = {_proven_id(headers[0], one), _proven_id(headers[1], other)}
    except (Malformed, BadSignature):
        return False
    places = {(header.folder, header.agent, header.epoch, header.seq) for header in headers}
    return len(identities) == 2 and len(places) == 1 and headers[0].folder == folder  # noqa: PLR2004 - two branches


def sign_batch(
    key: AgentKey,
    *,
    folder: FolderId,
    epoch: Epoch,
    seq: int,
    prev: BatchId | None,
    deps: Iterable[BatchId],
    lamport: int,
    wall_ms: int,
    events: Sequence[bytes],
    event_ids: list[EventId] | None = None,
) -> SignedBatch:
    """Make a batch of our own; the same arguments always give the same bytes.

    `event_ids` are those of the events where the caller has computed them already (store.ids).
    deps may come in any order and more than once. A wall clock before 1970 counts as 1970. Raises
    Malformed where `verify` would refuse the result.
    """
    encoded = list(events)
    if not 1 <= len(encoded) <= EVENTS_LIMIT:
        raise Malformed("batch", f"has {len(encoded)} events, 1 to {EVENTS_LIMIT} are allowed")
    tags = _checked_tags(encoded)
    body = join_events(encoded)
    log = ids.log_id(folder, key.agent, epoch)
    if event_ids is None:
        event_ids = ids.event_ids(log, seq, encoded)
    header_bytes = encode_header(
        Header(
            version=FORMAT_VERSION,
            folder=folder,
            agent=key.agent,
            epoch=epoch,
            seq=seq,
            prev=prev,
            deps=tuple(sorted(set(deps) - {prev})),
            lamport=lamport,
            wall_ms=max(0, wall_ms),
            count=len(encoded),
            body_size=len(body),
            events_root=merkle_root(event_ids),
        )
    )
    header = decode_header(header_bytes)  # the bounds hold for our own batches too
    identity = ids.batch_id(header_bytes)
    return SignedBatch(
        id=identity,
        header=header,
        log=log,
        header_bytes=header_bytes,
        signature=key.sign(_BATCH_DOMAIN + identity),
        body=body,
        events=encoded,
        event_ids=event_ids,
        tags=tags,
        seal=_SEAL,
    )


def sign_folder_shared(
    folder_key: AgentKey, *, owner: AgentId, name: bytes, label: bytes, nonce: bytes
) -> FolderShared:
    """Make the first event of a folder; its secret key is to be forgotten afterwards."""
    folder = folder_key.agent
    return FolderShared(
        folder=folder,
        owner=owner,
        name=name,
        label=label,
        nonce=nonce,
        signature=folder_key.sign(_folder_message(folder, owner, name, label, nonce)),
    )


def verify_folder_shared(event: FolderShared) -> bool:
    """Tell whether the folder's own key made this owner its owner."""
    message = _folder_message(event.folder, event.owner, event.name, event.label, event.nonce)
    return verify_signature(event.folder, message, event.signature)


def _folder_message(folder: bytes, owner: bytes, name: bytes, label: bytes, nonce: bytes) -> bytes:
    # 20 domain + 32 folder + 32 owner + 2 + name + 2 + label + 16 nonce = 104 + name + label
    return b"".join(
        (
            _FOLDER_DOMAIN,
            folder,
            owner,
            len(name).to_bytes(2, "big"),
            name,
            len(label).to_bytes(2, "big"),
            label,
            nonce,
        )
    )


def _is_folder_tag(tag: int) -> bool:
    return FIRST_FOLDER_TAG <= tag < FIRST_OPTIONAL_TAG


def _checked_tags(events: Sequence[bytes]) -> frozenset[int]:
    tags = frozenset(map(tag_of, events))
    about_folder = set(map(_is_folder_tag, tags))
    if len(about_folder) > 1:
        raise Malformed("batch", "mixes events about the folder with events about objects")
    return tags
