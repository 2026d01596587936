from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.nodes import Ended, Node, Nodes, eventually
from tests.e2e.trees import write_files


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with two folders, which no test here changes."""
    made = Nodes(tmp_path_factory.mktemp("commands"))
    one = made.add("one")
    for name in ("photos", "videos"):
        write_files(one.user_home / name, {"file": name.encode()})
    one.start()
    for name in ("photos", "videos"):
        one.must("share", str(one.user_home / name))
    eventually("it rests", lambda: one.about("videos")["state"] == "idle")
    yield one
    one.stop()
    made.end()
    assert not made.complaints(), made.complaints()


def assert_refused(ended: Ended, code: int, line: str) -> None:
    """One line, at most one hint, the code of the contract, and nothing on stdout."""
    lines = ended.err.splitlines()
    assert ended.code == code, ended
    assert re.fullmatch(line, lines[0]), ended.err
    assert len(lines) <= 2, ended.err
    assert len(lines) == 1 or lines[1].startswith("hint: "), ended.err
    assert ended.out == ""


UNKNOWN = r"dizzyd: .*: .*nothing.*|dizzyd: .*nothing.*: .+"


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["share", "{home}/missing"], 1, r"dizzyd: share .*/missing: does not exist"),
        (["share", "{home}/photos/file"], 1, r"dizzyd: share .*/file: is no directory"),
        (["share", "/"], 1, r"dizzyd: share /: .*root of the file system.*"),
        (["share", "{home}"], 1, r"dizzyd: share .*: holds .*"),
        (["share", "{home}/dizzyd"], 1, r"dizzyd: share .*: is the home already"),
        (["share", "{home}/photos"], 1, r"dizzyd: share .*photos.*"),
        (["share", "{home}/free", "--name", ""], 2, r"dizzyd: .*name.*: .*empty.*"),
        (["share", "{home}/free", "--name", "a\nb"], 2, r"dizzyd: .*name.*: .*control.*"),
        (["share", "{home}/free", "--name", "photos"], 1, r"dizzyd: share .*: .*photos.*already"),
        (["share", "{home}/photos/.dizzyd"], 1, r"dizzyd: share .*: lies in .*photos.*"),
        (["share"], 2, r"dizzyd: share: .*PATH.*"),
        (["share", ""], 2, r"dizzyd: path: is empty"),
        (["invite", "nothing"], 1, UNKNOWN),
        (["invite", "photos", "--role", "owner"], 2, r"dizzyd: invite: .*--role.*"),
        (["invite", "photos", "--expires", "never"], 2, r"dizzyd: invite: .*--expires.*"),
        (["invite", "photos", "--expires", "-1h"], 2, r"dizzyd: invite: .*"),
        (["invite", "photos", "--address", "localhost"], 2, r"dizzyd: invite: .*--address.*"),
        (["invite", "photos", "--address", "h:99999"], 2, r"dizzyd: invite: .*--address.*"),
        (
            ["invite", "photos", *(["--address", "h:1"] * 17)],
            2,
            r"dizzyd: invite photos: takes at most 16 addresses",
        ),
        (["join"], 2, r"dizzyd: join: .*INVITE.*"),
        (["join", "dizzyd1.wrong"], 2, r"dizzyd: join: the invite .*"),
        (["leave", "nothing"], 1, UNKNOWN),
        (["leave"], 2, r"dizzyd: leave: .*NAME.*"),
        (["unshare", "nothing"], 1, UNKNOWN),
        (["verify", "nothing"], 1, UNKNOWN),
        (["rebuild", "nothing"], 1, UNKNOWN),
        (["scan", "nothing"], 1, UNKNOWN),
        (["wait", "nothing"], 1, UNKNOWN),
        (["wait", "--timeout", "soon"], 2, r"dizzyd: wait: .*--timeout.*"),
        (["wait", "photos", "--timeout", "0"], 75, r"dizzyd: wait: no peer .*"),
        (["cat", "{home}/photos/missing"], 1, r"dizzyd: cat .*missing: .+"),
        (["cat", "{home}/photos"], 1, r"dizzyd: cat .*photos: .+"),
        (["cat", "/etc/passwd"], 1, r"dizzyd: cat /etc/passwd: is in no shared folder"),
        (["cat", "00" * 32], 75, r"dizzyd: cat 0000.*: .+"),
        (["confirm", "nothing"], 1, UNKNOWN),
        (["undo-deletions", "nothing"], 1, UNKNOWN),
        (["confirm", "photos"], 1, r"dizzyd: confirm photos: nothing is held"),
        (["undo-deletions", "photos"], 1, r"dizzyd: undo-deletions photos: nothing is held"),
        (["revert", "nothing"], 1, UNKNOWN),
        (["init"], 1, r"dizzyd: .*: .+"),
        (["init", "--listen", "nowhere"], 2, r"dizzyd: init: .*--listen.*"),
        (["run", "--first-folder", ""], 2, r"dizzyd: path: is empty"),
        (["service", "install", "--user", "--system"], 2, r"dizzyd: service: .*"),
        (["statsu"], 2, r"dizzyd: command statsu: is not known"),
        (["status", "--jsno"], 2, r"dizzyd: status: .*--jsno.*"),
        (["id", "extra"], 2, r"dizzyd: id: .*extra.*"),
    ],
)
def test_bad_input_is_one_line_a_hint_and_a_code(
    node: Node, arguments: list[str], code: int, line: str
) -> None:
    (node.user_home / "free").mkdir(exist_ok=True)

    ended = node.dizzyd(*(one.format(home=node.user_home) for one in arguments))

    assert_refused(ended, code, line)


def test_an_ambiguous_or_unknown_name_lists_the_candidates(node: Node) -> None:
    hint = node.dizzyd("verify", "nothing").err.partition("hint: ")[2]
    assert "photos" in hint
    assert "videos" in hint

    assert_refused(node.dizzyd("verify", ""), 1, r"dizzyd: .*")


def test_a_prefix_of_the_id_is_a_name(node: Node) -> None:
    identity = node.about("photos")["id"]

    assert node.dizzyd("scan", identity[:12]).code == 0
    assert node.dizzyd("scan", identity).code == 0


def test_dizzyd_alone_prints_help_on_stderr(node: Node) -> None:
    ended = node.dizzyd()

    assert (ended.code, ended.out) == (2, "")
    assert "commands:" in ended.err


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("[node]\nlisen = []\n", r"dizzyd: .*\.toml:2:1: node\.lisen: unknown key.*", "listen"),
        ('[node]\nlisten = "x"\n', r"dizzyd: .*config\.toml:2:1: node\.listen: expected .*", ""),
        ("[node\n", r"dizzyd: .*config\.toml:1:6: expected TOML.*", ""),
        ("[limits]\nupload = 10\n", r"dizzyd: .*config\.toml:2:1: limits\.upload: expected .*", ""),
        (
            '[history]\nmin_free = "120%"\n',
            r"dizzyd: .*config\.toml:2:1: history\.min_free: expected .*",
            "",
        ),
        ("[folders.x]\n", r"dizzyd: .*config\.toml:1:1: folders\.x: expected .*path.*", ""),
        ('[node]\nname = "a\\u0007"\n', r"dizzyd: .*config\.toml:2:1: node\.name: expected .*", ""),
    ],
)
def test_a_bad_configuration_names_line_key_and_what_was_expected(
    nodes: Nodes, text: str, line: str, hint: str
) -> None:
    one = nodes.add("one")
    one.config.write_text(text)

    ended = one.dizzyd("run")

    assert_refused(ended, 2, line)
    assert hint in ended.err


def test_without_a_node_every_command_says_so(nodes: Nodes, tmp_path: Path) -> None:
    one = nodes.add("one")
    empty = str(tmp_path / "empty")

    for arguments, code in (
        (["status"], 3),
        (["scan"], 3),
        (["wait"], 3),
        (["id"], 1),
        (["verify"], 1),
        (["share", str(tmp_path)], 1),
    ):
        ended = one.dizzyd(*arguments, DIZZYD_HOME=empty)
        assert ended.code == code, (arguments, ended)
        assert "Traceback" not in ended.err
    assert not Path(empty).exists()


def test_init_makes_a_node_once(nodes: Nodes, tmp_path: Path) -> None:
    one = nodes.add("one")
    home = str(tmp_path / "made")

    made = one.dizzyd("init", "--name", "made", DIZZYD_HOME=home)
    assert made.code == 0
    assert re.fullmatch(r"[0-9a-f]{64}\n", made.out)
    before = (tmp_path / "made" / "config.toml").read_text()
    again = one.dizzyd("init", "--name", "other", DIZZYD_HOME=home)

    assert_refused(again, 1, r"dizzyd: home .*")
    assert (tmp_path / "made" / "config.toml").read_text() == before
    assert one.dizzyd("id", DIZZYD_HOME=home).out == made.out


def test_share_and_leave_keep_the_comments_of_the_configuration(nodes: Nodes) -> None:
    one = nodes.add("one")
    mine = '\n# mine\n[limits]\nupload = "1 MiB/s" # slow\n'
    one.config.write_text(one.config.read_text() + mine)
    one.start()
    nodes.share(one)

    assert "# mine" in one.config.read_text()
    assert "# slow" in one.config.read_text()
    assert "[folders.shared]" in one.config.read_text()
    one.must("leave", "shared")
    assert "shared" not in one.config.read_text()
    assert "# slow" in one.config.read_text()


def test_share_while_stopped_takes_effect_at_the_start(nodes: Nodes) -> None:
    one = nodes.add("one")
    write_files(one.folder, {"file": b"1"})
    assert one.dizzyd("init").code == 0
    identity = one.must("share", str(one.folder))

    one.start()

    assert one.about()["id"] == identity
    eventually("it imports", lambda: one.about()["files"] == 1)
