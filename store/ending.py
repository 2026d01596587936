"""Judge what still counts in a folder that its owner ended.

Pure: the verdict is a function of the set of batches. An ending is a batch in which the owner
revokes itself; the points of its cut name the batches that it had applied and that nothing
followed. A batch counts on if it is one of these, or comes before one of them by prev or deps,
in the cut of every ending; an ending itself is never cut off, so that two of them (a cloned home)
are judged alike whichever came first.

It decides nothing about roles (store.access) and stores nothing (store.log).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from store.events import CutPoint, Event, Revoked, decode, tag_of
from store.ids import AgentId, BatchId, Epoch, LogId

REVOKED_TAG = 18
POINTS_IN_EVENT = 512  # 78 bytes each, of the 65,535 that an event may have
POINTS_LIMIT = 8192  # so that the events of one ending fit into one batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """One batch that ended the folder."""

    no: int
    batch: BatchId
    log: LogId
    agent: AgentId
    epoch: Epoch
    seq: int
    wall_ms: int
    points: frozenset[BatchId]


def cut_events(owner: AgentId, points: Sequence[CutPoint]) -> list[Revoked]:
    """Make the events of one ending; together they are one cut.

    At most POINTS_LIMIT points: whoever kept more logs open than that has its newest cut off.
    """
    points = points[:POINTS_LIMIT]
    starts = range(0, max(len(points), 1), POINTS_IN_EVENT)
    return [
        Revoked(agent=owner, cut=tuple(points[start : start + POINTS_IN_EVENT])) for start in starts
    ]


def is_ending(author: AgentId, events: Iterable[bytes]) -> bool:
    """Whether a batch revokes its own author. Only the owner's counts (store.access)."""
    return any(event.agent == author for event in _revocations(events))


def points_of(author: AgentId, events: Iterable[bytes]) -> frozenset[BatchId]:
    """Read the cut of an ending: the points of all its events about its author."""
    return frozenset(
        BatchId(point.batch)
        for event in _revocations(events)
        if event.agent == author
        for point in event.cut
    )


def _revocations(events: Iterable[bytes]) -> Iterable[Revoked]:
    for raw in events:
        if tag_of(raw) == REVOKED_TAG:
            event: Event = decode(raw)
            if isinstance(event, Revoked):
                yield event


def kept_by(
    endings: Iterable[Ending], parents_of: Callable[[BatchId], Sequence[BatchId] | None]
) -> set[BatchId]:
    """Give the stored batches that every ending lets count, and the endings themselves.

    `parents_of` gives prev and deps of a stored batch, None for one that is not here.
    """
    endings = list(endings)
    kept: set[BatchId] | None = None
    for one in endings:
        within = _before(one.points, parents_of)
        kept = within if kept is None else kept & within
    return (kept or set()) | {one.batch for one in endings}


def _before(
    points: Iterable[BatchId], parents_of: Callable[[BatchId], Sequence[BatchId] | None]
) -> set[BatchId]:
    found: set[BatchId] = set()
    waiting = list(points)
    while waiting:
        batch = waiting.pop()
        if batch in found:
            continue
        parents = parents_of(batch)
        if parents is not None:
            found.add(batch)
            waiting.extend(parents)
    return found
