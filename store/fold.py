"""Fold the events of one object into its state: the merge rules of docs/design.md, section 4.

Pure and independent of order: the same set of facts gives the same value, however it arrived.
What spans objects (cycles of directory moves, visibility of directories, names) is decided in
store.placement and store.view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from store.events import (
    AttributesChanged,
    Content,
    ContentChanged,
    Event,
    ObjectCreated,
    ObjectDeleted,
    ObjectMoved,
    Tagged,
    Untagged,
)
from store.ids import EventId, Kind

MARK_BYTES = 16


class Fact(Struct, frozen=True, gc=False):
    """An event that counts, with its id and its order key (44 bytes)."""

    event_id: EventId
    key: bytes
    event: Event


class Head(Struct, frozen=True, gc=False):
    """A version that no other names as replaced; `is_deletion` is the version "gone"."""

    event_id: EventId
    key: bytes
    is_deletion: bool
    value: bytes  # BLAKE3, link target, or empty
    size: int
    mtime_ns: int


class Folded(Struct, frozen=True, kw_only=True):
    """The state of one object as far as its own events tell."""

    heads: tuple[Head, ...]  # greatest key first; deletions among them
    shown: tuple[Head, ...]  # what the view shows, greatest key first; empty if not alive
    is_alive: bool
    mode: int
    mtime_ns: int
    placed: Fact | None  # the move in effect, for files and symlinks
    last_move: EventId | None  # the move of the greatest key, in effect or not
    void_deletions: frozenset[EventId]
    valid_deletions: frozenset[EventId]
    tags: frozenset[bytes]
    latest_lamport: int


class Buried(Struct, frozen=True, gc=False):
    """What is left of versions that a snapshot left out (store.burial): the marks of each.

    A mark is the first 16 bytes of an event's id, and of the BLAKE3 of a content.
    """

    events: frozenset[bytes]
    values: frozenset[bytes]

    def has_event(self, event: bytes) -> bool:
        """Whether an event is buried: it brings no version any more."""
        return event[:MARK_BYTES] in self.events

    def has_value(self, value: bytes) -> bool:
        """Whether these bytes were once replaced by others."""
        return value[:MARK_BYTES] in self.values


NOTHING_BURIED = Buried(frozenset(), frozenset())


def value_of(kind: Kind, content: Content | bytes | None) -> tuple[bytes, int] | None:
    """Give (value, size) of a version, or None where it does not fit the kind of the object."""
    if kind is Kind.FILE:
        return (content.hash, content.size) if isinstance(content, Content) else None
    if kind is Kind.SYMLINK:
        return (content, len(content)) if isinstance(content, bytes) else None
    return (b"", 0) if content is None else None


def head_of(kind: Kind, fact: Fact) -> Head | None:
    """Read the version that a fact brings, if it brings one that fits the object."""
    event = fact.event
    if isinstance(event, ObjectDeleted):
        return Head(fact.event_id, fact.key, is_deletion=True, value=b"", size=0, mtime_ns=0)
    if not isinstance(event, ObjectCreated | ContentChanged):
        return None
    if isinstance(event, ContentChanged) and kind is Kind.DIRECTORY:
        return None
    fitting = value_of(kind, event.content)
    if fitting is None:
        return None
    value, size = fitting
    return Head(
        fact.event_id,
        fact.key,
        is_deletion=False,
        value=value,
        size=size,
        mtime_ns=event.mtime_ns,
    )


def fold(
    kind: Kind,
    facts: Sequence[Fact],
    is_void: Callable[[EventId], bool],
    buried: Buried = NOTHING_BURIED,
) -> Folded:
    """Fold all facts of one object; `is_void` tells of deletions of other objects (`with`).

    Facts about moves must be those whose new parent is a known directory. The two branches of a
    fork may hold the same event, with one id and two keys: the greater counts, whichever came
    first. `buried` is what stands for versions that are not among the facts any more.
    """
    facts = sorted(facts, key=_key)
    versions = {
        head.event_id: head
        for f in facts
        if (head := head_of(kind, f)) is not None and not buried.has_event(head.event_id)
    }
    previous = {
        f.event_id: f.event.prev  # type: ignore[union-attr]
        for f in facts
        if f.event_id in versions
    }
    moves = [f for f in facts if isinstance(f.event, ObjectMoved)]
    void = _void_deletions(facts, moves, previous, is_void)
    deletions = {f.event_id for f in facts if isinstance(f.event, ObjectDeleted)}
    heads = _heads(kind, versions, previous, buried)
    if not heads and buried.events:  # what replaced the buried ones has not come yet
        return fold(kind, facts, is_void)
    shown = _shown(heads, versions, previous, void)
    last_move = max(moves, key=_key, default=None)
    mode, mtime_ns = _attributes(facts)
    return Folded(
        heads=heads,
        shown=shown,
        is_alive=bool(shown),
        mode=mode,
        mtime_ns=mtime_ns,
        placed=last_move,
        last_move=None if last_move is None else last_move.event_id,
        void_deletions=frozenset(void),
        valid_deletions=frozenset(deletions - void),
        tags=_tags(facts),
        latest_lamport=max(int.from_bytes(f.key[:8], "big") for f in facts),
    )


def _key(fact: Fact) -> bytes:
    return fact.key


def _heads(
    kind: Kind,
    versions: dict[EventId, Head],
    previous: dict[EventId, tuple[bytes, ...]],
    buried: Buried,
) -> tuple[Head, ...]:
    """Find the versions that nothing replaced.

    A create with empty prev is none if any event replaced, through prev, a version of the same
    bytes by other bytes: the joiner who brings an old copy brings no conflict.
    """
    replaced = {p for prev in previous.values() for p in prev}
    outdated: set[bytes] = set()
    if kind is not Kind.DIRECTORY:
        for event_id, prev in previous.items():
            head = versions[event_id]
            if not head.is_deletion:
                for p in prev:
                    old = versions.get(EventId(p))
                    if old is not None and not old.is_deletion and old.value != head.value:
                        outdated.add(old.value)
    if buried.values:
        outdated.update(one.value for one in versions.values() if buried.has_value(one.value))
    found = [
        head
        for event_id, head in versions.items()
        if event_id not in replaced
        and (head.is_deletion or previous[event_id] or head.value not in outdated)
    ]
    return tuple(sorted(found, key=lambda head: head.key, reverse=True))


def _shown(
    heads: Sequence[Head],
    versions: dict[EventId, Head],
    previous: dict[EventId, tuple[bytes, ...]],
    void: set[EventId],
) -> tuple[Head, ...]:
    """Choose what the view shows: live heads, else what void deletions replaced.

    A deletion beside them that is not void took away what it names, and no more
    (docs/decisions/0012).
    """
    alive = [head for head in heads if not head.is_deletion]
    if not alive:
        alive = _replaced_by([head for head in heads if head.event_id in void], versions, previous)
        if alive:
            valid = [head.event_id for head in heads if head.event_id not in void]
            gone = {p for event_id in valid for p in _ancestors(event_id, previous)}
            alive = [head for head in alive if head.event_id not in gone]
    return tuple(alive)


def _replaced_by(
    deletions: Sequence[Head],
    versions: dict[EventId, Head],
    previous: dict[EventId, tuple[bytes, ...]],
) -> list[Head]:
    """Find the nearest versions below deletions, through prev."""
    seen: set[bytes] = set()
    found: dict[EventId, Head] = {}
    waiting = [p for head in deletions for p in previous[head.event_id]]
    while waiting:
        event_id = EventId(waiting.pop())
        if event_id in seen or event_id not in versions:
            continue
        seen.add(event_id)
        if versions[event_id].is_deletion:
            waiting.extend(previous[event_id])
        else:
            found[event_id] = versions[event_id]
    below = {p for event_id in found for p in _ancestors(event_id, previous)}
    kept = [head for event_id, head in found.items() if event_id not in below]
    return sorted(kept, key=_head_key, reverse=True)


def _head_key(head: Head) -> bytes:
    return head.key


def _ancestors(event_id: bytes, previous: dict[EventId, tuple[bytes, ...]]) -> set[bytes]:
    """Give everything below an event through prev, without itself."""
    seen: set[bytes] = set()
    waiting = list(previous.get(EventId(event_id), ()))
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            waiting.extend(previous.get(EventId(one), ()))
    return seen


def _void_deletions(
    facts: Iterable[Fact],
    moves: Sequence[Fact],
    previous: dict[EventId, tuple[bytes, ...]],
    is_void: Callable[[EventId], bool],
) -> set[EventId]:
    """Find the deletions that a move unknown to their author has made void."""
    keys = {move.event_id: move.key for move in moves}
    known_to: dict[EventId, set[bytes]] = {}
    void: set[EventId] = set()
    for fact in facts:
        deletion = fact.event
        if not isinstance(deletion, ObjectDeleted):
            continue
        if deletion.along_with is not None and is_void(EventId(deletion.along_with)):
            void.add(fact.event_id)
            continue
        seen_key = keys.get(EventId(deletion.placement_seen or b""), b"")
        for move in moves:
            if move.key <= seen_key:
                continue
            if move.event_id not in known_to:
                prev = move.event.prev  # type: ignore[union-attr]
                known_to[move.event_id] = set(prev).union(*(_ancestors(p, previous) for p in prev))
            if fact.event_id not in known_to[move.event_id]:
                void.add(fact.event_id)
                break
    return void


def _attributes(facts: Iterable[Fact]) -> tuple[int, int]:
    """Fold executable bit and time: last writer wins, each on its own."""
    mode = mtime_ns = 0
    mode_key = mtime_key = b""
    for fact in facts:
        event = fact.event
        if isinstance(event, ObjectCreated | AttributesChanged):
            if event.mode is not None and fact.key > mode_key:
                mode, mode_key = event.mode, fact.key
            if event.mtime_ns is not None and fact.key > mtime_key:
                mtime_ns, mtime_key = event.mtime_ns, fact.key
        elif isinstance(event, ContentChanged) and fact.key > mtime_key:
            mtime_ns, mtime_key = event.mtime_ns, fact.key
    return mode, mtime_ns


def _tags(facts: Iterable[Fact]) -> frozenset[bytes]:
    latest: dict[bytes, tuple[bytes, bool]] = {}
    for fact in facts:
        event = fact.event
        if isinstance(event, Tagged | Untagged):
            before = latest.get(event.tag)
            if before is None or fact.key > before[0]:
                latest[event.tag] = (fact.key, isinstance(event, Tagged))
    return frozenset(tag for tag, (_, carries) in latest.items() if carries)
