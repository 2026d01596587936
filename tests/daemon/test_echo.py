from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.daemon.working import Working, eventually, pair


def listing(node: Working) -> dict[str, tuple[object, ...]]:
    """Read names, kinds, contents, executable bits and times."""
    found: dict[str, tuple[object, ...]] = {}
    for name in node.names():
        path = node.root / name
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = ("directory",)
        else:
            stat = path.stat()
            found[name] = ("file", path.read_bytes(), stat.st_mode & 0o100, stat.st_mtime_ns)
    return found


def own_batches(node: Working) -> int:
    return sum(head.agent == node.key.agent for head in node.stored.log.heads())


async def test_P30_P29_applying_what_others_did_makes_no_event(tmp_path: Path) -> None:
    async with pair(tmp_path) as (anna, bert):
        root = anna.root

        def make() -> None:
            anna.write("a", b"1")
            anna.write("sub/b", b"2")
            (root / "empty").mkdir()
            (root / "link").symlink_to("sub/b")

        def edit() -> None:
            anna.write("a", b"longer than before")
            (root / "sub" / "b").chmod(0o755)
            os.utime(root / "sub" / "b", ns=(5_000_000_000, 5_000_000_000))

        def move() -> None:
            (root / "sub").rename(root / "moved")
            (root / "a").rename(root / "moved" / "a")
            (root / "link").unlink()

        def delete() -> None:
            shutil.rmtree(root / "moved")
            (root / "empty").rmdir()
            anna.write("last", b"3")

        for act in (make, edit, move, delete):
            act()
            await anna.look()
            await eventually(lambda: listing(bert) == listing(anna))
            await bert.look()
            await bert.look()
            assert own_batches(bert) == 0, f"an echo of {act.__name__}"

        assert anna.stored.state.root() == bert.stored.state.root()
        batches = anna.stored.log.batches
        await anna.look()
        assert anna.stored.log.batches == bert.stored.log.batches == batches
