"""Put into words what is wrong, each with what helps, as `dizzyd status` shows it.

A peer that is away, conflicts and skipped devices are no problems (docs/contract.md). Names are
given as they are: whoever shows them escapes them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from daemon.hints import WatchState
from daemon.status import Problem
from daemon.terminal import counted

if TYPE_CHECKING:
    from daemon.figures import Figures
    from daemon.folder_tools import Trouble
    from daemon.folder_work import FolderWork
    from store.ids import AgentId

NAMED_LIMIT = 8  # unreadable names that are listed one by one
WATCHES_HINT = "sudo sysctl fs.inotify.max_user_watches=1048576; until then it looks every 30 s"


def folder_problems(
    work: FolderWork,
    figures: Figures,
    *,
    names: Mapping[AgentId, str],
    diverged: Iterable[AgentId],
) -> tuple[Problem, ...]:
    """List what is wrong with a folder; `diverged` have our batches and another state."""
    found = list(_of_trouble(work.trouble))
    if work.trouble.watch is None and work.watch_state is WatchState.PARTIAL:
        found.append(Problem(problem="some directories cannot be watched", hint=WATCHES_HINT))
    if work.held:
        held = counted(len(work.held), "deletion")
        name = figures.name
        found.append(
            Problem(
                problem=f"{held} held: most of the folder went unseen",
                hint=f"`dizzyd confirm {name}` deletes, `dizzyd undo-deletions {name}` puts back",
            )
        )
    if work.standing.reverted:
        older = counted(len(work.standing.reverted), "file")
        name = figures.name
        found.append(
            Problem(
                problem=f"{older} went back to older versions, as after a restore: held",
                hint=f"`dizzyd confirm {name}` shares them, "
                f"`dizzyd undo-deletions {name}` brings the newer ones back",
            )
        )
    found += [
        Problem(
            problem=f"what {names.get(agent, agent.hex()[:8])} changed needs a newer dizzyd",
            hint="install a newer dizzyd here; nothing is lost meanwhile",
        )
        for agent in sorted(figures.held_by_newer)
    ]
    found += [
        Problem(
            problem=f"the state is not that of {names.get(agent, agent.hex()[:8])}, the log is",
            hint=f"`dizzyd verify {figures.name}` on both, then `dizzyd rebuild {figures.name}`",
        )
        for agent in sorted(diverged)
    ]
    if figures.has_wrong_checkpoint:
        found.append(
            Problem(
                problem="the owner's last checkpoint tells another state than this node has",
                hint=f"`dizzyd verify {figures.name}` here and there; nobody has to join by it",
            )
        )
    return tuple(found)


def _of_trouble(trouble: Trouble) -> Iterable[Problem]:
    if trouble.root is not None:
        yield Problem(problem=trouble.root[0], hint=trouble.root[1])
    for what, remedy in trouble.failed.values():
        yield Problem(problem=what, hint=remedy)
    if trouble.space is not None:
        yield Problem(problem=trouble.space[0], hint=trouble.space[1])
    if trouble.tail is not None:
        yield Problem(problem=trouble.tail[0], hint=trouble.tail[1])
    if trouble.ignore is not None:
        yield Problem(problem=trouble.ignore[0], hint=trouble.ignore[1])
    if trouble.watch is not None:
        yield Problem(problem=trouble.watch[0], hint=trouble.watch[1] or WATCHES_HINT)
    unreadable = sorted(trouble.unreadable.items())
    for path, why in unreadable[:NAMED_LIMIT]:
        yield Problem(
            problem=f"cannot read {os.fsdecode(path)}" + (f": {why}" if why else ""),
            hint="let dizzyd's user read it; until then it is neither changed nor deleted",
        )
    if len(unreadable) > NAMED_LIMIT:
        more = counted(len(unreadable) - NAMED_LIMIT, "more name")
        yield Problem(problem=f"{more} cannot be read")


def fork_problem(folder: str) -> Problem:
    """Say that an agent signed two histories of one log."""
    return Problem(
        problem=f"its log of {folder} has two branches; both are merged",
        hint="its home was copied or restored; it ends when the one that is kept writes again,"
        " and another copy gets a new key",
    )


def clone_problem() -> Problem:
    """Say that one key is used by two nodes."""
    return Problem(
        problem="two running nodes use its key",
        hint="stop one of them, and give it a home of its own by `dizzyd init`",
    )


def own_clone_problem() -> Problem:
    """Say that our own key is used elsewhere too."""
    return Problem(
        problem="another node runs with the key of this one",
        hint="stop one of them, and give it a home of its own by `dizzyd init`",
    )


def unknown_folder_problem(name: str) -> Problem:
    """Say that the configuration names a folder that the database does not know."""
    return Problem(
        problem=f"folder {name} is in config.toml and not in the database",
        hint="join it again, or take it out of config.toml; its files were not touched",
    )


def scrub_problem(found: Sequence[str]) -> Problem:
    """Say what the slow reading of everything found."""
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return Problem(
        problem=f"damage was found: {found[0]}{more}",
        hint="`dizzyd verify` lists it, `dizzyd repair` heals it; check the disk",
    )


def replaced_problem(damage: str) -> Problem:
    """Say that the database was damaged and is being replaced."""
    return Problem(
        problem=f"the database was damaged and is built anew: {damage}",
        hint="it goes on by itself once a peer is connected; the damaged one is kept in the home",
    )


def damage_problem(cause: Exception) -> Problem:
    """Say that the database cannot be read."""
    return Problem(
        problem=f"the database cannot be read: {cause}",
        hint="`dizzyd verify` says what is damaged; check the disk",
    )
