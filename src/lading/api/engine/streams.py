"""Answers: JSON documents, progress streams and raw streams, with headers that clients accept.

The content type of JSON is exactly ``application/json``: with a charset the ``docker`` command shows raw JSON.
"""

import contextlib
import itertools
import json
import socket
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Self

import anyio
import anyio.lowlevel
import msgspec
import structlog
from typing_extensions import Buffer

from lading.api.engine import limits, web
from lading.api.engine import version as versions
from lading.api.engine.errors import text_of
from lading.api.engine.routing import Request
from lading.errors import CancelledError, InvalidArgumentError, LadingError

JSON: Final = "application/json"
SERVER: Final = "Lading (linux)"
COMMON_HEADERS: Final = {"Server": SERVER, "Api-Version": versions.text(versions.MAX), "Ostype": "linux"}
"""On every answer: clients negotiate with them."""

_VALUES_AT_ONCE: Final = 256
_SO_SNDBUFFORCE: Final = 32
"""As SO_SNDBUF, beyond the limit of the machine (Linux, asm-generic/socket.h); for root."""
_USUAL_ROOM: Final = 128 * 1024
_MOST_ROOM: Final = 8 * 1024 * 1024

_log: Final = structlog.get_logger(__name__)


def encode(value: Any) -> bytes:
    """JSON bytes of plain data, dataclasses or msgspec structs. File names that are not UTF-8 become escapes."""
    try:
        return msgspec.json.encode(value, enc_hook=_plain)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value, enc_hook=_plain)).encode()


def _plain(value: object) -> object:
    """Values that are texts of a kind, such as digests, as texts."""
    if isinstance(value, str):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} is not plain data")


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A whole JSON document."""
    return web.Response(
        body=encode(value) + b"\n", status=status, headers=_headers({**(headers or {}), "Content-Type": JSON})
    )


def encoded_response(request: Request, body: bytes) -> web.Response:
    """A whole JSON document that is encoded already, its last line ended."""
    _make_room(request, len(body))
    return web.Response(body=body, headers=_headers({"Content-Type": JSON}))


async def array_response(request: Request, values: Iterable[Any]) -> tuple[web.StreamResponse, bytes]:
    """A JSON array; the answer and its bytes, for `encoded_response`.

    A long one is sent while it is made, so that the client reads meanwhile, and other calls go on in between.
    """
    source = iter(values)
    parts: list[bytes] = []
    response: web.StreamResponse | None = None
    while len(batch := list(itertools.islice(source, _VALUES_AT_ONCE))) == _VALUES_AT_ONCE:
        parts.append((b"," if parts else b"[") + encode(batch)[1:-1])
        if response is None:
            _make_room(request, _MOST_ROOM)
            response = await open_stream(request)
        await write(response, parts[-1])
        await anyio.lowlevel.checkpoint()
    last = encode(batch)[1:]
    parts.append((b"," if parts and batch else b"" if parts else b"[") + last + b"\n")
    body = b"".join(parts)
    if response is None:
        return encoded_response(request, body), body
    await write(response, parts[-1])
    return response, body


def _make_room(request: Request, size: int) -> None:
    """Let the kernel take ``size`` bytes for a client on this machine at once, which then reads them without waiting for us."""
    transport = request.raw.transport
    found = transport.get_extra_info("socket") if transport is not None else None
    if found is None or found.family != socket.AF_UNIX or size <= _USUAL_ROOM:
        return
    with contextlib.suppress(OSError):  # not root: it goes in pieces
        found.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, min(size, _MOST_ROOM))


def empty(status: int = 204) -> web.Response:
    """An answer without a body."""
    return web.Response(status=status, headers=_headers({}))


def error_response(status: int, message: str) -> web.Response:
    """``{"message": …}``; without a body where HTTP forbids one."""
    return empty(status) if status in (204, 304) else json_response({"message": message}, status)


def _headers(extra: Mapping[str, str]) -> dict[str, str]:
    for key, value in extra.items():
        if any(char in "\r\n\0" for char in key + value):  # A2: nothing echoed may end a header
            raise InvalidArgumentError(f"a value for header {key.splitlines()[0]!r} holds a line break")
    return {**COMMON_HEADERS, **extra}


async def open_stream(
    request: Request, content_type: str = JSON, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """Send status and headers *now* and return the open answer; clients of ``wait`` and ``events`` wait for them.

    Write with `write`; the server ends the stream when the handler returns it.
    """
    response = web.StreamResponse(
        status=status, headers=_headers({**(headers or {}), "Content-Type": content_type})
    )
    request.started = response
    await response.prepare(request.raw)
    return response


async def write(
    response: web.StreamResponse, data: Buffer, *, deadline: float = limits.WRITE_SECONDS
) -> None:
    """Write to an open answer; waits while the client is slow.

    Raises:
        CancelledError: The client left, or read nothing for ``deadline`` seconds.

    """
    try:
        with anyio.fail_after(deadline):
            await response.write(data if isinstance(data, bytes | bytearray) else bytes(data))
    except TimeoutError as exc:
        raise CancelledError(f"the client read nothing for {deadline:g} seconds") from exc
    except ConnectionError as exc:
        raise CancelledError("the client closed the connection") from exc


class ProgressStream:
    r"""A stream of JSON objects, each ended by ``\r\n``.

    ::

        async with ProgressStream(request) as stream:
            await stream.send({"status": "Pulling from library/alpine", "id": "latest"})
        return stream.response

    An error before the first object leaves the context, and becomes a real status. After it, the error is told within the
    stream, with status 200, and does not leave.
    """

    def __init__(self, request: Request, content_type: str = JSON) -> None:
        self._request = request
        self._content_type = content_type
        self._response: web.StreamResponse | None = None
        self._lock = anyio.Lock()

    @property
    def response(self) -> web.StreamResponse:
        """What the handler returns, after the context."""
        assert self._response is not None
        return self._response

    @property
    def started(self) -> bool:
        """Whether anything was sent."""
        return self._response is not None

    async def __aenter__(self) -> Self:
        return self

    async def send(self, value: Any) -> None:
        """Send one object. Any task may call it. Raises `CancelledError` if the client is gone."""
        await self.send_many([value])

    async def send_many(self, values: list[Any]) -> None:
        """Send several objects in one write."""
        data = b"".join(encode(value) + b"\r\n" for value in values)
        async with self._lock:
            if self._response is None:
                self._response = await open_stream(self._request, self._content_type)
            await write(self._response, data)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if error is None:
            if self._response is None:
                self._response = await open_stream(self._request, self._content_type)
            return False
        if self._response is None or not isinstance(error, Exception):
            return False
        if isinstance(error, CancelledError):
            return False
        if not isinstance(error, LadingError):
            _log.error("stream_failed", exc_info=error)
        message = text_of(error)
        await self.send({"errorDetail": {"message": message}, "error": message})
        return True
