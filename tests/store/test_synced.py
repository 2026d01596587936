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


def test_noting_gathers_the_objects_written_and_removed_in_the_block() -> None:
    synced = FolderSynced(memory_database(), 1, ROOT)
    synced.put([synced_as(entry) for entry in UNION])

    with synced.noting() as outer:
        synced.add([synced_as(FILES[0])])
        with synced.noting() as inner:
            synced.put([synced_as(FILES[1])])
            synced.remove([(2, b"")])
    synced.add([synced_as(FILES[2])])

    assert inner == {2, 4}
    assert outer == {2, 3, 4}
