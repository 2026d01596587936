"""Carry events to listeners: one at a time, in a fixed order, all or nothing for each run.

Order: events in the order of their release; for one event first its projections, then its
policies, each in the order of subscription. A projection runs inside the transaction of what
it observes, so that log and state commit together. A policy runs afterwards in a transaction
of its own; if it fails it is undone, recorded and run again later, and the event stands.

The engine is synchronous and belongs to one thread. It knows no files, peers, clocks or
databases but through what it is given, never sleeps, and drops no event that it accepted. How a
run becomes all or nothing is daemon.bracket's, what waits daemon.deliveries'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from daemon.activity import (
    ActivityId,
    ActivityIds,
    ActivityJournal,
    Begun,
    Clock,
    Run,
)
from daemon.bracket import Bracket, NoTransactions, Transactions
from daemon.deliveries import QUEUE_LIMIT, Deliveries, Delivery
from daemon.registry import Registered, Registry
from daemon.subscription import (
    BadListener,
    Emit,
    Listener,
    ListenerKind,
    Subscription,
    listener_name,
    read_signature,
)
from daemon.telling import Middleware, Telling

E = TypeVar("E")
R = TypeVar("R")

_PROCEDURES_LIMIT = 256


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
        self._ids = ActivityIds(clock, random_bytes)
        self._journal = journal
        self._telling = Telling(clock, middleware, activities)
        self._registry = Registry()
        self._procedures: dict[object, frozenset[type]] = {}
        self._deliveries = Deliveries(clock, queue_limit)
        self._bracket = Bracket(
            ids=self._ids,
            transactions=transactions or NoTransactions(),
            journal=journal,
            registry=self._registry,
            telling=self._telling,
            deliveries=self._deliveries,
        )

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
        return self._deliveries.depth

    @property
    def peak(self) -> int:
        """The high-water mark: the greatest depth so far."""
        return self._deliveries.peak

    @property
    def is_pressed(self) -> bool:
        """Whether more than three quarters of the limit are taken: sources should wait."""
        return self._deliveries.is_pressed

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
        self._deliveries.check_source()
        chain = correlation or self._ids.make()
        self._deliveries.add((Delivery(event, chain, None),))
        return chain

    def step(self) -> bool:
        """Carry one event to all who hear it, or run one policy again that is due.

        False if there was nothing to do now. Raises nothing that a listener raises.
        """
        self._refuse_inside_a_run("step")
        delivery = self._deliveries.take()
        if delivery is None:
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
        return self._deliveries.next_due_s()

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
            elif begun.activity not in self._bracket.owed_here:
                self._bracket.owed_here.add(begun.activity)
                again = Delivery(
                    begun.event,
                    begun.correlation,
                    begun.causation,
                    projected=True,
                    only=policy,
                    activity=begun.activity,
                )
                self._deliveries.add((again,))
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
            return self._bracket.run(run, procedure, allowed, is_owed=False)
        except Exception as error:
            self._telling.fail(run, error, None)
            raise
        finally:
            self._telling.flush()

    # Delivery

    def _deliver(self, delivery: Delivery) -> None:
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

    def _project_alone(self, delivery: Delivery) -> bool:
        """Run the projections of a posted event in a transaction of its own."""
        run = Run(
            activity=delivery.correlation,
            listener="daemon.engine",
            event=delivery.event,
            correlation=delivery.correlation,
            causation=delivery.causation,
            attempt=delivery.attempt,
        )
        try:
            delivery.owed = self._bracket.project(run)
        except Exception as error:  # noqa: BLE001 - the activity bracket
            self._fail(run, error, delivery)
            return False
        return True

    def _run_policy(self, policy: Registered, delivery: Delivery) -> None:
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
                self._bracket.run(run, policy.call, policy.allowed, is_owed=policy.line.persistent)
            else:
                self._bracket.run_without_transaction(run, policy)
        except Exception as error:  # noqa: BLE001 - the activity bracket
            again = Delivery(
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
            self._bracket.owed_here.discard(run.activity)

    def _refuse_inside_a_run(self, verb: str) -> None:
        if self._bracket.is_running:
            raise RuntimeError(f"{verb} inside a listener: use its emit handle")

    def _fail(self, run: Run, error: Exception, again: Delivery) -> None:
        """Record a failure and put the delivery on the list of what comes again."""
        self._telling.fail(run, error, self._deliveries.retry(again, run.attempt))
