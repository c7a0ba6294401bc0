"""One client connection: aiohttp's, with framing of our own in front of it.

aiohttp hands an upgraded connection over for WebSockets only; behind any other ``Upgrade`` it loses the bytes that came
with the headers. So this class finds the end of every request itself and gives aiohttp one request at a time, without its
``Upgrade`` header. What follows a request waits until the handler has either answered, and it is the next request, or
taken the connection over, and it belongs to the raw stream.
"""

import asyncio
import select
from collections.abc import Callable
from typing import Any, Final, Protocol

from typing_extensions import override

from lading.api.engine import limits, web
from lading.api.engine.streams import error_response

_END: Final = b"\r\n\r\n"
_HEAD_LIMIT: Final = limits.REQUEST_LINE + 4 * limits.HEADER_FIELD
_HELD_LIMIT: Final = 256 * 1024
PROBE_SECONDS: Final = 1.0


def has_left(descriptor: int) -> bool:
    """Whether the peer of a socket has closed both directions."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return bool(poll.poll(0))  # POLLHUP or POLLERR


def _nothing(*arguments: object) -> None:
    """Stands for a shutdown that must wait."""


class Taker(Protocol):
    """Takes the bytes of a connection after `Connection.take_over`."""

    def feed_data(self, data: bytes) -> None:
        """Bytes from the client."""
        ...

    def feed_eof(self) -> None:
        """The client ended its input."""
        ...

    def connection_lost(self) -> None:
        """The connection is gone."""
        ...


class Head:
    """What framing needs of a request's head; everything else is aiohttp's to judge."""

    def __init__(self, head: bytes) -> None:
        lines = head.split(b"\r\n")
        fields = [
            (name.strip().lower(), value.strip()) for name, _, value in (x.partition(b":") for x in lines[1:])
        ]
        values = dict(fields)
        wants = b"upgrade" in values.get(b"connection", b"").lower()
        self.upgrade: str = values.get(b"upgrade", b"").decode("latin-1").lower() if wants else ""
        """The protocol that the client wants to change to, or empty."""
        length = values.get(b"content-length", b"0")
        self.body: int | None = int(length) if length.isdigit() and len(length) < 19 else 0
        """Bytes of the body; ``None`` if it is chunked."""
        if b"transfer-encoding" in values:
            self.body = None
        kept = [line for line, (name, _) in zip(lines[1:], fields, strict=True) if name != b"upgrade"]
        self.data: bytes = b"\r\n".join([lines[0], *kept]) if self.upgrade else head
        """The head for aiohttp."""


class Connection(web.RequestHandler):
    """aiohttp's protocol for one connection."""

    def __init__(
        self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, header_seconds: float, **kwargs: Any
    ) -> None:
        super().__init__(manager, loop=loop, **kwargs)
        self.upgrade = ""
        """The protocol that the present request asks to change to, or empty."""
        self._header_seconds = header_seconds
        self._header_timer: asyncio.TimerHandle | None = None
        self._received = bytearray()
        self._in_request = False
        self._dispatched = False
        self._body_left: int | None = 0
        self._eof = False
        self._taker: Taker | None = None
        self._held: Any = None

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call back on this connection's loop."""
        return self._loop.call_later(delay, callback)

    def request_began(self) -> None:
        """A handler has the request, so its head was whole and good."""
        self._dispatched = True
        self._stop_timer()

    def request_ended(self, request: web.BaseRequest, response: web.StreamResponse | None) -> None:
        """The handler is done; what waited is the next request."""
        if self._taker is not None or self.transport is None:
            return
        if response is not None and (self._eof or not request.content.is_eof()):
            response.force_close()  # none follows, or nobody knows where the next request begins
            return
        self._in_request = self._dispatched = False
        self.upgrade = ""
        if self._received:
            self._loop.call_soon(self._go_on)

    def take_over(self, taker: Taker) -> None:
        """Give all further bytes to ``taker``, beginning with those that came after the request."""
        self._taker = taker
        self.keep_alive(False)
        held, self._received = bytes(self._received), bytearray()
        self._resume()
        if held:
            taker.feed_data(held)
        if self._eof:
            taker.feed_eof()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._start_timer()

    @override
    def data_received(self, data: bytes) -> None:
        if self._taker is not None:
            if data:
                self._taker.feed_data(data)
            return
        if not data or (self._in_request and self._body_left is None):
            super().data_received(data)
            return
        self._received += data
        if self._body_left:
            self._pass_body()
        if not self._in_request:
            self._find_head(len(data))
        elif len(self._received) > _HELD_LIMIT and self.transport is not None:
            self.transport.pause_reading()

    def _find_head(self, new: int) -> None:
        while self._received.startswith(b"\r\n"):  # RFC 9112 §2.2: empty lines before a request mean nothing
            del self._received[:2]
        self._start_timer()  # it runs until a handler has the request
        if not self._received:
            return
        end = self._received.find(_END, max(0, len(self._received) - new - len(_END)))
        if end < 0 and len(self._received) < _HEAD_LIMIT:
            return
        end = end + len(_END) if end >= 0 else len(self._received)
        head = Head(bytes(self._received[:end]))
        del self._received[:end]
        self._in_request = True
        self.upgrade = head.upgrade
        self._body_left = head.body
        super().data_received(head.data)
        if self._body_left is None:
            rest, self._received = bytes(self._received), bytearray()
            if rest:
                super().data_received(rest)
        else:
            self._pass_body()

    def _pass_body(self) -> None:
        body = bytes(self._received[: self._body_left])
        if body:
            del self._received[: len(body)]
            self._body_left = (self._body_left or 0) - len(body)
            super().data_received(body)

    def _go_on(self) -> None:
        if self.transport is None or self._in_request:
            return
        self._resume()
        self._find_head(len(self._received))

    def _resume(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    @override
    def eof_received(self) -> bool | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        # True keeps our direction open, except over TLS. Where a request is not whole nothing follows.
        self._eof = True
        if self._taker is not None:
            self._taker.feed_eof()
        if self.transport is None or self.transport.get_extra_info("ssl_object") is not None:
            if self._taker is not None:
                self._hold_tls()
            return False
        if self._taker is not None or self.upgrade:
            return True
        if not self._in_request or self._body_left != 0:
            return False
        self._probe()
        return not self.transport.is_closing()

    def _hold_tls(self) -> None:
        """Keep a taken-over TLS connection open for our output after the client's ``close_notify``.

        ``docker run`` ends its input that way as soon as it is attached. TLS 1.3 allows the other direction to go on, but
        asyncio answers with a shutdown of its own, right after this callback; there is no public way to stop it.
        """
        protocol = getattr(self.transport, "_ssl_protocol", None)
        if protocol is not None:
            self._held = protocol
            protocol._start_shutdown = _nothing  # noqa: SLF001

    def let_go(self) -> None:
        """Allow TLS to shut down again; call it before the transport is closed. Idempotent."""
        if self._held is not None:
            del self._held._start_shutdown  # noqa: SLF001
            self._held = None

    def _probe(self) -> None:
        """Close once a client that ended its input has left altogether: nothing else would tell (`printf … | socat`)."""
        if self.transport is None or self.transport.is_closing() or self._taker is not None:
            return
        socket = self.transport.get_extra_info("socket")
        if socket is None or has_left(socket.fileno()):
            self.transport.close()
        else:
            self.call_later(PROBE_SECONDS, self._probe)

    @override
    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_timer()
        if self._taker is not None:
            self._taker.connection_lost()
        super().connection_lost(exc)

    @override
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionResetError("half an answer is out")
        words = " ".join((message or "the request is not HTTP").split())[:256]
        response = error_response(status, words)
        response.force_close()
        return response

    def _start_timer(self) -> None:
        if self._header_timer is None and self._header_seconds > 0:
            self._header_timer = self._loop.call_later(self._header_seconds, self._too_slow)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _too_slow(self) -> None:
        self._header_timer = None
        if not self._dispatched:
            self.force_close()


class ConnectionServer(web.Server):
    """Makes `Connection` objects for every accepted socket."""

    header_seconds: float = limits.HEADER_SECONDS

    @override
    def __call__(self) -> Connection:
        return Connection(
            self,
            loop=self._loop,
            header_seconds=self.header_seconds,
            access_log=None,
            keepalive_timeout=limits.KEEPALIVE_SECONDS,
            max_line_size=limits.REQUEST_LINE,
            max_field_size=limits.HEADER_FIELD,
            max_headers=limits.HEADERS,
            auto_decompress=False,
            lingering_time=1.0,
        )
