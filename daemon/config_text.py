"""Turn the text of config.toml into checked values, and say exactly where it is wrong.

Knows TOML and places in a text, no key of dizzyd: daemon.config does.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import tomlkit
from tomlkit.exceptions import ParseError, TOMLKitError
from tomlkit.parser import Parser

from store.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

T = TypeVar("T")
Default = TypeVar("Default")
Keys = tuple[str, ...]

CONFIG_LIMIT_BYTES = 1 << 20  # a mistyped --config must not read a film into memory


class ConfigError(UsageError):
    """The configuration is wrong; the message has file, line, column, key and expectation."""


def read_document(file: Path) -> Place:
    """Read a TOML file whole; raises ConfigError where it is no TOML in UTF-8."""
    return parse_document(file, read_bytes(file))


def read_bytes(file: Path) -> bytes:
    """Read a config file; raises ConfigError where that fails, waits, or is far too large."""
    try:
        if file.is_fifo():
            raise ConfigError(f"config {file}", "is a pipe and no file")
        with file.open("rb") as stream:
            content = stream.read(CONFIG_LIMIT_BYTES + 1)
    except FileNotFoundError as cause:
        raise ConfigError(
            f"config {file}", "does not exist", hint="`dizzyd init` makes it"
        ) from cause
    except OSError as cause:
        raise ConfigError(f"config {file}", cause.strerror or str(cause)) from cause
    if len(content) > CONFIG_LIMIT_BYTES:
        raise ConfigError(f"config {file}", "is larger than 1 MiB, so it is something else")
    return content


def parse_document(file: Path, content: bytes) -> Place:
    """Parse the bytes of a config file."""
    text = _decode(file, content)
    try:
        document = tomlkit.parse(text)
        values = document.unwrap()
    except ParseError as cause:
        line, column = min(cause.line, text.count("\n") + 1), cause.col + 1
        raise ConfigError(f"{file}:{line}:{column}", f"expected TOML, {_reason(cause)}") from cause
    except (TOMLKitError, ValueError, RecursionError) as cause:
        line, column = _find_damage(text)
        raise ConfigError(f"{file}:{line}:{column}", f"expected TOML, {_reason(cause)}") from cause
    return Place(file=file, text=text, keys=(), table=values)


def _decode(file: Path, content: bytes) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as cause:
        before = content[: cause.start]
        line = before.count(b"\n") + 1
        column = len(before.rpartition(b"\n")[2].decode("utf-8", "replace")) + 1
        raise ConfigError(
            f"{file}:{line}:{column}", f"expected UTF-8, found the byte {content[cause.start]:#04x}"
        ) from cause
    # A BOM, as some editors of other systems write it, is not part of TOML.
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _reason(cause: Exception) -> str:
    reason = str(cause).partition(" at line ")[0].rstrip(".")
    if reason.endswith(r"character: '\x00'"):  # what tomlkit finds behind the last one
        reason = "unexpected end"
    return f"{reason[:1].lower()}{reason[1:]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One table of the document, with the way to it."""

    file: Path
    text: str
    keys: Keys
    table: Mapping[str, Any]

    def error(
        self, keys: Keys, expected: str, *, got: object = None, hint: str = ""
    ) -> ConfigError:
        """Make the error for the key at `keys` (from the root of the document)."""
        line, column = locate(self.text, keys)
        name = ".".join(keys)
        found = "" if got is None else f", got {_shown(got)}"
        return ConfigError(
            f"{self.file}:{line}:{column}", f"{name}: expected {expected}{found}", hint=hint
        )

    def only(self, *known: str) -> None:
        """Refuse keys that are not known here, with the nearest known one."""
        for key in self.table:
            if key in known:
                continue
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            places = ", ".join(known)
            hint = f'did you mean "{near[0]}"?' if near else f"known here: {places}"
            line, column = locate(self.text, (*self.keys, key))
            name = ".".join((*self.keys, key))
            raise ConfigError(
                f"{self.file}:{line}:{column}",
                f"{name}: unknown key, expected one of {places}",
                hint=hint,
            )

    def table_at(self, key: str) -> Place:
        """Give the table at `key`; an absent one is empty."""
        value = self.table.get(key, {})
        if not isinstance(value, dict):
            raise self.error((*self.keys, key), "a table", got=value)
        return Place(file=self.file, text=self.text, keys=(*self.keys, key), table=value)

    def tables(self, key: str, read: Callable[[str, Place], T]) -> dict[str, T]:
        """Read each table below `key`, by name, in the order of the file."""
        outer = self.table_at(key)
        return {name: read(name, outer.table_at(name)) for name in outer.table}

    def check_key(self, check: Callable[[str], object]) -> None:
        """Check the name of this table itself."""
        try:
            check(self.keys[-1])
        except ValueError as cause:
            raise self.error(self.keys, str(cause)) from cause

    def need(self, key: str, check: Callable[[str], T]) -> T:
        """Read a string that must be there."""
        if key not in self.table:
            raise self.error(self.keys, f'a key "{key}"')
        return self._checked((*self.keys, key), self.table[key], check)

    def get(self, key: str, check: Callable[[str], T], default: Default) -> T | Default:
        """Read a string, or give the default."""
        if key not in self.table:
            return default
        return self._checked((*self.keys, key), self.table[key], check)

    def get_bool(self, key: str, *, default: bool) -> bool:
        """Read true or false."""
        value = self.table.get(key, default)
        if not isinstance(value, bool):
            raise self.error((*self.keys, key), "true or false", got=value)
        return value

    def get_list(
        self, key: str, check: Callable[[str], T], default: tuple[T, ...], *, limit: int = 64
    ) -> tuple[T, ...]:
        """Read a list of strings."""
        if key not in self.table:
            return default
        values = self.table[key]
        keys = (*self.keys, key)
        if not isinstance(values, list):
            raise self.error(keys, "a list of strings", got=values)
        if len(values) > limit:
            raise self.error(keys, f"at most {limit} entries", got=len(values))
        return tuple(self._checked(keys, value, check) for value in values)

    def _checked(self, keys: Keys, value: object, check: Callable[[str], T]) -> T:
        if not isinstance(value, str):
            raise self.error(keys, _expected_text(check), got=value)
        try:
            return check(value)
        except ValueError as cause:
            raise self.error(keys, str(cause), got=value) from cause


def _expected_text(check: Callable[[str], object]) -> str:
    """Ask a check what it expects, by giving it what no check accepts."""
    try:
        check("\0")
    except ValueError as cause:
        return str(cause)
    return "a string"


def _shown(value: object) -> str:
    shown = ascii(value) if isinstance(value, str) else str(value)
    limit = 60
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def locate(text: str, keys: Keys) -> tuple[int, int]:
    """Find line and column (from 1) of the statement that sets `keys`, or the nearest above it.

    Statements are read one by one: a chunk of lines that parses alone is one statement, since
    the first lines of a longer one (a list, a long string) never do.
    """
    best, best_depth = (1, 1), 0
    for line, header, chunk in _statements(text):
        stated = (*header, *_keys_of(chunk))
        depth = 0
        while depth < min(len(stated), len(keys)) and stated[depth] == keys[depth]:
            depth += 1
        if depth > best_depth and depth == len(stated):
            first = chunk.split("\n", 1)[0]
            best, best_depth = (line, len(first) - len(first.lstrip()) + 1), depth
        elif depth == len(keys) > best_depth:
            best, best_depth = (line, 1), depth
    return best


def _statements(text: str) -> list[tuple[int, Keys, str]]:
    """Cut a valid document into statements: line, header in force, text."""
    found: list[tuple[int, Keys, str]] = []
    header: Keys = ()
    chunk, start = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        if not chunk:
            start = number
        chunk = f"{chunk}\n{line}" if chunk else line
        try:
            tomlkit.parse(chunk)
        except (TOMLKitError, ValueError):
            continue
        stripped = chunk.lstrip()
        if stripped.startswith("["):
            header = ()
            found.append((start, (), chunk))
            header = _keys_of(chunk)
        elif stripped and not stripped.startswith("#"):
            found.append((start, header, chunk))
        chunk = ""
    return found


def _keys_of(chunk: str) -> Keys:
    """Give the way to what one statement sets: `[a.b]` and `a.b = 1` are (a, b)."""
    try:
        value: Any = tomlkit.parse(chunk).unwrap()
    except (TOMLKitError, ValueError):
        return ()
    is_header = chunk.lstrip().startswith("[")
    depth = None if is_header else _dotted_depth(chunk)
    keys: list[str] = []
    while isinstance(value, dict) and value and (depth is None or len(keys) < depth):
        key = next(iter(value))
        keys.append(key)
        value = value[key]
    return tuple(keys)


def _dotted_depth(chunk: str) -> int:
    """Count the parts of a dotted key, so that an inline table's keys are not taken for them."""
    key = Parser(chunk.lstrip())._parse_key()  # noqa: SLF001 - no public way to read one key
    return len(list(key))


def _find_damage(text: str) -> tuple[int, int]:
    """Find the first line up to which the text does not parse (a key or table set twice, say)."""
    lines = text.split("\n")
    low, high = 0, len(lines)
    while low < high:  # the shortest beginning that fails for a reason other than being cut
        middle = (low + high) // 2
        try:
            tomlkit.parse("\n".join(lines[: middle + 1]))
        except ParseError:
            low = middle + 1
        except (TOMLKitError, ValueError, RecursionError):
            high = middle
        else:
            low = middle + 1
    return min(low + 1, len(lines)), 1
