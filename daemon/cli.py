"""Read the command line, run one command, and end with its exit code.

Each command lies in daemon/commands and is imported only when it is asked for. An error is one
line on stderr and at most one hint, never a traceback (--debug shows it).
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TextIO

import daemon
from store.errors import EXIT_FAILED, EXIT_USAGE, DizzyError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.home import Home
    from daemon.terminal import Terminal

EXIT_INTERRUPTED = 128 + signal.SIGINT


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """Where a command lies and what it does, in a line for the list of commands."""

    module: str
    summary: str


COMMANDS: Final = {
    "init": Command(module="node", summary="make the agent key and config.toml"),
    "run": Command(module="node", summary="run the daemon in the foreground"),
    "share": Command(module="folders", summary="share a folder"),
    "invite": Command(module="membership", summary="make an invite for one peer"),
    "join": Command(module="membership", summary="join a folder by an invite"),
    "leave": Command(module="folders", summary="stop here, others go on"),
    "unshare": Command(module="folders", summary="end a folder of your own for all"),
    "status": Command(module="status", summary="show how everything is"),
    "id": Command(module="node", summary="show the own agent id"),
    "peers": Command(module="membership", summary="show members and connections"),
    "verify": Command(module="checks", summary="read everything back and check it"),
    "repair": Command(module="checks", summary="heal what verify finds"),
    "rebuild": Command(module="checks", summary="fold state anew from the log"),
    "scan": Command(module="folders", summary="look at the disk now"),
    "wait": Command(module="status", summary="return when in sync"),
    "cat": Command(module="cat", summary="print one content"),
    "history": Command(module="history", summary="list the versions of a file or directory"),
    "restore": Command(module="history", summary="bring an earlier version back"),
    "confirm": Command(module="folders", summary="let held deletions go on"),
    "undo-deletions": Command(module="folders", summary="put deleted files back"),
    "revert": Command(module="folders", summary="give up local changes of a reader"),
    "service": Command(module="service", summary="install the systemd unit"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """Where a command runs: the home it is about, and what it may write to."""

    home: Home
    out: Terminal
    err: Terminal
    user_home: str

    def absolute(self, path: str) -> str:
        """Make a path as the user wrote it absolute; `..` and symlinks stay to be resolved."""
        if not path:
            raise UsageError("path", "is empty")
        try:
            return os.path.join(os.getcwd(), path)  # noqa: PTH109, PTH118 - "//" and ".." stay
        except FileNotFoundError as cause:
            raise DizzyError("working directory", "is gone", hint="cd to another one") from cause


class Parser(argparse.ArgumentParser):
    """An argument parser that fails as every other part of dizzyd does."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError instead of printing a usage block."""
        raise UsageError(
            self.prog.removeprefix("dizzyd ") or "dizzyd", message, hint=f"`{self.prog} --help`"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _replace_closed_streams()
    is_debug = "--debug" in arguments
    try:
        _refuse_other_package()
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except DizzyError as error:
        if is_debug:
            raise
        _say(error)
        return error.exit_code
    except Exception as cause:
        if is_debug:
            raise
        _say(_as_error(cause))
        return EXIT_FAILED
    finally:
        _end_output(sys.stdout)
        _end_output(sys.stderr)
    return code


def _run(arguments: list[str]) -> int:
    position = _command_position(arguments)
    options = _parse(_global_parser(), arguments[:position])
    if options is None:
        return 0
    if options.version:
        sys.stdout.write(f"dizzyd {daemon.__version__}\n")
        return 0
    if position == len(arguments):
        _global_parser().print_help(sys.stderr)
        return EXIT_USAGE
    name = arguments[position]
    if name not in COMMANDS:
        raise _unknown_command(name)
    gc.disable()  # an import makes no garbage, and looking for it is a tenth of its time
    module: Any = import_module(f"daemon.commands.{COMMANDS[name].module}")
    gc.enable()
    spelled = name.replace("-", "_")
    parser = _command_parser(name)
    getattr(module, f"define_{spelled}")(parser)
    parsed = _parse(parser, arguments[position + 1 :])
    if parsed is None:
        return 0
    config = getattr(parsed, "config", options.config)
    code: int = getattr(module, f"run_{spelled}")(parsed, _open_console(config))
    return code


def _parse(parser: Parser, arguments: list[str]) -> argparse.Namespace | None:
    """Parse, or print the help that was asked for and return None."""
    try:
        return parser.parse_args(arguments)
    except SystemExit:  # argparse's way to end after --help; errors raise UsageError
        return None


def _global_options(parser: argparse.ArgumentParser, default: Any) -> None:
    parser.add_argument(
        "--config", metavar="FILE", default=default, help="another config.toml than the home's"
    )
    parser.add_argument(
        "--debug", action="store_true", default=default, help="show the traceback of an error"
    )


def _global_parser() -> Parser:
    listed = "\n".join(f"  {name:<15} {command.summary}" for name, command in COMMANDS.items())
    parser = Parser(
        prog="dizzyd",
        usage="dizzyd [--config FILE] [--debug] COMMAND …",
        description="Keeps folders equal on several machines, peer to peer, and loses nothing.",
        epilog=(
            f"commands:\n{listed}\n\n"
            "`dizzyd COMMAND --help` shows each with an example.\n"
            "DIZZYD_HOME=DIR selects another node."
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _global_options(parser, None)
    parser.add_argument("--version", action="store_true", help="show the version")
    return parser


def _command_parser(name: str) -> Parser:
    parser = Parser(
        prog=f"dizzyd {name}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _global_options(parser, argparse.SUPPRESS)
    return parser


def _command_position(arguments: list[str]) -> int:
    """Find where the command stands: behind the global options."""
    index = 0
    while index < len(arguments) and arguments[index].startswith("-"):
        index += 2 if arguments[index] == "--config" else 1
    return min(index, len(arguments))


def _unknown_command(name: str) -> UsageError:
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean `dizzyd {near[0]}`?" if near else "`dizzyd --help` lists the commands"
    return UsageError(f"command {name}", "is not known", hint=hint)


def _open_console(config: str | None) -> Console:
    from daemon.home import find_home, user_directory
    from daemon.terminal import open_terminal

    environment = os.environ
    user_home = ""
    with suppress(UsageError):  # only needed to shorten paths; find_home says what is wrong
        user_home = user_directory(environment)

    def columns() -> int:
        import shutil

        return shutil.get_terminal_size().columns

    return Console(
        home=find_home(environment, config),
        out=open_terminal(sys.stdout, environment, columns),
        err=open_terminal(sys.stderr, environment, columns),
        user_home=user_home,
    )


def _refuse_other_package() -> None:
    """Refuse a package `daemon` that is not ours, or a mixture of the two."""
    if getattr(daemon, "IS_DIZZYD", False):
        return
    found = getattr(daemon, "__file__", None) or "an unknown place"
    raise DizzyError(
        "package `daemon`",
        f"another project's was imported, from {Path(found).parent}",
        hint="python-daemon has one too: install dizzyd in an environment of its own",
    )


def _say(error: DizzyError) -> None:
    from daemon.terminal import one_line

    text = f"dizzyd: {one_line(str(error))}\n"
    if error.hint:
        text += f"hint: {one_line(error.hint)}\n"
    with suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


def _as_error(cause: Exception) -> DizzyError:
    if isinstance(cause, OSError) and cause.strerror:
        where = cause.filename or "operating system"
        return DizzyError(os.fsdecode(where) if not isinstance(where, int) else "", cause.strerror)
    return DizzyError(
        "internal error",
        f"{type(cause).__name__}: {cause}",
        hint="please report it, with what --debug shows",
    )


def _replace_closed_streams() -> None:
    """Give closed standard streams (`>&-`) a place to write to, and let no name stop us."""
    null: TextIO
    if sys.stdout is None:
        null = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - until we end
        sys.stdout = null
    if sys.stderr is None:
        null = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        sys.stderr = null
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _end_output(stream: TextIO) -> None:
    """Write what is left; where that fails, let it go, so that the interpreter's end is quiet."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
