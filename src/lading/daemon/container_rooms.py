"""The place of containers in the daemon: their routes are there from the start, and what serves them comes when it is needed.

Shims, networks, volumes and the containers themselves are a tenth of what a start would cost. Where there are containers they
are opened before the daemon answers, because clients expect to find them as they were. Where there are none, they are opened
for the first who asks, or a moment after the start.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from lading.api.engine.routing import Router
from lading.api.engine.system import ContainerCounts, DiskUsage
from lading.api.engine.version import ApiVersion
from lading.daemon import usage
from lading.daemon.stores import Running
from lading.images.removal import Use
from lading.kit import aio
from lading.kit.ondemand import OnDemand

if TYPE_CHECKING:  # what is not to be loaded yet
    from lading.containers.remapping import Remapping
    from lading.containers.service import ContainerService
    from lading.core.networks import Networks
    from lading.core.runtime import Runtime

HEADS: Final = ("commit", "containers", "exec", "networks", "volumes")
"""What the paths begin with that are served here."""
QUIET_SECONDS: Final = 1.0
"""Seconds after the start in which nothing is loaded unasked: who waited for the daemon is being answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """The open rooms."""

    runtime: "Runtime"
    networks: "Networks"
    remapping: "Remapping | None"
    service: "ContainerService"
    router: Router
    """Of `HEADS`."""


OpenRooms = Callable[[], AbstractAsyncContextManager[Rooms]]


class ContainerRooms(OnDemand[Rooms]):
    """The rooms of containers, or what stands for them until they are needed: then there is no container.

    ``load`` imports them; it is called on a thread.
    """

    def __init__(self, load: Callable[[], OpenRooms]) -> None:
        super().__init__(partial(_opened, load))

    def add_routes(self, router: Router) -> None:
        """Serve what begins with one of `HEADS`; the first request opens the rooms."""
        router.mount(HEADS, self._router)

    async def _router(self) -> Router:
        return (await self.get()).router

    async def warm(self) -> None:
        """Open the rooms once it is quiet, and have ready what the first container needs; background work.

        Raises what opening raises: a daemon that cannot have containers ends and says why.
        """
        if self.opened is None:
            await anyio.sleep(QUIET_SECONDS)
        await (await self.get()).service.warm()

    async def shut_down(self) -> None:
        """Stop all containers."""
        if self.opened is not None:
            await self.opened.service.shut_down()

    async def put_away(self, container: str) -> None:
        """Stop one for as long as it cannot be seen."""
        await (await self.get()).service.put_away(container)

    def running(self) -> list[Running]:
        """The containers that run."""
        found = self.opened.service.all() if self.opened else []
        return [Running(id=each.id, name=each.name) for each in found if each.state.running]

    def uses(self) -> Sequence[Use]:
        """Which images containers use."""
        return usage.container_uses(self.opened.service) if self.opened else []

    async def counts(self) -> ContainerCounts:
        """Containers by state, for ``/info``."""
        return await usage.count_containers(self.opened.service) if self.opened else ContainerCounts()

    async def container_usage(self, version: ApiVersion) -> DiskUsage:
        """Containers for ``/system/df``."""
        return await usage.container_usage(self.opened.service, version) if self.opened else DiskUsage()

    async def volume_usage(self, version: ApiVersion) -> DiskUsage:
        """Volumes for ``/system/df``."""
        return await usage.volume_usage((await self.get()).service, version)


@asynccontextmanager
async def _opened(load: Callable[[], OpenRooms]) -> AsyncGenerator[Rooms]:
    open_rooms = await aio.run(aio.DISK, load)
    async with open_rooms() as rooms:
        yield rooms
