"""What clients probe for and this engine does not have: Swarm, plugins, volumes, networks beyond host and none.

Clients must get an answer that they understand: an empty list, a JSON 404, or words that say what is missing.
"""

from typing import Final

from lading.api.engine import web
from lading.api.engine.routing import Handler, Request, Router
from lading.api.engine.streams import json_response
from lading.errors import (
    LadingError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)

_NO_SWARM: Final = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm '
    "and try again."
)
_SWARM: Final = ("nodes", "services", "tasks", "secrets", "configs")


def add_swarm(router: Router) -> None:
    """Refuse Swarm in Docker's own words, by which clients know that there is none."""
    refuse = _refuse(UnavailableError(_NO_SWARM))
    for method in ("GET", "POST", "DELETE"):
        for noun in _SWARM:
            router.add(method, f"/{noun}", refuse)
            router.add(method, f"/{noun}/{{name:.*}}", refuse)
    no_swarm = _refuse(UnsupportedError("this engine has no Swarm"))
    router.add("GET", "/swarm", refuse)
    router.add("GET", "/swarm/unlockkey", refuse)
    for action in ("init", "join", "update", "unlock"):
        router.add("POST", f"/swarm/{action}", no_swarm)
    router.add("POST", "/swarm/leave", _refuse(UnavailableError("This node is not part of a swarm")))


def add_plugins(router: Router) -> None:
    """Serve ``/plugins``, of which there are none."""

    async def listing(request: Request) -> web.StreamResponse:
        request.filters(("capability", "enable", "enabled"))
        return json_response([])

    async def missing(request: Request) -> web.StreamResponse:
        name = request.param("name")
        raise NotFoundError(f'plugin "{name}" not found')

    router.add("GET", "/plugins", listing)
    router.add("GET", "/plugins/{name:.*}/json", missing)
    router.add("DELETE", "/plugins/{name:.*}", missing)
    for action in ("enable", "disable", "set", "push", "upgrade"):
        router.add("POST", f"/plugins/{{name:.*}}/{action}", missing)
    router.add("POST", "/plugins/pull", _refuse(UnsupportedError("this engine has no plugins")))


def _refuse(error: LadingError) -> Handler:
    async def handler(request: Request) -> web.StreamResponse:  # noqa: ARG001 - the shape of a handler
        raise type(error)(error.message, hint=error.hint)

    return handler
