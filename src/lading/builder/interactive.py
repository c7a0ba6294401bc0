"""Containers that a frontend asks for: it runs processes in them by hand, as ``docker buildx debug`` does.

**Life.** A container is made of refs and other mounts; nothing runs in it yet. The first process that is run in it is the
container's own: with its end the container's processes are over. Others join it meanwhile. What they change is thrown away when
the container is released, or the build ends.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import anyio
from anyio.abc import TaskGroup, TaskStatus

from lading.builder.results import Ref
from lading.errors import AlreadyExistsError, NotFoundError
from lading.formats.llb import ops
from lading.kit.tasks import task_group
from lading.oci.descriptor import Platform


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerWish:
    """What a container is made of: a ref (``None`` for nothing) for each mount, the one at ``/`` its root."""

    mounts: Sequence[tuple[Ref | None, ops.Mount]]
    network: ops.NetMode = ops.NetMode.UNSET
    platform: Platform | None = None
    """``None`` for the machine's own."""
    hostname: str = ""
    extra_hosts: tuple[ops.HostIP, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessWish:
    """A process for a container. With ``terminal`` its output is one stream, 1."""

    meta: ops.Meta
    terminal: bool = False
    input: bool = False
    """Whether it has a standard input."""
    security: ops.SecurityMode = ops.SecurityMode.SANDBOX
    secret_env: tuple[ops.SecretEnv, ...] = ()


class RunningProcess(Protocol):
    """A process that runs. Both calls do nothing once it has ended."""

    async def resize(self, width: int, height: int) -> None:
        """Set the terminal's size in characters."""
        ...

    async def kill(self, signal: int) -> None:
        """Send a signal."""
        ...


class ProcessClient(Protocol):
    """Who talks with a process."""

    def started(self, process: RunningProcess) -> None:
        """It runs."""
        ...

    async def read(self) -> bytes:
        """More input; empty at its end."""
        ...

    async def write(self, stream: int, data: bytes) -> None:
        """Take output, of stream 1 or 2; the process waits meanwhile."""
        ...


class Container(Protocol):
    """A container that is there."""

    async def run(self, wish: ProcessWish, client: ProcessClient) -> int:
        """Run a process to its end; its exit code. Cancelled, it is gone within a second.

        Raises:
            NotFoundError: The container's first process has ended.
            PermissionDeniedError: The build was not granted what is asked for.
            FailedPreconditionError: The runtime refused, in its own words.

        """
        ...


OpenContainer = Callable[[ContainerWish], AbstractAsyncContextManager[Container]]
"""Makes a container, there while the context lasts. Raises what solving its refs raises."""


@dataclass(slots=True, kw_only=True)
class _Entry:
    container: Container
    released: anyio.Event = field(default_factory=anyio.Event)
    gone: anyio.Event = field(default_factory=anyio.Event)


class Containers:
    """The containers of one client, by the names that it gives them."""

    def __init__(self, make: OpenContainer) -> None:
        self._make = make
        self._entries: dict[str, _Entry] = {}
        self._group: TaskGroup | None = None

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """Containers can be opened while the context lasts; what is left of them then is released."""
        async with task_group() as group:
            self._group = group
            try:
                yield
            finally:
                self._group = None
                group.cancel_scope.cancel()

    async def open(self, id: str, wish: ContainerWish) -> None:
        """Make one. Raises `AlreadyExistsError`; as `OpenContainer`."""
        if id in self._entries:
            raise AlreadyExistsError(f"Container {id[:128]} already exists", subject=id[:128])
        if self._group is None:
            raise NotFoundError("the build is over")
        await self._group.start(self._keep, id, wish)

    async def _keep(self, id: str, wish: ContainerWish, *, task_status: TaskStatus[None]) -> None:
        async with self._make(wish) as container:
            entry = self._entries[id] = _Entry(container=container)
            try:
                task_status.started()
                await entry.released.wait()
            finally:
                del self._entries[id]
        entry.gone.set()

    async def release(self, id: str) -> None:
        """Unmake one; it is gone when the call returns. Raises `NotFoundError`."""
        entry = self._find(id, f"container details for {id[:128]} not found")
        entry.released.set()
        await entry.gone.wait()

    def get(self, id: str) -> Container:
        """One that is there. Raises `NotFoundError`."""
        return self._find(id, f'container "{id[:128]}" previously released or not created').container

    def _find(self, id: str, problem: str) -> _Entry:
        if id not in self._entries:
            raise NotFoundError(problem, subject=id[:128])
        return self._entries[id]
