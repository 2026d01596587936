"""Read sizes and durations as people write them."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {
    "": 1, "B": 1,
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "PiB": 1 << 50,
    "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
}  # fmt: skip
_NUMBER = r"(?P<number>\d{1,15}(?:\.\d{1,6})?)\s*"
_SIZE = re.compile(_NUMBER + r"(?P<unit>[A-Za-z]*)")
_LARGEST_SIZE = 2**62

_DURATION = re.compile(_NUMBER + r"(?P<unit>[a-z]*)")
_SECONDS: Final = {
    "": 1, "s": 1, "second": 1, "seconds": 1,
    "m": 60, "min": 60, "minute": 60, "minutes": 60,
    "h": 3600, "hour": 3600, "hours": 3600,
    "d": 86400, "day": 86400, "days": 86400,
    "w": 604800, "week": 604800, "weeks": 604800,
    "year": 31557600, "years": 31557600,
}  # fmt: skip
_LONGEST_S = 1000 * 31557600.0


def parse_size(text: str) -> int:
    """Read `10 MiB`; raises ValueError with what was expected."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match["unit"] not in _UNITS:
        raise ValueError('a size such as "50 GiB"')
    size = int(float(match["number"]) * _UNITS[match["unit"]])
    if size > _LARGEST_SIZE:
        raise ValueError("a size below 4 EiB")
    return size


def parse_duration(text: str) -> float:
    """Read `24h`, `30m`, `7d` or `180 days` as seconds; raises ValueError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or match["unit"] not in _SECONDS:
        raise ValueError('a duration such as "24h" or "180 days"')
    seconds = float(match["number"]) * _SECONDS[match["unit"]]
    if not 0 < seconds <= _LONGEST_S:
        raise ValueError("a duration above zero and below 1000 years")
    return seconds
