"""Say what a daemon that has just started in a terminal shares, and what to type next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.terminal import escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def program(environment: Mapping[str, str]) -> str:
    """Give what to type in another terminal to speak with this node.

    `dizzyd` where the search path finds this very installation, else its absolute path; with
    DIZZYD_HOME in front where that chose the node.
    """
    script = Path(sys.executable).parent / "dizzyd"
    found = shutil.which("dizzyd", path=environment.get("PATH"))
    if found is not None and os.path.realpath(found) == os.path.realpath(script):
        command = "dizzyd"
    elif script.exists():
        command = shlex.quote(str(script))
    else:
        command = f"{shlex.quote(sys.executable)} -m daemon"
    home = environment.get("DIZZYD_HOME")
    return f"DIZZYD_HOME={shlex.quote(os.path.abspath(home))} {command}" if home else command  # noqa: PTH100


def greeting(
    folders: Sequence[tuple[str, str]], listen: Sequence[str], environment: Mapping[str, str]
) -> str:
    """Show the folders (name, path), where the node listens, and the next command."""
    command = program(environment)
    lines = [f"sharing {escape(name)}: {escape(path)}" for name, path in folders]
    lines.append(f"listening on {', '.join(map(escape, listen))}" if listen else "not listening")
    if folders:
        name = shlex.quote(folders[0][0])
        lines.append(f"next, in another terminal: {command} invite {escape(name)}")
    else:
        lines.append(f"next, in another terminal: {command} share PATH")
    return "".join(f"{line}\n" for line in lines)
