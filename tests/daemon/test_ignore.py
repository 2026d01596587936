"""Which names are not shared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from daemon.ignore import IgnoreRules, is_private

if TYPE_CHECKING:
    from collections.abc import Callable


def nothing(_path: bytes) -> bool:
    return False


def ignored(
    rules: IgnoreRules,
    path: bytes,
    *,
    is_directory: bool = False,
    there: Callable[[bytes], bool] = nothing,
) -> bool:
    return rules.is_ignored(path, is_directory=is_directory, exists=there)


@pytest.mark.parametrize(
    "name", [b".notes.txt.swp", b"4913", b".#notes", b"~$report.docx", b".goutputstream-X1"]
)
def test_editors_names_are_ignored_unless_switched_off(name: bytes) -> None:
    assert ignored(IgnoreRules(), name)
    assert ignored(IgnoreRules(), b"deep/down/" + name)
    assert not ignored(IgnoreRules(are_editors_ignored=False), name)


@pytest.mark.parametrize(
    "name", [b"notes.swp", b"49130", b"#notes#", b"~notes", b".swp", b"a~b", b"~", b".x.swo", b"4"]
)
def test_no_other_name_is_ever_ignored_by_default(name: bytes) -> None:
    assert not ignored(IgnoreRules(), name)
    assert not ignored(IgnoreRules(), b"deep/" + name)


def test_a_directory_is_never_an_editors() -> None:
    assert not ignored(IgnoreRules(), b"4913", is_directory=True)


def test_a_backup_is_ignored_only_while_its_original_exists() -> None:
    rules = IgnoreRules()
    assert ignored(rules, b"d/notes~", there=lambda path: path == b"d/notes")
    assert not ignored(rules, b"d/notes~")


def test_rules_are_gitignore_lines() -> None:
    rules = IgnoreRules(b"# comment\n*.o\n!keep.o\nbuild/\n/only-here\n\n")
    assert ignored(rules, b"a.o")
    assert ignored(rules, b"d/a.o")
    assert not ignored(rules, b"keep.o")
    assert ignored(rules, b"build", is_directory=True)
    assert ignored(rules, b"d/build/x")
    assert not ignored(rules, b"build")
    assert ignored(rules, b"only-here")
    assert not ignored(rules, b"d/only-here")


def test_B4_names_that_are_not_utf8_are_matched_as_bytes() -> None:
    rules = IgnoreRules(b"caf\xe9*\n")
    assert ignored(rules, b"caf\xe9.txt")
    assert not ignored(rules, b"caf\xc3\xa9.txt")


def test_a_line_that_is_no_pattern_is_named_and_left_out() -> None:
    rules = IgnoreRules(b"*.o\n!\n")
    assert ignored(rules, b"a.o")
    assert rules.faults == ["!"]


def test_our_own_directory_is_private_at_the_root_only() -> None:
    assert is_private(b".dizzyd")
    assert is_private(b".dizzyd/tmp/x")
    assert not is_private(b".dizzyd2")
    assert not is_private(b"d/.dizzyd")
