"""The commands init, run and id: make a node, run it, say who it is."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from daemon.commands.options import add_json, describe, print_json
from daemon.terminal import escape
from store.errors import DizzyError, UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.cli import Console


def define_init(parser: ArgumentParser) -> None:
    """Define `dizzyd init`."""
    describe(
        parser,
        "Make the agent key and config.toml. Changes nothing where both exist.",
        "dizzyd init --name laptop",
    )
    parser.add_argument("--name", help="the node's name, shown to peers (default: the host name)")
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        type=_listen_address,
        help="where to listen (default: port 7499 or the next free one)",
    )


def run_init(arguments: Namespace, console: Console) -> int:
    """Make the node; stdout is the agent id."""
    from daemon.setup import make_node

    if arguments.name is not None:
        _check_node_name(arguments.name)
    console.home.prepare()
    with console.home.locked():
        made = make_node(console.home, name=arguments.name, listen=arguments.listen)
    if not made.is_new:
        raise DizzyError(
            f"home {console.home.state}",
            "there is a node here already, and nothing was changed",
            hint="`dizzyd id` shows it; DIZZYD_HOME=DIR makes another",
        )
    console.out.write(f"{made.agent.hex()}\n")
    console.err.write(f"made {escape(str(console.home.state))}; next: `dizzyd run`\n")
    return 0


def define_run(parser: ArgumentParser) -> None:
    """Define `dizzyd run`."""
    describe(
        parser,
        "Run the daemon in the foreground. On a fresh home it does what `init` does first. "
        "SIGTERM ends it cleanly, SIGHUP reloads the configuration.",
        "dizzyd run",
        "dizzyd run --first-folder ~/Dizzy",
    )
    parser.add_argument(
        "--first-folder",
        metavar="PATH",
        help="share PATH (made if missing) where no folder is shared yet",
    )


def run_run(arguments: Namespace, console: Console) -> int:
    """Own the home, complete it, and be its daemon until it ends."""
    first_folder = arguments.first_folder
    if first_folder is not None:
        first_folder = console.absolute(first_folder)
    console.home.prepare()
    # Locked before anything heavy is imported: a second run is refused at once.
    with console.home.locked():
        gc.disable()  # as in daemon.cli; app.run enables it
        from daemon import app
        from daemon.setup import make_node

        make_node(console.home, name=None, listen=None)
        return app.run(console.home, first_folder)


def define_id(parser: ArgumentParser) -> None:
    """Define `dizzyd id`."""
    describe(parser, "Show the own agent id.", "dizzyd id")
    add_json(parser)


def run_id(arguments: Namespace, console: Console) -> int:
    """Print the agent id, which needs no daemon: it is the key's public half."""
    from daemon.answers import Identity
    from daemon.config import read_config
    from daemon.key_file import read_key

    home = console.home
    if not home.exists:
        raise DizzyError(
            f"home {home.state}", "there is no node here", hint="`dizzyd init` makes one"
        )
    agent = read_key(home.key).agent.hex()
    if not arguments.json:
        console.out.write(f"{agent}\n")
        return 0
    name = read_config(home.config, state=home.state).node.name
    print_json(console.out, Identity(name=name, agent=agent))
    return 0


def _listen_address(text: str) -> str:
    from argparse import ArgumentTypeError

    from daemon.config import check_listen

    try:
        return check_listen(text)
    except ValueError as cause:
        raise ArgumentTypeError(f"expected {cause}") from cause


def _check_node_name(name: str) -> None:
    from daemon.config import check_name

    try:
        check_name(name)
    except ValueError as cause:
        raise UsageError("init: argument --name", f"expected {cause}") from cause
