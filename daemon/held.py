"""Hold back a mass deletion that nobody watched, until a person confirms it.

Pure: which deletions are held is decided from what a full scan found; any other look keeps to it.
"""

from __future__ import annotations

from daemon.acts import Act, Deleted
from daemon.matching import ScanCause, is_mass_deletion


class HeldDeletions:
    """The paths whose deletion waits for a person's word."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._paths: set[bytes] = set()
        self._is_confirmed = False

    def __len__(self) -> int:
        """Give the number of deletions that wait."""
        return len(self._paths)

    def __contains__(self, path: bytes) -> bool:
        """Whether the deletion of this path waits."""
        return path in self._paths

    def confirm(self) -> None:
        """Let them go on; the next full scan records them."""
        self._is_confirmed = True

    def release(self) -> None:
        """Hold nothing any more: what was missing has been put back."""
        self._paths = set()

    def decide(self, acts: list[Act], total: int, cause: ScanCause) -> None:
        """Decide from all acts of a full scan of a folder of `total` objects."""
        missing = {act.path for act in acts if isinstance(act, Deleted)}
        is_held = bool(self._paths) or is_mass_deletion(len(missing), total, cause)
        self._paths = missing if is_held and not self._is_confirmed else set()
        self._is_confirmed = False

    def without_held(self, acts: list[Act]) -> list[Act]:
        """Give the acts that may be recorded."""
        if not self._paths:
            return acts
        return [act for act in acts if not (isinstance(act, Deleted) and act.path in self._paths)]
