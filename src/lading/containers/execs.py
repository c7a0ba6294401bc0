"""Further processes in a container: ``docker exec``."""

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import anyio
import anyio.abc
import msgspec

from lading.containers import capabilities, spec, users
from lading.containers.journal import Chunk
from lading.containers.remapping import of_process
from lading.containers.rootfs import in_process
from lading.containers.streams import DetachFilter, Peer, detach_keys, encode
from lading.core.runtime import Stdio, Task
from lading.errors import CancelledError, InternalError, InvalidArgumentError, LadingError
from lading.kit import aio
from lading.kit.fifo import FifoInput, Fifos, make_fifos

_READ: Final = 64 * 1024
_DRAIN_SECONDS: Final = 2.0
"""How long output of an exec is awaited after its end, in case a descendant holds the stream."""


class ExecRequest(msgspec.Struct, rename="pascal"):
    """The body of exec create."""

    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: list[int] | None = None
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach_keys: str = ""
    env: list[str] | None = None
    working_dir: str = ""
    cmd: list[str] | None = None

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> "ExecRequest":
        """Read a body. Raises `InvalidArgumentError`."""
        try:
            made = msgspec.convert(
                {_FIELDS.get(k.lower(), k): v for k, v in body.items() if v is not None}, cls
            )
        except msgspec.ValidationError as exc:
            raise InvalidArgumentError(f"invalid exec configuration: {exc}") from exc
        if not made.cmd:
            raise InvalidArgumentError("No exec command specified")
        if made.working_dir and not made.working_dir.startswith("/"):
            raise InvalidArgumentError(f"the working directory '{made.working_dir}' is not absolute")
        detach_keys(made.detach_keys)
        return made


_FIELDS: Final = {name.lower(): name for name in ExecRequest.__struct_encode_fields__}
"""Go reads keys whatever their case, and docker-py counts on it (``detachKeys``)."""


@dataclass(slots=True)
class Exec:
    """One exec. ``exit_code`` is ``None`` until it ended."""

    id: str
    container: str
    request: ExecRequest
    running: bool = False
    started: bool = False
    multiplexed: bool = True
    """Whether who is attached is sent frames; the client says so, whatever terminal the process has."""
    exit_code: int | None = None
    pid: int = 0
    up: anyio.Event = field(default_factory=anyio.Event)
    ended: anyio.Event = field(default_factory=anyio.Event)


def process(
    request: ExecRequest, base: Mapping[str, Any], user: users.User, caps: list[str]
) -> dict[str, Any]:
    """The runtime-spec process of an exec, from that of the container's first process."""
    env = spec.merge_env(base["env"], request.env)
    if request.tty and not any(entry.startswith("TERM=") for entry in env):
        env.append("TERM=xterm")
    made: dict[str, Any] = {
        **base,
        "terminal": request.tty,
        "args": list(request.cmd or ()),
        "env": env,
        "cwd": request.working_dir or base["cwd"],
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups), "umask": 0o022},
        "capabilities": spec.capability_sets(caps, user.uid),
    }
    made.pop("consoleSize", None)
    size = request.console_size or []
    if request.tty and len(size) == 2 and all(size):
        made["consoleSize"] = {"height": size[0], "width": size[1]}
    return made


async def user_of(request: ExecRequest, pid: int, default: str = "") -> users.User:
    """Who an exec runs as in the container whose first process is ``pid``. Raises as `users.resolve`."""
    return await aio.run(aio.DISK, _user_in, request, pid, default)


def _user_in(request: ExecRequest, pid: int, default: str) -> users.User:
    return in_process(pid, lambda root: users.resolve(root, request.user or default))


async def plan(
    request: ExecRequest,
    base: Mapping[str, Any],
    pid: int,
    default_user: str,
    then: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The process of an exec in the container whose first process is ``pid``.

    ``then`` may block, and is called on the thread that looks into the container: one hop between threads serves both.
    """

    def look() -> users.User:
        found = _user_in(request, pid, default_user)
        then()
        return found

    user = await aio.run(aio.DISK, look)
    held: list[str] = base["capabilities"]["bounding"]
    return process(request, base, user, list(capabilities.known()) if request.privileged else held)


class ExecStreams:
    """FIFOs of one exec, gone after it. An async context manager, in which `open` makes them."""

    def __init__(self, directory: Path, exec_: Exec, *, attached: bool) -> None:
        self._directory = directory
        self._exec = exec_
        self._attached = attached
        self._fifos = Fifos()
        self._outputs: dict[str, int] = {}

    @property
    def stdio(self) -> Stdio:
        """For the runtime."""
        f = self._fifos
        return Stdio(stdin=f.stdin, stdout=f.stdout, stderr=f.stderr, terminal=self._exec.request.tty)

    async def __aenter__(self) -> Self:
        return self

    def open(self) -> None:
        """Make what the exec needs, if it needs any. Blocking."""
        request = self._exec.request
        if not (self._attached or request.tty):
            return
        self._fifos = make_fifos(
            self._directory,
            f"exec-{self._exec.id}",
            stdin=request.attach_stdin and self._attached,
            terminal=request.tty,
        )
        for name, path in (("stdout", self._fifos.stdout), ("stderr", self._fifos.stderr)):
            if path:
                self._outputs[name] = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    async def __aexit__(self, *_: object) -> None:
        for fd in self._outputs.values():
            os.close(fd)
        self._outputs.clear()
        with anyio.CancelScope(shield=True):
            await aio.run(aio.DISK, self._fifos.remove)

    async def output(self, send: anyio.abc.ObjectSendStream[Chunk]) -> None:
        """Read every output to its end."""
        async with send, anyio.create_task_group() as group:
            for name, fd in self._outputs.items():
                group.start_soon(_read, name, fd, send)

    def input(self) -> FifoInput:
        """Where its input is handed over."""
        return FifoInput(self._fifos.stdin)


async def _read(name: str, fd: int, send: anyio.abc.ObjectSendStream[Chunk]) -> None:
    while True:
        await anyio.wait_readable(fd)
        try:
            data = os.read(fd, _READ)
        except BlockingIOError:
            continue
        if not data:
            return
        await send.send(Chunk(stream=name, data=data))


async def converse(
    exec_: Exec, task: Task, streams: ExecStreams, peer: Peer | None, detached: Callable[[], None]
) -> None:
    """Run a started exec to its end, with ``peer`` attached if there is one; ``detached`` is told when it detaches.

    A slow client holds back only its own exec. One that leaves is forgotten; what the exec writes then goes nowhere.
    """
    send, receive = anyio.create_memory_object_stream[Chunk](4)
    async with anyio.create_task_group() as group, send, receive:
        group.start_soon(streams.output, send)
        if peer is not None and exec_.request.attach_stdin:
            group.start_soon(_forward_input, exec_, task, streams, peer, detached)
        with anyio.CancelScope() as delivery:
            group.start_soon(_end_delivery, task, exec_, delivery)
            await _deliver(exec_, receive, peer)
        await exec_.ended.wait()
        group.cancel_scope.cancel()


async def _end_delivery(task: Task, exec_: Exec, delivery: anyio.CancelScope) -> None:
    """Note the end of the process; give its output a little time to arrive if something still holds the stream."""
    try:
        exec_.exit_code = (await task.wait(exec_.id)).status
    except LadingError:
        exec_.exit_code = exec_.exit_code if exec_.exit_code is not None else 137
    exec_.running = False
    exec_.ended.set()
    delivery.deadline = anyio.current_time() + _DRAIN_SECONDS


async def _deliver(exec_: Exec, receive: AsyncIterator[Chunk], peer: Peer | None) -> None:
    request, present = exec_.request, peer is not None
    wanted = {
        name for name, has in (("stdout", request.attach_stdout), ("stderr", request.attach_stderr)) if has
    }
    async for chunk in receive:
        if present and peer is not None and (chunk.stream in wanted or request.tty):
            try:
                with anyio.CancelScope(shield=True):
                    await peer.write(encode(chunk, multiplexed=exec_.multiplexed))
            except CancelledError:
                present = False


async def _forward_input(
    exec_: Exec, task: Task, streams: ExecStreams, peer: Peer, told: Callable[[], None]
) -> None:
    keys = DetachFilter(detach_keys(exec_.request.detach_keys) if exec_.request.tty else b"")
    with contextlib.suppress(LadingError):
        with streams.input() as stdin:
            while data := await peer.read():
                data, detached = keys.feed(data)
                if data:
                    await stdin.write(data)
                if detached:
                    told()
                    return
        if not exec_.request.tty:  # a terminal goes on without input
            await task.close_stdin(exec_.id)


def check_identity(pid: int, uid: int) -> None:
    """Verify that a started process runs as the user that was asked for, a user of its user namespace. Blocking.

    Raises `InternalError` if it does not; a process that has ended already proves nothing and passes.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        found = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("Uid:")), uid)
        if found != uid:
            found, _ = of_process(pid).inside(found, 0)
    except OSError:
        return
    if found != uid:
        raise InternalError(f"the runtime started a process as user {found} instead of {uid}")


def drop_leftovers(directory: Path) -> list[int]:
    """Read ends of the outputs of execs that an earlier daemon began, so that they do not block for ever. Blocking."""
    found: list[int] = []
    for path in directory.glob("exec-*-std[oe]*"):
        with contextlib.suppress(OSError):
            found.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    return found


async def discard(fd: int) -> None:
    """Read a stream to its end and forget it."""
    try:
        while True:
            try:
                if not os.read(fd, _READ):
                    return
            except BlockingIOError:
                await anyio.wait_readable(fd)
    finally:
        os.close(fd)
