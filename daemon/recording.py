"""Write down what looks made out: durable first, then events in one transaction.

What acts mean as events is daemon.record's; here they are kept away from where apply is at work,
and what came of them is told to those who wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from daemon.acts import Act, Deleted, Moved
from daemon.disk import Disk
from daemon.draft import Recorded
from daemon.durable import make_durable, names_facts
from daemon.look_set import Again, AgainReason
from daemon.looks import LookSchedule
from daemon.procedures import RecordActs
from daemon.standing import Standing
from store.ids import BlobHash


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
        acts = self._not_busy(acts)
        if not acts:
            return
        if not await standing.tail.until_compared(standing.now_s()):
            return  # looked at again, whole, once our own log is back
        self._fresh = {}
        is_news = any(map(names_facts, acts))
        if is_news:
            self._fresh = await tools.pool.run(make_durable, disk, acts)
        standing.last_change_ms = standing.now_ms()
        command = RecordActs(
            folder_no=standing.folder_no,
            acts=tuple(acts),
            wall_ms=standing.now_ms(),
            covered_seq=standing.covered_seq,
            under_way=standing.under_way,
        )

        def record() -> Recorded:
            db = standing.stored.db
            if is_news:
                recorded = tools.engine.perform(tools.procedures.record, command)
            else:  # found again if it is lost
                with db.lazily(is_owed=False):
                    recorded = tools.engine.perform(tools.procedures.record, command)
                if recorded.batches:
                    db.sync()
            tools.engine.run_until_idle()
            return recorded

        # Before anybody can ask for them: who is told of a content wants its chunks at once.
        if lists := disk.take_chunk_lists():
            await tools.chunk_lists.keep_all(standing.folder_no, lists)
        recorded = await tools.core.run(record)
        if recorded.look_again:
            agains = [Again(path, AgainReason.UNSURE, 0.1) for path in recorded.look_again]
            self._schedule.look_again(agains, standing.now_s())
        if recorded.moves_again:
            self._schedule.look_again_at_moves(recorded.moves_again, standing.now_s())
        standing.local.note(acts, recorded.local_changes)

    def _not_busy(self, acts: Sequence[Act]) -> Sequence[Act]:
        """Leave out what was seen where apply is at work just now: it is looked at once more."""
        applier = self._standing.applier
        if applier is None:
            return acts
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
        if again:
            agains = [Again(path, AgainReason.UNSURE, 0.05) for path in sorted(again)]
            self._schedule.look_again(agains, self._standing.now_s())
        if moves:
            self._schedule.look_again_at_moves(moves, self._standing.now_s())
        return quiet
