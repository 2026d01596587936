"""Turn what changed in a folder's state into files: plan, apply, try again, for as long as it runs.

It knows the look loop only as somebody who can be asked to look; where a file goes and what is
kept is daemon.apply's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from daemon.apply import Applied, Applier
from daemon.disk import Disk, DiskError
from daemon.folding import folded
from daemon.headroom import missing_bytes, shortage
from daemon.journal import FolderJournal
from daemon.look_set import Again, AgainReason
from daemon.looks import QUIET_S
from daemon.misfits import TRY_FIRST_S, DiskNames, Misfits
from daemon.outcomes import Postponed, Reason, Why
from daemon.planning import UnderWay, plan_changes, queue_unsynced, split_slow
from daemon.retries import FIRST_S, Retries
from daemon.standing import Standing
from daemon.steps import Plan, WriteFile
from peers.cancelling import TaskGroup
from store.folder import StoredFolder
from store.ids import BlobHash

FAILED_RETRY_S = 5.0
DOUBT_RETRY_S = 1.0  # until then no look judges what a restore left half done


class Looks(Protocol):
    """Who looks at the disk; implemented by daemon.look_loop."""

    def look_again(self, agains: Sequence[Again], missing: Sequence[bytes]) -> None:
        """Look at these paths again, and at what stood at missing ones."""


class ApplyLoop:
    """The way from state to disk of one folder. Owned by the event loop."""

    def __init__(
        self,
        standing: Standing,
        journal: FolderJournal,
        looks: Looks,
        on_idle: Callable[[], None],
    ) -> None:
        """Prepare; `on_idle` is called whenever nothing is left to apply."""
        self._standing = standing
        self._tools = standing.tools
        self._journal = journal
        self._looks = looks
        self._on_idle = on_idle
        self._changed = asyncio.Event()
        self._retries = Retries()
        self._has_backlog = True
        self._slow = 0
        self._disk: Disk | None = None
        self._too_large: set[int] = set()  # objects that wait for room on the disk
        self._misfits = Misfits()
        self.is_applying = False
        self.pending: tuple[int, int] = (0, 0)  # files, bytes

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits to be planned or applied."""
        return (
            not self.is_applying
            and not self._changed.is_set()
            and not self._has_backlog
            and not self._slow
            and not self._retries
        )

    @property
    def waiting_objects(self) -> set[int]:
        """The objects that are planned again later: what failed, what no peer at hand has."""
        return self._retries.objects

    def changed(self) -> None:
        """Wake up: the view may want other things on this disk."""
        self._encourage_misfits()
        self._changed.set()

    def _encourage_misfits(self) -> None:
        if self._misfits:
            self._misfits.encourage()
            self._retries.hasten(self._misfits.objects, _loop_s() + TRY_FIRST_S)

    def begin_anew(self) -> None:
        """Plan whatever is not as state wants it."""
        self._has_backlog = True
        self._changed.set()

    def retry_away(self, contents: Sequence[BlobHash] | None = None) -> None:
        """Try again what no peer at hand had: these contents, or all."""
        if self._retries.call_back(contents):
            self._standing.was_settled = False
            self._changed.set()

    async def run(self, applier: Applier, disk: Disk) -> None:
        """Apply until cancelled; large contents go on beside the rest."""
        self._has_backlog = True
        self._slow = 0  # a task that was cancelled before it began did not count itself out
        self._disk = disk
        await self._tools.core.run(queue_unsynced, self._standing.stored)
        async with TaskGroup() as large:
            while True:
                self._changed.clear()
                if self._may_apply() and await self._apply_once(applier, disk, large):
                    continue
                if self.is_settled:
                    await applier.forget_downloads()
                await self._wait_for_changes(applier)

    def _may_apply(self) -> bool:
        return self._standing.is_scanned or not self._standing.is_joining

    async def _apply_once(self, applier: Applier, disk: Disk, large: asyncio.TaskGroup) -> bool:
        """Plan what changed and do it; whether there was anything to plan."""
        standing = self._standing
        self.is_applying = True
        misfits = self._misfits.lately
        try:
            made, self._has_backlog = await self._tools.core.run(
                plan_changes,
                standing.stored,
                self._retries.take_due(_loop_s()),
                standing.left_alone,
                standing.under_way,
                DiskNames(folded if disk.folds_names() else None, misfits),
            )
            if made is None:
                return False
            misfits &= made.objects
            under_way = standing.under_way
            quick, slow = split_slow(made)
            begun = [(one, applier.begin(one)) for one in slow]
            if quick.steps or quick.blocked:
                # Before anything is waited for: what others commit from now on is news to it.
                number = applier.begin(quick)
                await self._carry_out(applier, quick, under_way, number, staying=misfits)
            else:
                self._end(quick, under_way)
            for one, number in begun:
                self._slow += 1
                large.create_task(self._carry_out_slow(applier, one, under_way, number, misfits))
            # They stay where they are; whether they may go where they should is tried again.
            for no, delay_s in self._misfits.stayed(misfits).items():
                self._retries.put([no], _loop_s(), delay_s)
            return True
        finally:
            self.is_applying = False

    async def _wait_for_changes(self, applier: Applier) -> None:
        self._on_idle()
        due_s = self._retries.next_due_s
        if applier.is_in_doubt and due_s is None:  # a restore was cut short; no plan waits for it
            due_s = _loop_s() + DOUBT_RETRY_S
        try:
            async with asyncio.timeout_at(due_s):
                await self._changed.wait()
        except TimeoutError:
            with suppress(DiskError):  # of a lost root the look tells
                await applier.finish_doubts()
            if self._retries.is_away_due(_loop_s()):
                self.retry_away()

    async def _carry_out_slow(
        self,
        applier: Applier,
        made: Plan,
        under_way: UnderWay,
        number: int,
        staying: frozenset[int],
    ) -> None:
        try:
            await self._carry_out(applier, made, under_way, number, staying=staying)
        finally:
            self._slow -= 1
            self._changed.set()

    async def _carry_out(
        self,
        applier: Applier,
        made: Plan,
        under_way: UnderWay,
        number: int | None = None,
        *,
        staying: frozenset[int],
    ) -> None:
        """Apply a plan and note what is to be looked at or tried again.

        What is `staying` was not tried where it should go, and is a problem still.
        """
        standing = self._standing
        standing.was_settled = False
        calls = self._retries.calls
        self._journal.wall_ms = standing.now_ms()
        writes = [step for step in made.steps if isinstance(step, WriteFile)]
        figures = (len(writes), sum(step.claim.entry.size for step in writes))
        if not await self._has_room(made, figures[1]):
            if number is not None:
                applier.put_off(number)
            self._end(made, under_way)
            self._retries.put(made.objects, _loop_s(), FAILED_RETRY_S)
            return
        self.pending = (self.pending[0] + figures[0], self.pending[1] + figures[1])
        try:
            applied = await applier.apply(made, number)
        finally:
            self._end(made, under_way)
            self.pending = (self.pending[0] - figures[0], self.pending[1] - figures[1])
        self._note_applied(made, applied, calls, staying)
        arrived = list(dict.fromkeys(BlobHash(step.claim.entry.value) for step in writes))
        if arrived:
            self._tools.blobs_arrived(standing.folder, arrived)
        if applied.agreed:
            standing.last_change_ms = standing.now_ms()
            self._encourage_misfits()

    def _end(self, made: Plan, under_way: UnderWay) -> None:
        self._retries.put(under_way.end(made.objects), _loop_s())

    async def _has_room(self, made: Plan, needed: int) -> bool:
        """Whether what is to be written leaves `min_free` of the disk; says so if it does not."""
        trouble, missing = self._standing.trouble, 0
        if needed and self._disk is not None:
            space = await self._tools.pool.run(self._disk.space)
            missing = missing_bytes(self._tools.history(), space, needed)
        if not missing:
            self._too_large -= made.objects
            trouble.space = trouble.space if self._too_large else None
            return True
        self._too_large |= made.objects
        trouble.space = shortage(missing, *await self._tools.core.run(_cost, self._standing.stored))
        return False

    def _note_applied(
        self, made: Plan, applied: Applied, calls: int, staying: frozenset[int]
    ) -> None:
        unfinished = {no for postponed in applied.postponed for no in postponed.object_nos}
        unfinished.update(no for failed in applied.failed for no in failed.object_nos)
        self._retries.succeeded(made.objects - unfinished)
        self._misfits.came(made.objects - unfinished - staying)
        self._note_postponed(applied.postponed, calls)
        trouble = self._standing.trouble
        if not applied.failed:
            here = {Reason.CANNOT_EXIST} if self._misfits else set()
            for reason in trouble.failed.keys() - here:
                del trouble.failed[reason]
        for failed in applied.failed:
            trouble.failed[failed.reason] = (failed.what, failed.remedy)
            if failed.reason is Reason.CANNOT_EXIST:
                self._misfits.refused(failed.object_nos)
            applier = self._standing.applier
            # No look may judge what is half done: that is seen to sooner.
            is_in_doubt = applier is not None and applier.is_in_doubt
            delay_s = FIRST_S if is_in_doubt else FAILED_RETRY_S
            self._retries.put(failed.object_nos, _loop_s(), delay_s)

    def _note_postponed(self, steps: Sequence[Postponed], calls: int) -> None:
        """Look where a step found another disk than synced says; plan it again later.

        `calls` is how often what was away had been called back when the plan began.
        """
        again: list[Again] = []
        gone: list[bytes] = []
        for postponed in steps:
            if postponed.why is Why.CONTENT_AWAY:
                self._retries.put_away(
                    postponed.object_nos, postponed.content, _loop_s(), since=calls
                )
                continue
            if postponed.why is Why.MISSING_HERE:
                gone.append(postponed.path)
            elif postponed.why in (Why.TAKEN, Why.CHANGED_HERE, Why.NOT_EMPTY):
                # Not at once: perhaps somebody renames just now, and the other half is to come.
                again.append(Again(postponed.path, AgainReason.UNSURE, QUIET_S))
            self._retries.put(postponed.object_nos, _loop_s())
        if again or gone:
            self._looks.look_again(again, gone)


def _cost(stored: StoredFolder) -> tuple[int, int]:
    """Count the versions that history keeps, and their bytes."""
    versions, size = stored.db.execute(
        "SELECT count(*), coalesce(sum(size), 0) FROM kept WHERE folder_no = ?", (stored.no,)
    ).fetchone()
    return versions, size


def _loop_s() -> float:
    return asyncio.get_running_loop().time()
