"""`ShimTask`: one container's task, through its shim.

A shim may die while its container runs. Its runtime then cleans up (see service.py) and tells the task how it ended:
from then on the task is a *grave*, whose first process is stopped, until somebody deletes it.
"""

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import anyio
import structlog
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from typing_extensions import override

from lading.core.runtime import ContainerID, Exit, ProcessState, Status, Stdio, Task
from lading.errors import (
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    LadingError,
    NotFoundError,
)
from lading.kit import aio
from lading.runtime._pb import task_pb2
from lading.runtime.bundle import Bundle
from lading.runtime.logs import LogDrain
from lading.runtime.ttrpc import Client, DisconnectedError
from lading.runtime.wire import (
    NAMESPACE_KEY,
    PROCESS,
    RESOURCES,
    TASK_SERVICES,
    any_json,
    exit_of,
    metrics,
    process_state,
)

M = TypeVar("M", bound=Message)
SIGKILL: Final = 9
_CONTROL: Final = 120
"""Seconds for a call that runs the OCI runtime; a shim that takes longer is stuck."""
_SHUTDOWN: Final = 3
_EXEC_STARTS: Final = 4
"""Further processes that one shim is asked to start at a time.

Up to containerd 1.6 a shim holds back all ends while it starts something, and those that wait to start come before
them. Once 32 processes have ended unheard, each further end waits for a second, so that fifty starts at once took half
a minute. It starts one at a time, whatever it is asked for: nothing is lost by not asking.
"""
_PATH_MAX: Final = 4096
_OVERLAP: Final = 12
"""Characters at the end of one message and the start of another that are no accident."""
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("lading.runtime")


class RuntimeRefusedError(FailedPreconditionError):
    """The OCI runtime could not do it; the message has its own words."""

    code = "runtime-refused"


def check_identifier(id: str) -> None:
    """Container and exec IDs name files and cgroups, so they have containerd's form of identifiers.

    Raises:
        InvalidArgumentError: This one has not.

    """
    if len(id) > 76 or not _IDENTIFIER.fullmatch(id):
        raise InvalidArgumentError(f"{id!r} is not an identifier of at most 76 characters", subject=id)


def check_process(process: Mapping[str, Any], subject: str) -> None:
    """A program and a working directory are paths, and those have less than PATH_MAX bytes (limits.h).

    runc repeats what it could not run in a message that it writes into a pipe which nobody empties yet: a name longer than the
    pipe holds it up for ever, and with it everything else that its shim is asked for.

    Raises:
        RuntimeRefusedError: One is longer.

    """
    for words, path in (
        ("exec", next(iter(process.get("args") or ()), "")),
        ("chdir", process.get("cwd") or ""),
    ):
        if len(os.fsencode(path)) >= _PATH_MAX:
            raise RuntimeRefusedError(f'{words}: "{path[:64]}…": file name too long', subject=subject)


class Shim:
    """The connection to one shim, and what this daemon holds for it."""

    def __init__(
        self, bundle: Bundle, home: Bundle, client: Client, log: LogDrain, version: int, namespace: str
    ) -> None:
        self.bundle = bundle
        self.home = home
        """Where it was started; ``bundle`` itself if it serves no other container."""
        self.client = client
        self.pid = 0
        """The shim's process, as far as known."""
        self.lives = 0
        """Containers that it has served before."""
        self._log = log
        self._service = TASK_SERVICES[version]
        self._metadata = {NAMESPACE_KEY: namespace}

    def serve(self, bundle: Bundle) -> None:
        """From now on it is the shim of this container."""
        self.bundle = bundle

    async def call(
        self, method: str, request: Message, response: type[M], timeout: float | None = _CONTROL
    ) -> M:
        """Call a method of the Task service. Raises as `Client.call`."""
        return await self.client.call(
            self._service, method, request, response, metadata=self._metadata, timeout=timeout
        )

    async def shutdown(self) -> None:
        """Ask the shim to end and wait for that; one that does not is left to its executable's ``delete``."""
        with anyio.move_on_after(_SHUTDOWN), contextlib.suppress(LadingError):
            await self.call("Shutdown", task_pb2.ShutdownRequest(id=self.bundle.id, now=True), Empty)
            await self.client.wait_closed()

    def close(self) -> None:
        """Let go of the shim, which goes on."""
        self.client.close()
        self._log.close()


class ShimTask(Task):
    """The port's task. Made by the runtime, which passes what a task cannot do alone.

    Args:
        shim: The connection.
        pid: The first process.
        watch: Told of each process that may become this daemon's orphan.
        dispose: Ends and removes everything but the task's first process.
        hasten: Told when a further process will soon be moved into the container's cgroups; see `HeadStart`.

    """

    def __init__(
        self,
        shim: Shim,
        pid: int,
        *,
        watch: Callable[[int], None],
        dispose: Callable[["ShimTask", Exit], Awaitable[None]],
        hasten: Callable[[], None],
    ) -> None:
        self.shim = shim
        self.bundle = shim.bundle
        self.exit: Exit | None = None
        """How the first process ended."""
        self.ended = anyio.Event()
        """``exit`` is known."""
        self.reported: set[str] = set()
        """Topics of events of the first process's end that have been published."""
        self.exit_reported = anyio.Event()
        """Its exit is among them."""
        self.leaving = False
        """The shim is being shut down on purpose."""
        self.dying = False
        """The shim has died by itself, and is being buried."""
        self.gone = False
        """The task was deleted."""
        self._grave = anyio.Event()
        self._exec_pids: set[int] = set()
        self._ends: dict[str, asyncio.Task[Exit]] = {}
        """Of started further processes: their ends, which were asked for with their start, until someone waits."""
        self._pid = pid
        self._watch = watch
        self._dispose = dispose
        self._hasten = hasten
        self.deleted = False
        """Whether the shim has deleted the container: nothing of it is left for the shim's executable to clean up."""
        self._deleting = anyio.Lock()
        self._exec_starts = anyio.Semaphore(_EXEC_STARTS)

    @property
    @override
    def id(self) -> ContainerID:
        return self.bundle.id

    @property
    @override
    def pid(self) -> int:
        return self._pid

    @property
    def shim_pid(self) -> int:
        """The shim's process."""
        return self.shim.pid

    @property
    def pids_known(self) -> list[int]:
        """Processes that this daemon knows of: the shim's, the first one and started execs."""
        return [self.shim_pid, self._pid, *self._exec_pids]

    def record_exit(self, end: Exit) -> None:
        """The first process has ended. The first report counts."""
        if self.exit is None:
            self.exit = end
            self.ended.set()

    def bury(self, end: Exit) -> None:
        """The shim is dead and its remains are cleaned up."""
        self.record_exit(end)
        self._grave.set()

    @override
    async def start(self, exec_id: str = "") -> int:
        if not exec_id:
            return await self._start()
        async with self._exec_starts:
            self._ask_end(exec_id)
            return await self._start(exec_id)

    async def _start(self, exec_id: str = "") -> int:
        try:
            response = await self._call("Start", self._process(exec_id), task_pb2.PidResponse)
        except BaseException as exc:
            self._forget_end(exec_id)
            if not isinstance(exc, LadingError):
                raise
            refused = self.refusal(exc, "start")
            if not exec_id:
                with anyio.CancelScope(shield=True):
                    await self.destroy()
            raise refused from exc
        if exec_id:
            self._exec_pids.add(response.pid)
            self._watch(response.pid)
        return response.pid

    @override
    async def state(self, exec_id: str = "") -> ProcessState:
        try:
            response = await self._call("State", self._process(exec_id), task_pb2.StateResponse)
        except DisconnectedError:
            await self._wait_grave()
            if exec_id or self.exit is None:
                raise self._missing(exec_id) from None
            return ProcessState(
                status=Status.STOPPED,
                pid=self._pid,
                exit_status=self.exit.status,
                exited_at_nano=self.exit.exited_at_nano,
            )
        return process_state(response)

    @override
    async def wait(self, exec_id: str = "") -> Exit:
        if self.gone:
            raise self._missing(exec_id)
        if not exec_id:
            await self.ended.wait()
            if self.exit is None:
                raise DisconnectedError("this daemon has let go of its shims", subject=self.id)
            return self.exit
        asked = self._ends.pop(exec_id, None)
        try:
            return await (asked or self.wait_rpc(exec_id))
        except DisconnectedError:
            # An exec dies with its container, and the container with its shim.
            await self._wait_grave()
            return self.exit or _killed()

    async def wait_rpc(self, exec_id: str = "") -> Exit:
        """Ask the shim itself, for as long as it takes."""
        return exit_of(await self._call("Wait", self._process(exec_id), task_pb2.WaitResponse, None))

    def _ask_end(self, exec_id: str) -> None:
        """Ask for the end of a process right behind its start, so that the shim tells it without being asked again."""
        asked = asyncio.get_running_loop().create_task(self.wait_rpc(exec_id))
        asked.add_done_callback(_note_error)
        self._ends[exec_id] = asked

    def _forget_end(self, exec_id: str) -> None:
        asked = self._ends.pop(exec_id, None)
        if asked is not None:
            asked.cancel()

    @override
    async def kill(self, signal: int, exec_id: str = "", *, all: bool = False) -> None:
        request = task_pb2.KillRequest(id=self.id, exec_id=exec_id, signal=signal, all=all)
        await self._alive("Kill", request, Empty)

    @override
    def expect_exec(self) -> None:
        self._hasten()

    @override
    async def exec(self, exec_id: str, process: Mapping[str, Any], stdio: Stdio) -> None:
        check_identifier(exec_id)
        check_process(process, self.id)
        request = task_pb2.ExecRequest(
            id=self.id,
            exec_id=exec_id,
            terminal=stdio.terminal,
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr="" if stdio.terminal else stdio.stderr,
            spec=any_json(PROCESS, process),
        )
        try:
            await self._alive("Exec", request, Empty)
        except LadingError as exc:
            raise self.refusal(exc, "exec") from exc

    @override
    async def resize(self, width: int, height: int, exec_id: str = "") -> None:
        request = task_pb2.ResizePtyRequest(id=self.id, exec_id=exec_id, width=width, height=height)
        await self._alive("ResizePty", request, Empty)

    @override
    async def close_stdin(self, exec_id: str = "") -> None:
        await self._alive("CloseIO", task_pb2.CloseIORequest(id=self.id, exec_id=exec_id, stdin=True), Empty)

    @override
    async def pause(self) -> None:
        await self._refusable("Pause", self._process(), Empty)

    @override
    async def resume(self) -> None:
        await self._refusable("Resume", self._process(), Empty)

    @override
    async def pids(self) -> list[int]:
        response = await self._alive("Pids", self._process(), task_pb2.PidsResponse)
        return [process.pid for process in response.processes]

    @override
    async def update(self, resources: Mapping[str, Any]) -> None:
        request = task_pb2.UpdateRequest(id=self.id, resources=any_json(RESOURCES, resources))
        await self._refusable("Update", request, Empty)

    @override
    async def metrics(self) -> Mapping[str, Any]:
        response = await self._refusable("Stats", self._process(), task_pb2.StatsResponse)
        return metrics(response.stats)

    @override
    async def delete(self, exec_id: str = "") -> Exit:
        if exec_id:
            self._forget_end(exec_id)
            response = await self._refusable("Delete", self._process(exec_id), task_pb2.DeleteResponse)
            self._exec_pids.discard(response.pid)
            return exit_of(response)
        async with self._deleting:
            if self.gone:
                raise self._missing()
            await self._stop_created()
            end = None
            with anyio.CancelScope(shield=True):
                end = await self._delete()
            assert end is not None
            return end

    async def _wait_grave(self) -> None:
        """The shim does not answer: wait until it is buried, or raise if this daemon cut the connection itself."""
        if not self.dying:
            raise self._missing()
        await self._grave.wait()

    def let_go(self) -> None:
        """The daemon leaves the shim; whoever waits is told."""
        self.ended.set()
        self.shim.close()

    async def _stop_created(self) -> None:
        state = await self.state()
        if state.status in (Status.RUNNING, Status.PAUSED):
            raise FailedPreconditionError(
                f"container {self.id} is {state.status.value}", hint="stop it first", subject=self.id
            )
        if state.status is Status.CREATED:
            with contextlib.suppress(NotFoundError):
                await self.kill(SIGKILL)
            await self.wait()

    async def _delete(self) -> Exit:
        self.leaving = True
        end = None
        try:
            end = exit_of(await self._call("Delete", self._process(), task_pb2.DeleteResponse))
            self.deleted = True
        except (DisconnectedError, NotFoundError):
            if self.dying:
                await self._grave.wait()
        except LadingError as exc:
            self.leaving = False
            raise self.refusal(exc, "delete") from exc
        end = end or self.exit or _killed()
        await self._finish(end)
        return end

    async def _finish(self, end: Exit) -> None:
        await self._dispose(self, end)
        self.gone = True
        self.record_exit(end)

    async def destroy(self) -> None:
        """End the container by force and remove everything, whatever state it is in. Idempotent."""
        async with self._deleting:
            if self.gone:
                return
            with contextlib.suppress(LadingError), anyio.move_on_after(_SHUTDOWN):
                await self.kill(SIGKILL, all=True)
                await self.ended.wait()
            try:
                await self._delete()
            except LadingError as exc:
                _log.warning("task_destroyed_by_force", container=self.id, reason=str(exc))
                self.leaving = True
                await self._finish(self.exit or _killed())

    async def _call(
        self, method: str, request: Message, response: type[M], timeout: float | None = _CONTROL
    ) -> M:
        if self.gone:
            raise self._missing()
        return await self.shim.call(method, request, response, timeout)

    async def _alive(self, method: str, request: Message, response: type[M]) -> M:
        """A call that needs the container's shim: without one, the process is gone."""
        try:
            return await self._call(method, request, response)
        except DisconnectedError as exc:
            raise NotFoundError(f"the shim of container {self.id} has died", subject=self.id) from exc

    async def _refusable(self, method: str, request: Message, response: type[M]) -> M:
        """A call in which the OCI runtime's own failure means that the container's state is not right for it."""
        try:
            return await self._alive(method, request, response)
        except InternalError as exc:
            raise RuntimeRefusedError(f"container {self.id}: {exc.message}", subject=self.id) from exc

    def refusal(self, error: LadingError, action: str) -> LadingError:
        """What to raise when the runtime could not run something: its own words, whatever code the shim chose."""
        if isinstance(error, DisconnectedError):
            return RuntimeRefusedError(f"the shim died at {action}", subject=self.id)
        if isinstance(error, InternalError):
            return RuntimeRefusedError(error.message, subject=self.id)
        return error

    def _process(self, exec_id: str = "") -> task_pb2.ProcessRequest:
        return task_pb2.ProcessRequest(id=self.id, exec_id=exec_id)

    def _missing(self, exec_id: str = "") -> NotFoundError:
        what = f"process {exec_id} of container {self.id}" if exec_id else f"the task of container {self.id}"
        return NotFoundError(f"{what} does not exist", subject=self.id)


def _note_error(asked: "asyncio.Task[Exit]") -> None:
    """Whoever waits is told of the error; if nobody does, nobody needs it."""
    if not asked.cancelled():
        asked.exception()


def _killed() -> Exit:
    return Exit(status=128 + SIGKILL, exited_at_nano=time.time_ns())


async def runtime_words(bundle: Bundle, error: LadingError) -> LadingError:
    """The error of a failed Create, with the last words of the OCI runtime where the shim did not pass them on."""
    if isinstance(error, (InternalError, DisconnectedError)):
        said = await aio.run(aio.DISK, bundle.runtime_error)
        return RuntimeRefusedError(joined(error.message, said), subject=bundle.id)
    return error


def joined(message: str, said: str) -> str:
    """A shim's message and its runtime's own words, which it may have passed on in part or cut off."""
    if not said or said in message:
        return message
    for start in range(len(message) - _OVERLAP):
        if said.startswith(message[start:]):
            return message[:start] + said
    return f"{message}: {said}"
