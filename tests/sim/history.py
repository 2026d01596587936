"""Make random histories: what users, networks, disks and clocks do to three nodes.

A history is a plain list of steps. It names contents by number and everything else by value, so
that any part of it can be left out and the rest still means the same; it can be written as JSON
and played again. Nothing is done here: tests.sim.world plays it.
"""

from __future__ import annotations

import errno
import json
from random import Random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

TEN_YEARS_S = 315_576_000
NAMES = ("a", "b", "c", "notes.txt", "Notes.txt", "ä.md", "x y", "run.sh")
DIRECTORIES = ("d", "e", "Neuer Ordner")

# Weights. What a node under test cannot do yet is left out of its mix.
FLAT_MIX: Mapping[str, int] = {
    "create": 10, "write": 10, "twice": 3, "save": 8, "backup": 3, "append": 3, "copy": 2,
    "move": 8, "swap": 3, "exchange": 2, "remove": 6,
}  # fmt: skip
TREE_MIX: Mapping[str, int] = {
    **FLAT_MIX, "hold": 3, "mkdir": 6, "rmtree": 3, "move_directory": 5, "symlink": 2, "chmod": 2,
    "touch": 2,
}  # fmt: skip
NETWORK_MIX: Mapping[str, int] = {"cut": 4, "stall": 2, "flap": 1, "alone": 3, "weather": 3}
CRASH_MIX: Mapping[str, int] = {
    "kill": 2, "power": 2, "crash_at": 3, "crash_commit": 3, "stop": 1,
}  # fmt: skip
TROUBLE_MIX: Mapping[str, int] = {
    "mute": 2, "overflow": 1, "clock": 2, "fault": 3, "full": 1, "meddle": 6,
}  # fmt: skip
FULL_MIX: Mapping[str, int] = {**TREE_MIX, **NETWORK_MIX, **CRASH_MIX, **TROUBLE_MIX}
JOIN_MIX: Mapping[str, int] = {**TREE_MIX, "cut": 2, "kill": 2, "crash_commit": 3, "join": 4}
LARGE_MIX: Mapping[str, int] = {
    **TREE_MIX, **NETWORK_MIX, "big": 14, "kill": 2, "power": 2, "crash_at": 3, "fault": 2,
    "meddle": 4,
}  # fmt: skip
FOLD_MIX: Mapping[str, int] = {**TREE_MIX, "recase": 12, "cut": 3, "kill": 2, "alone": 2}
UNPLUG_MIX: Mapping[str, int] = {
    **TREE_MIX, "write": 20, "move": 20, "unplug": 12, "cut": 2, "crash_commit": 6,
}  # fmt: skip
MIXES: Mapping[str, Mapping[str, int]] = {
    "flat": FLAT_MIX,
    "tree": TREE_MIX,
    "network": {**TREE_MIX, **NETWORK_MIX},
    "crash": {**TREE_MIX, **CRASH_MIX},
    "trouble": {**TREE_MIX, **TROUBLE_MIX},
    "full": FULL_MIX,
    "unplug": UNPLUG_MIX,  # disks that are taken out and put back
    "plain": FULL_MIX,  # on disks without EXCHANGE
    "join": JOIN_MIX,  # the last node is no member before it joined
    "large": LARGE_MIX,  # contents that travel in chunks
    "fold": FOLD_MIX,  # on disks that take names for one that differ in case
    "checkpoint": {  # who joins may begin with a snapshot
        **JOIN_MIX,
        "write": 40,
        "chmod": 6,
        "cut": 4,
        "checkpoint": 12,
    },
    "prune": {  # logs are let go, members are away meanwhile
        **JOIN_MIX,
        **NETWORK_MIX,
        "write": 40,
        "cut": 8,
        "checkpoint": 16,
    },
    "read": {**JOIN_MIX, **NETWORK_MIX, "power": 2},  # and may only read
}
# The nodes of this index and after it have disks that fold case.
FOLDING: Mapping[str, int] = {"fold": 1}
# What a mix plays on, where it is not the usual: options of World.
DISK_OPTIONS: Mapping[str, Mapping[str, object]] = {"plain": {"has_exchange": False}}
NODES: Mapping[str, str] = {
    **dict.fromkeys(("join", "checkpoint", "read"), "tests.sim.invited"),
    "prune": "tests.sim.pruned",
}
READERS: Mapping[str, int] = {"read": 2}
USER_VERBS = frozenset({*TREE_MIX, "big", "recase"})

Argument = str | int


class Step(NamedTuple):
    """At `at_ms` after the beginning, `verb` happens at a node. Paths are str (os.fsdecode)."""

    at_ms: int
    node: int
    verb: str
    args: tuple[Argument, ...]


History = list[Step]


def dump(history: History) -> str:
    """Write a history as JSON, a step a line."""
    lines = [json.dumps([step.at_ms, step.node, step.verb, *step.args]) for step in history]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def load(text: str) -> History:
    """Read what dump wrote."""
    return [Step(at, node, verb, tuple(args)) for at, node, verb, *args in json.loads(text)]


def content_of(seed: int, number: int) -> bytes:
    """Give content `number` of a history: no two are alike, many are equally long."""
    if number == 0:
        return b""
    random = Random(f"{seed}/{number}")
    size = random.choice((0, 0, 12, 12, 200, 5000) if number % 40 else (70_000, 150_000))
    return b"%d/%06d " % (seed, number) + random.randbytes(size)


def large_content_of(seed: int, number: int) -> bytes:
    """Give content `number` as one that travels in chunks, and is like the others of its kind."""
    random = Random(f"large/{seed}/{number}")
    base = Random(f"large/{seed}").randbytes(1_300_000 + 300_000 * (seed % 3))
    cut = random.randrange(len(base))
    changed = random.randbytes(random.randrange(40_000))
    return b"%d/%06d " % (seed, number) + base[:cut] + changed + base[cut + len(changed) // 2 :]


def random_history(
    seed: int,
    *,
    nodes: int = 3,
    length: int = 60,
    mix: Mapping[str, int] = FULL_MIX,
    span_ms: int = 20_000,
) -> History:
    """Make the history of a seed: bursts of steps within `span_ms`."""
    return _Author(Random(f"history/{seed}"), nodes, mix).write(length, span_ms)


class _Author:
    """Writes one history, believing in one tree that all nodes have more or less."""

    def __init__(self, random: Random, nodes: int, mix: Mapping[str, int]) -> None:
        self._random = random
        self._nodes = nodes
        self._mix = mix
        self._verbs = list(mix)
        self._weights = list(mix.values())
        self._contents = 0
        self._files: list[str] = []
        self._directories: list[str] = [""]
        self._has_trees = "mkdir" in mix

    def write(self, length: int, span_ms: int) -> History:
        random = self._random
        history: History = []
        at_ms = 0
        mean_ms = span_ms / length
        for _ in range(length):
            if random.random() > 0.4:  # else in the same instant: bursts
                at_ms += int(random.expovariate(1 / (1.7 * mean_ms)))
            verb = random.choices(self._verbs, self._weights)[0]
            node = random.randrange(self._nodes)
            history.append(Step(at_ms, node, verb, self._args(verb, node)))
        return history

    def _args(self, verb: str, node: int) -> tuple[Argument, ...]:
        if verb in USER_VERBS:
            return self._user_args(verb)
        return self._nemesis_args(verb, node)

    def _user_args(self, verb: str) -> tuple[Argument, ...]:
        random = self._random
        match verb:
            case "create" | "write":
                path = self._new_path() if verb == "create" else self._file()
                self._believe(path)
                return path, self._content()
            case "twice":
                return self._file(), self._content(), self._content()
            case "save" | "append" | "big":
                return self._file(), self._content()
            case "backup":
                return self._file(), self._content(), random.randrange(2)
            case "hold":
                return self._file(), self._content(), self._content(), random.randrange(1, 4000)
            case "copy":
                source, target = self._file(), self._new_path()
                self._believe(target)
                return source, target
            case "move":
                source = self._file()
                target = self._new_path() if random.random() < 0.8 else self._file()
                self._believe(target)
                if source in self._files:
                    self._files.remove(source)
                return source, target
            case "recase":
                source = self._file() if random.random() < 0.7 else self._directory()
                above, slash, name = source.rpartition("/")
                self._believe(target := above + slash + name.swapcase())
                return source, target
            case "swap" | "exchange":
                return self._file(), self._file()
            case "remove" | "chmod" | "touch":
                path = self._file()
                if verb == "remove":
                    if path in self._files:
                        self._files.remove(path)
                    return (path,)
                bit = random.randrange(2) if verb == "chmod" else random.randrange(1, 2 * 10**9)
                return path, bit
            case "symlink":
                return random.choice(("a", "../..", "/etc/passwd", "d")), self._new_path()
            case "mkdir":
                path = self._new_path(directory=True)
                self._directories.append(path)
                return (path,)
            case "rmtree":
                path = self._directory()
                return (path,)
            case "move_directory":
                source, target = self._directory(), self._new_path(directory=True)
                self._directories.append(target)
                self._files += [
                    target + path[len(source) :]
                    for path in self._files
                    if path.startswith(source + "/")
                ]
                return source, target
        raise ValueError(verb)

    def _nemesis_args(self, verb: str, node: int) -> tuple[Argument, ...]:
        random = self._random
        other = random.choice([each for each in range(self._nodes) if each != node])
        match verb:
            case "cut" | "stall":
                return other, random.randrange(10, 8000)
            case "flap":
                return other, random.randrange(1, 10)
            case "weather":
                return other, random.choice(("slow", "thin", "breaking")), random.randrange(1, 8000)
            case "alone" | "kill" | "power" | "stop" | "mute" | "full":
                return (random.choice((1, 60, 500, random.randrange(10, 8000))),)
            case "crash_at":
                return random.randrange(1, 80), random.randrange(10, 3000), random.randrange(2)
            case "crash_commit":
                instant = random.randrange(1, 12), random.randrange(2)
                return *instant, random.randrange(10, 3000), random.randrange(2)
            case "join":
                return random.randrange(2), random.choice(("write", "admin"))
            case "unplug":
                return random.randrange(1, 60), random.randrange(10, 6000)
            case "overflow" | "checkpoint":
                return ()
            case "clock":
                return (random.randrange(-TEN_YEARS_S, TEN_YEARS_S),)
            case "fault":
                number = random.choice((errno.ENOSPC, errno.EIO, errno.EACCES))
                return random.randrange(1, 40), number, random.choice((1, 1, 3, 30))
            case "meddle":
                verbs = [each for each in self._verbs if each in USER_VERBS and each != "hold"]
                inner = random.choice(verbs)
                return random.randrange(1, 60), inner, *self._user_args(inner)
        raise ValueError(verb)

    def _content(self) -> int:
        self._contents += 1
        return 0 if self._random.random() < 0.03 else self._contents

    def _believe(self, path: str) -> None:
        if path not in self._files:
            self._files.append(path)

    def _file(self) -> str:
        if self._files and self._random.random() < 0.9:
            return self._random.choice(self._files)
        return self._new_path()

    def _directory(self) -> str:
        return self._random.choice(self._directories[1:] or ["d"])

    def _new_path(self, *, directory: bool = False) -> str:
        above = self._random.choice(self._directories) if self._has_trees else ""
        if above.count("/") >= 3:
            above = ""
        name = self._random.choice(DIRECTORIES if directory else NAMES)
        return f"{above}/{name}" if above else name
