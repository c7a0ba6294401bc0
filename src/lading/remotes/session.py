"""One caller's requests to one repository: which host, with what token, how often."""

import datetime as dt
import email.utils
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar
from urllib.parse import quote, urljoin

import anyio

from lading.core.remotes import Credentials, HostReply
from lading.errors import LadingError, PermissionDeniedError, UnauthenticatedError
from lading.kit import aio
from lading.oci.reference import Reference
from lading.remotes import challenge, hostfiles
from lading.remotes.auth import Audience, Authorizer, Identity
from lading.remotes.client import Client, Request, Url, parse_url
from lading.remotes.config import Config
from lading.remotes.connection import Origin, Response, Upload
from lading.remotes.dial import Resolve
from lading.remotes.errors import (
    REFUSED_HERE,
    ForbiddenAddressError,
    NotTLSError,
    RemoteUnauthenticatedError,
    TransportError,
    failure,
)
from lading.remotes.hosts import DOCKER_HUB, DOCKER_HUB_HOST, Capability, Host
from lading.remotes.keychain import Keychain
from lading.remotes.names import split_host
from lading.remotes.replies import read_reply

T = TypeVar("T")

_THROTTLED: Final = frozenset({408, 429})
_PASSING: Final = frozenset({500, 502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One request, before it is known whom to ask.

    ``consume`` reads the reply on a data thread if its status is one of ``expected``.
    """

    method: str
    path: str
    """Below the host's ``/v2``; or empty, then ``url`` is used."""
    consume: Callable[[Response], T]
    expected: frozenset[int] = frozenset({200})
    fields: tuple[tuple[str, str], ...] = ()
    query: str = ""
    url: Url | None = None
    body: Upload | None = None
    actions: str = "pull"
    more_scopes: tuple[str, ...] = ()
    repeatable: bool = True
    """Whether it may be sent again after a failure whose effect is unknown."""


class HostFailedError(LadingError):
    """One host did not do it. Stays in this room; `failure` sums up those of all hosts."""

    code = "host-failed"

    def __init__(self, reply: HostReply, cause: TransportError | None = None) -> None:
        super().__init__(reply.message or str(reply.status))
        self.reply = reply
        self.cause = cause


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A reply with a status that was not expected."""

    reply: HostReply
    challenges: list[challenge.Challenge]
    retry_after: str


@dataclass(slots=True, kw_only=True)
class Shared:
    """What all sessions of a daemon share."""

    config: Config
    client: Client
    authorizer: Authorizer
    keychain: Keychain
    resolve: Resolve
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    jitter: Callable[[], float] = random.random
    clear: set[tuple[str, int | None]] = field(default_factory=set[tuple[str, int | None]])
    """Hosts that turned out to speak http where https was tried first."""


class Session:
    """Requests to the repository of one reference, in the name of one caller."""

    def __init__(
        self,
        shared: Shared,
        reference: Reference,
        credentials: Credentials | None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.shared = shared
        self.limits = shared.config.limits
        self.domain = reference.domain
        self.path = reference.path
        self.name = reference.name
        self._given = credentials
        self._headers = headers
        self._identities: dict[str, Identity] = {}

    async def hosts(self, capability: Capability) -> list[Host]:
        """The hosts that may be asked for this, in order."""
        found = await aio.run(aio.DISK, hostfiles.load, self.shared.config, self.domain, self.shared.resolve)
        return [host for host in found if capability in host.capabilities]

    async def first(self, hosts: list[Host], call: Call[T], *, what: str) -> T:
        """Ask one host after the other until one does it.

        Raises the error that sums up all of them, see `failure`.
        """
        replies: list[HostReply] = []
        for number, host in enumerate(hosts):
            try:
                return await self.call(host, call, last=number == len(hosts) - 1)
            except HostFailedError as exc:
                replies.append(exc.reply)
        raise failure(what, tuple(replies), subject=self.name)

    async def call(self, host: Host, call: Call[T], *, last: bool = True) -> T:
        """Ask one host, with tokens, and with patience if it is the ``last`` one.

        Raises:
            HostFailedError: It did not do it.

        """
        scopes = self._scopes(call)
        refreshed = False
        waited, attempt, previous = 0.0, 1, 0
        value: str | None = None
        while True:
            retry_after = ""
            try:
                audience = self._audience(host)
                identity = await self._identity(host)
                if value is None:
                    value = await self.shared.authorizer.value(audience, identity, scopes)
                outcome = await self._send(host, call, audience, value)
                if not isinstance(outcome, _Refusal):
                    return outcome
                if outcome.reply.status == 401 and not refreshed:
                    refreshed = True
                    if (spoken := self._audience(host)) != audience:
                        audience, value = spoken, ""  # it turned out to speak http, and was sent nothing yet
                    value = await self.shared.authorizer.refresh(
                        audience, identity, outcome.challenges, scopes, refused=value
                    )
                    continue
                reply, retry_after, cause = outcome.reply, outcome.retry_after, None
            except TransportError as exc:
                reply, cause = HostReply(host=host.name, message=exc.message), exc
            except ForbiddenAddressError as exc:
                reply = HostReply(host=host.name, codes=(REFUSED_HERE,), message=exc.message)
                raise HostFailedError(reply) from exc
            except (UnauthenticatedError, PermissionDeniedError) as exc:
                raise HostFailedError(_reply_of(host, exc)) from exc
            except LadingError as exc:
                raise HostFailedError(HostReply(host=host.name, message=str(exc))) from exc
            delay = self._delay(reply.status, cause, retry_after, attempt, last=last, previous=previous)
            if (
                delay is None
                or attempt >= self.limits.attempts
                or waited + delay > self.limits.retry_budget
                or not (call.repeatable or reply.status in _THROTTLED)
            ):
                raise HostFailedError(reply, cause)
            attempt, previous, waited = attempt + 1, reply.status, waited + delay
            await self.shared.sleep(delay)
            value = None  # the token may have expired while we waited

    async def login(self, host: Host, identity: Identity) -> str:
        """Check credentials; the identity token that the registry gives for them, or empty.

        Raises:
            RemoteUnauthenticatedError: They were refused.
            RemoteUnavailableError: The registry did not answer.

        """
        ping: Call[None] = Call(method="GET", path="/", consume=lambda _: None)
        what = f"cannot log in to {self.domain}"
        try:
            audience = self._audience(host)
            outcome = await self._send(host, ping, audience, "")
            if not isinstance(outcome, _Refusal):
                return ""
            if outcome.reply.status != 401:
                raise failure(what, (outcome.reply,), subject=self.domain)
            audience = self._audience(host)
            bearer = next((c for c in outcome.challenges if c.scheme == "bearer"), None)
            if bearer is not None:
                reply = await self.shared.authorizer.request_token(
                    audience,
                    identity,
                    bearer.parameters.get("realm", ""),
                    bearer.parameters.get("service", ""),
                    (),
                    offline=True,
                )
                return reply.refresh_token or ""
            value = await self.shared.authorizer.refresh(
                audience, identity, outcome.challenges, (), refused=""
            )
            outcome = await self._send(host, ping, audience, value)
        except TransportError as exc:
            raise failure(
                what, (HostReply(host=host.name, message=exc.message),), subject=self.domain
            ) from exc
        if isinstance(outcome, _Refusal):
            raise failure(what, (outcome.reply,), subject=self.domain)
        return ""

    def _delay(
        self,
        status: int,
        cause: TransportError | None,
        retry_after: str,
        attempt: int,
        *,
        last: bool,
        previous: int,
    ) -> float | None:
        """Seconds to wait before the same host is asked again; None to give up on it."""
        usual = self.limits.backoff * 2 ** (attempt - 1) * (0.5 + self.shared.jitter())
        told = parse_retry_after(retry_after, self.limits.retry_after)
        if told is not None:
            told += self.limits.backoff * self.shared.jitter()
        if status in _THROTTLED or (status == 503 and told is not None and last):
            return usual if told is None else told
        if status in _PASSING:
            return (usual if told is None else told) if last and status != previous else None
        if cause is not None and status == 0 and last and type(cause) is TransportError:
            return usual
        return None

    def _scopes(self, call: Call[T]) -> tuple[str, ...]:
        if not self.path:
            return call.more_scopes
        return (f"repository:{self.path}:{call.actions}", *call.more_scopes)

    def _audience(self, host: Host) -> Audience:
        scheme = host.schemes[-1] if (host.host, host.port) in self.shared.clear else host.schemes[0]
        bound_to = host.host
        if host.upstream_auth and host.namespace:
            upstream = DOCKER_HUB_HOST if self.domain == DOCKER_HUB else self.domain
            bound_to = split_host(upstream)[0]
        return Audience(host, host.origin(scheme), bound_to)

    async def _identity(self, host: Host) -> Identity:
        """Whose credentials this host gets: the registry's own host the caller's; a mirror those filed under its name,
        unless it authenticates upstream.
        """
        is_registry = not host.namespace or host.upstream_auth
        key = self.domain if is_registry else host.name
        if key not in self._identities:
            credentials = self._given if is_registry else None
            if credentials is None:
                credentials = await self.shared.keychain.lookup(key)
            self._identities[key] = Identity.of(credentials)
        return self._identities[key]

    async def _send(self, host: Host, call: Call[T], audience: Audience, value: str) -> T | _Refusal:
        try:
            return await self._send_to(audience.origin, host, call, value)
        except NotTLSError:
            if len(host.schemes) < 2 or audience.origin.scheme == "http":
                raise
            result = await self._send_to(host.origin("http"), host, call, "")
            self.shared.clear.add((host.host, host.port))
            return result

    async def _send_to(self, origin: Origin, host: Host, call: Call[T], value: str) -> T | _Refusal:
        private = (*host.header, *self._headers)
        if value:
            private += (("Authorization", value),)
        url = call.url or self.url(origin, host, call.path, call.query)
        if call.url is not None and call.url.origin != origin:
            private = ()
        request = Request(
            method=call.method,
            url=url,
            fields=call.fields,
            private=private,
            body=call.body,
            trust=host.trust if url.origin.host == origin.host else host.trust.without_client(),
            connect_timeout=host.dial_timeout or self.limits.connect,
            guard=None if url.origin.host == origin.host else origin,
        )

        def consume(response: Response) -> T | _Refusal:
            if response.status in call.expected:
                return call.consume(response)
            return _Refusal(
                read_reply(response, host.name, self.limits.error_body),
                challenge.parse(response.head.all("www-authenticate")),
                response.head.get("retry-after"),
            )

        async with self.shared.client.slot(origin):
            return await self.shared.client.send(request, consume)

    @staticmethod
    def url(origin: Origin, host: Host, path: str, query: str) -> Url:
        """The address of something below a host's API."""
        queries = [query] if query else []
        if host.namespace:
            queries.append("ns=" + quote(host.namespace, safe=""))
        target = quote(host.path, safe="/%:@!$&'()*+,;=~") + path
        return Url(origin, target + ("?" + "&".join(queries) if queries else ""))

    @staticmethod
    def location(base: str, text: str) -> Url:
        """Where a ``Location`` field leads. Raises `TransportError`; `ForbiddenAddressError` from https to http."""
        url = parse_url(urljoin(base, text))
        if base.startswith("https:") and url.origin.scheme == "http":
            raise ForbiddenAddressError(
                f"refused to go on without encryption at {url.origin}, where the registry led",
                subject=url.origin.netloc,
            )
        return url


def _reply_of(host: Host, exc: LadingError) -> HostReply:
    if isinstance(exc, RemoteUnauthenticatedError) and exc.replies:
        first = exc.replies[0]
        return HostReply(host=first.host, status=first.status or 401, codes=first.codes, message=str(exc))
    status = 403 if isinstance(exc, PermissionDeniedError) else 401
    return HostReply(host=host.name, status=status, message=str(exc))


def parse_retry_after(text: str, cap: float) -> float | None:
    """Seconds that a ``Retry-After`` asks for, at most ``cap`` and at least 0; None if it says nothing sensible."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), cap)
    try:
        moment = email.utils.parsedate_to_datetime(text)
        seconds = (moment - dt.datetime.now(dt.UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), cap)
