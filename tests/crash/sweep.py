"""Fail every system call of an import, an apply and an exchange once, and crash there.

`python -m tests.crash.sweep` takes all; with a number, so many of each, spread evenly. A real
node runs under the shim (shim.c); its user or its peer does one of each act; at the Nth call the
disk says ENOSPC, EIO, EACCES or EMFILE, once, or the process ends. Then it must converge by
itself, with everything where the users left it.
"""

from __future__ import annotations

import argparse
import errno
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

from tests.crash import judge, shim
from tests.crash.users import User
from tests.e2e.nodes import Node, Nodes, agree, start_all

SCENES: Final = ("import", "apply", "exchange")
_SETTLED_WITHIN_S = 60.0
_FILES_LIMIT = 60


class Shimmed(Node):
    """A node under the shim."""

    shim: shim.Shim

    @classmethod
    def add(cls, nodes: Nodes, base: Path, name: str) -> Shimmed:
        """Make one whose home and folder are both in reach of the shim."""
        made = cls(base, name, nodes.exchange)
        nodes.all.append(made)
        made.shim = shim.Shim(shim.build(base), base / "control")
        made.set_places(made.home, made.folder)
        return made

    def set_places(self, *places: Path) -> None:
        """Say where the shim acts, from the next start on."""
        self.shim.set_places(places)

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | self.shim.environment


class Sweep:
    """A node under the shim and its peer."""

    def __init__(self, base: Path, scene: str, seed: int) -> None:
        """Start both and let them share."""
        self.scene = scene
        self.counts: Counter[str] = Counter()
        self.nodes = Nodes(base)
        self.peer = self.nodes.add("peer")
        self.victim = Shimmed.add(self.nodes, base, "victim")
        self.shim = self.victim.shim
        try:
            start_all(self.peer, self.victim)
            self.nodes.share(self.peer)
            self.nodes.join(self.peer, self.victim)
            self.theirs = User(self.peer.folder, "peer", seed)
            self.ours = User(self.victim.folder, "victim", seed)
            self.users = {self.peer.must("id"): self.theirs, self.victim.must("id"): self.ours}
            self._act(both=True)
            self._settle()
        except BaseException:
            self.nodes.end()
            raise

    def measure(self) -> str:
        """Do it once without a fault; gives the trace of its calls."""
        self.shim.arm()
        self._act()
        self._settle()
        self.shim.disarm()
        return self.shim.trace

    def fail(self, target: int, action: int) -> None:
        """Do it, and fail or crash at one call; then judge."""
        assert self.victim.process is not None
        self.shim.arm(target=target, action=action, pid=self.victim.process.pid)
        self._act()
        try:
            self._settle(is_crash=action == shim.CRASH)
        except BaseException as failure:
            failure.add_note(f"{self.scene}: {_said(action)} at call {target}: {self.shim.hit}")
            raise
        self.shim.disarm()
        self.counts["hit"] += self.shim.hits
        self.counts["crash" if action == shim.CRASH else errno.errorcode[action]] += 1

    def _act(self, *, both: bool = False) -> None:
        for user, scenes in ((self.ours, ("import", "exchange")), (self.theirs, SCENES[1:])):
            if both or self.scene in scenes:
                user.one_of_each()
                if len(user.files) > _FILES_LIMIT:
                    user.clear()

    def _settle(self, *, is_crash: bool = False) -> None:
        deadline_s = time.monotonic() + _SETTLED_WITHIN_S
        while True:
            self._go_on(is_crash=is_crash)
            try:
                agree(self.peer, self.victim, within_s=3)
                break
            except (AssertionError, OSError):
                if time.monotonic() > deadline_s:
                    raise
        judge.check_trees([self.peer, self.victim], [self.ours, self.theirs])
        judge.check_logs(self.peer, self.users)
        for node in (self.peer, self.victim):
            judge.check_tmp(node, may_hold_displaced=True)
            assert node.about()["conflicts"] == 0

    def _go_on(self, *, is_crash: bool) -> None:
        """Start the victim again if it has ended: it may only where its own home failed."""
        process = self.victim.process
        if process is None or process.poll() is None:
            return
        self.victim.process = None
        if not is_crash:
            assert str(self.victim.home) in self.shim.hit, f"it ended: {self.shim.hit}"
            last = self.victim.log.read_text().strip().splitlines()[-1]
            assert process.returncode == 1, process.returncode
            assert last.startswith(("dizzyd: ", "hint: ")), last
            self.counts["ended with a message"] += 1
        judge.check_database(self.victim.home)
        self.victim.start()


def _said(action: int) -> str:
    return "crash" if action == shim.CRASH else errno.errorcode[action]


def run(base: Path, scene: str, *, seed: int, each: int = 0, first: int = 1) -> str:
    """Sweep one scene from a call on; `each`: how many faults, 0 for all. Gives one line."""
    sweep = Sweep(base, scene, seed)
    try:
        trace = sweep.measure()
        faults = [
            (number, action)
            for number, letter in enumerate(trace, 1)
            for action in (*shim.FAILURES[letter], shim.CRASH)
            if number >= first
        ]
        chosen = faults[:: max(1, len(faults) // each)][:each] if each else faults
        for number, action in chosen:
            sweep.fail(number, action)
        sweep.victim.stop()
        sweep.victim.start()
        agree(sweep.peer, sweep.victim)
        judge.check_tmp(sweep.victim)
        verified = sweep.victim.dizzyd("verify")
        assert verified.code == 0, verified
        complaints = sweep.nodes.complaints()
        assert not complaints, complaints
    except BaseException as failure:
        failure.add_note(f"seed {seed}, after {sweep.counts}, in {base}")
        raise
    finally:
        sweep.nodes.end()
    told = ", ".join(f"{count} {name}" for name, count in sorted(sweep.counts.items()))
    return (
        f"sweep {scene}: {len(chosen)} of {len(faults)} faults in {len(trace)} calls ({told}): "
        f"all well"
    )


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.sweep", description=__doc__)
    parser.add_argument("each", type=int, nargs="?", default=0, help="faults in each scene; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scene", choices=SCENES)
    parser.add_argument("--first", type=int, default=1, help="the call to begin with")
    arguments = parser.parse_args()
    if reason := shim.why_not():
        print(f"sweep: skipped, {reason}")
        return
    for scene in (arguments.scene,) if arguments.scene else SCENES:
        with tempfile.TemporaryDirectory(prefix="sweep-") as base:
            each, seed = arguments.each, arguments.seed
            told = run(Path(base), scene, seed=seed, each=each, first=arguments.first)
            print(told, flush=True)


if __name__ == "__main__":
    main()
