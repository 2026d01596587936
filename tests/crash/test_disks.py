"""Let disks fill up, turn read-only, vanish and lie under real nodes: nobody deletes anything."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.crash import images, shim
from tests.crash.images import Image
from tests.crash.sweep import Shimmed
from tests.e2e.nodes import IS_FULL, Node, Nodes, agree, eventually, start_all
from tests.e2e.trees import contents, noise, write_files

FOREVER = 1 << 31
Meet = Callable[..., Node]


@pytest.fixture
def peer(nodes: Nodes) -> Node:
    return nodes.add("peer")


@pytest.fixture
def meet(nodes: Nodes, peer: Node) -> Meet:
    """Start the peer and a victim, and let them share a few files."""

    def meet(victim: Node) -> Node:
        if victim not in nodes.all:
            nodes.all.append(victim)
        start_all(peer, victim)
        nodes.share(peer)
        nodes.join(peer, victim)
        write_files(peer.folder, {"text": b"1", "in/one": b"one", "in/two": b"two"})
        agree(peer, victim)
        return victim

    return meet


def problems(node: Node) -> str:
    """Give what is said to be wrong with the folder, each with its remedy."""
    found = node.about()["problems"]
    assert all(one["problem"] and one["hint"] for one in found), found
    return "; ".join(f"{one['problem']} | {one['hint']}" for one in found)


def says(node: Node, *words: str) -> None:
    """Wait until one of the words is said of the folder, and the exit code is that of a problem."""
    eventually(
        f"{node.name} says one of {words}",
        lambda: any(word in problems(node) for word in words),
    )
    assert node.dizzyd("status").code == 4


def fill(file: Path) -> None:
    """Write until the disk is full."""
    with suppress(OSError), file.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(65536))


# -- mounts ----------------------------------------------------------------------------------------


class Mount:
    """A small file system in memory."""

    def __init__(self, at: Path, size: str) -> None:
        self.at = at
        at.mkdir(parents=True)
        self._mount(f"size={size}")

    def _mount(self, options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.at)]
        subprocess.run(command, check=True)

    def change(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.at], check=True)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Callable[..., Mount]]:
    made: list[Mount] = []

    def make(name: str, size: str) -> Mount:
        made.append(Mount(tmp_path / name, size))
        return made[-1]

    yield make
    for mount in made:
        subprocess.run(["umount", "--lazy", mount.at], check=True)


@pytest.mark.root
def test_E1_a_full_disk_is_told_and_the_rest_goes_on(
    nodes: Nodes, peer: Node, meet: Meet, small: Callable[..., Mount]
) -> None:
    disk = small("disk", "3M")
    victim = nodes.add("victim")
    victim.folder = disk.at / "shared"
    meet(victim)

    write_files(peer.folder, {"large": noise(5_000_000, seed=1)})
    says(victim, "full", "space")
    assert victim.about()["state"] == "faulty"
    write_files(victim.folder, {"text": b"2"})
    eventually("what is written here still goes", lambda: contents(peer.folder)["text"] == b"2")
    assert contents(peer.folder).keys() == {"text", "in/one", "in/two", "large"}

    disk.change("size=16M")
    agree(peer, victim)


@pytest.mark.root
def test_E2_a_full_disk_of_the_home_is_told_and_nothing_is_lost(
    nodes: Nodes, peer: Node, meet: Meet, small: Callable[..., Mount], tmp_path: Path
) -> None:
    disk = small("disk", "12M")
    victim = nodes.add("victim")
    shutil.move(victim.home, disk.at)
    victim.home = disk.at / "dizzyd"
    meet(victim)
    ballast = disk.at / "ballast"
    fill(ballast)

    write_files(victim.folder, {f"ours{n}": noise(500, seed=n) for n in range(3000)})
    write_files(peer.folder, {"theirs": b"theirs"})
    says(victim, "full", "space")
    assert victim.process is not None
    assert victim.process.poll() is None
    ballast.unlink()

    agree(peer, victim, within_s=60)
    assert len(contents(peer.folder)) == 3004


@pytest.mark.root
def test_E4_a_disk_that_becomes_read_only_is_told_and_heals(
    nodes: Nodes, peer: Node, meet: Meet, tmp_path: Path
) -> None:
    if reason := images.why_not():
        pytest.skip(reason)
    disk = Image(tmp_path / "disk", tmp_path / "image")
    victim = nodes.add("victim")
    try:
        victim.folder = disk.at / "shared"
        meet(victim)
        subprocess.run(["mount", "-o", "remount,ro", disk.at], check=True)

        write_files(peer.folder, {"text": b"2", "new": b"new"})
        (peer.folder / "in" / "one").unlink()
        says(victim, "read-only", "Read-only")
        assert (victim.folder / "text").read_bytes() == b"1"

        subprocess.run(["mount", "-o", "remount,rw", disk.at], check=True)
        tree = agree(peer, victim)
        assert tree.keys() == {"text", "in", "in/two", "new"}
    finally:
        victim.kill()
        disk.unmount()


@pytest.mark.root
@pytest.mark.parametrize("moment", ["while it runs", "before it starts"])
def test_E7_a_mount_that_is_not_there_deletes_nothing(
    nodes: Nodes, peer: Node, meet: Meet, tmp_path: Path, moment: str
) -> None:
    if reason := images.why_not():
        pytest.skip(reason)
    disk = Image(tmp_path / "disk", tmp_path / "image")
    victim = nodes.add("victim")
    try:
        victim.folder = disk.at / "shared"
        meet(victim)
        tree = agree(peer, victim)
        if moment == "before it starts":
            victim.stop()
            disk.unmount()
            (disk.at / "shared").mkdir()  # what many a mount point has below it
            victim.start()
        else:
            subprocess.run(["umount", "--lazy", disk.at], check=True)
            eventually("it lets go", lambda: victim.about()["state"] == "faulty")

        says(victim, "is its disk mounted", "bring the folder back")
        write_files(peer.folder, {"meanwhile": b"meanwhile"})
        assert victim.about()["state"] == "faulty"
        assert peer.tree().keys() == {*tree, "meanwhile"}
        assert not list(disk.at.glob("shared/*"))

        disk.mount()
        assert agree(peer, victim).keys() == {*tree, "meanwhile"}
    finally:
        victim.kill()
        disk.unmount()


# -- roots -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what", ["another directory", "no mark", "an empty one"] if IS_FULL else ["no mark"]
)
def test_E8_a_root_that_is_not_ours_deletes_nothing(
    nodes: Nodes, peer: Node, meet: Meet, what: str
) -> None:
    victim = meet(nodes.add("victim"))
    tree = agree(peer, victim)
    aside = victim.user_home / "aside"
    mark = victim.folder / ".dizzyd"
    if what == "no mark":
        mark.rename(aside)
    else:
        victim.folder.rename(aside)
        victim.folder.mkdir()
        if what == "another directory":
            write_files(victim.folder, {"other": b"other"})

    says(victim, "find the folder")
    assert victim.about()["state"] == "faulty"
    write_files(peer.folder, {"meanwhile": b"meanwhile"})
    assert peer.tree().keys() == {*tree, "meanwhile"}
    assert not (victim.folder / "meanwhile").exists()

    if what == "no mark":
        aside.rename(mark)
    else:
        victim.folder.rename(victim.user_home / "wrong")
        aside.rename(victim.folder)
    assert agree(peer, victim).keys() == {*tree, "meanwhile"}


# -- what a dying disk says -----------------------------------------------------------------------


@pytest.fixture
def lying(nodes: Nodes, tmp_path: Path) -> Shimmed:
    if reason := shim.why_not():
        pytest.skip(reason)
    return Shimmed.add(nodes, tmp_path, "victim")


@pytest.mark.parametrize(
    ("number", "moment"),
    [(errno.EACCES, "while it runs")]
    + [(number, "at its start") for number in (errno.EACCES, errno.EIO) if IS_FULL]
    + [(errno.EIO, "while it runs")],
)
def test_E5_E9_what_cannot_be_read_is_not_deleted(
    peer: Node, meet: Meet, lying: Shimmed, number: int, moment: str
) -> None:
    lying.set_places(lying.folder / "in")
    meet(lying)
    tree = agree(peer, lying)
    if moment == "at its start":
        lying.stop()
    lying.shim.arm(target=1, action=number, times=FOREVER)
    if moment == "at its start":
        lying.start()
    write_files(lying.folder, {"in/three": b"three"})
    write_files(lying.folder, {"beside": b"beside"})
    lying.must("scan", "shared")

    says(lying, os.strerror(number), "read", "permission")
    eventually("the rest goes on", (peer.folder / "beside").exists)
    assert peer.tree().keys() >= tree.keys()

    lying.shim.disarm()
    lying.must("scan", "shared")
    assert agree(peer, lying).keys() == {*tree, "beside", "in/three"}


@pytest.mark.parametrize(
    "number", [errno.EDQUOT] + ([errno.ENOSPC, errno.EROFS, errno.EIO] if IS_FULL else [])
)
def test_E3_E6_a_disk_that_takes_nothing_is_told_and_heals(
    peer: Node, meet: Meet, lying: Shimmed, number: int
) -> None:
    lying.set_places(lying.folder / ".dizzyd" / "tmp")
    meet(lying)
    lying.shim.arm(target=1, action=number, times=FOREVER)
    write_files(peer.folder, {"text": b"2", "new": b"new"})

    said = {errno.EDQUOT: "quota", errno.ENOSPC: "full", errno.EROFS: "read-only"}
    says(lying, said.get(number, "error"), os.strerror(number))
    assert contents(lying.folder)["text"] == b"1"

    lying.shim.disarm()
    assert agree(peer, lying).keys() == {"text", "in", "in/one", "in/two", "new"}
