"""Read from a listener's annotations what it hears and what it may emit.

`def announce(event: BatchesCommitted, emit: Emit[PeersTold]) -> None` says both. Everything is
read once, when the listener is subscribed, so that a wrong signature fails at wiring and not at
the first event. This module runs no listener.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Never, Protocol, TypeVar, final

from daemon.activity import ActivityId

E_contra = TypeVar("E_contra", contravariant=True)

EMISSIONS_LIMIT = 10_000  # by one run; a listener that emits more is in a loop


class BadListener(TypeError):
    """What was subscribed cannot be a listener, or does not say what it hears."""

    def __init__(self, what: str, hint: str) -> None:
        """Join the fault and its remedy."""
        super().__init__(f"{what}\nhint: {hint}")
        self.hint = hint


class UndeclaredEmit(TypeError):
    """A listener emitted an event of a type that it did not declare."""


class EmitClosed(RuntimeError):
    """A listener emitted after it had returned."""


class EmissionsFull(RuntimeError):
    """One run emitted more than any honest one does."""


@final
class Emit(Generic[E_contra]):
    """All that a listener can do to the engine: emit events of its declared types.

    What is emitted waits until the listener returned and its transaction is committed; if
    either fails, nothing of it was ever there. The handle shows nothing of any queue, and ends
    with the run. `activity` names the run (its id as a command's id makes effects idempotent),
    `correlation` the chain of events to which it belongs.
    """

    __slots__ = ("__allowed", "__commit", "__outbox", "activity", "correlation")

    def __init__(
        self,
        activity: ActivityId,
        correlation: ActivityId,
        allowed: frozenset[type],
        outbox: list[object],
        commit: Callable[[], None] | None = None,
    ) -> None:
        """Be made by the engine only."""
        self.activity = activity
        self.correlation = correlation
        self.__allowed = allowed
        self.__outbox: list[object] | None = outbox
        self.__commit = commit

    def __call__(self, event: E_contra) -> None:
        """Emit one event.

        Raises UndeclaredEmit, EmitClosed after the run, EmissionsFull past 10,000 in one run.
        """
        outbox = self.__outbox
        if outbox is None:
            raise EmitClosed("the run is over: emit before the listener returns")
        kind = type(event)
        if kind not in self.__allowed and not self.__allowed.intersection(kind.__mro__[:-1]):
            declared = ", ".join(sorted(known.__name__ for known in self.__allowed)) or "nothing"
            raise UndeclaredEmit(f"{kind.__name__} was emitted, declared is {declared}")
        if len(outbox) >= EMISSIONS_LIMIT:
            raise EmissionsFull(f"one run emitted {EMISSIONS_LIMIT} events")
        outbox.append(event)

    def checkpoint(self) -> None:
        """Commit what this run did so far and release what it emitted, then go on.

        For long procedures that would else hold one transaction for too long; what was done up
        to here stays if the run fails later. A projection cannot: its transaction is another's.
        """
        if self.__commit is None or self.__outbox is None:
            raise EmitClosed("there is no transaction of this run's own to commit")
        self.__commit()

    def close(self) -> None:
        """End the handle; the engine does it when the run is over."""
        self.__outbox = None


class Listener(Protocol[E_contra]):
    """Whatever can be called with an event and an emit-only handle; never awaits, never sleeps.

    Contravariant: who listens to a base class hears every event below it.
    """

    def __call__(self, event: E_contra, emit: Emit[Any], /) -> None:
        """Hear one event."""


class ListenerKind(StrEnum):
    """When a listener runs."""

    PROJECTION = "projection"  # in the transaction of what it observes, first
    POLICY = "policy"  # afterwards, in a transaction of its own, again if it fails


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """One line of the registry, as data: who hears what and may emit what."""

    name: str
    kind: ListenerKind
    order: int
    hears: tuple[type, ...]
    emits: tuple[type, ...]
    persistent: bool
    in_transaction: bool


@dataclass(frozen=True, slots=True)
class Signature:
    """What the annotations of a listener say."""

    hears: tuple[type, ...]
    emits: tuple[type, ...]


def read_signature(listener: object, *, hears: object = None, emits: object = None) -> Signature:
    """Learn which events a listener hears and emits; `hears` and `emits` override annotations.

    Unions stand for each of their members; `object` for every event. A second parameter
    without annotation emits nothing. Raises BadListener for a class object, a coroutine or
    generator function, other than two positional parameters, a missing annotation, one that
    cannot be resolved, or one that is no class.
    """
    name = listener_name(listener)
    _refuse_what_cannot_listen(listener, name)
    event, emit = _two_parameters(listener, name)
    if hears is None:
        if event.annotation is inspect.Parameter.empty:
            raise BadListener(
                f"{name}: its first parameter `{event.name}` has no annotation",
                f"write `{event.name}: SomeEvent`, or subscribe(listener, hears=SomeEvent)",
            )
        hears = _resolve(listener, event, name, option="hears")
    if emits is None and emit.annotation is not inspect.Parameter.empty:
        emits = _emitted(_resolve(listener, emit, name, option="emits"), name)
    elif emits is None:
        emits = ()
    return Signature(_classes(hears, name, "hears"), _classes(emits, name, "emits"))


def listener_name(listener: object) -> str:
    """Name a listener by its module and qualified name, the same in every run."""
    while isinstance(listener, functools.partial):
        listener = listener.func
    if isinstance(listener, types.MethodType):
        owner = (
            listener.__self__ if isinstance(listener.__self__, type) else type(listener.__self__)
        )
        return f"{owner.__module__}.{owner.__qualname__}.{listener.__name__}"
    named = listener if hasattr(listener, "__qualname__") else type(listener)
    return f"{named.__module__}.{named.__qualname__}"


def _refuse_what_cannot_listen(listener: object, name: str) -> None:
    if isinstance(listener, type):
        raise BadListener(
            f"{name} is a class, not a listener", f"subscribe an instance: {listener.__name__}(...)"
        )
    if not callable(listener):
        raise BadListener(f"{name} cannot be called", "subscribe a function or a callable instance")
    function = _function_of(listener)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise BadListener(
            f"{name} is asynchronous, the engine is not",
            "hand the work to the loop from a plain function",
        )
    if inspect.isgeneratorfunction(function):
        raise BadListener(f"{name} is a generator", "emit through the handle, do not yield")


def _two_parameters(listener: object, name: str) -> tuple[inspect.Parameter, inspect.Parameter]:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    assert callable(listener)
    parameters = list(inspect.signature(listener).parameters.values())
    taken = [one for one in parameters if one.kind in positional]
    needed = [one for one in parameters if one not in taken[:2] and _has_to_be_given(one)]
    if len(taken) < 2 or needed:  # noqa: PLR2004 - event and emit
        raise BadListener(
            f"{name} cannot be called with an event and an emit handle",
            "a listener is `def hear(event: SomeEvent, emit: Emit[SomeOther]) -> None`",
        )
    return taken[0], taken[1]


def _has_to_be_given(parameter: inspect.Parameter) -> bool:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is inspect.Parameter.empty and parameter.kind not in variadic


def _function_of(listener: object) -> Any:
    while isinstance(listener, functools.partial):
        listener = listener.func
    if isinstance(listener, types.MethodType):
        return listener.__func__
    if isinstance(listener, types.FunctionType):
        return inspect.unwrap(listener)
    return getattr(type(listener), "__call__")  # noqa: B004, B009 - the method, not whether


def _resolve(listener: object, parameter: inspect.Parameter, name: str, *, option: str) -> object:
    function = _function_of(listener)
    holder = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        hints = typing.get_type_hints(holder, getattr(function, "__globals__", {}), {})
    except (NameError, AttributeError, SyntaxError, TypeError) as cause:
        raise BadListener(
            f"{name}: the annotation {parameter.annotation!r} of `{parameter.name}` "
            f"cannot be resolved: {cause}",
            "import its type at the top of the module, outside `if TYPE_CHECKING`, "
            f"or subscribe(listener, {option}=SomeEvent)",
        ) from cause
    return hints[parameter.name]


def _emitted(annotation: object, name: str) -> object:
    if annotation is Emit:
        return ()
    if typing.get_origin(annotation) is Emit:
        return typing.get_args(annotation)[0]
    raise BadListener(
        f"{name}: its second parameter is annotated {annotation!r}",
        "write `emit: Emit[SomeEvent]`, or `emit: Emit[Never]` for none",
    )


def _classes(annotation: object, name: str, verb: str) -> tuple[type, ...]:
    if annotation is Never or annotation == ():
        return ()
    if isinstance(annotation, tuple):
        return tuple(one for member in annotation for one in _classes(member, name, verb))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return _classes(typing.get_args(annotation), name, verb)
    # list[int] and its kind pass for a type, but nothing is an instance of them.
    is_class = isinstance(annotation, type) and typing.get_origin(annotation) is None
    if is_class and annotation not in (Any, type(None)):
        assert isinstance(annotation, type)
        return (annotation,)
    raise BadListener(
        f"{name} {verb} {annotation!r}, which is no class of events",
        "name one class, a union of classes, or `object` for every event",
    )
