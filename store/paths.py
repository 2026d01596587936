"""Check and make names and paths: the one door for names that come from others.

Paths here are bytes, relative to a folder's root, with `/` between names; the empty path is the
root. This module reads no disk and knows nothing of what a given disk cannot hold: names compare
as exact bytes, and every byte but NUL and `/` is legal in one.
"""

from __future__ import annotations

import re
from typing import Final

from store.errors import UnsafePath
from store.ids import Name

NAME_LIMIT_BYTES: Final = 255
RESERVED_NAME: Final = Name(b".dizzyd")  # ours, at the root of every folder

_LABEL_LIMIT_BYTES = 24
_NO_LABEL = b"unnamed"
_NOT_IN_LABEL = re.compile(rb"[^A-Za-z0-9._-]+")
# What programs go by: a dot and at most 16 plain characters, with `.tar` before a compression.
# Anything longer or odder ("Mr. Smith", "v1.2 final") is part of the stem.
_EXTENSION = re.compile(rb"(?:\.[Tt][Aa][Rr])?\.[A-Za-z0-9_+-]{1,16}\Z")
_UTF8_MOST_CONTINUATIONS = 3

_DAY_MS = 86_400_000
_LAST_DAY = 2_932_896  # 9999-12-31 as days since 1970-01-01


def safe_name(name: bytes) -> Name:
    """Prove that these bytes are one name, which cannot lead out of its directory.

    Raises UnsafePath for the empty name, `.`, `..`, a slash, a NUL, or more than 255 bytes.
    """
    if not name or name in (b".", b".."):
        raise UnsafePath("name", f"{name!r} is not the name of anything")
    if len(name) > NAME_LIMIT_BYTES:
        raise UnsafePath("name", f"has {len(name)} bytes, at most {NAME_LIMIT_BYTES} are possible")
    if b"/" in name or b"\0" in name:
        raise UnsafePath("name", f"{name!r} has a slash or a NUL in it")
    return Name(name)


def is_reserved(parent_is_root: bool, name: bytes) -> bool:  # noqa: FBT001 - read as a sentence
    """Tell whether the name is our own `.dizzyd` at the root, which nobody may send."""
    return parent_is_root and name == RESERVED_NAME


def split_extension(name: bytes) -> tuple[bytes, bytes]:
    """Cut a name into stem and extension, so that the stem is never empty.

    `.bashrc` is all stem, `a.tar.gz` has `.tar.gz`, and what is longer than 16 characters or has
    others than letters, digits, `_`, `+` and `-` is no extension.
    """
    hidden = len(name) - len(name.lstrip(b"."))
    found = _EXTENSION.search(name, hidden + 1)  # one character of stem after leading dots
    if found is None:
        return name, b""
    return name[: found.start()], name[found.start() :]


def conflict_name(name: bytes, label: bytes, day: str, hex_digits: str) -> bytes:
    """Name the copy that lost its name: `stem (conflict LABEL DATE HEX).ext`.

    The label is reduced to `[A-Za-z0-9._-]` and 24 bytes. `day` is as `utc_day` gives it,
    `hex_digits` are leading digits of the event id, as many as the caller needs. Where 255
    bytes are exceeded the stem is cut between characters of UTF-8.
    """
    author = _NOT_IN_LABEL.sub(b"", label)[:_LABEL_LIMIT_BYTES] or _NO_LABEL
    mark = b" (conflict %b %b %b)" % (author, day.encode(), hex_digits.encode())
    stem, extension = split_extension(name)
    # 12 fixed + 24 label + 1 + 10 day + 1 + 64 hex + 21 extension = 133: at least 122 for the stem
    room = NAME_LIMIT_BYTES - len(mark) - len(extension)
    return _cut_utf8(stem, room) + mark + extension


def utc_day(wall_ms: int) -> str:
    """Give the UTC day as YYYY-MM-DD; times before 1970 or after 9999 stop at those ends.

    Written out because a peer's clock may say anything and every node must read it alike.
    """
    days = min(max(0, wall_ms // _DAY_MS), _LAST_DAY)
    # Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
    shifted = days + 719_468
    era, day_of_era = divmod(shifted, 146_097)
    year_of_era = (
        day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096
    ) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_index = (5 * day_of_year + 2) // 153  # from March
    day = day_of_year - (153 * month_index + 2) // 5 + 1
    month = month_index + 3 if month_index < 10 else month_index - 9  # noqa: PLR2004
    year = year_of_era + era * 400 + (month <= 2)  # noqa: PLR2004
    return f"{year:04d}-{month:02d}-{day:02d}"


def _cut_utf8(text: bytes, limit: int) -> bytes:
    if len(text) <= limit:
        return text
    # Step back over continuation bytes, but no further than a character has: what is not UTF-8
    # is cut where it is.
    for cut in range(limit, max(0, limit - _UTF8_MOST_CONTINUATIONS) - 1, -1):
        if text[cut] & 0xC0 != 0x80:  # noqa: PLR2004 - 10xxxxxx goes on with a character
            return text[:cut]
    return text[:limit]
