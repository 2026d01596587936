"""The command service: install the systemd unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.commands.options import describe

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.cli import Console


def define_service(parser: ArgumentParser) -> None:
    """Define `dizzyd service`."""
    describe(
        parser,
        "Write and enable the systemd unit of this user (--user, the default), or that of the "
        "system (--system, as root by sudo: it runs as the user who called sudo).",
        "dizzyd service install",
        "sudo dizzyd service install --system",
    )
    parser.add_argument("action", metavar="install", choices=("install",), help="install")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--user", action="store_true", help="a unit of this user (default)")
    chosen.add_argument("--system", action="store_true", help="a unit of the system")


def run_service(arguments: Namespace, console: Console) -> int:
    """Install the unit and say what is left to do."""
    from daemon.service import install_system_unit, install_user_unit

    install = install_system_unit if arguments.system else install_user_unit
    for line in install():
        console.err.write(f"{line}\n")
    return 0
