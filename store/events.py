"""Define every event that can stand in a log, and turn events into bytes and back.

The type annotation is the schema: strict types, bounded lengths, no maps, no floats; names are
bytes. Decoding accepts nothing that encoding would not write, but for non-minimal integers,
which is why the bytes as received are what is hashed, stored and passed on, never a
re-encoding (docs/log-format.md).

Adding a fact means adding a tag. A field never changes.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from store.errors import Malformed

Hash32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Bytes16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
Bytes64 = Annotated[bytes, Meta(min_length=64, max_length=64)]
NameBytes = Annotated[bytes, Meta(min_length=1, max_length=255)]
LinkTarget = Annotated[bytes, Meta(min_length=1, max_length=4095)]
LabelBytes = Annotated[bytes, Meta(max_length=255)]
TagBytes = Annotated[bytes, Meta(min_length=1, max_length=255)]
Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Nanoseconds = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
U63 = Annotated[int, Meta(ge=0, le=2**63 - 1)]
KindNumber = Annotated[int, Meta(ge=0, le=2)]
ModeBit = Annotated[int, Meta(ge=0, le=1)]
Prev = Annotated[tuple[Hash32, ...], Meta(max_length=256)]

EVENT_LIMIT_BYTES = 0xFFFF  # the length prefix in a batch body is a u16
FIRST_FOLDER_TAG = 16  # from here on: membership and log; such batches hold nothing else
FIRST_OPTIONAL_TAG = 128  # an older node may skip these


class Content(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """The bytes of a file: their BLAKE3 and their number."""

    hash: Hash32
    size: Size


class _Event(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """What all events share: an array that begins with the integer tag."""


class ObjectCreated(_Event, frozen=True, tag=1):
    """An object exists: its id follows from parent, kind, generation and name."""

    parent: Hash32
    kind: KindNumber
    generation: U32
    name: NameBytes
    content: Content | LinkTarget | None
    mode: ModeBit
    mtime_ns: Nanoseconds
    prev: Prev


class ContentChanged(_Event, frozen=True, tag=2):
    """A file has other bytes, or a symlink another target."""

    object: Hash32
    content: Content | LinkTarget
    mtime_ns: Nanoseconds
    prev: Prev


class ObjectMoved(_Event, frozen=True, tag=3):
    """An object stands under another parent or name."""

    object: Hash32
    parent: Hash32
    name: NameBytes
    prev: Prev


class ObjectDeleted(_Event, frozen=True, tag=4):
    """An object is gone; `along_with` names its directory's deletion in the same act ("with")."""

    object: Hash32
    prev: Prev
    placement_seen: Hash32 | None
    along_with: Hash32 | None


class AttributesChanged(_Event, frozen=True, tag=5):
    """The executable bit or the modification time changed, not the content."""

    object: Hash32
    mode: ModeBit | None
    mtime_ns: Nanoseconds | None
    extended: None


class Tagged(_Event, frozen=True, tag=6):
    """An object carries a tag."""

    object: Hash32
    tag: TagBytes


class Untagged(_Event, frozen=True, tag=7):
    """An object no longer carries a tag."""

    object: Hash32
    tag: TagBytes


class FolderShared(_Event, frozen=True, tag=16):
    """A folder exists; signed by the folder's own key, whose secret is then discarded."""

    folder: Hash32
    owner: Hash32
    name: NameBytes
    label: LabelBytes
    nonce: Bytes16
    signature: Bytes64


class Granted(_Event, frozen=True, tag=17):
    """An agent has a role; 0 owner, 1 admin, 2 write, 3 read."""

    agent: Hash32
    role: Annotated[int, Meta(ge=1, le=3)]
    may_delegate: bool
    expires_ms: U63 | None
    label: LabelBytes


class CutPoint(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """The last accepted batch of one log; what comes before it by prev or deps is accepted too."""

    log: Hash32
    seq: U63
    batch: Hash32


class Revoked(_Event, frozen=True, tag=18):
    """An agent is revoked from a cut on; the owner about itself ends the folder (store.ending).

    About anybody else it is reserved: never emitted, without effect.
    """

    agent: Hash32
    cut: Annotated[tuple[CutPoint, ...], Meta(max_length=1024)]


class EpochOpened(_Event, frozen=True, tag=19):
    """An agent goes on in a new log after its home was restored or cloned."""

    previous_log: Hash32
    previous_batch: Hash32 | None


class Checkpointed(_Event, frozen=True, tag=20):
    """State at a frontier, as a snapshot blob (store.checkpoint)."""

    frontier: Annotated[tuple[Hash32, ...], Meta(max_length=1024)]
    state_version: U32
    state_root: Hash32
    snapshot: Content


class Attested(_Event, frozen=True, tag=21):
    """Another agent found the same state at a checkpoint (reserved)."""

    checkpoint: Hash32
    state_root: Hash32


ObjectEvent = (
    ObjectCreated
    | ContentChanged
    | ObjectMoved
    | ObjectDeleted
    | AttributesChanged
    | Tagged
    | Untagged
)
FolderEvent = FolderShared | Granted | Revoked | EpochOpened | Checkpointed | Attested
Event = ObjectEvent | FolderEvent

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)

encode = _encoder.encode


def tag_of(event: bytes) -> int:
    """Read the integer tag of an encoded event without decoding the rest.

    Raises Malformed where the bytes are not an array that begins with an integer.
    """
    # array of up to 15 items (0x90..0x9f), then a positive fixint or a u8: all tags are small.
    if len(event) >= 2 and 0x90 < event[0] <= 0x9F:  # noqa: PLR2004 - the msgpack format
        if event[1] < 0x80:  # noqa: PLR2004 - positive fixint
            return event[1]
        if event[1] == 0xCC and len(event) > 2:  # noqa: PLR2004 - u8 follows
            return event[2]
    raise Malformed("event", "is not a tagged array")


def decode(event: bytes) -> Event:
    """Decode one event strictly.

    Raises Malformed for anything but exactly one known event with nothing left over; ask
    tag_of first where an unknown tag is to be told from damage.
    """
    try:
        return _decoder.decode(event)
    except msgspec.DecodeError as cause:
        raise Malformed("event", str(cause)) from cause
