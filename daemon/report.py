"""Say how everything is: put together what `dizzyd status` answers.

It reads only, and never waits long: while the database thread is busy the figures of the last
reading are given. What is wrong is put into words by daemon.problems, shown by daemon.status.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import daemon
from daemon.answers import Change
from daemon.differences import ProblemKind
from daemon.figures import Figures, FiguresReader, Question, glance
from daemon.problems import (
    clone_problem,
    damage_problem,
    folder_problems,
    fork_problem,
    own_clone_problem,
    replaced_problem,
    scrub_problem,
    unknown_folder_problem,
)
from daemon.speeds import Speeds
from daemon.status import (
    Behind,
    EndedStatus,
    FolderPeer,
    FolderStatus,
    Head,
    LogStatus,
    NodeStatus,
    PeerStatus,
    Problem,
    Status,
)
from daemon.terminal import format_time
from peers.heads import Heads, by_log, is_in_sync
from store.codec import decode_header
from store.errors import Malformed
from store.ids import AgentId, Epoch, FolderId, LogId, log_id
from store.state import STATE_VERSION

if TYPE_CHECKING:
    from daemon.folder_work import FolderWork
    from daemon.home import Home
    from daemon.node import Node

PATIENCE_S = 0.03  # for the database thread; then the last figures are good enough
FIRST_PATIENCE_S = 0.3  # where there are none
SKIPPED_LIMIT = 100
_SKIPPED = (ProblemKind.SKIPPED, ProblemKind.MOUNT)


def rfc3339(ms: int) -> str | None:
    """Write a wall clock in milliseconds for machines; None for 0."""
    return format_time(ms * 1_000_000) if ms else None


def change(  # noqa: PLR0917 - the columns of one row
    no: int, folder_name: str, header: bytes, agent: bytes, seq: int, batch: bytes
) -> Change:
    """Tell of one stored batch, as GET /events does."""
    decoded = decode_header(header)
    return Change(
        cursor=str(no),
        folder=folder_name,
        kind="batch",
        at=rfc3339(decoded.wall_ms) or "",
        fields={
            "agent": agent.hex(),
            "seq": str(seq),
            "batch": batch.hex(),
            "events": str(decoded.count),
        },
    )


def _take_failure(reading: asyncio.Future[dict[int, Figures]]) -> None:
    if not reading.cancelled():
        reading.exception()


class Reporter:
    """Answers status; made once for a node. `pid` is None for one that does not run."""

    def __init__(
        self,
        node: Node,
        home: Home,
        *,
        listen: Callable[[], tuple[str, ...]],
        rejected: Callable[[], Counter[str]],
        config_problem: Callable[[], Problem | None],
        pid: int | None,
    ) -> None:
        """Count the time since now as the time that the node is up."""
        self._node = node
        self._home = home
        self._listen = listen
        self._rejected = rejected
        self._config_problem = config_problem
        self._pid = pid
        clock = node.world.clock
        self._started_ms = clock.now_ns() // 1_000_000
        self._started_s = clock.monotonic_s()
        self._reader = FiguresReader(node.shelf, clock)
        self._reading: asyncio.Future[dict[int, Figures]] | None = None
        self._figures: dict[int, Figures] = {}
        self._damage: Problem | None = None
        self._speeds = Speeds()

    async def status(self) -> Status:
        """Say how everything is, at once."""
        works = list(self._node.works.values())
        await self._read(works)
        names = self._names(works)
        peers = tuple(self._peers(names))  # first: it measures how fast bytes go
        return Status(
            node=self._own(),
            folders=tuple(self._folder(work, names) for work in works),
            peers=peers,
            rejected=self._count_rejected(),
            ended=tuple(self._ended()),
        )

    # -- figures --------------------------------------------------------------------------------

    async def _read(self, works: list[FolderWork]) -> None:
        """Read the figures anew, or leave the last ones where that takes too long."""
        if self._reading is None or self._reading.done():
            questions = [self._question(work) for work in works]
            # Not of a task group: who asked may leave, and the next one takes the answer.
            self._reading = asyncio.ensure_future(
                self._node.world.core.run(self._reader.read, questions)
            )
            # It may fail when nobody waits any more: then the next answer tells.
            self._reading.add_done_callback(_take_failure)
        is_known = all(work.folder_no in self._figures for work in works)
        await asyncio.wait({self._reading}, timeout=PATIENCE_S if is_known else FIRST_PATIENCE_S)
        if self._reading.done():
            try:
                self._figures = self._reading.result()
                self._damage = None
            except (sqlite3.DatabaseError, Malformed) as cause:
                self._damage = damage_problem(cause)
        for work in works:
            if work.folder_no not in self._figures:
                self._figures[work.folder_no] = glance(self._node.shelf[work.folder_no])

    def _question(self, work: FolderWork) -> Question:
        return Question(
            folder_no=work.folder_no,
            is_running=self._pid is not None,
            is_settled=work.is_settled,
            waiting=frozenset(work.waiting_objects),
            excluded=work.standing.left_alone,
            in_flight=work.pending,
            theirs=dict(work.standing.peer_heads),
        )

    # -- the node -------------------------------------------------------------------------------

    def _own(self) -> NodeStatus:
        node = self._node
        is_up = self._pid is not None
        uptime_s = node.world.clock.monotonic_s() - self._started_s
        return NodeStatus(
            name=node.config.node.name,
            agent=node.key.agent.hex(),
            version=daemon.__version__,
            pid=self._pid,
            home=str(self._home.state),
            listen=tuple(self._listen()),
            started_at=rfc3339(self._started_ms) if is_up else None,
            uptime_s=round(uptime_s, 3) if is_up else None,
            problems=tuple(self._own_problems()),
        )

    def _own_problems(self) -> Iterable[Problem]:
        node = self._node
        config_problem = self._config_problem()
        if config_problem is not None:
            yield config_problem
        if self._damage is not None:
            yield self._damage
        if node.found_damage:
            yield scrub_problem(node.found_damage)
        if node.damage and any(work.standing.is_rebuilding for work in node.works.values()):
            yield replaced_problem(node.damage)
        is_cloned = node.book.is_cloned or node.shelf.own.has_twin
        if is_cloned or node.key.agent in node.links.clones_seen:
            yield own_clone_problem()
        yield from self._fork_problems(node.key.agent)
        for name, folder in node.config.folders.items():
            if folder.id is not None and folder.id not in (node.works.keys() | node.ended.keys()):
                yield unknown_folder_problem(name)

    def _ended(self) -> Iterable[EndedStatus]:
        for ended in self._node.ended.values():
            yield EndedStatus(
                name=ended.name,
                id=ended.folder.hex(),
                path=os.fsdecode(ended.path),
                by=ended.ending.agent.hex(),
                ended_at=rfc3339(ended.ending.wall_ms),
                untold=tuple(agent.hex() for agent in ended.untold),
            )

    def _fork_problems(self, agent: AgentId) -> list[Problem]:
        """Tell of forks that we hold both branches of, or were shown the proof of.

        Not of those that are over (store.forks): nothing is to be done about them any more.
        """
        folders: set[str] = set()
        over: set[LogId] = set()
        for figures in self._figures.values():
            of_agent = {head.log for head in figures.heads if head.agent == agent}
            over |= {log for log, is_over in figures.forks.items() if is_over}
            if of_agent & figures.forks.keys() - over:
                folders.add(figures.name)
        for fork in self._node.replica.forks.values():
            stored = self._node.shelf.find(FolderId(fork.folder))
            header = decode_header(fork.header)
            log = log_id(FolderId(fork.folder), AgentId(header.agent), Epoch(header.epoch))
            if stored is not None and header.agent == agent and log not in over:
                folders.add(stored.name)
        return [fork_problem(name) for name in sorted(folders)]

    def _count_rejected(self) -> dict[str, int]:
        total = Counter({"bad-signature": 0})
        for counts in (self._rejected(), self._node.sessions.rejected, self._node.links.rejected):
            total.update(counts)
        return dict(sorted(total.items()))

    # -- folders --------------------------------------------------------------------------------

    def _folder(self, work: FolderWork, names: Mapping[AgentId, str]) -> FolderStatus:
        figures = self._figures[work.folder_no]
        ours = Heads(
            heads=figures.wire_heads(),
            state_root=figures.state_root,
            state_version=STATE_VERSION,
            is_importing=work.is_importing,
            is_applied=figures.is_applied,
        )
        diverged = [
            agent
            for agent, theirs in work.standing.peer_heads.items()
            if has_diverged(ours, theirs)
        ]
        skipped = sorted(path for path, kind in work.skipped.items() if kind in _SKIPPED)
        role = figures.own.role.name.lower() if figures.own is not None else ""
        return FolderStatus(
            name=figures.name,
            id=work.folder.hex(),
            path=os.fsdecode(work.path),
            role=role,
            state=self._state_word(work, figures, has_diverged=bool(diverged)),
            files=figures.files,
            directories=figures.directories,
            bytes=figures.file_bytes,
            pending=figures.pending,
            conflicts=figures.conflicts,
            local_changes=len(work.standing.local.paths),
            held_deletions=len(work.held),
            held_reversions=len(work.standing.reverted),
            watch=work.watch_state.name.lower(),
            history=figures.history,
            log=LogStatus(
                batches=figures.batches,
                events=figures.events,
                heads=tuple(
                    Head(
                        agent=head.agent.hex(),
                        epoch=head.epoch.hex(),
                        seq=head.seq,
                        batch=head.batch.hex(),
                    )
                    for head in figures.heads
                ),
            ),
            state_root=figures.state_root.hex() if figures.state_root is not None else "",
            last_change_at=rfc3339(work.standing.last_change_ms or figures.last_change_ms),
            problems=folder_problems(work, figures, names=names, diverged=diverged),
            peers=tuple(self._folder_peers(work, figures, ours)),
            skipped=tuple(os.fsdecode(path) for path in skipped[:SKIPPED_LIMIT]),
            restless=tuple(os.fsdecode(path) for path in work.restless[:SKIPPED_LIMIT]),
        )

    def _state_word(self, work: FolderWork, figures: Figures, *, has_diverged: bool) -> str:
        trouble = work.trouble
        if trouble.root is not None or trouble.space is not None or trouble.failed or has_diverged:
            return "faulty"
        if self._pid is None:
            return "paused"
        if work.held or work.standing.reverted:
            return "held"
        if work.is_scanning or work.is_importing:
            return "scanning"
        is_busy = work.is_applying or figures.pending.files or figures.pending.bytes
        return "syncing" if is_busy else "idle"

    def _folder_peers(
        self, work: FolderWork, figures: Figures, ours: Heads
    ) -> Iterable[FolderPeer]:
        is_all_here = not figures.pending.files and not figures.pending.bytes
        members = work.members or figures.members
        for agent in sorted(set(members) | set(work.standing.peer_heads)):
            if agent == self._node.key.agent:
                continue
            theirs = work.standing.peer_heads.get(agent)
            in_sync = theirs is not None and is_all_here and is_in_sync(ours, theirs)
            yield FolderPeer(
                agent=agent.hex(),
                in_sync=in_sync,
                behind=figures.behind.get(agent, Behind()) if not in_sync else Behind(),
                rate_bytes_per_s=0.0 if in_sync else self._speeds.of(agent),
            )

    # -- peers ----------------------------------------------------------------------------------

    def _names(self, works: list[FolderWork]) -> dict[AgentId, str]:
        """Give every other member, and whoever is connected, the name to show."""
        node = self._node
        labels: dict[AgentId, str] = {}
        for work in works:
            members = work.members or self._figures[work.folder_no].members
            for agent, member in members.items():
                labels.setdefault(agent, member.label.decode("utf-8", "replace"))
            for source in node.book.sources(work.folder_no):
                labels.setdefault(source, "")
        for session in node.sessions.all():
            labels.setdefault(session.agent, session.link.label.decode("utf-8", "replace"))
        labels.pop(node.key.agent, None)
        return {
            agent: node.book.get(agent).name or label or agent.hex()[:8]
            for agent, label in sorted(labels.items())
        }

    def _peers(self, names: Mapping[AgentId, str]) -> Iterable[PeerStatus]:
        node = self._node
        now_ms = node.world.clock.now_ns() // 1_000_000
        now_s = asyncio.get_running_loop().time()
        for agent, name in names.items():
            session = node.sessions.session(agent)
            problems = self._fork_problems(agent)
            if agent in node.links.clones_seen:
                problems.append(clone_problem())
            if session is None:
                self._speeds.forget(agent)
                yield PeerStatus(
                    agent=agent.hex(),
                    name=name,
                    connected=False,
                    last_seen_at=rfc3339(node.book.get(agent).last_seen_ms),
                    problems=tuple(problems),
                )
                continue
            link = session.link
            received_bytes, sent_bytes = self._node.traffic.of(agent)
            self._speeds.note(agent, now_s, sent_bytes)
            yield PeerStatus(
                agent=agent.hex(),
                name=name,
                connected=True,
                address=link.address,
                since=rfc3339(now_ms - int((now_s - link.opened_at_s) * 1000)),
                rtt_ms=round(link.rtt_s * 1000, 3),
                received_bytes=received_bytes,
                sent_bytes=sent_bytes,
                last_seen_at=rfc3339(now_ms),
                problems=tuple(problems),
            )


def has_diverged(ours: Heads, theirs: Heads) -> bool:
    """Whether a peer has the very batches that we have and folded them to another state."""
    if ours.state_root is None or theirs.state_root is None:
        return False
    return (
        ours.state_version == theirs.state_version
        and ours.is_applied
        and theirs.is_applied
        and not ours.is_importing
        and not theirs.is_importing
        and ours.state_root != theirs.state_root
        and by_log(ours.heads) == by_log(theirs.heads)
    )
