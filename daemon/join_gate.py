"""Say when a joiner may look at its files: once it has the log that its source has.

Files that stood here before are bound by path and bytes, which needs the state of who shares; a
source that still imports is waited for as long as it makes progress. It reads, and changes nothing.
"""

from __future__ import annotations

from daemon.disk import Disk
from daemon.standing import Standing
from store.ids import BatchId

IMPORT_PATIENCE_S = 30.0


class JoinGate:
    """Open for who does not join; for a joiner, once there is something to bind to."""

    def __init__(self, standing: Standing) -> None:
        """Guard this folder."""
        self._standing = standing
        self._is_ready = False
        self._progress = (-1, 0.0)  # batches known, and since when

    @property
    def is_open(self) -> bool:
        """Whether to look now."""
        return not self._standing.is_joining or self._is_ready

    def open(self) -> None:
        """Let it look: who could bring more of the log does not answer, and we know our part."""
        self._is_ready = True

    async def check(self, disk: Disk) -> None:
        """Find out whether local files may be bound now. An empty root has nothing to bind.

        Raises:
            DiskError: the root cannot be listed.
        """
        standing = self._standing
        if not await standing.tools.pool.run(disk.list_directory, b""):
            self._is_ready = True
            return
        now_s = standing.now_s()
        theirs = standing.heads_of_others()
        wanted = [head.batch for heads in theirs for head in heads.heads]
        if not wanted:  # who was here before knows enough to bind its files by, also alone
            self._is_ready = standing.own_member is not None and standing.stored.is_taken_up_again
            return

        def count() -> tuple[int, int]:
            log = standing.stored.log
            return sum(not log.has(BatchId(batch)) for batch in wanted), log.batches

        missing, batches = await standing.tools.core.run(count)
        if batches != self._progress[0]:
            self._progress = (batches, now_s)
        is_stuck = now_s - self._progress[1] > IMPORT_PATIENCE_S
        is_importing = any(heads.is_importing for heads in standing.heads_of_others())
        self._is_ready = not missing and (not is_importing or is_stuck)
