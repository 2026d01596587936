"""Read the figures of folders for `dizzyd status`, on the database thread.

Cheap whatever the size of a folder: what would have to look at many rows is counted as it
changes, or read so seldom that it takes a twentieth of the time at most. It decides nothing and
changes nothing but the hashes of buckets that the state root needs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from daemon.shelf import Shelf
from daemon.status import Behind, HistoryStatus, Pending
from peers.heads import Heads, by_log, lacking
from peers.wire import Head, Range
from store.access import Member
from store.codec import decode_header, split_thinned
from store.events import FIRST_FOLDER_TAG, Content, decode, tag_of
from store.folder import StoredFolder
from store.forks import find_forks
from store.ids import AgentId, LogId
from store.opening import LogHead

T = TypeVar("T")

BACKLOG_LIMIT = 2048  # so many objects are looked up one by one; beyond, all are counted
BUCKETS_AT_ONCE = 32  # of 120 rows each, with 500,000 files: some 10 ms
ROOT_PAUSE_S = 1.0
SHARE_OF_TIME = 20
_CHEAP_S = 0.002
_HEADERS_LIMIT = 2048
_EVENTS_AT_ONCE = 16_384
_WEIGHTS_KEPT = 4096


class Clock(Protocol):
    """Tells the time."""

    def monotonic_s(self) -> float:
        """Give a clock that never goes back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the loop knows of a folder and the reader needs.

    `waiting` are objects that are planned again later, `excluded` those that are left alone,
    `in_flight` what is being written now, `theirs` what connected peers have.
    """

    folder_no: int
    is_running: bool
    is_settled: bool
    waiting: frozenset[int] = frozenset()
    excluded: frozenset[int] = frozenset()
    in_flight: tuple[int, int] = (0, 0)
    theirs: Mapping[AgentId, Heads] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures of one folder at one moment; `state_root` is None while it is not known."""

    name: str
    own: Member | None = None
    members: Mapping[AgentId, Member] = field(default_factory=dict)
    files: int = 0
    directories: int = 0
    file_bytes: int = 0
    conflicts: int = 0
    pending: Pending = field(default_factory=Pending)
    history: HistoryStatus = field(default_factory=HistoryStatus)
    batches: int = 0
    events: int = 0
    heads: tuple[LogHead, ...] = ()
    state_root: bytes | None = None
    is_applied: bool = True
    last_change_ms: int = 0
    behind: Mapping[AgentId, Behind] = field(default_factory=dict)
    held_by_newer: frozenset[AgentId] = frozenset()
    has_wrong_checkpoint: bool = False
    forks: Mapping[LogId, bool] = field(default_factory=dict)  # log -> whether it is over

    def wire_heads(self) -> tuple[Head, ...]:
        """Give the heads as peers say them."""
        return tuple(Head(head.log, head.seq, head.batch) for head in self.heads)


class _Seldom(Generic[T]):
    """A figure that is read anew only after a pause of twenty times what reading it took."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._not_before_s = 0.0
        self._figure: T | None = None

    def get(self, read: Callable[[], T]) -> T:
        began_s = self._clock.monotonic_s()
        if self._figure is None or began_s >= self._not_before_s:
            self._figure = read()
            ended_s = self._clock.monotonic_s()
            took_s = ended_s - began_s
            self._not_before_s = ended_s + (SHARE_OF_TIME * took_s if took_s > _CHEAP_S else 0)
        return self._figure


class _Memory:
    """What is remembered of one folder between two readings."""

    def __init__(self, clock: Clock) -> None:
        self.history: _Seldom[HistoryStatus] = _Seldom(clock)
        self.missing: _Seldom[tuple[int, int, int, int]] = _Seldom(clock)
        self.forks: _Seldom[dict[LogId, bool]] = _Seldom(clock)
        self.root_not_before_s = 0.0
        self.weights: OrderedDict[int, tuple[int, int]] = OrderedDict()  # batch -> files, bytes


def glance(stored: StoredFolder) -> Figures:
    """Give what memory alone tells: for an answer while the database thread is busy."""
    return Figures(
        name=stored.name,
        files=stored.synced.files,
        directories=stored.synced.directories,
        file_bytes=stored.synced.file_bytes,
        batches=stored.log.batches,
        heads=tuple(stored.log.heads()),
    )


class FiguresReader:
    """Reads the figures of all folders in one go. Owned by the database thread."""

    def __init__(self, shelf: Shelf, clock: Clock) -> None:
        """Begin without memory."""
        self._shelf = shelf
        self._clock = clock
        self._memories: dict[int, _Memory] = {}

    def read(self, questions: Sequence[Question]) -> dict[int, Figures]:
        """Give figures by folder number; folders that are closed by now are left out."""
        if any(question.is_settled for question in questions):
            self._shelf.db.settle()  # who reads "in sync" may rely on it
        open_now = {stored.no: stored for stored in self._shelf}
        return {
            question.folder_no: self._read(open_now[question.folder_no], question)
            for question in questions
            if question.folder_no in open_now
        }

    def _read(self, stored: StoredFolder, question: Question) -> Figures:
        memory = self._memories.setdefault(stored.no, _Memory(self._clock))
        log, synced = stored.log, stored.synced
        heads = tuple(log.heads())
        members = log.members()
        is_forked = len({head.log for head in heads}) < len(heads)
        return Figures(
            name=stored.name,
            own=members.get(stored.key.agent),
            members=members,
            files=synced.files,
            directories=synced.directories,
            file_bytes=synced.file_bytes,
            conflicts=synced.count_conflicts(),
            pending=_pending(stored, question, memory),
            history=memory.history.get(lambda: _history(stored)),
            batches=log.batches,
            events=log.count_events(),
            heads=heads,
            state_root=self._root(stored, question, memory),
            is_applied=not log.has_unapplied(),
            last_change_ms=_last_change_ms(stored, heads),
            behind=_behind(stored, question.theirs, heads, memory),
            held_by_newer=frozenset(log.held_by_newer),
            has_wrong_checkpoint=stored.has_wrong_checkpoint,
            forks=memory.forks.get(lambda: find_forks(stored.db, heads)) if is_forked else {},
        )

    def _root(self, stored: StoredFolder, question: Question, memory: _Memory) -> bytes | None:
        """Hash the state where that is cheap, or where nothing else is to be done."""
        state = stored.state
        if state.buckets.dirty > BUCKETS_AT_ONCE:
            now_s = self._clock.monotonic_s()
            may_take_long = question.is_settled or not question.is_running
            if not may_take_long or now_s < memory.root_not_before_s:
                return None
            root = state.root()
            memory.root_not_before_s = self._clock.monotonic_s() + ROOT_PAUSE_S
            return root
        return state.root()


def _pending(stored: StoredFolder, question: Question, memory: _Memory) -> Pending:
    """Count what is known of and not yet on this disk."""
    backlog = (stored.state.changes.objects | question.waiting) - question.excluded
    if question.is_running and len(backlog) <= BACKLOG_LIMIT:
        files, size = stored.unsynced.count_missing(sorted(backlog))
        return Pending(files=files + question.in_flight[0], bytes=size + question.in_flight[1])

    def read() -> tuple[int, int, int, int]:
        return (*stored.unsynced.count_missing(), stored.synced.files, stored.synced.file_bytes)

    # What was written since the last count is taken off.
    files, size, files_then, size_then = memory.missing.get(read)
    return Pending(
        files=max(0, files - max(0, stored.synced.files - files_then)),
        bytes=max(0, size - max(0, stored.synced.file_bytes - size_then)),
    )


def _history(stored: StoredFolder) -> HistoryStatus:
    versions, size = stored.db.execute(
        "SELECT count(*), coalesce(sum(size), 0) FROM kept WHERE folder_no = ?", (stored.no,)
    ).fetchone()
    return HistoryStatus(versions=versions, bytes=size)


def _last_change_ms(stored: StoredFolder, heads: Sequence[LogHead]) -> int:
    """Give the wall clock of the newest batch, as its author said it."""
    latest = 0
    for head in heads:
        row = stored.db.execute("SELECT header FROM batch WHERE id = ?", (head.batch,)).fetchone()
        if row is not None:
            latest = max(latest, decode_header(row[0]).wall_ms)
    return latest


# -- what peers lack ----------------------------------------------------------------------------


def _behind(
    stored: StoredFolder,
    theirs: Mapping[AgentId, Heads],
    heads: Sequence[LogHead],
    memory: _Memory,
) -> dict[AgentId, Behind]:
    """Say what each peer lacks of our log, and the contents that those events name."""
    ours = by_log(Head(head.log, head.seq, head.batch) for head in heads)
    budget = _EVENTS_AT_ONCE
    found: dict[AgentId, Behind] = {}
    for agent, said in theirs.items():
        events = files = size = 0
        for one in lacking(by_log(said.heads), ours).ranges:
            counts = _counts(stored, one)
            events += _estimate(one, counts)
            for batch_no, count in counts:
                weight = memory.weights.get(batch_no)
                if weight is None and count <= budget:
                    budget -= count
                    weight = memory.weights[batch_no] = _weigh(stored, batch_no)
                # What is over the budget is weighed by the next readings.
                files += weight[0] if weight is not None else 0
                size += weight[1] if weight is not None else 0
        found[agent] = Behind(events=events, files=files, bytes=size)
    while len(memory.weights) > _WEIGHTS_KEPT:
        memory.weights.popitem(last=False)
    return found


def _counts(stored: StoredFolder, one: Range) -> list[tuple[int, int]]:
    """Give number and count of events of the first batches in a range."""
    after = -1 if one.after_seq is None else one.after_seq
    rows = stored.db.execute(
        "SELECT b.no, b.header FROM batch b JOIN log l ON l.no = b.log_no"
        f" WHERE l.id = ? AND b.seq > ? AND b.seq <= ? LIMIT {_HEADERS_LIMIT}",
        (one.log, after, one.through_seq),
    )
    return [(no, decode_header(header).count) for no, header in rows if header]


def _estimate(one: Range, counts: Sequence[tuple[int, int]]) -> int:
    """Sum the events of a range; of a very long one by the mean of its beginning."""
    total = sum(count for _, count in counts)
    if len(counts) < _HEADERS_LIMIT:
        return total
    length = one.through_seq - (-1 if one.after_seq is None else one.after_seq)
    return total * length // len(counts)


def _weigh(stored: StoredFolder, batch_no: int) -> tuple[int, int]:
    """Count the contents that a batch names, and their bytes."""
    header_bytes, body = stored.db.execute(
        "SELECT header, body FROM batch WHERE no = ?", (batch_no,)
    ).fetchone()
    files = size = 0
    for raw in split_thinned(body, decode_header(header_bytes).count):
        if not raw or tag_of(raw) >= FIRST_FOLDER_TAG:
            continue
        content = getattr(decode(raw), "content", None)
        if isinstance(content, Content):
            files += 1
            size += content.size
    return files, size
