"""``POST /build``: the legacy builder over Docker's API, and its cancellation."""

import base64
import binascii
from typing import Any, Final, TypeVar

import msgspec

from lading.api.engine import web
from lading.api.engine.routing import Request, Router
from lading.api.engine.streams import ProgressStream, empty
from lading.builder.errors import VertexError
from lading.builder.legacy.build import LegacyBuilder
from lading.builder.legacy.wish import LegacyWish, names_of
from lading.core.remotes import Credentials
from lading.errors import InvalidArgumentError, NotFoundError, UnsupportedError
from lading.oci import platform as platforms

T = TypeVar("T")
_LIMITS: Final = (
    "memory",
    "memswap",
    "cpushares",
    "cpuperiod",
    "cpuquota",
    "cpusetcpus",
    "cpusetmems",
)
"""Limits of the containers of steps."""
_NETWORKS: Final = {"": "", "default": "", "bridge": "", "none": "none", "host": "host"}


def add_routes(router: Router, builder: LegacyBuilder) -> None:
    """Serve building, and giving it up."""

    async def build(request: Request) -> web.StreamResponse:
        wish = wish_of(request)
        async with ProgressStream(request) as stream:
            try:
                await builder.build(wish, request.chunks(), stream.send)
            except VertexError as exc:
                await stream.send(_failure(exc))
        return stream.response

    async def cancel(request: Request) -> web.StreamResponse:
        build_id = request.text("id")
        if not build_id:
            raise InvalidArgumentError("build ID not provided")
        if not builder.cancel(build_id):
            raise NotFoundError(f"no build {build_id[:128]}", subject=build_id[:128])
        return empty(200)

    router.add("POST", "/build", build)
    router.add("POST", "/build/cancel", cancel)


def _failure(error: VertexError) -> dict[str, Any]:
    detail: dict[str, Any] = {"message": error.message}
    if error.exit_code is not None:
        detail = {"code": error.exit_code, **detail}
    return {"errorDetail": detail, "error": error.message}


def wish_of(request: Request) -> LegacyWish:
    """What a request asks. Raises `InvalidArgumentError`; `UnsupportedError` for what this builder does not do."""
    version = request.text("version", "1")
    if version not in ("1", "2"):
        raise InvalidArgumentError(f"invalid version {version[:16]}", subject="version")
    if version == "2":
        raise UnsupportedError("builds by BuildKit go over /grpc here", hint="use docker buildx")
    _refuse(request)
    remote = request.text("remote")
    if remote == "client-session":
        raise UnsupportedError("a context from a session needs BuildKit", hint="use docker buildx")
    return LegacyWish(
        attributes=_attributes(request, remote),
        names=names_of(request.query.getall("t", [])),
        remote=remote,
        quiet=request.flag("q"),
        keep_containers=not request.flag("rm", default=True) and not request.flag("forcerm"),
        no_cache=request.flag("nocache"),
        build_id=request.text("buildid"),
        cache_from=request.text("cachefrom") not in ("", "null", "[]"),
        credentials=_credentials(request.raw.headers.get("X-Registry-Config", "")),
    )


def _refuse(request: Request) -> None:
    for name in _LIMITS:
        if request.text(name, "0") not in ("", "0"):
            raise UnsupportedError(f"limits of a build are not supported: {name}", hint="leave it out")
    if request.flag("squash"):
        raise InvalidArgumentError(
            "squash is only supported with experimental mode", hint="use a second stage"
        )
    if request.query.getall("securityopt", []):
        raise InvalidArgumentError(
            "The daemon on this platform does not support setting security options on build"
        )
    if request.text("isolation") not in ("", "default"):
        raise InvalidArgumentError(f"Unsupported isolation: {request.text('isolation')!r}")
    if request.text("outputs") not in ("", "null", "[]"):
        raise InvalidArgumentError("outputs need BuildKit", hint="use docker buildx")
    if request.text("networkmode") not in _NETWORKS:
        raise UnsupportedError(
            f"builds cannot use network {request.text('networkmode')[:64]!r}",
            hint="use default, none or host",
        )


def _attributes(request: Request, remote: str) -> dict[str, str]:
    found = {
        "filename": request.text("dockerfile") or "Dockerfile",
        "image-resolve-mode": "pull" if request.flag("pull") else "local",
        **{f"build-arg:{key}": value for key, value in _map(request, "buildargs").items()},
        **{f"label:{key}": value for key, value in _map(request, "labels").items()},
    }
    optional = {
        "context": remote,
        "target": request.text("target"),
        "platform": _platform(request.text("platform")),
        "cgroup-parent": request.text("cgroupparent"),
        "shm-size": request.text("shmsize") if request.integer("shmsize", minimum=0) else "",
        "add-hosts": ",".join(host.replace(":", "=", 1) for host in request.query.getall("extrahosts", [])),
        "ulimit": ",".join(_ulimits(request)),
        "force-network-mode": _NETWORKS[request.text("networkmode")],
    }
    found |= {key: value for key, value in optional.items() if value}
    if request.flag("nocache"):
        found["no-cache"] = ""
    return found


def _platform(text: str) -> str:
    if "," in text:
        raise InvalidArgumentError(f"invalid platform {text[:64]!r}: the legacy builder builds for one")
    return platforms.formatted(platforms.parse(text)) if text else ""


class _Ulimit(msgspec.Struct, frozen=True, rename="pascal"):
    name: str
    soft: int
    hard: int


class _Login(msgspec.Struct, frozen=True, rename="lower"):
    username: str = ""
    password: str = ""
    identity_token: str = msgspec.field(default="", name="identitytoken")
    registry_token: str = msgspec.field(default="", name="registrytoken")
    server_address: str = msgspec.field(default="", name="serveraddress")


def _json(request: Request, name: str, kind: type[T], default: T) -> T:
    text = request.text(name)
    if text in ("", "null"):
        return default
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InvalidArgumentError(f"error reading {name}: {exc}") from exc


def _map(request: Request, name: str) -> dict[str, str]:
    """A JSON object of texts; what is null is left out."""
    found = _json(request, name, dict[str, str | None], {})
    return {key: value for key, value in found.items() if value is not None}


def _ulimits(request: Request) -> list[str]:
    return [f"{one.name}={one.soft}:{one.hard}" for one in _json(request, "ulimits", list[_Ulimit], [])]


def _credentials(header: str) -> dict[str, Credentials]:
    """The credentials of ``X-Registry-Config`` by host; none if it cannot be read, as Docker has it."""
    try:
        text = base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))
        document = msgspec.json.decode(text or b"{}", type=dict[str, _Login])
    except (msgspec.DecodeError, binascii.Error, RecursionError):
        return {}
    found: dict[str, Credentials] = {}
    for key, entry in document.items():
        host = key.partition("://")[2] or key
        found[_host(host.partition("/")[0])] = Credentials(
            username=entry.username,
            password=entry.password,
            identity_token=entry.identity_token,
            registry_token=entry.registry_token,
            server_address=entry.server_address,
        )
    return found


def _host(host: str) -> str:
    """Docker Hub has several names."""
    return "docker.io" if host in ("index.docker.io", "registry-1.docker.io") else host
