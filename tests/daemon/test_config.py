from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from daemon.config import (
    Config,
    ConfigError,
    HistoryConfig,
    LimitsConfig,
    check_keep,
    check_min_free,
    check_rate,
    check_umask,
    parse_config,
    read_config,
    split_address,
)
from daemon.config_text import CONFIG_LIMIT_BYTES, locate, parse_document
from daemon.durations import parse_duration, parse_size

FILE = Path("/home/u/.config/dizzyd/config.toml")
ID = "ab" * 32
EXAMPLE = Path(__file__).resolve().parent.parent.parent / "config.example.toml"


def parse(text: str | bytes) -> Config:
    content = text if isinstance(text, bytes) else text.encode()
    return parse_config(
        parse_document(FILE, content), state=Path("/home/u/state"), user_home="/home/u"
    )


def refusal(text: str | bytes) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.exit_code == 2
    return caught.value


def test_an_empty_file_is_all_defaults() -> None:
    config = parse("")

    assert config.node.listen == ("[::]:7499",)
    assert config.node.name
    assert config.folders == {}
    assert config.peers == {}
    assert config.history == HistoryConfig(min_free_ratio=0.01)
    assert config.limits == LimitsConfig()


def test_every_key_of_the_contract_is_read() -> None:
    config = parse(
        f"""
        [node]
        name = "laptop"
        listen = ["[::1]:1", "0.0.0.0:0"]
        announce = ["laptop.lan:7499"]
        [folders.photos]
        path = "~/Photos/"
        id = "{ID}"
        umask = "022"
        ignore_editor_files = false
        [peers."my desk"]
        agent = "{ID.upper()}"
        addresses = ["desktop.lan:7499"]
        [history]
        keep = "180 days"
        min_free = "5 GiB"
        [limits]
        upload = "10 MiB/s"
        download = "unlimited"
        """
    )

    assert config.folders["photos"].path == Path("/home/u/Photos")
    assert config.folders["photos"].umask == 0o022
    assert config.folders["photos"].id == bytes.fromhex(ID)
    assert not config.folders["photos"].ignore_editor_files
    assert config.peers["my desk"].agent == bytes.fromhex(ID)
    assert config.history == HistoryConfig(
        keep_s=180 * 86400, min_free_bytes=5 << 30, min_free_ratio=None
    )
    assert config.limits.upload_bytes_per_s == 10 << 20
    assert config.limits.download_bytes_per_s is None


def test_the_example_shows_every_key_with_its_default() -> None:
    text = EXAMPLE.read_text()
    shown_defaults = parse(text)
    with_examples = parse(re.sub(r"(?m)^#: ", "", text))

    defaults = parse("")
    assert shown_defaults == defaults
    assert with_examples.folders["photos"].ignore_editor_files
    assert with_examples.node.listen == defaults.node.listen
    document = tomlkit.parse(re.sub(r"(?m)^#: ", "", text)).unwrap()
    for table, known in _known_keys().items():
        found = document[table]
        if table in {"folders", "peers"}:
            (found,) = found.values()
        assert set(found) == known, table


def _known_keys() -> dict[str, set[str]]:
    """Learn the known keys from the errors that name them."""
    known = {}
    tables = {
        "node": "[node]",
        "folders": '[folders.a]\npath = "/a"',
        "peers": f'[peers.a]\nagent = "{ID}"',
        "history": "[history]",
        "limits": "[limits]",
    }
    for table, header in tables.items():
        names = refusal(f"{header}\nzzzzzzzz = 1").why.partition("one of ")[2]
        known[table] = set(names.split(", "))
    return known


def test_D1_bad_toml_has_file_line_and_column() -> None:
    error = refusal('[node]\nname = "x"\nlisten = [\n')

    assert re.fullmatch(rf"{FILE}:[34]:\d+: expected TOML, .+", str(error))


def test_D1_a_file_that_ends_too_early_is_told_so() -> None:
    assert str(refusal("[node]\nname")).endswith(": expected TOML, unexpected end")


@pytest.mark.parametrize(
    "text",
    [
        '[node]\nname = "x"\nname = "y"\n',
        '[node]\nname = "x"\n[limits]\n[node]\n',
        "[folders.a]\npath='/a'\n[folders.a]\npath='/b'",
        "= 3",
        "[node",
        "a = {b = 1, b = 2}",
        "x = " + "[" * 5000,
        "\x00",
    ],
)
def test_D1_anything_that_is_no_toml_is_one_error(text: str) -> None:
    error = refusal(text)

    assert re.match(rf"{FILE}:\d+:\d+: ", str(error))


def test_D1_a_key_set_twice_is_found_where_it_is_set_again() -> None:
    assert ":4:1: " in str(refusal('[node]\n# a\nname = "x"\nname = "y"\n'))


def test_D2_unknown_key_names_the_nearest_known_one() -> None:
    error = refusal('[node]\nname = "laptop"\n  listne = []\n')

    assert str(error).startswith(f"{FILE}:3:3: node.listne: unknown key, expected one of name")
    assert error.hint == 'did you mean "listen"?'


def test_D2_an_unknown_table_is_refused_where_it_stands() -> None:
    error = refusal('[node]\nname = "a"\n\n[folder.photos]\npath = "/a"\n')

    assert str(error).startswith(f"{FILE}:4:1: folder: unknown key")
    assert error.hint == 'did you mean "folders"?'


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("[node]\nname = 5", "2:1", "node.name: expected a name"),
        ('[node]\nlisten = "x"', "2:1", "node.listen: expected a list of strings, got 'x'"),
        ('[node]\nlisten = [\n"a",\n]', "2:1", 'expected an address "HOST:PORT"'),
        ('[node]\nannounce = ["a:0"]', "2:1", "port of 1 to 65535"),
        ('[node]\nlisten = ["a:65536"]', "2:1", "HOST:PORT"),
        ("node = 3", "1:1", "node: expected a table, got 3"),
        ("[folders.a]\n", "1:1", 'folders.a: expected a key "path"'),
        ('[folders.a]\npath = "Photos"', "2:1", "an absolute path"),
        ('[folders.a]\npath = "/a"\numask = "888"', "3:1", "an octal umask"),
        ('[folders.a]\npath = "/a"\numask = 18', "3:1", "an octal umask"),
        ('[folders.a]\npath = "/a"\nid = "12"', "3:1", "64 hex digits"),
        ('[folders.a]\npath = "/a"\nignore_editor_files = "no"', "3:1", "true or false"),
        ('[folders."a\\u0007"]\npath = "/a"', "1:1", "control characters"),
        ('[peers.a]\nagent = "x"', "2:1", "64 hex digits"),
        ('[history]\nkeep = "some"', "2:1", "all"),
        ('[history]\nmin_free = "100%"', "2:1", "a share of the disk"),
        ('[limits]\nupload = "10 MiB"', "2:1", "unlimited"),
        ('[limits]\nupload = "1 B/s"', "2:1", "at least 1 KiB/s"),
    ],
)
def test_D3_wrong_values_have_place_key_expectation_and_what_was_there(
    text: str, place: str, expected: str
) -> None:
    error = refusal(text)

    assert str(error).startswith(f"{FILE}:{place}: ")
    assert expected in str(error)


def test_D4_a_folder_that_does_not_exist_is_no_error_of_the_configuration(tmp_path: Path) -> None:
    config = parse(f'[folders.a]\npath = "{tmp_path}/gone"')

    assert config.folders["a"].path == tmp_path / "gone"


def test_D6_a_file_that_is_not_utf8_has_the_place_of_the_byte() -> None:
    error = refusal('[node]\nname = "é'.encode() + b'\xff"')

    assert str(error) == f"{FILE}:2:10: expected UTF-8, found the byte 0xff"


def test_D6_byte_order_mark_and_dos_line_ends_are_read() -> None:
    assert parse(b'\xef\xbb\xbf[node]\r\nname = "x"\r\n').node.name == "x"


def test_D8_a_key_of_a_newer_version_is_refused_and_nothing_is_rewritten(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[node]\nname = "x"\nflux_capacitor = true\n')
    before = file.stat()

    with pytest.raises(ConfigError, match=r":3:1: node.flux_capacitor: unknown key"):
        read_config(file, state=tmp_path)

    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert file.stat().st_ino == before.st_ino


@pytest.mark.parametrize(
    ("one", "other"),
    [("/a", "/a"), ("/a", "/a/b"), ("/a/b", "/a"), ("/home/u/x", "~/x/y")],
)
def test_D9_overlapping_folders_are_refused(one: str, other: str) -> None:
    error = refusal(f'[folders.one]\npath = "{one}"\n\n[folders.other]\npath = "{other}"\n')

    assert str(error).startswith(f"{FILE}:5:1: folders.other.path: ")
    assert "folder one" in str(error)


def test_D9_one_folder_at_two_paths_is_refused() -> None:
    one = "ab" * 32

    error = refusal(
        f'[folders.one]\npath = "/a"\nid = "{one}"\n\n[folders.other]\npath = "/b"\nid = "{one}"\n'
    )

    assert str(error).startswith(f"{FILE}:7:1: folders.other.id: ")
    assert "folder one" in str(error)


@pytest.mark.parametrize("path", ["/", "~", "~/state", "~/state/x", "/home", "~/.config/dizzyd"])
def test_D9_a_folder_that_holds_or_lies_in_the_home_is_refused(path: str) -> None:
    error = refusal(f'[folders.a]\npath = "{path}"\n')

    assert ":2:1: folders.a.path: " in str(error)


def test_D9_a_symlink_does_not_hide_an_overlap(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    error = refusal(
        f'[folders.a]\npath = "{tmp_path}/real"\n[folders.b]\npath = "{tmp_path}/link/x"\n'
    )

    assert "folder a" in str(error)


def test_siblings_with_a_common_beginning_do_not_overlap() -> None:
    assert len(parse('[folders.a]\npath = "/x/a"\n[folders.b]\npath = "/x/ab"\n').folders) == 2


def test_a_missing_file_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(tmp_path / "config.toml", state=tmp_path)

    assert caught.value.hint == "`dizzyd init` makes it"


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "film").open("wb") as stream:
        os.truncate(stream.fileno(), CONFIG_LIMIT_BYTES * 1000)

    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        read_config(tmp_path / "film", state=tmp_path)


def test_a_pipe_is_refused_and_nobody_waits_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(ConfigError, match="is a pipe"):
        read_config(tmp_path / "pipe", state=tmp_path)


def test_places_in_lists_strings_inline_tables_and_dotted_keys_are_found() -> None:
    text = (
        '[node]\nlisten = [\n  "a:1", # [x]\n]\nname = """\n[peers]\n"""\n'
        "[folders]\na.b = 1\nc = {d = 1}"
    )

    assert locate(text, ("node", "listen")) == (2, 1)
    assert locate(text, ("node", "name")) == (5, 1)
    assert locate(text, ("folders", "a", "b")) == (9, 1)
    assert locate(text, ("folders", "c", "d")) == (10, 1)
    assert locate(text, ("nowhere",)) == (1, 1)


@given(st.text(max_size=200))
def test_any_text_is_a_config_or_one_error(text: str) -> None:
    try:
        parse(text.encode("utf-8", "surrogatepass"))
    except ConfigError as error:
        assert re.match(rf"{FILE}:\d+:\d+: ", str(error))


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1 B", 1), ("10 MiB", 10 << 20), ("1.5GiB", 3 << 29), ("2 kB", 2000)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1 MiB", "1 mib", "1 MiB/s", "9999999 PiB", "1e3"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("60", 60), ("30m", 1800), ("24h", 86400), ("7d", 604800), ("180 days", 180 * 86400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1h", "0", "1 fortnight", "9999 years", "1h30"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(ValueError, match="a duration"):
        parse_duration(text)


def test_values_of_history_limits_and_umask() -> None:
    assert check_keep("all") == (None, None)
    assert check_keep("50 GiB") == (None, 50 << 30)
    assert check_min_free("0.5%") == (None, 0.005)
    assert check_min_free("0") == (0, None)
    assert check_rate("1 KiB/s") == 1024
    assert check_umask("0077") == 0o077
    with pytest.raises(ValueError, match="takes nothing from the owner"):
        check_umask("700")


@pytest.mark.parametrize(
    ("text", "parts"),
    [("[::1]:80", ("::1", 80)), ("a.b:0", ("a.b", 0)), ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1))],
)
def test_addresses(text: str, parts: tuple[str, int]) -> None:
    assert split_address(text) == parts


@pytest.mark.parametrize("text", ["", ":1", "a", "::1:80", "[::1]", "a:b", "a:-1", "http://a:1"])
def test_wrong_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="an address"):
        split_address(text)
