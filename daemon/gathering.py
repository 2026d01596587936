"""Gather the removals of a whole directory into one step.

Steps that take away everything in a directory and then the directory itself become one RemoveTree
in the place of the last of them. Only what synced has where it will be found counts; whether the
disk holds nothing else is seen before the step is done.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from daemon.steps import Removal, RemoveDirectory, RemoveFile, RemoveTree, Step


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
