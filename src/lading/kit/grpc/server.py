"""The server's side: calls come in on a connection, and each runs in a task of that connection."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, Self, TypeVar

import anyio

from lading.kit.grpc.connection import CONTENT_TYPE, Connection, Stream, Transport, open_connection
from lading.kit.grpc.status import Code, GrpcError, Metadata, parse_timeout, trailers
from lading.kit.tasks import task_group

MESSAGE_LIMIT: Final = 16 << 20


class ServerCall:
    """One call: its request messages, and the place for its answers."""

    def __init__(self, connection: Connection, stream: Stream) -> None:
        self._connection = connection
        self._stream = stream
        self._values = dict(stream.headers)
        self._begun = False
        self._headers: list[tuple[str, str]] = []

    @property
    def method(self) -> str:
        """``/package.Service/Method``."""
        return self._values.get(":path", "")

    @property
    def metadata(self) -> Metadata:
        """The client's metadata, with HTTP's own fields."""
        return self._stream.headers

    def value(self, key: str) -> str:
        """The last value of a metadata key; empty if there is none."""
        return self._values.get(key, "")

    @property
    def deadline(self) -> float | None:
        """Seconds that the client gives this call."""
        return parse_timeout(self.value("grpc-timeout"))

    async def receive(self) -> bytes | None:
        """The next message of the client; ``None`` at the end."""
        return await self._stream.receive()

    async def only(self) -> bytes:
        """The one message of a unary request. Raises `GrpcError` if there is none."""
        message = await self._stream.receive()
        if message is None:
            raise GrpcError(Code.INTERNAL, "the request has no message")
        return message

    def add_header(self, key: str, value: str) -> None:
        """Add a field to the headers of the answer, before its first message."""
        self._headers.append((key, value))

    def begin(self) -> None:
        """Send the headers now. Idempotent."""
        if not self._begun:
            self._begun = True
            fields = [(":status", "200"), ("content-type", CONTENT_TYPE), *self._headers]
            self._connection.send_headers(self._stream, fields)

    async def send(self, message: bytes) -> None:
        """Send a message of the answer."""
        self.begin()
        await self._stream.send(message)

    def end(self, error: GrpcError | None) -> None:
        """Send the trailers."""
        self.begin()
        self._connection.send_headers(self._stream, trailers(error), end=True)
        self._connection.finish(self._stream)


Handler = Callable[[ServerCall], Awaitable[None]]
Handlers = Mapping[str, Handler]
"""By method, ``/package.Service/Method``."""
Failed = Callable[[Exception, str], GrpcError]
"""What a client is told about an error of the handler of a method."""


async def serve(
    transport: Transport, handlers: Handlers, *, failed: Failed, limit: int = MESSAGE_LIMIT
) -> None:
    """Serve one connection until the client ends it; its calls are then cancelled."""
    async with task_group() as tasks:

        def accept(stream: Stream) -> None:
            tasks.start_soon(_answer, connection, stream, handlers, failed)

        async with open_connection(transport, client=False, limit=limit, accept=accept) as connection:
            await connection.ended.wait()
        tasks.cancel_scope.cancel()


async def _answer(connection: Connection, stream: Stream, handlers: Handlers, failed: Failed) -> None:
    call = ServerCall(connection, stream)
    handler = handlers.get(call.method)
    with anyio.CancelScope() as scope:
        stream.scope = scope
        if stream.reset is not None or connection.closed:
            scope.cancel()
        if handler is None:
            call.end(GrpcError(Code.UNIMPLEMENTED, f"unknown method {call.method}"))
            return
        try:
            with anyio.fail_after(call.deadline):
                await handler(call)
        except TimeoutError:
            call.end(GrpcError(Code.DEADLINE_EXCEEDED, "context deadline exceeded"))
        except GrpcError as error:
            call.end(error)
        except Exception as error:  # noqa: BLE001 - the supervisor of all handlers
            call.end(failed(error, call.method))
        else:
            call.end(None)
    if scope.cancelled_caught:
        connection.forget(stream)


class Request(Protocol):
    """A protobuf message as it is received."""

    @classmethod
    def FromString(cls, s: bytes) -> Self:  # noqa: N802 - protobuf's name
        """Parse."""
        ...


class Response(Protocol):
    """A protobuf message as it is sent."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        """Marshal."""
        ...


In = TypeVar("In", bound=Request)


@dataclass(frozen=True, slots=True)
class Info:
    """What a handler of messages may know of its call."""

    call: ServerCall

    def value(self, key: str) -> str:
        """The last value of a metadata key; empty if there is none."""
        return self.call.value(key)


def unary(request: type[In], function: "Callable[[In, Info], Awaitable[Response]]") -> Handler:
    """A handler for one message in, one out."""

    async def handler(call: ServerCall) -> None:
        message = await function(parse(request, await call.only()), Info(call))
        await call.send(message.SerializeToString())

    return handler


def streaming(request: type[In], function: "Callable[[In, Info], AsyncIterator[Response]]") -> Handler:
    """A handler for one message in, many out."""

    async def handler(call: ServerCall) -> None:
        answers = function(parse(request, await call.only()), Info(call))
        call.begin()
        async for message in answers:
            await call.send(message.SerializeToString())

    return handler


def parse(kind: type[In], data: bytes) -> In:
    """A message of bytes. Raises `GrpcError` for what is none."""
    try:
        return kind.FromString(data)
    except Exception as exc:
        raise GrpcError(Code.INVALID_ARGUMENT, f"the message is no {kind.__name__}") from exc
