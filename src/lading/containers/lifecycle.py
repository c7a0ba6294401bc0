"""How a container lives: start, end, restart, pause, removal.

::

    created ──start──> running ──exit──> exited ──start──> …
                         │  restart policy ──┘
                         └─ AutoRemove ─> removed

A run is begun and ended under the container's lock. Its end is watched by one task per run, which drains the output, deletes the
runtime's task, stores the state and tells whoever waits, in that order.
"""

import contextlib
import math
import time
from collections.abc import Callable
from typing import Final, Protocol

import anyio
import structlog

from lading.containers import cgroupless, imagemounts, members, restarts, signals, startfailures
from lading.containers.background import Background
from lading.containers.directories import Directories
from lading.containers.environment import Environment
from lading.containers.hostfiles import HostFiles
from lading.containers.launching import Launcher
from lading.containers.model import Container, State
from lading.containers.volumeholding import VolumeHolding
from lading.core.runtime import Exit, Task
from lading.errors import (
    ConflictError,
    LadingError,
    NotFoundError,
    NotModifiedError,
    UnsupportedError,
)
from lading.kit import aio

_DRAIN_SECONDS: Final = 10.0
_KILL_SECONDS: Final = 10.0
_UNSENT_SECONDS: Final = 2
"""Until a container is killed whose stop signal this kernel has not; Docker's."""
LOST_EXIT: Final = 255
"""Exit code of a container whose end nobody saw."""
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("lading.containers")


class Observer(Protocol):
    """Who is told when a container begins or goes on to run, is about to be paused, and has ended."""

    def running(self, container: Container) -> None:
        """It runs."""
        ...

    async def rest(self, container: Container) -> None:
        """It is about to be paused; returns when nothing of the observer runs in it any more."""
        ...

    def ended(self, container: Container) -> None:
        """Its run is over."""
        ...


class Lifecycle:
    """Starts, watches and removes. ``forget`` is told of a removed container."""

    def __init__(
        self,
        environment: Environment,
        directories: Directories,
        launcher: Launcher,
        files: HostFiles,
        holding: VolumeHolding,
        background: Background,
        forget: Callable[[Container], None],
    ) -> None:
        self._env = environment
        self._directories = directories
        self._launcher = launcher
        self._files = files
        self._holding = holding
        self._spawn = background.spawn
        self._forget = forget
        self.observer: Observer | None = None

    async def _save(self, container: Container) -> None:
        await self._env.store.update(container.snapshot())

    # Start.

    async def start(self, container: Container) -> None:
        """Run the container's command.

        Raises:
            NotModifiedError: It runs.
            ConflictError: It is paused or being removed.
            CommandError, StartError: It cannot run; the runtime's words are in the message.

        """
        async with container.lock:
            state = container.state
            if state.paused:
                raise ConflictError("cannot start a paused container, try unpause instead")
            if state.running:
                raise NotModifiedError(f"container {container.id} is already started")
            if state.removing or state.dead:
                raise ConflictError("container is marked for removal and cannot be started")
            self._cancel_restart(container)
            container.document.manually_stopped = False
            container.document.restart_count = 0
            container.backoff = 0
            await self._start(container)

    async def _start(self, container: Container) -> None:
        container.stop_requested = False
        try:
            task, run = await self._launcher.launch(container)
        except (LadingError, OSError) as exc:
            raise await self._failed(container, exc) from exc
        container.task = task
        self._spawn(run.pump)
        try:
            pid = await task.start()
        except LadingError as exc:
            with anyio.CancelScope(shield=True), contextlib.suppress(LadingError):
                await task.delete()
            raise await self._failed(container, exc) from exc
        now = time.time_ns()
        container.document.state = State(running=True, pid=pid, started_at=now)
        if not self._env.cgroup_parent:
            container.mount_namespace = await aio.run(aio.DISK, members.namespace_of, pid)
        with anyio.CancelScope(shield=True):
            await self._save(container)
            container.started.set()
            self._env.bus.publish("container", "start", container.id, container.attributes())
            self.tell_running(container)
            await self._files.refresh_linked(container)
            self._spawn(self.watch, container, task)

    def tell_running(self, container: Container) -> None:
        """Tell the observer."""
        if self.observer is not None:
            self.observer.running(container)

    async def _failed(self, container: Container, error: Exception) -> LadingError:
        """Clean up after a start that failed; the error to raise."""
        words = startfailures.words(error)
        with anyio.CancelScope(shield=True):
            await self._launcher.abandon(container)
            container.task = None
            container.document.state = State(
                exit_code=signals.start_exit_code(words), error=words, finished_at=time.time_ns()
            )
            await self._save(container)
        if container.host.auto_remove:
            self._spawn(self.remove_quietly, container)
        return startfailures.named(error, container.id)

    # End.

    async def watch(self, container: Container, task: Task) -> None:
        """Wait for the end of a run and finish it."""
        try:
            end = await task.wait()
        except NotFoundError:
            end = Exit(status=LOST_EXIT, exited_at_nano=time.time_ns())
        except LadingError:
            return  # the runtime was closed: the daemon is leaving, the container is not
        with anyio.CancelScope(shield=True):
            await self.finish(container, task, end)

    async def finish(self, container: Container, task: Task | None, end: Exit) -> None:
        """Everything that follows the end of a run."""
        run = self._launcher.run_of(container)
        if not self._env.cgroup_parent:  # the runtime finds no others than the first
            await aio.run(aio.DISK, members.kill, container.mount_namespace)
        container.output.hurry()
        if run is not None:
            with anyio.move_on_after(_DRAIN_SECONDS):
                await run.drained.wait()
        if task is not None:
            try:
                await task.delete()
            except NotFoundError:
                pass
            except LadingError as exc:
                _log.warning("task_not_deleted", container=container.id, reason=str(exc))
        async with container.lock:
            if container.removed.is_set():
                return
            await self._launcher.end_streams(container)
            old = container.state
            container.task = None
            container.document.state = State(
                exit_code=end.status,
                oom_killed=old.oom_killed,
                started_at=old.started_at,
                finished_at=end.exited_at_nano or time.time_ns(),
                removing=old.removing,
            )
            again = restarts.after_exit(container, end.status)
            container.document.state.restarting = again
            # Else its removal follows, which a later daemon would make up for.
            if again or not container.host.auto_remove:
                await self._save(container)
            for exec_ in container.execs.values():
                if exec_.running:
                    exec_.running, exec_.exit_code = False, 137
                    exec_.ended.set()
            if self.observer is not None:
                self.observer.ended(container)
            self._tell_died(container, end)
            await self._launcher.leave(container)
        self._tell_stopped(container)
        if again:
            self._spawn(self.restart_later, container)
        elif container.host.auto_remove:
            self._spawn(self.remove_quietly, container)

    def _tell_died(self, container: Container, end: Exit) -> None:
        duration = (container.state.finished_at - container.state.started_at) // 10**9
        self._env.bus.publish(
            "container",
            "die",
            container.id,
            container.attributes(exitCode=str(end.status), execDuration=str(max(0, duration))),
        )

    def _tell_stopped(self, container: Container) -> None:
        container.started = anyio.Event()
        event, container.stopped = container.stopped, anyio.Event()
        event.set()
        container.output.end()

    async def restart_later(self, container: Container) -> None:
        """Start it again after a pause that grows with every restart."""
        pause = restarts.next_pause(container)
        with anyio.CancelScope() as scope:
            container.restart_scope = scope
            await anyio.sleep(pause)
            async with container.lock:
                container.restart_scope = None
                if container.state.running or container.state.removing:
                    return
                container.document.restart_count += 1
                try:
                    await self._start(container)
                except LadingError as exc:
                    _log.warning("container_not_restarted", container=container.id, reason=str(exc))

    def _cancel_restart(self, container: Container) -> None:
        """Give up a restart that waits."""
        if container.restart_scope is not None:
            container.restart_scope.cancel()
            container.restart_scope = None
        container.state.restarting = False

    # Signals.

    async def kill(self, container: Container, signal: int, *, manual: bool = True) -> None:
        """Send a signal. Raises `ConflictError` if it does not run.

        Not ``manual``: nobody asked for this container to stop, and it may start by itself with the next daemon.
        """
        if not container.state.running and container.state.restarting:
            container.stop_requested = True
            self._cancel_restart(container)
            return
        try:
            task = container.running_task()
            if signal in (2, 3, 9, 15) or signal == signals.parse_stop(container.document.stop_signal):
                container.stop_requested = True
                container.document.manually_stopped |= manual
            await task.kill(signal)
            if container.state.paused and signal == signals.parse("KILL"):
                with contextlib.suppress(LadingError):
                    await task.resume()
        except (NotFoundError, ConflictError) as exc:
            raise ConflictError(
                f"cannot kill container: {container.name}: container {container.id} is not running"
            ) from exc
        self._env.bus.publish("container", "kill", container.id, container.attributes(signal=str(signal)))

    async def stop(
        self, container: Container, *, timeout: int | None = None, signal: str = "", manual: bool = True
    ) -> None:
        """Ask it to end; kill it after ``timeout`` seconds (negative: never). ``manual`` is as in `kill`.

        Raises `NotModifiedError` if it does not run.
        """
        if container.state.restarting:
            container.stop_requested = True
            self._cancel_restart(container)
            await self._save(container)
            return
        if not container.state.running:
            raise NotModifiedError(f"container {container.id} is already stopped")
        seconds = timeout if timeout is not None else container.config.stop_timeout
        seconds = self._env.stop_seconds if seconds is None else seconds
        container.stop_requested = True
        container.document.manually_stopped |= manual
        stopped = container.stopped
        wanted = signals.parse_stop(signal or container.document.stop_signal)
        if wanted is None:
            seconds = _UNSENT_SECONDS
        else:
            with contextlib.suppress(ConflictError):
                await self.kill(container, wanted, manual=manual)
        with anyio.move_on_after(math.inf if seconds < 0 else seconds):
            await stopped.wait()
        if not stopped.is_set():
            with contextlib.suppress(ConflictError):
                await self.kill(container, signals.parse("KILL"), manual=manual)
            with anyio.fail_after(_KILL_SECONDS + _DRAIN_SECONDS):
                await stopped.wait()
        self._env.bus.publish("container", "stop", container.id, container.attributes())

    async def pause(self, container: Container, *, held: bool = False) -> None:
        """Freeze it, as ``held`` for no longer than this daemon lives. Raises `ConflictError` unless it runs."""
        async with container.lock:
            task = container.running_task()
            if container.state.paused:
                raise ConflictError(f"container {container.id} is already paused")
            if not self._env.cgroup_parent:
                raise UnsupportedError(
                    f"containers cannot be paused: {cgroupless.REASON}",
                    hint="docker commit --pause=false takes a running one as it is",
                )
            if self.observer is not None:
                await self.observer.rest(container)
            try:
                async with container.starting.alone():
                    await task.pause()
                    container.state.paused, container.state.held = True, held
            except BaseException:
                self.tell_running(container)
                raise
            await self._save(container)
        self._env.bus.publish("container", "pause", container.id, container.attributes())

    async def unpause(self, container: Container) -> None:
        """Thaw it. Raises `ConflictError` unless it is paused."""
        async with container.lock:
            task = container.running_task()
            if not container.state.paused:
                raise ConflictError(f"container {container.id} is not paused")
            await task.resume()
            container.state.paused = container.state.held = False
            await self._save(container)
            self.tell_running(container)
        self._env.bus.publish("container", "unpause", container.id, container.attributes())

    # Removal.

    async def remove(self, container: Container, *, force: bool, volumes: bool = False) -> None:
        """Remove a container and everything that was only its own; its anonymous volumes if ``volumes``.

        Raises `ConflictError` if it runs, unless ``force``.
        """
        if container.removed.is_set():
            raise NotFoundError(f"No such container: {container.id}")
        if container.state.running and not force:
            hint = "unpause and then stop the container" if container.state.paused else "stop the container"
            raise ConflictError(
                f'cannot remove container "/{container.name}": container is {container.state.status}: '
                f"{hint} before removing or force remove"
            )
        with anyio.CancelScope(shield=True):
            await self._remove(container, volumes=volumes)

    async def _remove(self, container: Container, *, volumes: bool) -> None:
        while not container.removed.is_set():
            self._cancel_restart(container)
            container.stop_requested = True
            stopped = container.stopped
            if container.state.running:
                container.state.removing = True
                with contextlib.suppress(ConflictError):
                    await self.kill(container, signals.parse("KILL"))
                with anyio.fail_after(_KILL_SECONDS + _DRAIN_SECONDS):
                    await stopped.wait()
            if await self._remove_stopped(container, volumes=volumes):
                return

    async def _remove_stopped(self, container: Container, *, volumes: bool) -> bool:
        """Remove it unless it was started meanwhile; whether it is gone."""
        async with container.lock:
            if container.state.running or container.removed.is_set():
                return container.removed.is_set()
            container.state.removing = True
            await self._launcher.end_streams(container)
            await self._launcher.leave(container)
            # The record goes first: what nothing names any more is swept if we are killed before all of it is gone.
            await imagemounts.release(self._env, container.id, container.images)
            await self._env.store.delete(container.id)
            with contextlib.suppress(NotFoundError):
                await self._env.snapshotter.remove(container.record.snapshot_key)
            await aio.run(aio.DISK, self._directories.delete, container)
            self._forget(container)
            await self._holding.forget(container, own=volumes)
            self._directories.forget(container)
        self._env.bus.publish("container", "destroy", container.id, container.attributes())
        container.output.end()
        container.removed.set()
        return True

    async def remove_quietly(self, container: Container) -> None:
        """AutoRemove: nobody is there to be told of an error."""
        try:
            with anyio.CancelScope(shield=True):
                await self._remove(container, volumes=True)
        except (LadingError, TimeoutError) as exc:
            _log.error("container_not_removed", container=container.id, reason=str(exc))
