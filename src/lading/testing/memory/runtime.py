"""Tasks in memory: `MemoryRuntime` on a `Machine` that outlives it, as shims outlive a daemon.

No process is started. A task's "program" is a few words of shell, enough for tests of what stands above a runtime:
``true``, ``false``, ``sleep N``, ``echo WORDS [>&2]``, ``cat``, ``exit N`` and ``trap 'exit N' SIGNAL``, given as arguments or
joined by ``;`` after ``sh -c``. Output goes to the FIFOs of the task. As with a kernel, the first process ignores signals
that it has no trap for, except SIGKILL and SIGSTOP.
"""

import os
import re
import shlex
import signal as signals
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Self

import anyio
from anyio.abc import TaskGroup
from typing_extensions import override

from lading.core.mounts import Mount
from lading.core.runtime import ContainerID, Exit, ProcessState, Runtime, Status, Stdio, Task, TaskEvent
from lading.errors import AlreadyExistsError, FailedPreconditionError, InvalidArgumentError, NotFoundError

_NAMES: Final = ("sh", "true", "false", "sleep", "echo", "cat")
_PROGRAMS: Final = (*_NAMES, *(f"/bin/{name}" for name in _NAMES))
_BUFFERED_EVENTS: Final = 10_000


def _check_identifier(id: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*", id) or len(id) > 76:
        raise InvalidArgumentError(f"{id!r} is not an identifier", subject=id)


class _Exited(Exception):  # noqa: N818 -- it is control flow, not an error
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Process:
    """One process: a program that runs in the machine's task group."""

    def __init__(
        self, machine: "Machine", task: "_Record", exec_id: str, spec: Mapping[str, Any], stdio: Stdio
    ) -> None:
        args = list(spec.get("args") or [])
        if not args:
            raise InvalidArgumentError("the process has no arguments")
        if args[0] not in _PROGRAMS:
            words = f'exec: "{args[0]}": executable file not found in $PATH'
            raise FailedPreconditionError(
                f"OCI runtime create failed: unable to start container process: {words}"
            )
        self.machine, self.task, self.exec_id, self.stdio = machine, task, exec_id, stdio
        self.script = args[2] if args[0].endswith("sh") and args[1:2] == ["-c"] else shlex.join(args)
        self.pid = machine.next_pid()
        self.status = Status.CREATED
        self.exit: Exit | None = None
        self.ended = anyio.Event()
        self.traps: dict[int, int] = {}
        self.size: tuple[int, int] | None = None
        self._scope = anyio.CancelScope()
        self._killed: int | None = None
        self._input = anyio.Event()
        self._fds = _open_fifos(stdio)

    def start(self) -> None:
        self.status = Status.RUNNING
        self.machine.group.start_soon(self._run)

    def kill(self, signal: int) -> None:
        if signal in self.traps:
            self.end(self.traps[signal])
        elif signal == signals.SIGKILL or (self.exec_id and signal):
            self.end(128 + signal)

    def end(self, status: int) -> None:
        self._killed = status
        self._scope.cancel()
        if self.status is Status.CREATED:
            self._finish(status)

    def close_input(self) -> None:
        self._input.set()

    def close(self) -> None:
        fds, self._fds = self._fds, {}
        for fd in fds.values():
            os.close(fd)

    async def _run(self) -> None:
        status = 0
        with self._scope:
            try:
                for command in self.script.split(";"):
                    status = await self._command(command.strip())
            except _Exited as exc:
                status = exc.status
        self._finish(status if self._killed is None else self._killed)

    def _finish(self, status: int) -> None:
        self.status = Status.STOPPED
        self.exit = Exit(status=status, exited_at_nano=time.time_ns())
        if not self.exec_id:
            for other in self.task.processes.values():
                if other.exec_id and other.exit is None:
                    other.end(128 + signals.SIGKILL)
        self.close()
        self.ended.set()
        self.machine.emit(
            TaskEvent(
                topic="/tasks/exit",
                container=self.task.id,
                exec_id=self.exec_id,
                pid=self.pid,
                exit_status=status,
                time_nano=self.exit.exited_at_nano,
            )
        )

    async def _command(self, command: str) -> int:
        if trap := re.fullmatch(r"trap ['\"]exit (\d+)['\"] (?:SIG)?(\w+)", command):
            self.traps[signals.Signals[f"SIG{trap[2]}"]] = int(trap[1])
            return 0
        words = shlex.split(command) or ["true"]
        match words[0].rpartition("/")[2]:
            case "exit":
                raise _Exited(int(words[1]) & 0xFF)
            case "false":
                return 1
            case "sleep":
                await anyio.sleep(float(words[1]))
            case "echo":
                loud = [word for word in words[1:] if word != ">&2"]
                await self._write(" ".join(loud) + "\n", errors=len(loud) < len(words) - 1)
            case "cat":
                await self._cat()
            case _:
                pass
        return 0

    async def _write(self, text: str, *, errors: bool = False) -> None:
        fd = self._fds.get("stderr" if errors and not self.stdio.terminal else "stdout")
        if fd is not None:
            await anyio.wait_writable(fd)
            os.write(fd, text.encode())

    async def _cat(self) -> None:
        fd = self._fds.get("stdin")
        if fd is None:
            return

        async def copy() -> None:
            while True:
                await anyio.wait_readable(fd)
                await self._write(os.read(fd, 65536).decode())

        async with anyio.create_task_group() as group:
            group.start_soon(copy)
            await self._input.wait()
            group.cancel_scope.cancel()


def _open_fifos(stdio: Stdio) -> dict[str, int]:
    """Both ends of each FIFO, as a shim holds them, so that a reader may come and go."""
    paths = {"stdin": stdio.stdin, "stdout": stdio.stdout, "stderr": "" if stdio.terminal else stdio.stderr}
    fds: dict[str, int] = {}
    try:
        for name, path in paths.items():
            if path:
                fds[name] = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        for fd in fds.values():
            os.close(fd)
        raise FailedPreconditionError(f"cannot open a standard stream: {exc}") from exc
    return fds


class _Record:
    """What a shim holds of one container."""

    def __init__(self, id: ContainerID) -> None:
        self.id = id
        self.processes: dict[str, _Process] = {}
        self.resources: dict[str, Any] = {}
        self.paused = False

    def process(self, exec_id: str) -> _Process:
        try:
            return self.processes[exec_id]
        except KeyError:
            what = (
                f"process {exec_id} of container {self.id}" if exec_id else f"the task of container {self.id}"
            )
            raise NotFoundError(f"{what} does not exist", subject=self.id) from None


class Machine:
    """Where the tasks live; runtimes on it come and go. An async context manager: leaving it ends every program."""

    def __init__(self) -> None:
        self.records: dict[ContainerID, _Record] = {}
        self.listener: MemoryRuntime | None = None
        self.unseen: list[TaskEvent] = []
        self._pids = 1000
        self._group: TaskGroup | None = None

    @property
    def group(self) -> TaskGroup:
        """The task group in which programs run."""
        assert self._group is not None, "the machine is off: use `async with`"
        return self._group

    async def __aenter__(self) -> Self:
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.group.cancel_scope.cancel()
        await self.group.__aexit__(None, None, None)
        for record in self.records.values():
            for process in record.processes.values():
                process.close()

    def next_pid(self) -> int:
        """A process ID that was never used."""
        self._pids += 1
        return self._pids

    def emit(self, event: TaskEvent) -> None:
        """Report an event to the runtime that is attached, if one is."""
        if self.listener is not None:
            self.listener.deliver(event)
        elif event.topic == "/tasks/exit":
            self.unseen.append(event)

    def kill_shim(self, id: ContainerID) -> None:
        """End a container as if its shim had been killed: its exit is 137, seen now or by the next `load`."""
        record = self.records[id]
        first = record.process("")
        if first.exit is None:
            first.end(128 + signals.SIGKILL)
        if self.listener is None:
            del self.records[id]


class MemoryTask(Task):
    """A task of `MemoryRuntime`."""

    def __init__(self, machine: Machine, record: _Record) -> None:
        self._machine = machine
        self._record = record
        self._pid = record.process("").pid

    @property
    @override
    def id(self) -> ContainerID:
        return self._record.id

    @property
    @override
    def pid(self) -> int:
        return self._pid

    def _process(self, exec_id: str = "") -> _Process:
        return self._record.process(exec_id)

    def _report(self, topic: str, exec_id: str = "", pid: int = 0) -> None:
        event = TaskEvent(topic=topic, container=self.id, exec_id=exec_id, pid=pid, time_nano=time.time_ns())
        self._machine.emit(event)

    @override
    async def start(self, exec_id: str = "") -> int:
        process = self._process(exec_id)
        if process.status is not Status.CREATED:
            raise FailedPreconditionError(
                f"the process is {process.status.value}, not created", subject=self.id
            )
        self._report("/tasks/exec-started" if exec_id else "/tasks/start", exec_id, process.pid)
        process.start()
        return process.pid

    @override
    async def state(self, exec_id: str = "") -> ProcessState:
        process = self._process(exec_id)
        status = Status.PAUSED if self._record.paused and process.exit is None else process.status
        return ProcessState(
            status=status,
            pid=process.pid,
            exit_status=process.exit.status if process.exit else 0,
            exited_at_nano=process.exit.exited_at_nano if process.exit else 0,
        )

    @override
    async def wait(self, exec_id: str = "") -> Exit:
        process = self._process(exec_id)
        await process.ended.wait()
        assert process.exit is not None
        return process.exit

    @override
    async def kill(self, signal: int, exec_id: str = "", *, all: bool = False) -> None:
        process = self._process(exec_id)
        if process.exit is not None:
            raise NotFoundError("the process has finished", subject=self.id)
        for target in list(self._record.processes.values()) if all else [process]:
            if target.exit is None:
                target.kill(signal)

    @override
    def expect_exec(self) -> None:
        pass

    @override
    async def exec(self, exec_id: str, process: Mapping[str, Any], stdio: Stdio) -> None:
        _check_identifier(exec_id)
        if exec_id in self._record.processes:
            raise AlreadyExistsError(f"process {exec_id} of container {self.id} exists", subject=exec_id)
        if self._process().status is not Status.RUNNING:
            raise FailedPreconditionError(f"container {self.id} is not running", subject=self.id)
        self._record.processes[exec_id] = _Process(self._machine, self._record, exec_id, process, stdio)
        self._report("/tasks/exec-added", exec_id)

    @override
    async def resize(self, width: int, height: int, exec_id: str = "") -> None:
        self._process(exec_id).size = (width, height)

    @override
    async def close_stdin(self, exec_id: str = "") -> None:
        self._process(exec_id).close_input()

    @override
    async def pause(self) -> None:
        if self._process().status is not Status.RUNNING or self._record.paused:
            raise FailedPreconditionError(f"container {self.id} is not running", subject=self.id)
        self._record.paused = True
        self._report("/tasks/paused")

    @override
    async def resume(self) -> None:
        self._process()
        if not self._record.paused:
            raise FailedPreconditionError(f"container {self.id} is not paused", subject=self.id)
        self._record.paused = False
        self._report("/tasks/resumed")

    @override
    async def pids(self) -> list[int]:
        self._process()
        return [process.pid for process in self._record.processes.values() if process.exit is None]

    @override
    async def update(self, resources: Mapping[str, Any]) -> None:
        self._process()
        self._record.resources.update(resources)

    @override
    async def metrics(self) -> Mapping[str, Any]:
        limit = self._record.resources.get("pids", {}).get("limit", 0)
        return {
            "@type": "io.containerd.cgroups.v1.Metrics",
            "pids": {"current": len(await self.pids()), "limit": limit},
            "cpu": {"usage": {"total": 0, "kernel": 0, "user": 0, "per_cpu": []}},
            "memory": {"usage": {"usage": 0, "max": 0, "limit": 0, "failcnt": 0}},
        }

    @override
    async def delete(self, exec_id: str = "") -> Exit:
        process = self._process(exec_id)
        if process.status is Status.CREATED:
            process.end(128 + signals.SIGKILL)
        if process.exit is None:
            raise FailedPreconditionError("the process runs: stop it first", subject=self.id)
        process.close()
        if exec_id:
            del self._record.processes[exec_id]
        else:
            self._record.processes.clear()
            self._machine.records.pop(self.id, None)
            self._machine.emit(
                TaskEvent(
                    topic="/tasks/delete",
                    container=self.id,
                    pid=process.pid,
                    exit_status=process.exit.status,
                    time_nano=process.exit.exited_at_nano,
                )
            )
        return process.exit


class MemoryRuntime(Runtime):
    """The port in memory; an async context manager, like the real one."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._queue: list[TaskEvent] = []
        self._arrived = anyio.Event()
        self._closed = False

    async def __aenter__(self) -> Self:
        self._machine.listener = self
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @override
    def foreground(self, runtime: str) -> None:
        """Everything has a task here."""

    def deliver(self, event: TaskEvent) -> None:
        """Queue an event for `events`."""
        self._queue.append(event)
        del self._queue[:-_BUFFERED_EVENTS]
        self._arrived.set()

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
        _check_identifier(id)
        if id in self._machine.records:
            raise AlreadyExistsError(f"container {id} has a task", subject=id)
        if not re.fullmatch(r"io\.containerd\.(runc|memory)\.v\d+", runtime):
            raise NotFoundError(f"no shim for runtime {runtime!r}", subject=runtime)
        record = _Record(id)
        record.processes[""] = _Process(self._machine, record, "", spec.get("process", {}), stdio)
        self._machine.records[id] = record
        task = MemoryTask(self._machine, record)
        self._machine.emit(
            TaskEvent(topic="/tasks/create", container=id, pid=task.pid, time_nano=time.time_ns())
        )
        return task

    @override
    async def warm(self, runtime: str) -> None:
        del runtime

    @override
    async def load(self) -> list[Task]:
        unseen, self._machine.unseen = self._machine.unseen, []
        for event in unseen:
            self.deliver(event)
        return [MemoryTask(self._machine, record) for record in self._machine.records.values()]

    @override
    async def get(self, id: ContainerID) -> Task:
        record = self._machine.records.get(id)
        if record is None:
            raise NotFoundError(f"container {id} has no task", subject=id)
        return MemoryTask(self._machine, record)

    @override
    async def events(self) -> AsyncIterator[TaskEvent]:
        while not self._closed:
            while self._queue:
                yield self._queue.pop(0)
            self._arrived = anyio.Event()
            await self._arrived.wait()

    @override
    async def close(self) -> None:
        self._closed = True
        self._arrived.set()
        if self._machine.listener is self:
            self._machine.listener = None
