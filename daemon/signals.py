"""Define the signals of the daemon: what was observed in this process and is never logged.

A signal is about a bunch (paths, batches, objects), never about one file of many, so that a
large change costs few of them. Progress, bandwidth and reachability are signals; facts that all
members share are events (store.events) and come as batches. Signals carry values only: nothing
here opens, counts or decides anything.

`folder_no` is the small local number of a folder on this node.
"""

from __future__ import annotations

from dataclasses import dataclass

from daemon.acts import Act
from daemon.hints import Hint
from store.ids import AgentId, BatchId, BlobHash
from store.signing import SignedBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What all signals are: who listens to this hears every one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderSignal(Signal):
    """A signal about one folder."""

    folder_no: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderAttached(FolderSignal):
    """A folder is open on this node: its root is there, locked and marked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderDetached(FolderSignal):
    """This node stopped with a folder; its files, history and key stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathsTouched(FolderSignal):
    """A watcher, a poll or a command says where to look."""

    hints: tuple[Hint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActsFound(FolderSignal):
    """The scanner compared disk with synced and concluded what people did."""

    acts: tuple[Act, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanStarted(FolderSignal):
    """A walk over a folder, or a part of it, began."""

    path: bytes
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanFinished(FolderSignal):
    """A walk ended; its acts were found before."""

    path: bytes
    files: int
    directories: int
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionsHeld(FolderSignal):
    """More was found missing at once than is believed without a person's word."""

    objects: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchesArrived(FolderSignal):
    """A peer sent batches that verified; whether they are new, the log says."""

    source: AgentId
    batches: tuple[SignedBatch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchesCommitted(FolderSignal):
    """Batches are durable in the log, our own or others'; only now may they be sent on."""

    batches: tuple[SignedBatch, ...]
    is_own: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkFound(FolderSignal):
    """One agent signed two batches for one place of its log."""

    agent: AgentId
    one: BatchId
    other: BatchId


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectsChanged(FolderSignal):
    """State changed for some objects: the view may want other things there.

    Which ones the state knows (store.state.Changes), so that a large change costs no copy.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailed:
    """One object that could not be brought to its place on this disk, and why."""

    object_no: int
    path: bytes
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsDone(FolderSignal):
    """The disk was brought nearer to the view; synced is committed."""

    object_nos: tuple[int, ...]
    failed: tuple[StepFailed, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobsWanted(FolderSignal):
    """Contents that the view shows are missing on this disk."""

    hashes: tuple[BlobHash, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobsArrived(FolderSignal):
    """Contents are here, checked against their hashes."""

    hashes: tuple[BlobHash, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferProgressed(FolderSignal):
    """Bytes of one content moved on; at most a few of these a second."""

    peer: AgentId
    blob: BlobHash
    done_bytes: int
    size_bytes: int
    is_outgoing: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RootFailed(FolderSignal):
    """The folder's root vanished, changed, lost its marker or cannot be read."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RootRecovered(FolderSignal):
    """The folder's root is what it was; it is to be scanned whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchDegraded(FolderSignal):
    """The watcher cannot see everything; the rest is polled."""

    directories: tuple[bytes, ...]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFull(FolderSignal):
    """Applying waits for room."""

    short_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderSynced(FolderSignal):
    """Nothing is pending here, and heads and state root are equal with this peer."""

    peer: AgentId


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConnected(Signal):
    """A session with a proven member is open."""

    agent: AgentId
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerDisconnected(Signal):
    """The session with a member ended."""

    agent: AgentId
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAdmitted(FolderSignal):
    """An invite was used: the agent is a member from now on."""

    agent: AgentId
    label: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRefused(Signal):
    """Something from outside was refused; counted by reason in `status`, under `rejected`."""

    reason: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationChanged(Signal):
    """A new configuration is in force; `problem` is empty, or why the old one stayed."""

    problem: str = ""
