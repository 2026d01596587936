"""Hold what a folder at work knows of itself, shared by its two loops and told to `status`.

Values and small questions to them, owned by the event loop; nothing here acts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from daemon.acts import Act, Created, Moved
from daemon.apply import Applier
from daemon.folder_tools import Tools, Trouble
from daemon.held import HeldReversions
from daemon.own_tail import OwnTail
from daemon.planning import UnderWay
from peers.heads import Heads, is_in_sync
from store.access import Member, may_write
from store.folder import StoredFolder
from store.ids import AgentId, FolderId
from store.synced import FolderSynced


@dataclass(slots=True)
class LocalChanges:
    """A reader's own changes: listed, never sent, never overwritten."""

    paths: set[bytes] = field(default_factory=set)
    objects: set[int] = field(default_factory=set)

    def clear(self) -> None:
        """Forget them: they were taken back, or count from now on."""
        self.paths.clear()
        self.objects.clear()

    def note(self, acts: Iterable[Act], refused: Iterable[bytes]) -> None:
        """Take account of recorded acts, of which those at `refused` paths are no events."""
        acts = list(acts)
        refused = set(refused)
        self.paths.difference_update(_path_of(act) for act in acts)
        self.paths |= refused
        for act in acts:
            if isinstance(act, Created):
                continue
            nos = {row.object_no for row in act.rows}
            if _path_of(act) in refused:
                self.objects |= nos
            else:
                self.objects -= nos


def _path_of(act: Act) -> bytes:
    return act.target if isinstance(act, Moved) else act.path


@dataclass(slots=True, kw_only=True)
class Standing:
    """How one folder stands on this node."""

    tools: Tools
    folder_no: int
    folder: FolderId
    tail: OwnTail
    trouble: Trouble = field(default_factory=Trouble)
    members: dict[AgentId, Member] = field(default_factory=dict)
    peer_heads: dict[AgentId, Heads] = field(default_factory=dict)
    covered_seq: int = -1  # of our own log: the last that any peer is known to have
    local: LocalChanges = field(default_factory=LocalChanges)
    reverted: HeldReversions = field(default_factory=HeldReversions)
    is_joining: bool = False  # files that stood here before are not bound yet
    is_scanned: bool = False  # the first full scan of this run is done
    was_settled: bool = False  # whether peers were told that nothing is to be done here
    last_change_ms: int | None = None
    applier: Applier | None = None  # while the root is there
    under_way: UnderWay = field(default_factory=UnderWay)

    @property
    def stored(self) -> StoredFolder:
        """The folder as the database thread knows it."""
        return self.tools.shelf[self.folder_no]

    @property
    def synced(self) -> FolderSynced:
        """What this disk agreed to; for the database thread, and for counts."""
        return self.stored.synced

    @property
    def own_member(self) -> Member | None:
        """Our own role, None before we were admitted."""
        return self.members.get(self.tools.shelf.key.agent)

    @property
    def may_write(self) -> bool:
        """Whether our changes count."""
        return may_write(self.own_member)

    @property
    def is_rebuilding(self) -> bool:
        """Whether the database was replaced, and files are not bound yet."""
        return self.is_joining and self.stored.is_rebuilt

    @property
    def left_alone(self) -> frozenset[int]:
        """The objects that are not brought in step with the state on this disk."""
        return self.reverted.objects | self.local.objects

    def now_s(self) -> float:
        """Give the clock that never goes back."""
        return self.tools.clock.monotonic_s()

    def now_ms(self) -> int:
        """Give the wall clock."""
        return self.tools.clock.now_ns() // 1_000_000

    def note_heads(self, agent: AgentId, heads: Heads) -> None:
        """Note what a peer has of this folder."""
        self.peer_heads[agent] = heads
        own = self.stored.own_log
        for head in heads.heads:
            if head.log == own:
                self.covered_seq = max(self.covered_seq, head.seq)

    def in_sync_with(self, agent: AgentId, ours: Heads) -> bool:
        """Whether a peer has the same batches and the same state, and nothing is pending."""
        theirs = self.peer_heads.get(agent)
        return theirs is not None and is_in_sync(ours, theirs)

    def heads_of_others(self) -> Sequence[Heads]:
        """Give what the connected peers have."""
        return list(self.peer_heads.values())
