"""Measure how a node starts over a long log: `python -m tests.bench.opening --help`.

A real node shares some files and stops. Its log is then lengthened in its database: a save after
the other, with headers, chains, indices and rows as a real one has, but for signatures and
state, which a start does not look at. Two shapes: each save a batch of its own (a million
batches), and 4,000 of them in each batch (an import).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from daemon.key_file import read_key
from store.codec import FORMAT_VERSION, Header, decode_header, encode_header, join_events
from store.db import Database, open_database
from store.events import Content, ContentChanged, encode
from store.folder import StoredFolder
from store.ids import AgentId, BatchId, Epoch, FolderId, batch_id
from tests.bench import machine
from tests.bench.systems import DizzyNode
from tests.bench.workloads import small_files, wait_until

_ROWS_AT_ONCE = 50_000
_LOOK_S = 0.02


def main() -> None:
    """Print a line for each shape of log."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.opening", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--files", type=int, default=1_000, metavar="N")
    parser.add_argument("--ground", type=Path, metavar="DIRECTORY", help="where to work")
    arguments = parser.parse_args()
    size_mib = 2048 + arguments.events // 500
    with machine.fresh_ground(arguments.ground, is_image=False, size_mib=size_mib) as ground:
        for events, in_batch in ((0, 1), (arguments.events, 4000), (arguments.events, 1)):
            node = DizzyNode(ground, f"node{events}-{in_batch}")
            try:
                sys.stdout.write(_measured(node, arguments.files, events, in_batch) + "\n")
                sys.stdout.flush()
            finally:
                node.stop()


def _measured(node: DizzyNode, files: int, events: int, in_batch: int) -> str:
    small_files(node.folder / "tree", files)
    node.start("--first-folder", str(node.folder))
    wait_until(lambda: _has_all(node, files), "all files are shared", look_s=_LOOK_S)
    node.stop()
    home = node.home / "node"
    path = home / "database"
    lengthen(path, home / "key", events, in_batch)
    node.start()  # a life of a node with that log: what is counted once is noted with a save
    (node.folder / "one more").write_bytes(b"1")
    wait_until(lambda: _has_all(node, files + 1), "the save is shared", look_s=_LOOK_S)
    node.stop()
    opened = _opened(path, home / "key")
    started_s, spent_s = time.monotonic(), node.spent_cpu_s()
    node.start()
    answered_s = time.monotonic() - started_s
    wait_until(node.is_idle, "idle", look_s=_LOOK_S)
    idle_s = time.monotonic() - started_s
    spent_s = node.spent_cpu_s() - spent_s
    told = node.status()["folders"][0]["log"]
    node.stop()
    return (
        f"{told['events']:>9,} events in {told['batches']:>9,} batches, {path.stat().st_size >> 20}"
        f" MiB: folder opened in {opened}; daemon answers after {answered_s:.2f} s, idle after"
        f" {idle_s:.2f} s, {spent_s:.2f} s of CPU"
    )


def _has_all(node: DizzyNode, files: int) -> bool:
    return node.is_idle() and bool(node.status()["folders"][0]["files"] == files)


def _opened(path: Path, key_path: Path) -> str:
    began_s, spent_s = time.perf_counter(), time.process_time()
    database = open_database(path)
    no, folder = database.execute("SELECT no, id FROM folder").fetchone()
    StoredFolder(database, no, FolderId(folder), read_key(key_path))
    took_s, spent_s = time.perf_counter() - began_s, time.process_time() - spent_s
    database.close()
    return f"{took_s:.2f} s ({spent_s:.2f} s of CPU)"


def lengthen(path: Path, key_path: Path, events: int, in_batch: int) -> None:
    """Add saves of the folder's files to the node's own log."""
    database = open_database(path)
    no, folder = database.execute("SELECT no, id FROM folder").fetchone()
    head = StoredFolder(database, no, FolderId(folder), read_key(key_path)).log.heads()[0]
    writer = _Writer(database, no, FolderId(folder), head.batch)
    with database.transaction():
        for _ in range(events // in_batch):
            writer.write(in_batch)
        writer.flush()
        database.execute("UPDATE frontier SET batch_id = ?", (writer.newest,))
    database.close()


class _Writer:
    """Writes rows of batches that follow one another."""

    def __init__(
        self, database: Database, folder_no: int, folder: FolderId, newest: BatchId
    ) -> None:
        self.newest = newest
        self._database = database
        self._folder = folder
        self._objects = database.execute("SELECT no, id FROM object WHERE kind = 0").fetchall()
        self._place = 0
        last, header, log_no, access_no = database.execute(
            "SELECT no, header, log_no, access_no FROM batch WHERE id = ?", (newest,)
        ).fetchone()
        known = decode_header(header)
        self._agent, self._epoch = AgentId(known.agent), Epoch(known.epoch)
        self._next = (last + 1, known.seq + 1, known.lamport + 1)
        self._same = (folder_no, log_no, access_no)
        self._batches: list[tuple[object, ...]] = []
        self._events: list[tuple[int, int, int]] = []

    def write(self, count: int) -> None:
        """Add one batch of so many saves."""
        no, seq, lamport = self._next
        folder_no, log_no, access_no = self._same
        saves = []
        for position in range(count):
            object_no, identity = self._objects[self._place % len(self._objects)]
            self._place += 1
            content = Content(self._place.to_bytes(32, "big"), 4096)
            saves.append(encode(ContentChanged(identity, content, 10**18, (bytes(32),))))
            self._events.append((object_no, no, position))
        body = join_events(saves)
        header = encode_header(
            Header(
                version=FORMAT_VERSION,
                folder=self._folder,
                agent=self._agent,
                epoch=self._epoch,
                seq=seq,
                prev=self.newest,
                deps=(),
                lamport=lamport,
                wall_ms=1_790_000_000_000,
                count=count,
                body_size=len(body),
                events_root=bytes(32),
            )
        )
        self.newest = batch_id(header)
        place = (no, folder_no, self.newest, log_no, seq, lamport, access_no, 1, 0)
        self._batches.append((*place, header, bytes(64), body))
        self._next = (no + 1, seq + 1, lamport + 1)
        if len(self._events) >= _ROWS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write the rows that were gathered."""
        self._database.executemany(
            "INSERT INTO batch (no, folder_no, id, log_no, seq, lamport, access_no, is_applied,"
            " is_void, header, signature, body) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
            self._batches,
        )
        self._database.executemany("INSERT INTO event VALUES (?, ?, ?)", self._events)
        self._batches, self._events = [], []


if __name__ == "__main__":
    main()
