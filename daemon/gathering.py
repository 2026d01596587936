"""Gather the removals of a whole directory into one step; make those of a plan of nothing else.

Steps that take away everything in a directory and then the directory itself become one RemoveTree
in the place of the last of them. Only what synced has where it will be found counts; whether the
disk holds nothing else is seen before the step is done.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from daemon.steps import Place, Removal, RemoveDirectory, RemoveFile, RemoveTree, Step
from store.ids import Kind
from store.records import SyncedRow


def gather_removals(steps: Sequence[Step]) -> list[Step]:
    """Give the steps with each removed directory joined to the removals of what is in it."""
    inside: dict[int, list[int]] = defaultdict(list)  # by the directory's number: indices
    parts: dict[int, list[int]] = {}  # by the index of a directory's removal: what is in it
    gathered: set[int] = set()
    for index, step in enumerate(steps):
        if not isinstance(step, RemoveFile | RemoveDirectory):
            continue
        if isinstance(step, RemoveDirectory):
            below = [each for row in step.rows for each in inside.pop(row.object_no, ())]
            if below:
                parts[index] = below
                gathered.update(below)
        if _is_where_synced_says(step):
            inside[step.source.parent_no].append(index)
    if not parts:
        return list(steps)
    return [
        _tree(steps, index, parts) if index in parts else step
        for index, step in enumerate(steps)
        if index not in gathered
    ]


def plain_removals(rows: Sequence[SyncedRow]) -> list[Step] | None:
    """Give the steps that remove all of these, where that is all there is to do.

    Nothing is wanted and nobody else stands at their places: no names to be paired, no order but
    what is in a directory before it. None where several share a place.
    """
    inside: dict[int, list[SyncedRow]] = defaultdict(list)
    for row in rows:
        inside[row.parent_no].append(row)
    if any(len({row.name for row in there}) < len(there) for there in inside.values()):
        return None
    going = {row.object_no for row in rows if row.kind is Kind.DIRECTORY}
    steps: list[Step] = []
    count = 0
    for parent_no, there in inside.items():
        for row in there if parent_no not in going else ():
            below = _below(row, inside)
            top = _removal(row)
            is_tree = below and isinstance(top, RemoveDirectory)
            steps.append(RemoveTree(top.rows, top.source, below) if is_tree else top)
            count += 1 + len(below)
    return steps if count == len(rows) else None  # else they stand in a circle


def _below(top: SyncedRow, inside: dict[int, list[SyncedRow]]) -> tuple[Removal, ...]:
    """Make the removals of all that is below, what is in a directory before it (E13)."""
    if top.kind is not Kind.DIRECTORY:
        return ()
    found: list[Removal] = []
    waiting = [top.object_no]
    while waiting:
        for row in inside.get(waiting.pop(), ()):
            found.append(_removal(row))
            if row.kind is Kind.DIRECTORY:
                waiting.append(row.object_no)
    found.reverse()
    return tuple(found)


def _removal(row: SyncedRow) -> Removal:
    place = Place(row.parent_no, row.name)
    if row.kind is Kind.DIRECTORY:
        return RemoveDirectory((row,), place)
    return RemoveFile((row,), place)


def _tree(steps: Sequence[Step], top: int, parts: dict[int, list[int]]) -> RemoveTree:
    """Make the step of a whole directory, what is in each before it; without recursion (E13)."""
    found: list[Removal] = []
    waiting = list(parts[top])
    while waiting:
        index = waiting.pop()
        step = steps[index]
        if isinstance(step, RemoveFile | RemoveDirectory):
            found.append(step)
        waiting.extend(parts.get(index, ()))
    found.reverse()
    step = steps[top]
    if not isinstance(step, RemoveDirectory):
        raise TypeError(step)
    return RemoveTree(step.rows, step.source, tuple(found))


def _is_where_synced_says(step: Removal) -> bool:
    """Whether no step before it has put it anywhere else, under whatever number."""
    row = step.rows[0]
    return row.name == step.source.name and row.parent_no == step.source.parent_no
