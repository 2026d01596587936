from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.terminal import (
    Progress,
    Terminal,
    ago,
    duration,
    escape,
    format_time,
    milliseconds,
    one_line,
    open_terminal,
    parse_time,
    progress_line,
    size,
    table,
    width,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain name.txt", "plain name.txt"),
        ("grün 日本", "grün 日本"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("abc\u202etxt.exe", "abc\\u202etxt.exe"),
        ("\u200bzero\u2028line\ufeff", "\\u200bzero\\u2028line\\ufeff"),
        ("\x85\x9b2J", "\\x85\\x9b2J"),
        ("back\\slash", "back\\\\slash"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_B4_names_are_shown_escaped(text: str | bytes, shown: str) -> None:
    assert escape(text) == shown


@given(st.text() | st.binary())
def test_B4_what_is_shown_is_one_printable_line(text: str | bytes) -> None:
    shown = escape(text)

    assert all(letter.isprintable() for letter in shown)
    assert shown.encode().decode() == shown


@given(st.binary(max_size=6), st.binary(max_size=6))
def test_B4_two_names_never_look_alike(one: bytes, other: bytes) -> None:
    assert (escape(one) == escape(other)) == (one == other)


def test_a_sentence_with_escaped_names_is_not_escaped_twice() -> None:
    assert one_line(f"file {escape('a' + chr(27))}\n") == "file a\\x1b\\n"


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1,023 bytes"),
        (1024, "1.0 KiB"),
        (734003200, "700 MiB"),
        (int(1.25 * 2**30), "1.2 GiB"),
        (1023 * 2**20, "1.0 GiB"),
        (2**60, "1,024 PiB"),
    ],
)
def test_sizes_are_shown_in_powers_of_1024(number: int, shown: str) -> None:
    assert size(number) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-1, "0 s"), (59.9, "59 s"), (60, "1 min"), (3600, "1 hour"), (7200, "2 hours"),
     (86399, "23 hours"), (3 * 86400, "3 days")],
)  # fmt: skip
def test_durations_are_shown_in_one_unit(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_times_are_relative_for_people_and_utc_for_machines() -> None:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)

    assert ago("2026-11-23T09:00:00Z", now) == "3 hours ago"
    assert ago("2026-11-23T12:00:30Z", now) == "just now"
    assert ago(None, now) == "never"
    assert ago("rubbish\x1b", now) == "rubbish\\x1b"
    assert format_time(1_500_000_000) == "1970-01-01T00:00:01.500Z"
    assert parse_time(format_time(1_500_000_000)) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
        seconds=1.5
    )
    assert format_time(-(10**30)).startswith("0001-01-01")
    assert format_time(10**30).startswith("9999-12-31")
    assert milliseconds(0.41) == "0.4 ms"
    assert milliseconds(38.4) == "38 ms"


def test_columns_are_aligned_by_what_a_terminal_shows() -> None:
    assert width("日本") == 4
    assert table([("日本", "x"), ("ab", "y")]) == "日本   x\nab     y\n"
    assert table([]) == ""


class _Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "has_colour"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_no_color_is_honoured(environment: dict[str, str], has_colour: bool) -> None:
    terminal = open_terminal(_Tty(), environment, lambda: 80)

    assert terminal.has_colour is has_colour
    assert (terminal.style("x", "red") == "\x1b[31mx\x1b[0m") is has_colour


def test_a_pipe_gets_no_colour_and_no_progress() -> None:
    pipe = io.StringIO()
    terminal = open_terminal(pipe, {}, lambda: 80)
    clock = iter(range(100))
    progress = Progress(terminal, "verify", lambda: float(next(clock)))

    progress.show(10, 100)
    progress.end()

    assert terminal.style("x", "red") == "x"
    assert pipe.getvalue() == ""


def test_progress_appears_after_a_second_with_rate_and_time_left() -> None:
    stream = _Tty()
    now = 0.0
    progress = Progress(Terminal(stream=stream, is_interactive=True), "verify", lambda: now)

    now = 0.5
    progress.show(1, 100)
    assert stream.getvalue() == ""
    now = 2.0
    progress.show(2 << 30, 4 << 30)
    assert stream.getvalue() == "\r\x1b[Kverify: 2.0 GiB of 4.0 GiB, 1.0 GiB/s, 2 s left"
    progress.end()
    assert stream.getvalue().endswith("\r\x1b[K")
    assert progress_line("x", 0, 0, 0.0) == "x: 0 bytes"


def test_progress_that_goes_on_counts_what_was_done_since() -> None:
    stream = _Tty()
    now = 0.0
    progress = Progress(Terminal(stream=stream, is_interactive=True), "verify", lambda: now)

    progress.go_on_from(1 << 30)
    now = 2.0
    progress.show(2 << 30, 4 << 30)

    assert stream.getvalue() == "\r\x1b[Kverify: 2.0 GiB of 4.0 GiB, 512 MiB/s, 4 s left"


def test_D11_what_the_encoding_cannot_hold_is_escaped() -> None:
    buffer = io.BytesIO()
    terminal = Terminal(stream=io.TextIOWrapper(buffer, encoding="ascii"))

    terminal.write("grün …\n")

    assert buffer.getvalue() == b"gr\\xfcn \\u2026\n"
