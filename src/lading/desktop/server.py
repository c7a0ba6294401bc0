"""Serves the page on loopback, and passes what it asks for on to the daemon.

**Trust.** Whoever has the token may do what `ROUTES` lists. The token is in the URL that is printed, and in a header of every
request that the page makes; no cookie is ever set, so that no other site can act in the user's name. Requests that name another
host are refused, against DNS rebinding. Nothing is loaded from anywhere else: a Content-Security-Policy says so to the browser.
"""

import hmac
import re
import secrets
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Final

import aiohttp
from aiohttp import web

from lading.errors import InvalidArgumentError, UnavailableError

LOOPBACK: Final = "127.0.0.1"
API_VERSION: Final = "1.51"
"""What the page is written for; a daemon shapes its answers for it."""
_NAME: Final = r"[\w.:/@+-]+"
ROUTES: Final = tuple(
    (method, re.compile(path))
    for method, path in (
        ("GET", r"info"),
        ("GET", r"events"),
        ("GET", r"images/json"),
        ("POST", r"images/create"),
        ("POST", r"images/prune"),
        ("DELETE", rf"images/{_NAME}"),
        ("GET", r"containers/json"),
        ("GET", rf"containers/{_NAME}/logs"),
        ("POST", rf"containers/{_NAME}/(?:start|stop)"),
        ("GET", r"lading/store"),
        ("POST", r"lading/store/use"),
    )
)
"""What the page may ask the daemon for: a method, and the path without its version."""
_ASSETS: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_PASSED_ON: Final = ("Content-Type", "Api-Version")
_CONNECT_SECONDS: Final = 15.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Where the daemon is: as DOCKER_HOST has it, with TLS for ``tcp://``."""

    host: str
    tls: ssl.SSLContext | None = None


@asynccontextmanager
async def open_page(engine: Engine, *, port: int = 0) -> AsyncGenerator[str]:
    """Serve the page for one daemon while the context lasts; the URL to open, with its token.

    Raises:
        InvalidArgumentError: The daemon's address is malformed.
        UnavailableError: The port cannot be had.

    """
    token = secrets.token_urlsafe(24)
    base, connector = _connector(engine)
    timeout = aiohttp.ClientTimeout(total=None, connect=_CONNECT_SECONDS)
    async with aiohttp.ClientSession(base, connector=connector, timeout=timeout) as session:
        page = _Page(session, token, engine.host)
        app = web.Application(middlewares=[page.guard], client_max_size=0)
        app.router.add_get("/", page.index)
        app.router.add_get("/page/{name}", page.asset)
        app.router.add_route("*", "/engine/{path:.+}", page.engine)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, LOOPBACK, port)
            try:
                await site.start()
            except OSError as exc:
                raise UnavailableError(
                    f"cannot listen on {LOOPBACK}:{port}: {exc.strerror}", hint="choose another --port"
                ) from exc
            page.authority = f"{LOOPBACK}:{runner.addresses[0][1]}"
            yield f"http://{page.authority}/?token={token}"
        finally:
            await runner.cleanup()


def _connector(engine: Engine) -> tuple[str, aiohttp.BaseConnector]:
    scheme, _, rest = engine.host.partition("://")
    if scheme == "unix" and rest.startswith("/"):
        return "http://lading", aiohttp.UnixConnector(rest)
    if scheme == "tcp" and rest and engine.tls is not None:
        return f"https://{rest}", aiohttp.TCPConnector(ssl=engine.tls)
    raise InvalidArgumentError(f"invalid host {engine.host!r}", hint="use unix:///path or tcp://host:port")


class _Page:
    """The handlers. ``authority`` is what a browser on this machine calls us."""

    def __init__(self, session: aiohttp.ClientSession, token: str, host: str) -> None:
        self._session = session
        self._token = token
        self._host = host
        self.authority = ""

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse who does not belong here; every answer carries the headers that bind the browser."""
        try:
            if request.headers.get("Host", "") != self.authority:
                raise web.HTTPForbidden(text="this page is served to this machine alone")
            response = await handler(request)
        except web.HTTPException as exc:
            exc.headers.update(_HEADERS)
            raise
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    async def index(self, request: web.Request) -> web.StreamResponse:
        """The page itself, for who has the token."""
        self._check(request.query.get("token", ""))
        return _asset("index.html")

    async def asset(self, request: web.Request) -> web.StreamResponse:
        """Scripts and styles; there is nothing secret in them."""
        return _asset(request.match_info["name"])

    async def engine(self, request: web.Request) -> web.StreamResponse:
        """Pass one request on, and its answer back as it comes."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        self._check(token if scheme == "Bearer" else "")
        # As it was sent: the daemon decodes it, so nothing that is encoded may pass the table.
        path = request.raw_path.partition("?")[0].removeprefix("/engine/")
        if ".." in path or not any(
            method == request.method and each.fullmatch(path) for method, each in ROUTES
        ):
            raise web.HTTPNotFound(text="the page does not ask for this")
        target = f"/{path}" if path.startswith("lading/") else f"/v{API_VERSION}/{path}"
        url = request.rel_url.build(path=target, query_string=request.rel_url.raw_query_string, encoded=True)
        with _reached(self._host):
            async with self._session.request(request.method, url) as answer:
                return await self._pass_on(request, answer)

    async def _pass_on(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        headers = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
        response = web.StreamResponse(status=answer.status, headers=_HEADERS | headers)
        await response.prepare(request)
        try:
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
        except ConnectionResetError:
            pass  # the browser left in the middle, as it does when its page is closed
        except aiohttp.ClientError:
            if request.transport is not None:  # the daemon left: the browser must not take this for all
                request.transport.close()
        return response

    def _check(self, token: str) -> None:
        if not hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token.encode()):
            raise web.HTTPForbidden(text="open the page with the URL that 'lading desktop' printed")


@contextmanager
def _reached(host: str) -> Generator[None]:
    try:
        yield
    except aiohttp.ClientConnectorError as exc:
        raise web.HTTPBadGateway(text=f"cannot reach the Lading daemon at {host}: {exc.strerror}") from exc
    except (aiohttp.ClientError, TimeoutError) as exc:
        raise web.HTTPBadGateway(text=f"the Lading daemon at {host} did not answer: {exc}") from exc


def _asset(name: str) -> web.StreamResponse:
    file = resources.files("lading.desktop") / "page" / name
    kind = _ASSETS.get(f".{name.rpartition('.')[2]}")
    if kind is None or not re.fullmatch(r"[a-z]+\.[a-z]+", name) or not file.is_file():
        raise web.HTTPNotFound(text="not found")
    return web.Response(body=file.read_bytes(), headers={"Content-Type": kind})
