"""Write for a person on a terminal, and plainly for a pipe.

Everything that comes from files or peers passes `escape` before it is shown. Nothing here reads
a clock or asks the system: streams, environment and times come in.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_STYLES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86400
_PLAIN = re.compile(r"[ -\[\]-~]*")  # ASCII that prints as itself; the backslash is escaped
_LETTERS: Final = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\"}
_BYTE_BASE: Final = 0xDC00  # surrogateescape: the byte 0xNN is U+DCNN


def escape(text: str | bytes) -> str:
    r"""Make a foreign text harmless on a terminal, in a log or on a page.

    Control and format characters (escape sequences, bidirectional overrides), line breaks and
    bytes that are no UTF-8 become `\n`, `\x1b`, `\u202e`, `\xff`; a backslash is doubled, so that
    two names never look alike. What is left is printable and stands on one line.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if _PLAIN.fullmatch(text):
        return text
    return "".join(map(_escape_letter, text))


def _escape_letter(letter: str) -> str:
    known = _LETTERS.get(letter)
    if known is not None:
        return known
    number = ord(letter)
    if 0xDC80 <= number <= 0xDCFF:  # noqa: PLR2004 - surrogateescape's range
        return f"\\x{number - _BYTE_BASE:02x}"
    if letter.isprintable() and unicodedata.category(letter) != "Co":
        return letter
    if number <= 0xFF:  # noqa: PLR2004 - fits in two hex digits
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"  # noqa: PLR2004


def one_line(text: str) -> str:
    """Make a whole sentence harmless that may hold names which are escaped already.

    As `escape`, but a backslash stays as it is.
    """
    return "".join(letter if letter == "\\" else _escape_letter(letter) for letter in text)


def width(text: str) -> int:
    """Count the columns that an escaped text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF"
        else 1
        for letter in text
    )  # fmt: skip


def pad(text: str, columns: int) -> str:
    """Fill a text with spaces up to a number of columns."""
    return text + " " * max(0, columns - width(text))


def table(rows: Sequence[Sequence[str]], *, gap: int = 3) -> str:
    """Lay out rows in columns; the last column is not filled up."""
    columns = max((len(row) for row in rows), default=0)
    widths = [
        max((width(row[index]) for row in rows if index < len(row)), default=0)
        for index in range(columns)
    ]
    lines = [
        (" " * gap).join(pad(cell, widths[index]) for index, cell in enumerate(row)).rstrip()
        for row in rows
    ]
    return "".join(f"{line}\n" for line in lines)


def count(number: int) -> str:
    """Show `1,204`."""
    return f"{number:,}"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Show `1 file`, `1,204 files`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def size(number: float) -> str:
    """Show a number of bytes as `812 bytes`, `1.2 GiB`, `700 MiB`."""
    if number < 1024:  # noqa: PLR2004 - a KiB
        return counted(int(number), "byte")
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        number /= 1024
        if round(number) < 1000 or unit == "PiB":  # noqa: PLR2004 - at most three digits
            break
    return f"{number:.1f} {unit}" if round(number, 1) < 10 else f"{number:,.0f} {unit}"  # noqa: PLR2004


def rate(bytes_per_s: float) -> str:
    """Show `31 MiB/s`."""
    return f"{size(bytes_per_s)}/s"


def duration(seconds: float) -> str:
    """Show `40 s`, `5 min`, `2 hours`, `3 days`: one unit, cut, not rounded up."""
    if seconds < _MINUTE_S:
        return f"{max(0, int(seconds))} s"
    if seconds < _HOUR_S:
        return f"{int(seconds // _MINUTE_S)} min"
    if seconds < _DAY_S:
        return counted(int(seconds // _HOUR_S), "hour")
    return counted(int(seconds // _DAY_S), "day")


def milliseconds(value: float) -> str:
    """Show `0.4 ms`, `38 ms`."""
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"  # noqa: PLR2004 - two digits


def ago(rfc3339: str | None, now: datetime) -> str:
    """Show a time of the API as `3 hours ago`; an absent one as `never`."""
    if rfc3339 is None:
        return "never"
    try:
        seconds = (now - parse_time(rfc3339)).total_seconds()
    except ValueError:
        return escape(rfc3339)
    return "just now" if seconds < 1 else f"{duration(seconds)} ago"


def parse_time(rfc3339: str) -> datetime:
    """Read a time of the API."""
    moment = datetime.fromisoformat(rfc3339)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def format_time(wall_ns: int) -> str:
    """Write a wall clock for machines: RFC 3339, UTC, milliseconds.

    A clock outside the years 1 to 9999 is shown at the nearer end: it orders nothing.
    """
    first, last = -62135596800, 253402300799
    seconds = min(max(wall_ns // 10**9, first), last)
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{wall_ns % 10**9 // 10**6:03d}Z".rjust(24, "0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """Where a command writes, and what that place can show."""

    stream: TextIO
    is_interactive: bool = False
    has_colour: bool = False
    columns: int = 80

    def style(self, text: str, *styles: str) -> str:
        """Colour a text where colour is shown."""
        if not self.has_colour or not text:
            return text
        codes = ";".join(_STYLES[style] for style in styles)
        return f"\x1b[{codes}m{text}\x1b[0m"

    def write(self, text: str) -> None:
        """Write and flush; what the stream's encoding cannot hold (LANG=C) is escaped."""
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            text = text.encode(encoding, "backslashreplace").decode(encoding)
        self.stream.write(text)
        self.stream.flush()


def open_terminal(
    stream: TextIO, environment: Mapping[str, str], columns: Callable[[], int]
) -> Terminal:
    """Find out what a stream can show; NO_COLOR and TERM=dumb switch colour off."""
    try:
        is_interactive = stream.isatty()
    except ValueError:  # closed
        is_interactive = False
    is_plain = bool(environment.get("NO_COLOR")) or environment.get("TERM") == "dumb"
    return Terminal(
        stream=stream,
        is_interactive=is_interactive,
        has_colour=is_interactive and not is_plain,
        columns=columns() if is_interactive else 80,
    )


class Progress:
    """One line on a terminal that shows how far something is; silent in a pipe.

    `now_s` is a monotonic clock. Nothing appears in the first second, and at most ten times a
    second after that.
    """

    def __init__(
        self,
        terminal: Terminal,
        what: str,
        now_s: Callable[[], float],
        line: Callable[[str, int, int, float, int], str] | None = None,
    ) -> None:
        """Begin at this moment; `line` words it where it is not about bytes."""
        self._first = 0
        self._line = line or progress_line
        self._terminal = terminal
        self._what = what
        self._now_s = now_s
        self._began_s = now_s()
        self._shown_s = self._began_s + 0.9
        self._is_shown = False

    def go_on_from(self, done: int) -> None:
        """Say that so much was finished before this began, and tells nothing of its speed."""
        self._first = done

    def show(self, done: int, total: int) -> None:
        """Say that `done` of `total` are finished."""
        now = self._now_s()
        if not self._terminal.is_interactive or now - self._shown_s < 0.1:  # noqa: PLR2004
            return
        self._shown_s, self._is_shown = now, True
        line = self._line(self._what, done, total, now - self._began_s, self._first)
        self._terminal.write(f"\r\x1b[K{line[: self._terminal.columns - 1]}")

    def end(self) -> None:
        """Remove the line."""
        if self._is_shown:
            self._terminal.write("\r\x1b[K")
            self._is_shown = False


def progress_line(what: str, done: int, total: int, elapsed_s: float, first: int = 0) -> str:
    """Show `verify: 1.2 GiB of 4.0 GiB, 310 MiB/s, 9 s left`; `first` was done before."""
    speed = (done - first) / elapsed_s if elapsed_s > 0 else 0.0
    parts = [f"{what}: {size(done)} of {size(total)}" if total else f"{what}: {size(done)}"]
    if speed >= 1:
        parts.append(rate(speed))
        if total > done:
            parts.append(f"{duration((total - done) / speed)} left")
    return ", ".join(parts)


def count_line(what: str, done: int, total: int, elapsed_s: float, first: int = 0) -> str:
    """Show `reading the log: 1,204 of 40,000, 9 s left`."""
    text = f"{what}: {count(done)} of {count(total)}"
    if done <= first or elapsed_s <= 0:
        return text
    return f"{text}, {duration((total - done) * elapsed_s / (done - first))} left"
