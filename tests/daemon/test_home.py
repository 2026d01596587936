from __future__ import annotations

import os
import pwd
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import daemon.home
from daemon.home import DATABASE_PATH_LIMIT_BYTES, AlreadyRunning, Home, find_home
from daemon.key_file import KeyDamaged, make_key, read_key
from daemon.setup import free_listen_address, make_node
from store.db import open_database
from store.errors import DizzyError, UsageError
from store.signing import AgentKey
from tests.daemon.fake_node import ROOT, make_home, umask


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_dizzyd_home_holds_everything() -> None:
    home = find_home({"DIZZYD_HOME": "/srv/node", "HOME": "/home/u"})

    assert home == Home(config=Path("/srv/node/config.toml"), state=Path("/srv/node"))
    assert home.control_socket == Path("/srv/node/control.sock")


def test_config_option_replaces_only_the_config() -> None:
    home = find_home({"DIZZYD_HOME": "/srv/node", "HOME": "/home/u"}, "~/my.toml")

    assert home == Home(
        config=Path("/home/u/my.toml"), state=Path("/srv/node"), has_foreign_config=True
    )


def test_D5_a_config_elsewhere_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my.toml").touch(0o644)
    before = mode(tmp_path), mode(tmp_path / "my.toml")
    home = find_home({"DIZZYD_HOME": str(tmp_path / "h"), "HOME": str(tmp_path)}, "~/my.toml")

    home.prepare()

    assert (mode(tmp_path), mode(tmp_path / "my.toml")) == before
    assert mode(home.state) == 0o700


def test_D11_an_unset_home_is_looked_up_in_the_password_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    directory = pwd.getpwuid(os.getuid()).pw_dir

    assert find_home({}).state.is_relative_to(directory)


@pytest.mark.parametrize("environment", [{"DIZZYD_HOME": ""}, {"DIZZYD_HOME": "a\0b"}])
def test_an_empty_home_is_a_wrong_command_line(environment: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        find_home(environment)


def test_without_dizzyd_home_config_and_state_lie_where_the_user_keeps_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "c"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "d"))

    home = find_home(os.environ | {"DIZZYD_HOME": str(tmp_path)})
    assert home.state == tmp_path
    environment = {key: value for key, value in os.environ.items() if key != "DIZZYD_HOME"}
    home = find_home(environment)

    assert home.config == tmp_path / "c" / "dizzyd" / "config.toml"
    assert home.state == tmp_path / "d" / "dizzyd"


def test_a_system_units_home_is_found_where_the_user_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "u"))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(daemon.home, "SYSTEM_STATE", tmp_path / "system")
    for name in ("anna", "mia"):
        (tmp_path / "system" / name).mkdir(parents=True)
        (tmp_path / "system" / name / "key").touch()
    environment = {"HOME": str(tmp_path / "u"), "USER": "mia"}

    assert find_home(environment).state == tmp_path / "system" / "mia"

    own = tmp_path / "u" / ".local" / "share" / "dizzyd"
    own.mkdir(parents=True)
    (own / "key").touch()
    assert find_home(environment).state == own


def test_D5_home_and_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    home = Home(config=tmp_path / "h" / "config.toml", state=tmp_path / "h")

    with umask(0):
        home.prepare()
        with home.locked():
            make_node(home, name="x", listen="[::]:7499")

    assert mode(home.state) == 0o700
    assert {path.name: oct(mode(path)) for path in home.state.iterdir()} == {
        "config.toml": "0o600",
        "key": "0o600",
        "lock": "0o600",
    }


def test_D5_an_existing_home_is_tightened_and_links_are_not_followed(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.write_text("not ours")
    foreign.chmod(0o644)
    home = make_home(tmp_path / "h")
    home.database.touch()
    (home.state / "spool").mkdir()
    (home.state / "link").symlink_to(foreign)
    for path in (home.state, home.database, home.state / "spool"):
        path.chmod(0o755)

    home.prepare()

    assert mode(home.state) == 0o700
    assert mode(home.database) == 0o600
    assert mode(home.state / "spool") == 0o700
    assert mode(foreign) == 0o644


def test_D5_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    make_key(tmp_path / "key", AgentKey.from_seed(bytes(32)))
    (tmp_path / "key").chmod(0o640)

    with pytest.raises(KeyDamaged, match="others may read it"):
        read_key(tmp_path / "key")


@pytest.mark.parametrize("directory", ["/", "HOME"])
def test_a_home_that_is_not_of_its_own_is_refused(
    directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = Path(directory.replace("HOME", str(tmp_path)))
    before = mode(path)

    with pytest.raises(DizzyError, match="not a directory of its own"):
        Home(config=path / "config.toml", state=path).prepare()

    assert mode(path) == before


def test_H2_the_lock_has_one_owner_and_dies_with_it(tmp_path: Path) -> None:
    home = make_home(tmp_path / "h")
    assert not home.is_locked()
    program = f"""
import sys
from pathlib import Path
from daemon.home import Home
home = Home(config=Path({str(home.config)!r}), state=Path({str(home.state)!r}))
with home.locked():
    print("locked", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"

        assert home.is_locked()
        with pytest.raises(AlreadyRunning, match=f"process {other.pid}") as caught, home.locked():
            pass
        assert caught.value.exit_code == 1
        other.kill()

    assert not home.is_locked()
    with home.locked():
        assert home.is_locked()


def test_asking_for_the_lock_never_stands_in_its_owners_way(tmp_path: Path) -> None:
    home = make_home(tmp_path / "h")

    assert not home.is_locked()
    with home.locked():
        assert home.is_locked()
        assert home.is_locked()


def test_a_long_home_has_a_short_socket_path(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(6):
        deep = deep / ("d" * 60)
    deep.mkdir(parents=True)
    home = make_home(deep)
    assert len(str(home.control_socket)) > 300

    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as asking:
        with home.short_socket_path() as path:
            listening.bind(path)
        listening.listen(1)
        with home.short_socket_path() as path:
            asking.connect(path)

    assert stat.S_ISSOCK(home.control_socket.lstat().st_mode)


@pytest.mark.parametrize(("over", "is_refused"), [(0, False), (1, True)])
def test_a_home_is_as_long_as_sqlite_takes_and_no_longer(
    tmp_path: Path, over: int, is_refused: bool
) -> None:
    state = tmp_path
    spare = DATABASE_PATH_LIMIT_BYTES + over - len(os.fsencode(state / "database"))
    while spare > 200:
        state, spare = state / ("d" * 99), spare - 100
    state /= "d" * (spare - 1)
    home = Home(config=state / "config.toml", state=state)

    if is_refused:
        with pytest.raises(DizzyError, match="1 bytes longer than SQLite takes"):
            home.prepare()
        assert not state.exists()
        state.mkdir(parents=True)
        with pytest.raises(DizzyError, match="cannot open"):
            open_database(home.database)
    else:
        home.prepare()
        open_database(home.database).close()


def test_D10_init_twice_never_replaces_key_or_config(tmp_path: Path) -> None:
    home = make_home(tmp_path / "h")
    first = make_node(home, name="one", listen="[::]:1")
    before = [path.read_bytes() for path in (home.key, home.config)]

    second = make_node(home, name="two", listen="[::]:2")

    assert first.is_new
    assert not second.is_new
    assert first.agent == second.agent
    assert [path.read_bytes() for path in (home.key, home.config)] == before
    with pytest.raises(DizzyError, match="never replaced"):
        make_key(home.key, AgentKey.from_seed(bytes(32)))
    assert home.key.read_bytes() == before[0]


@pytest.mark.parametrize("missing", ["key", "config"])
def test_a_half_made_home_is_completed(tmp_path: Path, missing: str) -> None:
    home = make_home(tmp_path / "h")
    make_node(home, name="one", listen="[::]:1")
    kept = home.config if missing == "key" else home.key
    before = kept.read_bytes()
    getattr(home, missing).unlink()

    assert make_node(home, name="two", listen="[::]:2").is_new

    assert kept.read_bytes() == before
    assert home.key.exists()
    assert home.config.exists()


def test_a_home_with_a_database_and_no_key_gets_no_other_key(tmp_path: Path) -> None:
    home = make_home(tmp_path / "h")
    home.database.touch()

    with pytest.raises(DizzyError, match="is missing, and the database"):
        make_node(home, name="one", listen="[::]:1")

    assert not home.key.exists()


def test_the_key_comes_back_and_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    key = AgentKey.from_seed(bytes(range(32)))
    path = tmp_path / "key"
    make_key(path, key)
    assert read_key(path).seed == key.seed
    whole = path.read_bytes()

    damaged = [whole[:length] for length in range(len(whole))]
    damaged += [whole[:at] + b"!" + whole[at + 1 :] for at in range(len(whole))]
    for content in (*damaged, whole + b"\n", b"\xff" * 40):
        path.write_bytes(content)
        with pytest.raises(KeyDamaged):
            read_key(path)


def test_a_busy_port_is_passed_over() -> None:
    with socket.socket(socket.AF_INET6) as busy:
        busy.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        busy.bind(("::", 0))
        busy.listen(1)
        port = busy.getsockname()[1]

        assert free_listen_address(port) != f"[::]:{port}"
    assert free_listen_address(port) == f"[::]:{port}"
