"""The commands about a folder as a whole, from share and leave to confirm and revert."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon import reach, routes
from daemon.answers import FolderRequest, FoldersRequest, ShareRequest
from daemon.commands.options import add_name, describe
from daemon.terminal import escape

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.cli import Console
    from daemon.route import Route


def define_share(parser: ArgumentParser) -> None:
    """Define `dizzyd share`."""
    describe(
        parser,
        "Share a folder. Prints the folder's id.",
        "dizzyd share ~/Photos",
        'dizzyd share /srv/music --name "our music"',
    )
    parser.add_argument("path", metavar="PATH", help="the directory to share")
    parser.add_argument("--name", help="what the folder is called (default: the directory's name)")


def run_share(arguments: Namespace, console: Console) -> int:
    """Share; stdout is the folder id."""
    request = ShareRequest(path=console.absolute(arguments.path), name=arguments.name)
    folder = reach.ask(console.home, routes.SHARE, request)
    console.out.write(f"{folder}\n")
    return 0


def define_leave(parser: ArgumentParser) -> None:
    """Define `dizzyd leave`."""
    describe(
        parser,
        "Stop synchronising a folder here; the others go on. Files, history and key stay, and "
        "joining the same path again goes on where it was. A folder that its owner ended is "
        "forgotten: no longer shown, and no member is told of it from here.",
        "dizzyd leave photos",
    )
    add_name(parser)


def run_leave(arguments: Namespace, console: Console) -> int:
    """Leave one folder."""
    return _order(console, routes.LEAVE, arguments.name, "left")


def define_unshare(parser: ArgumentParser) -> None:
    """Define `dizzyd unshare`."""
    describe(
        parser,
        "End a folder of your own for all its members; only its owner can. Everybody keeps the "
        "files and their history. Members who are away hear of it from this node or from another "
        "member; `dizzyd status` says who is still to be told.",
        "dizzyd unshare photos",
    )
    add_name(parser)


def run_unshare(arguments: Namespace, console: Console) -> int:
    """End one folder."""
    return _order(console, routes.UNSHARE, arguments.name, "ended for all:")


def define_scan(parser: ArgumentParser) -> None:
    """Define `dizzyd scan`."""
    describe(parser, "Look at the disk now, without waiting for the watcher.", "dizzyd scan photos")
    add_name(parser, is_optional=True)


def run_scan(arguments: Namespace, console: Console) -> int:
    """Scan one folder or all; returns when done."""
    reach.ask(console.home, routes.SCAN, FoldersRequest(name=arguments.name))
    return 0


def define_confirm(parser: ArgumentParser) -> None:
    """Define `dizzyd confirm`."""
    describe(
        parser,
        "Let deletions go on that are held because so many files were missing at once, and "
        "share files that are held because they went back to older versions.",
        "dizzyd confirm photos",
    )
    add_name(parser)


def run_confirm(arguments: Namespace, console: Console) -> int:
    """Confirm held deletions."""
    return _order(console, routes.CONFIRM, arguments.name, "confirmed what was held in")


def define_undo_deletions(parser: ArgumentParser) -> None:
    """Define `dizzyd undo-deletions`."""
    describe(parser, "Put the files of held deletions back.", "dizzyd undo-deletions photos")
    add_name(parser)


def run_undo_deletions(arguments: Namespace, console: Console) -> int:
    """Undo held deletions."""
    return _order(console, routes.UNDO_DELETIONS, arguments.name, "undid the deletions of")


def define_revert(parser: ArgumentParser) -> None:
    """Define `dizzyd revert`."""
    describe(
        parser,
        "Give up the local changes of a folder that may only be read here. They move to "
        ".dizzyd/history, and the shared state comes back.",
        "dizzyd revert photos",
    )
    add_name(parser)


def run_revert(arguments: Namespace, console: Console) -> int:
    """Revert a reader's local changes."""
    return _order(console, routes.REVERT, arguments.name, "reverted")


def _order(console: Console, route: Route[FolderRequest, None], name: str, done: str) -> int:
    reach.ask(console.home, route, FolderRequest(name=name))
    console.err.write(f"{done} {escape(name)}\n")
    return 0
