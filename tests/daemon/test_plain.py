from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, fields

import pytest

from daemon.control import Operations
from daemon.plain import NotPlain, from_plain, to_plain
from daemon.routes import ROUTES
from daemon.status import Status, from_json, to_json
from tests.daemon.fake_node import healthy_status


@dataclass(frozen=True, kw_only=True)
class Inner:
    number: float


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: tuple[Inner, ...] = ()
    maybe: int | None = None
    counts: dict[str, int] | None = None


def test_values_come_back_through_json() -> None:
    value = Outer(name="a\udcff", inner=(Inner(number=1.5),), maybe=3, counts={"x": 1})

    assert from_plain(Outer, json.loads(json.dumps(to_plain(value)))) == value


@pytest.mark.parametrize(
    ("plain", "reason"),
    [
        ([], "the value: expected an object"),
        ({}, r"the value: misses one of \['counts'"),
        ({"name": 3}, "name: expected str"),
        ({"name": "x", "maybe": True}, "maybe: expected int"),
        ({"name": "x", "maybe": "1"}, "maybe: expected int"),
        ({"name": "x", "inner": [{"number": "1"}]}, r"inner\[0\].number: expected float"),
        ({"name": "x", "inner": {}}, "inner: expected"),
        ({"name": "x", "other": 1}, "other: unknown key"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(plain: object, reason: str) -> None:
    with pytest.raises(NotPlain, match=reason):
        from_plain(Outer, plain)


def test_answers_of_a_newer_node_may_have_more_keys() -> None:
    assert from_plain(Outer, {"name": "x", "new": 1}, is_open=True) == Outer(name="x")


def test_status_survives_its_json() -> None:
    status = healthy_status()

    assert from_json(json.loads(json.dumps(to_json(status)))) == status
    assert isinstance(from_json(to_json(status)), Status)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.operation)
def test_the_fields_of_a_request_are_the_parameters_of_its_operation(route: object) -> None:
    operation, asked = route.operation, route.asked  # type: ignore[attr-defined]
    parameters = list(inspect.signature(getattr(Operations, operation)).parameters)

    assert parameters[1:] == [field.name for field in fields(asked)]
