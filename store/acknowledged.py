"""Keep which members have said that they have all of a folder's log, and up to where.

Only what a member says itself counts: its heads over its own proven link, or a batch that it
signed after a checkpoint was known to it. It decides who is waited for before anything of the log
is let go; whoever is not waited for can still go on with the snapshot (store.joined).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from store.codec import decode_header
from store.db import Database
from store.ids import AgentId, BatchId

AWAY_MS: Final = 30 * 24 * 3600 * 1000  # who said nothing for so long is waited for no more
_NUMBER_BYTES = 8


class Acknowledged:
    """What the members of one folder have said. Owned by the database thread."""

    def __init__(self, database: Database, folder_no: int) -> None:
        """Read nothing yet."""
        self._db = database
        self._folder_no = folder_no

    def note(self, agents: Iterable[AgentId], through_no: int) -> None:
        """Note that members have all batches up to a local number, inside a transaction."""
        for agent in agents:
            if self._read(agent)[0] < through_no:
                self._write(agent, through_no, 0)

    def waited_for(
        self, members: Iterable[AgentId], batch: BatchId, now_ms: int
    ) -> list[AgentId]:
        """List the members who have not said yet that they have a batch and all below it.

        Inside a transaction: for how long each is waited for is noted. A clock that jumps can
        only end the waiting early.
        """
        row = self._db.execute(
            "SELECT no FROM batch WHERE id = ? AND folder_no = ?", (batch, self._folder_no)
        ).fetchone()
        if row is None:
            return sorted(members)
        authors = self._authors_above(batch, row[0])
        found: list[AgentId] = []
        for agent in sorted(members):
            through_no, since_ms = self._read(agent)
            if through_no >= row[0] or agent in authors:
                continue
            if not since_ms or since_ms > now_ms:
                self._write(agent, through_no, now_ms)
                found.append(agent)
            elif now_ms - since_ms < AWAY_MS:
                found.append(agent)
        return found

    def _authors_above(self, batch: BatchId, no: int) -> set[AgentId]:
        """Find who signed something that rests on a batch."""
        above: set[bytes] = {batch}
        authors: set[AgentId] = set()
        for identity, header_bytes in self._db.execute(
            "SELECT id, header FROM batch WHERE folder_no = ? AND no >= ?"
            " AND length(header) > 0 ORDER BY lamport",
            (self._folder_no, no),
        ):
            header = decode_header(header_bytes)
            if identity == batch or above.intersection(_parents(header.prev, header.deps)):
                above.add(identity)
                authors.add(AgentId(header.agent))
        return authors

    def _key(self, agent: AgentId) -> str:
        return f"acknowledged/{self._folder_no}/{agent.hex()}"

    def _read(self, agent: AgentId) -> tuple[int, int]:
        """Give through which number, and since when it is waited for (0: it is not)."""
        noted = self._db.meta(self._key(agent))
        if noted is None or len(noted) != 2 * _NUMBER_BYTES:
            return 0, 0
        return (
            int.from_bytes(noted[:_NUMBER_BYTES], "big"),
            int.from_bytes(noted[_NUMBER_BYTES:], "big"),
        )

    def _write(self, agent: AgentId, through_no: int, since_ms: int) -> None:
        both = (through_no, since_ms)
        self._db.set_meta(
            self._key(agent), b"".join(one.to_bytes(_NUMBER_BYTES, "big") for one in both)
        )


def _parents(prev: bytes | None, deps: Sequence[bytes]) -> list[bytes]:
    return list(deps) if prev is None else [prev, *deps]
