"""Routes and requests of the Engine API, independent of how they arrived.

A path is decoded exactly once and routed on its decoded segments (hostile-input.md A1). Image names contain slashes, so
``{name:.*}`` takes one or more segments; a route without parameters wins over one with, and a plain parameter wins over a
greedy one, whatever the order in which they were added.
"""

import base64
import binascii
import contextlib
import json
import re
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import anyio
import msgspec
from multidict import MultiDict

from lading.api.engine import limits, web
from lading.api.engine import version as versions
from lading.api.engine.version import ApiVersion
from lading.core.remotes import Credentials
from lading.errors import InvalidArgumentError, NotFoundError
from lading.oci.descriptor import Platform

Handler = Callable[["Request"], Awaitable[web.StreamResponse]]
Params = dict[str, str]
_PARAMETER: Final = re.compile(r"\{([a-z_]+)(:\.\*)?\}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_FALSE: Final = frozenset({"", "0", "no", "false", "none"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method and path pattern.

    ``endless`` routes (events, wait …) end at once when the daemon stops. What ``finishes`` goes on when its client leaves:
    a container that is half stopped is of use to nobody.
    """

    method: str
    pattern: str
    segments: tuple[str, ...]
    handler: Handler
    endless: bool = False
    finishes: bool = False

    @property
    def rank(self) -> int:
        """0 without parameters, 1 with, 2 with a greedy one."""
        return 2 if ":.*}" in self.pattern else 1 if "{" in self.pattern else 0

    def match(self, segments: Sequence[str]) -> Params | None:
        """The parameters if the path fits; linear in its length."""
        params: Params = {}
        for index, part in enumerate(self.segments):
            parameter = _PARAMETER.fullmatch(part)
            if parameter is not None and parameter[2]:
                after = len(self.segments) - index - 1
                end = len(segments) - after
                if end <= index or self._tail(index + 1, segments[end:], params) is None:
                    return None
                params[parameter[1]] = "/".join(segments[index:end])
                return params
            if index >= len(segments) or not _fits(part, segments[index], params):
                return None
        return params if len(segments) == len(self.segments) else None

    def _tail(self, start: int, rest: Sequence[str], params: Params) -> Params | None:
        parts = self.segments[start:]
        fits = all(_fits(part, segment, params) for part, segment in zip(parts, rest, strict=True))
        return params if fits else None


def _fits(part: str, segment: str, params: Params) -> bool:
    parameter = _PARAMETER.fullmatch(part)
    if parameter is None:
        return part == segment
    params[parameter[1]] = segment
    return True


class Router:
    """The routes of one server."""

    def __init__(self) -> None:
        self._fixed: dict[tuple[str, str], Route] = {}
        self._patterns: dict[str, list[Route]] = {}
        self._mounted: dict[str, Callable[[], Awaitable[Router]]] = {}

    def add(
        self, method: str, pattern: str, handler: Handler, *, endless: bool = False, finishes: bool = False
    ) -> None:
        """Serve ``pattern`` with ``handler``, with and without a version before it.

        ``{name}`` takes one segment, ``{name:.*}`` (at most once in a pattern) one or more.
        """
        segments = tuple(pattern.removeprefix("/").split("/"))
        if pattern.count(":.*}") > 1:
            raise ValueError(pattern)
        route = Route(
            method=method,
            pattern=pattern,
            segments=segments,
            handler=handler,
            endless=endless,
            finishes=finishes,
        )
        if route.rank == 0:
            self._fixed[method, pattern] = route
        else:
            routes = self._patterns.setdefault(method, [])
            routes.append(route)
            routes.sort(key=lambda other: other.rank)

    def mount(self, heads: Collection[str], router: "Callable[[], Awaitable[Router]]") -> None:
        """Let another router serve what begins with one of ``heads``; it is asked for by each such request."""
        self._mounted |= dict.fromkeys(heads, router)

    def routes(self) -> list[Route]:
        """All routes but those of mounted routers."""
        return [*self._fixed.values(), *(route for routes in self._patterns.values() for route in routes)]

    async def resolve(self, method: str, segments: Sequence[str]) -> tuple[Route, Params]:
        """`find`, here or in the router that serves what begins as the path does. Raises what getting that one raises, too."""
        mounted = self._mounted.get(segments[0]) if segments else None
        router = self if mounted is None else await mounted()
        return router.find(method, segments)

    def find(self, method: str, segments: Sequence[str]) -> tuple[Route, Params]:
        """The route of a decoded path without its version. Raises `NotFoundError` in Docker's words."""
        fixed = self._fixed.get((method, "/" + "/".join(segments)))
        if fixed is not None:
            return fixed, {}
        for route in self._patterns.get(method, ()):
            params = route.match(segments)
            if params is not None:
                return route, params
        raise NotFoundError("page not found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A request target taken apart: the version asked for, decoded segments without it, and the query."""

    version: ApiVersion | None
    segments: tuple[str, ...]
    query: MultiDict[str]


def parse_target(raw: str) -> Target:
    """Take apart a request target. Raises `InvalidArgumentError` for whatever is not one clear path (A1)."""
    raw_path, _, raw_query = raw.partition("?")
    if len(raw_path) > limits.PATH:
        raise InvalidArgumentError(f"the path is longer than {limits.PATH} bytes")
    path = _decode(raw_path, "path")
    if not path.startswith("/"):
        raise InvalidArgumentError("the request target is not a path")
    segments = path[1:].split("/")
    if _CONTROL.search(path) or any(segment in ("", ".", "..") for segment in segments):
        raise InvalidArgumentError(
            "the path is not acceptable", hint="empty segments, '.', '..' and control characters are refused"
        )
    version = versions.of_segment(segments[0])
    if version is not None:
        segments = segments[1:]
    return Target(version=version, segments=tuple(segments), query=_parse_query(raw_query))


def _decode(text: str, what: str) -> str:
    try:
        # aiohttp hands over what is not UTF-8 as surrogates; those bytes are judged like escaped ones.
        return urllib.parse.unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode()
    except UnicodeError as exc:
        raise InvalidArgumentError(f"the {what} is not UTF-8") from exc


def _parse_query(raw: str) -> MultiDict[str]:
    query: MultiDict[str] = MultiDict()
    fields = raw.split("&") if raw else []
    if len(fields) > limits.QUERY_FIELDS:
        raise InvalidArgumentError(f"more than {limits.QUERY_FIELDS} fields in the query")
    for field in fields:
        key, _, value = field.replace("+", " ").partition("=")
        if key:
            query.add(_decode(key, "query"), _decode(value, "query"))
    if any("\0" in key or "\0" in value for key, value in query.items()):
        raise InvalidArgumentError("the query holds a NUL")
    return query


class Request:
    """One request: what the client asked for, decoded and checked."""

    def __init__(self, raw: web.BaseRequest, target: Target, params: Params) -> None:
        self.raw = raw
        """aiohttp's request; ``raw.content`` streams the body."""
        self.version: ApiVersion = target.version or versions.MAX
        """The API version in force; answers are shaped to it."""
        self.query = target.query
        self.started: web.StreamResponse | None = None
        """The answer that has begun, after which no status can be sent any more."""
        self._params = params

    def param(self, name: str) -> str:
        """A part of the path, decoded."""
        return self._params[name]

    def at_least(self, major: int, minor: int) -> bool:
        """Whether the API version in force is this one or a newer one."""
        return self.version >= (major, minor)

    def text(self, name: str, default: str = "") -> str:
        """A query field's first value."""
        return self.query.get(name, default)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A query field as Docker reads booleans: everything but ``0 no false none`` and empty is true."""
        value = self.query.get(name)
        return default if value is None else value.strip().lower() not in _FALSE

    def integer(self, name: str, default: int = 0, *, minimum: int | None = None) -> int:
        """A query field as a number; ``default`` if absent or empty. Raises `InvalidArgumentError`."""
        value = self.query.get(name, "").strip()
        if not value:
            return default
        if not re.fullmatch(r"[+-]?\d{1,19}", value, re.ASCII):
            raise InvalidArgumentError(f"invalid value {value[:64]!r} for {name}", hint="give a whole number")
        number = int(value)
        if minimum is not None and number < minimum:
            raise InvalidArgumentError(f"invalid value {number} for {name}", hint=f"the least is {minimum}")
        return number

    def filters(self, allowed: Collection[str] | None = None) -> dict[str, list[str]]:
        """The ``filters`` field, in either of Docker's two forms, as key to values.

        Raises:
            InvalidArgumentError: It is not such JSON, over a limit (A7), or has a key outside ``allowed``.

        """
        return parse_filters(self.query.get("filters", ""), allowed)

    def platform_json(self, name: str) -> Platform | None:
        """A platform given as one JSON object; ``None`` if absent. Raises `InvalidArgumentError`."""
        values = self.platforms_json(name)
        if len(values) > 1:
            raise InvalidArgumentError(f"{name} is given {len(values)} times", hint="give one")
        return values[0] if values else None

    def platforms_json(self, name: str) -> list[Platform]:
        """Platforms given as JSON objects, one per occurrence. Raises `InvalidArgumentError`."""
        return [_platform(value) for value in self.query.getall(name, []) if value]

    def registry_auth(self) -> Credentials | None:
        """Credentials of ``X-Registry-Auth``; ``None`` if absent, anonymous or undecodable."""
        return parse_auth(self.raw.headers.get("X-Registry-Auth", ""))

    def meta_headers(self) -> dict[str, str]:
        """``X-Meta-*`` headers, which pull and push forward to the registry."""
        return {key: value for key, value in self.raw.headers.items() if key.lower().startswith("x-meta-")}

    async def body(self, limit: int = limits.JSON_BODY) -> bytes:
        """The whole body. Raises `InvalidArgumentError` over ``limit`` bytes, or if it stops arriving."""
        if (self.raw.content_length or 0) > limit:
            raise InvalidArgumentError(f"request body too large: the limit is {limit} bytes")
        parts = bytearray()
        async for chunk in self.chunks(idle=limits.BODY_IDLE_SECONDS):
            parts += chunk
            if len(parts) > limit:
                raise InvalidArgumentError(f"request body too large: the limit is {limit} bytes")
        return bytes(parts)

    async def chunks(self, *, idle: float | None = None) -> AsyncIterator[bytes]:
        """The body as it arrives, unlimited in length; ``idle`` seconds may pass between parts.

        Raises `InvalidArgumentError` if it stops arriving or is broken off.
        """
        while True:
            try:
                with anyio.fail_after(idle) if idle is not None else contextlib.nullcontext():
                    chunk = await self.raw.content.readany()
            except TimeoutError as exc:
                raise InvalidArgumentError(
                    f"the request body did not arrive within {idle:g} seconds"
                ) from exc
            except web.RequestPayloadError as exc:
                raise InvalidArgumentError("the request body is broken off or badly framed") from exc
            if not chunk:
                return
            yield chunk

    async def json(self, limit: int = limits.JSON_BODY) -> dict[str, Any]:
        """The body as a JSON object; empty if there is none. Unknown keys are the caller's to ignore.

        Raises `InvalidArgumentError`: not JSON by its header (A5) or its bytes, not an object, or over ``limit`` bytes.
        """
        data = await self.body(limit)
        if not data.strip():
            return {}
        if self.raw.content_type != "application/json":
            raise InvalidArgumentError(
                f"unsupported Content-Type header ({self.raw.content_type[:64]}): must be 'application/json'"
            )
        try:
            value = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
            raise InvalidArgumentError(f"invalid JSON: {exc}") from exc
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise InvalidArgumentError("invalid JSON: expected an object")
        return cast("dict[str, Any]", value)


def parse_filters(text: str, allowed: Collection[str] | None = None) -> dict[str, list[str]]:
    """Parse ``{"key":{"value":true}}`` or the older ``{"key":["value"]}``; see `Request.filters`."""
    if not text:
        return {}
    if len(text) > limits.FILTER_BYTES:
        raise InvalidArgumentError(f"filters are longer than {limits.FILTER_BYTES} bytes")
    try:
        document = msgspec.json.decode(text, type=dict[str, dict[str, bool] | list[str]])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise InvalidArgumentError(f"invalid filter: {exc}") from exc
    if sum(map(len, document.values())) > limits.FILTER_VALUES:
        raise InvalidArgumentError(f"more than {limits.FILTER_VALUES} filter values")
    unknown = [key for key in document if allowed is not None and key not in allowed]
    if unknown:
        raise InvalidArgumentError(f"invalid filter '{unknown[0][:128]}'")
    return {key: list(values) for key, values in document.items()}


def _platform(text: str) -> Platform:
    try:
        platform = msgspec.json.decode(text, type=Platform)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise InvalidArgumentError(f"failed to parse platform: {exc}") from exc
    if not platform.os or not platform.architecture:
        raise InvalidArgumentError("both OS and Architecture must be provided")
    return platform


class _Auth(msgspec.Struct, rename="lower"):
    username: str = ""
    password: str = ""
    auth: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


def parse_auth(header: str) -> Credentials | None:
    """Decode an ``X-Registry-Auth`` value, padded or not; ``None`` for anything that holds no credentials."""
    try:
        raw = base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))
        return credentials_of(json.loads(raw))
    except (ValueError, TypeError, RecursionError):
        return None


def credentials_of(document: object) -> Credentials | None:
    """Credentials of Docker's auth object; ``None`` if it holds none. Raises ``ValueError`` if it is something else."""
    auth = msgspec.convert(document, _Auth)
    if auth.auth and not auth.username:
        try:
            username, _, password = base64.b64decode(auth.auth).decode().partition(":")
        except (binascii.Error, UnicodeError):
            username = password = ""
        auth.username, auth.password = username, password.rstrip("\0")
    if not (auth.username or auth.identitytoken or auth.registrytoken):
        return None
    return Credentials(
        username=auth.username,
        password=auth.password,
        identity_token=auth.identitytoken,
        registry_token=auth.registrytoken,
        server_address=auth.serveraddress,
    )
