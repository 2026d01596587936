"""Keep a cancellation from being lost beside a failure, and from overtaking a thread.

Where a task is cancelled while a TaskGroup of it ends with an error, Python before 3.13 raises
the error alone, and counts its own cancelling as somebody else's (python/cpython#116720). Who
handles that error would live on in a node that was told to stop. It handles no error itself.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

T = TypeVar("T")

_IS_MENDED = sys.version_info >= (3, 13)


class TaskGroup(asyncio.TaskGroup):
    """A TaskGroup whose task ends when it is cancelled, whatever else goes wrong then."""

    async def __aenter__(self) -> Self:
        """Begin; cancellations from now on are news."""
        await super().__aenter__()
        self._asked_before = _asked()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for all tasks. Raises CancelledError, or the group of their errors."""
        if _IS_MENDED:
            await super().__aexit__(kind, error, trace)
            return
        was_aborted = self._has_cancelled_us
        try:
            await super().__aexit__(kind, error, trace)
        except BaseExceptionGroup:
            task = asyncio.current_task()
            if task is not None and self._has_cancelled_us and not was_aborted:
                task.uncancel()
            if _asked() > self._asked_before:
                raise asyncio.CancelledError from None
            raise

    @property
    def _has_cancelled_us(self) -> bool:
        requested: bool = self._parent_cancel_requested  # type: ignore[attr-defined]
        return requested


async def to_its_end(call: Coroutine[object, object, T]) -> T:
    """Await a call in a thread to its end even if cancelled, and be cancelled then.

    For calls on a file that the caller closes afterwards: the number of a closed descriptor is
    soon another file's, and a thread that still wrote would write there.
    """
    running = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def _asked() -> int:
    """Count who asked this task to end."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
