"""Hold the engine to design.md section 8, and its early faults out for good.

SQLite stands behind the engine where transactions matter, as it does in the daemon.
"""

from __future__ import annotations

import ast
import logging
import random
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import daemon.activity
import daemon.bracket
import daemon.deliveries
import daemon.engine
import daemon.registry
import daemon.subscription
import daemon.telling
from daemon.activity import (
    ActivityEnded,
    ActivityFailed,
    ActivityId,
    ActivityStarted,
    Begun,
    Run,
)
from daemon.bracket import Transactions
from daemon.deliveries import ATTEMPTS_LIMIT, QueueFull
from daemon.engine import Engine
from daemon.subscription import (
    EMISSIONS_LIMIT,
    BadListener,
    EmissionsFull,
    Emit,
    EmitClosed,
    ListenerKind,
    UndeclaredEmit,
)

PROJECTION = ListenerKind.PROJECTION


class VirtualClock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def now_ns(self) -> int:
        return int(self.seconds * 1e9)

    def monotonic_s(self) -> float:
        return self.seconds


@dataclass(frozen=True, slots=True)
class Baked:
    number: int


@dataclass(frozen=True, slots=True)
class Eaten:
    number: int


@dataclass(frozen=True, slots=True)
class FineBaked(Baked):
    pass


class Cut(Exception):
    """A failure on purpose."""


class Database:
    """Real SQLite; the table `facts` takes part in the engine's transactions."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.execute("CREATE TABLE facts (number INTEGER)")
        self.connection.execute(
            "CREATE TABLE journal (activity BLOB, listener TEXT, number INTEGER, correlation BLOB)"
        )
        self.fail_commits = 0

    @contextmanager
    def begin(self) -> Iterator[None]:
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            if self.fail_commits:
                self.fail_commits -= 1
                raise Cut("disk full")  # noqa: TRY301 - as a commit does
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def add(self, number: int) -> None:
        assert self.connection.in_transaction
        self.connection.execute("INSERT INTO facts VALUES (?)", (number,))

    @property
    def facts(self) -> list[int]:
        return [row[0] for row in self.connection.execute("SELECT number FROM facts")]


class Journal:
    """Keeps owed runs of listeners to Baked in the same database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def begin(self, begun: Begun) -> None:
        assert self.database.connection.in_transaction
        assert isinstance(begun.event, Baked)
        self.database.connection.execute(
            "INSERT INTO journal VALUES (?, ?, ?, ?)",
            (begun.activity, begun.listener, begun.event.number, begun.correlation),
        )

    def end(self, activity: ActivityId) -> None:
        assert self.database.connection.in_transaction
        self.database.connection.execute("DELETE FROM journal WHERE activity = ?", (activity,))

    def unfinished(self) -> Iterable[Begun]:
        rows = self.database.connection.execute("SELECT * FROM journal ORDER BY rowid").fetchall()
        return [
            Begun(
                activity=ActivityId(activity),
                listener=listener,
                event=Baked(number),
                correlation=ActivityId(correlation),
                causation=None,
            )
            for activity, listener, number, correlation in rows
        ]


@dataclass
class Diary:
    """A middleware that writes down what it sees."""

    lines: list[str] = field(default_factory=list)
    break_in: str = ""

    def before(self, run: Run) -> None:
        self._write(f"before {run.listener.split('.')[-1]} {run.event}")

    def after(self, run: Run, emitted: Sequence[object]) -> None:
        self._write(f"after {run.listener.split('.')[-1]} {list(emitted)}")

    def failed(self, run: Run, error: Exception) -> None:
        self._write(f"failed {run.listener.split('.')[-1]} {error}")

    def _write(self, line: str) -> None:
        self.lines.append(line)
        if self.break_in and line.startswith(self.break_in):
            raise Cut(f"in middleware {self.break_in}")


Make = Callable[..., Engine]


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def make(clock: VirtualClock) -> Make:
    def make_engine(seed: int = 0, **options: Any) -> Engine:
        return Engine(clock=clock, random_bytes=random.Random(seed).randbytes, **options)

    return make_engine


@pytest.fixture
def database() -> Database:
    return Database()


# --- rows 1 to 3: listeners, order, queue


def test_row1_two_listeners_both_run_once_in_order_of_subscription(make: Make) -> None:
    heard: list[str] = []
    engine = make()

    def first(event: Baked, emit: Emit[Eaten]) -> None:
        heard.append(f"first {event.number}")

    def second(event: Baked, emit: Emit[Eaten]) -> None:
        heard.append(f"second {event.number}")

    engine.subscribe(first)
    engine.subscribe(second)
    engine.post(Baked(1))
    engine.run_until_idle()

    assert heard == ["first 1", "second 1"]


def test_row1_one_that_raises_does_not_silence_the_other(make: Make) -> None:
    heard: list[int] = []
    engine = make()

    def fail(event: Baked, emit: Emit[Eaten]) -> None:
        raise Cut

    def hear(event: Baked, emit: Emit[Eaten]) -> None:
        heard.append(event.number)

    engine.subscribe(fail)
    engine.subscribe(hear)
    engine.post(Baked(1))
    engine.run_until_idle()

    assert heard == [1]


def test_row2_two_engines_share_no_listeners_queues_or_state(make: Make) -> None:
    heard: list[int] = []
    one, other = make(), make()

    def hear(event: Baked, emit: Emit[Eaten]) -> None:
        heard.append(event.number)

    one.subscribe(hear)
    other.post(Baked(1))

    assert not one.step()
    assert other.step()
    assert heard == []
    assert other.registry() == ()


def test_row3_an_event_without_a_listener_is_fine(make: Make) -> None:
    engine = make()

    engine.post(Baked(1))

    assert engine.run_until_idle() == 1
    assert engine.failures == 0


def test_row3_step_takes_one_event(make: Make) -> None:
    engine = make()
    engine.post(Baked(1))
    engine.post(Baked(2))

    assert engine.step()
    assert engine.depth == 1
    assert engine.next_due_s() == 0
    assert engine.step()
    assert not engine.step()
    assert engine.next_due_s() is None


def test_row3_the_queue_is_bounded_and_tells_its_high_water_mark(make: Make) -> None:
    engine = make(queue_limit=4)

    for number in range(4):
        assert not engine.is_pressed
        engine.post(Baked(number))

    assert engine.is_pressed
    with pytest.raises(QueueFull):
        engine.post(Baked(5))
    engine.run_until_idle()
    assert engine.depth == 0
    assert engine.peak == 4


def test_row3_same_input_same_trace_a_hundred_times(make: Make) -> None:
    def trace() -> list[object]:
        seen: list[object] = []
        activities = make(1)
        engine = make(2, activities=activities)
        rng = random.Random(3)

        def watch(event: object, emit: Emit[Eaten]) -> None:
            seen.append(event)

        def bake(event: Baked, emit: Emit[Baked | Eaten]) -> None:
            if rng.random() < 0.2:
                raise Cut
            if event.number > 0:
                emit(Baked(event.number - 1))
                emit(Eaten(event.number))

        activities.subscribe(watch)
        engine.subscribe(bake)
        engine.subscribe(watch)
        for number in range(6):
            engine.post(Baked(number))
        engine.run_until_idle()
        return seen

    first = trace()
    assert len(first) > 50
    assert all(trace() == first for _ in range(99))


def test_projections_run_before_policies_whatever_the_order_of_subscription(make: Make) -> None:
    heard: list[str] = []
    engine = make()

    for name, kind in (
        ("policy 1", ListenerKind.POLICY),
        ("projection 1", PROJECTION),
        ("policy 2", ListenerKind.POLICY),
        ("projection 2", PROJECTION),
    ):

        def hear(event: Baked, emit: Emit[Eaten], name: str = name) -> None:
            heard.append(name)

        engine.subscribe(hear, kind=kind)
    engine.post(Baked(1))
    engine.run_until_idle()

    assert heard == ["projection 1", "projection 2", "policy 1", "policy 2"]


def test_a_listener_to_a_base_hears_what_is_below_and_object_hears_all(make: Make) -> None:
    heard: list[object] = []
    engine = make()

    def base(event: Baked, emit: Emit[Eaten]) -> None:
        heard.append(("base", event))

    def everything(event: object, emit: Emit[Eaten]) -> None:
        heard.append(("all", event))

    engine.subscribe(base)
    engine.subscribe(everything)
    engine.post(FineBaked(1))
    engine.post(Eaten(1))
    engine.run_until_idle()

    assert heard == [("base", FineBaked(1)), ("all", FineBaked(1)), ("all", Eaten(1))]


# --- row 4: outbox, transaction, middleware


def test_row4_emits_three_then_raises_and_none_is_visible(make: Make, database: Database) -> None:
    heard: list[int] = []
    engine = make(transactions=database)

    def bake(event: Baked, emit: Emit[Eaten]) -> None:
        for number in range(3):
            database.add(number)
            emit(Eaten(number))
        raise Cut

    def eat(event: Eaten, emit: Emit[Eaten]) -> None:
        heard.append(event.number)

    engine.subscribe(bake)
    engine.subscribe(eat)
    engine.post(Baked(1))
    engine.run_until_idle()

    assert heard == []
    assert database.facts == []


def test_row4_nothing_is_released_when_the_commit_fails(make: Make, database: Database) -> None:
    heard: list[int] = []
    engine = make(transactions=database)

    def bake(event: Baked, emit: Emit[Eaten]) -> None:
        database.add(event.number)
        emit(Eaten(event.number))

    def eat(event: Eaten, emit: Emit[Eaten]) -> None:
        heard.append(event.number)

    engine.subscribe(bake)
    engine.subscribe(eat)
    engine.post(Baked(1))
    database.fail_commits = 1
    engine.run_until_idle()

    assert heard == []
    assert database.facts == []


def test_projections_commit_together_with_what_they_observe(make: Make, database: Database) -> None:
    engine = make(transactions=database)

    def bake(event: Baked, emit: Emit[Eaten]) -> None:
        database.add(event.number)
        emit(Eaten(event.number))

    def fold(event: Eaten, emit: Emit[Eaten]) -> None:
        database.add(event.number * 10)
        if event.number == 2:
            raise Cut

    engine.subscribe(bake)
    engine.subscribe(fold, kind=PROJECTION)
    engine.post(Baked(1))
    engine.post(Baked(2))
    engine.run_until_idle()

    assert database.facts == [1, 10]


def test_a_failed_projection_of_a_posted_event_comes_again_before_any_policy(
    make: Make, database: Database, clock: VirtualClock
) -> None:
    heard: list[int] = []
    fails = [True]
    engine = make(transactions=database)

    def fold(event: Baked, emit: Emit[Eaten]) -> None:
        database.add(event.number)
        if fails:
            fails.pop()
            raise Cut

    def policy(event: Baked, emit: Emit[Eaten]) -> None:
        heard.append(event.number)

    engine.subscribe(fold, kind=PROJECTION)
    engine.subscribe(policy)
    engine.post(Baked(1))
    engine.run_until_idle()
    assert (heard, database.facts) == ([], [])
    clock.seconds += 1
    engine.run_until_idle()

    assert (heard, database.facts) == ([1], [1])


def test_what_a_projection_emits_is_projected_in_the_same_transaction(
    make: Make, database: Database
) -> None:
    begun: list[int] = []

    class Counting:
        def begin(self) -> AbstractContextManager[object]:
            begun.append(1)
            return database.begin()

    engine = make(transactions=Counting())

    def bake(event: Baked, emit: Emit[Eaten]) -> None:
        database.add(event.number)
        emit(Eaten(event.number))

    def chew(event: Eaten, emit: Emit[FineBaked]) -> None:
        emit(FineBaked(event.number))

    def fold(event: FineBaked, emit: Emit[Eaten]) -> None:
        database.add(event.number * 100)

    engine.subscribe(bake)
    engine.subscribe(chew, kind=PROJECTION)
    engine.subscribe(fold, kind=PROJECTION)
    engine.perform(bake, Baked(1))

    assert database.facts == [1, 100]
    assert len(begun) == 1


def test_row4_middleware_sees_inputs_and_outputs_inside_the_transaction(
    make: Make, database: Database
) -> None:
    diary = Diary()
    engine = make(transactions=database, middleware=[diary])

    def bake(event: Baked, emit: Emit[Eaten]) -> None:
        emit(Eaten(event.number))

    def fold(event: Eaten, emit: Emit[Eaten]) -> None:
        database.add(event.number)

    engine.subscribe(bake)
    engine.subscribe(fold, kind=PROJECTION)
    engine.post(Baked(1))
    engine.run_until_idle()

    assert diary.lines == [
        "before bake Baked(number=1)",
        "before fold Eaten(number=1)",
        "after fold []",
        "after bake [Eaten(number=1)]",
    ]


@pytest.mark.parametrize("moment", ["before bake", "after bake", "before fold", "after fold"])
def test_row4_broken_between_hook_and_commit_is_all_or_nothing(
    make: Make, database: Database, moment: str
) -> None:
    heard: list[int] = []
    engine = make(transactions=database, middleware=[Diary(break_in=moment)])

    def bake(event: Baked, emit: Emit[Eaten]) -> None:
        database.add(event.number)
        emit(Eaten(event.number))

    def fold(event: Eaten, emit: Emit[Eaten]) -> None:
        database.add(event.number)

    def eat(event: Eaten, emit: Emit[Eaten]) -> None:
        heard.append(event.number)

    engine.subscribe(bake)
    engine.subscribe(fold, kind=PROJECTION)
    engine.subscribe(eat)
    engine.post(Baked(1))
    engine.run_until_idle()

    assert heard == []
    assert database.facts == []


def test_row4_a_checkpoint_keeps_what_was_done_before_it(make: Make, database: Database) -> None:
    heard: list[int] = []
    engine = make(transactions=database)

    def bake(event: Baked, emit: Emit[Eaten]) -> None:
        database.add(1)
        emit(Eaten(1))
        emit.checkpoint()
        database.add(2)
        emit(Eaten(2))
        raise Cut

    def eat(event: Eaten, emit: Emit[Eaten]) -> None:
        heard.append(event.number)

    engine.subscribe(eat)
    with pytest.raises(Cut):
        engine.perform(bake, Baked(1))
    engine.run_until_idle()

    assert database.facts == [1]
    assert heard == [1]


def test_row4_a_failed_checkpoint_cannot_be_swallowed(make: Make, database: Database) -> None:
    engine = make(transactions=database)

    def bake(event: Baked, emit: Emit[Eaten]) -> None:
        database.add(1)
        database.fail_commits = 1
        try:
            emit.checkpoint()
        except Cut:
            return

    with pytest.raises(Cut):
        engine.perform(bake, Baked(1))

    assert database.facts == []
    assert not database.connection.in_transaction


def test_a_projection_cannot_checkpoint_anothers_transaction(make: Make) -> None:
    engine = make()

    def fold(event: Baked, emit: Emit[Eaten]) -> None:
        emit.checkpoint()

    engine.subscribe(fold, kind=PROJECTION)
    engine.post(Baked(1))
    engine.run_until_idle()

    assert engine.failures > 0


# --- row 5: the emit-only handle


def test_row5_an_undeclared_emit_is_refused_and_undoes_the_run(make: Make) -> None:
    engine = make()

    def bake(event: Baked, emit: Emit[Eaten]) -> None:
        emit(event)  # type: ignore[arg-type]  # mypy refuses it too

    with pytest.raises(UndeclaredEmit, match="Baked was emitted, declared is Eaten"):
        engine.perform(bake, Baked(1))
    assert engine.depth == 0


def test_row5_an_event_below_a_declared_one_may_be_emitted(make: Make) -> None:
    engine = make()

    def bake(event: Eaten, emit: Emit[Baked]) -> None:
        emit(FineBaked(1))

    engine.perform(bake, Eaten(1))

    assert engine.depth == 1


def test_row5_the_handle_shows_no_queue_and_ends_with_the_run(make: Make) -> None:
    kept: list[Emit[Eaten]] = []
    engine = make()

    def bake(event: Baked, emit: Emit[Eaten]) -> None:
        kept.append(emit)
        public = {name for name in dir(emit) if not name.startswith("_")}
        assert public == {"activity", "checkpoint", "close", "correlation"}
        assert not hasattr(emit, "__dict__")

    engine.perform(bake, Baked(1))

    with pytest.raises(EmitClosed):
        kept[0](Eaten(1))
    with pytest.raises(EmitClosed):
        kept[0].checkpoint()


def test_row5_the_handle_is_closed_before_projections_see_the_outbox(make: Make) -> None:
    kept: list[Emit[Eaten]] = []
    engine = make()

    def bake(event: Baked, emit: Emit[Eaten]) -> None:
        kept.append(emit)
        emit(Eaten(1))

    def fold(event: Eaten, emit: Emit[Eaten]) -> None:
        kept[0](Eaten(2))

    engine.subscribe(fold, kind=PROJECTION)
    with pytest.raises(EmitClosed):
        engine.perform(bake, Baked(1))
    assert engine.depth == 0


def test_row5_no_listener_reaches_around_its_handle(make: Make) -> None:
    engine = make()
    refused: list[str] = []

    def bake(event: Baked, emit: Emit[Eaten]) -> None:
        for reach in (
            lambda: engine.post(event),
            engine.step,
            engine.run_until_idle,
            engine.recover,
        ):
            with pytest.raises(RuntimeError):
                reach()
            refused.append("refused")

    engine.perform(bake, Baked(1))

    assert len(refused) == 4
    assert engine.depth == 0


def test_a_run_that_never_stops_emitting_is_stopped(make: Make) -> None:
    engine = make()

    def bake(event: Baked, emit: Emit[Baked]) -> None:
        while True:
            emit(event)

    with pytest.raises(EmissionsFull):
        engine.perform(bake, Baked(1))


def test_what_follows_from_accepted_events_finds_room_above_the_limit(make: Make) -> None:
    heard: list[int] = []
    engine = make(queue_limit=4)

    def bake(event: Baked, emit: Emit[Eaten]) -> None:
        for number in range(3):
            emit(Eaten(number))

    def eat(event: Eaten, emit: Emit[Eaten]) -> None:
        heard.append(event.number)

    engine.subscribe(bake)
    engine.subscribe(eat)
    for number in range(4):
        engine.post(Baked(number))
    engine.run_until_idle()

    assert heard == [0, 1, 2] * 4
    assert engine.failures == 0


def test_a_chain_that_only_grows_is_stopped_at_a_bound(make: Make, database: Database) -> None:
    engine = make(transactions=database, queue_limit=4)

    def double(event: Baked, emit: Emit[Baked]) -> None:
        database.add(1)
        for _ in range(500):
            emit(event)

    engine.subscribe(double)
    engine.post(Baked(1))
    while not engine.failures:
        engine.step()

    assert engine.peak <= EMISSIONS_LIMIT + 4
    assert len(database.facts) == 20
    with pytest.raises(QueueFull):
        engine.post(Baked(1))


# --- row 6: activities on a second engine


def test_row6_each_run_is_told_on_a_second_engine_without_meta(make: Make) -> None:
    told: list[object] = []
    activities = make(1)
    engine = make(2, activities=activities)

    def watch(event: object, emit: Emit[Eaten]) -> None:
        told.append(event)

    def bake(event: Baked, emit: Emit[Eaten]) -> None:
        if event.number == 2:
            raise Cut("burnt")
        emit(Eaten(event.number))

    activities.subscribe(watch)
    line = engine.subscribe(bake)
    engine.post(Baked(1))
    engine.post(Baked(2))
    engine.run_until_idle()

    started, ended, started_again, failed = told
    assert isinstance(started, ActivityStarted)
    assert isinstance(ended, ActivityEnded)
    assert isinstance(started_again, ActivityStarted)
    assert isinstance(failed, ActivityFailed)
    assert started.run == ended.run
    assert started.run.listener == line.name
    assert started.run.event == Baked(1)
    assert ended.emitted == (Eaten(1),)
    assert failed.run.activity == started_again.run.activity != started.run.activity
    assert (failed.why, failed.retry_in_s) == ("Cut: burnt", 0.2)
    with pytest.raises(ValueError, match="no activities of its own"):
        make(activities=engine)


def test_row6_an_idle_hour_adds_no_event(make: Make, clock: VirtualClock) -> None:
    told: list[object] = []
    activities = make(1)
    engine = make(2, activities=activities)

    def watch(event: object, emit: Emit[Eaten]) -> None:
        told.append(event)

    activities.subscribe(watch)
    engine.subscribe(watch)
    for _ in range(3600):
        clock.seconds += 1
        assert engine.run_until_idle() == 0

    assert told == []


def test_row6_no_end_is_told_of_what_was_undone(make: Make, database: Database) -> None:
    told: list[str] = []
    activities = make(1)
    engine = make(2, activities=activities, transactions=database)

    def watch(event: ActivityStarted | ActivityEnded | ActivityFailed, emit: Emit[Eaten]) -> None:
        assert not database.connection.in_transaction
        told.append(f"{type(event).__name__} {event.run.listener.split('.')[-1]}")

    def bake(event: Baked, emit: Emit[Eaten]) -> None:
        emit(Eaten(1))

    def fold(event: Eaten, emit: Emit[Eaten]) -> None:
        pass

    activities.subscribe(watch)
    engine.subscribe(fold, kind=PROJECTION)
    database.fail_commits = 1
    with pytest.raises(Cut):
        engine.perform(bake, Baked(1))

    assert told == [
        "ActivityStarted bake",
        "ActivityStarted fold",
        "ActivityFailed fold",
        "ActivityFailed bake",
    ]


def test_correlation_and_causation_are_inherited(make: Make) -> None:
    runs: list[Run] = []
    engine = make()

    class Watch(Diary):
        def before(self, run: Run) -> None:
            runs.append(run)

    engine = make(middleware=[Watch()])

    def bake(event: Baked, emit: Emit[Eaten]) -> None:
        assert emit.activity == runs[-1].activity
        assert emit.correlation == runs[-1].correlation
        emit(Eaten(1))

    def fold(event: Eaten, emit: Emit[Eaten]) -> None:
        pass

    engine.subscribe(bake)
    engine.subscribe(fold, kind=PROJECTION)
    engine.subscribe(fold, name="policy")
    chain = engine.post(Baked(1))
    engine.run_until_idle()

    baking, folding, policy = runs
    assert {run.correlation for run in runs} == {chain}
    assert baking.causation is None
    assert folding.causation == policy.causation == baking.activity
    assert len({run.activity for run in runs}) == 3
    other = engine.post(Baked(2), correlation=ActivityId(b"from another ..."))
    assert other == b"from another ..."


# --- rows 17 and 18: retries, unfinished activities


def test_row17_a_failing_policy_is_retried_with_back_off_and_never_undoes_the_event(
    make: Make, database: Database, clock: VirtualClock
) -> None:
    attempts: list[float] = []
    engine = make(transactions=database)

    def fold(event: Baked, emit: Emit[Eaten]) -> None:
        database.add(event.number)

    def fail(event: Baked, emit: Emit[Eaten]) -> None:
        attempts.append(clock.seconds - 1_000)
        raise Cut

    engine.subscribe(fold, kind=PROJECTION)
    engine.subscribe(fail)
    engine.post(Baked(1))
    while (due_s := engine.next_due_s()) is not None:
        clock.seconds += due_s
        engine.run_until_idle()

    waits = [round(b - a, 3) for a, b in pairwise(attempts)]
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2]
    assert len(attempts) == ATTEMPTS_LIMIT
    assert engine.failures == ATTEMPTS_LIMIT
    assert database.facts == [1]
    assert engine.depth == 0


def test_row17_a_retry_is_the_same_activity_and_runs_only_what_failed(
    make: Make, clock: VirtualClock
) -> None:
    heard: list[object] = []
    engine = make()

    def flaky(event: Baked, emit: Emit[Eaten]) -> None:
        heard.append(emit.activity)
        if len(heard) == 2:
            raise Cut

    def steady(event: Baked, emit: Emit[Eaten]) -> None:
        heard.append("steady")

    engine.subscribe(steady)
    engine.subscribe(flaky)
    engine.post(Baked(1))
    engine.run_until_idle()
    clock.seconds += 0.2
    engine.run_until_idle()

    assert heard[0] == "steady"
    assert heard[1] == heard[2]
    assert len(heard) == 3


def _shop(make: Make, database: Database, heard: list[int], fail: list[bool]) -> Engine:
    engine = make(transactions=database, journal=Journal(database))

    def sell(event: Eaten, emit: Emit[Baked]) -> None:
        emit(Baked(event.number))

    def ship(event: Baked, emit: Emit[Eaten]) -> None:
        database.add(event.number)
        if fail:
            raise Cut
        heard.append(event.number)

    engine.subscribe(sell)
    engine.subscribe(ship, persistent=True, name="ship")
    return engine


def test_row17_a_run_that_is_owed_survives_a_crash_at_any_step(
    make: Make, database: Database
) -> None:
    for steps in range(4):
        heard: list[int] = []
        engine = _shop(make, database, heard, [])
        engine.post(Eaten(steps))
        for _ in range(steps):  # and then the process is gone, with its queue
            engine.step()
        expected = [steps] if steps else []  # what was never stepped was never committed

        again = _shop(make, database, heard, [])
        assert again.recover() == []
        again.run_until_idle()

        assert heard == expected
        assert list(Journal(database).unfinished()) == []
    assert database.facts == [1, 2, 3]


def test_row17_an_owed_run_keeps_its_activity_and_correlation(
    make: Make, database: Database
) -> None:
    engine = _shop(make, database, [], [True])
    chain = engine.post(Eaten(1))
    engine.run_until_idle()

    (owed,) = Journal(database).unfinished()
    assert owed.correlation == chain
    assert owed.listener == "ship"
    assert database.facts == []

    seen: list[Run] = []

    class Watch(Diary):
        def before(self, run: Run) -> None:
            seen.append(run)

    later = make(transactions=database, journal=Journal(database), middleware=[Watch()])

    def ship(event: Baked, emit: Emit[Eaten]) -> None:
        assert emit.activity == owed.activity

    later.subscribe(ship, persistent=True, name="ship")
    later.recover()
    assert later.recover() == []
    assert later.run_until_idle() == 1
    assert [(run.activity, run.correlation) for run in seen] == [(owed.activity, chain)]


def test_row18_recovering_in_mid_life_runs_nothing_twice(
    make: Make, database: Database, clock: VirtualClock
) -> None:
    heard: list[int] = []
    fail = [True]
    engine = _shop(make, database, heard, fail)
    engine.post(Eaten(1))
    engine.run_until_idle()

    engine.recover()
    fail.clear()
    clock.seconds += 1
    engine.run_until_idle()
    engine.recover()
    engine.run_until_idle()

    assert heard == [1]


def test_row17_a_run_owed_to_a_policy_that_is_no_more_is_told(
    make: Make, database: Database
) -> None:
    engine = _shop(make, database, [], [True])
    engine.post(Eaten(1))
    engine.run_until_idle()
    other = make(transactions=database, journal=Journal(database))

    strangers = other.recover()

    assert [begun.listener for begun in strangers] == ["ship"]
    assert len(list(Journal(database).unfinished())) == 1


def test_a_posted_event_is_owed_once_its_projections_committed(
    make: Make, database: Database
) -> None:
    engine = make(transactions=database, journal=Journal(database))

    def ship(event: Baked, emit: Emit[Eaten]) -> None:
        raise Cut

    engine.subscribe(ship, persistent=True, name="ship")
    engine.post(Baked(1))
    engine.run_until_idle()

    assert [begun.event for begun in Journal(database).unfinished()] == [Baked(1)]


def test_persistence_needs_a_journal_and_a_policy_in_a_transaction(
    make: Make, database: Database
) -> None:
    def ship(event: Baked, emit: Emit[Eaten]) -> None:
        pass

    journal = Journal(database)
    with pytest.raises(BadListener):
        make().subscribe(ship, persistent=True)
    with pytest.raises(BadListener):
        make(journal=journal).subscribe(ship, persistent=True, kind=PROJECTION)
    with pytest.raises(BadListener):
        make(journal=journal).subscribe(ship, persistent=True, in_transaction=False)


def test_a_policy_without_transaction_opens_none_and_still_releases_only_after_return(
    make: Make,
) -> None:
    class Never:
        def begin(self) -> AbstractContextManager[object]:
            raise AssertionError("a transaction was opened")

    heard: list[int] = []
    engine = make(transactions=Never())

    def tell(event: Baked, emit: Emit[Eaten]) -> None:
        emit(Eaten(event.number))
        if event.number == 2:
            raise Cut

    def eat(event: Eaten, emit: Emit[Eaten]) -> None:
        heard.append(event.number)

    engine.subscribe(tell, in_transaction=False)
    engine.subscribe(eat, in_transaction=False)
    engine.post(Baked(1))
    engine.post(Baked(2))
    engine.run_until_idle()

    assert heard == [1]


# --- commands


def test_a_command_fails_its_caller_and_leaves_nothing(make: Make, database: Database) -> None:
    engine = make(transactions=database)

    def rename(command: Baked, emit: Emit[Eaten]) -> str:
        database.add(command.number)
        emit(Eaten(command.number))
        if command.number == 2:
            raise Cut("no such path")
        return "renamed"

    assert engine.perform(rename, Baked(1)) == "renamed"
    with pytest.raises(Cut, match="no such path"):
        engine.perform(rename, Baked(2))

    assert database.facts == [1]
    assert engine.depth == 1


# --- row 26: the registry is data


def test_the_registry_is_data_for_a_diagram(make: Make) -> None:
    engine = make()

    def bake(event: Baked | Eaten, emit: Emit[Eaten | FineBaked]) -> None:
        pass

    def fold(event: Eaten, emit: Emit[Any]) -> None:
        pass

    with pytest.raises(BadListener):
        engine.subscribe(fold)
    engine.subscribe(bake, name="bake")
    engine.subscribe(bake)
    engine.subscribe(bake)

    lines = engine.registry()
    assert [line.order for line in lines] == [0, 1, 2]
    assert lines[0].hears == (Baked, Eaten)
    assert lines[0].emits == (Eaten, FineBaked)
    assert len({line.name for line in lines}) == 3
    assert lines[2].name == f"{lines[1].name}#2"
    with pytest.raises(BadListener, match="subscribed already"):
        engine.subscribe(bake, name="bake")


def test_the_engine_knows_nothing_about_files() -> None:
    """Origin, row 32: another domain can stand on the same engine."""
    modules = (
        daemon.engine,
        daemon.bracket,
        daemon.deliveries,
        daemon.registry,
        daemon.telling,
        daemon.subscription,
        daemon.activity,
    )
    for module in modules:
        tree = ast.parse(Path(str(module.__file__)).read_text("utf-8"))
        imported = {
            node.module or ""
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            if (node.module or "").split(".")[0] in ("store", "peers", "daemon")
        }
        assert imported <= {
            "daemon.activity",
            "daemon.bracket",
            "daemon.deliveries",
            "daemon.registry",
            "daemon.subscription",
            "daemon.telling",
            "store.errors",
        }


# --- faults of the early code that must not come back


def test_fault_a_loop_and_its_instrumentation_shared_one_queue(make: Make) -> None:
    activities = make(1)
    engine = make(2, activities=activities)

    def watch(event: ActivityStarted, emit: Emit[Eaten]) -> None:
        pass

    activities.subscribe(watch)
    engine.post(Baked(1))

    assert (engine.depth, activities.depth) == (1, 0)
    activities.run_until_idle()
    assert engine.depth == 1


def test_fault_outputs_of_a_crashed_handler_were_still_released(make: Make) -> None:
    heard: list[int] = []
    engine = make()

    def bake(event: Baked, emit: Emit[Eaten]) -> None:
        emit(Eaten(1))
        raise Cut

    def eat(event: Eaten, emit: Emit[Eaten]) -> None:
        heard.append(event.number)

    engine.subscribe(bake)
    engine.subscribe(eat)
    engine.post(Baked(1))
    engine.run_until_idle()

    assert heard == []


def test_fault_recording_a_crash_crashed(
    make: Make, caplog: pytest.LogCaptureFixture, clock: VirtualClock
) -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise Cut("in __str__")

    told: list[str] = []
    heard: list[int] = []
    activities = make(1)
    engine = make(2, activities=activities, middleware=[Diary(break_in="failed")])

    def watch(event: ActivityFailed, emit: Emit[Eaten]) -> None:
        told.append(event.why)
        raise Cut("while recording")

    def bake(event: Baked, emit: Emit[Eaten]) -> None:
        raise Unspeakable

    def hear(event: Baked, emit: Emit[Eaten]) -> None:
        heard.append(event.number)

    activities.subscribe(watch)
    engine.subscribe(bake)
    engine.subscribe(hear)
    engine.post(Baked(1))
    with caplog.at_level(logging.WARNING):
        engine.run_until_idle()

    assert told == ["Unspeakable"]
    assert heard == [1]
    assert engine.next_due_s() is not None


def test_fault_a_second_engine_that_nobody_hears_fills_up(make: Make) -> None:
    activities = make(1)
    engine = make(2, activities=activities)

    def bake(event: Baked, emit: Emit[Eaten]) -> None:
        raise Cut

    engine.subscribe(bake)
    engine.post(Baked(1))
    engine.run_until_idle()

    assert (engine.failures, activities.depth) == (1, 0)


def test_fault_an_observer_that_is_full_stops_no_work(make: Make) -> None:
    heard: list[int] = []
    activities = make(1, queue_limit=1)
    engine = make(2, activities=activities)

    def watch(event: ActivityStarted, emit: Emit[Eaten]) -> None:
        pass

    def hear(event: Baked, emit: Emit[Eaten]) -> None:
        heard.append(event.number)

    activities.subscribe(watch)
    for _ in range(3):
        engine.subscribe(hear)
    engine.post(Baked(1))
    engine.run_until_idle()

    assert heard == [1, 1, 1]


def test_fault_a_listener_class_was_subscribed(make: Make) -> None:
    class Bake:
        def __init__(self, event: Baked, emit: Emit[Eaten]) -> None:
            raise AssertionError("made as if it were called")

        def __call__(self, event: Baked, emit: Emit[Eaten]) -> None:
            pass

    engine = make()

    with pytest.raises(TypeError, match="is a class, not a listener") as caught:
        engine.subscribe(Bake)  # type: ignore[arg-type]
    assert "subscribe an instance: Bake(...)" in str(caught.value)
    assert engine.registry() == ()


def test_fault_key_error_for_an_event_nobody_listens_to(make: Make) -> None:
    engine = make()
    engine.post(object())
    engine.post(None)
    engine.post(3)

    assert engine.run_until_idle() == 3
    assert engine.failures == 0


def test_fault_an_honest_repeat_vanished(make: Make) -> None:
    """Ids name the occurrence, not the content: posting an equal event twice is two events."""
    heard: list[int] = []
    engine = make()

    def hear(event: Baked, emit: Emit[Eaten]) -> None:
        heard.append(event.number)

    engine.subscribe(hear)

    assert engine.post(Baked(1)) != engine.post(Baked(1))
    engine.run_until_idle()
    assert heard == [1, 1]


def test_fault_a_policy_performed_effects_inside_the_events_transaction(
    make: Make, database: Database
) -> None:
    """What a policy does stands on its own: its failure leaves the event and its state."""
    engine = make(transactions=database)

    def fold(event: Baked, emit: Emit[Eaten]) -> None:
        database.add(event.number)

    def policy(event: Baked, emit: Emit[Eaten]) -> None:
        assert database.facts == [1], "the event is committed before any policy runs"
        database.add(99)
        raise Cut

    engine.subscribe(policy)
    engine.subscribe(fold, kind=PROJECTION)
    engine.post(Baked(1))
    engine.run_until_idle()

    assert database.facts == [1]


def test_a_keyboard_interrupt_passes_through_and_undoes(make: Make, database: Database) -> None:
    engine = make(transactions=database)

    def bake(event: Baked, emit: Emit[Eaten]) -> None:
        database.add(1)
        raise KeyboardInterrupt

    engine.subscribe(bake)
    engine.post(Baked(1))

    with pytest.raises(KeyboardInterrupt):
        engine.run_until_idle()
    assert database.facts == []
    engine.post(Baked(2))


def test_run_until_idle_can_be_bounded(make: Make) -> None:
    engine = make()

    def again(event: Baked, emit: Emit[Baked]) -> None:
        emit(event)

    engine.subscribe(again)
    engine.post(Baked(1))

    assert engine.run_until_idle(steps_limit=50) == 50
    assert engine.depth == 1


def test_transactions_is_a_protocol_that_a_database_fulfils(database: Database) -> None:
    transactions: Transactions = database
    with transactions.begin():
        database.add(1)
    assert database.facts == [1]


def test_a_signal_costs_little() -> None:
    """A generous bound, many times what it takes: it finds a mistake of order, not of degree."""

    class Real:
        now_ns = staticmethod(time.time_ns)
        monotonic_s = staticmethod(time.monotonic)

    engine = Engine(clock=Real(), random_bytes=random.Random(1).randbytes)

    def hear(event: Baked, emit: Emit[Eaten]) -> None:
        pass

    engine.subscribe(hear)
    event = Baked(1)
    best_s = float("inf")
    for _ in range(5):
        begin = time.process_time()
        for _ in range(1000):
            engine.post(event)
            engine.step()
        best_s = min(best_s, (time.process_time() - begin) / 1000)

    assert best_s < 100e-6
