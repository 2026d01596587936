"""Hold what documents and comments say of each other: what they link to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DECISIONS = sorted(path.name for path in (ROOT / "docs" / "decisions").iterdir())
DOCUMENTS = sorted(
    str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
)
_LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")


def test_decisions_are_numbered_one_after_the_other() -> None:
    numbers = [int(name[:4]) for name in DECISIONS if re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", name)]

    assert numbers == list(range(1, len(DECISIONS) + 1))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_links_to_is_there(document: str) -> None:
    path = ROOT / document
    links = [link for link in _LINK.findall(path.read_text()) if "://" not in link]

    assert [link for link in links if not (path.parent / link).exists()] == []


def test_a_link_to_a_decision_says_its_number() -> None:
    wrong = [
        (document, label, number)
        for document in DOCUMENTS
        for label, number in re.findall(
            r"\[(?:decisions/)?(\d{4})\]\((?:decisions/)?(\d{4})-", (ROOT / document).read_text()
        )
        if label != number
    ]

    assert wrong == []


def test_decisions_named_in_text_and_code_are_there() -> None:
    texts = [ROOT / document for document in DOCUMENTS]
    for package in ("store", "peers", "daemon", "tests"):
        texts += (ROOT / package).rglob("*.py")
    named = [
        (path.name, said)
        for path in texts
        for said in re.findall(r"\bdecisions?[ /](\d{4}(?:-[a-z0-9-]+\.md)?)", path.read_text())
    ]

    assert len(named) > 20
    assert [
        (name, said) for name, said in named if not any(one.startswith(said) for one in DECISIONS)
    ] == []


def test_a_decision_that_was_replaced_says_by_which_and_the_other_says_so_too() -> None:
    folder = ROOT / "docs" / "decisions"
    told = {
        (name, verb, other)
        for name in DECISIONS
        for verb, other in re.findall(
            r"(?m)^(Replace[sd])(?: by)? \[\d{4}\]\(([^)]+)\)\.$", (folder / name).read_text()
        )
    }

    assert {(name, other) for name, verb, other in told if verb == "Replaced"} == {
        (other, name) for name, verb, other in told if verb == "Replaces"
    }
