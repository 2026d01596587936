"""Hold what design.md section 2 says of modules: imports go down, the world stands outside."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LAYERS = ("store", "peers", "daemon")  # each may import those before it

# What touches the world: clocks, randomness, files, network, processes and threads.
WORLD = {
    *("time", "random", "secrets", "uuid", "os", "io", "socket", "select", "selectors", "fcntl"),
    *("threading", "multiprocessing", "subprocess", "signal", "shutil", "tempfile", "glob", "pwd"),
    *("ctypes", "sqlite3", "ssl"),
}
FILE_METHODS = {
    *("read_text", "read_bytes", "write_text", "write_bytes", "iterdir", "expanduser"),
}

# Names of those modules that only compute, or only say how a thing is called.
HARMLESS = re.compile(
    r"(os\.(fsencode|fsdecode|fspath|sep|strerror|path\.(sep|join|normpath|basename|dirname))"
    r"|(socket|os|signal|fcntl|ssl)\.[A-Z][A-Z0-9_]*"
    r"|socket\.gaierror|ssl\.(SSLError|SSLWantReadError|SSLObject|SSLContext|MemoryBIO)|sqlite3\.(Database|Programming|Operational)?Error|sqlite3\.Connection|random\.Random"
    r"|subprocess\.TimeoutExpired)\b.*"
)

# The adapters: the only modules that touch the world, and by what.
ADAPTERS = {
    # the database
    "store.db": {"os", "sqlite3"},
    # the network
    "peers.certificate": {"ssl", "os"},  # ssl loads a key from a file alone: one in memory
    "peers.interfaces": {"socket", "fcntl", "open"},
    "peers.listener": {"socket"},
    "peers.sockets": {"socket"},
    # the shared folder
    "daemon.fs": {"os"},
    "daemon.fs_abilities": {"os"},
    "daemon.fs_attributes": {"os", "time"},
    "daemon.fs_below": {"os", "threading", "time"},
    "daemon.fs_direct": {"os"},
    "daemon.fs_held": {"os", "threading"},
    "daemon.fs_look": {"os", "fcntl", "threading", "time"},
    "daemon.fs_names": {"os"},
    "daemon.fs_own": {"os"},
    "daemon.fs_read": {"os"},
    "daemon.fs_root": {"os", "fcntl"},
    "daemon.fs_stage": {"os", "time"},
    "daemon.fs_sync": {"os", "threading"},
    "daemon.fs_taken": {"os"},
    "daemon.inotify": {"os", "select", "threading", "time"},
    "daemon.inotify_kernel": {"os"},
    "daemon.syscalls": {"ctypes", "open", "os", "threading"},
    "daemon.watch_tree": {"os"},
    "daemon.watcher": {"os", "threading", "time"},
    # the home, and what a user gives by path
    "daemon.config": {"os", "socket", "open"},
    "daemon.home": {"os", "fcntl", "open", "pwd"},
    "daemon.healing": {"os"},
    "daemon.instance": {"open"},
    "daemon.key_file": {"os", "open"},
    "daemon.joining": {"os"},
    "daemon.sharing": {"os"},
    "daemon.replacing": {"os"},
    "daemon.outside": {"os", "secrets", "shutil"},
    "daemon.setup": {"os", "socket"},
    # the control socket, the command line, systemd
    "daemon.cli": {"os", "open", "shutil"},
    "daemon.client": {"socket", "time"},
    "daemon.control": {"os", "socket"},
    "daemon.greeting": {"os", "shutil"},
    "daemon.service": {"os", "open", "pwd", "shutil", "socket", "subprocess"},
    # where the watcher's thread hands over
    "daemon.hint_box": {"threading"},
    # where worker threads draw names, each once
    "daemon.displaced": {"threading"},
    # where the loop and the database thread look at the same plans
    "daemon.planning": {"threading"},
    # the one wiring place, and what it shares with a node that is stopped
    "daemon.app": {"os", "secrets", "time"},
    "daemon.machine": {"os", "secrets", "time"},
    "daemon.offline": {"secrets"},
}
COMMANDS = {"os", "time"}  # daemon.commands: what runs in the user's terminal, not in the daemon


def modules() -> list[str]:
    return sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for layer in LAYERS
        for path in (ROOT / layer).rglob("*.py")
    )


def tree_of(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text())


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reached(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Give (what, as written) for everything of the world that the code names."""
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in WORLD:
            for alias in node.names:
                yield (node.module or "").split(".")[0], f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Attribute) and id(node) not in inner:
            name = ast.unparse(node)
            if name.split(".")[0] in WORLD:
                yield name.split(".")[0], name
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in ("open", "input"):
            yield "open", node.func.id
        elif isinstance(node.func, ast.Attribute):
            name = node.func.attr
            if name in FILE_METHODS:
                yield "open", name
            if name in ("now", "utcnow", "today") and "date" in ast.unparse(node.func.value):
                yield "time", ast.unparse(node.func)


@pytest.mark.parametrize("module", modules())
def test_imports_go_down_only(module: str) -> None:
    layer = LAYERS.index(module.split(".", maxsplit=1)[0])

    ours = {name for name in imported(tree_of(module)) if name.split(".")[0] in (*LAYERS, "tests")}

    above = {name for name in ours if name.split(".")[0] not in LAYERS[: layer + 1]}
    assert not above


@pytest.mark.parametrize("module", modules())
def test_only_adapters_touch_the_world(module: str) -> None:
    allowed = ADAPTERS.get(module, set())
    if module.startswith("daemon.commands."):
        allowed = COMMANDS

    touched = [
        name
        for what, name in reached(tree_of(module))
        if what not in allowed and not HARMLESS.fullmatch(name)
    ]

    assert not touched


def test_the_list_of_adapters_has_nothing_that_is_not_needed() -> None:
    needless = {
        (module, what)
        for module, allowed in ADAPTERS.items()
        for what in allowed
        - {what for what, name in reached(tree_of(module)) if not HARMLESS.fullmatch(name)}
    }

    assert not needless


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import time\ntime.time()", [("time", "time.time")]),
        ("from time import sleep", [("time", "time.sleep")]),
        ("import os\nos.path.exists(b'x')", [("os", "os.path.exists")]),
        ("open('x')", [("open", "open")]),
        ("Path('x').read_text()", [("open", "read_text")]),
        ("import random\nrandom.random()", [("random", "random.random")]),
        ("datetime.now(UTC)", [("time", "datetime.now")]),
    ],
)
def test_the_check_sees_what_touches_the_world(code: str, expected: list[tuple[str, str]]) -> None:
    found = list(reached(ast.parse(code)))

    assert found == expected
    assert not any(HARMLESS.fullmatch(name) for _, name in found)


@pytest.mark.parametrize("module", modules())
def test_every_module_says_its_job_and_what_it_refuses(module: str) -> None:
    lines = (ast.get_docstring(tree_of(module)) or "").splitlines()

    assert lines, "no docstring"
    assert lines[0].endswith(".")
    if len(lines) > 1:
        assert not lines[1], "the job is one line"


def test_every_signal_is_emitted_somewhere() -> None:
    defined = {
        node.name: {ast.unparse(base) for base in node.bases}
        for node in tree_of("daemon.signals").body
        if isinstance(node, ast.ClassDef)
    }
    called = {
        node.func.id
        for module in modules()
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }

    bases = set().union(*defined.values())
    assert defined.keys() - bases <= called
