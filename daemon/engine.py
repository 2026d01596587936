"""Carry events to listeners: one at a time, in a fixed order, all or nothing for each run.

Order: events in the order of their release; for one event first its projections, then its
policies, each in the order of subscription. A projection runs inside the transaction of what
it observes, so that log and state commit together. A policy runs afterwards in a transaction
of its own; if it fails it is undone, recorded and run again later, and the event stands.

The engine is synchronous and belongs to one thread. It knows no files, peers, clocks or
databases but through what it is given, never sleeps, and drops no event that it accepted.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from daemon.activity import (
    ActivityId,
    ActivityIds,
    ActivityJournal,
    Begun,
    Clock,
    Run,
)
from daemon.registry import Registered, Registry
from daemon.subscription import (
    EMISSIONS_LIMIT,
    BadListener,
    Emit,
    Listener,
    ListenerKind,
    Subscription,
    listener_name,
    read_signature,
)
from daemon.telling import Middleware, Telling
from store.errors import DizzyError

E = TypeVar("E")
R = TypeVar("R")

QUEUE_LIMIT = 10_000
ATTEMPTS_LIMIT = 10
RETRY_FIRST_S = 0.2
RETRY_LONGEST_S = 60.0

_PROCEDURES_LIMIT = 256


class QueueFull(DizzyError):
    """The engine holds as many events as it may; come again when it has worked some off."""


class Transactions(Protocol):
    """Opens transactions: left normally they commit, left by an exception they undo."""

    def begin(self) -> AbstractContextManager[object]:
        """Open one; there is never another one open."""


class NoTransactions:
    """For engines over nothing that could be undone."""

    def begin(self) -> AbstractContextManager[object]:
        """Do nothing on either end."""
        return nullcontext()


@dataclass(slots=True, eq=False)
class _Delivery:
    """An event on its way: to all who hear it, or (`only`) to one policy.

    `owed` holds the activity ids of persistent policies that the journal already knows.
    """

    event: object
    correlation: ActivityId
    causation: ActivityId | None
    projected: bool = False
    owed: dict[str, ActivityId] | None = None
    only: Registered | None = None
    activity: ActivityId | None = None
    attempt: int = 1


class Engine:
    """Queue, registry and outboxes; see the module for order and promises."""

    def __init__(
        self,
        *,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        transactions: Transactions | None = None,
        activities: Engine | None = None,
        journal: ActivityJournal | None = None,
        middleware: Sequence[Middleware] = (),
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        """Make an engine that is idle and hears nothing.

        `activities` is the second engine, on which runs of this one are told; it must have no
        such engine itself. Without `journal` no policy can be persistent.
        """
        if activities is not None and activities.has_activities:
            raise ValueError("the engine that hears of activities has no activities of its own")
        self._clock = clock
        self._ids = ActivityIds(clock, random_bytes)
        self._transactions = transactions or NoTransactions()
        self._journal = journal
        self._telling = Telling(clock, middleware, activities)
        self._queue_limit = queue_limit
        self._registry = Registry()
        self._procedures: dict[object, frozenset[type]] = {}
        self._queue: deque[_Delivery] = deque()
        self._retries: list[tuple[float, int, _Delivery]] = []
        self._retry_order = 0
        self._pending: set[ActivityId] = set()
        self._is_running = False
        self._peak = 0

    @property
    def has_activities(self) -> bool:
        """Whether its runs are told on a second engine."""
        return self._telling.has_second

    @property
    def has_listeners(self) -> bool:
        """Whether anybody hears anything."""
        return bool(self._registry)

    # Registry

    def subscribe(
        self,
        listener: Listener[E],
        hears: type[E] | None = None,
        *,
        kind: ListenerKind = ListenerKind.POLICY,
        emits: type | tuple[type, ...] | None = None,
        name: str | None = None,
        persistent: bool = False,
        in_transaction: bool = True,
    ) -> Subscription:
        """Let a function or instance hear the events named by its annotations.

        A `persistent` policy runs even if the process dies in between: its run is owed from the
        transaction that released the event until the one that holds its effects. It needs a
        name that stays. A policy not `in_transaction` touches nothing that could be undone and
        costs no transaction. Raises BadListener (a TypeError with a hint).
        """
        if persistent and self._journal is None:
            raise BadListener(
                f"{listener_name(listener)} cannot be persistent", "give the engine a journal"
            )
        return self._registry.add(
            listener,
            hears,
            kind=kind,
            emits=emits,
            name=name,
            persistent=persistent,
            in_transaction=in_transaction,
        )

    def registry(self) -> tuple[Subscription, ...]:
        """Give all subscriptions in their order, as data to draw from."""
        return self._registry.lines()

    # Queue

    @property
    def depth(self) -> int:
        """How many events wait, those to be tried again included."""
        return len(self._queue) + len(self._retries)

    @property
    def peak(self) -> int:
        """The high-water mark: the greatest depth so far."""
        return self._peak

    @property
    def is_pressed(self) -> bool:
        """Whether more than three quarters of the limit are taken: sources should wait."""
        return self.depth * 4 > self._queue_limit * 3

    @property
    def failures(self) -> int:
        """How many runs have failed so far, retries included."""
        return self._telling.failures

    def post(self, event: object, *, correlation: ActivityId | None = None) -> ActivityId:
        """Hand in an event from outside; give the correlation id of all that follows from it.

        Nothing runs before the next step. Raises QueueFull at the limit, and RuntimeError
        inside a listener, which has a handle to emit through.
        """
        self._refuse_inside_a_run("post")
        if self.depth >= self._queue_limit:
            raise QueueFull("engine", f"{self.depth} events wait")
        chain = correlation or self._ids.make()
        self._enqueue(_Delivery(event, chain, None))
        return chain

    def step(self) -> bool:
        """Carry one event to all who hear it, or run one policy again that is due.

        False if there was nothing to do now. Raises nothing that a listener raises.
        """
        self._refuse_inside_a_run("step")
        if self._retries and self._retries[0][0] <= self._clock.monotonic_s():
            delivery = heapq.heappop(self._retries)[2]
        elif self._queue:
            delivery = self._queue.popleft()
        else:
            return False
        self._deliver(delivery)
        return True

    def run_until_idle(self, *, steps_limit: int | None = None) -> int:
        """Step until nothing is left to do now, or the limit is reached; give the number of steps.

        Policies that wait for another attempt do not count; see `next_due_s`.
        """
        steps = 0
        while steps != steps_limit and self.step():
            steps += 1
        return steps

    def next_due_s(self) -> float | None:
        """Seconds until there is work: 0 if there is now, None if only new events bring some."""
        if self._queue:
            return 0.0
        if not self._retries:
            return None
        return max(0.0, self._retries[0][0] - self._clock.monotonic_s())

    def recover(self) -> list[Begun]:
        """Queue again what began in an earlier life and did not end.

        Call it after all is subscribed. Gives those whose policy no longer exists; they stay in
        the journal. Idempotent.
        """
        self._refuse_inside_a_run("recover")
        strangers: list[Begun] = []
        persistent = self._registry.persistent()
        for begun in self._journal.unfinished() if self._journal else ():
            policy = persistent.get(begun.listener)
            if policy is None:
                strangers.append(begun)
            elif begun.activity not in self._pending:
                self._pending.add(begun.activity)
                self._enqueue(
                    _Delivery(
                        begun.event,
                        begun.correlation,
                        begun.causation,
                        projected=True,
                        only=policy,
                        activity=begun.activity,
                    )
                )
        return strangers

    def perform(
        self,
        procedure: Callable[[E, Emit[Any]], R],
        command: E,
        *,
        correlation: ActivityId | None = None,
    ) -> R:
        """Carry out a command at once, in one transaction; give what the procedure gives.

        Unlike a listener it fails its caller: what it raises is raised here, with nothing of
        the run left. Events that it emitted wait in the queue when this returns.
        """
        self._refuse_inside_a_run("perform")
        allowed = self._procedures.get(procedure)
        if allowed is None:
            allowed = frozenset(read_signature(procedure).emits)
            if len(self._procedures) >= _PROCEDURES_LIMIT:  # functions made anew for each call
                self._procedures.clear()
            self._procedures[procedure] = allowed
        activity = self._ids.make()
        run = Run(
            activity=activity,
            listener=listener_name(procedure),
            event=command,
            correlation=correlation or activity,
            causation=None,
        )
        try:
            return self._bracket(run, procedure, allowed, is_owed=False)
        except Exception as error:
            self._telling.fail(run, error, None)
            raise
        finally:
            self._telling.flush()

    # Delivery

    def _deliver(self, delivery: _Delivery) -> None:
        try:
            if delivery.only is not None:
                self._run_policy(delivery.only, delivery)
                return
            plan = self._registry.plan_for(type(delivery.event))
            is_due = not delivery.projected and (plan.projections or plan.persistent)
            if is_due and not self._project_alone(delivery):
                return
            for policy in plan.policies:
                self._run_policy(policy, delivery)
        finally:
            self._telling.flush()

    def _project_alone(self, delivery: _Delivery) -> bool:
        """Run the projections of a posted event in a transaction of its own."""
        run = Run(
            activity=delivery.correlation,
            listener="daemon.engine",
            event=delivery.event,
            correlation=delivery.correlation,
            causation=delivery.causation,
            attempt=delivery.attempt,
        )
        told = self._telling.mark()
        self._is_running = True
        try:
            with self._transactions.begin():
                released = self._project(run, [delivery.event], first_is_own=True)
        except Exception as error:  # noqa: BLE001 - the activity bracket
            self._telling.undo(told, error)
            self._fail(run, error, delivery)
            return False
        finally:
            self._is_running = False
        self._release(released[1:])
        delivery.owed = released[0].owed
        return True

    def _run_policy(self, policy: Registered, delivery: _Delivery) -> None:
        activity = delivery.activity
        if activity is None and delivery.owed is not None:
            activity = delivery.owed.get(policy.line.name)
        run = Run(
            activity=activity or self._ids.make(),
            listener=policy.line.name,
            event=delivery.event,
            correlation=delivery.correlation,
            causation=delivery.causation,
            attempt=delivery.attempt if delivery.only is not None else 1,
        )
        try:
            if policy.line.in_transaction:
                self._bracket(run, policy.call, policy.allowed, is_owed=policy.line.persistent)
            else:
                self._bracket_without_transaction(run, policy)
        except Exception as error:  # noqa: BLE001 - the activity bracket
            again = _Delivery(
                delivery.event,
                delivery.correlation,
                delivery.causation,
                projected=True,
                only=policy,
                activity=run.activity,
                attempt=run.attempt,
            )
            self._fail(run, error, again)
        else:
            self._pending.discard(run.activity)

    def _bracket(
        self,
        run: Run,
        call: Callable[[Any, Emit[Any]], R],
        allowed: frozenset[type],
        *,
        is_owed: bool,
    ) -> R:
        """Run inside a transaction; release what was emitted once it is committed."""
        outbox: list[object] = []
        emitted: list[object] = []
        broken: list[BaseException] = []
        told = self._telling.mark()

        def commit() -> None:
            """Commit up to here and begin another transaction (Emit.checkpoint)."""
            nonlocal told
            try:
                emitted.extend(outbox)
                released = self._project(run, outbox)
                stack.pop_all().close()
                self._release(released)
                outbox.clear()
                told = self._telling.mark()
                stack.enter_context(self._transactions.begin())
            except BaseException as error:
                broken.append(error)
                raise

        emit: Emit[Any] = Emit(run.activity, run.correlation, allowed, outbox, commit)
        self._is_running = True
        try:
            with ExitStack() as stack:
                stack.enter_context(self._transactions.begin())
                self._telling.start(run)
                result = call(run.event, emit)
                emit.close()
                if broken:  # swallowing a failed checkpoint would go on without a transaction
                    raise broken[0]  # noqa: TRY301 - to this very handler
                emitted.extend(outbox)
                released = self._project(run, outbox)
                if is_owed and self._journal is not None:
                    self._journal.end(run.activity)
                self._telling.show_outputs(run, emitted)
        except Exception as error:
            self._telling.undo(told, error)
            raise
        finally:
            emit.close()
            self._is_running = False
        self._release(released)
        self._telling.end(run, emitted)
        return result

    def _bracket_without_transaction(self, run: Run, policy: Registered) -> None:
        outbox: list[object] = []
        emit: Emit[Any] = Emit(run.activity, run.correlation, policy.allowed, outbox)
        self._is_running = True
        try:
            self._telling.start(run)
            policy.call(run.event, emit)
            self._check_room(len(outbox))
            self._telling.show_outputs(run, outbox)
        finally:
            emit.close()
            self._is_running = False
        self._release([_Delivery(event, run.correlation, run.activity) for event in outbox])
        self._telling.end(run, outbox)

    def _project(
        self, run: Run, outbox: list[object], *, first_is_own: bool = False
    ) -> list[_Delivery]:
        """Run projections over the outbox, which they may lengthen; owe persistent policies."""
        released: list[_Delivery] = []
        for event in outbox:  # grows while projections emit
            is_own = first_is_own and not released
            cause = run.causation if is_own else run.activity
            plan = self._registry.plan_for(type(event))
            for projection in plan.projections:
                self._run_projection(projection, event, run, cause, outbox)
            delivery = _Delivery(event, run.correlation, cause, projected=True)
            if plan.persistent:
                self._owe(delivery, plan.persistent)
            released.append(delivery)
        self._check_room(len(released) - first_is_own)
        return released

    def _run_projection(
        self,
        projection: Registered,
        event: object,
        observed: Run,
        cause: ActivityId | None,
        outbox: list[object],
    ) -> None:
        run = Run(
            activity=self._ids.make(),
            listener=projection.line.name,
            event=event,
            correlation=observed.correlation,
            causation=cause,
            attempt=observed.attempt,
        )
        emit: Emit[Any] = Emit(run.activity, run.correlation, projection.allowed, outbox)
        before = len(outbox)
        try:
            self._telling.start(run)
            projection.call(event, emit)
            emitted = outbox[before:]
            self._telling.show_outputs(run, emitted)
        except Exception as error:
            self._telling.fail(run, error, None)
            raise
        finally:
            emit.close()
        self._telling.end(run, emitted)

    def _owe(self, delivery: _Delivery, policies: tuple[Registered, ...]) -> None:
        assert self._journal is not None
        delivery.owed = {}
        for policy in policies:
            activity = delivery.owed[policy.line.name] = self._ids.make()
            self._journal.begin(
                Begun(
                    activity=activity,
                    listener=policy.line.name,
                    event=delivery.event,
                    correlation=delivery.correlation,
                    causation=delivery.causation,
                )
            )

    # Queue, inside

    def _check_room(self, count: int) -> None:
        """Fail a run of a runaway chain before it commits what could not be queued.

        Sources are held back at the limit, what follows from their events is not: two that each
        need the other's room would never end. So there is room for one full outbox more.
        """
        if count and self.depth + count > self._queue_limit + EMISSIONS_LIMIT:
            raise QueueFull("engine", f"{self.depth} events wait, {count} more came of one run")

    def _release(self, deliveries: Sequence[_Delivery]) -> None:
        for delivery in deliveries:
            if delivery.owed:
                self._pending.update(delivery.owed.values())
            self._enqueue(delivery)

    def _enqueue(self, delivery: _Delivery) -> None:
        self._queue.append(delivery)
        self._peak = max(self._peak, self.depth)

    def _refuse_inside_a_run(self, verb: str) -> None:
        if self._is_running:
            raise RuntimeError(f"{verb} inside a listener: use its emit handle")

    def _fail(self, run: Run, error: Exception, again: _Delivery) -> None:
        """Record a failure and put the delivery on the list of what comes again."""
        retry_in_s: float | None = None
        if run.attempt < ATTEMPTS_LIMIT:
            retry_in_s = min(RETRY_FIRST_S * 2 ** (run.attempt - 1), RETRY_LONGEST_S)
            again.attempt = run.attempt + 1
            self._retry_order += 1
            due_s = self._clock.monotonic_s() + retry_in_s
            heapq.heappush(self._retries, (due_s, self._retry_order, again))
            self._peak = max(self._peak, self.depth)
        self._telling.fail(run, error, retry_in_s)
