"""Name every operation of a node, for both ends of the control socket."""

from __future__ import annotations

from typing import Final

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
    Rebuilt,
    RestoreLine,
    RestoreRequest,
    ShareRequest,
    VerifyLine,
)
from daemon.route import NOTHING, NoRequest, Route
from daemon.status_routes import STATUS, WAIT

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
