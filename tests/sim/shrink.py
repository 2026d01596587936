"""Cut a failing history down to steps that are all needed for the failure.

Delta debugging (Zeller and Hildebrandt 2002): leave out ever smaller parts while it still fails.
It does not know what a failure is; that is the caller's question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def shrink(steps: list[T], still_fails: Callable[[list[T]], bool], *, tries: int = 600) -> list[T]:
    """Give a part of `steps` that still fails, of which no single step can be left out.

    It ends early after `tries` questions, with the smallest failing part so far.
    """
    width = max(1, len(steps) // 2)
    while tries > 0:
        start, was_cut = 0, False
        while start < len(steps) and tries > 0:
            shorter = steps[:start] + steps[start + width :]
            tries -= 1
            if still_fails(shorter):
                steps, was_cut = shorter, True
            else:
                start += width
        if width == 1 and not was_cut:
            break
        width = max(1, width // 2)
    return steps
