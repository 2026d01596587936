"""Read a moment as people write it: a date, a time, "2 hours ago", "yesterday".

The present time is handed in. What is written without a zone is meant where the user sits, by
the rules of that day's time there.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

from daemon.durations import parse_duration

EXPECTED: Final = (
    'a time such as "2026-11-20 14:00", "14:00", "2 hours ago", "yesterday" or RFC 3339'
)
_HASH: Final = re.compile(r"[0-9a-fA-F]{4,64}")
_AGO: Final = re.compile(r"(?P<much>.+?)\s+ago")
_CLOCK: Final = re.compile(r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}))?")
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_DAYS: Final = {"today": 0, "yesterday": 1}
_ONE: Final = {"a": "1", "an": "1", "one": "1"}


def is_hash(text: str) -> bool:
    """Whether the text is the beginning of a hash: 4 to 64 hex digits and nothing else."""
    return _HASH.fullmatch(text) is not None


def parse_moment(text: str, now_s: float) -> float:
    """Read a moment; both are Unix time in seconds. Raises ValueError with what was expected.

    A day without a time is its end: "yesterday" is how things were when that day was over. A
    time without a day is the last time that it was so late.
    """
    text = " ".join(text.split())
    if text == "now":
        return now_s
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return now_s - _seconds(ago["much"])
    now = datetime.fromtimestamp(now_s)  # noqa: DTZ006 - the user's own clock
    if _CLOCK.fullmatch(text):
        found = _clock(now, text)
        return (found if found <= now else found - timedelta(days=1)).timestamp()
    day, _, clock = text.partition(" ")
    if day in _DAYS:
        return min(now_s, _clock(now - timedelta(days=_DAYS[day]), clock).timestamp())
    try:
        written = datetime.fromisoformat(text)
        if _DAY.fullmatch(text):
            return min(now_s, _clock(written, "").timestamp())
        return written.timestamp()
    except (ValueError, OverflowError):
        raise ValueError(EXPECTED) from None


def _seconds(text: str) -> float:
    first, space, rest = text.partition(" ")
    try:
        return parse_duration(_ONE.get(first, first) + space + rest)
    except ValueError:
        raise ValueError(EXPECTED) from None


def _clock(day: datetime, text: str) -> datetime:
    """Give a time of a day; its end where no time is written."""
    if not text:
        return day.replace(hour=23, minute=59, second=59, microsecond=999_999)
    match = _CLOCK.fullmatch(text)
    try:
        if match is not None:
            return day.replace(
                hour=int(match["hour"]),
                minute=int(match["minute"]),
                second=int(match["second"] or 0),
                microsecond=0,
            )
    except ValueError:
        pass
    raise ValueError(EXPECTED)
