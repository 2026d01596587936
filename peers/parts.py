"""Divide batches into messages, and prove those that came in one.

Pure: nothing is sent or stored here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from peers import wire
from peers.framing import MESSAGE_LIMIT_BYTES
from peers.packing import unpack
from store.codec import decode_header
from store.errors import BadSignature, Malformed
from store.ids import AgentId, FolderId, batch_id, log_id
from store.signing import SignedBatch, WireBatch, verify

if TYPE_CHECKING:
    from collections.abc import Sequence

PART_LIMIT_BYTES: Final = 1024 * 1024  # bodies in one message
INLINE_VERIFY_BYTES: Final = 32 * 1024  # larger deliveries are verified beside the loop

B = TypeVar("B", WireBatch, wire.PackedBatch)


def verify_all(
    batches: Sequence[wire.PackedBatch],
) -> tuple[list[SignedBatch], dict[str, int]]:
    """Inflate and prove batches; give the good ones, and counts of what was wrong with others."""
    proven: list[SignedBatch] = []
    bad: dict[str, int] = {}
    for packed in batches:
        try:
            proven.append(verify(unpack(packed)))
        except Malformed:
            bad["malformed-batch"] = bad.get("malformed-batch", 0) + 1
        except BadSignature:
            bad["bad-signature"] = bad.get("bad-signature", 0) + 1
    return proven, bad


def divided(batches: Sequence[B]) -> list[list[B]]:
    """Divide batches so that each part fits in one message, compressed or not."""
    parts: list[list[B]] = []
    size = PART_LIMIT_BYTES + 1
    for one in batches:
        one_size = len(one.body) + len(one.header) + 128
        if size + one_size > PART_LIMIT_BYTES or len(parts[-1]) >= wire.BATCHES_LIMIT:
            parts.append([])
            size = 0
        parts[-1].append(one)
        size += one_size
    return parts


def fitting(
    packed: Sequence[wire.PackedBatch], inline: tuple[wire.SmallContent, ...]
) -> tuple[wire.SmallContent, ...]:
    """Let contents go along only with news that is small itself: it must not be delayed."""
    size = sum(len(one.body) + len(one.header) + 128 for one in packed)
    room = MESSAGE_LIMIT_BYTES - size - 64 * len(inline) - 128
    return inline if sum(len(one.content) for one in inline) <= room else ()


def first_within(batches: Sequence[SignedBatch], room_bytes: int) -> list[SignedBatch]:
    """Give the first of some batches, until their bodies have filled the room."""
    first: list[SignedBatch] = []
    for signed in batches:
        if room_bytes <= 0:
            break
        first.append(signed)
        room_bytes -= len(signed.body)
    return first


def extent(batches: Sequence[WireBatch]) -> tuple[dict[bytes, int], set[bytes]]:
    """Say how far batches reach in each log, and their ids: so that reading goes on after them."""
    through: dict[bytes, int] = {}
    given: set[bytes] = set()
    for one in batches:
        header = decode_header(one.header)
        log = log_id(FolderId(header.folder), AgentId(header.agent), header.epoch)
        through[log] = max(header.seq, through.get(log, -1))
        given.add(batch_id(one.header))
    return through, given
