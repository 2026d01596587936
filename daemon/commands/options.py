"""Say what several commands share on the command line: examples, NAME, --json, durations."""

from __future__ import annotations

import json
import textwrap
from argparse import ArgumentTypeError
from typing import TYPE_CHECKING

from daemon.plain import to_plain

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from daemon.terminal import Terminal

_WIDTH = 78  # argparse leaves a description as it is, so that examples keep their lines
NAME_HELP = "a folder's name, or the beginning of its id"


def describe(parser: ArgumentParser, description: str, *examples: str) -> None:
    """Set what --help says: what the command does, and how it looks in use."""
    parser.description = textwrap.fill(description, _WIDTH)
    title = "example:" if len(examples) == 1 else "examples:"
    parser.epilog = title + "".join(f"\n  {example}" for example in examples)


def add_name(parser: ArgumentParser, *, is_optional: bool = False) -> None:
    """Add NAME."""
    parser.add_argument("name", metavar="NAME", nargs="?" if is_optional else None, help=NAME_HELP)


def add_json(parser: ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def print_json(terminal: Terminal, value: object) -> None:
    """Print a value as one JSON object, indented for whoever looks."""
    terminal.write(json.dumps(to_plain(value), indent=1) + "\n")


def seconds_or_zero(text: str) -> float:
    """Read a duration as `seconds` does, or 0."""
    return 0.0 if text == "0" else seconds(text)


def seconds(text: str) -> float:
    """Read a duration such as 60, 24h, 30m, 7d."""
    from daemon.durations import parse_duration

    try:
        return parse_duration(text)
    except ValueError as cause:
        raise ArgumentTypeError(f"expected {cause}") from cause
