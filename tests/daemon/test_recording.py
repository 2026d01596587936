"""See that nothing is recorded of a path that apply is at work on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon import durable, recording
from tests.daemon.working import alone, eventually

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_P24_what_apply_begins_with_while_a_save_is_made_durable_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename took the edit along: it stood at both names (seeds 404845 and 406146)."""
    async with alone(tmp_path) as node:
        applier = node.work.standing.applier
        assert applier is not None
        busy = applier._putting.busy
        real = durable.make_durable
        node.write("x", b"one")
        node.write("y", b"two")

        def begun_meanwhile(disk: Any, acts: Any) -> Any:
            busy.add(b"x")
            return real(disk, acts)

        with monkeypatch.context() as patched:
            patched.setattr(recording, "make_durable", begun_meanwhile)
            await node.work.scan_now()
        known = {path for path in (b"x", b"y") if node.stored.synced.rows_at(path)}
        busy.clear()

        assert known == {b"y"}
        await eventually(lambda: node.stored.synced.rows_at(b"x"))
