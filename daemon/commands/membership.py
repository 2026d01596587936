"""The commands about who shares a folder: invite, join, peers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from daemon import reach, routes
from daemon.answers import InviteRequest, JoinRequest
from daemon.commands.options import add_json, add_name, describe, print_json, seconds
from daemon.route import NoRequest
from daemon.terminal import ago, escape, table

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from daemon.answers import FolderPeers, Member
    from daemon.cli import Console

DEFAULT_EXPIRY_S = 24 * 3600.0


def define_invite(parser: ArgumentParser) -> None:
    """Define `dizzyd invite`."""
    describe(
        parser,
        "Make an invite: one line that admits one peer, once. Whoever has the line can use it.",
        "dizzyd invite photos",
        "dizzyd invite photos --role read --expires 7d --address laptop.lan:7499",
    )
    add_name(parser)
    parser.add_argument(
        "--role", choices=("read", "write", "admin"), default="write", help="default: write"
    )
    parser.add_argument(
        "--expires",
        metavar="24h",
        type=seconds,
        default=DEFAULT_EXPIRY_S,
        help="how long it can be used: 30m, 24h (default), 7d",
    )
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        type=_address,
        action="append",
        default=[],
        help="where the peer reaches this node (default: its own addresses); may be repeated",
    )


def run_invite(arguments: Namespace, console: Console) -> int:
    """Invite; stdout is the one line, stderr what is in it."""
    request = InviteRequest(
        name=arguments.name,
        role=arguments.role,
        expires_s=arguments.expires,
        addresses=tuple(arguments.address),
    )
    made = reach.ask(console.home, routes.INVITE, request)
    console.out.write(f"{made.text}\n")
    console.err.write(f"addresses in it: {', '.join(map(escape, made.addresses)) or 'none'}\n")
    return 0


def define_join(parser: ArgumentParser) -> None:
    """Define `dizzyd join`."""
    describe(
        parser,
        "Join a folder by an invite; returns when the inviter has admitted us. PATH may already "
        "hold files: they merge, and nothing is overwritten.",
        "dizzyd join dizzyd1…",
        "dizzyd join dizzyd1… ~/Photos --name photos",
    )
    parser.add_argument("invite", metavar="INVITE", help="the line that `dizzyd invite` printed")
    parser.add_argument(
        "path",
        metavar="PATH",
        nargs="?",
        help="where the files go (default: our own folder of that name if it never had another "
        "member, else ~/NAME)",
    )
    parser.add_argument("--name", help="what the folder is called here")


def run_join(arguments: Namespace, console: Console) -> int:
    """Join, and say where the files are."""
    path = None if arguments.path is None else console.absolute(arguments.path)
    request = JoinRequest(invite=arguments.invite, path=path, name=arguments.name)
    joined = reach.ask(console.home, routes.JOIN, request)
    console.out.write(f"{joined.folder_id}\n")
    console.err.write(f"joined {escape(joined.name)}: its files are in {escape(joined.path)}\n")
    return 0


def define_peers(parser: ArgumentParser) -> None:
    """Define `dizzyd peers`."""
    describe(parser, "Show the members and connections of each folder.", "dizzyd peers")
    add_json(parser)


def run_peers(arguments: Namespace, console: Console) -> int:
    """Print the members of each folder."""
    folders = reach.ask(console.home, routes.PEERS, NoRequest())
    if arguments.json:
        print_json(console.out, folders)
        return 0
    now = datetime.now(UTC)
    for folder in folders:
        console.out.write(_render_folder(folder, now))
    return 0


def _render_folder(folder: FolderPeers, now: datetime) -> str:
    rows = [_member_row(member, now) for member in folder.members]
    return f"{escape(folder.name)}   {folder.id}\n{table(rows)}"


def _member_row(member: Member, now: datetime) -> tuple[str, ...]:
    if member.is_self:
        state = "this node"
    elif member.connected:
        state = "connected"
    else:
        seen = ago(member.last_seen_at, now)
        state = "never seen" if seen == "never" else f"away, seen {seen}"
    addresses = ", ".join(map(escape, member.addresses))
    return f"  {escape(member.name)}", member.role, member.agent, state, addresses


def _address(text: str) -> str:
    from argparse import ArgumentTypeError

    from daemon.config import check_address

    try:
        return check_address(text)
    except ValueError as cause:
        raise ArgumentTypeError(f"expected {cause}") from cause
