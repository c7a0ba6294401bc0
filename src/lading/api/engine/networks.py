"""Routes of networks."""

from lading.api.engine import web
from lading.api.engine.routing import Request, Router
from lading.api.engine.streams import empty, json_response
from lading.containers import netservice
from lading.containers.service import ContainerService
from lading.errors import InvalidArgumentError


class NetworkRoutes:
    """Handlers for ``/networks``."""

    def __init__(self, service: ContainerService) -> None:
        self._containers = service
        self._networks = service.networks

    async def list(self, request: Request) -> web.StreamResponse:
        """``GET /networks``."""
        return json_response(self._networks.list(request.filters(netservice.LIST_FILTERS)))

    async def inspect(self, request: Request) -> web.StreamResponse:
        """``GET /networks/{name}``."""
        return json_response(self._networks.inspect(request.param("name")))

    async def create(self, request: Request) -> web.StreamResponse:
        """``POST /networks/create``."""
        network = await self._networks.create(await request.json())
        return json_response({"Id": network.id, "Warning": ""}, 201)

    async def remove(self, request: Request) -> web.StreamResponse:
        """``DELETE /networks/{name}``."""
        await self._networks.remove(request.param("name"))
        return empty(204)

    async def prune(self, request: Request) -> web.StreamResponse:
        """``POST /networks/prune``."""
        removed = await self._networks.prune(request.filters(netservice.PRUNE_FILTERS))
        return json_response({"NetworksDeleted": removed or None})

    async def connect(self, request: Request) -> web.StreamResponse:
        """``POST /networks/{name}/connect``."""
        body = await request.json()
        container = self._containers.find(_named(body))
        await self._networks.connect(request.param("name"), container, body.get("EndpointConfig"))
        return empty(200)

    async def disconnect(self, request: Request) -> web.StreamResponse:
        """``POST /networks/{name}/disconnect``."""
        body = await request.json()
        await self._networks.disconnect(request.param("name"), self._containers.find(_named(body)))
        return empty(200)


def _named(body: dict[str, object]) -> str:
    name = body.get("Container")
    if not isinstance(name, str) or not name:
        raise InvalidArgumentError("the body names no Container")
    return name


def add_routes(router: Router, service: ContainerService) -> None:
    """Serve ``/networks``."""
    routes = NetworkRoutes(service)
    router.add("GET", "/networks", routes.list)
    router.add("GET", "/networks/{name}", routes.inspect)
    router.add("DELETE", "/networks/{name}", routes.remove, finishes=True)
    router.add("POST", "/networks/create", routes.create, finishes=True)
    router.add("POST", "/networks/prune", routes.prune)
    router.add("POST", "/networks/{name}/connect", routes.connect, finishes=True)
    router.add("POST", "/networks/{name}/disconnect", routes.disconnect, finishes=True)
