"""Say what an event replaces: what this disk held, never what the log happens to contain.

This one rule prevents silent lost updates (docs/design.md, 4): prev are the ids in synced, and
every current head of the same bytes. Nothing here writes but the heads that an act must keep.
"""

from __future__ import annotations

from daemon.draft import Draft
from store.events import Content, ContentChanged
from store.ids import EventId, Kind
from store.objects import ALIVE, MANY, HeadRow, ObjectRow
from store.records import PRIMARY, SyncedRow
from store.state import FolderState

PREV_LIMIT = 256  # what an event's prev may hold (store.events.Prev)


class Previous:
    """What the events of one bunch of acts replace."""

    def __init__(self, draft: Draft) -> None:
        """Begin with the bunch."""
        self._draft = draft
        self._kept_heads: dict[int, dict[bytes, EventId]] = {}  # object -> value -> made a head

    def of(self, row: SyncedRow) -> tuple[bytes, ...]:
        """Give what an edit or a move of this row's file replaces."""
        return prev_of(self._draft.state, row, self._draft.known.get(row.object_no))

    def of_deletion(self, row: SyncedRow) -> tuple[bytes, ...]:
        """Give what a deletion replaces: all that a file held, or the one head of a copy.

        The versions of an object that only void deletions keep are no heads: the deletion of
        one of them makes heads of the others first, or all would go with it.
        """
        self.keep_others(row)
        made = self._kept_heads.get(row.object_no, {}).get(row.value)
        if made is not None:  # an earlier act of this bunch made it a head
            return (made, *split_ids(row.events))[:PREV_LIMIT]
        return self.of(row) if row.copy == PRIMARY else split_ids(row.events)[:PREV_LIMIT]

    def keep_others(self, row: SyncedRow) -> None:
        """Make heads of the other versions that only void deletions keep, before an act on one."""
        known = self._draft.known.get(row.object_no)
        if known is not None and not known.flags & MANY:
            return  # it has one version
        if row.object_no in self._kept_heads:
            return
        made = self._kept_heads.setdefault(row.object_no, {})
        heads = self._draft.state.heads(row.object_no)
        if not heads or any(head.is_head and not head.is_deletion for head in heads):
            return
        deletions = tuple(head.event_id for head in heads if head.is_head)[:PREV_LIMIT]
        for head in heads:
            if head.is_shown and head.value != row.value and head.value not in made:
                made[head.value] = self._draft.add(
                    ContentChanged(
                        object=self._draft.id_of(row.object_no),
                        content=self._content_of(row, head),
                        mtime_ns=head.mtime_ns,
                        prev=deletions,
                    )
                )

    @staticmethod
    def _content_of(row: SyncedRow, head: HeadRow) -> Content | bytes:
        if row.kind == Kind.SYMLINK:
            return head.value
        return Content(hash=head.value, size=head.size)


def prev_of(
    state: FolderState, row: SyncedRow, current: ObjectRow | None = None
) -> tuple[bytes, ...]:
    """Give what this disk held: the row's events and every current head of the same bytes.

    `current` is the row of state, where the caller has it.
    """
    if current is not None and current.head_event == row.events and not current.flags & MANY:
        return (row.events,)  # as most are: one version, which this disk has
    prev = dict.fromkeys(split_ids(row.events))
    if current is None:
        current = state.rows([row.object_no]).get(row.object_no)
    if current is not None:
        if current.flags & MANY:
            for head in state.heads(row.object_no):
                if head.is_head and not head.is_deletion and head.value == row.value:
                    prev[EventId(head.event_id)] = None
        elif current.flags & ALIVE and current.value == row.value:
            prev[current.head_event] = None
    return tuple(prev)[:PREV_LIMIT]


def split_ids(events: bytes) -> tuple[bytes, ...]:
    """Cut joined event ids, 32 bytes each."""
    return tuple(events[start : start + 32] for start in range(0, len(events), 32))
