"""Let nodes join a folder by a real invite in the middle of a history.

The invite, the claim, the grant and the admission are those of daemon.joining and daemon.node;
only what keeps config.toml and makes directories is left out. What a stranger's hello proves is
peers.handshake's and tested there: here the secret is compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from daemon.joining import Joining
from peers.address import Address
from peers.handshake import Verdict
from peers.invite import InviteId, InviteKey
from store.db import memory_database
from store.errors import DizzyError, TryLater
from tests.sim.real import FOLDER, PORT, RealNode, founded, listen_to_logs, opened

if TYPE_CHECKING:
    from daemon.folder_work import FolderWork
    from daemon.sharing import Sharing
    from peers.invite import Invite
    from store.db import Database
    from tests.sim.net import Said
    from tests.sim.world import Place, SimNode

NEWCOMER = 2  # the first by its index; those before it are members before the first life
EXPIRES_S = 3600.0 * 24 * 365 * 30  # clocks jump ten years in histories


class _NoConfig:
    """Stand where daemon.sharing stands: there is one folder, and no config."""

    user_home = "/home"

    def __init__(self, node: RealNode) -> None:
        self._node = node

    def works(self, _name: str | None) -> list[FolderWork]:
        works = list(self._node.node.works.values())
        if not works:
            raise TryLater("invite", "it has not started")
        return works

    def refuse_unwritable(self, _what: str, _root: str) -> None:
        """Find every root writable."""

    def refuse_unmakeable(self, _what: str, _root: str) -> None:
        """Find that every root can be made."""

    def name_of(self, _work: FolderWork) -> str:
        return "shared"

    def refuse_overlap(self, what: str, root: str, *, besides: object = None) -> None:
        pass

    def make_root(self, root: str) -> None:
        pass

    def prepare_disk(self, root: bytes, folder: bytes) -> bytes:
        return b"the only one"

    def write_admitted(self, *_what: object) -> None:
        pass

    write_folder = write_peer = remove_config = write_admitted


class InvitedNode(RealNode):
    """One life of a node among which one is a stranger at first."""

    def __init__(self, place: Place) -> None:
        """Wire it; the newcomer has no folder before it joined."""
        super().__init__(place)
        self.joining = Joining(
            self.node, cast("Sharing", _NoConfig(self)), lambda: [Address(place.name, PORT)]
        )

    def _found(self, place: Place) -> Database:
        if place.index >= NEWCOMER:
            return memory_database()
        return opened(founded(place.names[:NEWCOMER], place.index))

    @property
    def is_member(self) -> bool:
        """Whether it has the folder."""
        return self._place.index < NEWCOMER or FOLDER in self.node.works

    async def join(self, inviter: SimNode, role: str) -> None:
        """Join by an invite of the other one, the same at every try. Raises DizzyError."""
        if self._task is None:
            raise TryLater("join", "it has not started")
        if "invite" not in self._place.home and isinstance(inviter, InvitedNode):
            made = await inviter.joining.invite("shared", role, EXPIRES_S, ())
            self._place.home["invite"] = made.text
        await self.joining.join(cast("str", self._place.home["invite"]), None, "shared")

    async def _door(self, caller: Said, invite: Invite | None) -> None:
        if invite is None:
            await super()._door(caller, invite)
            return
        key = await self.node.door.invite_key(InviteId(invite.id))
        if key is None or InviteKey(invite.key) != key:
            raise TryLater("join", "the connection closes without a word")
        verdict = await self.node.door.claim_invite(InviteId(invite.id), caller.agent, caller.label)
        if verdict is not Verdict.WELCOME:
            raise DizzyError("join", verdict.name)


def make(place: Place) -> InvitedNode:
    """Make a node; the last one is to join by an invite."""
    listen_to_logs()
    return InvitedNode(place)
