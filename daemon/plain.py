"""Turn frozen dataclasses into JSON values and back, strictly.

Both ends of the control socket use it, so it imports nothing heavy: the command line must answer
at once.
"""

from __future__ import annotations

import types
import typing
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, Union, cast

T = TypeVar("T")


class NotPlain(ValueError):
    """A JSON value that is not what the type says; the text has the place and the type."""


def to_plain(value: object) -> Any:
    """Make a JSON value of a dataclass, however deep."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def from_plain(kind: type[T], value: object, *, is_open: bool = False) -> T:
    """Make a value of the type from a JSON value; raises NotPlain where it does not fit.

    Unknown keys are refused, but for `is_open`: an answer may have keys of a newer dizzyd.
    """
    return cast("T", _read(kind, value, "", is_open=is_open))


def _read(kind: Any, value: Any, place: str, *, is_open: bool) -> Any:
    if is_dataclass(kind):
        return _read_dataclass(kind, value, place, is_open=is_open)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_optional(arguments, value, place, is_open=is_open)
    if origin in (tuple, list) and isinstance(value, list):
        items = (
            _read(arguments[0], item, f"{place}[{index}]", is_open=is_open)
            for index, item in enumerate(value)
        )
        return origin(items)
    if origin is dict and isinstance(value, dict):
        return {
            key: _read(arguments[1], item, f"{place}.{key}", is_open=is_open)
            for key, item in value.items()
        }
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is kind or kind is Any:
        return value
    raise NotPlain(f"{place.lstrip('.') or 'the value'}: expected {_name(kind)}")


def _read_optional(arguments: tuple[Any, ...], value: Any, place: str, *, is_open: bool) -> Any:
    if value is None and type(None) in arguments:
        return None
    (kind,) = [argument for argument in arguments if argument is not type(None)]
    return _read(kind, value, place, is_open=is_open)


def _read_dataclass(kind: Any, value: Any, place: str, *, is_open: bool) -> Any:
    if not isinstance(value, dict):
        raise NotPlain(f"{place.lstrip('.') or 'the value'}: expected an object")
    hints = typing.get_type_hints(kind)
    known = {field.name for field in fields(kind)}
    unknown = sorted(set(value) - known)
    if unknown and not is_open:
        raise NotPlain(f"{place}.{unknown[0]}".lstrip(".") + ": unknown key")
    found = {
        key: _read(hints[key], value[key], f"{place}.{key}", is_open=is_open)
        for key in known & set(value)
    }
    try:
        return kind(**found)
    except TypeError as cause:
        missing = sorted(known - set(value))
        raise NotPlain(f"{place.lstrip('.') or 'the value'}: misses one of {missing}") from cause


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))
