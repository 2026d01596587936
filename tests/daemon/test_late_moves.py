"""See that what was renamed while a look was under way stays the object that it is.

Nodes of tests.daemon.working hear of nothing by themselves: each look is asked for, at the new name
alone, as one that begins before the rename is heard.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from daemon.look_set import LookSet
from tests.daemon.working import Working, alone, eventually, pair

if TYPE_CHECKING:
    from pathlib import Path


def number_at(node: Working, path: bytes) -> int | None:
    rows = node.stored.synced.rows_at(path)
    return rows[0].object_no if rows else None


async def look_at(node: Working, *paths: bytes) -> None:
    """Look at these names alone, and at what that look asks to be looked at again."""
    await node.work._look.look_now(LookSet(paths=paths))
    await eventually(lambda: node.work._look.is_settled)


async def test_P24_a_file_that_is_found_before_its_rename_is_heard_stays_itself(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path) as (node, other):
        file = node.write("x", b"one")
        await node.look()
        await eventually(lambda: other.has("x", b"one"))  # else a rename makes another object
        before = number_at(node, b"x")
        (file.parent / "new").mkdir()
        file.rename(file.parent / "new" / "y")

        await look_at(node, b"new")

        assert before is not None
        assert number_at(node, b"new/y") == before
        assert number_at(node, b"x") is None
        await eventually(lambda: other.has("new/y", b"one"))


async def test_P24_a_directory_that_is_found_before_its_rename_is_heard_stays_itself(
    tmp_path: Path,
) -> None:
    async with alone(tmp_path) as node:
        file = node.write("d/x", b"one")
        await node.look()
        before = number_at(node, b"d"), number_at(node, b"d/x")
        root = file.parent.parent
        (root / "new").mkdir()
        (root / "d").rename(root / "new" / "e")

        await look_at(node, b"new")

        assert None not in before
        assert (number_at(node, b"new/e"), number_at(node, b"new/e/x")) == before
        assert number_at(node, b"d") is None


async def test_what_is_at_both_names_is_two_objects(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        file = node.write("x", b"one")
        await node.look()
        before = number_at(node, b"x")
        os.link(file, file.parent / "linked")

        await look_at(node, b"linked")

        assert number_at(node, b"x") == before
        assert number_at(node, b"linked") not in (None, before)


async def test_a_new_file_at_the_old_name_is_an_edit_and_the_look_ends(tmp_path: Path) -> None:
    async with alone(tmp_path) as node:
        file = node.write("x", b"one")
        await node.look()
        before = number_at(node, b"x")
        file.rename(file.parent / "y")
        node.write("x", b"two")

        await look_at(node, b"y")
        await look_at(node, b"x")

        assert number_at(node, b"x") == before
        assert number_at(node, b"y") not in (None, before)
