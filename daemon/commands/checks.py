"""The commands verify, repair and rebuild: prove that what is kept is what was recorded."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from daemon import reach, routes
from daemon.answers import FoldersRequest
from daemon.commands.options import add_json, add_name, describe, print_json
from daemon.terminal import Progress, counted, escape, one_line, table
from store.errors import EXIT_FAILED, DizzyError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.answers import VerifyLine
    from daemon.cli import Console

_PREFIX = {"pending": "pending: ", "repaired": "repaired: ", "waiting": "waiting: "}


def define_verify(parser: ArgumentParser) -> None:
    """Define `dizzyd verify`."""
    describe(
        parser,
        "Read everything back: log, signatures, state, versions on disk and in history. Findings "
        "on stdout, a summary on stderr; exit code 0 only when all is well.",
        "dizzyd verify photos",
    )
    add_name(parser, is_optional=True)


def run_verify(arguments: Namespace, console: Console) -> int:
    """Verify; fails unless a summary without findings came."""
    progress = Progress(console.err, "verify", time.monotonic)
    summary: VerifyLine | None = None
    findings = 0
    is_first = True
    for line in reach.follow(console.home, routes.VERIFY, FoldersRequest(name=arguments.name)):
        if line.kind == "progress":
            if is_first:
                progress.go_on_from(line.done_bytes)
                is_first = False
            progress.show(line.done_bytes, line.total_bytes)
            continue
        progress.end()
        if line.kind == "summary":
            summary = line
            continue
        findings += line.kind == "finding"
        console.out.write(f"{_PREFIX.get(line.kind, '')}{one_line(line.text)}\n")
    progress.end()
    if summary is None:
        raise DizzyError("verify", "ended before it was done")
    damage = max(findings, summary.findings)
    text = one_line(summary.text) or (counted(damage, "finding") if damage else "all is well")
    console.err.write(f"{text}\n")
    return EXIT_FAILED if damage else 0


def define_repair(parser: ArgumentParser) -> None:
    """Define `dizzyd repair`."""
    describe(
        parser,
        "Heal what verify finds, from peers, disk and log. What is damaged is kept in history. "
        "Exit code 75 where no connected peer has what is missing.",
        "dizzyd repair photos",
    )
    add_name(parser, is_optional=True)


def run_repair(arguments: Namespace, console: Console) -> int:
    """Verify and heal; the summary says how it ended."""
    progress = Progress(console.err, "repair", time.monotonic)
    summary: VerifyLine | None = None
    for line in reach.follow(console.home, routes.REPAIR, FoldersRequest(name=arguments.name)):
        if line.kind == "progress":
            progress.show(line.done_bytes, line.total_bytes)
            continue
        progress.end()
        if line.kind == "summary":
            summary = line
            continue
        console.out.write(f"{_PREFIX.get(line.kind, '')}{one_line(line.text)}\n")
    progress.end()
    if summary is None:
        raise DizzyError("repair", "ended before it was done")
    console.err.write(f"{one_line(summary.text)}\n")
    return summary.exit_code


def define_rebuild(parser: ArgumentParser) -> None:
    """Define `dizzyd rebuild`."""
    describe(
        parser,
        "Fold the state anew from the log. The state root must come out the same.",
        "dizzyd rebuild photos",
    )
    add_name(parser, is_optional=True)
    add_json(parser)


def run_rebuild(arguments: Namespace, console: Console) -> int:
    """Rebuild one folder or all."""
    rebuilt = reach.ask(console.home, routes.REBUILD, FoldersRequest(name=arguments.name))
    if arguments.json:
        print_json(console.out, rebuilt)
        return 0
    rows = [
        (escape(folder.name), counted(folder.events, "event"), folder.state_root)
        for folder in rebuilt
    ]
    console.out.write(table(rows))
    return 0
