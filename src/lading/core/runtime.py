"""Runtime: processes in containers, through containerd shims.

**Terms.** A *bundle* is a directory with an OCI runtime ``config.json``. A *task* is the running side of a container:
one shim process that mounts the root file system and runs the container's first process; an *exec* is a further
process in it, named by an exec ID. Exec ID ``""`` means the first process.

**Life.** ``create`` starts a shim and the container's process up to the point before its program runs; ``start``
runs the program; ``wait`` returns when it ended; ``delete`` frees everything. Shims outlive the daemon: after a restart
``load`` finds the tasks of earlier daemons again.

**Standard streams** are FIFO paths that the caller made (empty means ``/dev/null``). The caller holds the reading ends of the
outputs open while ``create`` (for an exec: ``start``) runs, since a shim waits for a reader; then it has opened both ends of
each, so that a reader may come and go. With ``terminal`` only stdin and stdout are used.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NewType, Protocol

from lading.core.mounts import Mount

ContainerID = NewType("ContainerID", str)


class Status(Enum):
    """State of a process."""

    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stdio:
    """Paths of the standard streams' FIFOs; empty for none."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessState:
    """State of a process. ``exited_at_nano`` is nanoseconds since the epoch, 0 while it lives."""

    status: Status
    pid: int
    exit_status: int = 0
    exited_at_nano: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a process ended. ``status`` is 0-255 (128 + signal number if a signal ended it)."""

    status: int
    exited_at_nano: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """Something a shim reported: topic ``/tasks/exit``, ``/tasks/oom`` … ``exec_id`` is empty for the first process."""

    topic: str
    container: ContainerID
    exec_id: str = ""
    pid: int = 0
    exit_status: int = 0
    time_nano: int = 0


class Task(Protocol):
    """One container's task. Every call raises `NotFoundError` once the task or process is gone."""

    @property
    def id(self) -> ContainerID:
        """The container's ID."""
        ...

    @property
    def pid(self) -> int:
        """The first process, as the host sees it."""
        ...

    async def start(self, exec_id: str = "") -> int:
        """Run the program; its process ID. Raises `FailedPreconditionError` with the runtime's own words if it cannot."""
        ...

    async def state(self, exec_id: str = "") -> ProcessState:
        """State of a process."""
        ...

    async def wait(self, exec_id: str = "") -> Exit:
        """Wait for the end of a process; at once if it ended. Any number of waiters."""
        ...

    async def kill(self, signal: int, exec_id: str = "", *, all: bool = False) -> None:
        """Send a signal to a process, or to all of the container."""
        ...

    def expect_exec(self) -> None:
        """A process is about to be added. A hint, which never raises, that what it needs may be got ready."""
        ...

    async def exec(self, exec_id: str, process: Mapping[str, Any], stdio: Stdio) -> None:
        """Create (not start) a further process; ``process`` is an OCI runtime-spec process object."""
        ...

    async def resize(self, width: int, height: int, exec_id: str = "") -> None:
        """Set the terminal's size in characters."""
        ...

    async def close_stdin(self, exec_id: str = "") -> None:
        """Tell the shim that no more input will come."""
        ...

    async def pause(self) -> None:
        """Freeze the container."""
        ...

    async def resume(self) -> None:
        """Thaw the container."""
        ...

    async def pids(self) -> list[int]:
        """Processes of the container, as the host sees them."""
        ...

    async def update(self, resources: Mapping[str, Any]) -> None:
        """Change resource limits; an OCI runtime-spec linux.resources object."""
        ...

    async def metrics(self) -> Mapping[str, Any]:
        """The runtime's cgroup figures, in the OCI/containerd metrics shape as plain data."""
        ...

    async def delete(self, exec_id: str = "") -> Exit:
        """Delete a stopped process; for the first one also the task, its shim and its mounts.

        Raises `FailedPreconditionError` while it runs.
        """
        ...


class Running(Protocol):
    """A container in the foreground."""

    async def wait(self) -> int:
        """Wait until its first process has ended and nothing of it is left; the exit code. To be called once.

        Cancelled, it kills the container, and returns when that is gone.

        Raises:
            FailedPreconditionError: The runtime refused, in its own words.

        """
        ...


class Foreground(Protocol):
    """Runs containers that have no task: their starter alone knows of them, waits for their end, and keeps nothing.

    Such a container is in no list, publishes no events, and no process can be added to it. It costs less than one with a task.
    """

    def expect(self) -> None:
        """A container is about to be started. A hint, which never raises, that what it needs may be got ready."""
        ...

    def start(
        self, id: ContainerID, directory: str, spec: Mapping[str, Any], streams: tuple[int, int, int]
    ) -> Running:
        """Start a container, which sees the mounts of the calling thread. Blocking.

        The thread must have a working directory and umask of its own, as one with a mount namespace of its own has. ``spec``
        names its root by an absolute path. ``directory`` exists, and has what the runtime writes until the caller removes it.
        ``streams`` are descriptors of the standard streams, which stay the caller's. Raises `OSError` if the runtime's program
        cannot be started.
        """
        ...

    async def end(self, id: ContainerID, directory: str) -> None:
        """End what an earlier daemon, which was killed, has left of a container that it started so. Nothing is fine."""
        ...


class Runtime(Protocol):
    """Starts tasks and finds them again."""

    def foreground(self, runtime: str) -> Foreground | None:
        """What runs containers of the named runtime without tasks; ``None`` if it cannot. Blocking."""
        ...

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
        """Write a bundle, start a shim of the named runtime (``io.containerd.runc.v2``, or a path) and create the task.

        Raises:
            NotFoundError: No binary for that runtime.
            AlreadyExistsError: The container has a task.
            FailedPreconditionError: The runtime refused, in its own words; nothing is left behind.

        """
        ...

    async def warm(self, runtime: str) -> None:
        """Have ready what the next `create` with this runtime needs, which may be a process. A hint, which never raises."""
        ...

    async def load(self) -> list[Task]:
        """Tasks whose shims are alive, from earlier daemons too.

        Dead shims are cleaned up, and their exits reported as events before this returns; of one that dies meanwhile there is
        still a task to `get`, and its exit is reported soon.
        """
        ...

    async def get(self, id: ContainerID) -> Task:
        """The task of a container. Raises `NotFoundError`."""
        ...

    def events(self) -> AsyncIterator[TaskEvent]:
        """Events of all tasks from now on; one consumer."""
        ...

    async def close(self) -> None:
        """Let go of the shims; they and their containers go on. Idempotent."""
        ...
