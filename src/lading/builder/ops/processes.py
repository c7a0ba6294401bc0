"""Processes of a build: the spec, the output, the end.

Where the runtime can, they run in the foreground, without a shim; those that clients run by hand, those of other runtimes
than runc and those with a user namespace run through the same shims as containers.
"""

import os
import secrets
import shutil
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import anyio
from typing_extensions import override

from lading.builder.model import Talk
from lading.builder.ops.emulation import Emulation
from lading.builder.ops.files import paths
from lading.builder.ops.trees import Room
from lading.containers import hostfiles, spec
from lading.containers.environment import Resolving
from lading.containers.namespaces import Joined
from lading.containers.networking import Joint
from lading.containers.remapping import Remapping
from lading.containers.request import Config, HostConfig
from lading.containers.request import Ulimit as UlimitRequest
from lading.containers.users import User
from lading.core.mounts import Mount
from lading.core.runtime import ContainerID, Foreground, Running, Runtime, Stdio, Task
from lading.errors import LadingError, NotFoundError, UnsupportedError
from lading.formats.llb import ops
from lading.kit import aio, linux
from lading.kit.fifo import Fifos, make_fifos
from lading.kit.grpc.connection import Transport
from lading.kit.tasks import task_group
from lading.oci.descriptor import Platform

PREFIX: Final = "lading-build-"
"""With which the IDs of builds' tasks begin."""
HOSTNAME: Final = "buildkitsandbox"
CHUNK: Final = 1 << 15
_USER: Final = "user"
_DRAIN_SECONDS: Final = 5.0
_FILES: Final = ("/etc/hosts", "/etc/resolv.conf")
LENT: Final = ("rbind", "ro", "nosuid", "nodev", "noexec")
"""How files of ours are mounted into a process."""
_FLAGS: Final = ("ro", "rw", "nosuid", "nodev", "noexec")


class Networking(Protocol):
    """Gives a process a network of its own with a way out."""

    def join(self, id: str, owner: str = "") -> AbstractAsyncContextManager[str]:
        """The path of a network namespace, there while the context lasts. ``owner`` is the path of its user namespace, if any."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What is to run. ``mounts`` are runtime-spec mounts beside the usual ones."""

    meta: ops.Meta
    env: Sequence[str]
    user: User
    rootfs: Sequence[Mount]
    readonly: bool = False
    mounts: Sequence[Mapping[str, Any]] = ()
    network: ops.NetMode = ops.NetMode.UNSET
    insecure: bool = False
    platform: Platform = field(default_factory=Platform)
    terminal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A process that only wants its streams: ``directory`` is for them, and gone with it."""

    id: ContainerID
    process: Process
    document: Mapping[str, Any]
    directory: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """Runs processes. ``state`` is a directory of ours, best on a tmpfs, which means nothing after a reboot."""

    runtime: Runtime
    runtime_name: str
    foreground: Foreground | None = None
    """What runs them without a shim, where that can be."""
    state: Path
    emulation: Emulation
    networking: Networking | None = None
    remapping: Remapping | None = None
    """The user namespace of all processes; without it the machine's."""
    cgroup_v2: bool = True
    cgroup_parent: str = "/lading/build"

    async def run(
        self,
        process: Process,
        log: Callable[[int, bytes], None],
        *,
        talk: Talk | None = None,
        room: Room | None = None,
    ) -> int:
        """Run one to its end; its exit code. Cancelled, it is gone within a second, with all that it started.

        ``talk`` gets its standard input and output as a byte stream; without it the input is empty and the output logged.
        With ``room``, in which its root is mounted, it is run by ``foreground``, else by a shim.

        Raises:
            FailedPreconditionError: The runtime refused, in its own words.
            UnsupportedError: It is of a platform that this machine cannot run.

        """
        if self.foreground is not None:
            self.foreground.expect()
        async with self.prepared(process) as prepared:
            if room is not None and self.foreground is not None:
                return await self._run_in_foreground(self.foreground, prepared, room, log, talk)
            fifos = await aio.run(aio.DISK, _fifos, prepared.directory, talk is not None)
            return await self._run(prepared, fifos, log, talk)

    @asynccontextmanager
    async def prepared(self, process: Process) -> AsyncGenerator[Prepared]:
        """Have everything there for a process but its streams. Raises `UnsupportedError`, as `run`."""
        await self.emulation.ensure(process.platform)
        name = f"{PREFIX}{secrets.token_hex(8)}"
        directory = self.state / name
        async with AsyncExitStack() as stack:
            stack.push_async_callback(_remove, directory)
            user = ""
            if self.remapping is not None:
                process = await aio.run(aio.DISK, _remap, directory, process, self.remapping)
                user = str(directory / _USER)
            namespace = await stack.enter_async_context(self._network(name, process, user))
            files = await aio.run(aio.DISK, _prepare, directory, process, self.remapping)
            document = await aio.run(aio.DISK, self._spec, name, process, files, namespace, user)
            yield Prepared(id=ContainerID(name), process=process, document=document, directory=directory)

    async def create(self, prepared: Prepared, stdio: Stdio) -> Task:
        """The task of a process, not started; `end_task` ends it. Raises `FailedPreconditionError`."""
        return await self.runtime.create(
            prepared.id,
            runtime=self.runtime_name,
            spec=prepared.document,
            rootfs=prepared.process.rootfs,
            stdio=stdio,
            options=self.remapping.stream_options if self.remapping else None,
        )

    def _network(self, id: str, process: Process, user: str) -> AbstractAsyncContextManager[str]:
        if process.network is ops.NetMode.UNSET and self.networking is not None:
            return self.networking.join(id, user)
        return nullcontext("")

    def _spec(
        self, id: str, process: Process, files: Mapping[str, str], namespace: str, user: str
    ) -> dict[str, Any]:
        meta = process.meta
        host = HostConfig(
            network_mode="host" if process.network is ops.NetMode.HOST else "none",
            privileged=process.insecure,
            readonly_rootfs=process.readonly,
            cgroup_parent=meta.cgroup_parent,
            ulimits=[UlimitRequest(name=one.name, soft=one.soft, hard=one.hard) for one in meta.ulimits],
        )
        plan = spec.Plan(
            id=id,
            config=Config(tty=process.terminal),
            host=host,
            args=list(meta.args),
            env=list(process.env),
            cwd=meta.cwd or "/",
            user=process.user,
            hostname=meta.hostname or HOSTNAME,
            files=files,
            joined=Joined().with_user(user),
            ids=self.remapping.ids if self.remapping else None,
            cgroup_v2=self.cgroup_v2,
            cgroup_parent=self.cgroup_parent,
        )
        document = spec.build(plan)
        document["process"]["env"] = list(process.env)
        usual = [
            {**each, "options": list(LENT)} if each["destination"] in _FILES else each
            for each in document["mounts"]
        ]
        document["mounts"] = _merged(usual, process.mounts)
        if namespace:
            for one in document["linux"]["namespaces"]:
                if one["type"] == "network":
                    one["path"] = namespace
        return document

    async def _run(
        self,
        prepared: Prepared,
        fifos: Fifos,
        log: Callable[[int, bytes], None],
        talk: Talk | None,
    ) -> int:
        streams = {1: opened_to_read(fifos.stdout), 2: opened_to_read(fifos.stderr)}
        if fifos.stdin:
            streams[0] = os.open(fifos.stdin, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            async with _attended(streams, log, talk):
                stdio = Stdio(stdin=fifos.stdin, stdout=fifos.stdout, stderr=fifos.stderr)
                task = await self.create(prepared, stdio)
                ended = False
                try:
                    await task.start()
                    end = await task.wait()
                    ended = True
                finally:
                    with anyio.CancelScope(shield=True):
                        await end_task(task, ended=ended)
        finally:
            for fd in streams.values():
                os.close(fd)
        return end.status

    async def _run_in_foreground(
        self,
        foreground: Foreground,
        prepared: Prepared,
        room: Room,
        log: Callable[[int, bytes], None],
        talk: Talk | None,
    ) -> int:
        spec = _in_a_room(prepared.document, room.path)
        with _pipes(talk is not None) as pipes:

            def start() -> Running:
                return foreground.start(prepared.id, str(prepared.directory), spec, pipes.theirs)

            async with _attended(pipes.ours, log, talk):
                running = await room.run(start)
                pipes.close_theirs()
                return await running.wait()

    async def recover(self) -> None:
        """End what an earlier daemon's builds left running. Blocking state is cleaned by whoever owns the directory."""
        for directory in await aio.run(aio.DISK, lambda: list(self.state.glob(f"{PREFIX}*"))):
            name = ContainerID(directory.name)
            with suppress(NotFoundError):
                await end_task(await self.runtime.get(name))
            if self.foreground is not None:
                await self.foreground.end(name, str(directory))
            await _remove(directory)


def _in_a_room(document: Mapping[str, Any], root: str) -> dict[str, Any]:
    """A spec for who sees a room's mounts: its root, and its network, which was mounted after the room was made.

    The latter is reached through the root of this process, in whose mount namespace it is. proc_pid_root(5).
    """
    namespaces = [
        {**each, "path": f"/proc/{os.getpid()}/root{each['path']}"} if "path" in each else each
        for each in document["linux"]["namespaces"]
    ]
    return {
        **document,
        "root": {**document["root"], "path": root},
        "linux": {**document["linux"], "namespaces": namespaces},
    }


async def end_task(task: Task, *, ended: bool = False) -> None:
    """Kill whatever is left of a task, and delete it. One that has ``ended`` took all its processes along, as their first."""
    if not ended:
        with suppress(LadingError):
            await task.kill(9, all=True)
        with suppress(LadingError):
            await task.wait()
    with suppress(NotFoundError):
        await task.delete()


def opened_to_read(path: str) -> int:
    """A descriptor of a FIFO that never blocks."""
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


async def pieces(fd: int) -> AsyncGenerator[bytes]:
    """What comes out of a pipe that does not block, as it comes, until nobody writes to it any more."""
    while True:
        await anyio.wait_readable(fd)
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            continue
        if not data:
            return
        yield data


async def _pump(fd: int, number: int, log: Callable[[int, bytes], None]) -> None:
    async for data in pieces(fd):
        log(number, data)


@asynccontextmanager
async def _attended(
    streams: dict[int, int], log: Callable[[int, bytes], None], talk: Talk | None
) -> AsyncGenerator[None]:
    """Have somebody at our ends of a process's standard streams, until all that was written is read.

    An end at which nobody is any more is closed: whoever writes to it, such as runc for a process, would wait for ever.
    """

    async def attend(work: Callable[[], Awaitable[None]], *numbers: int) -> None:
        try:
            await work()
        finally:
            for number in numbers:
                os.close(streams.pop(number))

    async with task_group() as group:
        group.start_soon(attend, partial(_pump, streams[2], 2, log), 2)
        if talk is not None:
            group.start_soon(attend, partial(talk, _Pipes(streams[1], streams[0])), 0, 1)
        else:
            group.start_soon(attend, partial(_pump, streams[1], 1, log), 1)
        yield
        # The pumps end with the last writer; one that left the container behind is not waited for.
        group.cancel_scope.deadline = anyio.current_time() + _DRAIN_SECONDS


class _Ends:
    """Pipes for the standard streams of a process, by the streams' numbers."""

    def __init__(self) -> None:
        self.ours: dict[int, int] = {}
        self._theirs: dict[int, int] = {}

    @property
    def theirs(self) -> tuple[int, int, int]:
        """The process's ends."""
        return self._theirs[0], self._theirs[1], self._theirs[2]

    def open(self, number: int) -> None:
        """Make the pipe of a stream; our end does not block."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        mine, other = (writing, reading) if number == 0 else (reading, writing)
        self.ours[number], self._theirs[number] = mine, other
        os.set_blocking(mine, False)

    def open_nothing(self, number: int) -> None:
        """Have a stream without anybody at the other end."""
        self._theirs[number] = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def close_theirs(self) -> None:
        """The process has its ends: with it they go."""
        while self._theirs:
            os.close(self._theirs.popitem()[1])

    def close(self) -> None:
        self.close_theirs()
        while self.ours:
            os.close(self.ours.popitem()[1])


@contextmanager
def _pipes(talks: bool) -> Generator[_Ends]:
    ends = _Ends()
    try:
        for number in (0, 1, 2):
            (ends.open if number or talks else ends.open_nothing)(number)
        yield ends
    finally:
        ends.close()


class _Pipes(Transport):
    """The standard output and input of a process as one byte stream."""

    def __init__(self, source: int, sink: int) -> None:
        self._source = source
        self._sink = sink

    @override
    async def read(self) -> bytes:
        while True:
            await anyio.wait_readable(self._source)
            with suppress(BlockingIOError):
                return os.read(self._source, CHUNK)

    @override
    async def write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            await anyio.wait_writable(self._sink)
            with suppress(BlockingIOError):
                left = left[os.write(self._sink, left) :]


def _remap(directory: Path, process: Process, remapping: Remapping) -> Process:
    """The process with all that it sees mounted below ``directory``, with the owners of a user namespace that is made there.

    Raises `UnsupportedError` for what a process with a user namespace cannot have.
    """
    if process.insecure or process.network is ops.NetMode.HOST:
        what = "security.insecure" if process.insecure else "network.host"
        raise UnsupportedError(
            f"{what} is not possible when user namespaces are enabled",
            hint="start the daemon without userns-remap",
        )
    directory.mkdir(parents=True, mode=0o700)
    remapping.make_namespace(directory / _USER)
    root = directory / "root"
    root.mkdir()
    remapping.mount(process.rootfs, root)
    mounts = [
        _remapped_mount(each, directory / f"mount-{number}", remapping)
        for number, each in enumerate(process.mounts)
    ]
    return replace(
        process,
        rootfs=[Mount(type="bind", source=str(root), options=("rbind", "rw"))],
        mounts=mounts,
    )


def _remapped_mount(entry: Mapping[str, Any], place: Path, remapping: Remapping) -> Mapping[str, Any]:
    kind, source, options = str(entry["type"]), str(entry["source"]), tuple(entry["options"])
    if kind not in ("bind", "overlay"):
        return entry
    if kind == "bind" and not os.path.isdir(source):
        place.touch()
    else:
        place.mkdir()
    flags = [word for word in options if word in _FLAGS]
    kept = tuple(word for word in options if word not in _FLAGS)
    remapping.mount([Mount(type=kind, source=source, options=kept)], place)
    return {**entry, "type": "bind", "source": str(place), "options": ["rbind", *flags]}


def _fifos(directory: Path, talks: bool) -> Fifos:
    return make_fifos(directory, "init", stdin=talks, terminal=False)


def _prepare(directory: Path, process: Process, remapping: Remapping | None) -> dict[str, str]:
    directory.mkdir(parents=True, mode=0o700, exist_ok=remapping is not None)
    host = HostConfig(
        network_mode="host" if process.network is ops.NetMode.HOST else "none",
        extra_hosts=[f"{one.host}:{one.ip}" for one in process.meta.extra_hosts],
    )
    owner = remapping.root if remapping else (0, 0)
    files = hostfiles.write(
        directory, host, process.meta.hostname or HOSTNAME, "", Joint(), Resolving(), owner
    )
    return {path: files[path] for path in _FILES}


async def _remove(directory: Path) -> None:
    with anyio.CancelScope(shield=True):
        await aio.run(aio.DISK, _remove_all, directory)


def _remove_all(directory: Path) -> None:
    for point in linux.mount_points(str(directory)):
        linux.unmount(point)
    shutil.rmtree(directory, ignore_errors=True)


def _merged(
    usual: Sequence[Mapping[str, Any]], asked: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    taken = {mount["destination"] for mount in asked}
    kept = [mount for mount in usual if mount["destination"] not in taken]
    return [*kept, *sorted(asked, key=lambda mount: mount["destination"].count("/"))]


# Mount points that the runtime makes in the root, and that are no part of the result.


@dataclass(frozen=True, slots=True)
class Stub:
    """A mount point that was not there: its parent's time is put back when it is removed."""

    path: str
    parent_times: tuple[int, int]


def find_stubs(root: int, destinations: Sequence[str]) -> list[Stub]:
    """Which mount points do not exist yet, the highest missing directory of each included."""
    stubs: dict[str, Stub] = {}
    for destination in destinations:
        parts = paths.parts_of(destination)
        for count in range(1, len(parts) + 1):
            here = "/".join(parts[:count])
            if paths.find(root, here, follow=False) is None:
                parent = paths.find(root, "/".join(parts[: count - 1]))
                times = (parent.st_atime_ns, parent.st_mtime_ns) if parent else (-1, -1)
                stubs.setdefault(here, Stub(here, times))
    return sorted(stubs.values(), key=lambda stub: -stub.path.count("/"))


def remove_stubs(root: int, stubs: Sequence[Stub], destinations: Sequence[str], *, recursive: bool) -> None:
    """Remove mount points that were made, where nothing was put into them."""
    ends = {"/".join(paths.parts_of(one)) for one in destinations}
    for stub in stubs:
        if stub.path not in ends and not recursive:
            continue
        with suppress(OSError), paths.parent_of(root, stub.path) as (parent, name):
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                os.rmdir(name, dir_fd=parent)
            elif stat.S_ISREG(status.st_mode) and not status.st_size:
                os.unlink(name, dir_fd=parent)
            else:
                continue
            if stub.parent_times[0] >= 0:
                os.utime(parent, ns=stub.parent_times)
