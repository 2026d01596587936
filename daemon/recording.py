"""Write down what looks made out: durable first, then events in one transaction.

What acts mean as events is daemon.record's; here they are kept away from where apply is at work,
and what came of them is told to those who wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from daemon.acts import Act, Created, Deleted, Moved
from daemon.disk import Disk
from daemon.draft import Recorded
from daemon.durable import make_durable, names_facts
from daemon.look_set import Again, AgainReason
from daemon.looks import LookSchedule
from daemon.procedures import RecordActs
from daemon.standing import Standing
from store.ids import BlobHash


class _Parted(NamedTuple):
    """Acts that may be recorded, and what of the others is to be looked at once more."""

    quiet: tuple[Act, ...]
    again: frozenset[bytes] = frozenset()
    moves: tuple[tuple[bytes, bytes], ...] = ()


class Recording:
    """The way of acts into the log of one folder. Owned by the event loop."""

    def __init__(self, standing: Standing, schedule: LookSchedule) -> None:
        """Prepare; what cannot be recorded now is looked at again by `schedule`."""
        self._standing = standing
        self._tools = standing.tools
        self._schedule = schedule
        self._fresh: dict[BlobHash, bytes] = {}

    def take_fresh(self) -> dict[BlobHash, bytes]:
        """Give the small contents of what was recorded last, to go with the news of it."""
        fresh, self._fresh = self._fresh, {}
        return fresh

    async def record(self, disk: Disk, acts: Sequence[Act]) -> None:
        """Make what the acts name durable, then record them in one transaction."""
        tools, standing = self._tools, self._standing
        standing.was_settled = False
        parted = self._parted(acts)
        self._look_again(parted)
        acts = parted.quiet
        if not acts:
            return
        if not await standing.tail.until_compared(standing.now_s()):
            return  # looked at again, whole, once our own log is back
        self._fresh = {}
        is_news = any(map(names_facts, acts))
        if is_news:
            self._fresh = await tools.pool.run(make_durable, disk, acts)
        standing.last_change_ms = standing.now_ms()
        wall_ms, covered_seq = standing.now_ms(), standing.covered_seq

        def record() -> tuple[Recorded, _Parted]:
            # While we waited for the disk apply may have begun: what it renames takes an edit
            # along, which would be recorded here and once more where it is then.
            parted = self._parted(acts)
            command = RecordActs(
                folder_no=standing.folder_no,
                acts=parted.quiet,
                wall_ms=wall_ms,
                covered_seq=covered_seq,
                under_way=standing.under_way,
            )
            db = standing.stored.db
            if is_news:
                recorded = tools.engine.perform(tools.procedures.record, command)
            else:  # found again if it is lost
                with db.lazily(is_owed=False):
                    recorded = tools.engine.perform(tools.procedures.record, command)
                if recorded.batches:
                    db.sync()
            tools.engine.run_until_idle()
            return recorded, parted

        # Before anybody can ask for them: who is told of a content wants its chunks at once.
        if lists := disk.take_chunk_lists():
            await tools.chunk_lists.keep_all(standing.folder_no, lists)
        with self._leaving_alone(acts):
            recorded, parted = await tools.core.run(record)
        self._look_again(parted)
        if recorded.look_again:
            agains = [Again(path, AgainReason.UNSURE, 0.1) for path in recorded.look_again]
            self._schedule.look_again(agains, standing.now_s())
        if recorded.moves_again:
            self._schedule.look_again_at_moves(recorded.moves_again, standing.now_s())
        standing.local.note(parted.quiet, recorded.local_changes)

    def _leaving_alone(self, acts: Sequence[Act]) -> AbstractContextManager[None]:
        applier = self._standing.applier
        if applier is None:
            return nullcontext()
        known = (act.rows for act in acts if not isinstance(act, Created))
        return applier.leaving_alone({row.object_no for rows in known for row in rows})

    def _parted(self, acts: Sequence[Act]) -> _Parted:
        """Part what was seen where apply is at work just now from the rest. Any thread."""
        applier = self._standing.applier
        if applier is None or not applier.is_placing:
            return _Parted(tuple(acts))
        quiet: list[Act] = []
        again: set[bytes] = set()
        moves: list[tuple[bytes, bytes]] = []
        gone = {act.path for act in acts if isinstance(act, Deleted)}
        for act in acts:
            paths = [act.source, act.target] if isinstance(act, Moved) else [act.path]
            tops = [top for top in map(applier.busy_above, paths) if top is not None]
            if not tops:
                quiet.append(act)
            elif isinstance(act, Moved):
                moves.append((act.source, act.target))
            elif isinstance(act, Deleted) and tops[0] in gone:
                again.update(tops)  # a directory that went whole: looking for it finds the rest
            else:
                again.update(paths)
        return _Parted(tuple(quiet), frozenset(again), tuple(moves))

    def _look_again(self, parted: _Parted) -> None:
        now_s = self._standing.now_s()
        if parted.again:
            agains = [Again(path, AgainReason.UNSURE, 0.05) for path in sorted(parted.again)]
            self._schedule.look_again(agains, now_s)
        if parted.moves:
            self._schedule.look_again_at_moves(parted.moves, now_s)
