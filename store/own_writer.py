"""Collect own events, and know the id of each before it is written.

store.log signs, stores and applies them; this module decides which batch each stands in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from store.admitted import Fold
from store.codec import BODY_LIMIT_BYTES, EVENTS_LIMIT
from store.ids import (
    Epoch,
    EventId,
    ObjectId,
    event_id_prefix,
    log_id,
    numbered_event_id,
)
from store.signing import AgentKey, SignedBatch

if TYPE_CHECKING:
    from store.log import FolderLog


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """The first event of a new epoch, written with the first of other events or not at all."""

    event: bytes
    begun: Callable[[], None]  # called inside the transaction that writes it


@dataclass(slots=True)
class Part:
    """The events of one batch to be, with their ids."""

    prefix: bytes  # of what is hashed for an event's id
    fresh: set[bytes]  # of all parts: objects that are to be created, and have not been yet
    made: dict[EventId, ObjectId]  # of all parts: which event creates which of them
    events: list[bytes] = field(default_factory=list)
    ids: list[EventId] = field(default_factory=list)
    size: int = 0
    is_full: bool = False

    def has_room(self, size: int) -> bool:
        """Whether an event of so many bytes, its length included, finds room."""
        if self.is_full or len(self.events) >= EVENTS_LIMIT:
            return False
        return self.size + size <= BODY_LIMIT_BYTES


class OwnWriter:
    """Collects own events and knows each one's id before it is written.

    Events of one family only (objects, or folder); the caller has made sure of the role.
    """

    def __init__(
        self, log: FolderLog, key: AgentKey, epoch: Epoch, opening: Opening | None = None
    ) -> None:
        """Continue the own log, or open an epoch; nothing else may be appended until write()."""
        self._log = log
        self._key = key
        self._epoch = epoch
        head = log.own_head(key.agent, epoch)
        self._log_id = log_id(log.folder, key.agent, epoch)
        self._next_seq = 0 if head is None else head.seq + 1
        self._parts: list[Part] = []
        self._fresh: set[bytes] = set()
        self._made: dict[EventId, ObjectId] = {}
        self._opening = opening
        if opening is not None:
            self.add(opening.event)
            # It stands in a batch of its own, as all that is no object's event does.
            self._parts[-1].is_full = True

    def add(self, event: bytes) -> EventId:
        """Take an encoded event and give the id that it will have."""
        size = len(event) + 2
        if not self._parts or not self._parts[-1].has_room(size):
            prefix = event_id_prefix(self._log_id, self._next_seq)
            self._parts.append(Part(prefix, self._fresh, self._made))
            self._next_seq += 1
        part = self._parts[-1]
        identity = numbered_event_id(part.prefix, len(part.events), event)
        part.size += size
        part.events.append(event)
        part.ids.append(identity)
        return identity

    def creates(self, event: EventId, identity: ObjectId) -> None:
        """Note that an event added now creates an object that state has no row of."""
        self._fresh.add(identity)
        self._made[event] = identity

    @property
    def unmade(self) -> set[bytes]:
        """The objects of creates() that have not come to be: all before write()."""
        return self._fresh

    def write(self, wall_ms: int, fold: Fold) -> list[SignedBatch]:
        """Sign, store and apply what was added, inside the caller's transaction.

        That transaction must have committed before a byte of them is sent.
        """
        if self._opening is not None:
            if len(self._parts) == 1:
                return []
            self._opening.begun()
        return [
            self._log.write_own(self._key, self._epoch, part, wall_ms, fold) for part in self._parts
        ]
