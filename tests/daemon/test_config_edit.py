from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.config import read_config
from daemon.config_edit import add_folder, remove_folder, write_new_config, write_peer
from daemon.config_text import ConfigError
from store.errors import DizzyError
from store.ids import AgentId, FolderId

ID = FolderId(bytes(range(32)))
AGENT = AgentId(bytes(range(32, 64)))
OTHER = AgentId(bytes(range(64, 96)))

WITH_COMMENTS = """\
# my node
[node]
name = "laptop"   # mine

# limits first, I like that
[limits]
upload = "1 MiB/s"

[folders.music] # all of it
path = "~/Music"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(WITH_COMMENTS)
    return path


def share(file: Path, name: str, path: str, folder: FolderId = ID) -> None:
    where = Path(path)
    add_folder(file, state=file.parent, name=name, path=where, folder=folder, user_home="/home/u")


def peer(file: Path, name: str, agent: AgentId, *addresses: str) -> str:
    return write_peer(
        file, state=file.parent, name=name, agent=agent, addresses=addresses, user_home="/home/u"
    )


def test_share_keeps_comments_and_order(file: Path) -> None:
    share(file, "photos", "/home/u/Photos")

    text = file.read_text()
    assert text.startswith(WITH_COMMENTS)
    assert text.endswith(f'[folders.photos]\npath = "~/Photos"\nid = "{ID.hex()}"\n')
    assert read_config(file, state=file.parent, user_home="/home/u").folders["photos"].id == ID


def test_sharing_again_changes_only_path_and_id(file: Path) -> None:
    share(file, "music", "/srv/music")

    assert "[folders.music] # all of it\n" in file.read_text()
    config = read_config(file, state=file.parent, user_home="/home/u")
    assert config.folders["music"].path == Path("/srv/music")
    assert config.folders["music"].id == ID


@pytest.mark.parametrize("name", ["a b", "ü", 'quo"te', "dot.ted", "[x]", "#"])
def test_odd_names_of_folders_come_back_as_they_were(file: Path, name: str) -> None:
    share(file, name, "/srv/x")
    share(file, "after", "/srv/y", FolderId(bytes(32)))

    config = read_config(file, state=file.parent, user_home="/home/u")
    assert list(config.folders) == ["music", name, "after"]


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 256, "\udc80"])
def test_names_that_no_folder_can_have_are_refused(file: Path, name: str) -> None:
    with pytest.raises(DizzyError, match=r"expected a name|not UTF-8"):
        share(file, name, "/srv/x")

    assert file.read_text() == WITH_COMMENTS


def test_a_path_that_is_not_utf8_is_refused(file: Path) -> None:
    with pytest.raises(DizzyError, match="not UTF-8"):
        share(file, "x", os.fsdecode(b"/srv/\xff"))


def test_D9_an_edit_that_would_overlap_changes_nothing(file: Path) -> None:
    with pytest.raises(DizzyError, match="neither holds nor lies in folder music") as caught:
        share(file, "mp3", "/home/u/Music/mp3")

    assert ":1:1" not in str(caught.value)
    assert file.read_text() == WITH_COMMENTS


def test_leave_takes_out_the_table_alone(file: Path) -> None:
    share(file, "photos", "/srv/photos")

    remove_folder(file, state=file.parent, name="photos", user_home="/home/u")
    remove_folder(file, state=file.parent, name="photos", user_home="/home/u")

    assert file.read_text().rstrip("\n") == WITH_COMMENTS.rstrip("\n")


def test_a_wrong_config_is_never_edited(file: Path) -> None:
    file.write_text(WITH_COMMENTS + "wrong = 1\n")

    with pytest.raises(ConfigError, match="wrong: unknown key"):
        share(file, "photos", "/srv/photos")

    assert file.read_text() == WITH_COMMENTS + "wrong = 1\n"


def test_folders_in_inline_and_dotted_form_can_be_edited(file: Path) -> None:
    file.write_text('folders = {a = {path = "/a"}}\n')
    share(file, "b", "/b")
    assert list(read_config(file, state=file.parent).folders) == ["a", "b"]

    file.write_text('folders.a.path = "/a"')
    share(file, "b", "/b")
    assert list(read_config(file, state=file.parent).folders) == ["a", "b"]


def test_dos_line_ends_and_a_last_line_without_end_survive(file: Path) -> None:
    file.write_bytes(b'[node]\r\nname = "x" # hi\r\n[folders.a]\r\npath = "/a"')

    share(file, "b", "/b")

    assert file.read_bytes().startswith(b'[node]\r\nname = "x" # hi\r\n[folders.a]\r\npath = "/a"')
    assert list(read_config(file, state=file.parent).folders) == ["a", "b"]


def test_a_peer_is_known_by_its_agent(file: Path) -> None:
    assert peer(file, "desktop", AGENT, "a:1") == "desktop"
    before = file.read_text()
    assert peer(file, "renamed", AGENT, "a:1") == "desktop"
    assert file.read_text() == before

    assert peer(file, "desktop", AGENT, "b:2", "c:3") == "desktop"
    assert peer(file, "desktop", OTHER) == "desktop-2"

    peers = read_config(file, state=file.parent).peers
    assert peers["desktop"].addresses == ("b:2", "c:3")
    assert peers["desktop-2"].agent == OTHER


def test_a_hostile_label_becomes_a_harmless_key(file: Path) -> None:
    name = peer(file, "\x1b[31m\n[node]\nname='x'" + "y" * 300, AGENT, "a:1")

    config = read_config(file, state=file.parent, user_home="/home/u")
    assert list(config.peers) == [name]
    assert config.node.name == "laptop"
    assert "\x1b" not in file.read_text()


def test_the_first_config_is_private_and_valid(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"

    write_new_config(file, name='my "node"', listen="[::]:7500")

    config = read_config(file, state=tmp_path)
    assert (config.node.name, config.node.listen) == ('my "node"', ("[::]:7500",))
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(DizzyError, match="exists already"):
        write_new_config(file, name="other", listen="[::]:1")
    assert read_config(file, state=tmp_path).node.name == 'my "node"'


def test_D7_the_file_is_replaced_whole_and_keeps_being_private(file: Path) -> None:
    file.chmod(0o644)
    before = file.stat().st_ino
    with file.open() as reader:
        share(file, "photos", "/srv/photos")

        assert reader.read() == WITH_COMMENTS  # who reads meanwhile sees the old file whole
    assert file.stat().st_ino != before
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_a_config_that_is_a_symlink_stays_one(file: Path, tmp_path: Path) -> None:
    kept = tmp_path / "dotfiles"
    kept.mkdir()
    file.rename(kept / "dizzyd.toml")
    file.symlink_to("dotfiles/dizzyd.toml")

    share(file, "photos", "/srv/photos")

    assert file.is_symlink()
    assert "photos" in (kept / "dizzyd.toml").read_text()


def test_D12_a_full_disk_while_saving_leaves_the_old_file(file: Path) -> None:
    # A file size limit of the process gives the same short write as a full disk.
    program = f"""
import resource, signal
from pathlib import Path
from tests.daemon.test_config_edit import share
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    share(Path({str(file)!r}), "photos", "/srv/photos")
except Exception as error:
    print(type(error).__name__, error)
"""
    root = Path(__file__).resolve().parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-B", "-c", program],
        check=True,
        capture_output=True,
        text=True,
        cwd=root,
        timeout=60,
    )

    assert done.stdout.startswith(f"DizzyError write {file}: File too large")
    assert file.read_text() == WITH_COMMENTS
    assert list(file.parent.iterdir()) == [file]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 10
