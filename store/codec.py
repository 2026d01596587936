"""Lay out batches: header bytes, body bytes and the Merkle tree over event ids.

This module knows layouts and bounds only. It checks no signature, computes no id from keys,
decodes no event and touches no clock, no randomness and no storage. The byte tables are in
docs/log-format.md.

Every decoder here is strict: right types, right bounds, nothing left over. The bytes as received
stay what is hashed; nothing is encoded again to be checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise
from typing import Annotated, Final, NoReturn

import msgspec
from blake3 import blake3
from msgspec import Meta, Struct

from store.errors import Malformed
from store.ids import ID_BYTES, AgentId, BatchId, Epoch, FolderId

FORMAT_VERSION: Final = 1
HEADER_LIMIT_BYTES: Final = 64 * 1024
BODY_LIMIT_BYTES: Final = 1024 * 1024
EVENTS_LIMIT: Final = 4096
DEPS_LIMIT: Final = 1024

_LENGTH_BYTES = 2  # u16 before each event of a body
_EVENT_LIMIT_BYTES = 0xFFFF
_LEAF = b"\x00"
_NODE = b"\x01"

_Hash32 = Meta(min_length=ID_BYTES, max_length=ID_BYTES)


class NewerVersion(Malformed):
    """A header of a version that this dizzyd does not know yet."""


class Header(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """The signed facts about one batch; msgpack array of 12 items in this order.

    `prev` is the batch before it in the same log, absent exactly where `seq` is 0. `deps` are
    batches of other logs, in ascending order and each once. `wall_ms` is Unix time for display
    and orders nothing.
    """

    version: Annotated[int, Meta(ge=FORMAT_VERSION, le=FORMAT_VERSION)]
    folder: Annotated[FolderId, _Hash32]
    agent: Annotated[AgentId, _Hash32]
    epoch: Annotated[Epoch, Meta(min_length=16, max_length=16)]
    seq: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    prev: Annotated[BatchId, _Hash32] | None
    deps: Annotated[tuple[Annotated[BatchId, _Hash32], ...], Meta(max_length=DEPS_LIMIT)]
    lamport: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    wall_ms: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    count: Annotated[int, Meta(ge=1, le=EVENTS_LIMIT)]
    body_size: Annotated[int, Meta(ge=1, le=BODY_LIMIT_BYTES)]
    events_root: Annotated[bytes, _Hash32]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Header)


def encode_header(header: Header) -> bytes:
    """Turn a header into the bytes that are hashed, signed, stored and sent.

    Does not check bounds: `signing.sign_batch` does, by decoding what it made.
    """
    return _encoder.encode(header)


def decode_header(data: bytes) -> Header:
    """Read one header strictly, with every rule that needs nothing but the header.

    Raises NewerVersion (a Malformed) for a higher format version, Malformed for all else. That
    lamport is one more than the greatest of prev and deps is the log's to check.
    """
    if len(data) > HEADER_LIMIT_BYTES:
        raise Malformed(
            "header", f"has {len(data)} bytes, at most {HEADER_LIMIT_BYTES} are allowed"
        )
    try:
        header = _decoder.decode(data)
    except msgspec.DecodeError as cause:
        _refuse_newer_version(data)
        raise Malformed("header", str(cause)) from cause
    _check_parents(header)
    return header


def _refuse_newer_version(data: bytes) -> None:
    # fixarray of at least 12 items and a positive fixint: what any later version begins with.
    if len(data) > 1 and 0x90 <= data[0] <= 0x9F and FORMAT_VERSION < data[1] < 0x80:  # noqa: PLR2004
        raise NewerVersion(
            "header", f"has format version {data[1]}", hint="update dizzyd on this node"
        )


def _check_parents(header: Header) -> None:
    if (header.prev is None) != (header.seq == 0):
        raise Malformed("header", "has a prev at seq 0, or none after it")
    deps = header.deps
    if len(deps) > 1 and any(a >= b for a, b in pairwise(deps)):
        raise Malformed("header", "has deps that are not in ascending order, each once")
    if header.prev is not None and header.prev in deps:
        raise Malformed("header", "names its prev among its deps")
    has_parents = header.prev is not None or bool(deps)
    if has_parents != (header.lamport > 1):
        raise Malformed("header", "has a lamport that does not fit its parents")


def join_events(events: Sequence[bytes]) -> bytes:
    """Make a body: for each event its length as a big-endian u16, then its bytes.

    Raises Malformed where an event is empty or longer than 65,535 bytes.
    """
    parts: list[bytes] = []
    for event in events:
        if not 0 < len(event) <= _EVENT_LIMIT_BYTES:
            raise Malformed("body", f"an event has {len(event)} bytes")
        parts.append(len(event).to_bytes(_LENGTH_BYTES, "big"))
        parts.append(event)
    return b"".join(parts)


def event_offsets(body: bytes | memoryview, count: int) -> list[tuple[int, int]]:
    """Find the (offset, length) of each event in a body, without copying any.

    Raises Malformed unless exactly `count` non-empty events fill the body.
    """
    offsets: list[tuple[int, int]] = []
    end = 0
    try:
        for _ in range(count):
            length = body[end] << 8 | body[end + 1]
            start = end + _LENGTH_BYTES
            end = start + length
            if length == 0:
                _refuse_body()
            offsets.append((start, length))
    except IndexError:
        _refuse_body()
    if end != len(body):
        _refuse_body()
    return offsets


def split_events(body: bytes, count: int) -> list[bytes]:
    """Cut a body into its events.

    Raises Malformed unless exactly `count` non-empty events fill the body.
    """
    return [body[start : start + length] for start, length in event_offsets(body, count)]


def thin_body(body: bytes, count: int, left_out: AbstractSet[int]) -> bytes:
    """Give a body without some of its events: where one stood, its length is nought.

    The body may be thinned already. Raises Malformed as split_thinned does.
    """
    parts: list[bytes] = []
    for position, event in enumerate(split_thinned(body, count)):
        kept = b"" if position in left_out else event
        parts.append(len(kept).to_bytes(_LENGTH_BYTES, "big"))
        parts.append(kept)
    return b"".join(parts)


def split_thinned(body: bytes, count: int) -> list[bytes]:
    """Cut a body that may be thinned into its events; what was left out is empty.

    Raises Malformed unless exactly `count` lengths, with their events, fill the body.
    """
    events: list[bytes] = []
    end = 0
    for _ in range(count):
        start = end + _LENGTH_BYTES
        end = start + int.from_bytes(body[start - _LENGTH_BYTES : start], "big")
        if end > len(body) or start > len(body):
            _refuse_body()
        events.append(body[start:end])
    if end != len(body):
        _refuse_body()
    return events


def _refuse_body() -> NoReturn:
    raise Malformed("body", "is not exactly the number of events that the header says")


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Hash event ids to one root, split as in RFC 6962 section 2.1, with BLAKE3.

    There is no root of no leaves: raises ValueError.
    """
    if not leaves:
        raise ValueError("a Merkle root needs at least one leaf")
    level = [blake3(_LEAF + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        level = _level_above(level)
    return level[0]


def merkle_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Give the siblings from leaf `index` up to the root, lowest first (RFC 6962, 2.1.1)."""
    if not 0 <= index < len(leaves):
        raise IndexError(index)
    path: list[bytes] = []
    level = [blake3(_LEAF + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        level = _level_above(level)
        index >>= 1
    return path


def root_from_path(leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bytes:
    """Compute the root that `path` proves for the leaf at `index` of `count`.

    Raises Malformed where the path has not the length that index and count call for.
    """
    if not 0 <= index < count <= EVENTS_LIMIT:
        raise Malformed("proof", f"index {index} of {count} events")
    node = blake3(_LEAF + leaf).digest()
    siblings = iter(path)
    last = count - 1
    try:
        while last:
            if index & 1:
                node = blake3(_NODE + next(siblings) + node).digest()
            elif index < last:
                node = blake3(_NODE + node + next(siblings)).digest()
            index >>= 1
            last >>= 1
    except StopIteration:
        raise Malformed("proof", "is too short") from None
    if next(siblings, None) is not None:
        raise Malformed("proof", "is too long")
    return node


def _level_above(level: list[bytes]) -> list[bytes]:
    # Pairing from the left and lifting an odd last node unchanged gives RFC 6962's split at the
    # largest power of two below the count, without recursion.
    pairs = iter(level)
    above = [
        blake3(_NODE + left + right).digest() for left, right in zip(pairs, pairs, strict=False)
    ]
    if len(level) & 1:
        above.append(level[-1])
    return above
