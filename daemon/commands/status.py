"""The commands status and wait: how everything is, and when it is in sync."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from daemon import client
from daemon.commands.options import add_json, add_name, describe, seconds_or_zero
from daemon.route import NoRequest
from daemon.status import NodeStatus, Problem, Status, render, to_json
from daemon.status_routes import STATUS, WAIT, WaitRequest
from store.errors import EXIT_NOT_RUNNING, EXIT_PROBLEM, DizzyError, NotRunning

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.cli import Console

STATUS_PATIENCE_S = 1.0
STATUS_TIMEOUT_S = 20.0  # a daemon that says nothing for so long is stuck
WATCH_INTERVAL_S = 1.0


def define_status(parser: ArgumentParser) -> None:
    """Define `dizzyd status`."""
    describe(
        parser,
        "Show how everything is. Exit code 0: running and healthy; 3: not running; 4: running, "
        "and something is wrong.",
        "dizzyd status",
        "dizzyd status --json",
        "dizzyd status --watch",
    )
    add_json(parser)
    parser.add_argument(
        "--watch", action="store_true", help="show it anew each second until Ctrl-C"
    )


def run_status(arguments: Namespace, console: Console) -> int:
    """Print the status once, or again and again."""
    status = _ask(console)
    while arguments.watch:
        _show(status, console, is_json=arguments.json, is_watching=True)
        time.sleep(WATCH_INTERVAL_S)  # a command: there is no loop that it could hold up
        status = _ask(console)
    _show(status, console, is_json=arguments.json, is_watching=False)
    if status.node.pid is None:
        return EXIT_NOT_RUNNING
    return 0 if status.is_healthy else EXIT_PROBLEM


def _ask(console: Console) -> Status:
    try:
        connection = client.connect(
            console.home, patience_s=STATUS_PATIENCE_S, timeout_s=STATUS_TIMEOUT_S
        )
    except NotRunning as reason:
        return _stopped_status(console, reason)
    return client.ask(connection, STATUS, NoRequest())


def _stopped_status(console: Console, reason: NotRunning) -> Status:
    """Ask the stopped node; where it cannot answer, say so instead of failing."""
    from daemon import reach

    problem = Problem(problem="dizzyd is not running", hint=reason.hint)
    if console.home.exists and not console.home.is_locked():
        try:
            return reach.ask(console.home, STATUS, NoRequest())
        except DizzyError as error:
            problem = Problem(problem=str(error), hint=error.hint)
    elif console.home.is_locked():
        problem = Problem(problem=str(reason), hint=reason.hint)
    else:
        problem = Problem(problem="there is no node here", hint="`dizzyd run` makes one")
    import daemon

    node = NodeStatus(
        name="dizzyd",
        agent="",
        version=daemon.__version__,
        pid=None,
        home=str(console.home.state),
        problems=(problem,),
    )
    return Status(node=node, folders=(), peers=(), rejected={})


def _show(status: Status, console: Console, *, is_json: bool, is_watching: bool) -> None:
    if is_json:
        indent = None if is_watching else 1
        console.out.write(json.dumps(to_json(status), indent=indent) + "\n")
        return
    text = render(status, console.out, now=datetime.now(UTC), user_home=console.user_home)
    if is_watching and console.out.is_interactive:
        text = f"\x1b[H\x1b[2J{text}"
    elif is_watching:
        text += "\n"
    console.out.write(text)


def define_wait(parser: ArgumentParser) -> None:
    """Define `dizzyd wait`."""
    describe(
        parser,
        "Return when in sync with every connected peer; with none connected, wait for one. Exit "
        "code 75 at the timeout.",
        "dizzyd wait photos --timeout 300",
    )
    add_name(parser, is_optional=True)
    parser.add_argument(
        "--timeout",
        metavar="60",
        type=seconds_or_zero,
        default=60.0,
        help="how long to wait, in seconds or as 5m, 1h (default: 60)",
    )


def run_wait(arguments: Namespace, console: Console) -> int:
    """Wait for one folder or for all."""
    from daemon import reach

    request = WaitRequest(name=arguments.name, timeout_s=arguments.timeout)
    reach.ask(console.home, WAIT, request)
    return 0
