"""Tokens: challenges answered, tokens shared, credentials kept where they belong.

Docker registry token authentication (distribution docs/spec/auth/{token,oauth}.md). A credential is sent to the registry it
is for, and to a token realm that is bound to this registry (`is_bound`); to no other host (hostile-input.md R2).
"""

import base64
import hashlib
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import anyio
import msgspec

from lading.core.remotes import Credentials, HostReply
from lading.errors import LadingError
from lading.oci.document import decode
from lading.remotes.challenge import Challenge
from lading.remotes.client import Client, Request, Url, parse_url
from lading.remotes.config import Limits
from lading.remotes.connection import Origin, Response
from lading.remotes.dial import Trust
from lading.remotes.errors import (
    ProtocolError,
    RemoteUnauthenticatedError,
    TransportError,
    failure,
)
from lading.remotes.hosts import Host
from lading.remotes.names import is_loopback, parse_address
from lading.remotes.replies import read_reply

CLIENT_ID: Final = "lading"
_TOKEN_LIFE: Final = 60
"""Seconds that a token lasts if the server does not say (token.md)."""
_LONGEST_LIFE: Final = 24 * 3600
_CACHE: Final = 1024
_SALT: Final = secrets.token_bytes(16)
_BUILT_IN_REALMS: Final[Mapping[str, frozenset[str]]] = {
    "registry-1.docker.io": frozenset({"auth.docker.io"})
}
_SHORT_SUFFIXES: Final = frozenset(
    {"ac", "co", "com", "edu", "gob", "gov", "gv", "go", "ne", "net", "or", "org"}
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose request it is. ``key`` tells identities apart without telling anything about them."""

    credentials: Credentials | None = field(repr=False)
    key: str

    @classmethod
    def of(cls, credentials: Credentials | None) -> "Identity":
        """The identity of a caller."""
        if credentials is None:
            return cls(None, "")
        parts = (
            credentials.username,
            credentials.password,
            credentials.identity_token,
            credentials.registry_token,
        )
        text = "\0".join(parts).encode()
        return cls(credentials, hashlib.blake2b(text, key=_SALT).hexdigest()) if any(parts) else cls(None, "")


@dataclass(frozen=True, slots=True)
class Audience:
    """For whom an authorization is: a host of a registry, and the host whose word a realm is bound by."""

    host: Host
    origin: Origin
    bound_to: str
    """Host name; for a mirror with upstream authentication, the registry's own."""


@dataclass(frozen=True, slots=True)
class _Token:
    value: str = field(repr=False)
    expires_at: float


class _TokenReply(msgspec.Struct):
    token: str | None = None
    access_token: str | None = None
    expires_in: int | float | None = None
    refresh_token: str | None = None


def is_bound(realm: str, registry: str, trusted: Mapping[str, frozenset[str]]) -> bool:
    """Whether a token realm on host ``realm`` may see credentials for host ``registry``.

    True for the same host, one that ``trusted`` names, a parent domain of the registry (``example.com`` for
    ``registry.example.com``) and a sibling (``auth.example.com``), where what the two share is not a public suffix.
    """
    if realm == registry or (is_loopback(realm) and is_loopback(registry)):
        return True
    if realm in trusted.get(registry, ()) or realm in _BUILT_IN_REALMS.get(registry, ()):
        return True
    if parse_address(realm) is not None or parse_address(registry) is not None:
        return False
    parent = registry.partition(".")[2]
    shared = next((name for name in (registry, parent) if name and realm.endswith("." + name)), "")
    if realm == parent:
        shared = parent
    labels = shared.split(".")
    if len(labels) < 2:
        return False
    public = len(labels) == 2 and len(labels[1]) == 2 and labels[0] in _SHORT_SUFFIXES
    return not public


def basic(credentials: Credentials) -> str:
    """The value of an ``Authorization`` field."""
    pair = f"{credentials.username}:{credentials.password}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


class Authorizer:
    """Makes ``Authorization`` values, for all resolvers of a daemon. Belongs to one event loop."""

    def __init__(self, client: Client, limits: Limits, trusted: Mapping[str, frozenset[str]]) -> None:
        self._client = client
        self._limits = limits
        self._trusted = trusted
        self._challenges: dict[Origin, Challenge] = {}
        self._tokens: dict[tuple[str, ...], _Token] = {}
        self._flights: dict[tuple[str, ...], anyio.Lock] = {}

    async def value(self, audience: Audience, identity: Identity, scopes: Iterable[str]) -> str:
        """What to send at once, by what is known of the host; empty if nothing is known yet, or it does not serve any more:
        the host may ask in another way by now, or of another repository, and says so in its 401.
        """
        if identity.credentials is not None and identity.credentials.registry_token:
            return f"Bearer {identity.credentials.registry_token}"
        challenge = self._challenges.get(audience.origin)
        if challenge is None:
            return ""
        try:
            return await self._answer(audience, identity, challenge, scopes, refused="")
        except LadingError:
            self._challenges.pop(audience.origin, None)
            return ""

    async def refresh(
        self,
        audience: Audience,
        identity: Identity,
        challenges: list[Challenge],
        scopes: Iterable[str],
        *,
        refused: str,
    ) -> str:
        """Answer a 401: the new value, never ``refused`` again.

        Raises:
            RemoteUnauthenticatedError: There is nothing (else) to answer with.

        """
        supported = [c for c in challenges if c.scheme in {"bearer", "basic"}]
        if not supported:
            raise self._unauthenticated(audience, "it asks for no kind of credentials that we know")
        challenge = next((c for c in supported if c.scheme == "bearer"), supported[0])
        self._challenges[audience.origin] = Challenge(
            challenge.scheme, {k: v for k, v in challenge.parameters.items() if k in {"realm", "service"}}
        )
        value = await self._answer(audience, identity, challenge, scopes, refused=refused)
        if not value or value == refused:
            credentials = identity.credentials
            why = "no credentials were given" if credentials is None else "the credentials were refused"
            raise self._unauthenticated(audience, why)
        return value

    @staticmethod
    def _unauthenticated(audience: Audience, why: str) -> LadingError:
        name = audience.host.name
        return RemoteUnauthenticatedError(
            f"{name} wants authentication: {why}",
            hint=f"log in to {name}, or check the name of the image",
            subject=name,
            replies=(HostReply(host=name, status=401, codes=("UNAUTHORIZED",), message=why),),
        )

    async def _answer(
        self,
        audience: Audience,
        identity: Identity,
        challenge: Challenge,
        scopes: Iterable[str],
        *,
        refused: str,
    ) -> str:
        credentials = identity.credentials
        if credentials is not None and credentials.registry_token:
            return f"Bearer {credentials.registry_token}"
        if challenge.scheme == "basic":
            if audience.bound_to != audience.host.host:
                return ""  # a mirror may have the registry's tokens, never its password
            return basic(credentials) if credentials is not None and credentials.username else ""
        wanted = tuple(sorted({*scopes, *challenge.parameters.get("scope", "").split()}))
        realm = challenge.parameters.get("realm", "")
        service = challenge.parameters.get("service", "")
        key = (str(audience.origin), realm, service, identity.key, *wanted)
        async with self._flights.setdefault(key, anyio.Lock()):
            found = self._tokens.get(key)
            if found is None or found.expires_at <= time.monotonic() or f"Bearer {found.value}" == refused:
                self._tokens.pop(key, None)
                reply = await self.request_token(audience, identity, realm, service, wanted)
                found = self._keep(key, reply, audience)
        return f"Bearer {found.value}"

    def _keep(self, key: tuple[str, ...], reply: _TokenReply, audience: Audience) -> _Token:
        value = reply.token or reply.access_token or ""
        if not value or not value.isascii() or any(c <= " " for c in value):
            raise self._unauthenticated(audience, "its token server sent no usable token")
        life = reply.expires_in or 0
        life = min(max(life, _TOKEN_LIFE), _LONGEST_LIFE)
        token = _Token(value, time.monotonic() + life * 0.9)
        while len(self._tokens) >= _CACHE:
            oldest = next(iter(self._tokens))
            del self._tokens[oldest]
            self._flights.pop(oldest, None)
        self._tokens[key] = token
        return token

    async def request_token(
        self,
        audience: Audience,
        identity: Identity,
        realm: str,
        service: str,
        scopes: tuple[str, ...],
        *,
        offline: bool = False,
    ) -> _TokenReply:
        """Ask a realm for a token; with the identity's credentials only if the realm is bound to the registry.

        Raises:
            RemoteUnauthenticatedError, RemoteDeniedError: The realm refused.
            RemoteUnavailableError: It did not answer, or not as a realm.

        """
        name = audience.host.name
        try:
            url = parse_url(realm)
        except ProtocolError as exc:
            raise self._unauthenticated(audience, f"its token realm cannot be used ({exc.message})") from exc
        if audience.origin.scheme == "https" and url.origin.scheme == "http":
            raise self._unauthenticated(
                audience, f"its token realm {url.origin} is not encrypted, which was refused"
            )
        bound = is_bound(url.origin.host, audience.bound_to, self._trusted)
        credentials = identity.credentials if bound else None
        request = self._token_request(audience, url, credentials, service, scopes, offline=offline)
        try:
            async with self._client.slot(url.origin):
                status, reply, body = await self._client.send(
                    request, lambda response: self._consume(response, url.origin)
                )
        except TransportError as exc:
            raise failure(
                f"no token for {name} from {url.origin.netloc}",
                (HostReply(host=url.origin.netloc, message=exc.message),),
                subject=name,
            ) from exc
        if status == 200:
            try:
                return decode(body, _TokenReply, what=f"the token of {name}", limit=self._limits.token_body)
            except LadingError as exc:
                raise self._unauthenticated(audience, "its token server's reply is malformed") from exc
        hint = f"log in to {name}"
        if identity.credentials is not None and not bound:
            hint = (
                f"the credentials were not sent to {url.origin.host}, which is not known to belong to {name}; "
                "name it in trusted_realms if it does"
            )
        raise failure(f"no token for {name}", (reply,), subject=name, hint=hint)

    def _consume(self, response: Response, origin: Origin) -> tuple[int, HostReply, bytes]:
        if response.status == 200:
            return 200, HostReply(host=origin.netloc, status=200), response.read(self._limits.token_body)
        reply = read_reply(response, origin.netloc, self._limits.error_body)
        return response.status, reply, b""

    @staticmethod
    def _token_request(
        audience: Audience,
        url: Url,
        credentials: Credentials | None,
        service: str,
        scopes: tuple[str, ...],
        *,
        offline: bool,
    ) -> Request:
        same = url.origin.host == audience.origin.host
        trust = audience.host.trust if same else Trust(ca=audience.host.trust.ca)
        guard = None if same else audience.origin
        private = tuple(audience.host.header) if same else ()
        timeout = audience.host.dial_timeout
        if credentials is not None and credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "service": service,
                "client_id": CLIENT_ID,
                "scope": " ".join(scopes),
                "refresh_token": credentials.identity_token,
            }
            return Request(
                method="POST",
                url=url,
                fields=(("Content-Type", "application/x-www-form-urlencoded"),),
                private=private,
                body=Bytes(urlencode(form).encode()),
                trust=trust,
                guard=guard,
                connect_timeout=timeout or 15.0,
            )
        query = parse_qsl(urlsplit(url.target).query, keep_blank_values=True)
        if service:
            query.append(("service", service))
        query += [("scope", scope) for scope in scopes]
        if credentials is not None and credentials.username:
            query.append(("account", credentials.username))
            private += (("Authorization", basic(credentials)),)
        if offline:
            query += [("client_id", CLIENT_ID), ("offline_token", "true")]
        path = url.target.partition("?")[0]
        target = path + ("?" + urlencode(query, quote_via=quote) if query else "")
        return Request(
            method="GET",
            url=Url(url.origin, target),
            private=private,
            trust=trust,
            guard=guard,
            connect_timeout=timeout or 15.0,
        )


class Bytes:
    """A small request body."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def length(self) -> int:
        """Its length."""
        return len(self._data)

    def fill(self, buffer: memoryview, offset: int) -> int:
        """Copy the next bytes."""
        piece = self._data[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)

    def sent(self, offset: int) -> None:
        """Nobody wants to know."""
