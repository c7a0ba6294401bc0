"""WebSockets (RFC 6455) over a hijacked connection, as a stream of bytes in both directions (ADR 0085).

Messages of the client are input, whatever their boundaries and kind; output goes out in binary messages. A close frame ends the
input, and so does the end of the connection.
"""

from typing import Final, Self

from websockets.exceptions import WebSocketException
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State
from websockets.utils import accept_key

from lading.api.engine.hijack import HijackedStream
from lading.api.engine.routing import Request
from lading.errors import CancelledError, InvalidArgumentError

_MESSAGE_LIMIT: Final = 1 << 20
_DATA: Final = (Opcode.BINARY, Opcode.TEXT, Opcode.CONT)


def handshake(request: Request) -> list[str]:
    """The lines of the answer that opens a WebSocket. Raises `InvalidArgumentError`."""
    headers = request.raw.headers
    key = headers.get("Sec-WebSocket-Key", "")
    if headers.get("Sec-WebSocket-Version") != "13" or not key:
        raise InvalidArgumentError("this is no WebSocket handshake", hint="use RFC 6455, version 13")
    try:
        accept = accept_key(key)
    except ValueError as exc:
        raise InvalidArgumentError("Sec-WebSocket-Key is malformed") from exc
    return [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept}",
    ]


class WebSocketStream:
    """A `lading.containers.streams.Peer` over a hijacked stream whose handshake was sent. An async context manager."""

    def __init__(self, stream: HijackedStream) -> None:
        self._stream = stream
        self._protocol = Protocol(Side.SERVER, state=State.OPEN, max_size=_MESSAGE_LIMIT)
        self._input = bytearray()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(1000)
        try:
            await self._flush()
        except CancelledError:
            return

    async def read(self) -> bytes:
        """The next bytes of the client; empty once it has closed."""
        while not self._input:
            data = await self._stream.read()
            if not data:
                return b""
            self._protocol.receive_data(data)
            self._take()
            await self._flush()
            if self._protocol.state is not State.OPEN and not self._input:
                return b""
        made = bytes(self._input)
        self._input.clear()
        return made

    def _take(self) -> None:
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and event.opcode in _DATA:
                self._input += event.data

    async def write(self, data: bytes) -> None:
        """Send as one binary message. Raises `CancelledError` if the client is gone."""
        try:
            self._protocol.send_binary(data)
        except WebSocketException as exc:
            raise CancelledError("the client closed the WebSocket") from exc
        await self._flush()

    async def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                await self._stream.write(data)
