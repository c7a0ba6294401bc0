"""One HTTP/2 connection that carries gRPC messages, driven over any byte stream.

The ``h2`` package is the protocol; here are its events, flow control and the framing of messages. One task reads, one task
writes; calls leave their bytes with the writer and wait only while too much of it is unsent, so that a cancelled call never
cuts a frame in two. What a call has not read counts against its own window, and against the connection's too: a slow call
holds up nobody else, unless so much is unread that memory would suffer (`_CONNECTION_WINDOW`). A peer that does not take the
answers to its own frames, such as those to a flood of pings, is not read from until it does.
"""

import struct
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Protocol

import anyio
import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import hpack
from typing_extensions import override

from lading.errors import LadingError
from lading.kit.grpc.merging import PREFACE, Merger
from lading.kit.grpc.status import Code, GrpcError, Metadata
from lading.kit.tasks import Signal, task_group

_Setting: Final = h2.settings.SettingCodes
_WINDOW: Final = 17 << 20
"""More than the greatest message that anybody takes, so that one always fits."""
_GRANT: Final = 64 << 10
_CONNECTION_WINDOW: Final = 128 << 20
"""Bytes of one peer that may be unread at a time, on all of its calls together."""
_FRAME: Final = 1 << 20
_UNSENT: Final = 1 << 20
_UNSENT_WHILE_READING: Final = 16 << 20
"""Beyond this much unsent nothing is read: what is read may have to be answered."""
_PIECE: Final = 16 << 10
_PIECES: Final = 20
_AT_ONCE: Final = 0.001
_REST: Final = 0.002
"""Go's clients write each frame by itself. After so many small pieces, each right after the one before, what comes in some
milliseconds is taken together: 20,000 entries of a tree cost half the processor time.
"""
_HEADERS: Final = 1 << 20
_STREAMS: Final = 1000
_LINGER_SECONDS: Final = 1.0
_PREFIX: Final = struct.Struct(">BI")
CONTENT_TYPE: Final = "application/grpc"


class _Encoder(hpack.Encoder):
    """Headers as they are: the package's Huffman code takes time by the square of a value's length, and errors are long."""

    @override
    def encode(
        self, headers: "Iterable[hpack.HeaderTuple | Any] | dict[Any, Any]", huffman: bool = False
    ) -> bytes:
        return super().encode(headers, huffman=huffman)


class Transport(Protocol):
    """The byte stream below a connection. One task reads while another writes."""

    async def read(self) -> bytes:
        """Bytes of the peer; empty at the end."""
        ...

    async def write(self, data: bytes) -> None:
        """Send bytes; waits while the peer is slow. Raises `LadingError` or ``OSError`` when that is hopeless."""
        ...


class Stream:
    """One call's half of a connection: messages in and out, headers and trailers as they come."""

    def __init__(self, connection: "Connection", id: int, limit: int) -> None:
        self.id = id
        self.headers: Metadata = ()
        self.trailers: Metadata = ()
        self.scope: anyio.CancelScope | None = None
        """Cancelled when the peer gives the call up."""
        self.reset: h2.errors.ErrorCodes | int | None = None
        self.ended = False
        """The peer sends nothing more."""
        self.answered = False
        """The peer is a server and has said how the call ended."""
        self._connection = connection
        self._limit = limit
        self._buffer = bytearray()
        self._messages: deque[bytes] = deque()
        self._taken = 0
        self.unread = 0
        """Bytes that came and that nobody took."""
        self._changed = Signal()

    async def receive(self) -> bytes | None:
        """The next message; ``None`` at the end. Raises `GrpcError` if the connection or the call broke off."""
        messages = await self.receive_some(1)
        return messages[0] if messages else None

    async def receive_some(self, most: int = 4096) -> list[bytes]:
        """All messages that are here, at least one and at most so many; empty at the end."""
        while not self._messages:
            self._check()
            if self.ended:
                if self._buffer:
                    raise GrpcError(Code.INTERNAL, "the stream ended within a message")
                return []
            await self._changed.wait()
        taken = [self._messages.popleft() for _ in range(min(most, len(self._messages)))]
        self._consumed(sum(map(len, taken)) + _PREFIX.size * len(taken))
        return taken

    async def wait_headers(self) -> None:
        """Wait until the peer's headers are here. Raises as `receive`."""
        while not self.headers:
            self._check()
            await self._changed.wait()

    async def send(self, message: bytes) -> None:
        """Send a message."""
        await self._connection.send_data(self, _PREFIX.pack(0, len(message)) + message)

    async def send_all(self, messages: list[bytes]) -> None:
        """Send messages one after another, in as few frames as there can be."""
        await self._connection.send_data(
            self, b"".join(part for each in messages for part in (_PREFIX.pack(0, len(each)), each))
        )

    def _check(self) -> None:
        if self.reset is not None:
            raise GrpcError(Code.CANCELLED, f"the peer gave the call up (HTTP/2 error {int(self.reset)})")
        if self._connection.closed and not self.ended:
            raise GrpcError(Code.UNAVAILABLE, "the connection is closed")

    def _consumed(self, size: int) -> None:
        self._connection.was_read(self, size)
        self._taken += size
        if self._taken > _GRANT and not self.ended:
            self._connection.open_window(self, self._taken)
            self._taken = 0

    # What the connection calls.

    def feed(self, data: bytes) -> None:
        """Take bytes of the body. Raises `GrpcError` for what is not a message that we take."""
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= _PREFIX.size:
            compressed, length = _PREFIX.unpack_from(self._buffer, start)
            if compressed:
                raise GrpcError(Code.UNIMPLEMENTED, "compressed messages are not accepted")
            if length > self._limit:
                raise GrpcError(Code.RESOURCE_EXHAUSTED, f"a message of {length} bytes is over {self._limit}")
            if len(self._buffer) - start - _PREFIX.size < length:
                break
            start += _PREFIX.size
            self._messages.append(bytes(self._buffer[start : start + length]))
            start += length
        if start:
            del self._buffer[:start]
        self.changed()

    def changed(self) -> None:
        """Wake whoever waits for this stream."""
        self._changed.wake()


class Connection:
    """An HTTP/2 connection. Use `open_connection`."""

    def __init__(
        self, transport: Transport, *, client: bool, limit: int, accept: "Callable[[Stream], None] | None"
    ) -> None:
        config = h2.config.H2Configuration(client_side=client, header_encoding="utf-8")
        self._h2 = h2.connection.H2Connection(config)
        self._h2.encoder = _Encoder()
        self._h2.local_settings = h2.settings.Settings(
            client=client,
            initial_values={
                _Setting.INITIAL_WINDOW_SIZE: _WINDOW,
                _Setting.MAX_FRAME_SIZE: _FRAME,
                _Setting.MAX_CONCURRENT_STREAMS: _STREAMS,
                _Setting.MAX_HEADER_LIST_SIZE: _HEADERS,
                **({_Setting.ENABLE_PUSH: 0} if client else {}),
            },
        )
        self._h2.max_inbound_frame_size = _FRAME  # h2 takes it from settings only when they change
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_CONNECTION_WINDOW)
        self._merger = Merger(_FRAME, preface=0 if client else len(PREFACE))
        self._client = client
        self._transport = transport
        self._limit = limit
        self._accept = accept
        self._streams: dict[int, Stream] = {}
        self._unread = 0
        self._unacknowledged = 0
        self._unsent = 0
        self._pending: list[bytes] = []
        self._wake = Signal()
        self._drained = Signal()
        self._window = Signal()
        self.closed = self.failed = False
        self.ended = anyio.Event()
        """Set when the connection is closed."""

    async def run_reader(self) -> None:
        """Take in what the peer sends, until it ends."""
        pieces, left = 0, 0.0
        try:
            while not self.closed and (data := await self._transport.read()):
                small = len(data) < _PIECE and time.monotonic() - left < _AT_ONCE
                pieces = pieces + 1 if small else 0
                for event in self._h2.receive_data(self._merger.feed(data)):
                    self._handle(event)
                self.flush()
                while self._unsent > _UNSENT_WHILE_READING and not self.closed:
                    await self._drained.wait()
                if pieces > _PIECES:
                    await anyio.sleep(_REST)
                left = time.monotonic()
        except h2.exceptions.ProtocolError:
            self.flush()  # h2 has made a GOAWAY that says what is wrong

    async def run_writer(self) -> None:
        """Send what calls left, until the connection is closed."""
        while True:
            while not self._pending:
                if self.closed:
                    return
                await self._wake.wait()
            data, self._pending = b"".join(self._pending), []
            try:
                await self._transport.write(data)
            finally:
                self._unsent -= len(data)
                self._drained.wake()

    def close(self) -> None:
        """Let nothing more happen on this connection, and wake everybody who waits for it."""
        if self.closed:
            return
        self.closed = True
        self.ended.set()
        self._wake.wake()
        self._drained.wake()
        self._window.wake()
        for stream in self._streams.values():
            stream.changed()
            if stream.scope is not None:
                stream.scope.cancel()

    def give_up(self) -> None:
        """Nothing can be sent or received any more."""
        self.failed = True
        self._drained.wake()

    async def wait_sent(self) -> None:
        """Wait until the writer has nothing left, or can send nothing more."""
        while self._unsent and not self.failed:
            await self._drained.wait()

    def go_away(self) -> None:
        """Tell the peer that we are leaving."""
        if not self.closed:
            with suppress(h2.exceptions.ProtocolError):
                self._h2.close_connection()
            self.flush()

    def flush(self) -> None:
        """Leave what h2 made with the writer."""
        data = self._h2.data_to_send()
        if data:
            self._pending.append(data)
            self._unsent += len(data)
            self._wake.wake()

    def open_stream(self, headers: Metadata) -> Stream:
        """Begin a call. Raises `GrpcError` if the connection is closed or has too many calls."""
        if self.closed:
            raise GrpcError(Code.UNAVAILABLE, "the connection is closed")
        try:
            number = self._h2.get_next_available_stream_id()
            self._h2.send_headers(number, list(headers))
        except h2.exceptions.ProtocolError as exc:
            raise GrpcError(Code.UNAVAILABLE, f"no further call is possible: {exc}") from exc
        stream = self._streams[number] = Stream(self, number, self._limit)
        self.flush()
        return stream

    def send_headers(self, stream: Stream, headers: Metadata, *, end: bool = False) -> None:
        """Send headers, or with ``end`` trailers. Nothing happens if the call is over."""
        with suppress(h2.exceptions.ProtocolError):
            self._h2.send_headers(stream.id, list(headers), end_stream=end)
        self.flush()

    async def send_data(self, stream: Stream, data: bytes, *, end: bool = False) -> None:
        """Send bytes within the peer's windows. Raises `GrpcError` if the call broke off.

        A peer that has said its last word reads no more; what it said tells how the call ended, so nothing is sent then.
        """
        view = memoryview(data)
        while True:
            while self._unsent > _UNSENT and not self.closed:
                await self._drained.wait()
            if stream.answered:
                return
            room = await self._room(stream) if view else 0
            part = view[:room]
            view = view[room:]
            try:
                self._h2.send_data(stream.id, bytes(part), end_stream=end and not view)
            except h2.exceptions.ProtocolError as exc:
                if stream.answered:
                    return
                raise GrpcError(Code.CANCELLED, "the peer gave the call up") from exc
            self.flush()
            if not view:
                return

    async def _room(self, stream: Stream) -> int:
        while True:
            if stream.answered:
                return 1
            if stream.reset is not None:
                raise GrpcError(Code.CANCELLED, "the peer gave the call up")
            if self.closed:
                raise GrpcError(Code.UNAVAILABLE, "the connection is closed")
            try:
                window = self._h2.local_flow_control_window(stream.id)
            except h2.exceptions.ProtocolError as exc:
                if stream.answered:
                    return 1
                raise GrpcError(Code.CANCELLED, "the peer gave the call up") from exc
            if window > 0:
                return min(window, self._h2.max_outbound_frame_size)
            await self._window.wait()

    def open_window(self, stream: Stream, size: int) -> None:
        """Let the peer send so many more bytes on a stream."""
        with suppress(h2.exceptions.ProtocolError):
            self._h2.increment_flow_control_window(size, stream.id)
        self.flush()

    def was_read(self, stream: Stream, size: int) -> None:
        """So many bytes of a stream are nobody's any more."""
        size = min(size, stream.unread)
        stream.unread -= size
        self._unread -= size
        self._acknowledge()

    def forget(self, stream: Stream) -> None:
        """A call is over on our side; if the peer does not know it yet, it is told."""
        self.was_read(stream, stream.unread)
        if self._streams.pop(stream.id, None) is not None and stream.reset is None and not self.closed:
            with suppress(h2.exceptions.ProtocolError):
                self._h2.reset_stream(stream.id, h2.errors.ErrorCodes.CANCEL)
            self.flush()

    def finish(self, stream: Stream) -> None:
        """A call is over on both sides, or the peer may stop sending without harm."""
        self.was_read(stream, stream.unread)
        if self._streams.pop(stream.id, None) is not None and not stream.ended and not self.closed:
            with suppress(h2.exceptions.ProtocolError):
                self._h2.reset_stream(stream.id, h2.errors.ErrorCodes.NO_ERROR)
            self.flush()

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived):
            self._received(event)
        elif isinstance(event, h2.events.RequestReceived):
            stream = self._streams[event.stream_id] = Stream(self, event.stream_id, self._limit)
            stream.headers = _texts(event.headers)
            if self._accept is not None:
                self._accept(stream)
        elif isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
            if (found := self._streams.get(event.stream_id)) is not None:
                if isinstance(event, h2.events.ResponseReceived):
                    found.headers = _texts(event.headers)
                else:
                    found.trailers = _texts(event.headers)
                found.changed()
        elif isinstance(event, h2.events.StreamEnded):
            if (found := self._streams.get(event.stream_id)) is not None:
                found.ended = True
                found.answered = self._client
                found.changed()
                self._window.wake()
        elif isinstance(event, h2.events.StreamReset):
            self._was_reset(event)
        elif isinstance(event, (h2.events.WindowUpdated, h2.events.RemoteSettingsChanged)):
            self._window.wake()
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.flush()
            self.close()

    def _received(self, event: h2.events.DataReceived) -> None:
        self._unacknowledged += event.flow_controlled_length or 0
        stream = self._streams.get(event.stream_id)
        if stream is not None and stream.reset is None:
            data = event.data or b""
            stream.unread += len(data)
            self._unread += len(data)
            try:
                stream.feed(data)
            except GrpcError:
                self._h2.reset_stream(stream.id, h2.errors.ErrorCodes.CANCEL)
                stream.reset = h2.errors.ErrorCodes.CANCEL
                self._over(stream)
        self._acknowledge()

    def _acknowledge(self) -> None:
        """Let the peer send on, but for what is still unread: that stays part of its window."""
        room = self._unacknowledged - self._unread
        if room > max(0, _CONNECTION_WINDOW - self._unread) // 4 and not self.closed:
            with suppress(h2.exceptions.ProtocolError):
                self._h2.increment_flow_control_window(room)
            self._unacknowledged -= room
            self.flush()

    def _was_reset(self, event: h2.events.StreamReset) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        if event.error_code == h2.errors.ErrorCodes.NO_ERROR and stream.ended:
            return  # Go's server says so after its trailers, if our half is still open
        stream.reset = event.error_code
        self._over(stream)

    def _over(self, stream: Stream) -> None:
        self.was_read(stream, stream.unread)
        stream.changed()
        self._window.wake()
        if stream.scope is not None:
            stream.scope.cancel()


def _texts(headers: object) -> Metadata:
    fields: list[tuple[str, str]] = []
    for name, value in headers or ():  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
        fields.append((_text(name), _text(value)))  # pyright: ignore[reportUnknownArgumentType]
    return fields


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


@asynccontextmanager
async def open_connection(
    transport: Transport, *, client: bool, limit: int, accept: "Callable[[Stream], None] | None" = None
) -> AsyncGenerator[Connection]:
    """A connection over ``transport`` while the context lasts; the transport stays the caller's to close.

    ``limit`` is the greatest message that is taken, in bytes (at most 16 MiB). As a server ``accept`` is called for each call.
    """
    connection = Connection(transport, client=client, limit=limit, accept=accept)
    connection.flush()
    async with task_group() as tasks:
        tasks.start_soon(_until_closed, connection.run_reader, connection)
        tasks.start_soon(_until_closed, connection.run_writer, connection)
        try:
            yield connection
        finally:
            connection.go_away()
            connection.close()
            with anyio.move_on_after(_LINGER_SECONDS, shield=True):
                await connection.wait_sent()
            tasks.cancel_scope.cancel()


async def _until_closed(work: Callable[[], Awaitable[None]], connection: Connection) -> None:
    """A transport that fails ends the connection, and with it every call; it is nobody else's error."""
    try:
        await work()
    except (LadingError, OSError):
        connection.give_up()
    except anyio.get_cancelled_exc_class():
        connection.give_up()
        raise
    finally:
        connection.close()
