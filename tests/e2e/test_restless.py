from __future__ import annotations

import time

from tests.e2e.nodes import Nodes, eventually


def test_status_names_a_file_that_is_written_without_a_rest(nodes: Nodes) -> None:
    node = nodes.add("writes")
    node.start()
    nodes.share(node)
    path = node.folder / "disk.img"
    with path.open("wb") as file:

        def is_named() -> bool:
            file.write(b"x" * 100)
            file.flush()
            return bool(node.about()["restless"] == ["disk.img"])

        eventually("it is named", is_named)
        told = node.dizzyd("status")
        assert told.code == 0
        assert "1 file being written    disk.img: shared when closed" in told.out
        began_s = time.monotonic()
    eventually("it is shared", lambda: node.about()["files"] == 1)
    eventually("and named no more", lambda: node.about()["restless"] == [])
    assert time.monotonic() - began_s < 10
