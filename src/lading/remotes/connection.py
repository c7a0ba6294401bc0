"""One HTTP/1.1 connection, blocking, for data threads: one buffer, allocated once, through which every byte passes."""

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final, Protocol

from lading.remotes.errors import AbortedError, ProtocolError, TransportError
from lading.remotes.http1 import (
    CHUNKED,
    HEAD_LIMIT,
    NO_LENGTH,
    Head,
    body_length,
    parse_chunk_size,
    parse_head,
)

BUFFER: Final = 256 << 10
"""Bytes per read and per send."""
LEAST_SPEED: Final = 1024
"""Bytes that must arrive within one idle time-out, else the peer counts as stalled."""
INTERIM_LIMIT: Final = 8
"""Replies of class 1xx before the real one."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port: whom a credential is for."""

    scheme: str
    host: str
    port: int

    @property
    def netloc(self) -> str:
        """Host and port as the ``Host`` field has it; the port only if it is not the scheme's own."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == {"http": 80, "https": 443}[self.scheme] else f"{name}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"


class Cancel:
    """Ends blocking socket calls from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self.cancelled = False

    def cancel(self) -> None:
        """Shut down every socket in use; the thread that uses it gets `AbortedError`. Idempotent."""
        with self._lock:
            self.cancelled = True
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    # Not SSLSocket.shutdown, which takes the TLS state away under the reading thread.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def check(self) -> None:
        """Raise `AbortedError` if cancelled."""
        if self.cancelled:
            raise AbortedError("cancelled")

    @contextlib.contextmanager
    def watching(self, sock: socket.socket) -> Generator[None]:
        """While inside, `cancel` reaches ``sock``."""
        with self._lock:
            self.check()
            self._sockets.add(sock)
        try:
            yield
        finally:
            with self._lock:
                self._sockets.discard(sock)


class Upload(Protocol):
    """A request's body."""

    @property
    def length(self) -> int:
        """Bytes that `fill` will give."""
        ...

    def fill(self, buffer: memoryview, offset: int) -> int:
        """Put the next bytes of the body, from ``offset``, into ``buffer``; how many."""
        ...

    def sent(self, offset: int) -> None:
        """Take note that everything before ``offset`` was handed to the network."""
        ...


class Connection:
    """An open connection. Not thread-safe: it belongs to one request at a time."""

    def __init__(self, sock: socket.socket, origin: Origin, *, idle: float, absolute: bool = False) -> None:
        self.origin = origin
        self.absolute_form = absolute
        self.reusable = False
        self.uses = 0
        self.idle_since = 0.0
        self._sock = sock
        self._idle = idle
        self._buffer = memoryview(bytearray(BUFFER))
        self._start: int = 0
        self._end: int = 0
        self._window_start = 0.0
        self._window_bytes = 0

    @property
    def socket(self) -> socket.socket:
        """The socket, for `Cancel.watching`."""
        return self._sock

    def is_stale(self) -> bool:
        """Whether the peer closed, or said something unasked, while the connection was idle."""
        try:
            poll = select.poll()  # not select, which knows no descriptor over 1023
            poll.register(self._sock, select.POLLIN)
            return bool(poll.poll(0))
        except (OSError, ValueError):
            return True

    def close(self) -> None:
        """Close. Idempotent."""
        self.reusable = False
        with contextlib.suppress(OSError):
            self._sock.close()

    def send(self, head: bytes, body: Upload | None) -> None:
        """Send a request. Raises `TransportError`; the reply may be there nevertheless."""
        self._start = self._end = 0
        self.reusable = False
        self.uses += 1
        self._sock.settimeout(self._idle)
        self._send_all(memoryview(head))
        offset = 0
        while body is not None and offset < body.length:
            count = body.fill(self._buffer[: min(BUFFER, body.length - offset)], offset)
            if count <= 0:
                raise ProtocolError("the content to send is shorter than it was said to be")
            self._send_all(self._buffer[:count])
            offset += count
            body.sent(offset)

    def _send_all(self, data: memoryview) -> None:
        # send, not sendall: sendall's time-out is for everything, ours is for standing still.
        try:
            while data:
                data = data[self._sock.send(data) :]
        except TimeoutError as exc:
            raise TransportError(f"{self.origin.netloc} stopped reading", timed_out=True) from exc
        except OSError as exc:
            raise TransportError(f"the connection to {self.origin.netloc} was cut: {_why(exc)}") from exc

    def _receive(self) -> int:
        """Read more into the free end of the buffer; 0 at the end of the stream."""
        try:
            count = self._sock.recv_into(self._buffer[self._end :])
        except TimeoutError as exc:
            raise TransportError(
                f"{self.origin.netloc} sent nothing for {self._idle:g} s", timed_out=True
            ) from exc
        except ssl.SSLEOFError:
            count = 0  # a cut; the framing decides whether anything is missing
        except OSError as exc:
            raise TransportError(f"the connection to {self.origin.netloc} was cut: {_why(exc)}") from exc
        self._end += count
        now = time.monotonic()
        self._window_bytes += count
        if now - self._window_start >= self._idle:
            if self._window_bytes < LEAST_SPEED and count:
                raise TransportError(
                    f"{self.origin.netloc} sent {self._window_bytes} bytes in {self._idle:g} s",
                    timed_out=True,
                )
            self._window_start, self._window_bytes = now, 0
        return count

    def receive_head(self) -> Head:
        """Read a reply's head, past any interim ones. Raises `TransportError`."""
        self._window_start, self._window_bytes = time.monotonic(), 0
        for _ in range(INTERIM_LIMIT):
            head = parse_head(self._read_head())
            if head.status >= 200:
                return head
            if head.status == 101:
                raise ProtocolError(f"{self.origin.netloc} switched protocols unasked")
        raise ProtocolError(f"{self.origin.netloc} sent only interim replies")

    def _read_head(self) -> bytes:
        data = bytearray()
        while True:
            if self._start == self._end:
                self._start = self._end = 0
                if not self._receive():
                    raise TransportError(f"{self.origin.netloc} closed the connection without an answer")
            seen = len(data)
            data += self._buffer[self._start : self._end]
            found = data.find(b"\r\n\r\n", max(0, seen - 3))
            if found >= 0 and found <= HEAD_LIMIT:
                self._start += found + 4 - seen
                return bytes(data[:found])
            if len(data) > HEAD_LIMIT:
                raise ProtocolError(f"{self.origin.netloc} sent over {HEAD_LIMIT} bytes of header fields")
            self._start = self._end

    def piece(self, limit: int = BUFFER) -> memoryview:
        """The next bytes of the stream, at most ``limit``, valid until the next call; empty at its end."""
        if self._start == self._end:
            self._start = self._end = 0
            if not self._receive():
                return self._buffer[:0]
        end = min(self._end, self._start + limit)
        view = self._buffer[self._start : end]
        self._start = end
        return view

    def line(self) -> bytes:
        """The next line, without its end (for chunked bodies). Raises `TransportError`."""
        data = bytearray()
        while not data.endswith(b"\r\n"):
            byte = self.piece(1)
            if not byte:
                raise TransportError(f"{self.origin.netloc} cut the connection within a chunked body")
            data += byte
            if len(data) > 4096:
                raise ProtocolError(f"{self.origin.netloc} sent an endless line in a chunked body")
        return bytes(data[:-2])

    def buffered(self) -> bool:
        """Whether bytes beyond the reply were received, which nobody asked for."""
        return self._start != self._end


class Response:
    """A reply, read on the thread that sent the request."""

    def __init__(self, connection: Connection, head: Head, method: str, url: str) -> None:
        self.head = head
        self.status = head.status
        self.url = url
        self._connection = connection
        self.length = body_length(head, method)
        self._left = 0 if self.length == CHUNKED else self.length
        self._first = True
        self.done = self.length == 0

    def piece(self) -> memoryview:
        """The next bytes of the body, in a buffer that is used again; empty at its end.

        Raises:
            TransportError: The body was cut short, or stalls.

        """
        if self.done:
            return memoryview(b"")
        if self.length == CHUNKED:
            return self._chunked_piece()
        if self.length == NO_LENGTH:
            view = self._connection.piece()
            self.done = not view
            return view
        view = self._connection.piece(min(BUFFER, self._left))
        if not view:
            raise TransportError(
                f"{self._connection.origin.netloc} cut the connection {self._left} bytes before the end"
            )
        self._left -= len(view)
        self.done = self._left == 0
        return view

    def _chunked_piece(self) -> memoryview:
        if self._left == 0:
            if not self._first and self._connection.line():
                raise ProtocolError(f"{self._connection.origin.netloc} sent a chunk longer than announced")
            self._first = False
            self._left = parse_chunk_size(self._connection.line())
            if self._left == 0:
                for _ in range(64):
                    if not self._connection.line():
                        self.done = True
                        return memoryview(b"")
                raise ProtocolError(f"{self._connection.origin.netloc} sent endless trailers")
        view = self._connection.piece(min(BUFFER, self._left))
        if not view:
            raise TransportError(f"{self._connection.origin.netloc} cut the connection within a chunk")
        self._left -= len(view)
        return view

    def read(self, limit: int) -> bytes:
        """The whole body. Raises `ProtocolError` if it is over ``limit`` bytes."""
        data = bytearray()
        while view := self.piece():
            data += view
            if len(data) > limit:
                raise ProtocolError(
                    f"{self._connection.origin.netloc} sent over {limit} bytes where few belong"
                )
        return bytes(data)

    def finish(self) -> None:
        """Decide whether the connection may be used again: only if the body was read to its end, or almost."""
        try:
            for _ in range(4):
                if self.done:
                    break
                self.piece()
        except TransportError:
            return
        self._connection.reusable = (
            self.done
            and self.length != NO_LENGTH
            and self.head.keeps_alive
            and not self._connection.buffered()
        )


def _why(exc: OSError) -> str:
    return exc.strerror or type(exc).__name__
