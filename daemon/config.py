"""Read and check config.toml: the one place that knows its keys, defaults and limits.

Changes nothing on disk (daemon.config_edit does) and resolves no names on the network. Where a
file is wrong, the error names file, line, column, key, what was expected and the nearest known
key, and nothing of it takes effect.
"""

from __future__ import annotations

import os
import re
import socket
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from daemon.config_text import ConfigError, Place, read_document
from daemon.durations import parse_duration, parse_size
from store.ids import AgentId, FolderId

T = TypeVar("T")

DEFAULT_PORT: Final = 7499
DEFAULT_LISTEN: Final = ("[::]:7499",)
_LABEL_LIMIT_BYTES = 255  # as in a Granted event
_ADDRESS_LIMIT = 16
_ID_HEX_DIGITS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """How this node is called and where it listens; addresses are `HOST:PORT` as written."""

    name: str
    listen: tuple[str, ...] = DEFAULT_LISTEN
    announce: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderConfig:
    """One shared folder. Without `id` it was written by hand and is not shared yet.

    `path` is absolute, `~` resolved, symlinks as written. `umask` None: the daemon's own.
    """

    name: str
    path: Path
    id: FolderId | None = None
    umask: int | None = None
    ignore_editor_files: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """A node that was admitted, so that a home without its database can still find it."""

    name: str
    agent: AgentId
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryConfig:
    """How long replaced and deleted versions stay; None and None keep everything.

    `min_free_bytes` and `min_free_ratio` (of the disk, 0 to 1) exclude each other. Unless it
    `keeps_log`, of the log below a checkpoint only what still counts stays.
    """

    keep_s: float | None = None
    keep_bytes: int | None = None
    keeps_log: bool = True
    min_free_bytes: int | None = None
    min_free_ratio: float | None = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """Bytes a second over all peers; None is unlimited."""

    upload_bytes_per_s: int | None = None
    download_bytes_per_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All of config.toml, checked. Folders and peers by name, in the order of the file."""

    node: NodeConfig
    folders: dict[str, FolderConfig]
    peers: dict[str, PeerConfig]
    history: HistoryConfig
    limits: LimitsConfig


def read_config(path: Path, *, state: Path, user_home: str | None = None) -> Config:
    """Read and check a config file.

    `state` is the node's state directory, which no folder may hold or lie in; `user_home` is
    what `~` stands for (default: as the user's environment says). A folder whose path does not
    exist is fine here: it is a fault of that folder, not of the configuration.
    Raises ConfigError (exit code 2).
    """
    place = read_document(path)
    return parse_config(
        place,
        state=state,
        user_home=user_home or os.path.expanduser("~"),  # noqa: PTH111
    )


def parse_config(root: Place, *, state: Path, user_home: str) -> Config:
    """Check a whole document; see read_config."""
    root.only("node", "folders", "peers", "history", "limits")
    folders = root.tables("folders", lambda name, place: _folder(name, place, user_home))
    _refuse_overlap(root, folders, {"the home": state, "the configuration": root.file})
    _refuse_one_id_twice(root, folders)
    return Config(
        node=_node(root.table_at("node")),
        folders=folders,
        peers=root.tables("peers", _peer),
        history=_history(root.table_at("history")),
        limits=_limits(root.table_at("limits")),
    )


def default_node_name() -> str:
    """Give the host's name, cut to what a label may hold."""
    name = socket.gethostname().split(".")[0]
    printable = "".join(letter for letter in name if letter.isprintable()).strip()
    return printable.encode("utf-8", "ignore")[:_LABEL_LIMIT_BYTES].decode("utf-8", "ignore") or (
        "node"
    )


def _node(place: Place) -> NodeConfig:
    place.only("name", "listen", "announce")
    return NodeConfig(
        name=place.get("name", check_name, None) or default_node_name(),
        listen=place.get_list("listen", check_listen, DEFAULT_LISTEN),
        announce=place.get_list("announce", check_address, (), limit=_ADDRESS_LIMIT),
    )


def _folder(name: str, place: Place, user_home: str) -> FolderConfig:
    place.check_key(check_name)
    place.only("path", "id", "umask", "ignore_editor_files")
    return FolderConfig(
        name=name,
        path=place.need("path", lambda text: check_path(text, user_home)),
        id=place.get("id", lambda text: FolderId(check_id(text)), None),
        umask=place.get("umask", check_umask, None),
        ignore_editor_files=place.get_bool("ignore_editor_files", default=True),
    )


def _peer(name: str, place: Place) -> PeerConfig:
    place.check_key(check_name)
    place.only("agent", "addresses")
    return PeerConfig(
        name=name,
        agent=place.need("agent", lambda text: AgentId(check_id(text))),
        addresses=place.get_list("addresses", check_address, (), limit=_ADDRESS_LIMIT),
    )


def _history(place: Place) -> HistoryConfig:
    place.only("keep", "log", "min_free")
    keep_s, keep_bytes = place.get("keep", check_keep, (None, None))
    free_bytes, free_ratio = place.get("min_free", check_min_free, (None, 0.01))
    return HistoryConfig(
        keep_s=keep_s,
        keep_bytes=keep_bytes,
        keeps_log=place.get("log", check_log, default=True),
        min_free_bytes=free_bytes,
        min_free_ratio=free_ratio,
    )


def _limits(place: Place) -> LimitsConfig:
    place.only("upload", "download")
    return LimitsConfig(
        upload_bytes_per_s=place.get("upload", check_rate, None),
        download_bytes_per_s=place.get("download", check_rate, None),
    )


# -- values: each takes the text as written and raises ValueError with what was expected ---------


def check_name(text: str) -> str:
    """Accept a name of a node, folder or peer: 1 to 255 bytes, no control characters."""
    if not 1 <= len(text.encode("utf-8", "surrogatepass")) <= _LABEL_LIMIT_BYTES:
        raise ValueError(f"a name of 1 to {_LABEL_LIMIT_BYTES} bytes")
    kinds = {unicodedata.category(letter) for letter in text}
    if not text.strip() or "Cc" in kinds:
        raise ValueError("a name without control characters")
    if "Cs" in kinds:
        raise ValueError("a name in UTF-8")
    return text


def check_path(text: str, user_home: str) -> Path:
    """Accept an absolute path, or one that begins with `~/`."""
    if text == "~" or text.startswith("~/"):
        text = user_home + text[1:]
    if not text.startswith("/") or "\0" in text:
        raise ValueError('an absolute path, or one that begins with "~/"')
    return Path(os.path.normpath(text))


def check_id(text: str) -> bytes:
    """Accept 64 hex digits."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ValueError(f"an id of {_ID_HEX_DIGITS} hex digits")
    return bytes.fromhex(text)


def check_umask(text: str) -> int:
    """Accept an octal umask as a string; the owner must keep what dizzyd itself needs."""
    if not re.fullmatch(r"0?[0-7]{1,3}", text):
        raise ValueError('an octal umask as a string, such as "022"')
    value = int(text, 8)
    if value & 0o700:
        raise ValueError('an octal umask that takes nothing from the owner, such as "022"')
    return value


_ADDRESS = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>[^\s:\[\]/@]+)):(?P<port>\d{1,5})"
)
_HIGHEST_PORT = 65535


def split_address(text: str) -> tuple[str, int]:
    """Cut `HOST:PORT` or `[IPV6]:PORT`; raises ValueError with what was expected."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > _HIGHEST_PORT:
        raise ValueError('an address "HOST:PORT" or "[IPV6]:PORT"')
    return match["six"] or match["host"], int(match["port"])


def check_listen(text: str) -> str:
    """Accept an address to listen on; port 0 lets the system choose."""
    split_address(text)
    return text


def check_address(text: str) -> str:
    """Accept an address that somebody can dial."""
    if split_address(text)[1] == 0:
        raise ValueError('an address "HOST:PORT" with a port of 1 to 65535')
    return text


def check_rate(text: str) -> int | None:
    """Accept `unlimited` or a size for each second, at least 1 KiB/s."""
    expected = '"unlimited", or a rate of at least 1 KiB/s such as "10 MiB/s"'
    if text == "unlimited":
        return None
    size_text, slash, second = text.rpartition("/")
    if not slash or second.strip() != "s":
        raise ValueError(expected)
    try:
        rate = parse_size(size_text)
    except ValueError:
        raise ValueError(expected) from None
    if rate < 1 << 10:
        raise ValueError(expected)
    return rate


def check_keep(text: str) -> tuple[float | None, int | None]:
    """Accept `all`, a duration or a size: (seconds, bytes)."""
    if text == "all":
        return None, None
    for seconds, reader in ((True, parse_duration), (False, parse_size)):
        try:
            value = reader(text)
        except ValueError:
            continue
        if seconds:
            return value, None
        if int(value) > 0:
            return None, int(value)
    raise ValueError('"all", a duration such as "180 days", or a size such as "50 GiB"')


def check_log(text: str) -> bool:
    """Accept `all` or `live`: whether all of the log stays."""
    if text not in {"all", "live"}:
        raise ValueError('"all", or "live"')
    return text == "all"


def check_min_free(text: str) -> tuple[int | None, float | None]:
    """Accept a share of the disk or a size: (bytes, ratio)."""
    expected = 'a share of the disk such as "1%", or a size such as "5 GiB"'
    match = re.fullmatch(r"(\d{1,2}(?:\.\d{1,6})?)\s*%", text)
    if match is not None:
        return None, float(match[1]) / 100
    try:
        return parse_size(text), None
    except ValueError:
        raise ValueError(expected) from None


def _refuse_overlap(root: Place, folders: dict[str, FolderConfig], ours: dict[str, Path]) -> None:
    """Refuse folders that hold or lie in one another, in the home, or are the whole disk."""
    seen: list[tuple[str, Path]] = [
        (label, Path(os.path.realpath(path))) for label, path in ours.items()
    ]
    for name, folder in folders.items():
        real = Path(os.path.realpath(folder.path))
        if real == Path("/"):
            raise root.error(("folders", name, "path"), "a directory below /", got="/")
        for label, other in seen:
            if real.is_relative_to(other) or other.is_relative_to(real):
                raise root.error(
                    ("folders", name, "path"),
                    f"a path that neither holds nor lies in {label} ({other})",
                    got=str(folder.path),
                )
        seen.append((f"folder {name}", real))


def _refuse_one_id_twice(root: Place, folders: dict[str, FolderConfig]) -> None:
    """Refuse a folder that stands at two places: only one of them could be worked on."""
    seen: dict[FolderId, str] = {}
    for name, folder in folders.items():
        if folder.id is None:
            continue
        if folder.id in seen:
            expected = f"an id that folder {seen[folder.id]} does not have"
            raise root.error(("folders", name, "id"), expected, got=folder.id.hex())
        seen[folder.id] = name


__all__ = [
    "Config",
    "ConfigError",
    "FolderConfig",
    "HistoryConfig",
    "LimitsConfig",
    "NodeConfig",
    "PeerConfig",
    "read_config",
]
