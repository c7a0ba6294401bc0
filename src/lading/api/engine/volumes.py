"""Routes of volumes."""

from lading.api.engine import web
from lading.api.engine.routing import Request, Router
from lading.api.engine.streams import empty, json_response
from lading.containers import volumeservice
from lading.containers.volumeservice import VolumeService
from lading.errors import UnsupportedError

_ANONYMOUS_ONLY_SINCE = (1, 42)
"""Before this version a prune removed named volumes too."""


class VolumeRoutes:
    """Handlers for ``/volumes``."""

    def __init__(self, volumes: VolumeService) -> None:
        self._volumes = volumes

    async def list(self, request: Request) -> web.StreamResponse:
        """``GET /volumes``."""
        found = self._volumes.list(request.filters(volumeservice.LIST_FILTERS))
        return json_response({"Volumes": found, "Warnings": None})

    async def inspect(self, request: Request) -> web.StreamResponse:
        """``GET /volumes/{name}``."""
        return json_response(self._volumes.inspect(request.param("name")))

    async def create(self, request: Request) -> web.StreamResponse:
        """``POST /volumes/create``."""
        return json_response(await self._volumes.create(await request.json()), 201)

    async def update(self, request: Request) -> web.StreamResponse:
        """``PUT /volumes/{name}``, which is for cluster volumes alone."""
        self._volumes.inspect(request.param("name"))
        raise UnsupportedError("only cluster volumes can be updated, and this engine has no Swarm")

    async def remove(self, request: Request) -> web.StreamResponse:
        """``DELETE /volumes/{name}``."""
        await self._volumes.remove(request.param("name"), force=request.flag("force"))
        return empty(204)

    async def prune(self, request: Request) -> web.StreamResponse:
        """``POST /volumes/prune``."""
        filters = request.filters(volumeservice.PRUNE_FILTERS)
        pruned = await self._volumes.prune(filters, all=not request.at_least(*_ANONYMOUS_ONLY_SINCE))
        return json_response({"VolumesDeleted": list(pruned.names), "SpaceReclaimed": pruned.reclaimed})


def add_routes(router: Router, volumes: VolumeService) -> None:
    """Serve ``/volumes``."""
    routes = VolumeRoutes(volumes)
    router.add("GET", "/volumes", routes.list)
    router.add("GET", "/volumes/{name}", routes.inspect)
    router.add("PUT", "/volumes/{name}", routes.update)
    router.add("DELETE", "/volumes/{name}", routes.remove, finishes=True)
    router.add("POST", "/volumes/create", routes.create, finishes=True)
    router.add("POST", "/volumes/prune", routes.prune)
