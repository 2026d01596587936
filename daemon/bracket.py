"""Run one listener on one event, all or nothing: the bracket around each activity of an engine.

Inside are the run's transaction, the projections of what it emits, and what it owes; what was
emitted is released once that is committed. Which run comes next, and what becomes of one that
failed, is daemon.engine's part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Protocol, TypeVar

from daemon.activity import ActivityId, ActivityIds, ActivityJournal, Begun, Run
from daemon.deliveries import Deliveries, Delivery
from daemon.registry import Registered, Registry
from daemon.subscription import Emit
from daemon.telling import Telling

R = TypeVar("R")


class Transactions(Protocol):
    """Opens transactions: left normally they commit, left by an exception they undo."""

    def begin(self) -> AbstractContextManager[object]:
        """Open one; there is never another one open."""


class NoTransactions:
    """For engines over nothing that could be undone."""

    def begin(self) -> AbstractContextManager[object]:
        """Do nothing on either end."""
        return nullcontext()


class Bracket:
    """What every run of one engine goes through; one run at a time.

    `owed_here` are the activities of persistent policies that wait in this process: those that
    the journal knows besides began in an earlier life.
    """

    __slots__ = (
        "_deliveries",
        "_ids",
        "_journal",
        "_registry",
        "_telling",
        "_transactions",
        "is_running",
        "owed_here",
    )

    def __init__(
        self,
        *,
        ids: ActivityIds,
        transactions: Transactions,
        journal: ActivityJournal | None,
        registry: Registry,
        telling: Telling,
        deliveries: Deliveries,
    ) -> None:
        """Share the parts of one engine."""
        self._ids = ids
        self._transactions = transactions
        self._journal = journal
        self._registry = registry
        self._telling = telling
        self._deliveries = deliveries
        self.is_running = False
        self.owed_here: set[ActivityId] = set()

    def project(self, run: Run) -> dict[str, ActivityId] | None:
        """Run the projections of a posted event in a transaction of its own.

        Gives the activities that are owed now, by the names of their policies.
        """
        told = self._telling.mark()
        try:
            with self._running(), self._transactions.begin():
                released = self._project(run, [run.event], first_is_own=True)
        except Exception as error:
            self._telling.undo(told, error)
            raise
        self._release(released[1:])
        return released[0].owed

    def run(
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
        try:
            with self._running(), ExitStack() as stack:
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
        self._release(released)
        self._telling.end(run, emitted)
        return result

    def run_without_transaction(self, run: Run, policy: Registered) -> None:
        """Run a policy that touches nothing which could be undone."""
        outbox: list[object] = []
        emit: Emit[Any] = Emit(run.activity, run.correlation, policy.allowed, outbox)
        try:
            with self._running():
                self._telling.start(run)
                policy.call(run.event, emit)
                self._deliveries.check_room(len(outbox))
                self._telling.show_outputs(run, outbox)
        finally:
            emit.close()
        self._release([Delivery(event, run.correlation, run.activity) for event in outbox])
        self._telling.end(run, outbox)

    @contextmanager
    def _running(self) -> Iterator[None]:
        self.is_running = True
        try:
            yield
        finally:
            self.is_running = False

    def _project(
        self, run: Run, outbox: list[object], *, first_is_own: bool = False
    ) -> list[Delivery]:
        """Run projections over the outbox, which they may lengthen; owe persistent policies."""
        released: list[Delivery] = []
        for event in outbox:  # grows while projections emit
            is_own = first_is_own and not released
            cause = run.causation if is_own else run.activity
            plan = self._registry.plan_for(type(event))
            for projection in plan.projections:
                self._run_projection(projection, event, run, cause, outbox)
            delivery = Delivery(event, run.correlation, cause, projected=True)
            if plan.persistent:
                self._owe(delivery, plan.persistent)
            released.append(delivery)
        self._deliveries.check_room(len(released) - first_is_own)
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

    def _owe(self, delivery: Delivery, policies: tuple[Registered, ...]) -> None:
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

    def _release(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.owed:
                self.owed_here.update(delivery.owed.values())
        self._deliveries.add(deliveries)
