"""Compute the ids of everything that has one.

Ids are hashes or public keys, never counters, so that two nodes that know the same facts
name them alike. This module touches no clock, no randomness and no storage.

Layouts are those of docs/log-format.md; integers inside hashed strings are big-endian.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NewType

from blake3 import blake3

AgentId = NewType("AgentId", bytes)  # 32 bytes: an Ed25519 public key
FolderId = NewType("FolderId", bytes)  # 32 bytes: an Ed25519 public key
LogId = NewType("LogId", bytes)  # 32 bytes
BatchId = NewType("BatchId", bytes)  # 32 bytes
EventId = NewType("EventId", bytes)  # 32 bytes
ObjectId = NewType("ObjectId", bytes)  # 32 bytes; the root's is the folder's
BlobHash = NewType("BlobHash", bytes)  # 32 bytes: BLAKE3 of a content
Epoch = NewType("Epoch", bytes)  # 16 random bytes
Name = NewType("Name", bytes)  # 1 to 255 bytes, see store.paths.safe_name

ID_BYTES = 32
EPOCH_BYTES = 16


class Kind(IntEnum):
    """What an object is; part of its id, so it never changes."""

    FILE = 0
    DIRECTORY = 1
    SYMLINK = 2


KINDS = tuple(Kind)  # by number: Kind(number) takes longer


def log_id(folder: FolderId, agent: AgentId, epoch: Epoch) -> LogId:
    """Name the log of one agent in one folder in one epoch."""
    return LogId(blake3(b"dizzyd/log/1" + folder + agent + epoch).digest())


def batch_id(header: bytes) -> BatchId:
    """Name a batch by the bytes of its header as received."""
    return BatchId(blake3(b"dizzyd/batch/1" + header).digest())


def event_id(log: LogId, seq: int, index: int, event: bytes) -> EventId:
    """Name one event by where it stands and by its bytes as received."""
    return numbered_event_id(event_id_prefix(log, seq), index, event)


def event_id_prefix(log: LogId, seq: int) -> bytes:
    """Give what all events of one batch have in common in what is hashed for their ids."""
    return b"dizzyd/event/1" + log + seq.to_bytes(8, "big")


def numbered_event_id(prefix: bytes, index: int, event: bytes) -> EventId:
    """Name one event of the batch that the prefix belongs to."""
    return EventId(blake3(prefix + index.to_bytes(4, "big") + event).digest())


def event_ids(log: LogId, seq: int, events: list[bytes]) -> list[EventId]:
    """Name all events of one batch, in order."""
    prefix = event_id_prefix(log, seq)
    return [
        EventId(blake3(prefix + index.to_bytes(4, "big") + event).digest())
        for index, event in enumerate(events)
    ]


def order_key(lamport: int, batch: bytes, index: int) -> bytes:
    """Give the 44 bytes by which events are ordered: lamport, batch id, index."""
    return lamport.to_bytes(8, "big") + batch + index.to_bytes(4, "big")


def object_id(
    folder: FolderId, parent: ObjectId, kind: int, generation: int, name: bytes
) -> ObjectId:
    """Name the object that is created as `name` in `parent`; every node recomputes it."""
    number = (kind << 32 | generation).to_bytes(5, "big")  # 1 kind + 4 generation
    return ObjectId(blake3(b"dizzyd/object/1" + folder + parent + number + name).digest())


def blob_hash(content: bytes) -> BlobHash:
    """Name a content by its BLAKE3."""
    return BlobHash(blake3(content).digest())


def short(identity: bytes) -> str:
    """Show an id in logs: its first 8 hex digits."""
    return identity[:4].hex()
