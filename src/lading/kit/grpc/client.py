"""The client's side: calls that we make over a connection that somebody else opened."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from lading.kit.grpc.connection import CONTENT_TYPE, Connection, Stream
from lading.kit.grpc.status import Code, GrpcError, Metadata, parse_trailers

MESSAGE_LIMIT: Final = 4 << 20
"""What a gRPC client or server takes unless it is told otherwise."""


class ClientCall:
    """One call; see `Channel.open`. One task sends while another receives."""

    def __init__(self, connection: Connection, stream: Stream) -> None:
        self._connection = connection
        self._stream = stream
        self.finished = False
        """The peer has said how the call ended."""

    async def send(self, message: bytes) -> None:
        """Send a message."""
        await self._stream.send(message)

    async def send_all(self, messages: list[bytes]) -> None:
        """Send messages one after another, in as few frames as there can be."""
        if messages:
            await self._stream.send_all(messages)

    async def close_send(self) -> None:
        """Say that no message follows."""
        await self._connection.send_data(self._stream, b"", end=True)

    async def receive(self) -> bytes | None:
        """The next message; ``None`` when the call ended well. Raises `GrpcError` when it did not."""
        messages = await self.receive_some(1)
        return messages[0] if messages else None

    async def receive_some(self, most: int = 4096) -> list[bytes]:
        """All messages that are here, at least one; empty when the call ended well. Raises `GrpcError` when it did not."""
        messages = await self._stream.receive_some(most)
        if not messages:
            self.finished = True
            error = parse_trailers(self._stream.trailers or self._stream.headers)
            if error is not None:
                raise error
        return messages

    async def wait_end(self) -> None:
        """Wait until the peer says that all went well. Raises `GrpcError` if it did not, or sends a message."""
        if await self.receive() is not None:
            raise GrpcError(Code.INTERNAL, "the peer sent more messages than this call has")


class Channel:
    """Calls over one connection."""

    def __init__(self, connection: Connection, *, authority: str = "localhost") -> None:
        self._connection = connection
        self._authority = authority

    @asynccontextmanager
    async def open(self, method: str, metadata: Metadata = ()) -> AsyncGenerator[ClientCall]:
        """A call of ``/package.Service/Method``; left before its end, it is cancelled at the peer."""
        stream = self._connection.open_stream(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", method),
                (":authority", self._authority),
                ("te", "trailers"),
                ("content-type", CONTENT_TYPE),
                ("user-agent", "lading"),
                *metadata,
            ]
        )
        call = ClientCall(self._connection, stream)
        try:
            yield call
        finally:
            if call.finished:
                self._connection.finish(stream)
            else:
                self._connection.forget(stream)

    async def call(self, method: str, message: bytes, metadata: Metadata = ()) -> bytes:
        """A unary call. Raises `GrpcError`."""
        async with self.open(method, metadata) as call:
            await call.send(message)
            await call.close_send()
            answer = await call.receive()
            if answer is None:
                raise GrpcError(Code.INTERNAL, "the answer has no message")
            await call.wait_end()
            return answer
