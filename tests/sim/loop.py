"""Run asyncio code in virtual time, so that one seed always gives one run.

No socket, no thread and no wall clock exists here: asking for one is an error, because it would
make a run depend on the machine. Time stands still while code runs and jumps to the next timer
when nothing is left to do; when there is no timer either, that is a deadlock and is told.
"""

from __future__ import annotations

import asyncio
import gc
import io
from collections import deque
from random import Random
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")
P = ParamSpec("P")

EPOCH_NS = 1_767_225_600 * 10**9  # 2026-01-01T00:00:00Z: wall clock when a run begins
TURN_LIMIT = 3_000_000  # turns of the loop in one run: more means that it goes round in circles
COLLECT_TURNS = 50_000  # far more than an ordinary run has
TIME_LIMIT_S = 30 * 86_400.0


class SimulationStuck(Exception):
    """Nothing can happen any more, or far too much does."""


class Deadlock(SimulationStuck):
    """Nothing is scheduled and main is not done."""


class Livelock(SimulationStuck):
    """The loop turned TURN_LIMIT times, or virtual time passed its limit."""


class Crashed(BaseException):  # nothing in the node may catch it
    """The process ended at this instant; whatever it touches afterwards raises this."""


class Trace:
    """Fold whatever happens into one hash: equal hashes mean equal runs."""

    def __init__(self, *, keep: bool = False) -> None:
        """Begin; with `keep` the lines are kept too, to find where two runs part."""
        self._hash = blake3(b"dizzyd/sim/trace")
        self.count = 0
        self.lines: list[bytes] | None = [] if keep else None

    def fold(self, what: bytes) -> None:
        """Add one happening."""
        self.count += 1
        self._hash.update(len(what).to_bytes(4, "big") + what)
        if self.lines is not None:
            self.lines.append(what)

    def digest(self) -> str:
        """Name everything that happened so far."""
        return self._hash.hexdigest()


class _Task(asyncio.Task[Any]):
    """A task whose place in a set follows from its number, not from its address."""

    number = 0

    def __hash__(self) -> int:
        return self.number


class _Timers:
    """Stand where a selector stands: no sockets, and waiting moves the clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[object]:
        self._loop.advance(timeout)
        return []

    def close(self) -> None:
        """Nothing is open."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop in virtual time. `random` is the run's only source of chance."""

    def __init__(self, seed: int, *, keep_trace: bool = False) -> None:
        """Begin at second 0."""
        super().__init__()
        self.seed = seed
        self.random = Random(seed)
        self.trace = Trace(keep=keep_trace)
        self.time_limit_s = TIME_LIMIT_S
        self.errors: list[str] = []  # what the loop's exception handler was told
        self._now_s = 0.0
        self._clock_resolution = 1e-6  # what is due within it is due now, also after years
        self._turns = 0
        self._tasks_made = 0
        self._selector = _Timers(self)
        self.set_task_factory(self._make_task)
        self.set_exception_handler(self._note_error)

    def time(self) -> float:
        """Give the virtual second."""
        return self._now_s

    def advance(self, timeout: float | None) -> None:
        """Jump to the next timer (None: there is none)."""
        self._turns += 1
        if self._turns > TURN_LIMIT:
            raise Livelock(f"{self._turns} turns by second {self._now_s:.3f}\n{self.stacks()}")
        if self._turns % COLLECT_TURNS == 0:
            gc.collect()
        if timeout == 0:
            return
        if timeout is None:
            raise Deadlock(f"nothing scheduled at second {self._now_s:.3f}\n{self.stacks()}")
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        self._now_s = max(self._now_s, scheduled[0].when())
        if self._now_s > self.time_limit_s:
            raise Livelock(f"second {self._now_s:.0f} is past the limit\n{self.stacks()}")

    def restart_count(self) -> None:
        """Let the loop turn on after it was stuck, to end its tasks."""
        self._turns = 0

    def stacks(self) -> str:
        """Show where each unfinished task stands, in order of their making."""
        out = io.StringIO()
        tasks = [task for task in asyncio.all_tasks(self) if not task.done()]
        for task in sorted(tasks, key=hash):
            task.print_stack(file=out)
        return out.getvalue()

    def run_in_executor(self, executor: object, func: object, *args: object) -> NoReturn:
        """Refuse: a thread would make the run depend on the machine."""
        raise RuntimeError("no threads in a simulation: take a Runner")

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any
    ) -> asyncio.Task[Any]:
        task = _Task(coro, loop=loop, **kwargs)
        self._tasks_made += 1
        task.number = self._tasks_made
        return task

    def _note_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.errors.append(f"{context.get('message')}: {error!r}")

    def _process_events(self, event_list: list[object]) -> None:
        """Have none: there are no sockets."""

    def _write_to_self(self) -> None:
        """Wake nobody: everything runs on this thread."""


class Clock:
    """The wall clock of one node, which can be wrong; durations are always right."""

    def __init__(self, loop: VirtualLoop, offset_ns: int = 0) -> None:
        """Begin `offset_ns` beside the true time."""
        self._loop = loop
        self.offset_ns = offset_ns

    def now_ns(self) -> int:
        """Give the wall clock in nanoseconds since 1970, as this node believes."""
        return EPOCH_NS + int(self._loop.time() * 1e9) + self.offset_ns

    def monotonic_s(self) -> float:
        """Give seconds that never jump."""
        return self._loop.time()

    def jump(self, by_ns: int) -> None:
        """Set the wall clock forward or back."""
        self.offset_ns += by_ns


class SimRunner:
    """Do work "in a thread": later by a random instant, even if nobody waits for it any more.

    With `serial` it is the core thread: one unit at a time, in order. Without, a pool: units
    overtake each other. `kill` drops what has not begun, as the end of a process does.
    """

    def __init__(
        self, loop: VirtualLoop, random: Random, *, serial: bool, latency_s: float = 0.0002
    ) -> None:
        """Take up to `latency_s` for each unit."""
        self._loop = loop
        self._random = random
        self._serial = serial
        self._latency_s = latency_s
        self._waiting: deque[tuple[asyncio.Future[Any], Callable[[], Any]]] = deque()
        self._free_at_s = 0.0
        self._is_killed = False

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Give what `fn` returns or raises. Raises Crashed once killed."""
        if self._is_killed:
            raise Crashed
        future: asyncio.Future[T] = self._loop.create_future()

        def work() -> T:
            return fn(*args, **kwargs)

        at_s = self._loop.time() + self._random.random() * self._latency_s
        if self._serial:
            at_s = self._free_at_s = max(at_s, self._free_at_s)
            self._waiting.append((future, work))
            self._loop.call_at(at_s, self._next)
        else:
            self._loop.call_at(at_s, self._do, future, work)
        return await future

    async def settle(self) -> None:
        """Return when everything given until now has been done."""
        await asyncio.sleep(max(self._latency_s, self._free_at_s - self._loop.time()))

    def kill(self) -> None:
        """Drop all that has not begun, and take nothing more."""
        self._is_killed = True
        self._waiting.clear()

    def _next(self) -> None:
        if not self._is_killed:
            self._do(*self._waiting.popleft())

    def _do(self, future: asyncio.Future[Any], work: Callable[[], Any]) -> None:
        if self._is_killed:
            return
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  # it belongs to whoever awaits the unit
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(result)


def run(
    main: Callable[[VirtualLoop], Coroutine[Any, Any, T]], seed: int, *, keep_trace: bool = False
) -> tuple[T, Trace]:
    """Run `main` to its end in virtual time and give its result and the trace.

    Raises Deadlock when nothing is scheduled and main is not done, Livelock when it never ends.
    Tasks that main left are cancelled.
    """
    collecting = gc.isenabled()
    # A collection at a random instant costs time, and finalizers could act. What the run before
    # left goes now; a run that goes on and on has collections of its own, at equal turns.
    gc.disable()
    gc.collect()
    loop = VirtualLoop(seed, keep_trace=keep_trace)
    try:
        result = loop.run_until_complete(main(loop))
        return result, loop.trace
    finally:
        _end(loop)
        if collecting:
            gc.enable()


def _end(loop: VirtualLoop) -> None:
    for _ in range(1000):
        tasks = sorted((task for task in asyncio.all_tasks(loop) if not task.done()), key=hash)
        if not tasks:
            break
        for task in tasks:
            task.cancel()
        loop.restart_count()
        loop.call_soon(loop.stop)
        loop.run_forever()
    loop.close()
