"""``/grpc`` and ``/session``: requests that become HTTP/2 connections, which the edge for BuildKit takes over."""

from collections.abc import Awaitable, Callable, Sequence

from lading.api.engine import web
from lading.api.engine.hijack import upgrade_h2c
from lading.api.engine.routing import Request, Router
from lading.kit.grpc.connection import Transport

Headers = Sequence[tuple[str, str]]
"""Names in lower case; a name may stand several times."""
ServeGrpc = Callable[[Transport], Awaitable[None]]
ServeSession = Callable[[Transport, Headers], Awaitable[None]]
"""Both serve a connection to its end."""


def add_routes(
    router: Router, *, grpc: ServeGrpc, session: ServeSession, check_session: Callable[[Headers], None]
) -> None:
    """Serve the upgrades. ``check_session`` raises what a client is told while it still can be."""

    async def serve_grpc(request: Request) -> web.StreamResponse:
        async with upgrade_h2c(request) as stream:
            await grpc(stream)
        return stream.response

    async def serve_session(request: Request) -> web.StreamResponse:
        headers = [(name.lower(), value) for name, value in request.raw.headers.items()]
        check_session(headers)
        async with upgrade_h2c(request) as stream:
            await session(stream, headers)
        return stream.response

    router.add("POST", "/grpc", serve_grpc, endless=True)
    router.add("POST", "/session", serve_session, endless=True)
