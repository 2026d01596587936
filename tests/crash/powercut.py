"""Cut the power of a node again and again: `python -m tests.crash.powercut 200`.

The victim lives on an ext4 image, its peer outside. Users work on both; at a random instant the
victim stops, its disk is copied, and it goes on from the copy, while the peer has all that was
ever sent. What its own user had not saved may be lost with the power; nothing else.

Some disks say that they wrote what they did not: now and then the victim goes on from a copy that
is older than much that it had made durable. Then the peer's copy heals it: all that the peer had
comes back, and nothing older is ever sent.
"""

from __future__ import annotations

import argparse
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

from tests.crash import judge
from tests.crash.images import IMAGE_BYTES, Image, why_not
from tests.crash.users import User, version_in
from tests.e2e.nodes import Node, Nodes, agree, start_all

PLACES: Final = ("both", "home", "folder")  # what of the victim lies on the image
# Where both lie on one disk. Older files beside a newer database count as the user's; newer files
# beside an older one are told once more by their holder where their author's batches come later.
LYING: Final = ("both",)
_LIE_EACH: Final = 3  # cuts
_SETTLED_WITHIN_S = 60.0
_BYTES_EACH = 2 << 20  # that history grows by from cut to cut, with room to spare


class _OnImage(Node):
    """A node whose daemon writes its log elsewhere."""

    outside = Path("/")

    @property
    def log(self) -> Path:
        return self.outside / "victim.log"

    @property
    def greeting(self) -> Path:
        return self.outside / "victim.out"


class Bench:
    """A victim on an image and its peer, who share a folder."""

    def __init__(self, base: Path, seed: int, place: str, cuts: int) -> None:
        """Make both and let them meet; the image has room for what so many cuts leave."""
        self.base = base
        self.chance = random.Random(f"{seed}/{place}")
        self.cuts = 0
        self.counts: Counter[str] = Counter()
        self.torn: set[int] = set()
        disk = base / "disk"
        self.image = Image(disk, base / "image", IMAGE_BYTES + cuts * _BYTES_EACH)
        self.nodes = Nodes(base)
        try:
            self._make(disk, place, seed)
        except BaseException:
            self.end()
            raise

    def _make(self, disk: Path, place: str, seed: int) -> None:
        self.peer = self.nodes.add("peer")
        victim = _OnImage(disk if place != "folder" else self.base, "victim", self.nodes.exchange)
        victim.outside = self.base
        self.victim = victim
        self.nodes.all.append(victim)
        if place == "home":
            victim.folder = self.base / "elsewhere" / "shared"
        if place == "folder":
            victim.folder = disk / "shared"
        victim.folder.parent.mkdir(exist_ok=True)
        start_all(self.peer, victim)
        self.nodes.share(self.peer)
        self.nodes.join(self.peer, victim)
        self.theirs = User(self.peer.folder, "peer", seed)
        self.ours = User(victim.folder, "victim", seed)
        self.users = {self.peer.must("id"): self.theirs, victim.must("id"): self.ours}
        self.ours.burst(12)
        self.theirs.burst(12)
        agree(self.peer, victim)

    def cut(self) -> None:
        """Work, lose the power somewhere, come back, and be judged."""
        self._work()
        process = self.victim.process
        assert process is not None
        seen = judge.counted(self.victim.about())
        self._work(share=0.3)
        process.send_signal(signal.SIGSTOP)
        taken = self.image.copy()
        self.victim.kill()
        self.image.become(taken)
        self.cuts += 1
        judge.check_database(self.victim.home)
        assert seen <= judge.batches_of(self.victim.home), "a batch that status counted is gone"
        had = judge.recorded(self.victim.home, self.ours)
        at_risk = {
            number
            for number, file in self.ours.files.items()
            if file.latest > had.get(number, 0) and not self.ours.saves_whole(number)
        }
        self.victim.start()
        self.theirs.act(self.chance.randrange(3))
        agree(self.peer, self.victim, within_s=_SETTLED_WITHIN_S)
        self._judge(at_risk)

    def lie(self) -> None:
        """Lose what the disk said that it wrote, come back, and be healed by the peer.

        What the victim's user had not saved by then would be found as new and other files: there
        is none. What its peer does is under way.
        """
        process = self.victim.process
        assert process is not None
        agree(self.peer, self.victim, within_s=_SETTLED_WITHIN_S)
        for _ in range(self.chance.randrange(12)):
            self.theirs.act()
        time.sleep(self.chance.random() ** 2 * 0.2)
        process.send_signal(signal.SIGSTOP)
        taken = self.image.copy()
        process.send_signal(signal.SIGCONT)
        self._work()
        agree(self.peer, self.victim, within_s=_SETTLED_WITHIN_S)
        expected = self.ours.expected()
        self.victim.kill()
        self.image.become(taken)
        self.cuts += 1
        judge.check_database(self.victim.home)
        missing = judge.batches_of(self.peer.home) - judge.batches_of(self.victim.home)
        self.counts["batches that the disk had not written"] += len(missing)
        self.victim.start()
        agree(self.peer, self.victim, within_s=_SETTLED_WITHIN_S)
        assert missing <= judge.batches_of(self.victim.home)
        self._judge(set())
        assert self.ours.expected() == expected, "what the peer had did not come back"

    def _work(self, share: float = 1.0) -> None:
        """Act on both sides for a while, now dense, now slow."""
        pause_s = self.chance.choice((0.0, 0.01, 0.05))
        for _ in range(int(self.chance.randrange(2, 25) * share)):
            self.chance.choice((self.ours, self.theirs)).act()
            if pause_s:
                time.sleep(self.chance.random() * pause_s)
        if self.chance.random() < 0.2:
            self.chance.choice((self.ours, self.theirs)).burst(15)
        time.sleep(self.chance.random() ** 2 * 0.4)

    def _judge(self, at_risk: set[int]) -> None:
        expected = self.ours.expected()
        self.ours.adopt()
        for path, version in self.ours.expected().items():
            self.counts["lost unsaved"] += expected.get(path) != version
        nodes, users = [self.peer, self.victim], [self.ours, self.theirs]
        # A file that was torn once stays so until its user saves it again.
        self.torn = {n for n in at_risk | self.torn if self._is_torn(n)}
        judge.check_trees(nodes, users, may_be_torn=self.torn)
        self.counts["events"] = judge.check_logs(self.peer, self.users)
        assert self.victim.about()["conflicts"] == 0, "a conflict where nobody wrote at once"
        for node in (self.peer, self.victim):
            judge.check_tmp(node)

    def _is_torn(self, number: int) -> bool:
        file = self.ours.files.get(number)
        return file is not None and version_in((self.ours.root / file.path).read_bytes()) is None

    def end(self) -> None:
        """End both and unmount."""
        self.nodes.end()
        self.image.unmount()


def run(base: Path, *, cuts: int, seed: int, place: str) -> str:
    """Cut the power so often; gives one line about it. Raises AssertionError."""
    bench = Bench(base, seed, place, cuts)
    try:
        for number in range(1, cuts + 1):
            if place in LYING and number % _LIE_EACH == 0:
                bench.lie()
            else:
                bench.cut()
        verified = bench.victim.dizzyd("verify")
        assert verified.code == 0, verified
        complaints = bench.nodes.complaints()
        assert not complaints, complaints
    except BaseException as failure:
        failure.add_note(f"seed {seed}, place {place}, after {bench.cuts} cuts, in {base}")
        raise
    finally:
        bench.end()
    acts = bench.ours.acts + bench.theirs.acts
    return (
        f"powercut {place}: {bench.cuts} cuts, {acts} acts, {bench.counts['events']} events, "
        f"{bench.counts['lost unsaved']} files back at what their user had saved, "
        f"{bench.counts['batches that the disk had not written']} batches healed: all well"
    )


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.powercut", description=__doc__)
    parser.add_argument("cuts", type=int, nargs="?", default=150)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--place", choices=PLACES)
    arguments = parser.parse_args()
    if reason := why_not():
        print(f"powercut: skipped, {reason}")
        return
    places = (arguments.place,) if arguments.place else PLACES
    for place in places:
        with tempfile.TemporaryDirectory(prefix="powercut-") as base:
            cuts = -(-arguments.cuts // len(places))
            print(run(Path(base), cuts=cuts, seed=arguments.seed, place=place), flush=True)


if __name__ == "__main__":
    main()
