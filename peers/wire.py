"""Define the messages between proven peers, and turn them into frames and payloads into them.

Pure: no socket, no clock. It decides nothing about what a message means, who may send it or
whether what it carries is true; a batch in a message is proven by `store.signing.verify` alone,
a content by its hash. Every length is checked before memory is taken for it. The layouts are
those of docs/wire.md, "Frames and messages"; how a message is cut into frames and put together
again is peers.framing's part.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from peers.framing import MESSAGE_LIMIT_BYTES, Buffer, cut, frame_header
from store.codec import BODY_LIMIT_BYTES, HEADER_LIMIT_BYTES
from store.errors import Malformed
from store.events import U32, U63, Bytes64, Hash32, Size

FIRST_OPTIONAL_KIND: Final = 64  # a node that does not know such a kind passes over it

# data = request u32 ‖ offset u64 ‖ bytes: 4 + 8 = 12 bytes before them
DATA_HEADER_BYTES: Final = 12
DATA_PIECE_BYTES: Final = 248 * 1024  # of a large content in one frame; whole pages

HEADS_LIMIT: Final = 8192
IDS_LIMIT: Final = 8192
WANTED_LIMIT: Final = 4096
BATCHES_LIMIT: Final = 4096
INLINE_LIMIT_BYTES: Final = 64 * 1024
SMALL_LIMIT_BYTES: Final = 1024 * 1024  # contents up to this travel whole
CHUNKS_LIMIT: Final = 16_384
RANGE_LIMIT_BYTES: Final = 8 * 1024 * 1024  # what one want may ask for
# a fine line = first bytes of its BLAKE3 16 ‖ length less one u16: 16 + 2 = 18 bytes
FINE_HASH_BYTES: Final = 16
FINE_LINE_BYTES: Final = 18
FINE_LIMIT_BYTES: Final = 16_384 * FINE_LINE_BYTES  # in one message, 288 KiB


class _Part(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """What all messages and their parts share: an array without names."""


class Head(_Part, frozen=True):
    """The newest batch of one branch of one log."""

    log: Hash32
    seq: U63
    batch: Hash32


class Folders(_Part, frozen=True):
    """The folders that the sender shares with the receiver, all of them."""

    folders: Annotated[tuple[Hash32, ...], Meta(max_length=4096)]


class HeadsSaid(_Part, frozen=True):
    """What the sender has of a folder's logs; `is_question` asks for the receiver's."""

    folder: Hash32
    heads: Annotated[tuple[Head, ...], Meta(max_length=HEADS_LIMIT)]
    state_root: Hash32 | None
    state_version: U32
    is_importing: bool
    is_applied: bool
    is_question: bool


class Range(_Part, frozen=True):
    """Batches of one log after a seq (None: from the start) up to and with another."""

    log: Hash32
    after_seq: U63 | None
    through_seq: U63


class Get(_Part, frozen=True):
    """Ask for batches by ranges and ids, at most about `limit_bytes` of them."""

    request: U32
    folder: Hash32
    ranges: Annotated[tuple[Range, ...], Meta(max_length=HEADS_LIMIT)]
    ids: Annotated[tuple[Hash32, ...], Meta(max_length=IDS_LIMIT)]
    limit_bytes: U32


class PackedBatch(_Part, frozen=True):
    """A batch; its body is zstd if `inflated_size` says how large it becomes."""

    header: Annotated[bytes, Meta(max_length=HEADER_LIMIT_BYTES)]
    signature: Bytes64
    body: Annotated[bytes, Meta(max_length=BODY_LIMIT_BYTES)]
    inflated_size: Annotated[int, Meta(ge=1, le=BODY_LIMIT_BYTES)] | None


class Batches(_Part, frozen=True):
    """A part of the answer to a Get, in (lamport, batch id) order.

    `is_last` ends the answer; `has_more` then says that the limit ended it, not the log.
    """

    request: U32
    folder: Hash32
    batches: Annotated[tuple[PackedBatch, ...], Meta(max_length=BATCHES_LIMIT)]
    is_last: bool
    has_more: bool


class SmallContent(_Part, frozen=True):
    """A whole small content and the hash it was asked by."""

    hash: Hash32
    content: Annotated[bytes, Meta(max_length=SMALL_LIMIT_BYTES)]


class News(_Part, frozen=True):
    """Fresh batches, unasked, with small contents that they name (64 KiB together)."""

    folder: Hash32
    batches: Annotated[tuple[PackedBatch, ...], Meta(max_length=BATCHES_LIMIT)]
    contents: Annotated[tuple[SmallContent, ...], Meta(max_length=WANTED_LIMIT)]


class SignedAddresses(_Part, frozen=True):
    """Where an agent says it can be reached; highest counter wins. Checked by its receiver."""

    agent: Hash32
    counter: U63
    addresses: Annotated[tuple[Annotated[bytes, Meta(max_length=255)], ...], Meta(max_length=16)]
    signature: Bytes64


class Addresses(_Part, frozen=True):
    """Addresses of members, passed on."""

    records: Annotated[tuple[SignedAddresses, ...], Meta(max_length=128)]


class Fork(_Part, frozen=True):
    """Proof that an agent signed two batches with one log and seq."""

    folder: Hash32
    header: Annotated[bytes, Meta(max_length=HEADER_LIMIT_BYTES)]
    signature: Bytes64
    other_header: Annotated[bytes, Meta(max_length=HEADER_LIMIT_BYTES)]
    other_signature: Bytes64


class Offer(_Part, frozen=True):
    """The checkpoint whose snapshot can be had here, for whoever has nothing of the folder yet."""

    folder: Hash32
    founding: PackedBatch  # proves who the owner is
    checkpoint: PackedBatch


class Want(_Part, frozen=True):
    """Ask for a piece of one content; Data answers it."""

    request: U32
    folder: Hash32
    hash: Hash32
    offset: Size
    length: Annotated[int, Meta(ge=1, le=RANGE_LIMIT_BYTES)]


class WantSmall(_Part, frozen=True):
    """Ask for many small contents whole; Small and NotHave answer it."""

    request: U32
    folder: Hash32
    hashes: Annotated[tuple[Hash32, ...], Meta(min_length=1, max_length=WANTED_LIMIT)]


class Cancel(_Part, frozen=True):
    """Take back a want."""

    request: U32


class Data(Struct, frozen=True, gc=False):
    """A piece of a large content (fixed layout, no msgpack: the bytes are not copied)."""

    request: int
    offset: int
    piece: Buffer


class Small(_Part, frozen=True):
    """Small contents, packed; request 0 where an earlier want could not be served then."""

    request: U32
    folder: Hash32
    contents: Annotated[tuple[SmallContent, ...], Meta(max_length=WANTED_LIMIT)]


class NotHave(_Part, frozen=True):
    """Not here, or not for you, or no such folder: one answer for all three."""

    request: U32
    hashes: Annotated[tuple[Hash32, ...], Meta(max_length=WANTED_LIMIT)]


class Have(_Part, frozen=True):
    """Contents that were wanted and answered not-have are here now."""

    folder: Hash32
    hashes: Annotated[tuple[Hash32, ...], Meta(max_length=WANTED_LIMIT)]


class WantChunks(_Part, frozen=True):
    """Ask for the chunk list of a large content, from chunk number `first` on."""

    request: U32
    folder: Hash32
    hash: Hash32
    first: U32


class ChunkLine(_Part, frozen=True):
    """One content-defined chunk: its BLAKE3 and length. Where it starts follows from the list."""

    hash: Hash32
    length: Annotated[int, Meta(ge=1, le=1024 * 1024)]


class Chunks(_Part, frozen=True):
    """A part of a chunk list of `total` chunks."""

    request: U32
    first: U32
    total: U32
    chunks: Annotated[tuple[ChunkLine, ...], Meta(max_length=CHUNKS_LIMIT)]


class WantDifference(_Part, frozen=True):
    """Ask how a large content's chunk list differs from that of an older one, from `first` on."""

    request: U32
    folder: Hash32
    hash: Hash32
    old: Hash32
    first: U32


class Stretch(_Part, frozen=True):
    """Chunks that the old list does not have, then `count` that it has from number `first` on.

    `fine` refines the new chunks, all of them together (empty: not refined): lines of 18 bytes.
    The equal ones are `length` bytes that stand at `offset` of the old content.
    """

    chunks: Annotated[tuple[ChunkLine, ...], Meta(max_length=CHUNKS_LIMIT)]
    fine: Annotated[bytes, Meta(max_length=FINE_LIMIT_BYTES)]
    first: U32
    count: U32
    offset: Size
    length: Size


class Difference(_Part, frozen=True):
    """A part of a chunk list of `total` chunks, from number `first` on, against an older one."""

    request: U32
    first: U32
    total: U32
    stretches: Annotated[tuple[Stretch, ...], Meta(max_length=CHUNKS_LIMIT)]


class Ping(_Part, frozen=True):
    """Ask for a Pong with the same number."""

    number: U63


class Pong(_Part, frozen=True):
    """Answer a Ping."""

    number: U63


class Error(_Part, frozen=True):
    """Say why the connection is about to be closed, as far as a member may know."""

    code: U32
    text: Annotated[bytes, Meta(max_length=255)]


class Unknown(Struct, frozen=True, gc=False):
    """A message of an optional kind that this dizzyd does not know."""

    kind: int


Message = (
    Folders
    | HeadsSaid
    | Get
    | Batches
    | News
    | Addresses
    | Fork
    | Want
    | WantSmall
    | Cancel
    | Data
    | Small
    | NotHave
    | Have
    | WantChunks
    | Chunks
    | WantDifference
    | Difference
    | Offer
    | Ping
    | Pong
    | Error
    | Unknown
)

_DATA_KIND: Final = 11
_KINDS: Final[dict[int, type[_Part]]] = {
    1: Folders,
    2: HeadsSaid,
    3: Get,
    4: Batches,
    5: News,
    6: Addresses,
    7: Fork,
    8: Want,
    9: WantSmall,
    10: Cancel,
    12: Small,
    13: NotHave,
    14: Have,
    15: WantChunks,
    16: Chunks,
    17: Ping,
    18: Pong,
    19: Error,
    64: WantDifference,
    65: Difference,
    66: Offer,
}
_KIND_OF: Final = {message: kind for kind, message in _KINDS.items()}
_encoder = msgspec.msgpack.Encoder()
_decoders: Final = {kind: msgspec.msgpack.Decoder(message) for kind, message in _KINDS.items()}


def parse(kind: int, payload: Buffer) -> Message:
    """Turn the payload of a whole message into the message: the one door for foreign messages.

    Raises Malformed for an unknown mandatory kind and for anything but exactly what its schema
    says. The piece of a Data is a view of `payload`, not a copy.
    """
    if len(payload) > MESSAGE_LIMIT_BYTES:
        raise Malformed("message", f"has {len(payload)} bytes")
    if kind == _DATA_KIND:
        return _parse_data(payload)
    decoder = _decoders.get(kind)
    if decoder is None:
        if kind >= FIRST_OPTIONAL_KIND:
            return Unknown(kind)
        raise Malformed("message", f"has the unknown kind {kind}")
    try:
        return decoder.decode(payload)  # type: ignore[return-value]
    except msgspec.DecodeError as cause:
        raise Malformed(f"{_KINDS[kind].__name__} message", str(cause)) from cause


def _parse_data(payload: Buffer) -> Data:
    if len(payload) <= DATA_HEADER_BYTES:
        raise Malformed("Data message", "has no bytes")
    view = memoryview(payload)
    return Data(
        request=int.from_bytes(view[:4], "big"),
        offset=int.from_bytes(view[4:DATA_HEADER_BYTES], "big"),
        piece=view[DATA_HEADER_BYTES:],
    )


def frames(message: Message, stream: int) -> list[bytes]:
    """Cut a message into the frames that carry it; `stream` tells it from others under way.

    Raises Malformed if it is larger than a message may be.
    """
    if isinstance(message, Data):
        head = message.request.to_bytes(4, "big") + message.offset.to_bytes(8, "big")
        return [b"".join((frame_header(_DATA_KIND, stream, 0, 0), head, message.piece))]
    if isinstance(message, Unknown):
        raise Malformed("message", "of an unknown kind cannot be sent")
    return cut(_KIND_OF[type(message)], stream, _encoder.encode(message))
