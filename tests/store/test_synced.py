"""Ask the third tree about paths of this disk."""

from __future__ import annotations

from store.db import memory_database
from store.synced import FolderSynced
from tests.daemon.planning import ROOT, directory_entry, file_entry, synced_as

UNION = [directory_entry(1, ROOT, b"d"), directory_entry(2, ROOT, b"d")]  # two share one path
FILES = [file_entry(3, ROOT, b"a"), file_entry(4, 1, b"x"), file_entry(5, 2, b"y")]


def test_known_among_gives_the_paths_at_which_a_row_stands() -> None:
    synced = FolderSynced(memory_database(), 1, ROOT)
    synced.put([synced_as(entry) for entry in (*UNION, *FILES)])
    paths = [b"a", b"x", b"d", b"d/x", b"d/y", b"d/a", b"gone/x", b"a"]

    known = synced.known_among(paths)

    assert known == [b"a", b"d", b"d/x", b"d/y", b"a"]
    assert known == [path for path in paths if synced.rows_at(path)]
