"""Routes of execs."""

from typing import Any

from lading.api.engine import web
from lading.api.engine.containers import size_of, until_left
from lading.api.engine.hijack import hijack
from lading.api.engine.routing import Request, Router
from lading.api.engine.streams import empty, json_response
from lading.containers import views
from lading.containers.execs import Exec
from lading.containers.service import ContainerService
from lading.containers.streams import STALL_SECONDS, Peer, frame
from lading.errors import CancelledError, InvalidArgumentError, LadingError


class ExecRoutes:
    """Handlers for ``/exec`` and ``/containers/{name}/exec``."""

    def __init__(self, service: ContainerService) -> None:
        self._service = service
        self._execs = service.execs

    async def create(self, request: Request) -> web.StreamResponse:
        """``POST /containers/{name}/exec``."""
        id_ = await self._execs.create(self._service.find(request.param("name")), await request.json())
        return json_response({"Id": id_}, 201)

    async def start(self, request: Request) -> web.StreamResponse:
        """``POST /exec/{id}/start``: in the background, or with the connection hijacked.

        With a hijacked connection only a container that runs no exec has a status of its own. Whatever else goes wrong is said
        within the stream, as Docker says it: compose attaches to an exec, starts it once more, and must not fail by that.
        """
        body = await request.json()
        exec_ = self._execs.find(request.param("id"))
        self._service.find(exec_.container).task_for_exec()
        raw = bool(body.get("Tty"))
        size = _console_size(body) if raw else None
        if body.get("Detach"):
            await self._execs.start(exec_, peer=None, console_size=size)
            return empty(200)
        async with hijack(
            request, multiplexed=not raw and request.at_least(1, 42), deadline=STALL_SECONDS
        ) as stream:
            await until_left(stream, lambda: self._serve(exec_, stream, size, multiplexed=not raw))
        return stream.response

    async def _serve(self, exec_: Exec, stream: Peer, size: "list[int] | None", *, multiplexed: bool) -> None:
        """Run it; a failed start can only be told within the stream."""
        if not exec_.started:
            exec_.multiplexed = multiplexed
        try:
            await self._execs.start(exec_, peer=stream, console_size=size)
        except CancelledError:
            raise
        except LadingError as exc:
            text = f"{exc}\r\n".encode()
            await stream.write(frame("stdout", text) if multiplexed else text)

    async def inspect(self, request: Request) -> web.StreamResponse:
        """``GET /exec/{id}/json``."""
        return json_response(views.inspect_exec(self._execs.find(request.param("id"))))

    async def resize(self, request: Request) -> web.StreamResponse:
        """``POST /exec/{id}/resize``."""
        height, width = size_of(request)
        exec_ = self._execs.find(request.param("id"))
        await self._execs.resize(exec_, width=width, height=height)
        return empty(200)


def _console_size(body: "dict[str, Any]") -> "list[int] | None":
    match body.get("ConsoleSize"):
        case [int() as height, int() as width]:
            return [height, width]
        case None | []:
            return None
        case _:
            raise InvalidArgumentError("ConsoleSize must be [height, width]")


def add_routes(router: Router, service: ContainerService) -> None:
    """Serve execs."""
    routes = ExecRoutes(service)
    router.add("POST", "/containers/{name}/exec", routes.create)
    router.add("POST", "/exec/{id}/start", routes.start, endless=True)
    router.add("GET", "/exec/{id}/json", routes.inspect)
    router.add("POST", "/exec/{id}/resize", routes.resize)
