"""Hold back what nobody watched and a person may not have meant, until it is confirmed.

A mass deletion: most of the folder is missing. A mass reversion: many files hold bytes that they
had before, with the times of then, as a backup that was put back leaves them.

Pure: what is held is decided from what a full scan found; any other look keeps to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from daemon.acts import Act, Deleted, Edited
from daemon.matching import HELD_FROM, ScanCause, is_mass_deletion


class HeldDeletions:
    """The paths whose deletion waits for a person's word."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._paths: set[bytes] = set()
        self._confirmed: frozenset[bytes] = frozenset()

    def __len__(self) -> int:
        """Give the number of deletions that wait."""
        return len(self._paths)

    def __contains__(self, path: bytes) -> bool:
        """Whether the deletion of this path waits."""
        return path in self._paths

    def confirm(self) -> None:
        """Let those that wait now go on; the next full scan records them."""
        self._confirmed = frozenset(self._paths)

    def release(self) -> None:
        """Hold nothing any more: what was missing has been put back."""
        self._paths = set()

    def decide(self, acts: list[Act], total: int, cause: ScanCause) -> None:
        """Decide from all acts of a full scan of a folder of `total` objects.

        What is missing besides what a person confirmed is judged by itself: the disk may have
        gone since, and come back as another one.
        """
        missing = {act.path for act in acts if isinstance(act, Deleted)} - self._confirmed
        was_held = bool(self._paths - self._confirmed)
        is_held = was_held or is_mass_deletion(len(missing), total, cause)
        self._paths = missing if is_held else set()
        self._confirmed = frozenset()

    def without_held(self, acts: list[Act]) -> list[Act]:
        """Give the acts that may be recorded."""
        if not self._paths:
            return acts
        return [act for act in acts if not (isinstance(act, Deleted) and act.path in self._paths)]


class HeldReversions:
    """The files that went back to what they were, and wait for a person's word."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._values: dict[bytes, bytes] = {}  # path -> the bytes (their hash) that stand there
        self._suspects: list[Edited] = []
        self.objects: frozenset[int] = frozenset()  # nothing is put over them meanwhile

    def __len__(self) -> int:
        """Give the number of files that wait."""
        return len(self._values)

    def __contains__(self, path: bytes) -> bool:
        """Whether what stands at this path waits."""
        return path in self._values

    def holds(self, act: Edited) -> bool:
        """Whether an act is what waits; what a person made of a held file since is not."""
        return self._values.get(act.path) == act.looked.value

    def release(self) -> None:
        """Hold nothing any more: it was confirmed, or the newer versions come back."""
        self._values = {}
        self.objects = frozenset()

    def begin(self) -> None:
        """Begin with a full scan."""
        self._suspects = []

    def suspect(self, reverted: Sequence[Edited]) -> None:
        """Keep back what may be part of a mass reversion, to the end of the scan."""
        self._suspects += reverted

    def decide(self) -> Sequence[Act]:
        """Hold what was suspected, or give it to be recorded: it was little."""
        suspects, self._suspects = self._suspects, []
        if len(suspects) <= HELD_FROM:
            return suspects
        self._values.update((act.path, act.looked.value) for act in suspects)
        self.objects |= {row.object_no for act in suspects for row in act.rows}
        return ()

    def without_held(self, acts: list[Act]) -> list[Act]:
        """Give the acts that may be recorded; what a person made of a held file since, may."""
        if not self._values:
            return acts
        kept: list[Act] = []
        for act in acts:
            if isinstance(act, Edited) and self.holds(act):
                continue
            if isinstance(act, Edited) and act.path in self._values:
                del self._values[act.path]
                self.objects -= {row.object_no for row in act.rows}
            kept.append(act)
        return kept


def may_be_reversion(act: Act, cause: ScanCause) -> bool:
    """Whether an edit that nobody watched carries an older time than what stood there.

    A backup gives back the times too; who edits or checks out a branch gives new ones.
    """
    is_unwatched = cause in (ScanCause.START, ScanCause.ROOT_FAULT)
    return (
        is_unwatched
        and isinstance(act, Edited)
        and all(act.looked.stat.mtime_ns < row.shared_mtime_ns for row in act.rows)
    )


def is_reversion(act: Edited, has_had: Callable[[int, bytes], bool]) -> bool:
    """Whether the bytes are those of a former version of all objects at the path."""
    value = act.looked.value
    return all(value != row.value and has_had(row.object_no, value) for row in act.rows)
