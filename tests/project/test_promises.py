from __future__ import annotations

import re

import pytest

from tests.project.promises import TESTS, named_tests, table

HAZARDS = {
    f"{letter}{number}"
    for letter, count in {
        "A": 23, "B": 14, "C": 12, "D": 12, "E": 22, "F": 8, "G": 9, "H": 8,
    }.items()
    for number in range(1, count + 1)
}  # fmt: skip
PROPERTIES = {f"P{number}" for number in range(1, 50)}
DOCUMENTS = {"threats.md": HAZARDS, "properties.md": PROPERTIES}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_id_stands_in_its_document_with_tests_or_a_reason(document: str) -> None:
    rows = table(document)

    assert rows.keys() == DOCUMENTS[document]
    for one, (what, where) in rows.items():
        assert len(what) > 5, one
        named = re.findall(r"`([\w/]+\.py)`", where)
        assert named or re.match(r"(not yet|elsewhere): .{10,}", where), one


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_tests_that_a_document_names_exist_and_bear_the_id(document: str) -> None:
    have = named_tests()

    for one, (_, where) in table(document).items():
        for file in re.findall(r"`([\w/]+\.py)`", where):
            assert (TESTS / file).is_file(), f"{one}: {file}"
            if not where.startswith("elsewhere: "):
                assert file in have.get(one, ()), f"{file} has no test named after {one}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_nothing_that_has_tests_is_called_untested(document: str) -> None:
    have = named_tests()

    late = {one for one, (_, where) in table(document).items() if where.startswith("not yet: ")}

    assert not late & have.keys(), "renew docs/: python -m tests.project.promises"


def test_ids_in_the_names_of_tests_are_known_ones() -> None:
    assert not named_tests().keys() - HAZARDS - PROPERTIES
