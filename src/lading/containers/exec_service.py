"""Execs of all containers: prepare, run, find."""

import contextlib
import secrets
from collections.abc import Mapping
from typing import Any, Final

import anyio

from lading.containers import execs, signals
from lading.containers.background import Background
from lading.containers.directories import Directories
from lading.containers.environment import Environment
from lading.containers.execs import Exec, ExecRequest
from lading.containers.launching import Launcher
from lading.containers.model import Container
from lading.containers.startfailures import StartError
from lading.containers.streams import Line, Peer, frames
from lading.core.runtime import Task
from lading.errors import ConflictError, LadingError, NotFoundError

_REMEMBERED: Final = 128
"""Ended execs of a container that can still be inspected."""
_AFTERWARDS: Final = 0.02
"""Seconds in which an attached client asks how its exec ended; the time of nothing else depends on it."""
_EXEC_FAILED: Final = "OCI runtime exec failed: "


class ExecService:
    """Further processes in running containers. They are known until their container is removed."""

    def __init__(
        self, environment: Environment, directories: Directories, launcher: Launcher, background: Background
    ) -> None:
        self._env = environment
        self._directories = directories
        self._launcher = launcher
        self._background = background
        self._execs: dict[str, Exec] = {}
        self._containers: dict[str, Container] = {}

    def forget(self, container: Container) -> None:
        """The container is gone."""
        for id_ in container.execs:
            self._execs.pop(id_, None)
            self._containers.pop(id_, None)

    async def create(self, container: Container, body: Mapping[str, Any]) -> str:
        """Prepare a further process; its ID.

        Raises:
            ConflictError: The container does not run, or it is paused.
            InvalidArgumentError: A field is wrong, or the container knows no such user.

        """
        container.task_for_exec().expect_exec()
        asked = ExecRequest.parse(body)
        if asked.user:
            await execs.user_of(asked, container.state.pid)
        made = Exec(id=secrets.token_hex(32), container=container.id, request=asked)
        container.execs[made.id] = made
        self._execs[made.id] = made
        self._containers[made.id] = container
        action = f"exec_create: {' '.join(made.request.cmd or ())}"
        self._env.bus.publish("container", action, container.id, container.attributes(execID=made.id))
        return made.id

    def find(self, id: str) -> Exec:
        """An exec by its ID. Raises `NotFoundError`."""
        found = self._execs.get(id)
        if found is None:
            raise NotFoundError(f"No such exec instance: {id}", subject=id)
        return found

    async def start(self, exec_: Exec, *, peer: Peer | None, console_size: "list[int] | None" = None) -> None:
        """Run an exec: with ``peer`` until it ends and its output was delivered, without one in the background.

        Raises:
            ConflictError: It ran, or its container does not.
            StartError: The runtime cannot run it; exit code 126 or 127 is then that of the exec.

        """
        container = self._containers[exec_.id]
        if container.task is not None:
            container.task.expect_exec()
        if exec_.started:
            how = "is already running" if exec_.exit_code is None else "has already run"
            raise ConflictError(f"exec command {exec_.id} {how}")
        exec_.started = True
        if console_size:
            exec_.request.console_size = console_size
        # The process outlives this call if the client leaves; errors of its start belong to the call.
        outcome: list[LadingError] = []
        done = anyio.Event()
        line = Line(peer) if peer is not None else None

        async def background() -> None:
            try:
                await self._run(container, exec_, line, up=None if line else done)
            except LadingError as exc:
                outcome.append(exc)
            finally:
                done.set()
                if line is not None:
                    line.leave()

        self._background.spawn(background)
        try:
            await (line.left if line else done).wait()
        finally:
            if line is not None:
                line.leave()
        if outcome and not exec_.up.is_set():
            raise outcome[0]

    async def _run(
        self, container: Container, exec_: Exec, peer: Peer | None, *, up: anyio.Event | None = None
    ) -> None:
        task = container.running_task()
        base = self._launcher.process_of(container)
        if base is None:
            raise ConflictError(f"container {container.id} was started in a way that allows no exec")
        try:
            directory = self._directories.of_run(container)
            async with execs.ExecStreams(directory, exec_, attached=peer is not None) as streams:
                process = await execs.plan(
                    exec_.request, base, container.state.pid, container.document.user, then=streams.open
                )
                await self._begin(container, exec_, process, streams)
                if up is not None:
                    up.set()
                try:
                    await execs.converse(
                        exec_, task, streams, peer, lambda: self._detached(container, exec_, peer)
                    )
                    self._told_end(container, exec_)
                finally:
                    await self._clear(task, exec_, peer)
        except LadingError as exc:
            if not exec_.up.is_set():
                exec_.exit_code = signals.start_exit_code(exc.message)
                words = exc.message.removeprefix(_EXEC_FAILED)
                raise StartError(f"{_EXEC_FAILED}{words}") from exc
            raise
        finally:
            exec_.running = False
            self._forget_oldest(container)

    async def _clear(self, task: Task, exec_: Exec, peer: Peer | None) -> None:
        """The shim may forget it, but the client is served first: it need not wait for that, and has a last question."""
        with anyio.CancelScope(shield=True), contextlib.suppress(LadingError):
            if isinstance(peer, Line):
                peer.leave()
                await anyio.sleep(_AFTERWARDS)
            await task.delete(exec_.id)

    def _told_end(self, container: Container, exec_: Exec) -> None:
        attributes = container.attributes(execID=exec_.id, exitCode=str(exec_.exit_code or 0))
        self._env.bus.publish("container", "exec_die", container.id, attributes)

    def _detached(self, container: Container, exec_: Exec, peer: Peer | None) -> None:
        self._env.bus.publish("container", "exec_detach", container.id, container.attributes(execID=exec_.id))
        if isinstance(peer, Line):
            peer.leave()

    def _forget_oldest(self, container: Container) -> None:
        """Execs that ended can be asked about for a while, not for ever."""
        ended = [each for each in container.execs.values() if each.exit_code is not None]
        for each in ended[:-_REMEMBERED]:
            self._drop(each)

    async def collect(
        self, container: Container, body: Mapping[str, Any], *, seconds: float, limit: int
    ) -> tuple[int, bytes]:
        """Run a command to its end; its exit code and the first ``limit`` bytes of both outputs.

        Raises ``TimeoutError`` with the output so far when it takes longer, after it was killed; else as `start`.
        """
        exec_ = self.find(await self.create(container, body))
        exec_.started = True
        gathered = _Gathered(limit)
        try:
            with anyio.move_on_after(seconds) as scope:
                await self._run(container, exec_, gathered)
            if scope.cancelled_caught:
                raise TimeoutError(bytes(gathered.data))
        finally:
            with anyio.CancelScope(shield=True), contextlib.suppress(LadingError):
                if not exec_.ended.is_set() and exec_.up.is_set():
                    task = container.running_task()
                    await task.kill(signals.parse("KILL"), exec_.id)
                    await task.wait(exec_.id)
                    await task.delete(exec_.id)
            self._drop(exec_)
        return exec_.exit_code or 0, bytes(gathered.data)

    def _drop(self, exec_: Exec) -> None:
        container = self._containers.pop(exec_.id, None)
        self._execs.pop(exec_.id, None)
        if container is not None:
            container.execs.pop(exec_.id, None)

    async def _begin(
        self, container: Container, exec_: Exec, process: Mapping[str, Any], streams: execs.ExecStreams
    ) -> None:
        async with container.starting.shared():
            await self._start_process(container.task_for_exec(), exec_, process, streams)
        exec_.running = True
        exec_.up.set()
        action = f"exec_start: {' '.join(exec_.request.cmd or ())}"
        self._env.bus.publish("container", action, container.id, container.attributes(execID=exec_.id))

    async def _start_process(
        self, task: Task, exec_: Exec, process: Mapping[str, Any], streams: execs.ExecStreams
    ) -> None:
        await task.exec(exec_.id, process, streams.stdio)
        try:
            exec_.pid = await task.start(exec_.id)
            # Without a thread: proc(5) is read from memory, and the client waits.
            execs.check_identity(exec_.pid, process["user"]["uid"])
        except BaseException:
            with anyio.CancelScope(shield=True):
                with contextlib.suppress(LadingError):
                    await task.kill(signals.parse("KILL"), exec_.id)
                with contextlib.suppress(LadingError):
                    await task.delete(exec_.id)
            raise

    async def resize(self, exec_: Exec, *, width: int, height: int) -> None:
        """Set the size of an exec's terminal, as soon as it runs."""
        container = self._containers[exec_.id]
        with anyio.move_on_after(10):
            await exec_.up.wait()
        await container.running_task().resize(width, height, exec_.id)


class _Gathered(Peer):
    """Keeps the first bytes that are written, without stream headers."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.data = bytearray()

    async def read(self) -> bytes:
        return b""

    async def write(self, data: bytes) -> None:
        for _, payload in frames(data):
            self.data += payload[: self._limit - len(self.data)]
