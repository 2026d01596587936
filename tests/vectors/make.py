"""Write log-1.json: golden vectors for every format of docs/log-format.md.

Run as `python -m tests.vectors.make` only when a format gets a new version; a test holds the
file and the code together. It makes no secret: all keys come from seeds in plain sight.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeAlias

import msgspec

from store import codec, events, ids, signing
from store.events import (
    Attested,
    AttributesChanged,
    Checkpointed,
    Content,
    ContentChanged,
    CutPoint,
    EpochOpened,
    FolderShared,
    Granted,
    ObjectCreated,
    ObjectDeleted,
    ObjectMoved,
    Revoked,
    Tagged,
    Untagged,
)
from store.ids import AgentId, BatchId, Epoch, FolderId, Kind, ObjectId

VECTORS = Path(__file__).with_name("log-1.json")
LEAVES = 17

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | None"

_OWNER = signing.AgentKey.from_seed(b"dizzyd vector: owner agent seed!")
_MEMBER = signing.AgentKey.from_seed(b"dizzyd vector: member agent seed")
_FOLDER = signing.AgentKey.from_seed(b"dizzyd vector: folder key's seed")


def _mark(number: int, length: int = 32) -> bytes:
    """Make bytes that are easy to find again in a dump."""
    return bytes((number + offset) & 0xFF for offset in range(length))


def _shared() -> FolderShared:
    return signing.sign_folder_shared(
        _FOLDER,
        owner=_OWNER.agent,
        name="Fotos für alle".encode(),
        label=b"laptop",
        nonce=_mark(0xA0, 16),
    )


def _all_events() -> list[events.Event]:
    large = 2**63 - 1
    content = Content(_mark(1), 5)
    prev = (_mark(0x20), _mark(0x40))
    return [
        ObjectCreated(_FOLDER.agent, 0, 0, b"notes.txt", content, 0, 1_700_000_000_000_000_000, ()),
        ObjectCreated(_mark(2), 0, 2**32 - 1, b"\xff\n\x1b", Content(_mark(3), large), 1, -1, prev),
        ObjectCreated(_mark(2), 1, 1, b"d" * 255, None, 0, -(2**63), ()),
        ObjectCreated(_mark(2), 2, 0, b"link", b"../elsewhere", 0, large, ()),
        ContentChanged(_mark(4), Content(_mark(5), 0), 0, prev),
        ContentChanged(_mark(4), b"t" * 4095, 1, (_mark(0x20),)),
        ObjectMoved(_mark(6), _mark(7), "ä".encode(), prev),
        ObjectDeleted(_mark(8), prev, None, None),
        ObjectDeleted(_mark(8), (), _mark(9), _mark(10)),
        AttributesChanged(_mark(11), 1, None, None),
        AttributesChanged(_mark(11), None, 128, None),
        Tagged(_mark(12), b"trip"),
        Untagged(_mark(12), b"trip"),
        _shared(),
        Granted(_MEMBER.agent, 2, False, None, b"desktop"),
        Granted(_MEMBER.agent, 1, True, 1_800_000_000_000, b""),
        Revoked(
            _MEMBER.agent,
            (CutPoint(_mark(13), 0, _mark(14)), CutPoint(_mark(15), 70_000, _mark(16))),
        ),
        EpochOpened(_mark(17), _mark(18)),
        EpochOpened(_mark(17), None),
        Checkpointed((_mark(19), _mark(20)), 1, _mark(21), Content(_mark(22), 65_536)),
        Attested(_mark(23), _mark(24)),
    ]


def _plain(value: object) -> Json:
    """Show any field: byte strings as hex, structures as lists."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, msgspec.Struct):
        return [_plain(field) for field in msgspec.structs.astuple(value)]
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, int):
        return value
    raise TypeError(type(value))


def _event_vectors() -> list[Json]:
    return [
        {
            "type": type(event).__name__,
            "fields": _plain(event),
            "event": events.encode(event).hex(),
        }
        for event in _all_events()
    ]


def _id_vectors() -> dict[str, Json]:
    log = ids.log_id(FolderId(_mark(1)), AgentId(_mark(2)), Epoch(_mark(3, 16)))
    objects: list[Json] = [
        {
            "folder": _mark(1).hex(),
            "parent": _mark(parent).hex(),
            "kind": kind,
            "generation": generation,
            "name": name.hex(),
            "id": ids.object_id(
                FolderId(_mark(1)), ObjectId(_mark(parent)), Kind(kind), generation, name
            ).hex(),
        }
        for parent, kind, generation, name in (
            (1, 0, 0, b"notes.txt"),
            (1, 1, 0, b"notes.txt"),
            (7, 2, 2**32 - 1, b"\xff"),
        )
    ]
    named: list[Json] = [
        {
            "log": log.hex(),
            "seq": seq,
            "index": index,
            "event": event.hex(),
            "id": ids.event_id(log, seq, index, event).hex(),
        }
        for seq, index, event in ((0, 0, b"\x91\x01"), (2**63 - 1, 4095, b"x" * 300))
    ]
    return {
        "logs": [
            {
                "folder": _mark(1).hex(),
                "agent": _mark(2).hex(),
                "epoch": _mark(3, 16).hex(),
                "id": log.hex(),
            }
        ],
        "events": named,
        "objects": objects,
        "blobs": [
            {"content": content.hex(), "id": ids.blob_hash(content).hex()}
            for content in (b"", b"hello", b"x" * 1025)
        ],
    }


def _merkle_vectors() -> list[Json]:
    leaves = [_mark(number) for number in range(LEAVES)]
    return [
        {
            "leaves": [leaf.hex() for leaf in leaves[:count]],
            "root": codec.merkle_root(leaves[:count]).hex(),
            "paths": [
                [node.hex() for node in codec.merkle_path(leaves[:count], index)]
                for index in range(count)
            ],
        }
        for count in range(1, LEAVES + 1)
    ]


def _signature_vectors() -> list[Json]:
    return [
        {
            "seed": key.seed.hex(),
            "agent": key.agent.hex(),
            "message": message.hex(),
            "signature": key.sign(message).hex(),
        }
        for key, message in ((_OWNER, b""), (_MEMBER, b"dizzyd"), (_FOLDER, _mark(0, 200)))
    ]


def _batch(signed: signing.SignedBatch) -> Json:
    return {
        "header_fields": _plain(signed.header),
        "header": signed.header_bytes.hex(),
        "signature": signed.signature.hex(),
        "body": signed.body.hex(),
        "log": signed.log.hex(),
        "id": signed.id.hex(),
        "event_ids": [identity.hex() for identity in signed.event_ids],
    }


def _batch_vectors() -> list[Json]:
    everything = [(event, events.encode(event)) for event in _all_events()]
    about_folder = [data for event, data in everything if isinstance(event, events.FolderEvent)]
    about_objects = [data for event, data in everything if isinstance(event, events.ObjectEvent)]
    folder, epoch = FolderId(_FOLDER.agent), Epoch(_mark(0xE0, 16))
    first = signing.sign_batch(
        _OWNER,
        folder=folder,
        epoch=epoch,
        seq=0,
        prev=None,
        deps=(),
        lamport=1,
        wall_ms=1_790_000_000_000,
        events=[events.encode(_shared())],
    )
    second = signing.sign_batch(
        _OWNER,
        folder=folder,
        epoch=epoch,
        seq=1,
        prev=first.id,
        deps=[BatchId(_mark(0x77)), BatchId(_mark(0x33))],
        lamport=70_000,
        wall_ms=0,
        events=about_objects,
    )
    third = signing.sign_batch(
        _MEMBER,
        folder=folder,
        epoch=Epoch(_mark(0xF0, 16)),
        seq=0,
        prev=None,
        deps=[second.id],
        lamport=70_001,
        wall_ms=2**63 - 1,
        events=about_folder,
    )
    newer = signing.sign_batch(  # kinds of events that nobody knows yet: kept and passed on
        _MEMBER,
        folder=folder,
        epoch=Epoch(_mark(0xF0, 16)),
        seq=1,
        prev=third.id,
        deps=(),
        lamport=70_002,
        wall_ms=1,
        events=[b"\x92\xcc\x80\xc0", b"\x91\xcc\xff"],
    )
    return [_batch(signed) for signed in (first, second, third, newer)]


def make() -> dict[str, Json]:
    """Compute all vectors; the same on every machine and every run."""
    return {
        "format": "dizzyd log, version 1; byte strings are hex",
        "events": _event_vectors(),
        "ids": _id_vectors(),
        "merkle": _merkle_vectors(),
        "signatures": _signature_vectors(),
        "batches": _batch_vectors(),
    }


def render() -> str:
    """Give the exact text of log-1.json."""
    return json.dumps(make(), indent=1) + "\n"


if __name__ == "__main__":
    VECTORS.write_text(render(), encoding="ascii")
