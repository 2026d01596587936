"""What every daemon.hints.Watcher keeps, on real files, and what inotify's keeps beyond."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon.bunch import HintBunch
from daemon.disk import NewFile
from daemon.hints import Hint, HintKind, Watcher, WatchState
from daemon.inotify import InotifyWatcher
from daemon.inotify_kernel import Inotify
from daemon.watcher import PollingWatcher, WatchdogWatcher, watcher_for
from tests.daemon.real_outside import make_linux_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WITHIN_S = 10.0
EVENTS_OVER_THE_QUEUE = 17_000  # the kernel's queue holds 16,384 unless somebody enlarged it


class Ear:
    """Hears hints and waits for some of them."""

    def __init__(self) -> None:
        self.hints: list[Hint] = []
        self._changed = threading.Condition()

    def __call__(self, hints: list[Hint]) -> None:
        with self._changed:
            self.hints.extend(hints)
            self._changed.notify_all()

    def wait(self, fits: Callable[[Hint], bool]) -> Hint:
        end_s = time.monotonic() + WITHIN_S
        with self._changed:
            while True:
                for hint in self.hints:
                    if fits(hint):
                        return hint
                left_s = end_s - time.monotonic()
                if left_s <= 0:
                    raise AssertionError(f"not heard; heard were {self.hints[-50:]}")
                self._changed.wait(left_s)

    def wait_for(self, path: bytes, *kinds: HintKind) -> Hint:
        return self.wait(lambda hint: hint.path == path and (not kinds or hint.kind in kinds))

    def about(self, path: bytes) -> list[Hint]:
        with self._changed:
            return [hint for hint in self.hints if hint.path == path]

    def forget(self) -> None:
        with self._changed:
            self.hints.clear()


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    (made / ".dizzyd" / "tmp").mkdir(parents=True)
    (made / ".dizzyd" / "history").mkdir()
    return made


@pytest.fixture(params=[InotifyWatcher, WatchdogWatcher])
def watcher(request: pytest.FixtureRequest, root: Path) -> Iterator[Watcher]:
    made: Watcher = request.param(os.fsencode(root))
    yield made
    made.stop()


@pytest.fixture
def bare(root: Path) -> Iterator[InotifyWatcher]:
    made = InotifyWatcher(os.fsencode(root))
    yield made
    made.stop()


def settle(ear: Ear, root: Path) -> None:
    """Wait until everything before this has been heard."""
    (root / "settled").write_bytes(b"1")
    ear.wait_for(b"settled", HintKind.CLOSED)
    (root / "settled").unlink()
    ear.wait_for(b"settled", HintKind.GONE)
    ear.forget()


# -- both watchers ---------------------------------------------------------------------------------


def test_a_save_is_heard_when_it_is_closed(watcher: Watcher, ear: Ear, root: Path) -> None:
    (root / "file").write_bytes(b"old")
    watcher.start(ear)
    assert watcher.state is WatchState.FULL
    assert watcher.unwatched() == []

    (root / "file").write_bytes(b"new")

    assert not ear.wait_for(b"file", HintKind.CLOSED).is_directory


def test_E22_temp_and_rename_is_heard_with_its_source(
    watcher: Watcher, ear: Ear, root: Path
) -> None:
    (root / "file").write_bytes(b"old")
    watcher.start(ear)

    (root / "file.tmp").write_bytes(b"new")
    (root / "file.tmp").rename(root / "file")

    assert ear.wait_for(b"file", HintKind.MOVED_HERE).source == b"file.tmp"


def test_E22_backup_and_create_is_heard(watcher: Watcher, ear: Ear, root: Path) -> None:
    (root / "file").write_bytes(b"old")
    watcher.start(ear)

    (root / "file").rename(root / "file~")
    (root / "file").write_bytes(b"new")

    assert ear.wait_for(b"file~", HintKind.MOVED_HERE).source == b"file"
    ear.wait_for(b"file", HintKind.CLOSED)


def test_E22_truncate_by_path_and_chmod_are_heard(watcher: Watcher, ear: Ear, root: Path) -> None:
    (root / "file").write_bytes(b"old")
    (root / "program").write_bytes(b"old")
    watcher.start(ear)

    os.truncate(root / "file", 1)
    (root / "program").chmod(0o755)

    ear.wait_for(b"file", HintKind.CHANGED)
    ear.wait_for(b"program", HintKind.CHANGED)


def test_a_removed_file_is_gone(watcher: Watcher, ear: Ear, root: Path) -> None:
    (root / "file").write_bytes(b"1")
    watcher.start(ear)

    (root / "file").unlink()

    ear.wait_for(b"file", HintKind.GONE)


def test_links_and_odd_names_are_heard(watcher: Watcher, ear: Ear, root: Path) -> None:
    watcher.start(ear)

    (root / "link").symlink_to("nowhere")
    odd = b"\xff\n\x1b[31m"
    (root / os.fsdecode(odd)).write_bytes(b"1")

    ear.wait_for(b"link", HintKind.APPEARED)
    ear.wait_for(odd)


def test_mkdir_p_and_a_file_at_once_is_heard(watcher: Watcher, ear: Ear, root: Path) -> None:
    watcher.start(ear)

    for number in range(50):
        deep = root / f"a{number}" / "b" / "c"
        deep.mkdir(parents=True)
        (deep / "file").write_bytes(b"1")

    for number in range(50):
        ear.wait_for(b"a%d/b/c/file" % number, HintKind.APPEARED, HintKind.CLOSED)


def test_a_tree_moved_in_is_heard_whole_and_watched(
    watcher: Watcher, ear: Ear, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "tree" / "below").mkdir(parents=True)
    (tmp_path / "tree" / "below" / "file").write_bytes(b"1")
    watcher.start(ear)

    (tmp_path / "tree").rename(root / "tree")

    assert ear.wait_for(b"tree").is_directory
    ear.wait_for(b"tree/below/file")
    settle(ear, root)
    (root / "tree" / "below" / "file").write_bytes(b"2")
    ear.wait_for(b"tree/below/file", HintKind.CLOSED)


def test_a_large_tree_moved_in_is_told_in_one_once_it_is_watched(
    bare: InotifyWatcher, ear: Ear, root: Path, tmp_path: Path
) -> None:
    source = tmp_path / "outside"
    for number in range(40):
        below = source / f"d{number}"
        below.mkdir(parents=True)
        for name in range(20):
            (below / f"{name}").write_bytes(b"1")
    bare.start(ear)

    source.rename(root / "in")
    ear.wait_for(b"in", HintKind.LOST)

    assert len(ear.hints) < 400
    for number in range(40):
        (root / "in" / f"d{number}" / "late").write_bytes(b"2")
        ear.wait_for(b"in/d%d/late" % number, HintKind.CLOSED)


def test_a_tree_moved_out_is_gone(watcher: Watcher, ear: Ear, root: Path, tmp_path: Path) -> None:
    (root / "tree" / "below").mkdir(parents=True)
    watcher.start(ear)

    (root / "tree").rename(tmp_path / "tree")

    assert ear.wait_for(b"tree", HintKind.GONE).is_directory


def test_P26_a_renamed_directory_is_one_hint_and_stays_watched(
    watcher: Watcher, ear: Ear, root: Path
) -> None:
    (root / "old" / "below").mkdir(parents=True)
    (root / "old" / "below" / "file").write_bytes(b"1")
    watcher.start(ear)

    (root / "old").rename(root / "new")

    moved = ear.wait_for(b"new", HintKind.MOVED_HERE)
    assert (moved.source, moved.is_directory) == (b"old", True)
    settle(ear, root)
    (root / "new" / "below" / "file").write_bytes(b"2")
    ear.wait_for(b"new/below/file", HintKind.CLOSED)
    assert ear.about(b"old/below/file") == []


def test_our_own_directory_is_not_heard(watcher: Watcher, ear: Ear, root: Path) -> None:
    watcher.start(ear)

    (root / ".dizzyd" / "tmp" / "stage").write_bytes(b"1")
    (root / ".dizzyd" / "tmp" / "stage").rename(root / "file")
    ear.wait_for(b"file")
    (root / "file").rename(root / ".dizzyd" / "tmp" / "kept")
    ear.wait_for(b"file", HintKind.GONE)

    assert not [hint for hint in ear.hints if hint.path.startswith(b".dizzyd")]
    assert not [hint for hint in ear.hints if (hint.source or b"").startswith(b".dizzyd")]


def test_nothing_is_heard_after_stop(watcher: Watcher, ear: Ear, root: Path) -> None:
    watcher.start(ear)
    watcher.stop()
    watcher.stop()
    count = len(ear.hints)

    (root / "file").write_bytes(b"1")
    os.sync()

    assert len(ear.hints) == count


def test_E17_an_overflow_is_told_and_watching_goes_on(
    watcher: Watcher, ear: Ear, root: Path
) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit >= EVENTS_OVER_THE_QUEUE:
        pytest.skip("the queue of this machine is too long")
    (root / "a").write_bytes(b"1")
    (root / "b").write_bytes(b"1")
    watcher.start(ear)
    script = (
        "import os, sys\n"
        f"for i in range({EVENTS_OVER_THE_QUEUE}): os.utime('ab'[i % 2], (i, i))\n"
        "os.mkdir('made'); open('made/unseen', 'w').close()\n"
    )
    # No thread of ours runs while the interpreter's lock is held: the reader stands still.
    writer = subprocess.Popen([sys.executable, "-c", script], cwd=root)
    ctypes.PyDLL(None).waitpid(writer.pid, None, 0)
    writer.wait()

    ear.wait_for(b"", HintKind.LOST)
    if isinstance(watcher, WatchdogWatcher):
        # It tells before it has thrown away what it will, so a second word must follow.
        ear.forget()
        ear.wait_for(b"", HintKind.LOST)
    ear.forget()
    (root / "a").write_bytes(b"2")
    ear.wait_for(b"a", HintKind.CLOSED)


# -- inotify's own ---------------------------------------------------------------------------------


def test_E17_directories_missed_in_an_overflow_are_watched_afterwards(
    bare: InotifyWatcher, ear: Ear, root: Path
) -> None:
    test_E17_an_overflow_is_told_and_watching_goes_on(bare, ear, root)

    (root / "made" / "file").write_bytes(b"1")

    ear.wait_for(b"made/file", HintKind.CLOSED)


def test_a_burst_of_renames_passes_without_overflow(
    bare: InotifyWatcher, ear: Ear, root: Path
) -> None:
    bare.start(ear)
    count = 5000
    script = (
        f"import os\nfor i in range({count}):\n"
        "    t = 't%d' % i\n    open(t, 'w').close()\n    os.rename(t, 'f%d' % i)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)

    ear.wait_for(b"f%d" % (count - 1), HintKind.MOVED_HERE)

    moved = {hint.path for hint in ear.hints if hint.kind is HintKind.MOVED_HERE}
    assert len(moved) == count
    assert not [hint for hint in ear.hints if hint.kind is HintKind.LOST]


def test_a_tree_moved_out_is_not_watched_any_more(
    bare: InotifyWatcher, ear: Ear, root: Path, tmp_path: Path
) -> None:
    (root / "tree" / "below").mkdir(parents=True)
    bare.start(ear)
    (root / "tree").rename(tmp_path / "tree")
    ear.wait_for(b"tree", HintKind.GONE)
    ear.forget()

    (tmp_path / "tree" / "below" / "file").write_bytes(b"1")
    settle(ear, root)
    (root / "last").write_bytes(b"1")
    ear.wait_for(b"last")

    assert not [hint for hint in ear.hints if hint.path.startswith(b"tree")]


def test_swapped_directories_keep_their_watches(ear: Ear, tmp_path: Path) -> None:
    disk, outside = make_linux_disk(tmp_path)
    disk.close()
    for name in (b"a", b"b"):
        outside.mkdir(name)
        outside.mkdir(name + b"/in-" + name)
    watcher = InotifyWatcher(outside.root)
    watcher.start(ear)
    try:
        outside.exchange(b"a", b"b")
        ear.wait_for(b"a", HintKind.MOVED_HERE)
        ear.wait_for(b"b", HintKind.MOVED_HERE)
        settle(ear, tmp_path / "folder")

        outside.write(b"a/in-b/file", b"1")
        outside.write(b"b/in-a/file", b"1")

        ear.wait_for(b"a/in-b/file", HintKind.CLOSED)
        ear.wait_for(b"b/in-a/file", HintKind.CLOSED)
    finally:
        watcher.stop()


@pytest.mark.parametrize("renames", [1, 2])
def test_a_directory_made_just_before_the_one_above_is_renamed_is_watched(
    bare: InotifyWatcher, root: Path, ear: Ear, renames: int
) -> None:
    """Its event is read when its path leads nowhere any more."""
    (root / "old" / "sub").mkdir(parents=True)
    (root / "top").mkdir()
    is_stuck, may_go_on = threading.Event(), threading.Event()

    def listen(hints: list[Hint]) -> None:
        ear(hints)
        if any(hint.path == b"stop" for hint in hints):
            is_stuck.set()
            may_go_on.wait(WITHIN_S)

    bare.start(listen)
    (root / "stop").write_bytes(b"")
    assert is_stuck.wait(WITHIN_S)
    (root / "old" / "sub" / "new").mkdir()
    (root / "old" / "sub" / "new" / "inner").mkdir()
    (root / "old").rename(root / "top" / "moved")
    if renames > 1:
        (root / "top").rename(root / "over")
    may_go_on.set()
    settle(ear, root)

    inner = ("over" if renames > 1 else "top") + "/moved/sub/new/inner"
    (root / inner / "file").write_bytes(b"late")

    ear.wait_for(os.fsencode(inner) + b"/file")
    assert bare.state is WatchState.FULL


def test_removed_and_remade_directories_are_watched(
    bare: InotifyWatcher, ear: Ear, root: Path
) -> None:
    bare.start(ear)
    for _ in range(100):
        (root / "d").mkdir()
        (root / "d").rmdir()
    (root / "d").mkdir()
    settle(ear, root)

    (root / "d" / "file").write_bytes(b"1")

    ear.wait_for(b"d/file", HintKind.CLOSED)


def test_our_own_replacing_hints_that_the_file_is_there(ear: Ear, tmp_path: Path) -> None:
    disk, outside = make_linux_disk(tmp_path)
    outside.write(b"file", b"old")
    watcher = InotifyWatcher(outside.root)
    watcher.start(ear)
    try:
        stage = disk.stage_many([NewFile(b"new", False, 0)])[0]
        disk.place_over(stage, b"file", b"kept")
        stage.close()
        assert ear.wait_for(b"file", HintKind.MOVED_HERE).source is None
        (tmp_path / "folder" / "last").write_bytes(b"1")
        ear.wait_for(b"last", HintKind.CLOSED)
    finally:
        watcher.stop()
        disk.close()

    assert {hint.path for hint in ear.hints} == {b"file", b"last"}


def test_E7_E8_a_root_that_moves_away_or_loses_its_mark_is_told(
    bare: InotifyWatcher, ear: Ear, root: Path, tmp_path: Path
) -> None:
    bare.start(ear)

    root.rename(tmp_path / "elsewhere")
    ear.wait_for(b"", HintKind.LOST)
    ear.forget()
    (tmp_path / "elsewhere" / ".dizzyd").rename(tmp_path / "mark")
    ear.wait_for(b"", HintKind.LOST)


class Limited(Inotify):
    """A kernel that grants few watches."""

    limit = 4

    def __init__(self) -> None:
        super().__init__()
        self._granted: set[int] = set()

    def add(self, path: bytes, mask: int) -> int:
        if len(self._granted) >= self.limit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        watch = super().add(path, mask)
        self._granted.add(watch)
        return watch


def test_E16_what_is_beyond_the_limit_of_watches_is_told(root: Path, ear: Ear) -> None:
    for number in range(10):
        (root / f"d{number}" / "below").mkdir(parents=True)
    watcher = InotifyWatcher(os.fsencode(root), kernel=Limited)

    watcher.start(ear)

    try:
        assert watcher.state is WatchState.PARTIAL
        assert watcher.is_limit_reached
        unwatched = watcher.unwatched()
        assert 6 < len(unwatched) <= 10
        watched = next(n for n in range(10) if not any(b"d%d" % n in u for u in unwatched))
        (root / f"d{watched}" / "file").write_bytes(b"1")
        ear.wait_for(b"d%d/file" % watched, HintKind.CLOSED)
        (root / "late").mkdir()
        ear.wait_for(b"late", HintKind.APPEARED)
        settle(ear, root)
        assert b"late" in watcher.unwatched()
    finally:
        watcher.stop()


def test_E16_the_real_limit_of_a_user_namespace(root: Path) -> None:
    for number in range(10):
        (root / f"d{number}").mkdir()
    script = (
        "import sys\n"
        "open('/proc/sys/user/max_inotify_watches', 'w').write('5')\n"
        "from daemon.inotify import InotifyWatcher\n"
        f"w = InotifyWatcher({os.fsencode(root)!r})\n"
        "w.start(lambda hints: None)\n"
        "print(w.state.name, len(w.unwatched()))\n"
        "w.stop()\n"
    )
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", script]
    project = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if "Permission denied" in done.stderr or "unshare" in done.stderr:
        pytest.skip("no user namespaces here")

    assert done.stdout.split()[:1] == ["PARTIAL"], done.stderr
    assert int(done.stdout.split()[1]) >= 5


def test_E16_without_an_instance_everything_is_polled(root: Path, ear: Ear) -> None:
    def refuse() -> Inotify:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    watcher = InotifyWatcher(os.fsencode(root), kernel=refuse)
    watcher.start(ear)

    assert watcher.state is WatchState.POLLING
    assert watcher.unwatched() == [b""]
    watcher.stop()


def test_E9_an_unreadable_directory_is_polled_until_it_can_be_read(root: Path, ear: Ear) -> None:
    closed = root / "closed"
    closed.mkdir()

    class Forbidding(Inotify):
        def add(self, path: bytes, mask: int) -> int:
            if Path(os.fsdecode(path)).resolve() == closed and not closed.stat().st_mode & 0o400:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return super().add(path, mask)

    closed.chmod(0)
    watcher = InotifyWatcher(os.fsencode(root), kernel=Forbidding)
    watcher.start(ear)
    try:
        assert watcher.unwatched() == [b"closed"]
        assert not watcher.is_limit_reached
        closed.chmod(0o755)
        ear.wait_for(b"closed", HintKind.LOST)
        assert watcher.state is WatchState.FULL
        (closed / "file").write_bytes(b"1")
        ear.wait_for(b"closed/file", HintKind.CLOSED)
    finally:
        closed.chmod(0o755)
        watcher.stop()


def test_local_file_systems_are_watched(root: Path) -> None:
    assert isinstance(watcher_for(os.fsencode(root)), InotifyWatcher)
    assert PollingWatcher().state is WatchState.POLLING
    assert PollingWatcher().unwatched() == [b""]


# -- bunches ---------------------------------------------------------------------------------------


def test_a_bunch_says_each_touch_once_and_the_strongest() -> None:
    bunch = HintBunch()
    for kind in (HintKind.APPEARED, HintKind.CHANGED, HintKind.CHANGED, HintKind.CLOSED):
        bunch.touch(kind, b"a")

    assert bunch.take() == [Hint(HintKind.CLOSED, b"a")]
    assert not bunch


def test_a_bunch_keeps_the_order_of_renames() -> None:
    bunch = HintBunch()
    bunch.touch(HintKind.CLOSED, b"t")
    bunch.move(b"a", b"t")
    bunch.move(b"b", b"a")

    assert bunch.take() == [
        Hint(HintKind.MOVED_HERE, b"a", source=b"t"),
        Hint(HintKind.MOVED_HERE, b"b", source=b"a"),
    ]


def test_a_bunch_names_what_a_directory_carried_where_it_is_now() -> None:
    bunch = HintBunch()
    bunch.touch(HintKind.CLOSED, b"d/f")
    bunch.move(b"e", b"d", is_directory=True)

    assert bunch.take() == [
        Hint(HintKind.MOVED_HERE, b"e", is_directory=True, source=b"d"),
        Hint(HintKind.CLOSED, b"e/f"),
    ]
