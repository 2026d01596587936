"""The commands history and restore: what became of a path, and bringing it back."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from daemon import reach, routes
from daemon.answers import HistoryRequest, RestoreRequest
from daemon.commands.options import add_json, describe, print_json
from daemon.moments import EXPECTED, is_hash, parse_moment
from daemon.terminal import (
    Progress,
    ago,
    count_line,
    counted,
    escape,
    one_line,
    parse_time,
    size,
    table,
)
from store.errors import DizzyError, UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

    from daemon.answers import History, HistoryEvent, HistoryInside, HistoryObject, RestoreLine
    from daemon.cli import Console

_HASH_DIGITS = 12
_INSIDE_SHOWN = 30


def define_history(parser: ArgumentParser) -> None:
    """Define `dizzyd history`."""
    describe(
        parser,
        "List what became of a file or directory, through its renames: when, by whom, what, and "
        "where each version can be had. Also for what was deleted.",
        "dizzyd history ~/Photos/list.txt",
        "dizzyd history --json ~/Photos/list.txt",
    )
    parser.add_argument("path", metavar="PATH", help="a path in a shared folder, there or gone")
    add_json(parser)


def run_history(arguments: Namespace, console: Console) -> int:
    """Print the history of a path."""
    found = reach.ask(
        console.home, routes.HISTORY, HistoryRequest(path=_real(console.absolute(arguments.path)))
    )
    if arguments.json:
        print_json(console.out, found)
        return 0
    now = datetime.now(tz=UTC)
    if len(found.objects) > 1:
        console.out.write(f"{len(found.objects)} objects had this name\n\n")
    for index, one in enumerate(found.objects):
        console.out.write("\n" * bool(index) + _headline(one))
        if one.left_out:
            versions = counted(one.left_out, "earlier version")
            text = "from before the checkpoint with which the log here begins: ask another node"
            console.out.write(f"{versions} {text}\n")
        console.out.write(table([_row(event, now) for event in one.events]))
    if found.inside:
        console.out.write("\n" + _inside(found.inside, now))
    console.err.write(f"{_asked(found)}\n")
    return 0


def _headline(one: HistoryObject) -> str:
    where = escape(one.path)
    if one.is_here:
        return f"{one.kind} {where}\n"
    return f"{one.kind} {where}, {'there now' if one.is_alive else 'deleted'}\n"


def _row(event: HistoryEvent, now: datetime) -> tuple[str, ...]:
    what = event.what
    if event.source is not None and event.what == "moved":
        what = f"moved {escape(event.source)} → {escape(event.path)}"
    elif event.is_void:
        what = "deleted, undone by a move"
    if event.is_shown:
        what += ", shown now"
    digits = "" if event.hash is None else event.hash[:_HASH_DIGITS]
    return (
        _when(event.at, now),
        escape(event.name),
        digits,
        "" if event.size is None else size(event.size),
        _places(event),
        what,
    )


def _places(event: HistoryEvent) -> str:
    if event.hash is None:
        return ""
    return ", ".join(map(escape, event.places)) or "nowhere at hand"


def _when(at: str, now: datetime) -> str:
    try:
        local = parse_time(at).astimezone()
    except (ValueError, OverflowError):
        return escape(at)
    return f"{local:%Y-%m-%d %H:%M:%S} ({ago(at, now)})"


def _inside(batches: Sequence[HistoryInside], now: datetime) -> str:
    shown = batches[-_INSIDE_SHOWN:]
    rows = [
        (
            _when(batch.at, now),
            escape(batch.name),
            ", ".join(f"{number} {what}" for what, number in batch.counts.items()),
        )
        for batch in shown
    ]
    earlier = len(batches) - len(shown)
    more = f"… and {counted(earlier, 'earlier change')} (--json)\n" if earlier > 0 else ""
    return f"in it\n{more}{table(rows)}"


def _asked(found: History) -> str:
    if found.asked:
        return f"asked: {', '.join(map(escape, found.asked))}"
    return "what is known here; no peer was asked"


def define_restore(parser: ArgumentParser) -> None:
    """Define `dizzyd restore`."""
    describe(
        parser,
        "Bring back an earlier version of a file, or a directory as it was, as a new change. "
        "What is there now goes to history first; what came later in a directory stays. Without "
        "--at: the version before the present one, or what a deletion took away.",
        "dizzyd restore ~/Photos/list.txt",
        "dizzyd restore ~/Photos/list.txt --at 3fa1b2c3d4e5",
        "dizzyd restore ~/Photos --at '2 hours ago'",
        "dizzyd restore ~/Photos --at yesterday --to /tmp/photos-of-yesterday",
    )
    parser.add_argument("path", metavar="PATH", help="a path in a shared folder, there or gone")
    parser.add_argument("--at", metavar="TIME|HASH", help=f"{EXPECTED}; or a version's hash")
    parser.add_argument("--to", metavar="DEST", help="put it there, where nothing stands yet")


def run_restore(arguments: Namespace, console: Console) -> int:
    """Restore; says what is not to be had, and fails then."""
    at_ms, digits = _at(arguments.at)
    asked = RestoreRequest(
        path=_real(console.absolute(arguments.path)),
        at_ms=at_ms,
        digits=digits,
        to=None if arguments.to is None else _real(console.absolute(arguments.to)),
    )
    progress = Progress(console.err, "restore", time.monotonic)
    reading = Progress(console.err, "reading the log", time.monotonic, count_line)
    summary: RestoreLine | None = None
    for line in reach.follow(console.home, routes.RESTORE, asked):
        if line.kind == "log":
            reading.show(line.done, line.total)
            continue
        reading.end()
        if line.kind == "progress":
            progress.show(line.done, line.total)
            continue
        progress.end()
        if line.kind == "summary":
            summary = line
            continue
        console.out.write(f"{_KINDS.get(line.kind, line.kind)}: {one_line(line.text)}\n")
    if summary is None:
        raise DizzyError("restore", "ended before it was done")
    console.err.write(f"{one_line(summary.text)}\n")
    return summary.exit_code


_KINDS = {"left": "came later, left", "missing": "at no node at hand", "failed": "not restored"}


def _at(text: str | None) -> tuple[int | None, str | None]:
    """Read --at: Unix time in milliseconds, or the digits of a hash."""
    if text is None:
        return None, None
    if is_hash(text):
        return None, text.lower()
    try:
        return int(parse_moment(text, time.time()) * 1000), None
    except ValueError as cause:
        raise UsageError(f"--at {text}", f"expected {cause}, or a hash") from cause


def _real(path: str) -> str:
    """Resolve the symlinks above a name, but not the name: it may be one that is shared."""
    directory, name = os.path.split(os.path.normpath(path))
    return os.path.join(os.path.realpath(directory), name)  # noqa: PTH118 - a str
