"""Kill nodes at random moments of everything they do: `python -m tests.crash.kills 100`.

Real processes end by SIGKILL while they are made, started, import, apply, exchange, join,
rebuild, restore, verify or repair; each is started again and must go on as if nothing had been.
What users wrote is on the disk, so that afterwards everything stands exactly where they left it,
on both nodes. It sleeps only to let the random moment come, never to wait for an outcome.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from tests.crash import judge
from tests.crash.album import NAME as ALBUM
from tests.crash.album import Album, now
from tests.crash.users import User, content_of, version_in
from tests.e2e.nodes import Node, Nodes, agree, eventually, start_all

_SETTLED_WITHIN_S = 90.0
_MANY = 150
_TRASH_LIMIT = 900  # files of one user: above this, the rounds only edit


class Kills:
    """Two nodes that go on from round to round, and others that are made for one."""

    def __init__(self, base: Path, seed: int) -> None:
        """Start two nodes that share a folder."""
        self.base = base
        self.seed = seed
        self.chance = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.nodes = Nodes(base)
        self.left, self.right = self.nodes.add("left"), self.nodes.add("right")
        try:
            start_all(self.left, self.right)
            self.nodes.share(self.left)
            self.nodes.join(self.left, self.right)
            self.users = {
                node.must("id"): User(node.folder, node.name, seed)
                for node in (self.left, self.right)
            }
            self._settle()
        except BaseException:
            self.nodes.end()
            raise
        self.phases: dict[str, Callable[[], None]] = {
            "init": self.while_made,
            "import": self.while_importing,
            "apply": self.while_applying,
            "first start": self.while_first_started,
            "exchange": self.while_exchanging,
            "recovery": self.while_recovering,
            "join": self.while_joining,
            "rebuild": self.while_rebuilding,
            "restore": self.while_restoring,
            "verify": self.while_verifying,
            "repair": self.while_repairing,
        }

    def round(self, phase: str) -> None:
        """Kill in one phase, go on, and judge."""
        self.phases[phase]()
        self.counts[phase] += 1

    # -- what is interrupted --------------------------------------------------------------------

    def while_made(self) -> None:
        """`init`: afterwards it is made, whole, and its key never changes."""
        node = self._fresh()
        node.config.unlink()
        process = _run(node, "init", "--listen", f"127.0.0.1:{node.port}")
        self._kill_within(process, 0.5)
        again = node.dizzyd("init", "--listen", f"127.0.0.1:{node.port}")
        assert again.code == 0 or "already" in again.err, again
        identity = node.must("id")
        assert node.dizzyd("init").code == 1
        assert node.must("id") == identity
        self._forget(node)

    def while_first_started(self) -> None:
        """`run --first-folder`: one folder afterwards, with one owner."""
        node = self._fresh()
        user = User(node.folder, "first", self.seed)
        user.root.mkdir()
        user.burst(30)
        node.begin("--first-folder", str(node.folder))
        time.sleep(self.chance.uniform(0.2, 1.4))
        node.kill()
        node.start("--first-folder", str(node.folder))
        eventually("all is imported", lambda: node.about()["files"] == len(user.files))
        assert len(node.status()["folders"]) == 1
        node.stop()
        judge.check_database(node.home)
        judge.check_trees([node], [user])
        self._forget(node)

    def while_importing(self) -> None:
        """Many files come at once, and their node ends."""
        self._work(self.left, many=True)
        self._interrupt(self.left)

    def while_applying(self) -> None:
        """Many files come from a peer, and this node ends."""
        self._work(self.left, many=True)
        self._work(self.right)
        self._interrupt(self.right)

    def while_exchanging(self) -> None:
        """Both users are at work, and one node or both end."""
        victims = self.chance.choice([[self.left], [self.right], [self.left, self.right]])
        for _ in range(self.chance.randrange(3, 12)):
            self._work(self.left)
            self._work(self.right)
            time.sleep(self.chance.random() * 0.05)
        self._interrupt(*victims)

    def while_recovering(self) -> None:
        """A node ends, is started, and ends again before it is there."""
        self._work(self.left, many=True)
        self._work(self.right)
        time.sleep(self.chance.random() * 0.3)
        for _ in range(2):
            self.right.kill()
            self.right.begin()
            time.sleep(self.chance.uniform(0.2, 1.0))
        self.right.kill()
        self._go_on(self.right)

    def while_joining(self) -> None:
        """A node with files of its own joins, and it or its inviter ends."""
        node = self._fresh()
        node.start()
        same = self.chance.random() < 0.5
        if same:
            shutil.copytree(
                self.left.folder, node.folder, ignore=lambda _at, names: {".dizzyd"} & set(names)
            )
        else:
            node.folder.mkdir()
        invite = self.left.must("invite", "shared")
        process = _run(node, "join", invite, str(node.folder))
        time.sleep(self.chance.uniform(0.1, 1.0))
        victim = self.chance.choice([node, self.left])
        victim.kill()
        process.wait()
        victim.start()
        again = node.dizzyd("join", invite, str(node.folder))
        assert again.code == 0, again
        agree(self.left, self.right, node, within_s=_SETTLED_WITHIN_S, with_times=False)
        self._judge(node)
        node.must("leave", "shared")
        node.stop()
        self._forget(node)

    def while_rebuilding(self) -> None:
        """`rebuild` of a running node or of one that is stopped."""
        self._settle()
        root = self.right.about()["state_root"]
        if self.chance.random() < 0.5:
            process = _run(self.right, "rebuild")
            time.sleep(self.chance.uniform(0.1, 0.6))
            self.right.kill()
            process.wait()
        else:
            self.right.stop()
            self._kill_within(_run(self.right, "rebuild"), 0.8)
        self._go_on(self.right)
        assert self.right.about()["state_root"] == root

    def while_restoring(self) -> None:
        """`restore` of a directory: each file as it was or as wanted, the rest by asking again."""
        album = self._album()
        album.write(self.left.folder, 1)
        self._agree()
        at = now()
        album.write(self.left.folder, 2)
        self._agree()
        victim = self.chance.choice([self.left, self.right])
        restore = ("restore", str(victim.folder / ALBUM), "--at", at)
        has_begun = partial(album.has_begun, victim.folder, 1)
        self._kill_beside(victim, _run(victim, *restore), has_begun)
        album.judge(victim.folder)
        eventually("all is looked at", lambda: victim.about()["state"] in {"idle", "held"})
        assert victim.about()["state"] == "idle", "what a restore did is held"
        self._agree()
        album.judge(self.left.folder)
        album.judge_kept([self.left, self.right])
        victim.must(*restore)
        self._agree()
        assert album.read(self.right.folder) == album.versions[1]
        album.judge_kept([self.left, self.right])
        album.remove(victim.folder)
        self._agree()

    def while_verifying(self) -> None:
        """`verify` of a running node or of one that is stopped: it changes nothing."""
        self._settle()
        if self.chance.random() < 0.5:
            self._kill_beside(self.right, _run(self.right, "verify"))
        else:
            self.right.stop()
            self._kill_within(_run(self.right, "verify"), 1.5)
            self.right.start()
        self._settle()
        verified = self.right.dizzyd("verify")
        assert verified.code == 0, verified

    def while_repairing(self) -> None:
        """`repair` of rotten files: the shared bytes come back, and nothing rotten is shared."""
        album = self._album()
        album.write(self.left.folder, 2)
        self._agree()
        self.right.stop()
        album.rot(self.right, self.chance)
        self.right.start()
        self._agree(self.left)
        has_begun = partial(album.has_begun, self.right.folder, 2)
        self._kill_beside(self.right, _run(self.right, "repair"), has_begun)
        eventually("what is rotten is healed", lambda: self.right.dizzyd("repair").code == 0, 60)
        self._agree()
        for node in (self.left, self.right):
            assert album.read(node.folder) == album.versions[2]
            verified = node.dizzyd("verify")
            assert verified.code == 0, verified
        album.remove(self.left.folder)
        self._agree()

    # -- helpers --------------------------------------------------------------------------------

    def _fresh(self) -> Node:
        return self.nodes.add(f"fresh{sum(self.counts.values())}")

    def _forget(self, node: Node) -> None:
        self.nodes.all.remove(node)
        node.end()
        shutil.rmtree(node.user_home)

    def _album(self) -> Album:
        self._settle()
        return Album(f"{self.seed}/{sum(self.counts.values())}")

    def _agree(self, *nodes: Node) -> None:
        agree(*(nodes or (self.left, self.right)), within_s=_SETTLED_WITHIN_S, with_times=False)

    def _kill_beside(
        self,
        node: Node,
        process: subprocess.Popen[bytes],
        has_begun: Callable[[], bool] = lambda: False,
    ) -> None:
        """Kill a node while a command of it works, soon after it has begun, and start it again."""
        end_s = time.monotonic() + self.chance.uniform(0.2, 1.5)
        while process.poll() is None and time.monotonic() < end_s and not has_begun():
            time.sleep(0.005)
        time.sleep(self.chance.random() ** 2 * 0.1)
        self.counts["killed commands"] += process.poll() is None
        node.kill()
        process.wait()
        judge.check_database(node.home)
        node.start()

    def _user(self, node: Node) -> User:
        return next(user for user in self.users.values() if user.root == node.folder)

    def _work(self, node: Node, *, many: bool = False) -> None:
        user = self._user(node)
        if many and len(user.files) < _TRASH_LIMIT:
            user.burst(_MANY)
        user.act(self.chance.randrange(1, 6))

    def _interrupt(self, *victims: Node) -> None:
        time.sleep(self.chance.random() ** 2 * 0.8)
        seen = [(node, judge.counted(node.about())) for node in victims]
        time.sleep(self.chance.random() ** 2 * 0.2)
        self._look_for_torn()
        for node in victims:
            node.kill()
        for node, heads in seen:
            assert heads <= judge.batches_of(node.home), "a batch that status counted is gone"
        self._look_for_torn()
        self._go_on(*victims)

    def _look_for_torn(self) -> None:
        """See that no file has come torn to a node that did not write it."""
        for node in (self.left, self.right):
            own = self._user(node)
            for other in self.users.values():
                if other is own:
                    continue
                for path in _files_below(node.folder, f"{other.name}-*-*"):
                    self._check_whole(path, other)

    @staticmethod
    def _check_whole(path: Path, of: User) -> None:
        try:
            content = path.read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return
        version = version_in(content)
        if version is None:
            number = int(path.name.rpartition("-")[2])
            assert not of.saves_whole(number), f"torn: {path}"
            return
        assert content == content_of(version)

    def _go_on(self, *victims: Node) -> None:
        for node in victims:
            judge.check_database(node.home)
        start_all(*victims)
        self._settle()

    def _settle(self) -> None:
        agree(self.left, self.right, within_s=_SETTLED_WITHIN_S, with_times=False)
        self._judge()

    def _judge(self, *more: Node) -> None:
        nodes = [self.left, self.right, *more]
        users = list(self.users.values())
        self.counts["files"] = judge.check_trees(nodes, users)
        self.counts["events"] = judge.check_logs(self.right, self.users)
        for node in nodes:
            assert node.about()["conflicts"] == 0, "a conflict where nobody wrote at once"
            judge.check_tmp(node)

    def _kill_within(self, process: subprocess.Popen[bytes], longest_s: float) -> None:
        try:
            process.wait(self.chance.uniform(0.05, longest_s))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self.counts["killed commands"] += 1


def _files_below(root: Path, pattern: str) -> Iterator[Path]:
    """Find files while directories come and go."""
    for directory, _, names in os.walk(root):
        yield from (Path(directory, name) for name in names if fnmatch(name, pattern))


def _run(node: Node, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "daemon", *arguments],
        env=node.environment,
        cwd=node.user_home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def run(base: Path, *, kills: int, seed: int) -> str:
    """Kill so often, in turn in every phase; gives one line. Raises AssertionError."""
    killer = Kills(base, seed)
    phase = "start"
    try:
        phases = list(killer.phases)
        for number in range(kills):
            phase = phases[(seed + number) % len(phases)]
            killer.round(phase)
        phase = "end"
        for node in (killer.left, killer.right):
            verified = node.dizzyd("verify")
            assert verified.code == 0, verified
        complaints = killer.nodes.complaints()
        assert not complaints, complaints
    except BaseException as failure:
        failure.add_note(f"seed {seed}, {phase}, after {killer.counts}, in {base}")
        raise
    finally:
        killer.nodes.end()
    done = ", ".join(f"{killer.counts[name]} {name}" for name in killer.phases)
    return (
        f"crash: killed in {done}; {killer.counts['killed commands']} commands cut short; "
        f"{killer.counts['files']} files, {killer.counts['events']} events: all well"
    )


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.kills", description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=100)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="crash-") as base:
        print(run(Path(base), kills=arguments.kills, seed=arguments.seed), flush=True)


if __name__ == "__main__":
    main()
