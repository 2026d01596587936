"""Keep a cancellation from being lost beside a failure.

Where a task is cancelled while a TaskGroup of it ends with an error, Python 3.11 gives the error
alone (later ones go on with the cancellation). Who handles that error would live on in a node
that was told to stop. It handles no error itself.
"""

from __future__ import annotations

import asyncio


def check_cancelled() -> None:
    """Raise CancelledError if this task was cancelled; to be called where an error is handled."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
