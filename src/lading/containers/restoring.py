"""Finding the containers of earlier daemons again, and hearing what the runtime reports about them."""

import contextlib
import time
from collections.abc import Callable
from typing import Final

import anyio
import structlog

from lading.containers import execs, imagemounts, restarts, signals
from lading.containers.background import Background
from lading.containers.directories import Directories
from lading.containers.environment import Environment
from lading.containers.launching import Launcher
from lading.containers.lifecycle import LOST_EXIT, Lifecycle
from lading.containers.model import Container, State
from lading.containers.networking import Networking
from lading.containers.volumeholding import VolumeHolding
from lading.core.runtime import ContainerID, Exit, Status, Task
from lading.errors import LadingError, NotFoundError
from lading.kit import aio

_EVENT_SECONDS: Final = 1.0
"""How long the end of a shim that dies just now is awaited."""
_KNOWN_SECONDS: Final = 0.1
"""How long it takes at most to hear of an end that was reported already."""
_READY_SECONDS: Final = 1.0
"""How long a daemon puts its being ready off until all that ended meanwhile is shown so."""
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("lading.containers")


class Restorer:
    """Takes up where an earlier daemon left off; afterwards `listen` goes on for as long as the daemon lives."""

    def __init__(
        self,
        environment: Environment,
        directories: Directories,
        launcher: Launcher,
        life: Lifecycle,
        networking: Networking,
        holding: VolumeHolding,
        background: Background,
    ) -> None:
        self._env = environment
        self._directories = directories
        self._launcher = launcher
        self._life = life
        self._networking = networking
        self._holding = holding
        self._spawn = background.spawn
        self._exits: dict[str, Exit] = {}
        self._reported: dict[str, anyio.Event] = {}
        self._ending: list[anyio.Event] = []

    async def is_unfinished(self, container: Container) -> bool:
        """Whether an earlier daemon was killed while it made this container; it is then dropped, for nobody knows of it."""
        if container.state.started_at or container.state.finished_at:
            return False
        try:
            await self._env.snapshotter.stat(container.record.snapshot_key)
        except NotFoundError:
            _log.warning("unfinished_container_dropped", container=container.id)
            await imagemounts.release(self._env, container.id, container.images)
            await self._env.store.delete(container.id)
            await self._holding.forget(container, own=True)
            return True
        return False

    async def restore(self, containers: list[Container]) -> None:
        """Find the containers of earlier daemons: take up those that run, finish those that ended meanwhile.

        What takes too long of the latter goes on in the background.
        """
        tasks = {task.id: task for task in await self._env.runtime.load()}
        living = [each for each in containers if each.id in tasks]
        await self._networking.recover([each.id for each in living])
        await self._holding.recover(living)
        async with anyio.create_task_group() as group:
            for container in containers:
                group.start_soon(self._restore, container, tasks.pop(container.id, None))
        running = {container.id for container in containers if container.state.running}
        await self._launcher.sweep(running)
        for stray, task in tasks.items():
            _log.warning("stray_task_ended", container=stray)
            await self._destroy(task)
        with anyio.move_on_after(_READY_SECONDS):
            for ended in self._ending:
                await ended.wait()

    async def _restore(self, container: Container, task: Task | None) -> None:
        try:
            await self._restore_one(container, task)
        except (LadingError, OSError) as exc:
            _log.error("container_not_restored", container=container.id, reason=str(exc))

    async def _restore_one(self, container: Container, task: Task | None) -> None:
        state = container.state
        if state.removing:
            if task is not None:
                await self._destroy(task)
            state.running = False
            self._spawn(self._life.remove_quietly, container)
            return
        status = (await task.state()).status if task is not None else Status.STOPPED
        if task is not None and status is Status.CREATED:
            await self._destroy(task)  # the daemon died between create and start; nothing ran yet
            await self._launcher.leave(container)
            task = None
        if task is None and not state.running:
            if state.restarting:
                self._spawn(self._life.restart_later, container)
            elif (
                container.host.auto_remove
            ):  # whether it ever ran or not: whoever would have started it is gone
                self._spawn(self._life.remove_quietly, container)
            elif restarts.with_daemon(container):
                self._spawn(self._life.restart_later, container)
            return
        if (run := await self._launcher.resume(container)) is not None:
            self._spawn(run.pump)
        if task is None:
            self._ending.append(container.stopped)
            self._spawn(self._finish_lost, container)
            return
        known = state.running and state.pid == task.pid
        if not state.running:
            state = container.document.state = State(running=True, started_at=time.time_ns())
        if status is Status.STOPPED:
            self._ending.append(container.stopped)
        known = await self._thaw(task, state, frozen=status is Status.PAUSED) and known
        container.task = task
        container.state.pid = task.pid
        container.started.set()
        for fd in await aio.run(aio.DISK, execs.drop_leftovers, self._directories.of_run(container)):
            self._spawn(execs.discard, fd)
        if not known:
            await self._env.store.update(container.snapshot())
        if not state.paused:
            self._life.tell_running(container)
        self._spawn(self._life.watch, container, task)

    async def _thaw(self, task: Task, state: State, *, frozen: bool) -> bool:
        """Let it be frozen only if that was acknowledged to a user; whether ``state`` was true already."""
        if frozen and (state.held or not state.paused):
            await task.resume()
            frozen = False
        known = state.paused is frozen
        state.paused, state.held = frozen, False
        return known

    async def _finish_lost(self, container: Container) -> None:
        """Its shim is gone. The runtime has reported the exit if it could find it out, or will if it still has the task."""
        reported = self._reported.setdefault(container.id, anyio.Event())
        patience = _EVENT_SECONDS
        try:
            await self._env.runtime.get(ContainerID(container.id))
        except NotFoundError:
            patience = _KNOWN_SECONDS
        with anyio.move_on_after(patience):
            await reported.wait()
        end = self._exits.get(container.id, Exit(status=LOST_EXIT, exited_at_nano=time.time_ns()))
        with anyio.CancelScope(shield=True):
            await self._life.finish(container, None, end)

    async def listen(self, find: Callable[[str], Container | None]) -> None:
        """Follow the runtime's events: exits of tasks that nobody waits for, and the out-of-memory killer."""
        async for event in self._env.runtime.events():
            container = find(event.container)
            if container is None or event.exec_id:
                continue
            if event.topic == "/tasks/exit" and container.task is None:
                self._exits[event.container] = Exit(status=event.exit_status, exited_at_nano=event.time_nano)
                self._reported.setdefault(event.container, anyio.Event()).set()
            elif event.topic == "/tasks/oom":
                container.state.oom_killed = True
                self._env.bus.publish("container", "oom", container.id, container.attributes())

    async def _destroy(self, task: Task) -> None:
        with contextlib.suppress(LadingError):
            await task.kill(signals.parse("KILL"), all=True)
        with contextlib.suppress(LadingError):
            await task.wait()
        with contextlib.suppress(LadingError):
            await task.delete()
