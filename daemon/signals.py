"""Define the signals of the daemon: what was observed in this process and is never logged.

A signal is about a bunch (batches, objects), never about one file of many, so that a large
change costs few of them. Facts that all members share are events (store.events) and come as
batches; progress, rates and who is connected are counted where they happen and read by `status`.
Signals carry values only: nothing here opens, counts or decides anything.

`folder_no` is the small local number of a folder on this node.
"""

from __future__ import annotations

from dataclasses import dataclass

from store.signing import SignedBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderSignal:
    """What all signals are, each being about one folder: who listens to this hears every one."""

    folder_no: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchesCommitted(FolderSignal):
    """Batches are durable in the log, our own or others'; only now may they be sent on."""

    batches: tuple[SignedBatch, ...]
    is_own: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectsChanged(FolderSignal):
    """State changed for some objects: the view may want other things there.

    Which ones the state knows (store.objects.Changes), so that a large change costs no copy.
    """
