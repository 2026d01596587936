"""Hold a folder that its owner ended: tell its members, and nothing else.

It implements what daemon.replica asks of a folder. The log is passed on, so that whoever was away
learns of the end from any member; no content is served, nothing is looked at, planned or
recorded. Its files, its history and its log stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from daemon.disk import Disk
from peers.heads import Heads
from store.access import Member
from store.db import Database
from store.ending import Ending
from store.folder import StoredFolder
from store.ids import ID_BYTES, AgentId, BlobHash, FolderId


@dataclass(slots=True, kw_only=True)
class EndedFolder:
    """One ended folder. Owned by the loop."""

    folder_no: int
    folder: FolderId
    name: str
    path: bytes
    ending: Ending
    members: dict[AgentId, Member]
    told: set[AgentId]  # who surely has the ending; kept in the database
    on_told: Callable[[EndedFolder], None]
    disk: Disk | None = field(default=None, init=False)
    is_importing: bool = field(default=False, init=False)
    has_work: bool = field(default=False, init=False)

    @property
    def untold(self) -> list[AgentId]:
        """List the members that may not have heard of the end yet."""
        return sorted(self.members.keys() - self.told)

    def peer_has(self, agent: AgentId, heads: Heads) -> None:
        """Note whether a peer has the ending by now."""
        last = self.ending
        if agent not in self.told and any(
            head.log == last.log and head.seq >= last.seq for head in heads.heads
        ):
            self.told.add(agent)
            self.on_told(self)

    async def compare(self, agent: AgentId, heads: Heads) -> None:
        """Nothing is written any more, so what others know of our log is of no matter."""

    def contents_available(self, blobs: Sequence[BlobHash]) -> None:
        """Nothing is fetched any more."""


def read_ended(
    stored: StoredFolder, ending: Ending, on_told: Callable[[EndedFolder], None]
) -> EndedFolder:
    """Make it of what the database knows; on the database thread."""
    joined = stored.db.meta(_told_key(stored.no)) or b""
    told = {AgentId(joined[start : start + ID_BYTES]) for start in range(0, len(joined), ID_BYTES)}
    return EndedFolder(
        folder_no=stored.no,
        folder=stored.id,
        name=stored.name,
        path=stored.path,
        ending=ending,
        members=stored.log.members(),
        told=told | {stored.key.agent, ending.agent},
        on_told=on_told,
    )


def keep_told(database: Database, folder_no: int, told: Sequence[AgentId]) -> None:
    """Remember over restarts who has the ending; on the database thread."""
    database.set_meta(_told_key(folder_no), b"".join(told))


def _told_key(folder_no: int) -> str:
    return f"told/{folder_no}"
