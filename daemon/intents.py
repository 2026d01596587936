"""Make the intents that cover steps: what is durable before a name is touched.

What renames, replaces or removes has one of its own; what comes where nothing stood shares one.

What an intent says is daemon.outcomes', when it is written daemon.putting's part.
"""

from __future__ import annotations

from collections.abc import Iterable

from daemon.disk import Stage
from daemon.displaced import Names, history_name
from daemon.outcomes import Intent
from daemon.steps import (
    Bind,
    Claim,
    MakeLink,
    NewNames,
    RemoveFile,
    RemoveTree,
    Renumber,
    Step,
    WriteFile,
    key_of,
    row_for,
)
from store.ids import Kind


def intent_of(names: Names, step: Step, stage: Stage | None = None) -> Intent | None:
    """Cover what replaces, renames or removes; new_names() covers new files and links.

    A directory that gets a number has an intent, since the steps after it name it.
    """
    match step:
        case Bind(Claim(entry), rows, _) if rows and entry.kind is Kind.DIRECTORY:
            return Intent(b"intent-%d" % names.moment_ns(), step)
        case Bind() | Renumber() | WriteFile(_, ()) | MakeLink(_, ()):
            return None
        case RemoveFile(rows, _) | WriteFile(_, rows, _) | MakeLink(_, rows):
            at_ns = names.moment_ns()
            key = key_of(rows[0]) if isinstance(step, RemoveFile) else key_of(step.claim.entry)
            return Intent(
                b"intent-%d" % at_ns,
                step,
                b"displaced-tmp-%d" % at_ns,
                history_name(at_ns, row_for(key, rows)),
                (stage.name or b"") if stage is not None else b"",
            )
        case RemoveTree():
            at_ns = names.moments_ns(len(step.inside) + 1)
            return Intent(b"intent-%d" % at_ns, step, b"displaced-tmp-%d" % at_ns)
        case _:
            return Intent(b"intent-%d" % names.moment_ns(), step)


def new_names(names: Names, steps: Iterable[Step]) -> Intent | None:
    """Cover all new files and links among these steps by one intent."""
    claims = tuple(
        step.claim
        for step in steps
        if isinstance(step, WriteFile | MakeLink) and not step.before
    )
    return Intent(b"intent-%d" % names.moment_ns(), NewNames(claims)) if claims else None
