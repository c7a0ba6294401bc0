"""ttrpc over asyncio: `Client` and `Server`.

Both are unary, as everything that shims serve is. A connection is an asyncio protocol: bytes arrive by callback, so a
client needs no task of its own and a call in flight is one future. Responses come in any order; a connection that ends
fails all its calls with `DisconnectedError`, and one that sends what is not ttrpc is dropped.
"""

import asyncio
import contextlib
import math
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Final, TypeVar

import anyio
import structlog
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from google.protobuf.message import DecodeError, Message
from typing_extensions import override

from lading.errors import InternalError, LadingError, UnavailableError, UnsupportedError
from lading.formats.ttrpc import Frame, FrameDecoder, FrameError, Kind, encode
from lading.runtime._pb import rpc_pb2
from lading.runtime.wire import error_of, status_of

M = TypeVar("M", bound=Message)
Metadata = Mapping[str, str]
Handler = Callable[[bytes, Metadata], Awaitable[bytes]]
"""A served method: the request's payload and metadata in, the response's payload out; may raise any `LadingError`."""

_MAX_PENDING: Final = 1024
_TURNS: Final = 5
"""Turns of the loop in which a connection that was just accepted gets its protocol, is aborted and closes its socket."""
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("lading.runtime")


class DisconnectedError(UnavailableError):
    """The peer has gone."""

    code = "ttrpc-disconnected"


class DeadlineError(UnavailableError):
    """The peer did not answer in time."""

    code = "ttrpc-deadline"


class Connection(asyncio.Protocol):
    """What both roles share: frames in and out of one transport."""

    def __init__(self) -> None:
        self._decoder = FrameDecoder()
        self._transport: asyncio.Transport | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    @override
    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._decoder.feed(data):
                self.frame_received(frame)
        except FrameError as exc:
            _log.warning("ttrpc_peer_dropped", reason=str(exc))
            self.close()

    def frame_received(self, frame: Frame) -> None:
        """One frame has arrived. A `FrameError` drops the connection."""
        raise NotImplementedError

    def send(self, frame: Frame) -> None:
        """Queue a frame; a connection that has ended takes it silently."""
        data = encode(frame)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Drop the connection. Idempotent."""
        if self._transport is not None:
            self._transport.abort()


class Client(Connection):
    """The calling side of one connection; made by `connect`. Calls may overlap freely."""

    def __init__(self) -> None:
        super().__init__()
        self._pending: dict[int, asyncio.Future[rpc_pb2.Response]] = {}
        self._next = 1
        self._closed = asyncio.Event()
        self.on_close: Callable[[], None] | None = None
        """Called once when the connection has ended, whoever ended it."""

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return self._closed.is_set()

    async def wait_closed(self) -> None:
        """Return when the connection has ended."""
        await self._closed.wait()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                error = DisconnectedError("the shim has closed its connection")
                error.__cause__ = exc
                future.set_exception(error)
        if self.on_close is not None:
            self.on_close()

    @override
    def frame_received(self, frame: Frame) -> None:
        if frame.kind is not Kind.RESPONSE:
            raise FrameError(f"a server sent a {frame.kind.name.lower()} frame, and no call here streams")
        if frame.stream >= self._next:
            raise FrameError(f"a response names stream {frame.stream}, which was not opened")
        future = self._pending.pop(frame.stream, None)
        if future is None or future.done():
            return  # the caller has left
        try:
            future.set_result(rpc_pb2.Response.FromString(frame.payload))
        except DecodeError as exc:
            error = FrameError("a ttrpc response does not parse")
            error.__cause__ = exc
            future.set_exception(error)

    async def call(
        self,
        service: str,
        method: str,
        request: Message,
        response: type[M],
        *,
        metadata: Metadata | None = None,
        timeout: float | None = None,
    ) -> M:
        """Call a method and return its answer. Cancelling it only stops the waiting.

        Args:
            service: Full name, e.g. ``containerd.task.v2.Task``.
            method: E.g. ``Create``.
            request: The message to send.
            response: The class of the answer.
            metadata: Sent with the call.
            timeout: Seconds; also told to the peer.

        Raises:
            DisconnectedError: The connection has ended, before or during the call.
            DeadlineError: No answer within ``timeout``.
            LadingError: What the peer answered, by its google.rpc code.

        """
        if self.closed:
            raise DisconnectedError("the shim has closed its connection")
        if len(self._pending) >= _MAX_PENDING:
            raise UnavailableError(f"{_MAX_PENDING} calls wait for this shim already")
        message = rpc_pb2.Request(
            service=service,
            method=method,
            payload=request.SerializeToString(),
            timeout_nano=0 if timeout is None else int(timeout * 1e9),
            metadata=[rpc_pb2.KeyValue(key=key, value=value) for key, value in (metadata or {}).items()],
        )
        stream = self._next
        frame = Frame(stream=stream, kind=Kind.REQUEST, flags=1, payload=message.SerializeToString())
        data = encode(frame)
        assert self._transport is not None
        self._next += 2
        future: asyncio.Future[rpc_pb2.Response] = asyncio.get_running_loop().create_future()
        self._pending[stream] = future
        self._transport.write(data)
        try:
            with anyio.fail_after(timeout):
                answer = await future
        except TimeoutError as exc:
            raise DeadlineError(f"{method} was not answered within {timeout} s") from exc
        finally:
            self._pending.pop(stream, None)
        if answer.status.code:
            raise error_of(answer.status.code, answer.status.message)
        try:
            return response.FromString(answer.payload)
        except DecodeError as exc:
            raise FrameError(f"the answer to {method} does not parse") from exc


async def connect(address: str, *, timeout: float = 5) -> Client:
    """Connect to ``unix://path``, a bare path, or an abstract socket (NUL before its name). The caller closes the client.

    Raises:
        UnsupportedError: An address of another kind.
        UnavailableError: Nothing answers there.

    """
    path = address.removeprefix("unix://")
    if "://" in path:
        raise UnsupportedError(f"the address {address} is not a unix socket", subject=address)
    loop = asyncio.get_running_loop()
    try:
        with anyio.fail_after(timeout):
            _, client = await loop.create_unix_connection(Client, path)
    except (OSError, TimeoutError) as exc:
        raise UnavailableError(f"nothing answers at {address}: {exc}", subject=address) from exc
    return client


class _Session(Connection):
    """One client of a `Server`. Calls of one session start in the order in which they came."""

    def __init__(self, methods: Mapping[str, Handler], group: TaskGroup, sessions: set["_Session"]) -> None:
        super().__init__()
        self._methods = methods
        self._group = group
        self._sessions = sessions
        self._last = 0
        self._active = 0

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._group.cancel_scope.cancel_called:  # accepted while the server was ending
            self.close()
        self._sessions.add(self)

    @override
    def data_received(self, data: bytes) -> None:
        if not self._group.cancel_scope.cancel_called:
            super().data_received(data)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._sessions.discard(self)

    @override
    def frame_received(self, frame: Frame) -> None:
        if frame.kind is Kind.DATA:
            raise FrameError("a client sent a data frame, and no call here streams")
        if frame.kind is not Kind.REQUEST or frame.stream % 2 == 0 or frame.stream <= self._last:
            raise FrameError(f"a client may not send a {frame.kind.name.lower()} on stream {frame.stream}")
        if self._active >= _MAX_PENDING:
            raise FrameError(f"a client has {_MAX_PENDING} calls in flight")
        self._last = frame.stream
        self._active += 1
        self._group.start_soon(self._serve, frame)

    async def _serve(self, frame: Frame) -> None:
        response = rpc_pb2.Response()
        try:
            response.payload = await self._answer(frame)
        except LadingError as exc:
            code, message = status_of(exc)
            response.status.code, response.status.message = code, message
        except Exception:  # noqa: BLE001 -- one call's bug must not end the others
            _log.exception("ttrpc_handler_failed")
            response.status.code, response.status.message = 13, "internal error"
        finally:
            self._active -= 1
        self.send(Frame(stream=frame.stream, kind=Kind.RESPONSE, payload=response.SerializeToString()))

    async def _answer(self, frame: Frame) -> bytes:
        try:
            request = rpc_pb2.Request.FromString(frame.payload)
        except DecodeError as exc:
            raise InternalError("a ttrpc request does not parse") from exc
        handler = self._methods.get(f"{request.service}/{request.method}")
        if handler is None:
            raise UnsupportedError(f"method {request.service}/{request.method} is not served here")
        seconds = request.timeout_nano / 1e9 if request.timeout_nano > 0 else math.inf
        try:
            with anyio.fail_after(seconds):
                return await handler(request.payload, {pair.key: pair.value for pair in request.metadata})
        except TimeoutError as exc:
            raise DeadlineError(f"{request.method} took longer than {seconds} s") from exc


@contextlib.asynccontextmanager
async def serve(path: str, methods: Mapping[str, Handler]) -> AsyncGenerator[None]:
    """Serve methods (``package.Service/Method`` to handler) on a unix socket of mode 0600 while the context lasts.

    A socket file that is left over is replaced; the file is removed at the end, and open connections are dropped.

    Raises:
        UnavailableError: The socket cannot be bound.

    """
    sessions: set[_Session] = set()
    loop = asyncio.get_running_loop()
    async with anyio.create_task_group() as group:
        listener = _listen(path)
        try:
            server = await loop.create_unix_server(lambda: _Session(methods, group, sessions), sock=listener)
        except BaseException:
            listener.close()
            raise
        try:
            yield
        finally:
            group.cancel_scope.cancel()
            # asyncio leaks a connection that it accepted and whose server is closed before it has its transport.
            loop.remove_reader(listener)
            with anyio.CancelScope(shield=True):
                for _ in range(_TURNS):
                    for session in list(sessions):
                        session.close()
                    await checkpoint()
            server.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    temporary = f"{path}.new"
    try:
        # Bound under another name and renamed, so that nobody ever finds a socket of wider mode or a missing one.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        listener.bind(temporary)
        os.chmod(temporary, 0o600)
        listener.listen(128)
        os.rename(temporary, path)
    except OSError as exc:
        listener.close()
        raise UnavailableError(f"cannot listen at {path}: {exc.strerror or exc}", subject=path) from exc
    return listener
