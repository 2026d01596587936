"""Measure what the database thread of a receiving node does for new files, without a network.

`python -m tests.bench.receiving [FILES]` prints microseconds of CPU for each event, by stage, and
the statements executed; `--profile STAGE` profiles one stage. It measures one thread alone:
beside others that want the interpreter's lock the same work costs more.
"""

from __future__ import annotations

import argparse
import pstats
import tempfile
from collections.abc import Callable
from pathlib import Path

from daemon.journal import _Writing
from daemon.outcomes import Agreed
from daemon.planning import UnderWay, plan_changes
from daemon.steps import MakeDirectory, Plan, RemoveTree, WriteFile
from store.db import Database, open_database
from store.events import Content, ObjectCreated, ObjectDeleted, encode
from store.folder import StoredFolder
from store.founding import add_folder, share_folder
from store.ids import Epoch, EventId, Kind, ObjectId, blob_hash, object_id
from store.records import Entry, SyncedRow
from store.signing import AgentKey, WireBatch, verify
from tests.bench.stages import Stages

_DIRECTORIES = 200
_ROUND = 512  # files that apply commits together


def _sent(files: int, sender: StoredFolder) -> list[WireBatch]:
    """Write what a sender's import writes: directories first, then the files of each."""
    folder = sender.id
    directories = [b"directory-%03d" % number for number in range(_DIRECTORIES)]
    events = [
        encode(
            ObjectCreated(
                parent=folder,
                kind=int(Kind.DIRECTORY),
                generation=0,
                name=name,
                content=None,
                mode=0,
                mtime_ns=0,
                prev=(),
            )
        )
        for name in directories
    ]
    for number in range(files):
        parent = object_id(
            folder, ObjectId(folder), Kind.DIRECTORY, 0, directories[number * _DIRECTORIES // files]
        )
        events.append(
            encode(
                ObjectCreated(
                    parent=parent,
                    kind=int(Kind.FILE),
                    generation=0,
                    name=b"file-%06d.txt" % number,
                    content=Content(hash=blob_hash(b"%d" % number), size=1024 + number % 15000),
                    mode=0,
                    mtime_ns=1_700_000_000_000_000_000 + number,
                    prev=(),
                )
            )
        )
    with sender.change():
        batches = sender.append(events, 1)
    return [batch.wire for batch in batches]


def _deleted(sender: StoredFolder) -> list[WireBatch]:
    """Write what a sender's removal of all of it writes: directories first, files with them."""
    writer, with_of = sender.writer(), dict[int, EventId]()
    found = sender.db.execute(
        "SELECT no, id, parent_no, head_event FROM object WHERE no != ? ORDER BY kind != ?, no",
        (sender.root_no, int(Kind.DIRECTORY)),
    ).fetchall()
    with sender.change():
        for no, number, parent_no, head in found:
            event = ObjectDeleted(
                object=number, prev=(head,), placement_seen=None, along_with=with_of.get(parent_no)
            )
            with_of[no] = writer.add(encode(event))
        batches = writer.write(2, sender.fold)
    return [batch.wire for batch in batches]


def _row(entry: Entry) -> SyncedRow:
    return SyncedRow(
        object_no=entry.object_no,
        copy=entry.copy,
        parent_no=entry.parent_no,
        name=entry.name,
        kind=entry.kind,
        value=entry.value,
        inode=1_000_000 + entry.object_no,
        size=entry.size,
        mtime_ns=entry.mtime_ns,
        ctime_ns=entry.mtime_ns,
        mode=entry.mode,
        looked_at_ns=entry.mtime_ns,
        shared_mtime_ns=entry.mtime_ns,
        events=entry.events,
        placement=entry.placement,
    )


def _commit(stored: StoredFolder, made: Plan, stages: Stages) -> None:
    steps = [step for step in made.steps if isinstance(step, MakeDirectory | WriteFile)]
    for start in range(0, len(steps), _ROUND):
        outcomes = [Agreed((_row(step.claim.entry),)) for step in steps[start : start + _ROUND]]
        with stages.stage("commit synced"), stored.change():
            _Writing(stored).write(outcomes)


def _receive_deletion(wires: list[WireBatch], stored: StoredFolder, stages: Stages) -> None:
    signed = [verify(wire) for wire in wires]
    with stages.stage("admit deletion"):
        stored.admit(signed, b"peer")
    with stages.stage("plan deletion"):
        made, _ = plan_changes(stored, [], frozenset(), UnderWay())
    if made is None or not all(isinstance(one, RemoveTree) for one in made.steps):
        raise AssertionError("it does not leave whole")


def _receive(wires: list[WireBatch], stored: StoredFolder, stages: Stages) -> None:
    under_way = UnderWay()
    for wire in wires:
        with stages.stage("verify"):
            signed = verify(wire)
        with stages.stage("admit"):
            stored.admit([signed], b"peer")
        has_more = True
        while has_more:
            with stages.stage("plan"):
                made, has_more = plan_changes(stored, [], frozenset(), under_way)
            if made is not None:
                _commit(stored, made, stages)
                under_way.end(made.objects)
    with stages.stage("state root"):
        stored.state.root()


def _folders(where: Path) -> tuple[StoredFolder, Callable[[str], StoredFolder]]:
    key, folder_key = AgentKey.generate(b"1" * 32), AgentKey.generate(b"2" * 32)
    epoch = Epoch(b"e" * 16)
    sender = share_folder(
        open_database(where / "sender"),
        key,
        folder_key=folder_key,
        name="bench",
        label=b"sender",
        path=b"/nowhere",
        epoch=epoch,
        nonce=b"n" * 16,
        wall_ms=1,
    )
    first = [wire for _, wire, _ in sender.log.all_applied()]

    def receiver(name: str) -> StoredFolder:
        db: Database = open_database(where / name)
        no = add_folder(db, folder=sender.id, name="bench", path=b"/nowhere", epoch=epoch)
        stored = StoredFolder(db, no, sender.id, AgentKey.generate(b"3" * 32))
        stored.admit([verify(wire) for wire in first], b"peer")
        stored.take_changes()
        return stored

    return sender, receiver


def main() -> None:
    """Run it twice: once for time, once for statements (counting costs)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=int, nargs="?", default=20_000)
    parser.add_argument("--profile", default="", metavar="STAGE")
    parser.add_argument("--ground", default=None, help="where the databases are made")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.ground) as where:
        sender, receiver = _folders(Path(where))
        wires = _sent(arguments.files, sender)
        stages, counts = Stages(arguments.profile), Stages()
        timed, counted = receiver("timed"), receiver("counted")
        _receive(wires, timed, stages)
        counted.db.connection.set_trace_callback(counts.count)
        _receive(wires, counted, counts)
        deleted = _deleted(sender)
        _receive_deletion(deleted, timed, stages)
        _receive_deletion(deleted, counted, counts)
    stages.cpu_s.pop("")
    for name, cpu_s in stages.cpu_s.items():
        each_us = cpu_s / arguments.files * 1e6
        print(f"{name:15} {each_us:7.1f} us a file  {counts.statements[name]:7} statements")
    total_us = sum(stages.cpu_s.values()) / arguments.files * 1e6
    print(f"{'all':15} {total_us:7.1f} us a file")
    if arguments.profile:
        pstats.Stats(stages.profile).sort_stats("tottime").print_stats(30)


if __name__ == "__main__":
    main()
