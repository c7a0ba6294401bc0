"""``ExecProcess``: the processes of one client in the containers that it made, all over one call.

Messages name the process that they are about. Of each process the client is told that it started, its output, the end of each
of its streams, how it ended, and at last that nothing more will come.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

import anyio
from typing_extensions import override

from lading.api.buildkit.errors import build_status
from lading.builder.bridge import Bridge
from lading.builder.interactive import Container, ProcessClient, ProcessWish, RunningProcess
from lading.containers import signals
from lading.errors import InvalidArgumentError, LadingError, NotFoundError
from lading.formats.buildkit._pb import gateway_pb2 as pb
from lading.formats.buildkit._pb.common_pb2 import RpcStatus
from lading.formats.llb.decode import meta_from, secrets_from, security_from
from lading.kit.grpc.server import ServerCall, parse
from lading.kit.grpc.status import Code, GrpcError
from lading.kit.tasks import task_group

Send = Callable[[pb.ExecMessage], Awaitable[None]]
_UNKNOWN_EXIT: Final = 255
"""The exit code of a process that did not start, or of which it is not known."""
_WAITING: Final = 16
"""Pieces of input that may wait for a process before other messages do."""


async def serve(call: ServerCall, bridge: Bridge) -> None:
    """Serve the call until the client has ended it and all processes have ended."""
    call.begin()
    lock = anyio.Lock()

    async def send(message: pb.ExecMessage) -> None:
        async with lock:
            await call.send(message.SerializeToString())

    known: dict[str, _Process] = {}
    try:
        async with task_group() as group:
            while (data := await call.receive()) is not None:
                message = parse(pb.ExecMessage, data)
                if message.WhichOneof("input") == "init":
                    name, container = _new(message, known), bridge.containers.get(message.init.container_id)
                    known[name] = _Process(name, message.init.fds, send)
                    group.start_soon(known[name].run, container, _wish(message.init))
                else:
                    await _told(known, message)
            for process in known.values():
                process.end_input()
    finally:
        for process in known.values():
            process.close()


def _new(message: pb.ExecMessage, known: "Mapping[str, _Process]") -> str:
    """The name of a process that is to start. Raises `GrpcError` for none, or a known one."""
    name = message.process_id
    if not name:
        raise GrpcError(Code.INVALID_ARGUMENT, "ProcessID required")
    if name in known:
        raise GrpcError(Code.ALREADY_EXISTS, f"Process {name[:128]} already exists")
    return name


def _wish(message: pb.InitMessage) -> ProcessWish:
    if not message.meta.args:
        raise InvalidArgumentError("a process has no arguments")
    return ProcessWish(
        meta=meta_from(message.meta),
        terminal=message.tty,
        input=0 in message.fds,
        security=security_from(message.security),
        secret_env=secrets_from(message.secretenv),
    )


async def _told(known: "Mapping[str, _Process]", message: pb.ExecMessage) -> None:
    """What the client says of a process that it started."""
    process = known.get(message.process_id)
    if process is None:
        raise NotFoundError(f'IO for process "{message.process_id[:128]}" not found')
    match message.WhichOneof("input"):
        case "file":
            if message.file.fd:
                raise GrpcError(Code.OUT_OF_RANGE, f"fd {message.file.fd} unavailable to write")
            await process.take_input(message.file.data, end=message.file.eof)
        case "resize":
            await process.resize(message.resize.cols, message.resize.rows)
        case "signal":
            await process.kill(signals.parse(message.signal.name))
        case _:
            raise InvalidArgumentError("a message of a process says nothing")


class _Process(ProcessClient):
    """One process, as its client sees it."""

    def __init__(self, id: str, fds: Iterable[int], send: Send) -> None:
        self._id = id
        self._outputs = frozenset(fds) - {0}
        self._send = send
        self._running: RunningProcess | None = None
        self._up = anyio.Event()
        self._announced = anyio.Event()
        self._tell, self._input = anyio.create_memory_object_stream[bytes](_WAITING)

    async def run(self, container: Container, wish: ProcessWish) -> None:
        """Run it, and tell how it ended."""
        async with task_group() as group:
            group.start_soon(self._announce)
            try:
                end = _exit(await container.run(wish, self))
            except LadingError as exc:
                end = pb.ExitMessage(code=_UNKNOWN_EXIT, error=build_status(exc))
            self._up.set()
        self.close()
        for fd in sorted(self._outputs):
            await self._send(pb.ExecMessage(process_id=self._id, file=pb.FdMessage(fd=fd, eof=True)))
        await self._send(pb.ExecMessage(process_id=self._id, exit=end))
        await self._send(pb.ExecMessage(process_id=self._id, done=pb.DoneMessage()))

    async def _announce(self) -> None:
        await self._up.wait()
        await self._send(pb.ExecMessage(process_id=self._id, started=pb.StartedMessage()))
        self._announced.set()

    async def take_input(self, data: bytes, *, end: bool) -> None:
        """Hand over input; nobody takes it when the process has ended."""
        try:
            if data:
                await self._tell.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return
        if end:
            self.end_input()

    def end_input(self) -> None:
        """No more will come. Idempotent."""
        self._tell.close()

    def close(self) -> None:
        """It takes no more input. Idempotent."""
        self._tell.close()
        self._input.close()

    async def resize(self, width: int, height: int) -> None:
        """See `RunningProcess.resize`."""
        if self._running is not None:
            await self._running.resize(width, height)

    async def kill(self, signal: int) -> None:
        """See `RunningProcess.kill`."""
        if self._running is not None:
            await self._running.kill(signal)

    # `ProcessClient`.

    @override
    def started(self, process: RunningProcess) -> None:
        self._running = process
        self._up.set()

    @override
    async def read(self) -> bytes:
        try:
            return await self._input.receive()
        except anyio.EndOfStream:
            return b""

    @override
    async def write(self, stream: int, data: bytes) -> None:
        await self._announced.wait()
        if stream in self._outputs:
            await self._send(pb.ExecMessage(process_id=self._id, file=pb.FdMessage(fd=stream, data=data)))


def _exit(status: int) -> pb.ExitMessage:
    error = RpcStatus(code=Code.UNKNOWN, message=f"exit code: {status}") if status else None
    return pb.ExitMessage(code=status, error=error)
