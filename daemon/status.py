"""Define what `dizzyd status` says, as values, as JSON and as text for people.

Reports only: nothing here asks a node or changes anything. The names of the fields are the keys
of docs/contract.md; keys may be added, never changed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daemon.plain import from_plain, to_plain
from daemon.terminal import (
    ago,
    counted,
    duration,
    escape,
    milliseconds,
    pad,
    rate,
    size,
    width,
)

if TYPE_CHECKING:
    from datetime import datetime

    from daemon.terminal import Terminal

WAITING_STATES = ("paused", "held", "faulty")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong, and what helps."""

    problem: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """The node itself. `pid`, `started_at` and `uptime_s` are None while it is stopped."""

    name: str
    agent: str
    version: str
    pid: int | None
    home: str
    listen: tuple[str, ...] = ()
    started_at: str | None = None
    uptime_s: float | None = None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """What is known of and not yet on this disk."""

    files: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryStatus:
    """What replaced and deleted versions cost."""

    versions: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The last batch of one log, ids in hex."""

    agent: str
    epoch: str
    seq: int
    batch: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStatus:
    """How much log there is, and up to where."""

    batches: int = 0
    events: int = 0
    heads: tuple[Head, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """What a peer lacks of a folder, as far as it told us."""

    events: int = 0
    bytes: int = 0
    files: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderPeer:
    """One folder at one peer."""

    agent: str
    in_sync: bool
    behind: Behind = Behind()
    rate_bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderStatus:
    """One folder. `state` and `watch` are words of docs/contract.md."""

    name: str
    id: str
    path: str
    role: str
    state: str
    files: int = 0
    directories: int = 0
    bytes: int = 0
    pending: Pending = Pending()
    conflicts: int = 0
    local_changes: int = 0
    held_deletions: int = 0
    held_reversions: int = 0
    watch: str = "full"
    history: HistoryStatus = HistoryStatus()
    log: LogStatus = LogStatus()
    state_root: str = ""
    last_change_at: str | None = None
    problems: tuple[Problem, ...] = ()
    peers: tuple[FolderPeer, ...] = ()
    skipped: tuple[str, ...] = ()
    restless: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """One peer, whatever folders are shared with it."""

    agent: str
    name: str
    connected: bool
    address: str | None = None
    since: str | None = None
    rtt_ms: float | None = None
    received_bytes: int = 0
    sent_bytes: int = 0
    last_seen_at: str | None = None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedStatus:
    """A folder that its owner ended; `untold` are members that may not have heard of it yet."""

    name: str
    id: str
    path: str
    by: str
    ended_at: str | None = None
    untold: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The whole answer."""

    node: NodeStatus
    folders: tuple[FolderStatus, ...]
    peers: tuple[PeerStatus, ...]
    rejected: dict[str, int]
    ended: tuple[EndedStatus, ...] = ()

    @property
    def is_healthy(self) -> bool:
        """Whether no `problem` key holds anything."""
        problems = [self.node.problems]
        problems += [folder.problems for folder in self.folders]
        problems += [peer.problems for peer in self.peers]
        return not any(problems)


def to_json(status: Status) -> dict[str, Any]:
    """Give the object of `status --json` and of GET /api/v1/status."""
    plain: dict[str, Any] = to_plain(status)
    return plain


def from_json(value: object) -> Status:
    """Read such an object; keys of a newer dizzyd are passed over. Raises NotPlain."""
    return from_plain(Status, value, is_open=True)


def render(status: Status, terminal: Terminal, *, now: datetime, user_home: str = "") -> str:
    """Show the status to a person, as in docs/contract.md."""
    names = [status.node.name]
    names += [folder.name for folder in status.folders]
    names += [ended.name for ended in status.ended]
    columns = max(width(escape(name)) for name in names)
    lines = [_node_line(status, terminal, columns)]
    lines += _problem_lines(status.node.problems, terminal)
    rows = [_folder_row(folder, user_home) for folder in status.folders]
    path_columns = max((width(row[1]) for row in rows), default=0)
    size_columns = max((width(row[2]) for row in rows), default=0)
    peers = {peer.agent: peer for peer in status.peers}
    for folder, (name, path, amount, summary) in zip(status.folders, rows, strict=True):
        lines.append(
            f"{terminal.style(pad(name, columns), 'bold')}   {pad(path, path_columns)}    "
            f"{pad(amount, size_columns)}    {_coloured(folder, summary, terminal)}"
        )
        lines += _problem_lines(folder.problems, terminal)
        lines += _remark_lines(folder, terminal)
        lines += _peer_lines(folder, peers, terminal, now)
    for peer in status.peers:
        lines += [f"  {escape(peer.name)}"] if peer.problems else []
        lines += _problem_lines(peer.problems, terminal)
    for ended in status.ended:
        name = terminal.style(pad(escape(ended.name), columns), "bold")
        lines.append(f"{name}   {_ended_line(ended, status, user_home, now)}")
    if not status.folders and status.node.pid is not None:
        lines.append("no folder yet: `dizzyd share PATH`, or `dizzyd join INVITE`")
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _node_line(status: Status, terminal: Terminal, columns: int) -> str:
    name = terminal.style(pad(escape(status.node.name), columns), "bold")
    if status.node.pid is None:
        return f"{name}   {terminal.style('not running', 'yellow')}"
    up = f", up {duration(status.node.uptime_s)}" if status.node.uptime_s is not None else ""
    if status.is_healthy:
        return f"{name}   {terminal.style('healthy', 'green')}{up}"
    return f"{name}   {terminal.style('running, with problems', 'red')}{up}"


def _folder_row(folder: FolderStatus, user_home: str) -> tuple[str, str, str, str]:
    amount = f"{counted(folder.files, 'file')}, {size(folder.bytes)}"
    return escape(folder.name), _shown_path(folder.path, user_home), amount, _summary(folder)


def _shown_path(path: str, user_home: str) -> str:
    if user_home not in {"", "/"} and path.startswith(user_home + os.sep):
        path = "~" + path[len(user_home) :]
    return escape(path)


def _summary(folder: FolderStatus) -> str:
    if folder.state == "held":
        held = [
            counted(number, noun)
            for number, noun in (
                (folder.held_deletions, "deletion"),
                (folder.held_reversions, "older file"),
            )
            if number
        ]
        return f"held: {', '.join(held)}"
    if folder.state in WAITING_STATES or folder.state == "scanning":
        return folder.state
    if folder.pending.files or folder.pending.bytes:
        return f"{_to_go(folder.pending.files, folder.pending.bytes)}"
    if folder.state != "idle":
        return folder.state
    if not folder.peers:
        return "shared with nobody yet"
    return "in sync" if any(peer.in_sync for peer in folder.peers) else "up to date here"


def _to_go(files: int, amount: int) -> str:
    return f"{counted(files, 'file')}, {size(amount)} to go"


def _coloured(folder: FolderStatus, summary: str, terminal: Terminal) -> str:
    if folder.state == "faulty":
        return terminal.style(summary, "red")
    if folder.state in {"held", "paused"}:
        return terminal.style(summary, "yellow")
    return terminal.style(summary, "green") if summary == "in sync" else summary


def _problem_lines(problems: tuple[Problem, ...], terminal: Terminal) -> list[str]:
    columns = max((width(escape(problem.problem)) for problem in problems), default=0)
    return [
        f"  {terminal.style('!', 'red')} {pad(escape(problem.problem), max(columns, 33))}    "
        f"{terminal.style(escape(problem.hint), 'dim')}"
        for problem in problems
    ]


def _remark_lines(folder: FolderStatus, terminal: Terminal) -> list[str]:
    """Show what a person may want to act on though nothing is wrong."""
    name = escape(folder.name)
    remarks = [
        (folder.conflicts, "conflict copy", "conflict copies", "both contents are kept"),
        (folder.local_changes, "local change", "", f"`dizzyd revert {name}` takes them back"),
        (
            folder.held_deletions,
            "deletion held",
            "deletions held",
            f"`dizzyd confirm {name}`, or `dizzyd undo-deletions {name}`",
        ),
        (
            folder.held_reversions,
            "older file held",
            "older files held",
            f"`dizzyd confirm {name}`, or `dizzyd undo-deletions {name}`",
        ),
        (len(folder.skipped), "special file skipped", "special files skipped", ""),
        (
            len(folder.restless),
            "file being written",
            "files being written",
            f"{_first_of(folder.restless)}: shared when closed, or left alone for 2 s",
        ),
    ]
    shown = [
        (counted(number, noun, plural), hint) for number, noun, plural, hint in remarks if number
    ]
    if folder.watch != "full":
        shown.append((f"watch: {folder.watch}", "changes are found by looking every 30 s"))
    columns = max((width(text) for text, _hint in shown), default=0)
    return [f"  {pad(text, columns)}    {terminal.style(hint, 'dim')}" for text, hint in shown]


def _first_of(names: tuple[str, ...]) -> str:
    return ", ".join(map(escape, names[:3])) + (" …" if len(names) > 3 else "")  # noqa: PLR2004


def _ended_line(ended: EndedStatus, status: Status, user_home: str, now: datetime) -> str:
    by = "you" if ended.by == status.node.agent else "its owner"
    line = f"{_shown_path(ended.path, user_home)}    ended by {by} {ago(ended.ended_at, now)}"
    if not ended.untold:
        return f"{line}; its files stay"
    return f"{line}; its files stay, {counted(len(ended.untold), 'member')} to be told"


def _peer_lines(
    folder: FolderStatus, peers: dict[str, PeerStatus], terminal: Terminal, now: datetime
) -> list[str]:
    rows = [_peer_row(peer, peers.get(peer.agent), now) for peer in folder.peers]
    names = max((width(row[0]) for row in rows), default=0)
    states = max((width(row[1]) for row in rows), default=0)
    return [
        f"  {pad(name, names)}   {pad(state, states)}    {terminal.style(extra, 'dim')}"
        for name, state, extra in rows
    ]


def _peer_row(peer: FolderPeer, known: PeerStatus | None, now: datetime) -> tuple[str, str, str]:
    name = escape(known.name) if known is not None else peer.agent[:8]
    if known is None or not known.connected:
        seen = ago(known.last_seen_at if known is not None else None, now)
        return name, "away", f"seen {seen}" if seen != "never" else "never seen"
    if peer.in_sync:
        return name, "in sync", "" if known.rtt_ms is None else milliseconds(known.rtt_ms)
    behind = peer.behind
    if behind.files or behind.bytes:
        state = _to_go(behind.files, behind.bytes)
    else:
        state = f"{counted(behind.events, 'event')} to go" if behind.events else "comparing"
    if peer.rate_bytes_per_s < 1:
        return name, state, ""
    left = duration(behind.bytes / peer.rate_bytes_per_s)
    return name, state, f"{rate(peer.rate_bytes_per_s)}, {left} left"
