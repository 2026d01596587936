"""Work out who lacks what from the heads of both sides.

Pure arithmetic on values: it asks nobody, stores nothing, and takes no batch for known only
because a later one of its log is, since a log may have forked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from peers.wire import Head, Range
from store.ids import AgentId, BatchId, LogId

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from store.signing import SignedBatch

Tips = dict[LogId, dict[BatchId, int]]  # log -> the newest batch of each branch -> its seq


class Heads(Struct, frozen=True, kw_only=True, gc=False):
    """What one node has of a folder: stored batches, and the state it folded them to.

    `heads` are the newest of each branch of each log, sorted. `state_root` is None while it is
    not known; it is compared only where `state_version` is equal. `is_applied` says that
    everything stored has taken effect.
    """

    heads: tuple[Head, ...]
    state_root: bytes | None = None
    state_version: int = 1
    is_importing: bool = False
    is_applied: bool = True


class Place(Struct, frozen=True, gc=False):
    """Where a batch stands in its log: `prev` is None for the first of a log."""

    log: LogId
    id: BatchId
    seq: int
    prev: BatchId | None


class Lack(Struct, frozen=True, gc=False):
    """What we lack of what another has.

    `ranges` are certainly not here. `unsure` are heads at or below our own of the same log:
    ancestors of ours, or the heads of a branch that we have never seen; the store knows.
    """

    ranges: tuple[Range, ...]
    unsure: tuple[BatchId, ...]


def sayable(heads: Iterable[tuple[AgentId, Head]], limit: int) -> tuple[Head, ...]:
    """Choose which heads to tell, sorted; beyond the limit the agents have equal shares.

    So an agent with very many logs or branches crowds out its own, those with least in them, and
    nobody else's (A14). Equal on all nodes that have the same.
    """
    of: dict[AgentId, list[Head]] = {}
    number = 0
    for agent, head in heads:
        of.setdefault(agent, []).append(head)
        number += 1
    chosen = [head for own in of.values() for head in own]
    if number > limit:
        for own in of.values():
            own.sort(key=lambda head: (-head.seq, head.log, head.batch))
        ranked = [(rank, agent) for agent, own in of.items() for rank in range(len(own))]
        chosen = [of[agent][rank] for rank, agent in sorted(ranked)[:limit]]
    return tuple(sorted(chosen, key=lambda head: (head.log, head.seq, head.batch)))


def by_log(heads: Iterable[Head]) -> Tips:
    """Group heads by log."""
    tips: Tips = {}
    for head in heads:
        tips.setdefault(LogId(head.log), {})[BatchId(head.batch)] = head.seq
    return tips


def lacking(ours: Tips, theirs: Tips) -> Lack:
    """Say what we lack of what they have; a log that we have never heard of is lacked whole."""
    ranges: list[Range] = []
    unsure: list[BatchId] = []
    for log, tips in theirs.items():
        mine = ours.get(log)
        newest = max(mine.values()) if mine else None
        new = {batch: seq for batch, seq in tips.items() if mine is None or batch not in mine}
        if not new:
            continue
        through = max(new.values())
        if newest is None or through > newest:
            ranges.append(Range(log, newest, through))
        if newest is not None:
            unsure.extend(batch for batch, seq in new.items() if seq <= newest)
    return Lack(tuple(ranges), tuple(unsure))


def is_equal(ours: Tips, theirs: Tips) -> bool:
    """Whether both have the same batches."""
    return ours == theirs


def is_in_sync(ours: Heads, theirs: Heads) -> bool:
    """Whether both have the same batches and folded all of them to the same state.

    State roots of different versions of the rules say nothing and are not compared.
    """
    if by_log(ours.heads) != by_log(theirs.heads):
        return False
    if not (ours.is_applied and theirs.is_applied) or ours.is_importing or theirs.is_importing:
        return False
    if ours.state_version != theirs.state_version:
        return True
    return ours.state_root is not None and ours.state_root == theirs.state_root


def place_of(signed: SignedBatch) -> Place:
    """Give where a batch stands, without its bytes."""
    return Place(signed.log, signed.id, signed.header.seq, signed.header.prev)


def advance(tips: Tips, places: Iterable[Place]) -> None:
    """Count batches as held by whoever has these tips; their prev is no tip any more."""
    for place in places:
        log = tips.setdefault(place.log, {})
        if place.prev is not None:
            log.pop(place.prev, None)
        if place.seq >= max(log.values(), default=-1):
            log[place.id] = place.seq


def follows(tips: Tips, place: Place) -> bool:
    """Whether who has these tips has the prev of a batch, so that it can be used at once."""
    return place.prev is None or place.prev in tips.get(place.log, {})


def holds(tips: Tips, place: Place) -> bool:
    """Whether who has these tips has surely this very batch: it is one of them."""
    return place.id in tips.get(place.log, {})


def narrowed(ranges: Sequence[Range], through: Mapping[bytes, int]) -> tuple[Range, ...]:
    """Take away from ranges what has arrived: for each log, everything through that seq."""
    left: list[Range] = []
    for one in ranges:
        seq = through.get(one.log)
        if seq is None or (one.after_seq is not None and seq <= one.after_seq):
            left.append(one)
        elif seq < one.through_seq:
            left.append(Range(one.log, seq, one.through_seq))
    return tuple(left)


def without(ids: Iterable[bytes], known: Collection[bytes]) -> tuple[bytes, ...]:
    """List the ids that are not among the known ones, in order."""
    return tuple(batch for batch in ids if batch not in known)
