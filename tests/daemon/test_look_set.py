"""What a look set says of paths: plain functions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daemon.look_set import below_any, parent_of

PATHS = st.sets(
    st.lists(st.sampled_from([b"a", b"a b", b"a.", b"b"]), min_size=1, max_size=5).map(b"/".join)
)


def is_below(path: bytes, directories: set[bytes]) -> bool:
    return any(path.startswith(directory + b"/") for directory in directories)


@given(PATHS, PATHS)
def test_what_stands_below_any_of_some_directories(
    paths: set[bytes], directories: set[bytes]
) -> None:
    assert below_any(paths, directories) == {p for p in paths if is_below(p, directories)}
    assert below_any(paths, paths) == {p for p in paths if is_below(p, paths)}


class Counting:
    """Directories that count how often they are asked for one."""

    def __init__(self, directories: set[bytes]) -> None:
        self.directories = directories
        self.count = 0

    def __contains__(self, path: object) -> bool:
        self.count += 1
        return path in self.directories


def test_B3_a_thousand_directories_in_each_other_are_asked_about_once_each() -> None:
    path = b"/".join([b"deep"] * 1000)
    nested = {path}
    while path := parent_of(path):
        nested.add(path)
    elsewhere = Counting({b"other"})

    assert below_any(nested, elsewhere) == set()
    assert elsewhere.count <= len(nested)
