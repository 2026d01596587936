"""Name every operation of a node as the control socket spells it, for both of its ends.

Imports neither the server nor the client, so that the command line stays quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from daemon.answers import (
    CatRequest,
    FolderPeers,
    FolderRequest,
    FoldersRequest,
    History,
    HistoryRequest,
    Identity,
    InviteMade,
    InviteRequest,
    Joined,
    JoinRequest,
    NoRequest,
    Rebuilt,
    RestoreLine,
    RestoreRequest,
    ShareRequest,
    VerifyLine,
    WaitRequest,
)
from daemon.status import Status

PREFIX: Final = "/api/v1"

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route(Generic[Asked, Answer]):
    """One operation. The fields of `asked` are the parameters of the method of Operations.

    `answer` is the type of the answer, of each line (`is_stream`), or of each piece of bytes.
    `works_stopped`: the command line may do it itself while no daemon runs.
    """

    method: str
    operation: str
    asked: type[Asked]
    answer: type[Answer]
    is_stream: bool = False
    works_stopped: bool = False

    @property
    def path(self) -> str:
        """The way to it: `undo_deletions` is /api/v1/undo-deletions."""
        return f"{PREFIX}/{self.operation.replace('_', '-')}"


NOTHING: Final = type(None)

STATUS: Final = Route(
    method="GET", operation="status", asked=NoRequest, answer=Status, works_stopped=True
)
IDENTITY: Final = Route(
    method="GET", operation="identity", asked=NoRequest, answer=Identity, works_stopped=True
)
PEERS: Final = Route(
    method="GET",
    operation="peers",
    asked=NoRequest,
    answer=list[FolderPeers],
    works_stopped=True,
)
VERIFY: Final = Route(
    method="GET",
    operation="verify",
    asked=FoldersRequest,
    answer=VerifyLine,
    is_stream=True,
    works_stopped=True,
)
REPAIR: Final = Route(
    method="POST", operation="repair", asked=FoldersRequest, answer=VerifyLine, is_stream=True
)
CAT: Final = Route(
    method="GET",
    operation="cat",
    asked=CatRequest,
    answer=bytes,
    is_stream=True,
    works_stopped=True,
)
HISTORY: Final = Route(
    method="GET", operation="history", asked=HistoryRequest, answer=History, works_stopped=True
)
RESTORE: Final = Route(
    method="POST", operation="restore", asked=RestoreRequest, answer=RestoreLine, is_stream=True
)
WAIT: Final = Route(method="GET", operation="wait", asked=WaitRequest, answer=NOTHING)
SHARE: Final = Route(
    method="POST", operation="share", asked=ShareRequest, answer=str, works_stopped=True
)
INVITE: Final = Route(
    method="POST", operation="invite", asked=InviteRequest, answer=InviteMade, works_stopped=True
)
JOIN: Final = Route(method="POST", operation="join", asked=JoinRequest, answer=Joined)
LEAVE: Final = Route(
    method="POST", operation="leave", asked=FolderRequest, answer=NOTHING, works_stopped=True
)
UNSHARE: Final = Route(
    method="POST", operation="unshare", asked=FolderRequest, answer=NOTHING, works_stopped=True
)
REBUILD: Final = Route(
    method="POST",
    operation="rebuild",
    asked=FoldersRequest,
    answer=list[Rebuilt],
    works_stopped=True,
)
SCAN: Final = Route(method="POST", operation="scan", asked=FoldersRequest, answer=NOTHING)
CONFIRM: Final = Route(method="POST", operation="confirm", asked=FolderRequest, answer=NOTHING)
UNDO_DELETIONS: Final = Route(
    method="POST", operation="undo_deletions", asked=FolderRequest, answer=NOTHING
)
REVERT: Final = Route(method="POST", operation="revert", asked=FolderRequest, answer=NOTHING)
RELOAD: Final = Route(method="POST", operation="reload", asked=NoRequest, answer=NOTHING)

ROUTES: Final = (
    STATUS,
    IDENTITY,
    PEERS,
    VERIFY,
    REPAIR,
    CAT,
    HISTORY,
    RESTORE,
    WAIT,
    SHARE,
    INVITE,
    JOIN,
    LEAVE,
    UNSHARE,
    REBUILD,
    SCAN,
    CONFIRM,
    UNDO_DELETIONS,
    REVERT,
    RELOAD,
)
