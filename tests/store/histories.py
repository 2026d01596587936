"""Random histories of nodes without disk, each from one seed, and what can be asked of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from store.events import ContentChanged, Event, ObjectCreated, ObjectDeleted, ObjectMoved, decode
from store.ids import EventId, Kind, ObjectId, object_id, order_key
from store.signing import SignedBatch
from tests.store.nodes import Node, deliver, make_nodes, random_act, settle

SEEDS = range(40)
STEPS = 50


@dataclass(slots=True)
class History:
    """Nodes after a history, before and after everything was carried everywhere."""

    seed: int
    nodes: list[Node]
    observer: Node  # wrote nothing and got nothing yet
    batches: list[SignedBatch] = field(default_factory=list)

    def rng(self) -> random.Random:
        return random.Random(self.seed * 1_000_003)


@dataclass(frozen=True, slots=True)
class Known:
    """An event with what its place in the log says."""

    id: EventId
    key: bytes
    event: Event
    object: bytes


@lru_cache(maxsize=len(SEEDS))
def history(seed: int) -> History:
    """Let three nodes act, hear of each other in part, and settle; the same for one seed."""
    rng = random.Random(seed)
    *nodes, observer = make_nodes(4)
    for _ in range(STEPS):
        node = rng.choice(nodes)
        what = rng.random()
        if what < 0.6:
            node.record(*random_act(node, rng))
        elif what < 0.8:
            other = rng.choice([n for n in nodes if n is not node])
            deliver(other, node, rng, rng.choice([0.5, 1]))
        else:
            node.materialise()
        check_tree(node)
    settle(*nodes)
    return History(seed, nodes, observer, nodes[0].wires())


def check_tree(node: Node) -> None:
    """Walk from every directory up: no cycle, and the root is reached."""
    directories = node.stored.state.directories
    for directory in directories:
        seen = {directory.no}
        for above in directories.ancestors(directory.no):
            assert above not in seen, f"a cycle at {directory.name!r}"
            seen.add(above)
        assert directories.root_no in seen


def events_of(batches: list[SignedBatch]) -> Iterator[Known]:
    """Give every event about an object in the order of keys."""
    found = []
    for batch in batches:
        if batch.is_about_folder:
            continue
        for index, raw in enumerate(batch.events):
            event = decode(raw)
            found.append(
                Known(
                    batch.event_ids[index],
                    order_key(batch.header.lamport, batch.id, index),
                    event,
                    _object_of(batch, event),
                )
            )
    yield from sorted(found, key=lambda known: known.key)


def _object_of(batch: SignedBatch, event: Event) -> bytes:
    if isinstance(event, ObjectCreated):
        return object_id(
            batch.header.folder,
            ObjectId(event.parent),
            Kind(event.kind),
            event.generation,
            event.name,
        )
    return event.object  # type: ignore[union-attr]


def versions_of(known: list[Known]) -> dict[bytes, dict[EventId, Known]]:
    """Give object -> its versions, deletions among them."""
    found: dict[bytes, dict[EventId, Known]] = {}
    for one in known:
        if isinstance(one.event, ObjectCreated | ContentChanged | ObjectDeleted):
            found.setdefault(one.object, {})[one.id] = one
    return found


def replay_directories(known: list[Known], root: bytes) -> dict[bytes, tuple[bytes, bytes]]:
    """Place directories by doing all moves in the order of keys, as the rule is written.

    Gives id -> (id of the parent, name); a move that would put one below itself is skipped.
    """
    places: dict[bytes, tuple[bytes, bytes]] = {}
    for one in known:
        event = one.event
        if isinstance(event, ObjectCreated) and event.kind == Kind.DIRECTORY:
            places.setdefault(one.object, (event.parent, event.name))
    for one in known:
        if isinstance(one.event, ObjectMoved) and one.object in places:
            above = one.event.parent
            while above not in (root, one.object):
                above = places[above][0]
            if above == root:
                places[one.object] = (one.event.parent, one.event.name)
    return places
