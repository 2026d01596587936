"""Hold how a listener's annotations are read, at run time and by mypy."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Never, Optional, TypeVar, Union

import pytest

from daemon.subscription import BadListener, Emit, listener_name, read_signature

if TYPE_CHECKING:
    from daemon.signals import ObjectsChanged

T = TypeVar("T")
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Rung:
    pass


@dataclass(frozen=True)
class Opened:
    pass


def plain(event: Rung, emit: Emit[Opened]) -> None:
    pass


def test_row19_string_annotations_are_read() -> None:
    assert isinstance(plain.__annotations__["event"], str)

    signature = read_signature(plain)

    assert signature.hears == (Rung,)
    assert signature.emits == (Opened,)


def test_row19_unions_are_read_in_every_spelling() -> None:
    def bar(event: Rung | Opened, emit: Emit[Rung | Opened]) -> None:
        pass

    def named(event: Union[Rung, Opened], emit: Emit[Union[Rung, Opened]]) -> None:  # noqa: UP007
        pass

    for listener in (bar, named):
        assert read_signature(listener).hears == (Rung, Opened)
        assert read_signature(listener).emits == (Rung, Opened)


def test_row19_annotated_object_never_and_nothing() -> None:
    def annotated(event: Annotated[Rung, "loud"], emit: Emit[Never]) -> None:
        pass

    def everything(event: object, emit) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        pass

    assert read_signature(annotated).hears == (Rung,)
    assert read_signature(annotated).emits == ()
    assert read_signature(everything).hears == (object,)
    assert read_signature(everything).emits == ()


class Doorbell:
    def __call__(self, event: Rung, emit: Emit[Opened]) -> None:
        pass

    def ring(self, event: Rung, emit: Emit[Opened]) -> None:
        pass

    @classmethod
    def built(cls, event: Rung, emit: Emit[Opened]) -> None:
        pass

    @staticmethod
    def loose(event: Rung, emit: Emit[Opened]) -> None:
        pass


def with_more(color: str, event: Rung, emit: Emit[Opened], *, loud: bool = False) -> None:
    pass


@functools.wraps(plain)
def wrapped(*arguments: Any) -> None:
    pass


def test_row22_functions_methods_partials_and_instances_are_listeners() -> None:
    for listener in (
        plain,
        Doorbell(),
        Doorbell().ring,
        Doorbell.built,
        Doorbell.loose,
        functools.partial(with_more, "red"),
        wrapped,
    ):
        assert read_signature(listener).hears == (Rung,), listener
        assert read_signature(listener).emits == (Opened,), listener


def test_names_of_listeners_are_stable() -> None:
    module = __name__
    assert listener_name(plain) == f"{module}.plain"
    assert listener_name(Doorbell()) == f"{module}.Doorbell"
    assert listener_name(Doorbell().ring) == f"{module}.Doorbell.ring"
    assert listener_name(Doorbell.built) == f"{module}.Doorbell.built"
    assert listener_name(functools.partial(with_more, "red")) == f"{module}.with_more"


def test_row22_a_class_object_is_refused_with_a_hint() -> None:
    with pytest.raises(TypeError, match="is a class") as caught:
        read_signature(Doorbell)

    assert isinstance(caught.value, BadListener)
    assert caught.value.hint == "subscribe an instance: Doorbell(...)"


def _bad() -> list[tuple[object, str]]:
    def without_annotation(event, emit: Emit[Rung]) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        pass

    def imported_for_types_only(event: ObjectsChanged, emit: Emit[Rung]) -> None:
        pass

    def misspelt(event: Rnug, emit: Emit[Rung]) -> None:  # type: ignore[name-defined]  # noqa: F821
        pass

    def any_event(event: Any, emit: Emit[Rung]) -> None:
        pass

    def optional(event: Optional[Rung], emit: Emit[Rung]) -> None:  # noqa: UP045
        pass

    def generic(event: list[Rung], emit: Emit[Rung]) -> None:
        pass

    def variable(event: T, emit: Emit[Rung]) -> None:
        pass

    def no_emit(event: Rung) -> None:
        pass

    def three(event: Rung, emit: Emit[Rung], third: int) -> None:
        pass

    def keyword(event: Rung, emit: Emit[Rung], *, loud: bool) -> None:
        pass

    def wrong_emit(event: Rung, emit: list[Rung]) -> None:
        pass

    def emits_any(event: Rung, emit: Emit[Any]) -> None:
        pass

    async def waits(event: Rung, emit: Emit[Rung]) -> None:
        pass

    def yields(event: Rung, emit: Emit[Rung]) -> typing.Iterator[Rung]:
        yield event

    return [
        (without_annotation, "no annotation"),
        (imported_for_types_only, "outside `if TYPE_CHECKING`"),
        (misspelt, "cannot be resolved"),
        (any_event, "no class of events"),
        (optional, "no class of events"),
        (generic, "no class of events"),
        (variable, "no class of events"),
        (no_emit, "cannot be called with an event and an emit handle"),
        (three, "cannot be called with an event and an emit handle"),
        (keyword, "cannot be called with an event and an emit handle"),
        (wrong_emit, "second parameter"),
        (emits_any, "no class of events"),
        (waits, "asynchronous"),
        (yields, "generator"),
        (3, "cannot be called"),
    ]


@pytest.mark.parametrize(
    ("listener", "said"), [pytest.param(*case, id=listener_name(case[0])) for case in _bad()]
)
def test_row19_a_bad_signature_fails_at_once_and_says_what_to_do(
    listener: object, said: str
) -> None:
    with pytest.raises(BadListener, match=re.escape(said)) as caught:
        read_signature(listener)

    assert caught.value.hint


def test_row19_types_can_be_given_explicitly() -> None:
    def bare(event, emit) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        pass

    assert read_signature(bare, hears=Rung).hears == (Rung,)
    assert read_signature(bare, hears=Rung | Opened, emits=(Rung, Opened)).emits == (Rung, Opened)
    with pytest.raises(BadListener):
        read_signature(bare, hears=3)


class Generally(Generic[T]):
    pass


def test_a_generic_class_is_heard_as_a_class() -> None:
    assert read_signature(plain, hears=Generally).hears == (Generally,)


TYPED = """
from dataclasses import dataclass
from typing import Any
from daemon.engine import Engine
from daemon.subscription import Emit, Listener

class Signal: ...
class Rung(Signal): ...
class Opened(Signal): ...

def on_rung(event: Rung, emit: Emit[Opened]) -> None:
    emit(Opened())
    emit(Rung())  # E: arg-type

def on_both(event: Rung, emit: Emit[Rung | Opened]) -> None:
    emit(Rung())
    emit(Opened())
    emit(Signal())  # E: arg-type
    emit.outbox  # E: attr-defined
    emit.queue.clear()  # E: attr-defined

def on_signal(event: Signal, emit: Emit[Opened]) -> None: ...

class Door:
    def __call__(self, event: Rung, emit: Emit[Opened]) -> None: ...

base_hears_all: Listener[Rung] = on_signal
narrow_hears_base: Listener[Signal] = on_rung  # E: assignment
instance: Listener[Rung] = Door()
no_handle: Listener[Rung] = lambda event: None  # E: assignment

def narrow(wide: Emit[Signal]) -> Emit[Rung]:
    return wide

def widen(narrow: Emit[Rung]) -> Emit[Signal]:
    return narrow  # E: return-value

def wire(engine: Engine) -> None:
    engine.subscribe(on_rung)
    engine.subscribe(Door())
    engine.subscribe(on_signal, Rung)
    engine.subscribe(on_rung, Opened)  # E: misc
    engine.subscribe(lambda event: None)  # E: arg-type
    engine.subscribe(3)  # E: arg-type
"""


def test_row21_what_must_and_must_not_type_check(tmp_path: Path) -> None:
    source = tmp_path / "typed.py"
    source.write_text(TYPED, "utf-8")

    result = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--no-color-output"),
            *("--hide-error-context", "--cache-dir", str(tmp_path / "cache"), str(source)),
        ],
        cwd=ROOT,
        env={"MYPYPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    found = {
        (int(line), code)
        for line, code in re.findall(r"typed\.py:(\d+): error: .*\[([a-z-]+)\]", result.stdout)
    }
    expected = {
        (number, line.split("# E: ")[1])
        for number, line in enumerate(TYPED.splitlines(), 1)
        if "# E: " in line
    }
    assert found == expected, result.stdout
