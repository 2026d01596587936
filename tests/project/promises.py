"""Find which tests are named after which hazard (A1 … H8) or property (P1 … P49).

`python -m tests.project.promises` renews the lists in docs/threats.md and docs/properties.md.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TESTS = ROOT / "tests"

_CELLS = 3  # id, what, tests
_ID = re.compile(r"(?<=_)([A-H]|P)(\d+)(?=_|$)")


def named_tests() -> dict[str, set[str]]:
    """Give id -> the files, below tests/, that hold tests named after it."""
    found: dict[str, set[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if not node.name.startswith("test_"):
                continue
            for letter, number in _ID.findall(node.name):
                place = path.relative_to(TESTS).as_posix()
                found.setdefault(letter + number, set()).add(place)
    return found


def table(document: str) -> dict[str, tuple[str, ...]]:
    """Read the rows of a document's tables: id -> the other cells."""
    found: dict[str, tuple[str, ...]] = {}
    for line in (ROOT / "docs" / document).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("| ") and re.fullmatch(r"(?:[A-H]|P)\d+", cells[0]):
            assert cells[0] not in found, f"{cells[0]} stands twice in {document}"
            found[cells[0]] = tuple(cells[1:])
    return found


def renew(document: str) -> None:
    """Write into a document's tables where the tests of each id are; reasons stay."""
    have = named_tests()
    path = ROOT / "docs" / document
    lines = []
    for line in path.read_text().splitlines():
        cells = line.strip("| ").split(" | ")
        is_row = line.startswith("| ") and cells[0] in have and len(cells) == _CELLS
        if is_row and not cells[2].startswith("elsewhere: "):
            cells[2] = ", ".join(f"`{file}`" for file in sorted(have[cells[0]]))
            lines.append(f"| {' | '.join(cells)} |")
        else:
            lines.append(line)
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    for document in ("threats.md", "properties.md"):
        renew(document)
