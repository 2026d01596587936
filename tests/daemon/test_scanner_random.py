"""Random user operations on a real tree: the acts folded onto the rows give the disk."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.acts import Touched
from tests.daemon.looking import Bench

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMES = ["a", "b", "c", "d"]
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
contents = st.sampled_from([b"", b"one", b"two", b"a longer content"])
operations = st.one_of(
    st.tuples(st.just("write"), paths, contents),
    st.tuples(st.just("save"), paths, contents),
    st.tuples(st.just("backup"), paths, contents),
    st.tuples(st.just("mkdir"), paths, st.none()),
    st.tuples(st.just("remove"), paths, st.none()),
    st.tuples(st.just("rename"), paths, paths),
    st.tuples(st.just("swap"), paths, paths),
    st.tuples(st.just("link"), paths, paths),
    st.tuples(st.just("symlink"), paths, paths),
    st.tuples(st.just("wrap"), paths, st.sampled_from(NAMES)),
)
rounds = st.lists(st.lists(operations, max_size=8), min_size=1, max_size=4)


def operate(root: Path, operation: tuple[str, str, Any]) -> None:
    """Do it, or nothing where it is not possible."""
    kind, path, extra = operation
    one = root / path
    try:
        if kind == "write":
            one.parent.mkdir(parents=True, exist_ok=True)
            one.write_bytes(extra)
        elif kind == "save":
            temp = one.with_name("saving")
            temp.write_bytes(extra)
            temp.rename(one)
        elif kind == "backup":
            one.rename(one.with_name("old"))
            one.write_bytes(extra)
        elif kind == "mkdir":
            one.mkdir(parents=True)
        elif kind == "remove":
            shutil.rmtree(one) if one.is_dir() and not one.is_symlink() else one.unlink()
        elif kind == "rename":
            one.rename(root / extra)
        elif kind == "swap":
            temp = root / "swapping"
            one.rename(temp)
            try:
                (root / extra).rename(one)
            finally:
                temp.rename(root / extra if one.exists() else one)
        elif kind == "link":
            os.link(one, root / extra)
        elif kind == "symlink":
            one.symlink_to(extra)
        else:
            temp = root / "wrapping"
            one.rename(temp)
            one.mkdir()
            temp.rename(one / extra)
    except OSError:
        return


async def live(folder: Path, history: Sequence[Sequence[tuple[str, str, Any]]]) -> None:
    bench = Bench(folder)
    try:
        for some in history:
            for operation in some:
                operate(bench.root, operation)
            await bench.look()
            assert bench.in_rows() == bench.on_disk()
            again = [act for act in await bench.look() if not isinstance(act, Touched)]
            assert not again, again
    finally:
        bench.disk.close()


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(rounds)
def test_acts_of_a_scan_folded_onto_the_rows_give_the_disk(
    history: list[list[tuple[str, str, Any]]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(live(Path(name) / "folder", history))
