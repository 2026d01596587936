from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import daemon

ROOT = Path(__file__).resolve().parent.parent.parent


def run(*argv: str | Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(
        [str(part) for part in argv],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="make test installs it")
    out = tmp_path_factory.mktemp("wheel")
    build = "from hatchling.build import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
    name = run(sys.executable, "-c", build, out, cwd=ROOT).splitlines()[-1]
    return out / name


def test_the_wheel_holds_three_packages_and_the_units(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"store", "peers", "daemon"}
    assert {"daemon/units/dizzyd.service", "daemon/units/dizzyd@.service"} <= set(names)
    on_disk = {
        path.relative_to(ROOT).as_posix() for top in tops for path in (ROOT / top).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == on_disk


def test_dizzyd_runs_from_the_wheel_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    # Given an environment with the wheel, and the locked dependencies of this one beside it
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(
        run(
            python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path
        ).strip()
    )
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    run(*pip, "--no-index", "--no-deps", "--disable-pip-version-check", wheel, cwd=tmp_path)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    said = run(tmp_path / "venv" / "bin" / "dizzyd", "--version", cwd=tmp_path)

    assert said == f"dizzyd {daemon.__version__}\n"
    where = run(python, "-c", "import daemon; print(daemon.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(site)
    assert "share" in run(tmp_path / "venv" / "bin" / "dizzyd", "--help", cwd=tmp_path)
