"""Cut a plan into portions that are made durable and committed together.

Names come in segments, small contents in rounds, large ones each by itself. It only cuts: what is
done with the portions, and in which order, is daemon.apply's part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from daemon.steps import MoveName, RemoveTree, Renumber, Step, SwapNames, WriteFile
from store.ids import Kind

SEGMENT_NAMES = 1024
ROUND_FILES = 512
ROUND_BYTES = 32 << 20
SMALL_BYTES = 1 << 20  # contents up to this size travel whole


def parts(
    steps: Sequence[Step],
) -> tuple[list[Step], list[WriteFile], list[WriteFile], list[Step]]:
    """Split into names, small contents, large contents, and what follows the contents."""
    names: list[Step] = []
    small: list[WriteFile] = []
    large: list[WriteFile] = []
    rest: list[Step] = []
    for step in steps:
        if isinstance(step, WriteFile):
            (small if step.claim.entry.size <= SMALL_BYTES else large).append(step)
        elif small or large:
            rest.append(step)
        else:
            names.append(step)
    return names, small, large, rest


def segments(steps: Sequence[Step]) -> Iterable[list[Step]]:
    """Cut around each move of a directory: paths follow synced, so it is committed by itself.

    Recovery finds what stands in a directory by its committed path, too.
    """
    segment: list[Step] = []
    names = 0
    for step in steps:
        is_alone = _moves_directory(step)
        if segment and (is_alone or names >= SEGMENT_NAMES):
            yield segment
            segment, names = [], 0
        segment.append(step)
        names += 1 + len(step.inside) if isinstance(step, RemoveTree) else 1
        if is_alone:
            yield segment
            segment, names = [], 0
    if segment:
        yield segment


def _moves_directory(step: Step) -> bool:
    if isinstance(step, SwapNames):
        return _moves_directory(step.one) or _moves_directory(step.other)
    if isinstance(step, Renumber):
        return True
    return isinstance(step, MoveName) and step.rows[0].kind is Kind.DIRECTORY


def rounds(steps: Sequence[WriteFile]) -> Iterable[list[WriteFile]]:
    """Cut small contents into rounds of so many files or bytes, each covered by one sync."""
    batch: list[WriteFile] = []
    size = 0
    for step in steps:
        batch.append(step)
        size += step.claim.entry.size
        if len(batch) >= ROUND_FILES or size >= ROUND_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
