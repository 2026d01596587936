"""Boot a real systemd over a throw-away copy of this machine's files, in namespaces of its own.

The root is an overlay: what is written in there goes with the test. Needs root, systemd, overlay
and cgroup2; `boot` says what is missing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.e2e.nodes import ROOT, eventually

SYSTEMD: Final = Path("/lib/systemd/systemd")
USER: Final = "dizzyd-test"
PROGRAM: Final = "/opt/dizzyd/.venv/bin/dizzyd"
_PYTHON: Final = "/usr/bin/python3"
_LIMIT_S: Final = 60.0

_BOOT: Final = r"""
set -e
mount --make-rprivate /
mkdir -p "$T/root" "$T/upper" "$T/work"
mount -t overlay -o "lowerdir=/,upperdir=$T/upper,workdir=$T/work" overlay "$T/root"
R="$T/root"
mount -t proc proc $R/proc
mount -t sysfs sysfs $R/sys
mount -t cgroup2 cgroup2 $R/sys/fs/cgroup
mkdir -p $R/opt/dizzyd/source $R/oldroot
mount --bind "$SOURCE" $R/opt/dizzyd/source
mount -t tmpfs tmpfs $R/run
mount -t tmpfs tmpfs $R/tmp
mount --rbind /dev $R/dev
chmod 1777 $R/tmp
chroot $R useradd --create-home --shell /bin/sh --uid 4711 "$USER"
V=$R/opt/dizzyd/.venv
chroot $R "$PYTHON" -m venv --without-pip /opt/dizzyd/.venv
mount --bind "$SITE" $V/lib/$VERSION/site-packages
cat > $V/bin/dizzyd <<END
#!/opt/dizzyd/.venv/bin/python
import sys
sys.path.insert(0, "/opt/dizzyd/source")
from daemon.cli import main
sys.exit(main())
END
chmod 755 $V/bin/dizzyd
cd $R
pivot_root . oldroot
umount -l /oldroot
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin "$SYSTEMD" --system \
    --unit=basic.target --log-target=console
"""


class Machine:
    """A running systemd; commands run inside it."""

    def __init__(self, init_pid: int) -> None:
        self._init_pid = init_pid

    def run(self, *command: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command as root, or as a user with nothing of root's environment."""
        if user is not None:
            home = f"HOME=/home/{user}"
            command = (
                "setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups",
                "env", "-i", "PATH=/usr/bin:/bin", home, f"USER={user}",
                "XDG_RUNTIME_DIR=/run/user/4711", *command,
            )  # fmt: skip
        return subprocess.run(
            ["nsenter", f"--target={self._init_pid}", "-m", "-p", "-r", "-w", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )

    def must(self, *command: str, user: str | None = None) -> str:
        """Run a command that has to succeed; gives its stdout."""
        done = self.run(*command, user=user)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout.strip()


def why_not() -> str:
    """Say what is missing to boot a systemd here; empty if nothing."""
    tools = ("unshare", "nsenter", "setpriv", "useradd", "pivot_root", "systemctl")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if os.geteuid() != 0:
        return "needs root, to boot a systemd in namespaces"
    if not SYSTEMD.exists() or missing:
        return f"needs systemd and {', '.join(missing) or 'its files'}"
    asked = "import sys, venv; print(sys.version_info[:2])"
    version = subprocess.run(
        [_PYTHON, "-c", asked], capture_output=True, text=True, check=False
    ).stdout.strip()
    if version != str(sys.version_info[:2]):
        return f"needs a Python {sys.version_info[:2]} of the system, with venv"
    return ""


@contextmanager
def boot(base: Path) -> Iterator[Machine]:
    """Run a systemd until the block ends. Raises OSError with what mount or unshare said."""
    log = base / "boot.log"
    environment = {
        **os.environ,
        "T": str(base),
        "SOURCE": str(ROOT),
        "SITE": sysconfig.get_path("purelib"),
        "USER": USER,
        "PYTHON": _PYTHON,
        "VERSION": f"python{sys.version_info[0]}.{sys.version_info[1]}",
        "SYSTEMD": str(SYSTEMD),
    }
    with log.open("wb") as out:
        outer = subprocess.Popen(
            ["unshare", "--fork", "--kill-child", "--pid", "--mount", "--cgroup", "--uts",
             "--ipc", "/bin/sh", "-c", _BOOT],
            env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
    try:
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")

        def is_up() -> bool:
            if outer.poll() is not None:
                return True
            [child] = children.read_text().split() or ["0"]
            state = Machine(int(child)).run("systemctl", "is-system-running").stdout.strip()
            return state in {"running", "degraded"}

        eventually("systemd runs", is_up)
        if outer.poll() is not None:
            raise OSError(log.read_text()[-500:])
        yield Machine(int(children.read_text()))
    finally:
        if outer.poll() is None:
            outer.send_signal(signal.SIGKILL)  # and with it the init of the namespace, and all
        outer.wait()
