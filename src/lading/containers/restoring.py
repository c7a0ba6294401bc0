"""Finding the containers of earlier daemons again, and hearing what the runtime reports about them."""

import contextlib
import time
from collections.abc import Callable
from typing import Any, Final

import anyio
import msgspec
import structlog

from lading.containers import execs, imagemounts, runs, signals
from lading.containers.lifecycle import LOST_EXIT, PROCESS_FILE, Lifecycle
from lading.containers.model import Container, State
from lading.core.runtime import Exit, Status, Task
from lading.errors import LadingError, NotFoundError
from lading.kit import aio

_EVENT_SECONDS: Final = 1.0
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("lading.containers")


class Restorer:
    """Takes up where an earlier daemon left off; afterwards `listen` goes on for as long as the daemon lives."""

    def __init__(self, life: Lifecycle) -> None:
        self._life = life
        self._exits: dict[str, Exit] = {}
        self._reported: dict[str, anyio.Event] = {}

    async def is_unfinished(self, container: Container) -> bool:
        """Whether an earlier daemon was killed while it made this container; it is then dropped, for nobody knows of it."""
        if container.state.started_at or container.state.finished_at:
            return False
        try:
            await self._life.env.snapshotter.stat(container.record.snapshot_key)
        except NotFoundError:
            _log.warning("unfinished_container_dropped", container=container.id)
            await imagemounts.release(self._life.env, container.id, container.images)
            await self._life.env.store.delete(container.id)
            await self._life.holding.forget(container, own=True)
            return True
        return False

    async def restore(self, containers: list[Container]) -> None:
        """Find the containers of earlier daemons: take up those that run, finish those that ended meanwhile."""
        tasks = {task.id: task for task in await self._life.env.runtime.load()}
        living = [each for each in containers if each.id in tasks]
        await self._life.networking.recover([each.id for each in living])
        await self._life.holding.recover(living)
        async with anyio.create_task_group() as group:
            for container in containers:
                group.start_soon(self._restore, container, tasks.pop(container.id, None))
        running = {container.id for container in containers if container.state.running}
        await aio.run(aio.DISK, self._life.host_mounts.sweep, running)
        for stray, task in tasks.items():
            _log.warning("stray_task_ended", container=stray)
            await self._destroy(task)

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
            self._life.spawn(self._life.remove_quietly, container)
            return
        if task is not None:
            found = await task.state()
            if found.status is Status.CREATED:  # the daemon died between create and start; nothing ran yet
                await self._destroy(task)
                await self._life.networking.leave(container)
                await self._life.holding.leave(container)
                task = None
        if task is None and not state.running:
            if state.restarting:
                self._life.spawn(self._life.restart_later, container)
            elif container.host.auto_remove and (state.started_at or state.finished_at):
                self._life.spawn(self._life.remove_quietly, container)
            elif self._starts_at_boot(container):
                self._life.spawn(self._life.restart_later, container)
            return
        await self._resume_run(container)
        if task is None:
            self._life.spawn(self._finish_lost, container)
            return
        known = state.running and state.pid == task.pid
        if not state.running:
            container.document.state = State(running=True, started_at=time.time_ns())
        container.task = task
        container.state.pid = task.pid
        container.started.set()
        for fd in await aio.run(aio.DISK, execs.drop_leftovers, self._life.state_directory(container)):
            self._life.spawn(execs.discard, fd)
        if not known:
            await self._life.save(container)
        if not state.paused:
            self._life.tell_running(container)
        self._life.spawn(self._life.watch, container, task)

    async def _finish_lost(self, container: Container) -> None:
        """Its shim is gone. The runtime reports the exit if it can still find it out."""
        reported = self._reported.setdefault(container.id, anyio.Event())
        with anyio.move_on_after(_EVENT_SECONDS):
            await reported.wait()
        end = self._exits.get(container.id, Exit(status=LOST_EXIT, exited_at_nano=time.time_ns()))
        with anyio.CancelScope(shield=True):
            await self._life.finish(container, None, end)

    async def listen(self, find: Callable[[str], Container | None]) -> None:
        """Follow the runtime's events: exits of tasks that nobody waits for, and the out-of-memory killer."""
        async for event in self._life.env.runtime.events():
            container = find(event.container)
            if container is None or event.exec_id:
                continue
            if event.topic == "/tasks/exit" and container.task is None:
                self._exits[event.container] = Exit(status=event.exit_status, exited_at_nano=event.time_nano)
                self._reported.setdefault(event.container, anyio.Event()).set()
            elif event.topic == "/tasks/oom":
                container.state.oom_killed = True
                self._life.env.bus.publish("container", "oom", container.id, container.attributes())

    def _starts_at_boot(self, container: Container) -> bool:
        policy = container.restart_policy.name
        return bool(container.state.started_at) and (
            policy == "always" or (policy == "unless-stopped" and not container.document.manually_stopped)
        )

    async def _resume_run(self, container: Container) -> None:
        log = self._life.log(container)
        directory = self._life.state_directory(container)
        try:
            run = await aio.run(
                aio.DISK,
                runs.resume,
                directory,
                container.output,
                stdin=container.config.open_stdin,
                terminal=container.config.tty,
                log=log,
                sink=self._life.sink(container),
            )
        except OSError:
            return  # after a reboot there is nothing to resume
        self._life.runs[container.id] = run
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            data = await aio.run(aio.DISK, (directory / PROCESS_FILE).read_bytes)
            self._life.processes[container.id] = msgspec.json.decode(data, type=dict[str, Any])
        self._life.spawn(run.pump)

    async def _destroy(self, task: Task) -> None:
        with contextlib.suppress(LadingError):
            await task.kill(signals.parse("KILL"), all=True)
        with contextlib.suppress(LadingError):
            await task.wait()
        with contextlib.suppress(LadingError):
            await task.delete()
