"""Hijack: an HTTP connection that becomes a raw byte stream in both directions.

The client sends ``Connection: Upgrade`` and ``Upgrade: tcp`` and gets ``101 UPGRADED``; a client that asks for no upgrade gets
the older ``200`` and the same raw stream. Bytes that arrive together with the request's headers belong to the stream. Either
side may close its direction alone: the client's end of input leaves the output open.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import anyio
from aiohttp.abc import AbstractStreamWriter
from typing_extensions import override

from lading.api.engine import limits, web
from lading.api.engine.connection import PROBE_SECONDS, Connection, has_left
from lading.api.engine.routing import Request
from lading.errors import CancelledError, InternalError, InvalidArgumentError

RAW: Final = "application/vnd.docker.raw-stream"
MULTIPLEXED: Final = "application/vnd.docker.multiplexed-stream"
_BUFFER: Final = 256 * 1024
_LINGER_SECONDS: Final = 2.0


class HijackedStream:
    """The raw connection; made by `hijack`. One task reads, any task writes.

    Leaving the context sends what is buffered, closes our direction, waits shortly for the client to close its own (so
    that no unread input makes the kernel discard our output), and closes the connection.
    """

    def __init__(self, request: Request, answer: Sequence[str], deadline: float) -> None:
        connection = request.raw.protocol
        if not isinstance(connection, Connection) or request.raw.transport is None:
            raise InternalError("this connection cannot be hijacked")
        self._request = request
        self._connection = connection
        self._transport = request.raw.transport
        self._writer: AbstractStreamWriter = request.raw.writer
        self._answer = answer
        self._deadline = deadline
        self._buffer = bytearray()
        self._arrived = anyio.Event()
        self._eof = False
        self._paused = False
        self._closed = anyio.Event()
        self._ended_output = False
        self.response: web.StreamResponse = _Taken()
        """What the handler returns, after the context."""

    async def __aenter__(self) -> Self:
        self._request.started = self.response
        self._transport.write("\r\n".join([*self._answer, "", ""]).encode("ascii"))
        self._connection.take_over(self)
        return self

    async def read(self, length: int = limits.CHUNK) -> bytes:
        """At least one and at most ``length`` bytes; empty once the client has ended its input."""
        while not self._buffer and not self._eof:
            self._arrived = anyio.Event()
            await self._arrived.wait()
        data = bytes(self._buffer[:length])
        del self._buffer[:length]
        if self._paused and len(self._buffer) < _BUFFER // 2:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Send bytes; waits while the client is slow.

        Raises:
            CancelledError: The client left, or read nothing until the deadline; it is then disconnected.

        """
        if self._closed.is_set() or self._ended_output:
            raise CancelledError("the client closed the connection")
        self._transport.write(data)
        await self._drain(self._deadline)

    async def write_eof(self) -> None:
        """End our direction; the client may go on sending. Idempotent; over TLS this has no form and does nothing."""
        if self._ended_output or self._closed.is_set():
            return
        self._ended_output = True
        if self._transport.can_write_eof():
            self._transport.write_eof()

    async def wait_closed(self) -> None:
        """Wait until the client has closed the whole connection."""
        await self._closed.wait()

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._closed.is_set()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, CancelledError) or self._closed.is_set():
            self._transport.abort()
            return
        with anyio.CancelScope(shield=True):
            try:
                # One, not zero: a TLS transport counts an empty buffer as full at zero, and would never drain.
                self._transport.set_write_buffer_limits(high=1)
                await self._drain(_LINGER_SECONDS if error else self._deadline)
                await self.write_eof()
                with anyio.move_on_after(_LINGER_SECONDS):
                    while await self.read():
                        pass
                self._connection.let_go()
                self._transport.close()
            except (CancelledError, ConnectionError):
                self._transport.abort()

    async def _drain(self, deadline: float) -> None:
        try:
            with anyio.fail_after(deadline):
                await self._writer.drain()
        except TimeoutError as exc:
            self._transport.abort()
            raise CancelledError(f"the client read nothing for {deadline:g} seconds") from exc
        except ConnectionError as exc:
            raise CancelledError("the client closed the connection") from exc

    # What the connection calls.

    def feed_data(self, data: bytes) -> None:
        """Take bytes from the client; holds the client back once too many wait to be read."""
        self._buffer += data
        self._arrived.set()
        if len(self._buffer) > _BUFFER and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def feed_eof(self) -> None:
        """The client ended its input. From now on nobody would notice it leave, so look from time to time."""
        if not self._eof:
            self._eof = True
            self._arrived.set()
            self._connection.call_later(PROBE_SECONDS, self._probe)

    def connection_lost(self) -> None:
        """The connection is gone."""
        self._eof = True
        self._closed.set()
        self._arrived.set()

    def _probe(self) -> None:
        if self._closed.is_set() or self._transport.is_closing():
            return  # over TLS a closed transport has not even a socket
        socket = self._transport.get_extra_info("socket")
        if socket is None:
            return
        if has_left(socket.fileno()):
            self._transport.abort()
        else:
            self._connection.call_later(PROBE_SECONDS, self._probe)


def hijack(
    request: Request,
    *,
    multiplexed: bool = False,
    deadline: float = limits.WRITE_SECONDS,
    head: Sequence[str] = (),
) -> HijackedStream:
    """Take the connection of ``request`` over, on entering the context that is returned.

    ``head`` are the lines of an answer other than Docker's upgrade.

    ::

        async with hijack(request, multiplexed=not terminal and request.at_least(1, 42)) as stream:
            ...
        return stream.response

    Read the request's body first. An error before the context gives a real status; inside it the error travels
    nowhere, so write it into the stream. The task is cancelled when the client closes the whole connection.
    """
    if head:
        return HijackedStream(request, head, deadline)
    content = f"Content-Type: {MULTIPLEXED if multiplexed else RAW}"
    if isinstance(request.raw.protocol, Connection) and request.raw.protocol.upgrade:
        lines = ["HTTP/1.1 101 UPGRADED", content, "Connection: Upgrade", "Upgrade: tcp"]
    else:
        lines = ["HTTP/1.1 200 OK", content]
    return HijackedStream(request, lines, deadline)


def upgrade_h2c(request: Request, *, deadline: float = limits.WRITE_SECONDS) -> HijackedStream:
    """Take the connection of ``request`` over for HTTP/2 without TLS, as `hijack`.

    Raises `InvalidArgumentError` for a request that asks for another protocol.
    """
    connection = request.raw.protocol
    if not isinstance(connection, Connection) or connection.upgrade != "h2c":
        raise InvalidArgumentError("no upgrade or an unsupported one", hint="send Upgrade: h2c")
    lines = ["HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: h2c"]
    return HijackedStream(request, lines, deadline)


class _Taken(web.StreamResponse):
    """Stands for an answer that was sent around aiohttp."""

    def __init__(self) -> None:
        super().__init__(status=101)
        self.force_close()

    @override
    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Nothing is left to send."""
        return None

    @override
    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to send."""
