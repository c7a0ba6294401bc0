"""`ShimRuntime`: starts shims, finds those of earlier daemons, notices their deaths, and passes on their events."""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import anyio
import structlog
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint_if_cancelled
from typing_extensions import override

from lading.core.mounts import Mount
from lading.core.runtime import ContainerID, Exit, Runtime, Stdio, Task, TaskEvent
from lading.errors import AlreadyExistsError, DataLossError, LadingError, NotFoundError
from lading.kit import aio
from lading.kit.failpoints import failpoint
from lading.runtime import ttrpc
from lading.runtime._pb import task_pb2
from lading.runtime.bundle import Bootstrap, Bundle, Bundles
from lading.runtime.config import RuntimeConfig, encode_options, find_shim, is_runc
from lading.runtime.events import EventQueue, events_service
from lading.runtime.foreground import RuncForeground, foreground
from lading.runtime.launch import Launcher
from lading.runtime.linux import become_subreaper
from lading.runtime.logs import LogDrain
from lading.runtime.moves import HeadStart
from lading.runtime.reaper import Reaper
from lading.runtime.shim import SIGKILL, RuntimeRefusedError, Shim, ShimTask, check_identifier, runtime_words
from lading.runtime.spares import Spares
from lading.runtime.ttrpc import DisconnectedError

_LOAD_TIMEOUT: Final = 5
_EVENT_GRACE: Final = 2
"""Seconds that a shim's own exit event has before we publish one: events after an exit must not overtake an OOM."""
_SPARE_PAUSE: Final = 0.25
"""Seconds after a start before a shim is started for the next one: what ends at once gives its own back."""
_EXIT: Final = "/tasks/exit"
_DELETE: Final = "/tasks/delete"
_KILLED: Final = 128 + SIGKILL
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("lading.runtime")


class _IdleShimDiedError(RuntimeRefusedError):
    """A shim that had been started before did not live to create the task."""


class ShimRuntime(Runtime):
    """The port over shim v2. An async context manager: leaving it lets go of the shims, which go on.

    Args:
        state: Directory of bundles, on a tmpfs; its content means nothing after a reboot.
        root: Directory of what shims keep beyond that.
        namespace: As shims see it.
        ttrpc_address: Path of the socket on which shims report; must be the same after a restart.
        publish_binary: What a shim runs to publish an event when it has no socket.
        runtimes: What the user may name besides ``io.containerd.<name>.<version>`` and absolute paths.
        grpc_address: See `Launcher`.
        debug: Ask shims for debug logs.
        subreaper: Collect orphaned shims here, instead of leaving that to PID 1.

    """

    def __init__(
        self,
        state: Path,
        root: Path,
        *,
        namespace: str,
        ttrpc_address: str,
        publish_binary: str,
        runtimes: Mapping[str, RuntimeConfig],
        grpc_address: str = "",
        debug: bool = False,
        subreaper: bool = True,
    ) -> None:
        self._bundles = Bundles(state, root, namespace)
        self._namespace = namespace
        self._ttrpc_address = ttrpc_address
        self._runtimes = runtimes
        self._beside = Path(publish_binary).parent
        self._runc_root = str(state / ".runc")
        self._foreground_root = state / ".foreground"
        self._subreaper = subreaper
        self._reaper = Reaper()
        self._launcher = Launcher(
            namespace=namespace,
            ttrpc_address=ttrpc_address,
            grpc_address=grpc_address or str(state / "lading.sock"),
            publish_binary=publish_binary,
            socket_directory=state / ".s",
            adopt=self._reaper.watch,
            debug=debug,
        )
        self._tasks: dict[ContainerID, ShimTask] = {}
        self._creating: set[ContainerID] = set()
        self._spares = Spares(self._launch_spare, self._end_spare)
        self._moves = HeadStart()
        self._events = EventQueue()
        self._early: set[ContainerID] | None = set()
        """Exits that came before `load` knew their task; None after it."""
        self._stack = contextlib.AsyncExitStack()
        self._group: TaskGroup | None = None
        self._scopes: set[anyio.CancelScope] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        if self._subreaper:
            become_subreaper()
        await aio.run(aio.DISK, self._make_directories)
        async with contextlib.AsyncExitStack() as stack:
            self._group = await stack.enter_async_context(anyio.create_task_group())
            service = events_service(self._namespace, self._event_arrived)
            await stack.enter_async_context(ttrpc.serve(self._ttrpc_address, service))
            self._group.start_soon(self._look_ahead)
            self._stack = stack.pop_all()
        return self

    def _hasten(self) -> None:
        """Begin what a move between cgroups waits for, unless that has begun."""
        if not self._moves.going:
            self._spawn(self._moves.give)

    async def _look_ahead(self) -> None:
        """Learn how the configured shims are started, so that the first container does not find it out by a failure."""
        for config in self._runtimes.values():
            with contextlib.suppress(LadingError, OSError):
                await self._launcher.look(
                    await aio.run(aio.DISK, find_shim, config.runtime, beside=self._beside)
                )

    @override
    def foreground(self, runtime: str) -> RuncForeground | None:
        config = self._runtimes.get(runtime, RuntimeConfig(runtime=runtime))
        return foreground(config, self._foreground_root, self._hasten)

    @override
    async def warm(self, runtime: str) -> None:
        config = self._runtimes.get(runtime, RuntimeConfig(runtime=runtime))
        if is_runc(config.runtime):
            with contextlib.suppress(LadingError, OSError):
                await self._spares.fill(
                    await aio.run(aio.DISK, find_shim, config.runtime, beside=self._beside)
                )

    async def __aexit__(self, *_: object) -> None:
        await self.close()
        # No background task can fail, so an error of the body is its own and leaves as it is, not in a group.
        await self._stack.aclose()

    @override
    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with anyio.CancelScope(shield=True):
            await self._spares.close()
        for scope in list(self._scopes):
            scope.cancel()
        for task in self._tasks.values():
            task.let_go()
        self._reaper.close()
        self._events.close()

    def _make_directories(self) -> None:
        for directory in (self._bundles.state, self._bundles.root, Path(self._ttrpc_address).parent):
            directory.mkdir(parents=True, exist_ok=True, mode=0o711)

    @override
    async def create(
        self,
        id: ContainerID,
        *,
        runtime: str,
        spec: Mapping[str, Any],
        rootfs: Sequence[Mount],
        stdio: Stdio,
        options: Mapping[str, Any] | None = None,
    ) -> Task:
        check_identifier(id)
        config = self._runtimes.get(runtime, RuntimeConfig(runtime=runtime))
        any_options = encode_options(
            config.runtime, {**config.options, **(options or {})}, runc_root=self._runc_root
        )
        if id in self._tasks or id in self._creating:
            raise AlreadyExistsError(f"container {id} has a task", subject=id)
        self._creating.add(id)
        self._hasten()
        try:
            binary = await aio.run(aio.DISK, find_shim, config.runtime, beside=self._beside)
            bundle = self._bundles.bundle(id)
            request = task_pb2.CreateRequest(
                id=id,
                bundle=str(bundle.path),
                rootfs=[
                    task_pb2.Mount(type=m.type, source=m.source, target=m.target, options=m.options)
                    for m in rootfs
                ],
                terminal=stdio.terminal,
                stdin=stdio.stdin,
                stdout=stdio.stdout,
                stderr="" if stdio.terminal else stdio.stderr,
                options=any_options,
            )
            shared = is_runc(config.runtime)
            try:
                task = await self._start(bundle, spec, binary, request, shared=shared)
            except _IdleShimDiedError:  # whatever ended it while it was idle is not the container's fault
                task = await self._start(bundle, spec, binary, request, shared=shared)
        finally:
            self._creating.discard(id)
        if shared:
            self._spawn_spare(binary)
        return task

    async def _bundle(self, bundle: Bundle, spec: Mapping[str, Any], binary: Path, shim: Shim | None) -> None:
        """Make the bundle; on failure, cancellation included, nothing is left, and the shim is idle again."""
        try:
            await aio.run(aio.DISK, bundle.create, spec, binary, shim and shim.home)
            await checkpoint_if_cancelled()
        except BaseException:
            with anyio.CancelScope(shield=True):
                if shim is not None and not self._keep_spare(binary, shim):
                    await self._end_spare(shim)
            raise

    async def _start(
        self,
        bundle: Bundle,
        spec: Mapping[str, Any],
        binary: Path,
        request: task_pb2.CreateRequest,
        *,
        shared: bool,
    ) -> ShimTask:
        """Find or start a shim and create its task; on failure, cancellation included, nothing is left.

        ``shared``: the shim may serve other containers before and after this one.
        """
        task = shim = None
        if shared:
            with anyio.CancelScope(shield=True):
                shim = await self._spares.take(binary)
        await self._bundle(bundle, spec, binary, shim)
        # A shim cannot be stopped halfway through a Create, so a cancelled one is finished (every step has a deadline)
        # and undone.
        with anyio.CancelScope(shield=True):
            task = await self._start_whole(bundle, binary, shim, request)
        assert task is not None
        try:
            await checkpoint_if_cancelled()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await task.destroy()
            raise
        return task

    async def _start_whole(
        self, bundle: Bundle, binary: Path, shim: Shim | None, request: task_pb2.CreateRequest
    ) -> ShimTask:
        idle = shim is not None
        try:
            if shim is None:
                shim = await self._launch(bundle, binary)
            shim.serve(bundle)
            pid = (await shim.call("Create", request, task_pb2.PidResponse)).pid
        except LadingError as exc:
            error = await runtime_words(bundle, exc)
            await self._clean(bundle, shim)
            if idle and isinstance(exc, DisconnectedError):
                raise _IdleShimDiedError(error.message, subject=bundle.id) from exc
            raise error from exc
        return self._adopt(shim, pid)

    async def _launch(self, bundle: Bundle, binary: Path) -> Shim:
        """Start a shim in a bundle."""

        async def launch() -> Bootstrap:
            bootstrap = await self._launcher.start(binary, bundle)
            failpoint("shim.started")
            await aio.run(aio.DISK, bundle.save_bootstrap, bootstrap)
            return bootstrap

        try:
            return await self._open(bundle, launch)
        except DisconnectedError:
            await aio.run(aio.DISK, bundle.remove_socket)
            if not await self._launcher.distrust(binary):
                raise
        return await self._open(bundle, launch)

    async def _launch_spare(self, binary: Path) -> Shim:
        home = self._bundles.new_home()
        # Some shims look for a spec where they are started.
        await aio.run(aio.DISK, home.create, {"ociVersion": "1.0.2"}, binary)
        try:
            return await self._launch(home, binary)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await aio.run(aio.DISK, home.remove)
            raise

    def _keep_spare(self, binary: Path, shim: Shim) -> bool:
        kept = self._spares.give(binary, shim)
        if self._spares.surplus:
            self._spawn(self._spares.trim)
        return kept

    async def _end_spare(self, shim: Shim) -> None:
        await self._end_shim(shim)
        await aio.run(aio.DISK, shim.home.remove)

    async def _end_shim(self, shim: Shim) -> None:
        """Ask a shim to end, and see that it does.

        One that is in the middle of a Create for a daemon that was killed tells no process ID, and stays for that container.
        """
        await shim.shutdown()
        if shim.pid > 0:
            await self._reaper.kill(shim.pid)
        else:
            await self._end_unreachable(shim.home)
        shim.close()

    def _spawn_spare(self, binary: Path) -> None:
        """Have a shim for the next container, when this one has had its start."""

        async def fill() -> None:
            await anyio.sleep(_SPARE_PAUSE)
            await self._spares.fill(binary)

        self._spawn(fill)

    async def _open(self, bundle: Bundle, find: Callable[[], Awaitable[Bootstrap]]) -> Shim:
        """Hold the log, find the shim, connect to it."""
        try:
            log = LogDrain(bundle.log, bundle.id)
        except OSError as exc:
            raise DataLossError(f"the bundle of {bundle.id} has no log", subject=bundle.id) from exc
        try:
            bootstrap = await find()
            client = await ttrpc.connect(bootstrap.address, timeout=_LOAD_TIMEOUT)
        except BaseException:
            log.close()
            raise
        home = await aio.run(aio.DISK, bundle.home)
        shim = Shim(bundle, home, client, log, bootstrap.version, self._namespace)
        try:
            named = task_pb2.ProcessRequest(id=bundle.id)
            shim.pid = (await shim.call("Connect", named, task_pb2.ConnectResponse, _LOAD_TIMEOUT)).shim_pid
            self._reaper.watch(shim.pid)
        except LadingError as exc:  # one without a task may have no answer, but it is there
            if isinstance(exc, DisconnectedError):
                shim.close()
                raise
        return shim

    async def _reopen(self, bundle: Bundle) -> Shim:
        async def find() -> Bootstrap:
            return await aio.run(aio.DISK, bundle.bootstrap)

        return await self._open(bundle, find)

    def _adopt(self, shim: Shim, pid: int) -> ShimTask:
        task = ShimTask(
            shim,
            pid,
            watch=self._reaper.watch,
            dispose=self._dispose,
            hasten=self._hasten,
        )
        self._tasks[task.id] = task
        self._reaper.watch(pid)
        shim.client.on_close = lambda: self._lost(task)
        if shim.client.closed:
            self._lost(task)
        self._spawn(self._follow, task)
        return task

    @override
    async def load(self) -> list[Task]:
        homes = await aio.run(aio.DISK, self._bundles.unused_homes)
        try:
            found = await aio.run(aio.DISK, lambda: list(self._bundles.scan()))
            async with anyio.create_task_group() as group:
                for home in homes:
                    group.start_soon(self._end_idle, home)
                for bundle in found:
                    if bundle.id not in self._tasks and bundle.id not in self._creating:
                        group.start_soon(self._load, bundle)
        finally:
            self._early = None
        return [task for task in self._tasks.values() if not task.dying]

    async def _end_idle(self, home: Bundle) -> None:
        """End an idle shim of a daemon that was killed."""
        try:
            await self._end_spare(await self._reopen(home))
        except LadingError:
            await self._end_unreachable(home)
        await aio.run(aio.DISK, home.remove)

    async def _load(self, bundle: Bundle) -> None:
        try:
            with anyio.fail_after(_LOAD_TIMEOUT):
                await self._find(bundle)
        except (LadingError, TimeoutError) as exc:
            _log.warning("shim_not_found_again", container=bundle.id, reason=str(exc))
            end = await self._clean(bundle, None)
            if self._early is None or bundle.id not in self._early:
                self._events.put(_event(_EXIT, bundle.id, 0, end))

    async def _find(self, bundle: Bundle) -> None:
        """Connect to the shim of a bundle and ask it for its task; raises if it has none."""
        shim = await self._reopen(bundle)
        try:
            named = task_pb2.ProcessRequest(id=bundle.id)
            state = await shim.call("State", named, task_pb2.StateResponse)
            with contextlib.suppress(LadingError):  # not every shim has Pids, and a stopped task has none
                for process in (await shim.call("Pids", named, task_pb2.PidsResponse)).processes:
                    self._reaper.watch(process.pid)
        except BaseException:
            shim.close()
            raise
        task = self._adopt(shim, state.pid)
        if self._early is not None and bundle.id in self._early:
            task.reported.add(_EXIT)
            task.exit_reported.set()

    @override
    async def get(self, id: ContainerID) -> Task:
        task = self._tasks.get(id)
        if task is None:
            raise NotFoundError(f"container {id} has no task", subject=id)
        return task

    @override
    def events(self) -> AsyncIterator[TaskEvent]:
        return aiter(self._events)

    def _event_arrived(self, event: TaskEvent) -> None:
        """A shim reports. The end of a first process is passed on once, and only if it is of the task that is here."""
        if event.topic in (_EXIT, _DELETE) and not event.exec_id:
            task = self._tasks.get(event.container)
            if task is not None and task.pid == event.pid:
                self._report(task, event)
            elif self._early is not None:
                self._early.add(event.container)
                self._events.put(event)
        else:
            self._events.put(event)

    def _report(self, task: ShimTask, event: TaskEvent) -> None:
        if event.topic not in task.reported:
            task.reported.add(event.topic)
            if event.topic == _EXIT:
                task.record_exit(Exit(status=event.exit_status, exited_at_nano=event.time_nano))
                task.exit_reported.set()
            self._events.put(event)

    def _report_end(self, task: ShimTask, topic: str, end: Exit) -> None:
        """Report in the shim's place, if it has not done so."""
        self._report(task, _event(topic, task.id, task.pid, end))

    async def _follow(self, task: ShimTask) -> None:
        """Learn the end of a task's first process, even if its event is lost."""
        try:
            end = await task.wait_rpc()
        except DisconnectedError:
            return
        task.record_exit(end)
        await aio.run(aio.DISK, task.bundle.save_exit, end)
        with anyio.move_on_after(_EVENT_GRACE):
            await task.exit_reported.wait()
        self._report_end(task, _EXIT, end)

    def _lost(self, task: ShimTask) -> None:
        if not (self._closed or task.leaving):
            task.dying = True
            self._spawn(self._bury, task)

    async def _bury(self, task: ShimTask) -> None:
        """A shim died by itself: end its container, remove what is left of both, report the exit."""
        _log.warning("shim_died", container=task.id, shim_pid=task.shim_pid)
        end = await self._clean(task.bundle, task.shim)
        self._reaper.sweep(task.pids_known)
        task.bury(end)
        self._report_end(task, _EXIT, task.exit or end)

    async def _dispose(self, task: ShimTask, end: Exit) -> None:
        """Remove everything of a task whose first process is deleted."""
        if not task.dying:
            await self._clean(task.bundle, task.shim, deleted=task.deleted)
        # Some shims end before they have sent their last events.
        self._report_end(task, _EXIT, end)
        self._report_end(task, _DELETE, end)
        self._tasks.pop(task.id, None)

    async def _clean(self, bundle: Bundle, shim: Shim | None, *, deleted: bool = False) -> Exit:
        """End a shim, have its executable clean up, remove the bundle. How the first process ended, as far as known.

        A container that its shim has ``deleted`` needs no cleaning up, which would start two programs in vain.
        """
        if shim is None:
            try:
                shim = await self._reopen(bundle)
            except LadingError:
                await self._end_unreachable(await aio.run(aio.DISK, bundle.home))
        kept = False
        if shim is not None and deleted and shim.home is not bundle:
            kept = self._keep_spare(await aio.run(aio.DISK, bundle.shim), shim)
        if shim is not None and not kept:
            await self._end_shim(shim)
        home = bundle if kept else await aio.run(aio.DISK, bundle.home)
        recorded = await aio.run(aio.DISK, bundle.exit)
        end = None
        if not deleted:
            try:
                binary = await aio.run(aio.DISK, bundle.shim)
                end = await self._launcher.delete(binary, bundle)
            except LadingError as exc:
                _log.warning("shim_cleanup_failed", container=bundle.id, reason=str(exc))
        try:
            await aio.run(aio.DISK, bundle.remove)
            if home.path != bundle.path:
                await aio.run(aio.DISK, home.remove)
        except OSError as exc:
            _log.error("bundle_not_removed", container=bundle.id, reason=str(exc))
        return recorded or end or Exit(status=_KILLED, exited_at_nano=time.time_ns())

    async def _end_unreachable(self, bundle: Bundle) -> None:
        """End what runs for a bundle of which nobody knows where it listens: its daemon was killed while it was started.

        A process is watched when it is first seen and killed when it is seen again: its number cannot be another's then.
        The next look finds what it had started meanwhile.
        """
        try:
            binary = await aio.run(aio.DISK, bundle.shim)
        except LadingError:
            return  # it was not started yet
        watched: set[int] = set()
        with anyio.move_on_after(_LOAD_TIMEOUT):
            while pids := await self._launcher.started(binary, bundle):
                for pid in pids:
                    if pid in watched:
                        await self._reaper.kill(pid)
                    else:
                        self._reaper.watch(pid)
                watched.update(pids)

    def _spawn(self, function: Callable[..., Awaitable[None]], *arguments: object) -> None:
        async def supervised() -> None:
            with anyio.CancelScope() as scope:
                self._scopes.add(scope)
                try:
                    await function(*arguments)
                except Exception as exc:  # noqa: BLE001 -- one task's trouble must not end the others
                    about = [each.id for each in arguments if isinstance(each, ShimTask)]
                    _log.exception("task_supervision_failed", containers=about, reason=str(exc))
                finally:
                    self._scopes.discard(scope)

        assert self._group is not None, "the runtime is not open: use `async with`"
        if not self._closed:
            self._group.start_soon(supervised)


def _event(topic: str, id: ContainerID, pid: int, end: Exit) -> TaskEvent:
    return TaskEvent(topic=topic, container=id, pid=pid, exit_status=end.status, time_nano=end.exited_at_nano)
