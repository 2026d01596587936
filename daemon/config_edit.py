"""Change config.toml as a careful person would: comments and order stay, the file is never half.

Every edit is read, changed, checked as a whole and then replaced in one step; an edit that would
make the configuration wrong changes nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import tomlkit
from tomlkit.items import InlineTable, Table

from daemon.config import check_name, default_node_name, parse_config
from daemon.config_text import ConfigError, parse_document, read_bytes
from daemon.replacing import replace_file
from store.errors import DizzyError

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping, Sequence
    from pathlib import Path
    from typing import Any

    from tomlkit import TOMLDocument

    from store.ids import AgentId, FolderId

_NEW_CONFIG = """\
# dizzyd reads this file at start and on SIGHUP; `dizzyd share`, `join` and `leave` edit it and
# keep your comments and order. config.example.toml shows every key with its default.

[node]
name = {name}
listen = [{listen}]
"""


def write_new_config(file: Path, *, name: str | None, listen: str) -> None:
    """Write the first config of a node; an existing one is never replaced.

    Raises DizzyError where the file exists, ConfigError where name or address are wrong.
    """
    if file.exists():
        raise DizzyError(f"config {file}", "exists already")
    text = _NEW_CONFIG.format(
        name=tomlkit.item(name or default_node_name()).as_string(),
        listen=tomlkit.item(listen).as_string(),
    )
    content = text.encode()
    parse_config(parse_document(file, content), state=file.parent, user_home="/")
    replace_file(file, content)


def add_folder(
    file: Path, *, state: Path, name: str, path: Path, folder: FolderId, user_home: str
) -> None:
    """Write a folder, or give the one of this name its path and id."""
    try:
        written = _with_tilde(path, user_home)
        written.encode()
        check_name(name)
    except UnicodeEncodeError as cause:
        raise DizzyError(
            f"folder {str(path)!a}",
            "its path is not UTF-8, and the configuration is",
            hint="move the folder to a path in UTF-8",
        ) from cause
    except ValueError as cause:
        raise DizzyError(f"folder name {name!a}", f"expected {cause}") from cause

    def change(document: TOMLDocument) -> None:
        table = _table(document, "folders", name)
        table["path"] = written
        table["id"] = folder.hex()

    _edit(file, state, user_home, change)


def remove_folder(file: Path, *, state: Path, name: str, user_home: str) -> None:
    """Take a folder out; no error where it is not there."""

    def change(document: TOMLDocument) -> None:
        folders: Any = document.get("folders", {})
        if name in folders:
            del folders[name]

    _edit(file, state, user_home, change)


def write_peer(
    file: Path, *, state: Path, name: str, agent: AgentId, addresses: Sequence[str], user_home: str
) -> str:
    """Write a peer that was admitted, or give it its present addresses; return its name here.

    A peer is known by its agent: its entry keeps the name that it has here. Where another
    agent has the name, a number is appended.
    """
    chosen = _clean_name(name)

    def change(document: TOMLDocument) -> None:
        nonlocal chosen
        peers: Any = document.get("peers", {})
        mine = [
            key for key, peer in peers.items() if str(peer.get("agent", "")).lower() == agent.hex()
        ]
        chosen = mine[0] if mine else _free_name(chosen, peers)
        table = _table(document, "peers", chosen)
        if not mine:
            table["agent"] = agent.hex()
        if list(table.get("addresses", ())) != list(addresses):
            table["addresses"] = list(addresses)

    _edit(file, state, user_home, change)
    return chosen


def _edit(file: Path, state: Path, user_home: str, change: Callable[[TOMLDocument], None]) -> None:
    before = read_bytes(file)
    parse_config(parse_document(file, before), state=state, user_home=user_home)
    document = tomlkit.parse(before.decode("utf-8").removeprefix("\ufeff"))
    change(document)
    after = tomlkit.dumps(document).encode()
    if after == before:
        return
    try:
        parse_config(parse_document(file, after), state=state, user_home=user_home)
    except ConfigError as cause:
        # The reason is right, but line and column are those of a text that nobody has seen.
        reason = cause.why.partition(": ")[2] or cause.why
        raise DizzyError(f"config {file}", reason, hint=cause.hint) from cause
    replace_file(file, after)


def _table(document: TOMLDocument, group: str, name: str) -> MutableMapping[str, Any]:
    """Give the table `[group.name]`, made at the end of its group if missing."""
    if group not in document:
        document[group] = tomlkit.table(is_super_table=True)
    outer: Any = document[group]
    if name not in outer:
        new = tomlkit.inline_table() if isinstance(outer, InlineTable) else tomlkit.table()
        if isinstance(new, Table) and not tomlkit.dumps(document).endswith("\n"):
            document.add(tomlkit.nl())
        outer[name] = new
    found: MutableMapping[str, Any] = outer[name]
    return found


def _with_tilde(path: Path, user_home: str) -> str:
    text = os.fspath(path)
    if user_home not in {"", "/"} and text.startswith(user_home.rstrip("/") + "/"):
        return "~" + text[len(user_home.rstrip("/")) :]
    return text


def _clean_name(name: str) -> str:
    """Make a peer's own label fit for a key here: it is a stranger's text."""
    kept = "".join(letter for letter in name if letter.isprintable())
    kept = kept.encode("utf-8", "ignore")[:200].decode("utf-8", "ignore").strip()
    return kept or "peer"


def _free_name(name: str, taken: MutableMapping[str, Any]) -> str:
    number, candidate = 2, name
    while candidate in taken:
        candidate, number = f"{name}-{number}", number + 1
    return candidate
