from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def dizzyd(base: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run one command on a stopped node whose home lies in `base`."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(base),
        "DIZZYD_HOME": str(base / "home"),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        [sys.executable, "-m", "daemon", *argv],
        cwd=base,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped node that shares one folder."""
    base = tmp_path_factory.mktemp("places")
    (base / "photos" / "below").mkdir(parents=True)
    (base / "link").symlink_to(base / "photos")
    (base / "free").mkdir()
    assert dizzyd(base, "init", "--listen", "127.0.0.1:0").returncode == 0
    shared = dizzyd(base, "share", "photos")
    assert shared.returncode == 0, shared.stderr
    return base


@pytest.mark.parametrize("path", ["/", ".", "home/below", "photos/below", "link"])
def test_C11_a_path_that_holds_or_lies_in_home_or_another_folder_is_refused(
    base: Path, path: str
) -> None:
    (base / "home" / "below").mkdir(exist_ok=True)
    before = (base / "home" / "config.toml").read_bytes()

    refused = dizzyd(base, "share", path, "--name", "another")

    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.startswith("dizzyd: share ")
    assert len(refused.stderr.splitlines()) <= 2
    assert (base / "home" / "config.toml").read_bytes() == before


def test_C11_a_place_beside_them_is_shared_once(base: Path) -> None:
    assert dizzyd(base, "share", "free").returncode == 0
    assert dizzyd(base, "share", "free").returncode == 1
