"""Play small histories on real nodes, for tests that name what must come of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

from daemon.disk import FileKind
from tests.sim import real
from tests.sim.history import Step, content_of
from tests.sim.real import RealNode
from tests.sim.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sim.history import Argument
    from tests.sim.outside import Outside
    from tests.sim.world import Place, SimNode

SEED = 1


def step(at_ms: int, node: int, verb: str, *args: Argument) -> Step:
    """Make a step."""
    return Step(at_ms, node, verb, args)


def played(
    *steps: Step,
    seed: int = SEED,
    nodes: int = 3,
    make: Callable[[Place], SimNode] = real.make,
    before: Callable[[list[Outside]], None] | None = None,
    disk_options: dict[str, object] | None = None,
    folds_from: int | None = None,
) -> World:
    """Play steps; everything that is true of all histories must be true of this one."""
    world = World(
        seed,
        make,
        nodes=nodes,
        history=list(steps),
        before=before,
        disk_options=disk_options,
        folds_from=folds_from,
    )

    assert world.run().failures == ()

    return world


def files(world: World, index: int = 0) -> dict[str, bytes]:
    """Give path and content of every file of a node."""
    tree = world.places[index].outside.tree()
    return {
        os.fsdecode(path): value for path, (kind, value, _) in tree.items() if kind is FileKind.FILE
    }


def directories(world: World, index: int = 0) -> set[str]:
    """Give the paths of all directories of a node."""
    tree = world.places[index].outside.tree()
    return {os.fsdecode(path) for path, (kind, _, _) in tree.items() if kind is FileKind.DIRECTORY}


def content(number: int, seed: int = SEED) -> bytes:
    """Give the content that steps name by a number."""
    return content_of(seed, number)


def node_of(world: World, index: int) -> RealNode:
    """Give the node of the last life."""
    return cast("RealNode", world.places[index].node)


def identities(world: World, index: int = 0) -> dict[str, bytes]:
    """Give the id of the object at each name of the root directory."""
    stored = node_of(world, index).stored
    return {
        os.fsdecode(entry.name): stored.id_of(entry.object_no)
        for entry in stored.view().all_entries()
        if entry.parent_no == stored.root_no
    }
