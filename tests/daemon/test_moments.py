from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from daemon.moments import is_hash, parse_moment

NOW = datetime(2026, 11, 23, 15, 30, 0, tzinfo=UTC).timestamp()


@pytest.fixture(autouse=True)
def _in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("now", "2026-11-23T15:30:00+00:00"),
        ("2 hours ago", "2026-11-23T13:30:00+00:00"),
        ("an hour ago", "2026-11-23T14:30:00+00:00"),
        ("90s ago", "2026-11-23T15:28:30+00:00"),
        ("3 weeks ago", "2026-11-02T15:30:00+00:00"),
        ("yesterday", "2026-11-22T22:59:59.999999+00:00"),
        ("yesterday 14:00", "2026-11-22T13:00:00+00:00"),
        ("today", "2026-11-23T15:30:00+00:00"),
        ("today 9:05", "2026-11-23T08:05:00+00:00"),
        ("14:00", "2026-11-23T13:00:00+00:00"),
        ("23:00", "2026-11-22T22:00:00+00:00"),
        ("2026-11-20", "2026-11-20T22:59:59.999999+00:00"),
        ("2026-11-23", "2026-11-23T15:30:00+00:00"),
        ("2026-11-20 14:00", "2026-11-20T13:00:00+00:00"),
        ("2026-07-01 14:00", "2026-07-01T12:00:00+00:00"),
        ("2026-11-20T14:00:00Z", "2026-11-20T14:00:00+00:00"),
        ("2026-11-20T14:00:00.250+05:00", "2026-11-20T09:00:00.250000+00:00"),
    ],
)
def test_a_moment_is_read_as_people_write_it_where_they_sit(text: str, utc: str) -> None:
    found = datetime.fromtimestamp(parse_moment(text, NOW), UTC)

    assert found == datetime.fromisoformat(utc)


@pytest.mark.parametrize(
    "text", ["", "soon", "next week", "ago", "25:00", "2026-13-01", "-3 hours ago", "yesterday x"]
)
def test_what_is_no_moment_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="2 hours ago"):
        parse_moment(text, NOW)


def test_a_hash_is_four_hex_digits_or_more_and_nothing_else() -> None:
    assert is_hash("3fa1")
    assert is_hash("AF" * 32)
    assert not is_hash("3fa")
    assert not is_hash("14:00")
    assert not is_hash("a" * 65)
