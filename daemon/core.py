"""Run blocking work beside the event loop: one thread for the database, a small pool for files.

The database thread is the one owner of SQLite, state and the engine; work reaches it in units
("apply these batches"), not in statements. The simulator runs both inline, in virtual time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

POOL_THREADS = 4


class Runner(Protocol):
    """Runs a function somewhere and gives what it returns, or raises what it raises."""

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn`; functions given to a runner of one thread run in the order given."""


class ThreadRunner:
    """Runs functions in threads of its own."""

    def __init__(self, name: str, threads: int) -> None:
        """Start nothing yet; threads come with the first work."""
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` in one of the threads. Cancelling the wait does not stop the function."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(fn, *args, **kwargs))

    def close(self) -> None:
        """Wait for what runs, drop what waits, end the threads."""
        self._executor.shutdown(wait=True, cancel_futures=True)


class InlineRunner:
    """Runs functions at once, in the loop's own thread: for simulations."""

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` now; others get a turn first, as with a thread."""
        await asyncio.sleep(0)
        return fn(*args, **kwargs)

    def close(self) -> None:
        """Nothing to end."""
