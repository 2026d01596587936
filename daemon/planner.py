"""Decide which steps make this disk equal to the view.

Synced rows that share a path are one thing on disk; entries that share a path are one thing
wanted. The planner pairs things found with things wanted, so that whatever can be renamed is
renamed, and leaves the order of the steps to `daemon.ordering`.

It does no I/O, sees no path and trusts no disk: whether the disk really is as synced says is
found out when a step is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from daemon.gathering import gather_removals, plain_removals
from daemon.ordering import Ordering
from daemon.pairing import Pairing
from daemon.plan_nodes import Node
from daemon.steps import (
    Bind,
    Blocked,
    Claim,
    Key,
    MakeDirectory,
    MakeLink,
    MoveName,
    Place,
    Plan,
    RemoveDirectory,
    RemoveFile,
    RemoveTree,
    Renumber,
    SetAttributes,
    Step,
    SwapNames,
    WriteFile,
    changes_attributes,
    is_agreed,
    key_of,
    row_for,
)
from store.ids import Kind
from store.records import Entry, SyncedRow

__all__ = [
    "Bind",
    "Blocked",
    "Claim",
    "Key",
    "MakeDirectory",
    "MakeLink",
    "MoveName",
    "Place",
    "Plan",
    "RemoveDirectory",
    "RemoveFile",
    "RemoveTree",
    "Renumber",
    "SetAttributes",
    "Step",
    "SwapNames",
    "WriteFile",
    "places",
    "plan",
]


def _no_parent(_directory_no: int) -> int | None:
    return None


def places(wanted: Sequence[Entry], synced: Sequence[SyncedRow]) -> set[tuple[int, bytes]]:
    """List the (parent_no, name) at which rows of other objects matter to `plan`."""
    found = {(entry.parent_no, entry.name) for entry in wanted}
    found.update((row.parent_no, row.name) for row in synced)
    return found


def plan(
    wanted: Sequence[Entry],
    synced: Sequence[SyncedRow],
    *,
    occupants: Sequence[SyncedRow] = (),
    parent_of: Callable[[int], int | None] = _no_parent,
    objects: Iterable[int] = (),
    fold: Callable[[bytes], bytes] | None = None,
) -> Plan:
    """Give the ordered steps from what synced says to what the view wants.

    `wanted` are all view entries of the objects that changed, `synced` all rows of the same
    objects; an object with rows and no entry leaves the disk. `occupants` are the synced rows
    of other objects at `places(wanted, synced)`, and `parent_of` gives the synced parent of any
    directory, None for the root: without them shared paths are not told from free ones, and a
    directory could be sent below itself (the disk then refuses). `objects` names further objects
    that were looked at, so that this plan supersedes earlier ones for them too. `fold` gives the
    same for names that this disk takes for one.
    """
    looked_at = frozenset(
        [*objects, *(entry.object_no for entry in wanted), *(row.object_no for row in synced)]
    )
    if not wanted and not occupants and (removals := plain_removals(synced)) is not None:
        return Plan(steps=tuple(removals), objects=looked_at)
    plain, others = _part_new(wanted, synced, occupants)
    pairing = Pairing(others, synced, occupants, parent_of, looked_at)
    pairing.pair_directories()
    pairing.pair_files()
    ordering = Ordering(pairing.finish(), pairing.directory, fold)
    structure = gather_removals(ordering.order())
    new = _new_contents(plain, pairing, ordering)
    steps = (*pairing.binds, *structure, *new, *_contents(pairing, ordering))
    return Plan(steps=steps, blocked=(*pairing.blocked, *ordering.blocked), objects=looked_at)


def _part_new(
    wanted: Sequence[Entry], synced: Sequence[SyncedRow], occupants: Sequence[SyncedRow]
) -> tuple[list[Entry], Sequence[Entry]]:
    """Part what is plainly new from what may have to do with something on this disk.

    An import is nothing but new files, and pairing them is most of what its plan would cost. By
    name and by value, wherever that stands: which directories will be the same one is not known.
    """
    objects = {row.object_no for row in synced}
    names = {row.name for row in (*synced, *occupants)}
    values = {row.value for row in synced if row.kind is Kind.FILE}
    seen: dict[tuple[int, bytes], Entry | None] = {}  # None: several want it
    for entry in wanted:
        place = (entry.parent_no, entry.name)
        seen[place] = None if place in seen else entry
    plain: list[Entry] = []
    others: list[Entry] = []
    for entry in wanted:
        is_new = (
            entry.kind is not Kind.DIRECTORY
            and seen[entry.parent_no, entry.name] is entry
            and not entry.copy
            and not entry.collapsed
            and entry.object_no not in objects
            and entry.name not in names
            and entry.value not in values
        )
        (plain if is_new else others).append(entry)
    return plain, others


def _new_contents(plain: Sequence[Entry], pairing: Pairing, ordering: Ordering) -> Iterable[Step]:
    """Give the steps for new files and links, once every name is in its place."""
    goals: dict[int, Node] = {}
    for entry in plain:
        goal = goals.get(entry.parent_no)
        if goal is None:
            goal = goals[entry.parent_no] = pairing.goal(entry.parent_no)
        claim = Claim(entry)
        if not ordering.is_free(goal, entry.name):
            node = Node()
            node.claim, node.goal_parent = claim, goal
            if not ordering.is_ready(node):  # it notes what is in the way
                continue
        yield MakeLink(claim) if entry.kind is Kind.SYMLINK else WriteFile(claim)


def _contents(pairing: Pairing, ordering: Ordering) -> Iterable[Step]:
    """Give the steps that follow once every name is in its place."""
    attributes: list[Step] = []
    for node in pairing.nodes:
        claim = node.claim
        if claim is None or node.kind is Kind.DIRECTORY:
            continue
        if node.is_carried:
            if _sets_attributes(claim, node.rows):
                attributes.append(_attributes_step(claim, node.rows))
            continue
        if not ordering.is_ready(node):
            continue
        if not node.rows or node.rows[0].value != claim.entry.value:
            yield _content_step(node, claim)
        elif _sets_attributes(claim, node.rows):
            attributes.append(_attributes_step(claim, node.rows))
        elif node.was_in_place and not is_agreed(claim, node.rows):
            attributes.append(Bind(claim, node.rows))
    yield from attributes
    yield from pairing.late_binds


def _content_step(node: Node, claim: Claim) -> Step:
    if claim.entry.kind is Kind.SYMLINK:
        return MakeLink(claim, node.rows)
    if node.carries is not None:
        return WriteFile(claim, node.carries.rows, node.carries.claim)
    return WriteFile(claim, node.rows)


def _sets_attributes(claim: Claim, rows: tuple[SyncedRow, ...]) -> bool:
    return changes_attributes(claim.entry, row_for(key_of(claim.entry), rows))


def _attributes_step(claim: Claim, rows: tuple[SyncedRow, ...]) -> SetAttributes:
    row = row_for(key_of(claim.entry), rows)
    return SetAttributes(claim, rows, claim.entry.mtime_ns != row.shared_mtime_ns)
