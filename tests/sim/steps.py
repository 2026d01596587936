"""Carry out the steps of a history on a world, one verb at a time.

What a user cannot do (the file is not there any more) is simply not done: histories stay
meaningful when steps are cut out of them.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from daemon.disk import FileKind
from store.errors import DizzyError
from tests.sim.history import USER_VERBS, content_of, large_content_of
from tests.sim.loop import Crashed
from tests.sim.net import Path

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sim.history import Argument, Step
    from tests.sim.outside import Handle
    from tests.sim.world import Place, SimNode, World

JOIN_LIMIT_S = 10.0  # a person tries again
WEATHER = {
    "slow": Path(latency_s=2.0, jitter_s=1.0),
    "thin": Path(bytes_per_s=2000.0),
    "breaking": Path(break_rate=0.05),
}


@runtime_checkable
class Checkpointer(Protocol):
    """A node that can make checkpoints."""

    async def checkpoint(self) -> None:
        """Make one now, if it may."""


@runtime_checkable
class Newcomer(Protocol):
    """A node that is perhaps not yet a member."""

    @property
    def is_member(self) -> bool:
        """Whether it has the folder."""

    async def join(self, inviter: SimNode, role: str) -> None:
        """Join by an invite of that node, the same at every try. Raises DizzyError."""


class Player:
    """Does what steps say; ends by undoing every trouble that it made."""

    def __init__(self, world: World) -> None:
        """Play on this world."""
        self._world = world
        self._handles: list[Handle] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def play(self, step: Step) -> None:
        """Do one step; what takes long goes on beside."""
        place = self._world.places[step.node % len(self._world.places)]
        place.loop.trace.fold(repr(tuple(step)).encode())
        if step.verb in USER_VERBS:
            self._act(place, step.verb, step.args)
        else:
            verb: Callable[..., None] = getattr(self, f"_{step.verb}")
            verb(place, *step.args)

    async def end(self) -> None:
        """Wait for what goes on, close what users hold open, end lasting troubles."""
        for place in self._world.places:
            if _newcomer(place.node) is not None:
                self._join(place, 0, "write")
        if self._tasks:
            await asyncio.gather(*self._tasks)
        for handle in self._handles:
            handle.close()
        for place in self._world.places:
            place.watcher.drop_rate = 0.0
            place.files.is_away = False
            if not place.is_dead:
                place.disk.heal()

    # -- users ------------------------------------------------------------------------------------

    def _act(self, place: Place, verb: str, args: tuple[Argument, ...]) -> None:
        # What users of a reader do stays there: no tree could be compared.
        if place.is_reader or place.files.is_away:
            return
        try:
            self._user(place, verb, args)
        except OSError as error:
            place.loop.trace.fold(f"{verb} {error.errno}".encode())

    def _user(self, place: Place, verb: str, args: tuple[Argument, ...]) -> None:
        outside = place.outside
        paths = [os.fsencode(each) for each in args if isinstance(each, str)]
        numbers = [each for each in args if isinstance(each, int)]
        match verb:
            case "create":
                outside.create(paths[0], self._content(numbers[0]))
            case "write":
                outside.write(paths[0], self._content(numbers[0]))
            case "big":
                large = large_content_of(self._world.seed, numbers[0])
                outside.write(paths[0], large if numbers[0] else b"")
            case "twice":
                outside.write(paths[0], self._content(numbers[0]))
                outside.write(paths[0], self._content(numbers[1]))
            case "save":
                outside.save_atomically(paths[0], self._content(numbers[0]))
            case "backup":
                outside.save_with_backup(
                    paths[0], self._content(numbers[0]), keeps=bool(numbers[1])
                )
            case "append":
                outside.append(paths[0], self._content(numbers[0]))
            case "hold":
                self._hold(place, paths[0], *numbers)
            case "copy":
                outside.copy(*paths)
            case "move" | "move_directory" | "recase":
                outside.rename(*paths)
            case "swap":
                outside.swap(*paths)
            case "exchange":
                outside.exchange(*paths)
            case "remove":
                outside.unlink(*paths)
            case "rmtree":
                outside.remove_tree(*paths)
            case "mkdir":
                outside.mkdir(*paths)
            case "symlink":
                outside.symlink(*paths)
            case "chmod":
                # A directory that nobody may search is told as a problem, and rightly so.
                is_directory = place.files.get(paths[0]).kind is FileKind.DIRECTORY
                outside.chmod(paths[0], 0o755 if numbers[0] or is_directory else 0o644)
            case "touch":
                outside.utime(paths[0], numbers[0] * 10**9)
            case _:
                raise ValueError(verb)

    def _content(self, number: int) -> bytes:
        return content_of(self._world.seed, number)

    def _hold(self, place: Place, path: bytes, first: int, second: int, after_ms: int) -> None:
        handle = place.outside.open(path)
        handle.rewrite(self._content(first))
        self._handles.append(handle)

        def finish() -> None:
            with suppress(OSError):
                if not place.files.is_away:
                    handle.rewrite(self._content(second))
            handle.close()

        self._later(place, after_ms, finish)

    # -- network ----------------------------------------------------------------------------------

    def _cut(self, place: Place, other: int, for_ms: int) -> None:
        name = self._name(other)
        place.net.cut(place.name, name)
        self._later(place, for_ms, lambda: place.net.heal(place.name, name))

    def _stall(self, place: Place, other: int, for_ms: int) -> None:
        name = self._name(other)
        place.net.stall(place.name, name)
        self._later(place, for_ms, lambda: place.net.heal(place.name, name))

    def _flap(self, place: Place, other: int, times: int) -> None:
        flapping = place.net.flap(place.name, self._name(other), every_s=0.1, times=times)
        self._keep(place.loop.create_task(flapping))

    def _alone(self, place: Place, for_ms: int) -> None:
        for other in place.names:
            if other != place.name:
                place.net.cut(place.name, other)
        self._later(place, for_ms, lambda: self._together(place))

    def _together(self, place: Place) -> None:
        for other in place.names:
            if other != place.name:
                place.net.heal(place.name, other)

    def _weather(self, place: Place, other: int, kind: str, for_ms: int) -> None:
        name = self._name(other)
        for way in ((place.name, name), (name, place.name)):
            now = place.net.path(*way)
            worse = replace(WEATHER[kind], is_cut=now.is_cut, is_stalled=now.is_stalled)
            place.net.set_path(*way, worse)
        self._later(place, for_ms, lambda: place.net.heal(place.name, name))

    # -- processes --------------------------------------------------------------------------------

    def _kill(self, place: Place, down_ms: int) -> None:
        self._world.kill(place)
        self._world.restart_later(place, down_ms)

    def _power(self, place: Place, down_ms: int) -> None:
        self._world.cut_power(place)
        self._world.restart_later(place, down_ms)

    def _stop(self, place: Place, down_ms: int) -> None:
        async def stop() -> None:
            await self._world.stop(place)
            self._world.restart_later(place, down_ms)

        self._keep(place.loop.create_task(stop()))

    def _crash_at(self, place: Place, instant: int, down_ms: int, power: int) -> None:
        if place.is_dead:
            return
        world = self._world
        place.disk.on_crash = lambda: world.note_crash(place, down_ms=down_ms, power=bool(power))
        place.disk.crash_at(instant)

    def _crash_commit(
        self, place: Place, commit: int, behind: int, down_ms: int, power: int
    ) -> None:
        if place.is_dead:
            return
        world = self._world
        place.disk.on_crash = lambda: world.note_crash(place, down_ms=down_ms, power=bool(power))
        place.crash_at_commit = (place.commits + commit, bool(behind))

    # -- joining ----------------------------------------------------------------------------------

    def _join(self, place: Place, other: int, role: str) -> None:
        self._keep(place.loop.create_task(self._try_to_join(place, other, role)))

    async def _try_to_join(self, place: Place, other: int, role: str) -> None:
        """Try until it has joined, as people do, whatever crashes meanwhile."""
        inviter = self._world.places[other % len(self._world.places)]
        while (newcomer := _newcomer(place.node)) is not None:
            if not place.is_dead and not inviter.is_dead and inviter.node is not None:
                with suppress(DizzyError, Crashed, TimeoutError):
                    async with asyncio.timeout(JOIN_LIMIT_S):
                        await newcomer.join(inviter.node, "read" if place.is_reader else role)
            await asyncio.sleep(1)

    def _checkpoint(self, place: Place) -> None:
        """Let the owner record a checkpoint of whatever it has just now."""
        del place  # one step like any other; the first node owns the folder
        owner = self._world.places[0]
        self._keep(owner.loop.create_task(self._try_to_checkpoint(owner)))

    async def _try_to_checkpoint(self, owner: Place) -> None:
        node = _checkpointer(owner.node)
        if not owner.is_dead and node is not None:
            with suppress(Crashed, TimeoutError):
                async with asyncio.timeout(JOIN_LIMIT_S):  # its node may end meanwhile
                    await node.checkpoint()

    # -- troubles ---------------------------------------------------------------------------------

    def _mute(self, place: Place, for_ms: int) -> None:
        watcher = place.watcher
        watcher.drop_rate = 1.0
        place.has_lost_hints = True

        def end() -> None:
            watcher.drop_rate = 0.0

        self._later(place, for_ms, end)

    def _overflow(self, place: Place) -> None:
        place.watcher.overflow()

    def _clock(self, place: Place, by_s: int) -> None:
        place.clock.jump(by_s * 10**9)

    def _fault(self, place: Place, after: int, number: int, times: int) -> None:
        if not place.is_dead:
            place.disk.fail_call(after, number, times)

    def _full(self, place: Place, for_ms: int) -> None:
        if place.is_dead:
            return
        disk = place.disk
        disk.fail_always(28)
        self._later(place, for_ms, lambda: disk.fail_always(None))

    def _unplug(self, place: Place, instant: int, for_ms: int) -> None:
        """Take the disk out in the middle of something; its node goes on, and hears of others."""
        files = place.files

        def take_out() -> None:
            files.is_away = True
            self._later(place, for_ms, put_back)

        def put_back() -> None:
            files.is_away = False

        if not place.is_dead:
            place.disk.at_instant(instant, take_out)

    def _meddle(self, place: Place, instant: int, verb: str, *args: Argument) -> None:
        if not place.is_dead:
            place.disk.at_instant(instant, lambda: self._act(place, verb, args))

    # -- inside -----------------------------------------------------------------------------------

    def _name(self, other: int) -> str:
        return self._world.places[other % len(self._world.places)].name

    def _later(self, place: Place, after_ms: int, action: Callable[[], None]) -> None:
        async def act() -> None:
            await asyncio.sleep(after_ms / 1000)
            action()

        self._keep(place.loop.create_task(act()))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _checkpointer(node: object) -> Checkpointer | None:
    return node if isinstance(node, Checkpointer) else None


def _newcomer(node: object) -> Newcomer | None:
    return node if isinstance(node, Newcomer) and not node.is_member else None
