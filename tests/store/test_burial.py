"""Try to refute that a buried version is never missed, whatever comes later."""

from __future__ import annotations

import random

import pytest

from store.burial import burials
from store.events import (
    AttributesChanged,
    Content,
    ContentChanged,
    Event,
    ObjectCreated,
    ObjectDeleted,
    ObjectMoved,
)
from store.fold import MARK_BYTES, NOTHING_BURIED, Buried, Fact, fold
from store.ids import EventId, Kind, blob_hash

CONTENTS = tuple(Content(blob_hash(b"%d" % one), one) for one in range(4))
OBJECT = bytes(32)


def some_event(rng: random.Random, ids: list[EventId]) -> Event:
    """Make up an event of one file that names whatever was there, or is not there yet."""

    def prev() -> tuple[bytes, ...]:
        if not ids or rng.random() < 0.12:
            return ()
        if rng.random() < 0.6:
            return (ids[-1],)
        return tuple(dict.fromkeys(rng.choices(ids[-6:], k=rng.choice([1, 1, 2, 3]))))

    def named() -> bytes | None:
        return rng.choice(ids) if ids and rng.random() < 0.6 else None

    what = rng.random()
    content = rng.choice(CONTENTS)
    if what < 0.25:
        created = prev() if rng.random() < 0.4 else ()
        return ObjectCreated(
            OBJECT, 0, 0, b"n", content, rng.randrange(2), rng.randrange(99), created
        )
    if what < 0.75:
        return ContentChanged(OBJECT, content, rng.randrange(99), prev())
    if what < 0.85:
        return ObjectDeleted(OBJECT, prev(), named(), named())
    if what < 0.93:
        return ObjectMoved(OBJECT, bytes(32), b"m", prev())
    return AttributesChanged(OBJECT, rng.choice([None, 1]), rng.randrange(99), None)


def some_facts(rng: random.Random) -> list[Fact]:
    """Make up the facts of one file: keys mostly grow, and events may stand in two branches."""
    ids: list[EventId] = []
    facts = [
        Fact(
            EventId(blob_hash(b"0")),
            (0).to_bytes(44, "big"),
            ObjectCreated(OBJECT, 0, 0, b"n", CONTENTS[0], 0, 1, ()),
        )
    ]
    ids.append(facts[0].event_id)
    for number in range(1, rng.randrange(3, 14)):
        place = number if rng.random() < 0.8 else rng.randrange(1, 14)
        key = place.to_bytes(8, "big") + rng.randbytes(36)
        if rng.random() < 0.12:
            twin = rng.choice(facts)
            facts.append(Fact(twin.event_id, key, twin.event))
            continue
        identity = EventId(rng.randbytes(32))
        facts.append(Fact(identity, key, some_event(rng, ids)))
        ids.append(identity)
    return facts


def thinned(facts: list[Fact], before: Buried) -> tuple[list[Fact], Buried]:
    """Bury what can be, as a snapshot does."""
    found = burials(Kind.FILE, facts, before)
    going = {one.event_id for one in found if one.can_go}
    buried = Buried(
        before.events | {one.marks[0] for one in found},
        before.values | {one.marks[1] for one in found},
    )
    return [fact for fact in facts if fact.event_id not in going], buried


@pytest.mark.parametrize("seed", range(6))
def test_P12_an_object_folds_alike_with_and_without_its_buried_versions(seed: int) -> None:
    rng = random.Random(seed)
    some_buried = 0
    for _ in range(800):
        facts = some_facts(rng)
        cut = rng.randrange(1, len(facts) + 1)
        void = {fact.event_id for fact in facts if rng.random() < 0.3}

        kept, buried = thinned(facts[:cut], NOTHING_BURIED)
        some_buried += bool(buried.events)

        for end in range(cut, len(facts) + 1):
            whole = fold(Kind.FILE, facts[:end], void.__contains__)
            here = fold(Kind.FILE, [*kept, *facts[cut:end]], void.__contains__, buried)
            assert here == whole
        again = rng.randrange(cut, len(facts) + 1)  # and once more, of what was thinned
        kept, buried = thinned([*kept, *facts[cut:again]], buried)
        for end in range(again, len(facts) + 1):
            whole = fold(Kind.FILE, facts[:end], void.__contains__)
            assert whole == fold(Kind.FILE, [*kept, *facts[again:end]], void.__contains__, buried)
    assert some_buried > 100


def test_nothing_of_a_directory_or_a_link_is_buried() -> None:
    facts = some_facts(random.Random(1))

    assert not burials(Kind.DIRECTORY, facts)
    assert not burials(Kind.SYMLINK, facts)


def test_of_a_file_saved_many_times_the_last_version_is_left() -> None:
    facts = some_facts(random.Random(1))[:1]
    for number in range(1, 50):
        event = ContentChanged(OBJECT, CONTENTS[number % 4], number, (facts[-1].event_id,))
        key = number.to_bytes(8, "big") + bytes(36)
        facts.append(Fact(EventId(blob_hash(b"%d" % number)), key, event))

    kept, buried = thinned(facts, NOTHING_BURIED)

    assert kept == [facts[0], facts[-1]]  # the create tells that it exists
    assert len(buried.events) == 49
    assert all(len(mark) == MARK_BYTES for mark in buried.events | buried.values)
