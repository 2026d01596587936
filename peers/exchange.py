"""Decide what to ask from whom next, for the logs of one folder.

Pure: peers, heads and the time come in, asks come out; nothing is sent or stored here. It does
not judge batches. What waits for its prev or deps waits in `store.log`, bounded for each peer;
here only the ids that are waited for are remembered, so that they are asked for once, first
from whoever sent the batch that names them, then from everybody else.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from peers import heads
from peers.wire import IDS_LIMIT, Range
from store.ids import AgentId, BatchId, LogId

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from peers.heads import Tips
    from store.signing import SignedBatch

ASK_PATIENCE_S: Final = 15.0  # without a part of the answer
PUSH_PATIENCE_S: Final = 2.0  # who pushed a log's last batch will push its next
PUSHED_LIMIT: Final = 8192  # logs; of more it is forgotten who pushes them
ASKS_LIMIT: Final = 4  # under way at one peer for one folder
MISSING_LIMIT: Final = 10_000  # ids waited for, for each peer (A13)
KNOWN_LIMIT: Final = 20_000
BRANCH_STEP: Final = 64  # batches asked for below an unknown head of a forked log
STRIKES_LIMIT: Final = 3


class Ask(Struct, kw_only=True, gc=False):
    """A question to one peer that is under way. Owned by Exchange."""

    request: int
    agent: AgentId
    ranges: tuple[Range, ...]
    ids: tuple[bytes, ...]
    at_s: float  # when it was put, or its last part arrived or was taken in
    asked: tuple[Range, ...]  # its ranges when it was put
    came: set[LogId]  # of these something was stored since


class _Missing(Struct, gc=False):
    source: AgentId
    asked_of: set[AgentId]


class Strikes:
    """Counts what a peer did wrong; three times is enough (A7)."""

    def __init__(self) -> None:
        """Begin with none."""
        self.count = 0

    def add(self, number: int = 1) -> bool:
        """Count more; tell whether the peer is to be disconnected."""
        self.count += number
        return self.count >= STRIKES_LIMIT


class Exchange:
    """Who has what of one folder's logs, and what is asked of whom."""

    def __init__(self) -> None:
        """Begin knowing no peer."""
        self._said: dict[AgentId, Tips] = {}
        self._asks: dict[int, Ask] = {}
        self._missing: OrderedDict[bytes, _Missing] = OrderedDict()
        self._missing_of: dict[AgentId, int] = {}
        self._pushed: dict[LogId, tuple[AgentId, float]] = {}
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._barren: dict[AgentId, dict[LogId, int]] = {}  # asked for up to here in vain
        self._stuck_since_s: float | None = None
        self._last_request = 0

    # -- what is known ----------------------------------------------------------------------

    def heads_said(self, agent: AgentId, tips: Tips) -> None:
        """Take a peer's heads as what it has, until it says others."""
        self._said[agent] = tips
        self._barren.pop(agent, None)

    def gone(self, agent: AgentId) -> None:
        """Forget a peer that is no longer connected; others are asked instead."""
        self._said.pop(agent, None)
        self._barren.pop(agent, None)
        for ask in [one for one in self._asks.values() if one.agent == agent]:
            del self._asks[ask.request]
        for log in [log for log, (source, _) in self._pushed.items() if source == agent]:
            del self._pushed[log]
        for missing in self._missing.values():
            missing.asked_of.discard(agent)

    def pushed(self, agent: AgentId, batches: Iterable[SignedBatch], now_s: float) -> None:
        """Note that a peer pushes these logs: they need not be asked of others just now."""
        for signed in batches:
            self._pushed.pop(signed.log, None)
            self._pushed[signed.log] = (agent, now_s)
            if len(self._pushed) > PUSHED_LIMIT:
                del self._pushed[next(iter(self._pushed))]  # the longest ago

    def stored(self, batches: Iterable[SignedBatch]) -> None:
        """Note that these batches are stored here now."""
        for signed in batches:
            self._stuck_since_s = None
            self.learn_known((signed.id,))
            for ask in self._asks.values():
                ask.came.add(signed.log)
            if signed.id in self._missing:
                self._barren.clear()  # what waited for it can be used now
            self._no_longer_missing(signed.id)

    def begun_anew(self) -> None:
        """Note that a snapshot came instead of what was asked for: ask for what is above it."""
        self._stuck_since_s = None
        self._barren.clear()
        self.waits_for(AgentId(b""), ())

    def learn_known(self, ids: Iterable[bytes]) -> None:
        """Note ids that the store has, so that it need not be asked again (bounded)."""
        for batch in ids:
            self._known[batch] = None
        while len(self._known) > KNOWN_LIMIT:
            self._known.popitem(last=False)

    def waits_for(self, source: AgentId, missing: Collection[bytes]) -> None:
        """Take the ids that the store waits for now; new ones came with `source`."""
        for batch in [one for one in self._missing if one not in missing]:
            self._no_longer_missing(batch)
        for batch in sorted(missing):
            if batch in self._missing:
                continue
            if self._missing_of.get(source, 0) >= MISSING_LIMIT:
                break
            self._missing_of[source] = self._missing_of.get(source, 0) + 1
            self._missing[batch] = _Missing(source, set())

    def _no_longer_missing(self, batch: bytes) -> None:
        missing = self._missing.pop(batch, None)
        if missing is None:
            return
        self._missing_of[missing.source] -= 1
        if not self._missing_of[missing.source]:
            del self._missing_of[missing.source]

    @property
    def missing(self) -> int:
        """How many ids are waited for."""
        return len(self._missing)

    # -- what to ask ------------------------------------------------------------------------

    def unsure(self, ours: Tips) -> list[BatchId]:
        """List heads of peers that only the store can tell whether we have (see plan)."""
        found: dict[BatchId, None] = {}
        for tips in self._said.values():
            for batch in heads.lacking(ours, tips).unsure:
                if batch not in self._known:
                    found[batch] = None
        return list(found)

    def plan(self, ours: Tips, absent: Collection[bytes], now_s: float) -> list[Ask]:
        """Choose what to ask now; each lacked log is asked of one peer at a time.

        `absent` are those of `unsure` that the store does not have. Whoever has most of a log
        is asked for it; questions without any answer for ASK_PATIENCE_S are given up first.
        """
        for ask in [one for one in self._asks.values() if now_s - one.at_s > ASK_PATIENCE_S]:
            del self._asks[ask.request]
        ranges = self._choose_ranges(ours, absent, now_s)
        ids = self._choose_ids()
        return [
            self._put(agent, ranges.get(agent, ()), ids.get(agent, ()), now_s)
            for agent in dict.fromkeys((*ranges, *ids))
            if sum(ask.agent == agent for ask in self._asks.values()) < ASKS_LIMIT
        ]

    def stuck_s(self, ours: Tips, absent: Collection[bytes], now_s: float) -> float:
        """Tell for how long nobody has given more of what this node lacks; 0 while asks run."""
        if self._asks:
            return 0.0
        if not any(self._lacked_of(ours, tips, absent) for tips in self._said.values()):
            self._stuck_since_s = None
            return 0.0
        if self._stuck_since_s is None:
            self._stuck_since_s = now_s
        return now_s - self._stuck_since_s

    def _choose_ranges(
        self, ours: Tips, absent: Collection[bytes], now_s: float
    ) -> dict[AgentId, list[Range]]:
        busy = {one.log for ask in self._asks.values() for one in ask.ranges}
        best: dict[LogId, tuple[AgentId, Range]] = {}
        load: dict[AgentId, int] = {}
        for agent, tips in self._said.items():
            barren = self._barren.get(agent, {})
            for one in self._lacked_of(ours, tips, absent):
                log = LogId(one.log)
                if log in busy or self._is_pushed_by_other(log, agent, now_s):
                    continue
                if barren.get(log, -1) >= one.through_seq:
                    continue
                held = best.get(log)
                if held is None or self._is_better(one, agent, held, load):
                    if held is not None:
                        load[held[0]] -= 1
                    best[log] = (agent, one)
                    load[agent] = load.get(agent, 0) + 1
        chosen: dict[AgentId, list[Range]] = {}
        for agent, one in best.values():
            chosen.setdefault(agent, []).append(one)
        return chosen

    @staticmethod
    def _lacked_of(ours: Tips, tips: Tips, absent: Collection[bytes]) -> list[Range]:
        lack = heads.lacking(ours, tips)
        found = list(lack.ranges)
        ranged = {one.log for one in found}
        if not absent:
            return found
        for log, branch in tips.items():
            seqs = [seq for batch, seq in branch.items() if batch in absent]
            if seqs and log not in ranged:
                below = min(seqs) - BRANCH_STEP
                found.append(Range(log, below if below >= 0 else None, max(seqs)))
        return found

    @staticmethod
    def _is_better(
        one: Range, agent: AgentId, held: tuple[AgentId, Range], load: dict[AgentId, int]
    ) -> bool:
        if one.through_seq != held[1].through_seq:
            return one.through_seq > held[1].through_seq
        return load.get(agent, 0) + 1 < load.get(held[0], 0)

    def _is_pushed_by_other(self, log: LogId, agent: AgentId, now_s: float) -> bool:
        pushed = self._pushed.get(log)
        if pushed is None:
            return False
        source, at_s = pushed
        return source != agent and source in self._said and now_s - at_s < PUSH_PATIENCE_S

    def _choose_ids(self) -> dict[AgentId, list[bytes]]:
        busy = {batch for ask in self._asks.values() for batch in ask.ids}
        chosen: dict[AgentId, list[bytes]] = {}
        for batch, missing in islice(self._missing.items(), MISSING_LIMIT):
            if batch in busy:
                continue
            agent = self._whom_to_ask(missing)
            if agent is not None and len(chosen.get(agent, ())) < IDS_LIMIT:
                chosen.setdefault(agent, []).append(batch)
                missing.asked_of.add(agent)
        return chosen

    def _whom_to_ask(self, missing: _Missing) -> AgentId | None:
        if missing.source in self._said and missing.source not in missing.asked_of:
            return missing.source
        return next((agent for agent in self._said if agent not in missing.asked_of), None)

    def ask_again(self) -> None:
        """Let what nobody had be asked for once more (called on a timer)."""
        self._barren.clear()
        for missing in self._missing.values():
            missing.asked_of.clear()

    def _put(
        self, agent: AgentId, ranges: Sequence[Range], ids: Sequence[bytes], now_s: float
    ) -> Ask:
        self._last_request = (self._last_request + 1) & 0xFFFFFFFF
        ask = Ask(
            request=self._last_request,
            agent=agent,
            ranges=tuple(ranges),
            ids=tuple(ids),
            at_s=now_s,
            asked=tuple(ranges),
            came=set(),
        )
        self._asks[ask.request] = ask
        return ask

    # -- answers ----------------------------------------------------------------------------

    def is_asked(self, request: int, agent: AgentId) -> bool:
        """Whether this peer was asked this and the answer has not ended."""
        ask = self._asks.get(request)
        return ask is not None and ask.agent == agent

    def answered(
        self, request: int, agent: AgentId, batches: Iterable[SignedBatch], now_s: float
    ) -> bool:
        """Narrow a question by what arrived; tell whether that brought it forward."""
        ask = self._asks.get(request)
        if ask is None or ask.agent != agent:
            return False
        through: dict[bytes, int] = {}
        arrived: set[bytes] = set()
        for signed in batches:
            through[signed.log] = max(signed.header.seq, through.get(signed.log, -1))
            arrived.add(signed.id)
        ranges = heads.narrowed(ask.ranges, through)
        ids = heads.without(ask.ids, arrived)
        is_forward = ranges != ask.ranges or ids != ask.ids
        ask.ranges, ask.ids, ask.at_s = ranges, ids, now_s
        return is_forward

    def follow_up(self, request: int) -> Ask | None:
        """Give the rest of a question to be put again, or None if nothing of it is left."""
        ask = self._asks.get(request)
        if ask is None or not (ask.ranges or ask.ids):
            return None
        return ask

    def settled(self, request: int, agent: AgentId) -> None:
        """Close a question: its answer has ended and was taken in.

        What the answer left out although the peer names it is not asked of it again before it
        says its heads anew, or for a while: else an empty answer would be asked for for ever. So
        it is with a log of which nothing could be stored: what came waits for what did not.
        """
        if self.is_asked(request, agent):
            ask = self._asks.pop(request)
            idle = [one for one in ask.asked if one.log not in ask.came]
            self._barren.setdefault(agent, {}).update(
                {LogId(one.log): one.through_seq for one in (*ask.ranges, *idle)}
            )
