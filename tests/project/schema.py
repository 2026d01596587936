"""Write store/schema.py from store.tables: `python -m tests.project.schema`."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlmodel import SQLModel

import store.tables

MODULE = Path(store.tables.__file__).with_name("schema.py")
_TEXT = '''"""Hold the statements that make all tables of a node's database.

Written from store.tables by `python -m tests.project.schema`; a test holds the two together. A
daemon on a new home needs neither SQLModel nor SQLAlchemy for them: that is 20 MB.
"""

from __future__ import annotations

SCHEMA = """
{statements};
"""
'''


def compiled() -> str:
    """Give the module that store.tables asks for."""
    dialect = sqlite.dialect()
    statements: list[str] = []
    for table in SQLModel.metadata.sorted_tables:
        statements.append(str(CreateTable(table).compile(dialect=dialect)))
        statements.extend(
            str(CreateIndex(index).compile(dialect=dialect))
            for index in sorted(table.indexes, key=lambda index: str(index.name))
        )
    lines = (" ".join(statement.split()) for statement in statements)
    return _TEXT.format(statements=";\n".join(_folded(line) for line in lines))


def _folded(statement: str) -> str:
    """Break a statement behind its columns, to lines of at most 100 characters."""
    lines = [""]
    for word in statement.split(" "):
        if len(lines[-1]) + 1 + len(word) > 98:
            lines.append("   ")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)


if __name__ == "__main__":
    MODULE.write_text(compiled(), encoding="utf-8")
