"""Logs that no honest node writes, about few files: whatever prev, order and forks allow."""

from __future__ import annotations

import random
from collections.abc import Sequence

from store.codec import DEPS_LIMIT
from store.events import (
    AttributesChanged,
    Content,
    ContentChanged,
    Event,
    ObjectCreated,
    ObjectDeleted,
    ObjectMoved,
    encode,
)
from store.ids import BatchId, Epoch, FolderId, Kind, ObjectId, blob_hash, object_id
from store.signing import SignedBatch, sign_batch
from tests.store.nodes import make_nodes

_NAMES = (b"a", b"b")
_CONTENTS = tuple(Content(blob_hash(b"%d" % one), one) for one in range(4))


def nasty_log(seed: int, *, steps: int = 60) -> list[SignedBatch]:
    """Sign batches of three agents with random parents, and forks of some of them."""
    rng = random.Random(seed)
    nodes = make_nodes(3)
    first = nodes[0].wires()
    folder = FolderId(nodes[0].stored.id)
    known: list[SignedBatch] = list(first)
    ends: dict[tuple[int, bytes], SignedBatch] = {(0, nodes[0].stored.epoch): first[-1]}
    ids = _Ids(folder)
    keeps_order = rng.random() < 0.5
    for _ in range(steps):
        number = rng.randrange(3)
        epoch = rng.choice([nodes[number].stored.epoch, Epoch(b"e" * 16)])
        prev = ends.get((number, epoch))
        is_fork = prev is not None and rng.random() < 0.06
        if is_fork and prev is not None:
            own = [one for one in known if one.log == prev.log]
            prev = rng.choice(own)
        seen = rng.choice(known[-6:]) if keeps_order else rng.choice(known)
        deps = {seen.id, first[-1].id} - {None if prev is None else prev.id}
        parents = [one for one in known if one.id in deps or one is prev]
        events = [encode(ids.some_event(rng)) for _ in range(rng.choice([1, 1, 1, 3]))]
        if is_fork and prev is not None and rng.random() < 0.7:  # the same facts, once more
            twins = [one for one in known if one.log == prev.log and one.header.prev == prev.id]
            events = rng.choice(twins).events if twins else events
            if twins and twins[0].is_about_folder:
                continue
        signed = sign_batch(
            nodes[number].stored.key,
            folder=folder,
            epoch=epoch,
            seq=0 if prev is None else prev.header.seq + 1,
            prev=None if prev is None else prev.id,
            deps=tuple(sorted(BatchId(one) for one in deps))[:DEPS_LIMIT],
            lamport=1 + max(one.header.lamport for one in parents),
            wall_ms=rng.randrange(1000),
            events=events,
        )
        if any(one.id == signed.id for one in known):
            continue
        known.append(signed)
        ends[number, epoch] = signed
        ids.note(signed)
    return sorted(known, key=lambda one: (one.header.lamport, one.id))


class _Ids:
    """What events so far can be named by later ones."""

    def __init__(self, folder: FolderId) -> None:
        self._folder = folder
        root = ObjectId(folder)
        self._objects = [object_id(folder, root, Kind.FILE, 0, name) for name in _NAMES]
        self._directory = object_id(folder, root, Kind.DIRECTORY, 0, b"d")
        self._of: dict[bytes, list[bytes]] = {one: [] for one in (*self._objects, self._directory)}
        self._all: list[bytes] = [bytes([7]) * 32]

    def note(self, signed: SignedBatch) -> None:
        """Take the ids of a batch's events."""
        for raw, identity in zip(signed.events, signed.event_ids, strict=True):
            self._all.append(identity)
            for one, own in self._of.items():
                if one in raw or (one in self._objects[:2] and _name_of(one, self._objects) in raw):
                    own.append(identity)

    def _prev(self, rng: random.Random, identity: bytes) -> tuple[bytes, ...]:
        own = self._of[identity]
        if not own or rng.random() < 0.1:
            return ()
        what = rng.random()
        if what < 0.6:
            return (own[-1],)
        if what < 0.95:
            return tuple(dict.fromkeys(rng.choices(own[-8:], k=rng.choice([1, 1, 2]))))
        return (rng.choice(self._all),)

    def _seen(self, rng: random.Random) -> bytes | None:
        return rng.choice([None, rng.choice(self._all)])

    def some_event(self, rng: random.Random) -> Event:
        """Make up an event about one of the objects."""
        at = rng.randrange(len(_NAMES))
        identity = self._objects[at]
        prev = self._prev(rng, identity)
        what = rng.random()
        if what < 0.2 or not self._of[identity]:
            return ObjectCreated(
                self._folder, 0, 0, _NAMES[at], rng.choice(_CONTENTS), rng.randrange(2),
                rng.randrange(99), prev if rng.random() < 0.5 else (),
            )  # fmt: skip
        if what < 0.72:
            return ContentChanged(identity, rng.choice(_CONTENTS), rng.randrange(99), prev)
        if what < 0.79:
            return ObjectDeleted(identity, prev, self._seen(rng), self._seen(rng))
        if what < 0.86:
            parent = rng.choice([self._folder, self._directory])
            return ObjectMoved(identity, parent, rng.choice([b"m", b"n"]), prev)
        if what < 0.93:
            return AttributesChanged(identity, rng.choice([None, 1]), rng.randrange(99), None)
        if what < 0.98:
            return ObjectCreated(self._folder, 1, 0, b"d", None, 0, 1, ())
        return ObjectDeleted(self._directory, self._prev(rng, self._directory), None, None)


def _name_of(identity: bytes, objects: Sequence[bytes]) -> bytes:
    """Give the bytes by which a create names an object: its name as msgpack has it."""
    name = _NAMES[objects.index(identity)]
    return b"\xc4" + bytes([len(name)]) + name
