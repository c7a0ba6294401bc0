"""How a container lives: start, end, restart, removal, and being found again after the daemon was away.

::

    created ──start──> running ──exit──> exited ──start──> …
                         │  restart policy ──┘
                         └─ AutoRemove ─> removed

A run is begun and ended under the container's lock. Its end is watched by one task per run, which drains the output, deletes the
runtime's task, stores the state and tells whoever waits, in that order.
"""

import contextlib
import errno
import math
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import anyio
import anyio.abc
import msgspec
import structlog

from lading.containers import (
    binds,
    cgroupless,
    hostfiles,
    imagemounts,
    joining,
    links,
    logdriver,
    members,
    naming,
    rootfs,
    runs,
    signals,
    spec,
    users,
)
from lading.containers.binds import Bind
from lading.containers.environment import Environment
from lading.containers.journal import Sink
from lading.containers.keeper import Keeper
from lading.containers.logfile import LogFiles
from lading.containers.model import Container, State
from lading.containers.namespaces import Joined
from lading.containers.networking import Joint, Networking
from lading.containers.request import LogConfig
from lading.containers.runs import Run
from lading.containers.volumeholding import VolumeHolding
from lading.core.mounts import Mount
from lading.core.networks import BRIDGE
from lading.core.runtime import Exit, Task
from lading.core.snapshots import SnapshotKey
from lading.errors import (
    ConflictError,
    FailedPreconditionError,
    InvalidArgumentError,
    LadingError,
    NotFoundError,
    NotModifiedError,
    ResourceExhaustedError,
    UnsupportedError,
)
from lading.kit import aio
from lading.kit.tasks import task_group

_DRAIN_SECONDS: Final = 10.0
_KILL_SECONDS: Final = 10.0
_KERNEL_PLACES: Final = ("/proc", "/sys", "/dev")
LOST_EXIT: Final = 255
"""Exit code of a container whose end nobody saw."""
PROCESS_FILE: Final = "process.json"
"""In the state directory: the runtime-spec process of the run, for execs of a later daemon."""
_BACKOFF_SECONDS: Final = 0.1
_BACKOFF_MAXIMUM: Final = 60.0
_BACKOFF_RESET_SECONDS: Final = 10.0
"""A run of this length makes the next pause short again."""
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("lading.containers")


class StartError(FailedPreconditionError):
    """The container could not be started, for a reason that lies in the container."""

    code = "start-failed"


class CommandError(InvalidArgumentError):
    """The container's command cannot be run: it is not there, or not executable."""

    code = "command-not-runnable"


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
    """Starts, watches and removes. ``group`` outlives every call; ``forget`` is told of a removed container; ``find`` gives
    the container of a name or ID, ``every`` all of them.
    """

    def __init__(
        self,
        environment: Environment,
        group: anyio.abc.TaskGroup,
        forget: Callable[[Container], None],
        find: Callable[[str], Container],
        networking: Networking,
        holding: VolumeHolding,
        every: Callable[[], Sequence[Container]],
    ) -> None:
        self.env = environment
        self.networking = networking
        networking.spawn = self.spawn
        self.holding = holding
        self._find = find
        self._all = every
        self.observer: Observer | None = None
        self.host_mounts = holding.host_mounts
        self._group = group
        self._forget = forget
        self.keeper = Keeper(environment.state / "keeper.sock")
        self.runs: dict[str, Run] = {}
        self._logs: dict[str, LogFiles | None] = {}
        self.processes: dict[str, dict[str, Any]] = {}
        """Runtime-spec process of running containers, for execs."""

    # Places.

    def directory(self, container: Container) -> Path:
        """Durable files of a container."""
        return self.env.root / container.id

    def state_directory(self, container: Container) -> Path:
        """Files of a container's present run."""
        return self.env.state / container.id

    def log(self, container: Container) -> LogFiles | None:
        """The files of its log, ``None`` if it keeps none; the same object for all who write and read."""
        if container.id not in self._logs:
            config = container.host.log_config or LogConfig()
            self._logs[container.id] = logdriver.files(
                config.type or logdriver.DEFAULT,
                config.config or {},
                self.directory(container),
                container.log_subject(),
            )
        return self._logs[container.id]

    def sink(self, container: Container) -> Sink | None:
        """Where the messages of a run go besides the log; a new one for each run."""
        config = container.host.log_config or LogConfig()
        return logdriver.sink(config.type, config.config or {}, container.log_subject())

    def sweep_directories(self, keep: Collection[str]) -> None:
        """Delete the files of containers that there are not any more; blocking.

        In a data-root of dockerd its containers have directories of the same form, which are not ours to delete.
        """
        for root in (self.env.root, self.env.state):
            for name in os.listdir(root):
                theirs = (root / name / "config.v2.json").exists()
                if naming.is_id(name) and name not in keep and not theirs:
                    shutil.rmtree(root / name, ignore_errors=True)

    async def save(self, container: Container) -> None:
        """Store the present document."""
        await self.env.store.update(container.snapshot())

    async def save_with_files(self, container: Container) -> None:
        """Store it after its networks changed; a running one sees the change in its files."""
        if container.state.running:
            await aio.run(aio.DISK, self.write_files, container, self.networking.joint(container))
        await self.save(container)

    def spawn(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run in the background. What goes wrong there is one container's misfortune, never the daemon's."""

        async def supervised() -> None:
            try:
                await function(*args)
            except Exception:  # noqa: BLE001 (a supervisor)
                _log.exception("container_task_failed", task=getattr(function, "__name__", ""))

        self._group.start_soon(supervised)

    def let_go(self) -> None:
        """Close what is open when the daemon leaves; containers go on. Blocking."""
        for run in self.runs.values():
            run.close()
        self.keeper.close()

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
            self.cancel_restart(container)
            container.document.manually_stopped = False
            container.document.restart_count = 0
            container.backoff = 0
            await self._start(container)

    async def _start(self, container: Container) -> None:
        container.stop_requested = False
        try:
            task, run = await self._create_task(container)
        except (LadingError, OSError) as exc:
            raise await self._failed(container, exc) from exc
        container.task = task
        self.spawn(run.pump)
        try:
            pid = await task.start()
        except LadingError as exc:
            with anyio.CancelScope(shield=True), contextlib.suppress(LadingError):
                await task.delete()
            raise await self._failed(container, exc) from exc
        now = time.time_ns()
        container.document.state = State(running=True, pid=pid, started_at=now)
        if not self.env.cgroup_parent:
            container.mount_namespace = await aio.run(aio.DISK, members.namespace_of, pid)
        with anyio.CancelScope(shield=True):
            await self.save(container)
            container.started.set()
            self.env.bus.publish("container", "start", container.id, container.attributes())
            self.tell_running(container)
            await self.refresh_links(container)
            self.spawn(self.watch, container, task)

    def tell_running(self, container: Container) -> None:
        """Tell the observer."""
        if self.observer is not None:
            self.observer.running(container)

    async def _create_task(self, container: Container) -> tuple[Task, Run]:
        """Its task, with the network that takes as long to make made meanwhile."""
        await self._drop_host_mounts(container)
        user = await self._user_namespace(container)
        entered = await self.networking.enter(container, user)
        connected = anyio.Event()
        made: list[Task] = []

        async def join_networks() -> None:
            joint = await self.networking.join(container, entered)
            await aio.run(aio.DISK, self.write_files, container, joint)
            connected.set()

        try:
            async with task_group() as group:
                group.start_soon(join_networks)
                return await self._create_in(container, user, entered, connected, made)
        except BaseException:
            with anyio.CancelScope(shield=True), contextlib.suppress(LadingError):
                for task in made:
                    await task.delete()
            raise

    async def _user_namespace(self, container: Container) -> str:
        """The path of its own, or of the one that goes with the namespaces that it joins; empty for the machine's."""
        remapping = self.env.remapping_of(container.host)
        if remapping is None:
            return ""
        if other := joining.only_other(container, self._find, remapping):
            return f"/proc/{other.state.pid}/ns/user"
        return await aio.run(aio.DISK, self.host_mounts.make_namespace, container.id, remapping)

    async def _create_in(
        self, container: Container, user: str, entered: Joint, connected: anyio.Event, made: list[Task]
    ) -> tuple[Task, Run]:
        env = self.env
        remapping = env.remapping_of(container.host)
        mounts = await self.mounts(container)
        joined = await joining.join(container, self._find, self.host_mounts, remapping)
        images = await imagemounts.mount(
            env, self.host_mounts, container.id, container.images, container.document.images, remapping
        )
        held = await self.holding.join(container)
        run = self.runs[container.id] = await self._begin_run(container)
        plan = await aio.run(
            aio.DISK,
            self._prepare,
            container,
            mounts,
            joined.with_network(entered.path).with_user(user),
            [*images, *held],
            entered,
        )
        self.processes[container.id] = plan["process"]
        process_file = self.state_directory(container) / PROCESS_FILE
        await aio.run(aio.DISK, process_file.write_bytes, msgspec.json.encode(plan["process"]))
        if any(name.startswith("net.") for name in container.host.sysctls or ()):
            await connected.wait()  # they are of interfaces, and the last word on what the network sets
        runtime = env.runtimes.get(container.host.runtime, container.host.runtime)
        if remapping is not None:
            mounts = await aio.run(aio.DISK, self.host_mounts.make_root, container.id, mounts, remapping)
        task = await env.runtime.create(
            container.id,
            runtime=runtime,
            spec=plan,
            rootfs=mounts,
            stdio=run.stdio,
            options=remapping.stream_options if remapping else None,
        )
        made.append(task)
        return task, run

    async def _begin_run(self, container: Container) -> Run:
        return await aio.run(
            aio.DISK,
            runs.begin,
            self.state_directory(container),
            self.keeper,
            container.output,
            stdin=container.config.open_stdin,
            terminal=container.config.tty,
            log=self.log(container),
            sink=self.sink(container),
        )

    async def mounts(self, container: Container) -> list[Mount]:
        """The root file system's mounts; layers lost to an unclean boot are unpacked again first."""
        key = SnapshotKey(container.record.snapshot_key)
        try:
            return await self.env.snapshotter.mounts(key)
        except NotFoundError:
            await self.env.images.unpack(container.document.manifest)
            return await self.env.snapshotter.mounts(key)

    def _prepare(
        self,
        container: Container,
        mounts: list[Mount],
        joined: Joined,
        images: list[Bind],
        joint: Joint,
    ) -> dict[str, Any]:
        """Everything about the spec that needs files; blocking."""
        document, host = container.document, container.host
        directory = self._make_directory(container)
        remapping = self.env.remapping_of(host)
        for bind in container.binds:
            binds.prepare(bind, self._owner(container))
        scratch = directory / "rootfs"
        scratch.mkdir(exist_ok=True, mode=0o700)
        cwd = document.working_dir or "/"

        def look(root: rootfs.Root) -> users.User:
            root.check_plain(_KERNEL_PLACES)
            user = users.resolve(root, document.user, host.group_add or ())
            if not host.readonly_rootfs or cwd != "/":
                root.make_directory(cwd)
            return user

        user = rootfs.inside(mounts, scratch, look)
        return spec.build(
            spec.Plan(
                id=container.id,
                config=container.config,
                host=host,
                args=[document.path, *document.args],
                env=spec.merge_env(self._link_variables(container), document.env),
                cwd=cwd,
                user=user,
                hostname=joint.files_of.document.hostname if joint.files_of else document.hostname,
                binds=[*container.binds, *images],
                tmpfs=container.tmpfs,
                joined=joined,
                init=self.env.init_path if host.init and host.pid_mode in ("", "private") else "",
                files=self._files(container, joint),
                ids=remapping.ids if remapping else None,
                cgroup_v2=self.env.cgroup_v2,
                cgroup_parent=self.env.cgroup_parent,
            )
        )

    def _link_variables(self, container: Container) -> list[str]:
        linked = [
            (link, other, self.networking.address_in(other, BRIDGE))
            for link, other in links.running(container, self._find)
        ]
        return links.environment(container, linked)

    async def refresh_links(self, container: Container) -> None:
        """Rewrite the files of those that have a link to a container whose address or name is another now."""
        for each in self._all():
            if each is not container and each.state.running and links.leads_to(each, container, self._find):
                await aio.run(aio.DISK, self.write_files, each, self.networking.joint(each))

    def _make_directory(self, container: Container) -> Path:
        directory = self.directory(container)
        directory.mkdir(parents=True, exist_ok=True, mode=0o710)
        return directory

    def _owner(self, container: Container) -> tuple[int, int]:
        """User and group of the machine that are root in it."""
        remapping = self.env.remapping_of(container.host)
        return remapping.root if remapping else (0, 0)

    def _files(self, container: Container, joint: Joint) -> dict[str, str]:
        """Its ``/etc/hosts`` and the like, which need not be written yet; path in the container to path on the host. Blocking."""
        if joint.files_of is not None:
            return hostfiles.paths(self.directory(joint.files_of))
        return hostfiles.reserve(self._make_directory(container), self._owner(container))

    def write_files(self, container: Container, joint: Joint) -> None:
        """Write its ``/etc/hosts`` and the like, as the network now is. Blocking."""
        if joint.files_of is not None:
            return
        hostfiles.write(
            self._make_directory(container),
            container.host,
            container.document.hostname,
            container.config.domainname,
            joint,
            self.env.resolving,
            self._owner(container),
        )

    async def _failed(self, container: Container, error: Exception) -> LadingError:
        """Clean up after a start that failed; the error to raise."""
        words = _words(error)
        code = signals.start_exit_code(words)
        with anyio.CancelScope(shield=True):
            await self._end_run(container)
            await self._drop_host_mounts(container)
            await self._let_go(container)
            container.task = None
            container.document.state = State(exit_code=code, error=words, finished_at=time.time_ns())
            await self.save(container)
        if container.host.auto_remove:
            self.spawn(self.remove_quietly, container)
        message = f"failed to create task for container: {words}"
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return ResourceExhaustedError(
                message, hint="remove images with docker image rm, or free disk space", subject=container.id
            )
        if isinstance(error, FailedPreconditionError) or not isinstance(error, LadingError):
            kind = StartError if code == signals.START_FAILED else CommandError
            return kind(message, subject=container.id)
        return error

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
        run = self.runs.get(container.id)
        if not self.env.cgroup_parent:  # the runtime finds no others than the first
            await aio.run(aio.DISK, members.kill, container.mount_namespace)
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
            await self._end_run(container)
            old = container.state
            container.task = None
            container.document.state = State(
                exit_code=end.status,
                oom_killed=old.oom_killed,
                started_at=old.started_at,
                finished_at=end.exited_at_nano or time.time_ns(),
                removing=old.removing,
            )
            restarts = self._restarts(container, end.status)
            container.document.state.restarting = restarts
            if (
                restarts or not container.host.auto_remove
            ):  # else its removal follows, which a later daemon would make up for
                await self.save(container)
            for exec_ in container.execs.values():
                if exec_.running:
                    exec_.running, exec_.exit_code = False, 137
                    exec_.ended.set()
            if self.observer is not None:
                self.observer.ended(container)
            self._tell_died(container, end)
            await self._let_go(container)
        self._tell_stopped(container)
        if restarts:
            self.spawn(self.restart_later, container)
        elif container.host.auto_remove:
            self.spawn(self.remove_quietly, container)

    async def _let_go(self, container: Container) -> None:
        """Networks and volumes of a run that is over; idempotent."""
        await self.networking.leave(container)
        await self.holding.leave(container)

    def _tell_died(self, container: Container, end: Exit) -> None:
        duration = (container.state.finished_at - container.state.started_at) // 10**9
        self.env.bus.publish(
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

    async def _end_run(self, container: Container) -> None:
        self.processes.pop(container.id, None)
        run = self.runs.pop(container.id, None)
        if run is not None:
            await run.end(self.keeper)
            await self._drop_host_mounts(container)

    async def _drop_host_mounts(self, container: Container) -> None:
        parts = any(each.subpath for each in container.document.volumes)
        mapped = self.env.remapping_of(container.host) is not None
        if container.images or parts or mapped or container.host.ipc_mode == "shareable":
            await aio.run(aio.DISK, self.host_mounts.drop, container.id)

    def _restarts(self, container: Container, status: int) -> bool:
        policy, document = container.restart_policy, container.document
        if container.stop_requested or document.state.removing:
            return False
        if policy.name in ("always", "unless-stopped"):
            return True
        limit = policy.maximum_retry_count
        return policy.name == "on-failure" and status != 0 and (not limit or document.restart_count < limit)

    async def restart_later(self, container: Container) -> None:
        """Start it again after a pause that grows with every restart."""
        ran = (container.state.finished_at - container.state.started_at) / 10**9
        container.backoff = 0 if ran >= _BACKOFF_RESET_SECONDS else container.backoff + 1
        delay = min(_BACKOFF_MAXIMUM, _BACKOFF_SECONDS * 2 ** min(max(container.backoff - 1, 0), 16))
        with anyio.CancelScope() as scope:
            container.restart_scope = scope
            await anyio.sleep(delay)
            async with container.lock:
                container.restart_scope = None
                if container.state.running or container.state.removing:
                    return
                container.document.restart_count += 1
                try:
                    await self._start(container)
                except LadingError as exc:
                    _log.warning("container_not_restarted", container=container.id, reason=str(exc))

    def cancel_restart(self, container: Container) -> None:
        """Give up a restart that waits."""
        if container.restart_scope is not None:
            container.restart_scope.cancel()
            container.restart_scope = None
        container.state.restarting = False

    # Signals.

    def running_task(self, container: Container) -> Task:
        """The task of a running container. Raises `ConflictError`."""
        if container.task is None or not container.state.running:
            raise ConflictError(f"container {container.id} is not running", subject=container.id)
        return container.task

    async def kill(self, container: Container, signal: int, *, manual: bool = True) -> None:
        """Send a signal. Raises `ConflictError` if it does not run.

        Not ``manual``: nobody asked for this container to stop, and it may start by itself with the next daemon.
        """
        if not container.state.running and container.state.restarting:
            container.stop_requested = True
            self.cancel_restart(container)
            return
        try:
            task = self.running_task(container)
            if signal in (2, 3, 9, 15) or signal == signals.parse(container.document.stop_signal):
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
        self.env.bus.publish("container", "kill", container.id, container.attributes(signal=str(signal)))

    async def stop(
        self, container: Container, *, timeout: int | None = None, signal: str = "", manual: bool = True
    ) -> None:
        """Ask it to end; kill it after ``timeout`` seconds (negative: never). ``manual`` is as in `kill`.

        Raises `NotModifiedError` if it does not run.
        """
        if container.state.restarting:
            container.stop_requested = True
            self.cancel_restart(container)
            await self.save(container)
            return
        if not container.state.running:
            raise NotModifiedError(f"container {container.id} is already stopped")
        seconds = timeout if timeout is not None else container.config.stop_timeout
        seconds = self.env.stop_seconds if seconds is None else seconds
        container.stop_requested = True
        container.document.manually_stopped |= manual
        stopped = container.stopped
        with contextlib.suppress(ConflictError):
            await self.kill(container, signals.parse(signal or container.document.stop_signal), manual=manual)
        with anyio.move_on_after(math.inf if seconds < 0 else seconds):
            await stopped.wait()
        if not stopped.is_set():
            with contextlib.suppress(ConflictError):
                await self.kill(container, signals.parse("KILL"), manual=manual)
            with anyio.fail_after(_KILL_SECONDS + _DRAIN_SECONDS):
                await stopped.wait()
        self.env.bus.publish("container", "stop", container.id, container.attributes())

    async def pause(self, container: Container) -> None:
        """Freeze it. Raises `ConflictError` unless it runs."""
        async with container.lock:
            task = self.running_task(container)
            if container.state.paused:
                raise ConflictError(f"container {container.id} is already paused")
            if not self.env.cgroup_parent:
                raise UnsupportedError(
                    f"containers cannot be paused: {cgroupless.REASON}",
                    hint="docker commit --pause=false takes a running one as it is",
                )
            if self.observer is not None:
                await self.observer.rest(container)
            try:
                async with container.starting.alone():
                    await task.pause()
                    container.state.paused = True
            except BaseException:
                self.tell_running(container)
                raise
            await self.save(container)
        self.env.bus.publish("container", "pause", container.id, container.attributes())

    async def unpause(self, container: Container) -> None:
        """Thaw it. Raises `ConflictError` unless it is paused."""
        async with container.lock:
            task = self.running_task(container)
            if not container.state.paused:
                raise ConflictError(f"container {container.id} is not paused")
            await task.resume()
            container.state.paused = False
            await self.save(container)
            self.tell_running(container)
        self.env.bus.publish("container", "unpause", container.id, container.attributes())

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
            self.cancel_restart(container)
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
            await self._end_run(container)
            await self._let_go(container)
            # The record goes first: what nothing names any more is swept if we are killed before all of it is gone.
            await imagemounts.release(self.env, container.id, container.images)
            await self.env.store.delete(container.id)
            with contextlib.suppress(NotFoundError):
                await self.env.snapshotter.remove(container.record.snapshot_key)
            for directory in (self.state_directory(container), self.directory(container)):
                await aio.run(aio.DISK, shutil.rmtree, directory, ignore_errors=True)
            self._forget(container)
            await self.holding.forget(container, own=volumes)
            self._logs.pop(container.id, None)
        self.env.bus.publish("container", "destroy", container.id, container.attributes())
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


def _words(error: Exception) -> str:
    if isinstance(error, LadingError):
        return error.message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return str(error)
