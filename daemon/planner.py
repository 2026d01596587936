"""Decide which steps make this disk equal to the view.

Synced rows that share a path are one thing on disk; entries that share a path are one thing
wanted. The planner pairs things found with things wanted, so that whatever can be renamed is
renamed, and leaves the order of the steps to `daemon.ordering`.

It does no I/O, sees no path and trusts no disk: whether the disk really is as synced says is
found out when a step is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from daemon.gathering import gather_removals
from daemon.ordering import Node, Ordering
from daemon.pairing import Pairing
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
) -> Plan:
    """Give the ordered steps from what synced says to what the view wants.

    `wanted` are all view entries of the objects that changed, `synced` all rows of the same
    objects; an object with rows and no entry leaves the disk. `occupants` are the synced rows
    of other objects at `places(wanted, synced)`, and `parent_of` gives the synced parent of any
    directory, None for the root: without them shared paths are not told from free ones, and a
    directory could be sent below itself (the disk then refuses). `objects` names further objects
    that were looked at, so that this plan supersedes earlier ones for them too.
    """
    looked_at = frozenset(
        [*objects, *(entry.object_no for entry in wanted), *(row.object_no for row in synced)]
    )
    pairing = Pairing(wanted, synced, occupants, parent_of, looked_at)
    pairing.pair_directories()
    pairing.pair_files()
    ordering = Ordering(pairing.finish(), pairing.directory)
    structure = gather_removals(ordering.order())
    steps = (*pairing.binds, *structure, *_contents(pairing, ordering))
    return Plan(steps=steps, blocked=(*pairing.blocked, *ordering.blocked), objects=looked_at)


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
