"""Hold the one door for names, and the names of conflict copies."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from store import paths
from store.errors import UnsafePath

DAY = "2026-11-23"
names = st.binary(min_size=1, max_size=255).filter(
    lambda name: name not in (b".", b"..") and b"/" not in name and b"\0" not in name
)


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b".",
        b"..",
        b"/",
        b"/abs",
        b"a/b",
        b"a/",
        b"../x",
        b"a/../../x",
        b"a//b",
        b"a\0b",
        b"\0",
    ],
)
def test_B1_no_name_leads_out_of_its_directory(name: bytes) -> None:
    with pytest.raises(UnsafePath):
        paths.safe_name(name)


@pytest.mark.parametrize(
    "path", [b"/abs", b"a/", b"a//b", b"a/../b", b"..", b"./a", b"a/.", b"a\0", b"/", b"//"]
)
def test_B1_no_path_leads_out_of_its_folder(path: bytes) -> None:
    with pytest.raises(UnsafePath):
        [paths.safe_name(name) for name in path.split(b"/")]


@pytest.mark.parametrize("name", [b"a\\b", b"..\\x", b"C:x", b"...", b"..a", b" ", b"-", b"~"])
def test_B1_what_is_legal_here_stays_legal(name: bytes) -> None:
    assert paths.safe_name(name) == name


def test_B2_255_bytes_are_a_name_and_256_are_none() -> None:
    assert paths.safe_name(b"x" * 255) == b"x" * 255
    with pytest.raises(UnsafePath):
        paths.safe_name(b"x" * 256)


@given(names, st.binary(max_size=255), st.integers(8, 64))
@example("ä".encode() * 127 + b"x", b"laptop", 64)
@example(b"." * 255, b"", 64)
@example(b"\x80" * 255, b"\x80" * 255, 8)
@example(b"a.tar." + b"z" * 16, b"l" * 255, 64)
def test_B2_a_conflict_name_is_always_a_safe_name(name: bytes, label: bytes, digits: int) -> None:
    copy = paths.conflict_name(name, label, DAY, "f" * digits)

    assert paths.safe_name(copy) == copy
    assert copy != name
    _, extension = paths.split_extension(name)
    assert copy.endswith(b" " + b"f" * digits + b")" + extension)
    assert copy[:1] == name[:1]


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1))
def test_B2_the_stem_is_cut_between_characters(text: str) -> None:
    name = (text * 255).encode()[:255].decode(errors="ignore").encode()
    if name in (b".", b".."):
        return

    copy = paths.conflict_name(name, b"laptop", DAY, "0123abcd")

    copy.decode("utf-8")


@given(names)
def test_B4_names_are_bytes_and_come_through_unchanged(name: bytes) -> None:
    assert paths.safe_name(name) == name


@pytest.mark.parametrize(
    "name", [b"new\nline", b"\x1b[31m", "\u202egpj.exe".encode(), b"\xed\xa0\x80", b"\xff\xfe"]
)
def test_B4_hostile_looking_names_are_names(name: bytes) -> None:
    assert paths.safe_name(name) == name
    assert paths.conflict_name(name, b"l", DAY, "00").startswith(paths.split_extension(name)[0])


def test_B7_dizzyd_is_reserved_at_the_root_alone() -> None:
    assert paths.is_reserved(parent_is_root=True, name=b".dizzyd")
    assert not paths.is_reserved(parent_is_root=False, name=b".dizzyd")
    assert not paths.is_reserved(parent_is_root=True, name=b".dizzyignore")
    assert not paths.is_reserved(parent_is_root=True, name=b".dizzyd2")


@pytest.mark.parametrize(
    ("name", "stem", "extension"),
    [
        (b"notes.txt", b"notes", b".txt"),
        (b"README", b"README", b""),
        (b".bashrc", b".bashrc", b""),
        (b".config.json", b".config", b".json"),
        (b"a.tar.gz", b"a", b".tar.gz"),
        (b"A.TAR.xz", b"A", b".TAR.xz"),
        (b"a.tar", b"a", b".tar"),
        (b".tar.gz", b".tar", b".gz"),
        (b"a.b.c", b"a.b", b".c"),
        (b"a.", b"a.", b""),
        (b"...", b"...", b""),
        (b"..a", b"..a", b""),
        (b"..a.b", b"..a", b".b"),
        (b"a." + b"e" * 16, b"a", b"." + b"e" * 16),
        (b"a." + b"e" * 200, b"a." + b"e" * 200, b""),
        (b"Mr. Smith", b"Mr. Smith", b""),
        (b"a.\xc3\xa4", b"a.\xc3\xa4", b""),
        (b"x.c++", b"x", b".c++"),
        (b"a\n.txt\n", b"a\n.txt\n", b""),
    ],
)
def test_extension_is_what_programs_go_by(name: bytes, stem: bytes, extension: bytes) -> None:
    assert paths.split_extension(name) == (stem, extension)


@pytest.mark.parametrize(
    ("name", "label", "expected"),
    [
        (b"notes.txt", b"laptop", b"notes (conflict laptop 2026-11-23 0123abcd).txt"),
        (b".bashrc", b"Anna's laptop", b".bashrc (conflict Annaslaptop 2026-11-23 0123abcd)"),
        (b"a.tar.gz", b"x" * 30, b"a (conflict " + b"x" * 24 + b" 2026-11-23 0123abcd).tar.gz"),
        (b"a", "日本".encode(), b"a (conflict unnamed 2026-11-23 0123abcd)"),
        (b"a", b"../..", b"a (conflict .... 2026-11-23 0123abcd)"),
    ],
)
def test_conflict_name_says_who_and_when(name: bytes, label: bytes, expected: bytes) -> None:
    assert paths.conflict_name(name, label, DAY, "0123abcd") == expected


@given(st.integers(0, 2_932_896), st.integers(0, 86_399_999))
@example(0, 0)
@example(11_016, 0)
@example(2_932_896, 86_399_999)
def test_utc_day_is_the_calendars(days: int, rest_ms: int) -> None:
    expected = dt.date(1970, 1, 1) + dt.timedelta(days)

    assert paths.utc_day(days * 86_400_000 + rest_ms) == expected.isoformat()


def test_P49_any_clock_gives_a_day() -> None:
    assert paths.utc_day(-(2**63)) == "1970-01-01"
    assert paths.utc_day(2**63 - 1) == "9999-12-31"
