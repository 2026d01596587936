"""Run blocking work beside the event loop: one thread for the database, a small pool for files.

The database thread is the one owner of SQLite, state and the engine; work reaches it in units
("apply these batches"), not in statements. The simulator runs both inline, in virtual time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

POOL_THREADS = 4


class Runner(Protocol):
    """Runs a function somewhere and gives what it returns, or raises what it raises."""

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn`; functions given to a runner of one thread run in the order given."""

    async def settle(self) -> None:
        """Return when everything given until now has ended, be it awaited by nobody any more."""


class ThreadRunner:
    """Runs functions in threads of its own."""

    def __init__(self, name: str, threads: int) -> None:
        """Start nothing yet; threads come with the first work."""
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._running: set[Future[Any]] = set()

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` in one of the threads. Cancelling the wait does not stop the function."""
        future = self._executor.submit(partial(fn, *args, **kwargs))
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return await asyncio.wrap_future(future)

    async def settle(self) -> None:
        """Return when everything given until now has ended, be it awaited by nobody any more."""
        running = [asyncio.wrap_future(future) for future in list(self._running)]
        if running:
            await asyncio.wait(running)

    def close(self) -> None:
        """Wait for what runs, drop what waits, end the threads."""
        self._executor.shutdown(wait=True, cancel_futures=True)


class WatchedRunner:
    """Runs functions by another runner, and tells of every failure of one kind."""

    def __init__(
        self, inner: ThreadRunner, kind: type[Exception], on_failure: Callable[[Exception], None]
    ) -> None:
        """Tell `on_failure`, in the thread of the loop, before who asked is told."""
        self._inner = inner
        self._kind = kind
        self._on_failure = on_failure

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` there."""
        try:
            return await self._inner.run(fn, *args, **kwargs)
        except self._kind as failure:
            self._on_failure(failure)
            raise

    async def settle(self) -> None:
        """Return when everything given until now has ended."""
        await self._inner.settle()

    def close(self) -> None:
        """End the other runner."""
        self._inner.close()


class InlineRunner:
    """Runs functions at once, in the loop's own thread: for simulations."""

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` now; others get a turn first, as with a thread."""
        await asyncio.sleep(0)
        return fn(*args, **kwargs)

    async def settle(self) -> None:
        """Nothing runs beside the loop."""

    def close(self) -> None:
        """Nothing to end."""
