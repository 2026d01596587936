from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.answers import VerifyLine
from daemon.cli import COMMANDS
from daemon.control import ControlServer
from daemon.home import Home
from daemon.status import Problem
from store.errors import DizzyError, TryLater, UsageError
from tests.daemon.fake_node import (
    PYTHONPATH,
    ROOT,
    STOPPED_NODE,
    Ended,
    FakeNode,
    dizzyd,
    healthy_status,
    make_home,
    served,
)

HEAVY = (
    "aiohttp", "sqlalchemy", "sqlmodel", "pydantic", "asyncio", "msgspec", "tomlkit", "nacl",
    "_ssl", "difflib",
)  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "h")


@pytest.fixture
async def node(home: Home) -> AsyncIterator[FakeNode]:
    fake = FakeNode()
    async with served(fake, home):
        yield fake


def assert_error(ended: Ended, code: int, line: str, hint: str = "") -> None:
    expected = f"dizzyd: {line}\n" + (f"hint: {hint}\n" if hint else "")
    assert (ended.code, ended.out, ended.err) == (code, "", expected)


# -- the command line itself ---------------------------------------------------------------------


async def test_dizzyd_alone_prints_help_on_stderr(home: Home) -> None:
    ended = await dizzyd(home)

    assert ended.code == 2
    assert ended.out == ""
    assert all(f"\n  {name} " in ended.err for name in COMMANDS)


async def test_version_and_help_go_to_stdout(home: Home) -> None:
    assert re.fullmatch(r"dizzyd \d+\.\d+\.\d+\n", (await dizzyd(home, "--version")).out)
    ended = await dizzyd(home, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert "commands:" in ended.out


@pytest.mark.parametrize("command", list(COMMANDS))
async def test_every_command_has_help_with_an_example(home: Home, command: str) -> None:
    ended = await dizzyd(home, command, "--help")

    assert (ended.code, ended.err) == (0, "")
    assert re.search(rf"examples?:\n  (sudo )?dizzyd {command}", ended.out)


def test_the_commands_are_those_of_the_contract() -> None:
    text = (ROOT / "docs" / "contract.md").read_text()
    table = text.partition("| command |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`dizzyd ([a-z-]+)", table))

    assert named == set(COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "line", "hint"),
    [
        (["stauts"], "command stauts: is not known", "did you mean `dizzyd status`?"),
        (["\x1b[31m"], "command \\x1b[31m: is not known", "`dizzyd --help` lists the commands"),
        (["--wat"], "dizzyd: unrecognized arguments: --wat", "`dizzyd --help`"),
        (["share"], "share: the following arguments are required: PATH", "`dizzyd share --help`"),
        (
            ["invite", "x", "--role", "god"],
            "invite: argument --role: invalid choice: 'god' (choose from 'read', 'write', 'admin')",
            "`dizzyd invite --help`",
        ),
        (
            ["invite", "x", "--expires", "soon"],
            'invite: argument --expires: expected a duration such as "24h" or "180 days"',
            "`dizzyd invite --help`",
        ),
        (
            ["invite", "x", "--address", "nowhere"],
            'invite: argument --address: expected an address "HOST:PORT" or "[IPV6]:PORT"',
            "`dizzyd invite --help`",
        ),
        (
            ["init", "--listen", "7499"],
            'init: argument --listen: expected an address "HOST:PORT" or "[IPV6]:PORT"',
            "`dizzyd init --help`",
        ),
        (["init", "--name", ""], "init: argument --name: expected a name of 1 to 255 bytes", ""),
        (["status", "extra"], "status: unrecognized arguments: extra", "`dizzyd status --help`"),
        (["share", ""], "path: is empty", ""),
    ],
)
async def test_a_wrong_command_line_is_one_line_and_a_hint(
    home: Home, arguments: list[str], line: str, hint: str
) -> None:
    assert_error(await dizzyd(home, *arguments), 2, line, hint)


async def test_debug_shows_the_traceback(home: Home) -> None:
    ended = await dizzyd(home, "--debug", "scan")

    assert ended.code == 1
    assert "Traceback" in ended.err
    assert "NotRunning" in ended.err


async def test_an_unforeseen_error_is_one_line_too(home: Home) -> None:
    breaks = "import daemon.client\ndaemon.client.connect = lambda home: 1 / 0"

    ended = await dizzyd(home, "scan", before=breaks)

    assert_error(
        ended,
        1,
        "internal error: ZeroDivisionError: division by zero",
        "please report it, with what --debug shows",
    )


async def test_the_wrong_package_daemon_is_refused_with_its_place(home: Home) -> None:
    other = "import daemon\ndel daemon.IS_DIZZYD\ndaemon.__file__ = '/opt/x/daemon/__init__.py'"

    ended = await dizzyd(home, "status", before=other)

    assert ended.code == 1
    assert ended.err.startswith(
        "dizzyd: package `daemon`: another project's was imported, from /opt/x/daemon\nhint: "
    )


# -- asking a running node -----------------------------------------------------------------------


async def test_share_sends_an_absolute_path_and_prints_the_id(
    home: Home, node: FakeNode, tmp_path: Path
) -> None:
    (tmp_path / "desk").mkdir()

    ended = await dizzyd(home, "share", "a b", "--name", "n", cwd=tmp_path / "desk")

    assert ended == Ended(0, "dd" * 32 + "\n", "")
    assert node.calls == [("share", (f"{tmp_path}/desk/a b", "n"))]


async def test_B4_paths_that_are_not_utf8_arrive_byte_for_byte(home: Home, node: FakeNode) -> None:
    await dizzyd(home, "share", b"/srv/\xff\xc3\n\x1b")

    ((_, (path, _name)),) = node.calls
    assert os.fsencode(path) == b"/srv/\xff\xc3\n\x1b"


async def test_invite_prints_one_line_and_its_addresses_on_stderr(
    home: Home, node: FakeNode
) -> None:
    ended = await dizzyd(
        home, "invite", "photos", "--role", "read", "--expires", "30m", "--address", "a:1"
    )

    assert ended == Ended(0, "dizzyd1abc\n", "addresses in it: a:1\n")
    assert node.calls == [("invite", ("photos", "read", 1800.0, ("a:1",)))]


async def test_invite_defaults_to_write_for_a_day(home: Home, node: FakeNode) -> None:
    await dizzyd(home, "invite", "photos")

    assert node.calls == [("invite", ("photos", "write", 86400.0, ()))]


async def test_an_unknown_folder_is_refused_with_candidates(home: Home, node: FakeNode) -> None:
    ended = await dizzyd(home, "invite", "phtos")

    assert_error(
        ended, 1, "folder phtos: there is no folder of that name", "folders here: photos (bbbbbbbb)"
    )


async def test_join_says_where_the_files_are_and_escapes_names(home: Home, node: FakeNode) -> None:
    ended = await dizzyd(home, "join", "dizzyd1x", "/srv/p")

    assert ended == Ended(0, "ee" * 32 + "\n", "joined pho\\x1btos: its files are in /srv/p\n")
    assert node.calls == [("join", ("dizzyd1x", "/srv/p", None))]


@pytest.mark.parametrize(
    ("arguments", "operation", "parameters"),
    [
        (["leave", "p"], "leave", ("p",)),
        (["unshare", "p"], "unshare", ("p",)),
        (["scan"], "scan", (None,)),
        (["scan", "p"], "scan", ("p",)),
        (["wait"], "wait", (None, 60.0)),
        (["wait", "p", "--timeout", "5m"], "wait", ("p", 300.0)),
        (["confirm", "p"], "confirm", ("p",)),
        (["undo-deletions", "p"], "undo_deletions", ("p",)),
        (["revert", "p"], "revert", ("p",)),
    ],
)
async def test_orders_reach_the_node(
    home: Home, node: FakeNode, arguments: list[str], operation: str, parameters: tuple[object, ...]
) -> None:
    ended = await dizzyd(home, *arguments)

    assert (ended.code, ended.out) == (0, "")
    assert node.calls == [(operation, parameters)]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DizzyError("leave", "not\x1b so", hint="do this"), 1),
        (UsageError("leave", "not\x1b so", hint="do this"), 2),
        (TryLater("leave", "not\x1b so", hint="do this"), 75),
    ],
)
async def test_errors_of_the_node_end_the_command_with_their_code(
    home: Home, node: FakeNode, error: DizzyError, code: int
) -> None:
    node.fails["leave"] = error

    assert_error(await dizzyd(home, "leave", "p"), code, "leave: not\\x1b so", "do this")


async def test_wait_times_out_with_75(home: Home, node: FakeNode) -> None:
    ended = await dizzyd(home, "wait", "--timeout", "0")

    assert ended.code == 75
    assert ended.err.startswith("dizzyd: wait: not in sync yet\nhint: ")


@pytest.mark.parametrize("command", ["leave", "verify"])  # one answer, and a stream of lines
async def test_a_broken_operation_is_an_error_and_not_a_traceback(
    home: Home, node: FakeNode, command: str
) -> None:
    node.fails[command] = ZeroDivisionError()

    ended = await dizzyd(home, command, "p")

    assert ended.code == 1
    assert ended.err.startswith("dizzyd: internal error: ZeroDivisionError\nhint: ")
    assert "Traceback" not in ended.err


async def test_peers_are_listed_for_people_and_for_machines(home: Home, node: FakeNode) -> None:
    ended = await dizzyd(home, "peers")
    assert ended.out == (f"photos   {'bb' * 32}\n  desk\\ntop   write   {'cc' * 32}   connected\n")
    plain = json.loads((await dizzyd(home, "peers", "--json")).out)
    assert plain[0]["members"][0]["name"] == "desk\ntop"


async def test_rebuild_lists_the_roots(home: Home, node: FakeNode) -> None:
    assert (await dizzyd(home, "rebuild")).out == f"photos   1,301 events   {'ff' * 32}\n"
    plain = json.loads((await dizzyd(home, "rebuild", "--json")).out)
    assert plain[0]["state_root"] == "ff" * 32


async def test_verify_is_0_only_when_all_is_well(home: Home, node: FakeNode) -> None:
    node.lines = [
        VerifyLine(kind="progress", done_bytes=1, total_bytes=2),
        VerifyLine(kind="pending", text="a.txt"),
        VerifyLine(kind="summary", text="3 versions, all well"),
    ]
    assert await dizzyd(home, "verify") == Ended(0, "pending: a.txt\n", "3 versions, all well\n")

    node.lines.insert(1, VerifyLine(kind="finding", text="b.txt: bytes\x1b differ"))
    ended = await dizzyd(home, "verify", "photos")
    assert (ended.code, ended.out.splitlines()[0]) == (1, "b.txt: bytes\\x1b differ")


async def test_verify_that_was_cut_short_is_not_well(home: Home, node: FakeNode) -> None:
    node.lines = [VerifyLine(kind="pending", text="a.txt")]
    assert (await dizzyd(home, "verify")).code == 1

    node.fails_after_lines = DizzyError("verify", "the disk is gone")
    ended = await dizzyd(home, "verify")
    assert (ended.code, ended.err) == (1, "dizzyd: verify: the disk is gone\n")


async def test_cat_copies_bytes_and_notices_a_cut(home: Home, node: FakeNode) -> None:
    node.content = [b"\x00\xff" * 200_000, b"end"]
    ended = await dizzyd(home, "cat", "a/b")
    assert ended.code == 0
    assert os.fsencode(ended.out) == b"\x00\xff" * 200_000 + b"end"
    assert node.calls == [("cat", ("a/b", str(home.state)))]

    node.fails_after_lines = DizzyError("cat", "gone")
    ended = await dizzyd(home, "cat", "a/b")
    assert ended.code == 1
    assert ended.err.startswith("dizzyd: ask dizzyd for cat: the daemon stopped before")

    node.content = []
    assert_error(await dizzyd(home, "cat", "a/b"), 1, "cat: gone")


async def test_an_empty_content_is_printed_as_nothing(home: Home, node: FakeNode) -> None:
    assert await dizzyd(home, "cat", "empty") == Ended(0, "", "")


# -- status --------------------------------------------------------------------------------------


async def test_status_is_0_when_healthy_and_4_with_a_problem(home: Home, node: FakeNode) -> None:
    ended = await dizzyd(home, "status")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("laptop   healthy, up 3 days\nphotos ")

    object.__setattr__(node.status_now.node, "problems", (Problem(problem="fire"),))
    ended = await dizzyd(home, "status", "--json")
    assert ended.code == 4
    assert json.loads(ended.out)["node"]["problems"] == [{"problem": "fire", "hint": ""}]


async def test_status_without_a_node_is_3_and_still_one_object(home: Home) -> None:
    ended = await dizzyd(home, "status")
    assert ended.code == 3
    assert "not running" in ended.out

    ended = await dizzyd(home, "status", "--json")
    assert ended.code == 3
    assert json.loads(ended.out)["node"]["pid"] is None
    assert set(json.loads(ended.out)) == {"node", "folders", "peers", "rejected", "ended"}


async def test_status_of_a_home_that_cannot_be_opened_is_3_and_still_one_object(home: Home) -> None:
    await dizzyd(home, "init", "--listen", "[::]:7777")
    home.lock.unlink()
    home.lock.mkdir()  # fails as a read-only disk does, for root too

    shown, told = await dizzyd(home, "status"), await dizzyd(home, "status", "--json")

    assert (shown.code, told.code, shown.err, told.err) == (3, 3, "", "")
    assert "not running" in shown.out
    node = json.loads(told.out)["node"]
    assert node["pid"] is None
    assert node["problems"][0]["problem"] == f"lock {home.lock}: Is a directory"


async def test_status_of_a_stopped_node_shows_its_folders(home: Home) -> None:
    await dizzyd(home, "init", "--name", "laptop")

    ended = await dizzyd(home, "status", before=STOPPED_NODE)

    assert ended.code == 3
    assert ended.out.startswith("laptop   not running\nphotos ")


async def test_status_names_nothing_heavy(home: Home, node: FakeNode) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-X", "importtime", "-m", "daemon", "status",
        env={"DIZZYD_HOME": str(home.state), "PYTHONPATH": PYTHONPATH, "HOME": "/nowhere"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()

    assert out.startswith(b"laptop   healthy")
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in err.decode().splitlines()
    }
    assert "daemon" in imported
    assert imported.isdisjoint(HEAVY)
    assert b"daemon.answers" not in err


async def test_the_client_leaves_ssl_to_those_who_import_it_later() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import daemon.client, ssl; print(ssl.OPENSSL_VERSION)",
        env={"PYTHONPATH": PYTHONPATH}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _err = await process.communicate()

    assert process.returncode == 0
    assert out


# -- while no daemon runs ------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["scan", "wait", "confirm p", "undo-deletions p", "revert p"])
async def test_what_needs_the_daemon_is_3_without_it(home: Home, command: str) -> None:
    await dizzyd(home, "init")

    assert_error(
        await dizzyd(home, *command.split()),
        3,
        "daemon: is not running",
        "`dizzyd run` starts it",
    )


async def test_what_works_while_stopped_asks_the_stopped_node(home: Home) -> None:
    await dizzyd(home, "init")

    ended = await dizzyd(home, "invite", "photos", before=STOPPED_NODE)
    assert ended.out == "dizzyd1abc\n"
    ended = await dizzyd(home, "verify", before=STOPPED_NODE)
    assert ended == Ended(0, "", "stopped and well\n")
    ended = await dizzyd(home, "cat", "x", before=STOPPED_NODE)
    assert ended == Ended(0, "kept bytes", "")


async def test_without_a_node_commands_say_how_to_make_one(home: Home) -> None:
    hint = "`dizzyd init` makes one, `dizzyd run` makes and starts one"

    assert_error(
        await dizzyd(home, "share", "/srv"), 1, f"home {home.state}: there is no node here", hint
    )
    assert_error(
        await dizzyd(home, "scan"), 3, "daemon: is not running, and there is no node yet", hint
    )


async def test_a_command_waits_for_a_node_that_is_just_starting(home: Home, tmp_path: Path) -> None:
    # The command stands still in its first pause, until we have read that it is there.
    paused = tmp_path / "paused"
    os.mkfifo(paused)
    pause = f"""
import time
def sleep(seconds):
    with open({str(paused)!r}, "w"):
        pass
time.sleep = sleep
"""
    server = ControlServer(FakeNode(), home)
    with home.locked():
        asking = asyncio.create_task(dizzyd(home, "scan", before=pause))
        async with asyncio.timeout(20):
            reader = await asyncio.to_thread(paused.open)
        await server.start()
        reader.close()
        ended = await asking
        await server.stop()

    assert ended == Ended(0, "", "")


async def test_D10_init_prints_the_agent_once_and_then_refuses(home: Home) -> None:
    first = await dizzyd(home, "init", "--name", "laptop", "--listen", "[::]:7777")
    second = await dizzyd(home, "init", "--name", "other")

    assert re.fullmatch(r"[0-9a-f]{64}\n", first.out)
    assert second.code == 1
    assert "nothing was changed" in second.err
    assert (await dizzyd(home, "id")).out == first.out
    plain = json.loads((await dizzyd(home, "id", "--json")).out)
    assert plain == {"name": "laptop", "agent": first.out.strip()}


async def test_D10_init_escapes_the_home_that_it_made(tmp_path: Path) -> None:
    home = make_home(tmp_path / "new\nline \x1b[31m")

    made = await dizzyd(home, "init", "--listen", "[::]:7777")

    assert made.code == 0
    assert made.err == f"made {tmp_path}/new\\nline \\x1b[31m; next: `dizzyd run`\n"


async def test_H2_a_second_run_on_one_home_is_refused_at_once(home: Home, node: FakeNode) -> None:
    async with asyncio.timeout(5):
        ended = await dizzyd(home, "run")

    assert ended.code == 1
    assert ended.err.startswith(
        f"dizzyd: home {home.state}: dizzyd is already running here (process {os.getpid()})\n"
    )


async def test_run_makes_what_is_missing_and_hands_over_home_and_folder(
    home: Home, tmp_path: Path
) -> None:
    app = """
import sys, types
app = types.ModuleType("daemon.app")
def run(home, first_folder):
    print(home.key.exists(), home.config.exists(), home.is_locked(), first_folder)
    return 7
app.run = run
sys.modules["daemon.app"] = app
import daemon
daemon.app = app
"""
    ended = await dizzyd(home, "run", "--first-folder", "x", cwd=tmp_path, before=app)

    assert ended == Ended(7, f"True True True {tmp_path}/x\n", "")


async def test_config_option_is_taken_before_and_after_the_command(
    home: Home, tmp_path: Path
) -> None:
    file = tmp_path / "other.toml"
    file.write_text('[node]\nnmae = "x"\n')
    await dizzyd(home, "init")

    before, after = ["--config", str(file)], ["id", "--json"]
    for arguments in ([*before, *after], [*after, *before]):
        assert_error(
            await dizzyd(home, *arguments),
            2,
            f"{file}:2:1: node.nmae: unknown key, expected one of name, listen, announce",
            'did you mean "name"?',
        )


# -- odd surroundings ----------------------------------------------------------------------------


@pytest.mark.parametrize("redirect", [">&-", ">&- 2>&-", "> /dev/full", "| true"])
def test_D11_a_stdout_that_takes_nothing_brings_no_traceback(home: Home, redirect: str) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m daemon --help {redirect}"],
        env={"DIZZYD_HOME": str(home.state), "PYTHONPATH": PYTHONPATH},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip

    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if redirect == "> /dev/full":
        assert done.returncode == 1
        assert done.stderr.startswith("dizzyd: ")


async def test_D11_c_locale_shows_every_name(home: Home, node: FakeNode) -> None:
    object.__setattr__(node.status_now.folders[0], "name", "grün")

    ended = await dizzyd(home, "status", extra={"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0",
                                               "PYTHONCOERCECLOCALE": "0"})  # fmt: skip

    assert ended.code == 0
    assert "gr\\xfcn" in ended.out


def test_D11_an_unset_home_is_no_obstacle(home: Home) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "daemon", "status"],
        env={"DIZZYD_HOME": str(home.state), "PYTHONPATH": PYTHONPATH},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (3, "")


def test_healthy_status_is_what_its_name_says() -> None:
    assert healthy_status().is_healthy
