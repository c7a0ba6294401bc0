"""The Engine API's HTTP server: sockets in, handlers called, every outcome turned into an answer that clients accept."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio
import structlog

from lading.api.engine import limits, web
from lading.api.engine.connection import Connection, ConnectionServer
from lading.api.engine.errors import status_of, text_of
from lading.api.engine.routing import Request, Route, Router, parse_target
from lading.api.engine.streams import error_response
from lading.errors import CancelledError, LadingError, PermissionDeniedError, UnavailableError

_log: Final = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A listening socket, owned by the server once it serves; ``tls`` is set for TCP."""

    socket: socket.socket
    tls: ssl.SSLContext | None = None


class EngineServer:
    """Serves the routes of ``router``. Routes may be added until `serving`."""

    def __init__(
        self,
        router: Router,
        *,
        allowed_hosts: Collection[str] = (),
        header_seconds: float = limits.HEADER_SECONDS,
        grace_seconds: float = limits.GRACE_SECONDS,
    ) -> None:
        self._router = router
        self._allowed_hosts = frozenset(host.lower() for host in allowed_hosts) | {"localhost"}
        self._header_seconds = header_seconds
        self._grace_seconds = grace_seconds
        self._running: dict[anyio.CancelScope, Route] = {}
        self._idle = anyio.Event()
        self._stopping = False
        self._resumed: anyio.Event | None = None
        self._handlers: set[asyncio.Task[None]] = set()

    async def pause(self) -> None:
        """End what is being served, as on leaving `serving`; requests that come now wait for `resume`."""
        self._resumed = anyio.Event()
        with anyio.CancelScope(shield=True):
            await self._finish()

    def resume(self, router: Router) -> None:
        """Serve these routes from now on, first to those who waited."""
        self._router = router
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    @asynccontextmanager
    async def serving(self, listeners: Sequence[Listener]) -> AsyncGenerator[None]:
        """Accept connections while the context is open.

        On leaving: no new connections, endless streams end at once, other requests have some seconds to finish and
        are then cancelled.
        """
        server = ConnectionServer(self._dispatch, handler_cancellation=True)
        server.header_seconds = self._header_seconds
        loop = asyncio.get_running_loop()
        accepting: list[asyncio.Server] = []
        try:
            for listener in listeners:
                made = await loop.create_server(server, sock=listener.socket, ssl=listener.tls, backlog=1024)
                accepting += [made]
            yield
        finally:
            with anyio.CancelScope(shield=True):
                for each in accepting:
                    each.close()
                self._stopping = True
                await self._finish()
                server.pre_shutdown()
                await server.shutdown(1.0)

    async def _finish(self) -> None:
        for scope, route in list(self._running.items()):
            if route.endless:
                scope.cancel()
        self._idle = anyio.Event()
        with anyio.move_on_after(self._grace_seconds):
            while self._running:
                await self._idle.wait()
                self._idle = anyio.Event()
        for scope in list(self._running):
            scope.cancel()
        with anyio.move_on_after(self._grace_seconds):
            while self._running:
                await self._idle.wait()
                self._idle = anyio.Event()

    async def _dispatch(self, raw: web.BaseRequest) -> web.StreamResponse:
        connection = raw.protocol
        assert isinstance(connection, Connection)
        response: web.StreamResponse | None = None
        connection.request_began()
        try:
            response = await self._answer(raw)
            if self._stopping:
                response.force_close()
            return response
        finally:
            connection.request_ended(raw, response)

    async def _answer(self, raw: web.BaseRequest) -> web.StreamResponse:
        request: Request | None = None
        try:
            self._check_origin(raw)
            while self._resumed is not None:
                await self._resumed.wait()
            target = parse_target(raw.raw_path)
            route, params = await self._router.resolve(raw.method, target.segments)
            request = Request(raw, target, params)
            await _go_ahead(raw)
            return await self._run(route, request)
        except LadingError as exc:
            return self._failed(raw, request, exc)
        except ConnectionError:
            raise
        except Exception as exc:  # noqa: BLE001 - the supervisor of all handlers
            _log.exception("request_failed", method=raw.method, path=raw.path)
            return self._failed(raw, request, exc)

    async def _run(self, route: Route, request: Request) -> web.StreamResponse:
        if self._stopping:
            raise UnavailableError("the daemon is shutting down", hint="repeat the request in a moment")
        outcome = await self._handled(route, request)
        if outcome.error is not None:
            raise outcome.error
        if outcome.response is not None:
            return outcome.response
        if route.endless and request.started is not None:
            return request.started
        raise UnavailableError("the daemon is shutting down", hint="repeat the request in a moment")

    async def _handled(self, route: Route, request: Request) -> "_Outcome":
        """Run a handler as a task of its own.

        When a client leaves, aiohttp cancels the task of its connection in asyncio's way, which no shield of anyio's stops. So
        that task runs nothing: it has the handler cancelled as everything here expects it, and waits for its clean-up.
        """
        outcome, scope, ended = _Outcome(), anyio.CancelScope(), anyio.Event()

        async def work() -> None:
            try:
                with scope:
                    outcome.response = await route.handler(request)
            except Exception as exc:  # noqa: BLE001 - raised by whoever waits
                outcome.error = exc
            finally:
                del self._running[scope]
                self._idle.set()
                ended.set()

        self._running[scope] = route
        # In no group: like the connections' tasks, they outlive the engine that a switch of stores closes and opens again.
        task = asyncio.get_running_loop().create_task(work())
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)
        try:
            await ended.wait()
        except asyncio.CancelledError:
            if not route.finishes:
                scope.cancel()
            await ended.wait()
            raise
        return outcome

    def _failed(self, raw: web.BaseRequest, request: Request | None, error: Exception) -> web.StreamResponse:
        status = status_of(error)
        if request is not None and request.started is not None:
            # Half an answer is out: only a broken connection tells the client that it is not whole.
            tell = _log.debug if isinstance(error, CancelledError) else _log.warning
            tell("stream_broken_off", method=raw.method, path=raw.path, error=text_of(error))
            raise ConnectionResetError(text_of(error)) from error
        _log.debug("request_refused", method=raw.method, path=raw.path, status=status, error=text_of(error))
        return error_response(status, text_of(error))

    def _check_origin(self, raw: web.BaseRequest) -> None:
        """Refuse browsers, and over TCP names that are not ours: DNS rebinding (A5)."""
        if "Origin" in raw.headers:
            raise PermissionDeniedError(
                "requests with an Origin header are refused", hint="browsers may not call"
            )
        transport = raw.transport
        if transport is None:
            raise ConnectionResetError
        address = transport.get_extra_info("sockname")
        if not isinstance(address, tuple):
            return
        host = _host_name(raw.headers.get("Host", ""))
        if host not in self._allowed_hosts and not _is_address(host):
            raise PermissionDeniedError(
                "the Host header names another host",
                hint="use the daemon's address, or a name of its certificate",
            )


@dataclass(slots=True)
class _Outcome:
    """What a handler gave; neither if it was cancelled."""

    response: web.StreamResponse | None = None
    error: Exception | None = None


async def _go_ahead(raw: web.BaseRequest) -> None:
    """Tell a client that asks before it sends a large body; curl would wait a second for it."""
    if raw.headers.get("Expect", "").lower() == "100-continue" and raw.version >= (1, 1):
        await raw.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        raw.writer.output_size = 0  # it is no part of the answer


def _host_name(header: str) -> str:
    host = header.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
