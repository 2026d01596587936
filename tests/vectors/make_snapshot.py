"""Write snapshot-2.json: `python -m tests.vectors.make_snapshot`; only a new version may."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from store import events, signing
from store.checkpoint import Restored, describe
from store.events import (
    AttributesChanged,
    Content,
    ContentChanged,
    Granted,
    ObjectCreated,
    Tagged,
    Untagged,
)
from store.ids import BatchId, Epoch, FolderId, Kind, ObjectId, blob_hash, object_id

PATH = Path(__file__).with_name("snapshot-2.json")

_OWNER = signing.AgentKey.from_seed(b"dizzyd vector: owner agent seed!")
_MEMBER = signing.AgentKey.from_seed(b"dizzyd vector: member agent seed")
_READER = signing.AgentKey.from_seed(b"dizzyd vector: reader agent seed")
_FOLDER = signing.AgentKey.from_seed(b"dizzyd vector: folder key's seed")
FOLDER = FolderId(_FOLDER.agent)


def _content(text: bytes) -> Content:
    return Content(blob_hash(text), len(text))


def _batch(
    key: signing.AgentKey,
    prev: signing.SignedBatch | None,
    deps: Sequence[signing.SignedBatch],
    facts: Sequence[events.Event],
) -> signing.SignedBatch:
    parents = [*deps] if prev is None else [prev, *deps]
    return signing.sign_batch(
        key,
        folder=FOLDER,
        epoch=Epoch(key.agent[:16]),
        seq=0 if prev is None else prev.header.seq + 1,
        prev=None if prev is None else prev.id,
        deps=[BatchId(dep.id) for dep in deps],
        lamport=1 + max((one.header.lamport for one in parents), default=0),
        wall_ms=1_790_000_000_000,
        events=[events.encode(fact) for fact in facts],
    )


def batches() -> list[signing.SignedBatch]:
    """Make a log of which something is left out for each of the reasons, and something is not."""
    shared = signing.sign_folder_shared(
        _FOLDER, owner=_OWNER.agent, name=b"f", label=b"laptop", nonce=bytes(16)
    )
    first = _batch(_OWNER, None, (), [shared])
    granted = _batch(
        _OWNER,
        first,
        (),
        [
            Granted(_MEMBER.agent, 2, False, None, b"desktop"),
            Granted(_READER.agent, 3, False, None, b"phone"),
        ],
    )
    root = ObjectId(FOLDER)
    note = object_id(FOLDER, root, Kind.FILE, 0, b"notes.txt")
    created = _batch(
        _MEMBER,
        None,
        [granted],
        [
            ObjectCreated(FOLDER, 0, 0, b"notes.txt", _content(b"one"), 0, 1, ()),
            ObjectCreated(FOLDER, 1, 0, b"trips", None, 0, 2, ()),
            AttributesChanged(note, 1, None, None),  # left out: set again later
            Tagged(note, b"trip"),  # left out
        ],
    )
    refused = _batch(_READER, None, [granted], [Tagged(note, b"mine")])  # left out: a reader's
    saved = _batch(  # a stub: its one version is buried
        _MEMBER, created, (), [ContentChanged(note, _content(b"1"), 2, (created.event_ids[0],))]
    )
    changed = _batch(
        _OWNER,
        granted,
        [saved],
        [
            ContentChanged(note, _content(b"two"), 3, (saved.event_ids[0],)),
            AttributesChanged(note, 0, 4, None),
            Untagged(note, b"trip"),
        ],
    )
    last = _batch(_MEMBER, saved, [changed], [AttributesChanged(note, None, 5, None)])
    return [first, granted, created, refused, saved, changed, last]


def make() -> dict[str, object]:
    """Take the snapshot of that log; the same on every machine and every run."""
    restored = Restored(FOLDER)
    restored.admit(batches())
    pieces: list[bytes] = []
    checkpoint = describe(restored.db, restored.log, restored.state, pieces.append)
    restored.close()
    assert checkpoint is not None
    return {
        "format": "dizzyd snapshot, version 2; byte strings are hex",
        "folder": FOLDER.hex(),
        "checkpointed": events.encode(checkpoint).hex(),
        "snapshot": b"".join(pieces).hex(),
        "left_out": [[3, 0], [2, 2], [2, 3]],  # (which of batches(), index), the reader's first
        "stubs": [4],
        "buried": [[2, 0], [4, 0]],
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(make(), indent=1) + "\n", "ascii")
