"""Find the versions of a file that can stay in the ground: nothing that comes later shows them.

A buried version is known by two marks alone: that its event was replaced, and that its bytes were
replaced by others. store.fold needs no more of it, whatever is merged later. Files that are saved
again and again shrink to their last version by this.

Buried is a version that is no deletion and rests on no deletion, whose whole past is buried too,
whose bytes were replaced by other bytes, and which a later version replaced that is no deletion:

- its past being buried, no walk through prev ends at it and misses what stood below;
- no deletion being in its past, no move is asked whether it knew of one;
- what replaced it brings a later time, and stands above it in every walk: so no deletion that
  turns void can bring it back.

Pure; directories and symlinks are left alone. docs/decisions/0027-replaced-versions-are-buried.md
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from store.events import ContentChanged, ObjectCreated
from store.fold import MARK_BYTES, NOTHING_BURIED, Buried, Fact, Head, head_of
from store.ids import EventId, Kind


class Burial(Struct, frozen=True, gc=False):
    """What is buried of one file now: the version, and whether its event can go.

    A create stays, since it tells that the object exists.
    """

    event_id: EventId
    value: bytes
    key: bytes
    can_go: bool

    @property
    def marks(self) -> tuple[bytes, bytes]:
        """The marks of event and bytes."""
        return self.event_id[:MARK_BYTES], self.value[:MARK_BYTES]


def burials(kind: Kind, facts: Iterable[Fact], before: Buried = NOTHING_BURIED) -> list[Burial]:
    """Choose which versions among all facts of one object are buried; `before` some were."""
    if kind is not Kind.FILE:
        return []
    ordered = sorted(facts, key=_key)
    versions: dict[bytes, tuple[Head, Fact]] = {}
    for fact in ordered:  # of one event in two branches of a fork the greater key counts
        head = head_of(kind, fact)
        if head is not None and not before.has_event(head.event_id):
            versions[head.event_id] = (head, fact)
    replacers: dict[bytes, list[Head]] = {}
    outdated: set[bytes] = set()
    for head, fact in versions.values():
        for p in fact.event.prev:  # type: ignore[union-attr]
            replacers.setdefault(p, []).append(head)
            old = versions.get(p)
            if old is not None and not head.is_deletion and not old[0].is_deletion:
                outdated.update([old[0].value] if old[0].value != head.value else [])
    found: dict[bytes, Burial] = {}
    for head, fact in sorted(versions.values(), key=_head_key):
        event = fact.event
        if not isinstance(event, ObjectCreated | ContentChanged):
            continue
        rests_on_buried = all(p in found or before.has_event(p) for p in event.prev)
        is_replaced = any(
            not by.is_deletion and by.key > head.key for by in replacers.get(head.event_id, ())
        )
        is_outdated = head.value in outdated or before.has_value(head.value)
        if rests_on_buried and is_replaced and is_outdated:
            found[head.event_id] = Burial(
                head.event_id, head.value, head.key, isinstance(event, ContentChanged)
            )
    return list(found.values())


def _key(fact: Fact) -> bytes:
    return fact.key


def _head_key(both: tuple[Head, Fact]) -> bytes:
    return both[0].key
