"""The builder's place in the daemon: its routes are there from the start, the builder itself comes with the first who builds.

Most daemons never build, and the builder with its two protocols is a fourth of what a daemon would load.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import structlog

from lading.api.engine import web
from lading.api.engine.routing import Request, Router
from lading.api.engine.system import DiskUsage
from lading.api.engine.version import ApiVersion
from lading.core import content, images, leases, metadata
from lading.core.classic import ClassicStore
from lading.core.events import Bus
from lading.core.metadata import Namespace
from lading.core.remotes import Registries
from lading.daemon.container_rooms import Rooms
from lading.errors import LadingError
from lading.kit import aio
from lading.kit.ondemand import OnDemand
from lading.snapshots.base import DirectorySnapshotter
from lading.transfer.service import TransferService

_log: Final = structlog.get_logger(__name__)
ROUTES: Final = (
    ("POST", "/build", False),
    ("POST", "/build/cancel", False),
    ("POST", "/build/prune", False),
    ("POST", "/grpc", True),
    ("POST", "/session", True),
)
"""Method, path and endlessness of the builder's routes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a builder is made from; ``state`` means nothing after a reboot."""

    database: metadata.Database
    namespace: Namespace
    content: content.Store
    images: images.Store
    leases: leases.Manager
    snapshotter: DirectorySnapshotter
    classic: ClassicStore | None
    """The classic store, if that is the one in use; buildx tells the stores apart by a label of the worker."""
    transfer: TransferService
    registries: Registries
    rooms: Callable[[], Awaitable[Rooms]]
    """Gives what processes of builds share with containers."""
    runtime_name: str
    bridged: bool
    """Whether processes of builds join the default network; else they have a loopback interface alone."""
    state: Path
    bus: Bus
    id: str
    cgroups: bool
    """Whether processes get any."""
    disk: Path
    """Where snapshots are."""
    collect: Callable[[], None]
    """Called when the build cache has let go of something."""


class Builder(Protocol):
    """What the daemon needs of the builder."""

    @property
    def router(self) -> Router:
        """Its `ROUTES`."""
        ...

    async def disk_usage(self, version: ApiVersion) -> DiskUsage:
        """The build cache for ``/system/df``."""
        ...


OpenBuilder = Callable[[Parts], AbstractAsyncContextManager[Builder]]


class Builds(OnDemand[Builder]):
    """The builder of a store, or what stands for it until somebody builds. ``load`` imports it; it is called on a thread."""

    def __init__(self, parts: Parts, load: Callable[[], OpenBuilder]) -> None:
        super().__init__(partial(_opened, parts, load))
        self._parts = parts

    def add_routes(self, router: Router) -> None:
        """Serve the builder's routes; the first request opens it."""
        for method, path, endless in ROUTES:
            router.add(method, path, partial(self._serve, method, path), endless=endless)

    async def _serve(self, method: str, path: str, request: Request) -> web.StreamResponse:
        builder = await self.get()
        route, _ = builder.router.find(method, path.removeprefix("/").split("/"))
        return await route.handler(request)

    async def disk_usage(self, version: ApiVersion) -> DiskUsage:
        """The build cache for ``/system/df``."""
        parts = self._parts
        if self.opened is None and not await parts.database.build_cache(parts.namespace).list():
            return DiskUsage()
        return await (await self.get()).disk_usage(version)

    async def recover(self) -> None:
        """Clean up after builds that an earlier daemon left unfinished, which opening does; background work.

        Most have a lease; what was mounted for a step stands in the state directory, a moment longer than that.
        """
        leased = any(leases.BUILDS in lease.labels for lease in await self._parts.leases.list())
        if leased or await aio.run(aio.DISK, _left, self._parts.state):
            try:
                await self.get()
            except LadingError as exc:
                _log.warning("builder_not_opened", error=str(exc))


def _left(state: Path) -> bool:
    return any(state.glob("*/*"))


@asynccontextmanager
async def _opened(parts: Parts, load: Callable[[], OpenBuilder]) -> AsyncGenerator[Builder]:
    open_builder = await aio.run(aio.DISK, load)
    async with open_builder(parts) as builder:
        yield builder
