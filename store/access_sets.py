"""Keep the sets of membership batches that authors could know of, and fold them to roles.

A set is interned: it has a number, which stands in the row of each batch written in its knowledge.
What roles mean is store.access', which batches are in a set store.log's to say.
"""

from __future__ import annotations

from store import access
from store.codec import decode_header, split_events
from store.db import Database
from store.events import FolderShared, Granted, decode
from store.ids import AgentId, order_key

RULED_OUT = 1  # is_void of a batch: its author had not the role


class AccessSets:
    """The sets of one folder. Owned by the database thread."""

    def __init__(self, database: Database, folder_no: int) -> None:
        """Read them."""
        self._db = database
        self._folder_no = folder_no
        self.sets: dict[int, tuple[int, ...]] = {
            no: _split_nos(joined)
            for no, joined in database.execute(
                "SELECT no, batches FROM access_set WHERE folder_no = ?", (folder_no,)
            )
        }
        self._members_at: dict[tuple[int, ...], dict[AgentId, access.Member]] = {}

    def members_of(self, batch_nos: tuple[int, ...]) -> dict[AgentId, access.Member]:
        """Fold a set of membership batches."""
        known = self._members_at.get(batch_nos)
        if known is None:
            known = access.members(grant for no in batch_nos for grant in self._grants_in(no))
            self._members_at[batch_nos] = known
        return known

    def _grants_in(self, batch_no: int) -> list[access.Grant]:
        header_bytes, body, batch, is_void = self._db.execute(
            "SELECT header, body, id, is_void FROM batch WHERE no = ?", (batch_no,)
        ).fetchone()
        if is_void == RULED_OUT:
            return []
        header = decode_header(header_bytes)
        grants = []
        for index, raw in enumerate(split_events(body, header.count)):
            event = decode(raw)
            if isinstance(event, FolderShared | Granted):
                grants.append(
                    access.Grant(
                        key=order_key(header.lamport, batch, index),
                        author=AgentId(header.agent),
                        event=event,
                    )
                )
        return grants

    def get(self, access_no: int) -> tuple[int, ...]:
        """Give the membership batches of a set by its number."""
        return self.sets.get(access_no, ())

    def intern(self, nos: tuple[int, ...]) -> int:
        """Give the number of a set of membership batches (0: the empty set)."""
        if not nos:
            return 0
        for access_no, known in self.sets.items():
            if known == nos:
                return access_no
        access_no = self._db.execute(
            "INSERT INTO access_set (folder_no, batches) VALUES (?, ?) RETURNING no",
            (self._folder_no, b"".join(no.to_bytes(8, "big") for no in nos)),
        ).fetchone()[0]
        self.sets[access_no] = nos
        return int(access_no)


def _split_nos(joined: bytes) -> tuple[int, ...]:
    return tuple(
        int.from_bytes(joined[start : start + 8], "big") for start in range(0, len(joined), 8)
    )
