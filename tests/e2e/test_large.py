"""Large files between real processes: what crosses the line for an edit, and who waits."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from tests.e2e.nodes import Node, Pair, eventually, sized
from tests.e2e.trees import noise, write_large

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1 << 20
SIZE = sized(48, 1024) * MIB


def replaced_by_one_with_a_byte_before(large: Path) -> None:
    """Save as editors do: a new file, then a rename."""
    made = large.with_name(".made.swp")
    with large.open("rb") as old, made.open("wb") as new:
        new.write(b"!")
        while piece := old.read(16 * MIB):
            new.write(piece)
    made.rename(large)


def rewritten_in_the_middle(large: Path) -> None:
    with large.open("r+b") as file:
        file.seek(large.stat().st_size // 2)
        file.write(noise(MIB, seed=large.stat().st_size))


def crossed_bytes(pair: Pair, edit: Callable[[Path], None], at: Node) -> int:
    passed = pair.passed_bytes
    edit(at.folder / "large")
    size = (at.folder / "large").stat().st_size
    eventually(
        "it arrives",
        lambda: all((n.folder / "large").stat().st_size == size for n in (pair.left, pair.right)),
    )
    pair.agree(within_s=120)
    return pair.passed_bytes - passed


def test_an_edit_of_a_large_file_costs_what_changed_wherever_it_is_made(pair: Pair) -> None:
    write_large(pair.left.folder / "large", SIZE, seed=31)
    pair.agree(within_s=300)

    for node in (pair.left, pair.right, pair.left):
        assert crossed_bytes(pair, replaced_by_one_with_a_byte_before, node) <= 64 * 1024
        assert crossed_bytes(pair, rewritten_in_the_middle, node) <= MIB + 128 * 1024

    (pair.right.folder / "large").unlink()
    pair.agree()


def test_small_saves_pass_a_large_transfer(pair: Pair) -> None:
    """How much they are delayed is the benchmark's to say: `--only save-beside-large`."""
    large, there = pair.right.folder / "large", pair.right.folder / "save"
    made = pair.left.folder / ".large.swp"
    write_large(made, sized(256, 2048) * MIB, seed=32)
    with made.open("rb") as file:
        os.fsync(file.fileno())  # else each save waits for it, dizzyd or not
    made.rename(pair.left.folder / "large")

    passed = 0
    while not large.exists() and passed < 100:
        content = noise(1000, seed=passed)
        (pair.left.folder / "save").write_bytes(content)
        eventually("it is saved", partial(_holds, there, content))
        passed += not large.exists()

    assert passed >= 3
    eventually("it arrives", large.exists, within_s=120)
    os.unlink(pair.left.folder / "large")
    pair.agree(within_s=120)


def _holds(path: Path, content: bytes) -> bool:
    return path.exists() and path.read_bytes() == content
