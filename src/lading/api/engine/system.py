"""System routes: ``_ping``, ``version``, ``info``, ``auth`` and ``system/df``.

What these tell comes from small sources that the composition root fills in; nothing here measures or walks anything.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from lading.api.engine import version as versions
from lading.api.engine import web
from lading.api.engine.routing import Request, Router, credentials_of
from lading.api.engine.streams import COMMON_HEADERS, json_response
from lading.api.engine.version import ApiVersion
from lading.core.remotes import Credentials, Registries
from lading.errors import InvalidArgumentError

DEFAULT_REGISTRY: Final = "https://index.docker.io/v1/"
BUILDER_VERSION: Final = "2"
"""BuildKit: what ``docker build`` uses when it has the buildx plugin."""
_DF_ORDER: Final = {
    "image": "Image",
    "container": "Container",
    "volume": "Volume",
    "build-cache": "BuildCache",
}
"""Kinds of objects in ``/system/df``, with the word for them in the answer."""
_LIMITS: Final = (
    "MemoryLimit",
    "SwapLimit",
    "CpuCfsPeriod",
    "CpuCfsQuota",
    "CPUShares",
    "CPUSet",
    "PidsLimit",
)
"""What clients are told of limits that containers can have."""
_PING: Final = {
    **COMMON_HEADERS,
    "Builder-Version": BUILDER_VERSION,
    "Docker-Experimental": "false",
    "Swarm": "inactive",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Content-Type": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Facts of the machine and of this daemon that do not change while it runs. Sizes are in bytes."""

    id: str
    name: str
    version: str
    python: str
    kernel: str
    operating_system: str
    os_version: str
    architecture: str
    goarch: str
    cpus: int
    memory: int
    cgroup_version: str
    data_root: str
    driver: str
    namespace: str
    driver_status: Sequence[Sequence[str]] = ()
    """What buildx, compose and pack look at to know whether this is a containerd store."""
    components: Mapping[str, str] = field(default_factory=dict[str, str])
    """Program (``containerd-shim-runc-v2``, ``crun``) to its version."""
    runtimes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    default_runtime: str = "runc"
    labels: Sequence[str] = ()
    security_options: Sequence[str] = ()
    insecure_registries: Sequence[str] = ()
    registry_mirrors: Sequence[str] = ()
    debug: bool = False
    warnings: Sequence[str] = ()
    has_cgroups: bool = True
    """Whether containers have cgroups, and with them limits."""
    live_restore: bool = True
    """Whether containers outlive this daemon."""
    log_driver: str = "json-file"
    log_drivers: Sequence[str] = ("json-file", "local", "none", "syslog")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerCounts:
    """How many containers there are in which state."""

    running: int = 0
    paused: int = 0
    stopped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskUsage:
    """One kind of objects for ``system/df``: Docker's list items, and the bytes that they take together."""

    items: Sequence[Any] = ()
    size: int = 0
    active: int = 0
    """Number of items in use."""
    reclaimable: int = 0
    """Bytes that removing what is not in use would free."""


async def _no_images() -> int:
    return 0


async def _no_warnings() -> Sequence[str]:
    return ()


async def _no_containers() -> ContainerCounts:
    return ContainerCounts()


async def _nothing(version: ApiVersion) -> DiskUsage:  # noqa: ARG001 - the shape of a source
    return DiskUsage()


@dataclass(slots=True, kw_only=True)
class Sources:
    """Where the changing numbers come from. Every one must answer from memory or one query."""

    host: Host
    images: Callable[[], Awaitable[int]] = _no_images
    containers: Callable[[], Awaitable[ContainerCounts]] = _no_containers
    image_usage: Callable[[ApiVersion], Awaitable[DiskUsage]] = _nothing
    container_usage: Callable[[ApiVersion], Awaitable[DiskUsage]] = _nothing
    volume_usage: Callable[[ApiVersion], Awaitable[DiskUsage]] = _nothing
    build_usage: Callable[[ApiVersion], Awaitable[DiskUsage]] = _nothing
    listeners: Callable[[], int] = int
    open_files: Callable[[], int] = int
    registries: Registries | None = None
    warnings: Callable[[], Awaitable[Sequence[str]]] = _no_warnings


def add_routes(router: Router, sources: Sources) -> None:
    """Serve the system routes."""
    system = _System(sources)
    router.add("GET", "/_ping", system.ping)
    router.add("HEAD", "/_ping", system.ping)
    router.add("GET", "/version", system.version)
    router.add("GET", "/info", system.info)
    router.add("GET", "/system/df", system.df)
    router.add("POST", "/auth", system.auth)


def usage_document(found: Mapping[str, DiskUsage], version: ApiVersion, *, verbose: bool) -> dict[str, Any]:
    """The answer of ``/system/df``: Docker's older shape below 1.52, from then on the newer, and without ``verbose`` both."""
    newer: dict[str, Any] = {
        f"{_DF_ORDER[kind]}Usage": _present(
            {
                "ActiveCount": usage.active,
                "TotalCount": len(usage.items),
                "Reclaimable": usage.reclaimable,
                "TotalSize": usage.size,
                "Items": list(usage.items) if verbose else [],
            }
        )
        for kind, usage in found.items()
    }
    if version >= (1, 52) and verbose:
        return newer
    older: dict[str, Any] = {"LayersSize": found["image"].size if "image" in found else 0}
    for kind, name in _DF_ORDER.items():
        plural = name if kind == "build-cache" else f"{name}s"
        older[plural] = list(found[kind].items) if kind in found else None
    return older | newer if version >= (1, 52) else older


def _present(shape: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in shape.items() if value}


class _System:
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    async def ping(self, request: Request) -> web.StreamResponse:
        return web.Response(body=b"" if request.raw.method == "HEAD" else b"OK", headers=_PING)

    async def version(self, request: Request) -> web.StreamResponse:
        return json_response(version_document(self._sources.host, request.version))

    async def info(self, request: Request) -> web.StreamResponse:
        counts = await self._sources.containers()
        changing = {
            "Containers": counts.running + counts.paused + counts.stopped,
            "ContainersRunning": counts.running,
            "ContainersPaused": counts.paused,
            "ContainersStopped": counts.stopped,
            "Images": await self._sources.images(),
            "NFd": self._sources.open_files(),
            "NEventsListener": self._sources.listeners(),
            "SystemTime": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        }
        document = info_document(self._sources.host, request.version)
        warnings = [f"WARNING: {each}" for each in await self._sources.warnings()]
        told = {"Warnings": [*(document["Warnings"] or ()), *warnings] or None}
        return json_response(document | changing | told)

    async def df(self, request: Request) -> web.StreamResponse:
        kinds = set(request.query.getall("type", [])) or set(_DF_ORDER)
        unknown = sorted(kinds - _DF_ORDER.keys())
        if unknown:
            raise InvalidArgumentError(f"unknown object type: {unknown[0][:64]}")
        sources = {
            "image": self._sources.image_usage,
            "container": self._sources.container_usage,
            "volume": self._sources.volume_usage,
            "build-cache": self._sources.build_usage,
        }
        found = {kind: await sources[kind](request.version) for kind in _DF_ORDER if kind in kinds}
        return json_response(usage_document(found, request.version, verbose=request.flag("verbose")))

    async def auth(self, request: Request) -> web.StreamResponse:
        document = await request.json()
        try:
            credentials = credentials_of(document) or Credentials()
        except ValueError as exc:
            raise InvalidArgumentError("the body is not an auth object") from exc
        address = credentials.server_address or str(document.get("serveraddress") or DEFAULT_REGISTRY)
        wanted = Credentials(
            username=credentials.username,
            password=credentials.password,
            identity_token=credentials.identity_token,
            registry_token=credentials.registry_token,
            server_address=address,
        )
        if self._sources.registries is None:
            raise InvalidArgumentError("no registry client is configured")
        token = await self._sources.registries.resolver(wanted).login(wanted)
        return json_response({"Status": "Login Succeeded", "IdentityToken": token})


def version_document(host: Host, version: ApiVersion) -> dict[str, Any]:  # noqa: ARG001 - shaped alike so far
    """The body of ``/version``."""
    engine = {
        "ApiVersion": versions.text(versions.MAX),
        "Arch": host.goarch,
        "Experimental": "false",
        "KernelVersion": host.kernel,
        "MinAPIVersion": versions.text(versions.MIN),
        "Os": "linux",
        "GoVersion": f"Python {host.python}",
        "GitCommit": "",
        "BuildTime": "",
    }
    components = [{"Name": "Engine", "Version": host.version, "Details": engine}]
    components += [{"Name": name, "Version": found, "Details": {}} for name, found in host.components.items()]
    return {
        "Platform": {"Name": f"Lading {host.version}"},
        "Components": components,
        "Version": host.version,
        "ApiVersion": versions.text(versions.MAX),
        "MinAPIVersion": versions.text(versions.MIN),
        "GitCommit": "",
        "GoVersion": f"Python {host.python}",
        "Os": "linux",
        "Arch": host.goarch,
        "KernelVersion": host.kernel,
        "BuildTime": "",
    }


def info_document(host: Host, version: ApiVersion) -> dict[str, Any]:
    """The body of ``/info`` without what changes from moment to moment."""
    indexes: dict[str, dict[str, Any]] = {
        name: {"Name": name, "Mirrors": [], "Secure": False, "Official": False}
        for name in host.insecure_registries
    }
    indexes["docker.io"] = {
        "Name": "docker.io",
        "Mirrors": list(host.registry_mirrors),
        "Secure": True,
        "Official": True,
    }
    document: dict[str, Any] = {
        "ID": host.id,
        "Name": host.name,
        "ServerVersion": host.version,
        "Driver": host.driver,
        "DriverStatus": [list(row) for row in host.driver_status],
        "DockerRootDir": host.data_root,
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "ipvlan", "macvlan", "null"],
            "Authorization": None,
            "Log": list(host.log_drivers),
        },
        **dict.fromkeys(_LIMITS, host.has_cgroups),
        "OomKillDisable": host.has_cgroups and host.cgroup_version == "1",
        "IPv4Forwarding": True,
        "Debug": host.debug,
        "NGoroutines": 0,
        "LoggingDriver": host.log_driver,
        "CgroupDriver": "cgroupfs" if host.has_cgroups else "none",
        "CgroupVersion": host.cgroup_version,
        "KernelVersion": host.kernel,
        "OperatingSystem": host.operating_system,
        "OSVersion": host.os_version,
        "OSType": "linux",
        "Architecture": host.architecture,
        "NCPU": host.cpus,
        "MemTotal": host.memory,
        "IndexServerAddress": DEFAULT_REGISTRY,
        "RegistryConfig": {
            "InsecureRegistryCIDRs": ["::1/128", "127.0.0.0/8"],
            "IndexConfigs": indexes,
            "Mirrors": list(host.registry_mirrors),
        },
        "GenericResources": None,
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Labels": list(host.labels),
        "ExperimentalBuild": False,
        "Runtimes": host.runtimes,
        "DefaultRuntime": host.default_runtime,
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": False,
            "Error": "",
            "RemoteManagers": None,
        },
        "LiveRestoreEnabled": host.live_restore,
        "Isolation": "",
        "InitBinary": "",
        "ContainerdCommit": {"ID": host.components.get("containerd-shim-runc-v2", "")},
        "RuncCommit": {"ID": host.components.get("runc", "") or host.components.get("crun", "")},
        "InitCommit": {"ID": ""},
        "SecurityOptions": list(host.security_options),
        "CDISpecDirs": [],
        "Warnings": list(host.warnings) or None,
    }
    if version < (1, 50):
        document |= {"BridgeNfIptables": False, "BridgeNfIp6tables": False}
    if version >= (1, 46):
        document["Containerd"] = {"Address": "", "Namespaces": {"Containers": host.namespace, "Plugins": ""}}
    return document
