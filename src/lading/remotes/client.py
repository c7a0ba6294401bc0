"""HTTP for a registry client: connections are shared and limited here, redirects followed, cancellation made prompt.

Control is asynchronous; each exchange (send a request, read its reply) is one blocking call on a data thread, which also
consumes the body there.
"""

import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from typing import Final, Generic, TypeVar
from urllib.parse import urljoin, urlsplit

import anyio
import anyio.lowlevel

from lading.kit import aio
from lading.remotes.config import Limits
from lading.remotes.connection import Cancel, Connection, Origin, Response, Upload
from lading.remotes.dial import Dialer, Trust
from lading.remotes.errors import AbortedError, ForbiddenAddressError, ProtocolError, TransportError
from lading.remotes.http1 import encode_request

T = TypeVar("T")

DIAL: Final = aio.Lane("dial", 16)
"""Threads that connect. Apart from the data threads, because one may be left behind with a name server that is silent."""
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_SECRET_FIELDS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})


@dataclass(frozen=True, slots=True)
class Url:
    """An absolute http or https URL, split."""

    origin: Origin
    target: str

    def __str__(self) -> str:
        return f"{self.origin}{self.target}"


def parse_url(text: str) -> Url:
    """Split a URL. Raises `ProtocolError` for what is not one, or has credentials in it."""
    try:
        parts = urlsplit(text)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
        host = parts.hostname or ""
    except ValueError as exc:
        raise ProtocolError("malformed URL") from exc
    if parts.scheme not in {"http", "https"} or not host or not port:
        raise ProtocolError(f"refused a URL of scheme {parts.scheme[:20]!r}")
    if parts.username is not None:
        raise ProtocolError(f"refused a URL with credentials in it, of host {host}")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Url(Origin(parts.scheme, host.lower(), port), target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request. ``private`` fields go to the first origin only."""

    method: str
    url: Url
    fields: tuple[tuple[str, str], ...] = ()
    private: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: Upload | None = None
    trust: Trust = field(default_factory=Trust)
    connect_timeout: float = 15.0
    guard: Origin | None = None
    """The registry on whose word we go there, if it is not there itself; see `Dialer.connect`."""


@dataclass(slots=True)
class _Outcome(Generic[T]):
    """What an exchange gave: a value, or the place where to ask instead."""

    value: T | None = None
    redirect: str = ""


class Client:
    """Sends requests. Belongs to one event loop; `send` may be called concurrently."""

    def __init__(self, dialer: Dialer, limits: Limits, user_agent: str) -> None:
        self._dialer = dialer
        self._limits = limits
        self._user_agent = user_agent
        self._idle: dict[tuple[Origin, Trust], list[Connection]] = {}
        self._all = anyio.Semaphore(limits.connections)
        self._hosts: dict[tuple[str, int], anyio.Semaphore] = {}
        self._closed = False

    @contextlib.asynccontextmanager
    async def slot(self, origin: Origin) -> AsyncGenerator[None]:
        """Hold one of the connections that may be in use at once; who waits longest comes first."""
        async with self._of_host(origin), self._all:
            yield

    def has_room(self, origin: Origin) -> bool:
        """Whether `slot` would not wait."""
        return self._of_host(origin).value > 0 and self._all.value > 0

    def _of_host(self, origin: Origin) -> anyio.Semaphore:
        key = (origin.host, origin.port)
        return self._hosts.setdefault(key, anyio.Semaphore(self._limits.connections_per_host))

    async def send(self, request: Request, consume: Callable[[Response], T]) -> T:
        """Send a request and give its reply to ``consume``, on a data thread.

        Redirects of GET and HEAD are followed: never from https to http, without `Request.private` on another origin,
        and only to addresses where the registry may lead (hostile-input.md R1, R3). Does not hold a `slot`.

        Raises:
            TransportError: No (whole) reply.
            ForbiddenAddressError: A redirect led where it must not.

        """
        first = request.url.origin
        for _ in range(self._limits.redirects + 1):
            outcome = await self._exchange(request, consume)
            if not outcome.redirect:
                return outcome.value  # pyright: ignore[reportReturnType]
            request = self._redirected(request, outcome.redirect, first)
        raise ProtocolError(f"{first.netloc} redirected more than {self._limits.redirects} times")

    @staticmethod
    def _redirected(request: Request, location: str, first: Origin) -> Request:
        url = parse_url(urljoin(str(request.url), location))
        if request.url.origin.scheme == "https" and url.origin.scheme == "http":
            raise ForbiddenAddressError(
                f"refused a redirect of {first.netloc} from https to http, to {url.origin.netloc}",
                subject=url.origin.netloc,
            )
        if url.origin == request.url.origin:
            return replace(request, url=url)
        return replace(
            request,
            url=url,
            private=(),
            fields=tuple(pair for pair in request.fields if pair[0].lower() not in _SECRET_FIELDS),
            trust=request.trust.without_client(),
            guard=request.guard or first,
        )

    async def _exchange(self, request: Request, consume: Callable[[Response], T]) -> _Outcome[T]:
        """One request on one connection; an old connection that turns out to be dead is replaced once."""
        connection = self._checkout(request)
        if connection is not None:
            try:
                return await self._on(connection, request, consume)
            except _DeadConnectionError:
                pass
        connection = await self._connect(request)
        try:
            return await self._on(connection, request, consume)
        except _DeadConnectionError as exc:
            raise TransportError(exc.message) from exc

    def _checkout(self, request: Request) -> Connection | None:
        pooled = self._idle.get((request.url.origin, request.trust), [])
        while pooled:
            connection = pooled.pop()
            if time.monotonic() - connection.idle_since < self._limits.keep and not connection.is_stale():
                return connection
            connection.close()
        return None

    def _checkin(self, connection: Connection, trust: Trust) -> None:
        pooled = self._idle.setdefault((connection.origin, trust), [])
        if self._closed or not connection.reusable or len(pooled) >= self._limits.connections_per_host:
            connection.close()
            return
        connection.idle_since = time.monotonic()
        pooled.append(connection)
        for key in list(self._idle):
            kept = self._idle[key]
            while kept and connection.idle_since - kept[0].idle_since > self._limits.keep:
                kept.pop(0).close()
            if not kept:
                del self._idle[key]

    async def _connect(self, request: Request) -> Connection:
        """Connect, in a thread that is left behind if the caller goes or time is up: a name server cannot be hurried."""
        handover = _Handover()

        def connect() -> None:
            handover.give(
                self._dialer.connect(
                    request.url.origin, request.trust, timeout=request.connect_timeout, guard=request.guard
                )
            )

        try:
            with anyio.fail_after(request.connect_timeout):
                await aio.run(DIAL, connect, abandon_on_cancel=True)
        except TimeoutError as exc:
            handover.abandon()
            raise TransportError(
                f"no connection to {request.url.origin.netloc} within {request.connect_timeout:g} s",
                timed_out=True,
            ) from exc
        except BaseException:
            handover.abandon()
            raise
        return handover.take()

    async def _on(
        self, connection: Connection, request: Request, consume: Callable[[Response], T]
    ) -> _Outcome[T]:
        cancel = Cancel()
        try:
            outcome = await run_cancellable(cancel, self._converse, connection, request, consume, cancel)
        except BaseException:
            connection.close()
            raise
        self._checkin(connection, request.trust)
        return outcome

    def _converse(
        self, connection: Connection, request: Request, consume: Callable[[Response], T], cancel: Cancel
    ) -> _Outcome[T]:
        """Blocking: send, receive, consume."""
        origin = request.url.origin
        fields = [
            ("Host", origin.netloc),
            ("User-Agent", self._user_agent),
            ("Accept-Encoding", "identity"),
            *request.fields,
            *request.private,
        ]
        if connection.absolute_form:
            fields += self._dialer.proxy_fields(origin)
        if request.body is not None:
            fields.append(("Content-Length", str(request.body.length)))
        elif request.method not in {"GET", "HEAD"}:
            fields.append(("Content-Length", "0"))
        target = str(request.url) if connection.absolute_form else request.url.target
        head_bytes = encode_request(request.method, target, fields)
        reused = connection.uses > 0
        with cancel.watching(connection.socket):
            broken: TransportError | None = None
            try:
                connection.send(head_bytes, request.body)
            except ProtocolError:
                raise
            except TransportError as exc:
                cancel.check()
                broken = exc  # a server that says no early may still have said why
            try:
                head = connection.receive_head()
            except ProtocolError:
                raise
            except TransportError as exc:
                cancel.check()
                if reused and not exc.timed_out and request.body is None:
                    raise _DeadConnectionError(exc.message) from exc
                raise (broken or exc) from exc
            response = Response(connection, head, request.method, str(request.url))
            if head.status in _REDIRECTS and request.method in {"GET", "HEAD"} and head.get("location"):
                response.finish()
                return _Outcome(redirect=head.get("location"))
            try:
                value = consume(response)
            except TransportError:
                cancel.check()
                raise
            response.finish()
            if broken is not None:
                connection.reusable = False
        return _Outcome(value=value)

    async def close(self) -> None:
        """Close idle connections; those in use follow when they are done. Idempotent."""
        self._closed = True
        for pooled in self._idle.values():
            for connection in pooled:
                connection.close()
        self._idle.clear()


class _DeadConnectionError(TransportError):
    """A connection that had been idle died before it answered: the request may be sent again."""

    code = "dead-connection"


class _Handover:
    """Passes a connection from the thread that makes it to its owner, or closes it if there is none any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._abandoned = False

    def give(self, connection: Connection) -> None:
        with self._lock:
            self._connection = connection
            if self._abandoned:
                connection.close()

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            if self._connection is not None:
                self._connection.close()

    def take(self) -> Connection:
        assert self._connection is not None
        return self._connection


async def run_cancellable(cancel: Cancel, function: Callable[..., T], *args: object) -> T:
    """Call a blocking function on a data thread; when the caller is cancelled, ``cancel`` makes it return soon.

    ``function`` raises `AbortedError` once ``cancel`` was used; the caller then gets the cancellation itself.
    """
    result: list[T] = []
    failure: BaseException | None = None

    async def watch() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            if not finished:
                cancel.cancel()

    finished = False
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        await anyio.lowlevel.cancel_shielded_checkpoint()  # so that the watch stands before the thread starts
        try:
            result.append(await aio.run(aio.DATA, function, *args))
        except Exception as exc:  # noqa: BLE001  raised again below, outside the task group
            failure = exc
        finished = True
        tasks.cancel_scope.cancel()
    if failure is not None:
        if isinstance(failure, AbortedError):
            await anyio.lowlevel.checkpoint()  # raises the cancellation
        raise failure
    return result[0]
