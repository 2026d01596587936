"""Say when the next beat of a process is, so that what is done now and then is done together.

Each wake of an idle process costs about as much as what it wakes for. It keeps no time of its own.
"""

from __future__ import annotations

BEAT_S = 5.0  # what one does less often than this waits for a multiple of it
_SOON = 0.1  # of a beat: one that is so near may just have been, the one after it is meant


def until_beat_s(now_s: float, every_s: float = BEAT_S) -> float:
    """Give the seconds from a monotonic time to the next multiple of `every_s` or the one after."""
    left_s = every_s - now_s % every_s
    return left_s if left_s >= _SOON * every_s else left_s + every_s
