"""Define what one asks a node and what it answers, as values.

The control API writes them as JSON, the command line prints them; nothing here knows how an
answer is found. Paths and names are text with surrogateescape, ids are hex.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareRequest:
    """Share the directory at an absolute path."""

    path: str
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InviteRequest:
    """Make an invite; `role` is read, write or admin. No addresses: those of the node."""

    name: str
    role: str
    expires_s: float
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRequest:
    """Join by an invite, into an absolute path or into the default one."""

    invite: str
    path: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderRequest:
    """Anything that is asked of one folder, by its name or a prefix of its id."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldersRequest:
    """Anything that is asked of one folder, or of all where no name is given."""

    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CatRequest:
    """Read one content by path (relative to `cwd`) or by hash."""

    path_or_hash: str
    cwd: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRequest:
    """Tell what became of an absolute path, the symlinks above it resolved."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRequest:
    """Bring a path back as it was, in place or `to` another absolute path.

    At most one of `at_ms` (Unix time) and `digits` (the first of a version's BLAKE3, in hex).
    """

    path: str
    at_ms: int | None = None
    digits: str | None = None
    to: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InviteMade:
    """The one line to hand over, and the addresses that are in it."""

    text: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What was joined, and where its files are."""

    name: str
    path: str
    folder_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this node is."""

    name: str
    agent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member of a folder, as this node sees it; `is_self` is this node."""

    agent: str
    name: str
    role: str
    is_self: bool = False
    connected: bool = False
    addresses: tuple[str, ...] = ()
    last_seen_at: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderPeers:
    """The members of one folder."""

    name: str
    id: str
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyLine:
    """One thing that verify says.

    `kind` is "finding" (damage: `text` says what and where), "pending" (content still on its
    way), "progress" (`done_bytes` of `total_bytes`), or "summary" (the last line; `findings`
    counts the damage). Of repair also "repaired" and "waiting" (no peer at hand has the content);
    its summary has the `exit_code`.
    """

    kind: str
    text: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    findings: int = 0
    exit_code: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEvent:
    """One thing that became of an object, as its author's clock dates it.

    `what` is created, changed, moved, deleted or attributes; `hash` is set where it brought a
    content (of a symlink: the hash of its `target`). `places` are "here", "history", "log" and
    the names of connected peers that have it. `is_void`: a deletion that a move made void.
    """

    at: str
    agent: str
    name: str
    what: str
    path: str
    source: str | None = None
    hash: str | None = None
    size: int | None = None
    target: str | None = None
    places: tuple[str, ...] = ()
    is_shown: bool = False
    is_void: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryObject:
    """One object that stands or stood at the path; `path` is where it stands or stood last.

    `left_out` versions were replaced below the checkpoint with which the log here begins.
    """

    id: str
    kind: str
    path: str
    is_alive: bool
    is_here: bool
    events: tuple[HistoryEvent, ...]
    left_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryInside:
    """How many objects below a directory one batch changed, by what it did."""

    at: str
    agent: str
    name: str
    counts: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What became of a path; `asked` are the connected peers that were asked for contents.

    Objects: the present one first. Events and batches: oldest first.
    """

    folder: str
    path: str
    objects: tuple[HistoryObject, ...]
    inside: tuple[HistoryInside, ...] = ()
    asked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreLine:
    """One thing that restore says.

    `kind` is "log" (`done` of `total` batches read), "progress" (`done` of `total` bytes),
    "left" (something that came later stays), "missing" (no node at hand has the content),
    "failed", or "summary" (the last line, with what the command's exit code is to be).
    """

    kind: str
    text: str = ""
    done: int = 0
    total: int = 0
    exit_code: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """A folder whose state was folded anew, with the root it had and has."""

    name: str
    id: str
    state_root: str
    events: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One line of GET /events; `cursor` is what to give as `after` to go on from here."""

    cursor: str
    folder: str
    kind: str
    at: str
    fields: dict[str, str]
