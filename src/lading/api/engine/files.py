"""Routes of containers' files: ``/archive``, ``/changes``, ``/export``, and ``/commit``."""

from typing import Final

from lading.api.engine import web
from lading.api.engine.routing import Request, Router
from lading.api.engine.streams import COMMON_HEADERS, empty, json_response, open_stream, write
from lading.containers.committing import CommitRequest
from lading.containers.service import ContainerService
from lading.core.diff import ChangeKind
from lading.errors import InvalidArgumentError
from lading.oci import reference as references

_TAR: Final = "application/x-tar"
_STAT: Final = "X-Docker-Container-Path-Stat"
_KINDS: Final = {ChangeKind.MODIFY: 0, ChangeKind.ADD: 1, ChangeKind.DELETE: 2}


class FileRoutes:
    """Handlers."""

    def __init__(self, service: ContainerService) -> None:
        self._service = service
        self._files = service.files

    async def stat(self, request: Request) -> web.StreamResponse:
        """``HEAD /containers/{name}/archive``."""
        found = await self._files.stat(self._service.find(request.param("name")), request.text("path"))
        return web.Response(status=200, headers={**COMMON_HEADERS, _STAT: found.header()})

    async def get(self, request: Request) -> web.StreamResponse:
        """``GET /containers/{name}/archive``."""
        container = self._service.find(request.param("name"))
        async with self._files.open_archive(container, request.text("path")) as archive:
            response = await open_stream(request, _TAR, headers={_STAT: archive.stat.header()})
            async for chunk in archive.chunks:
                await write(response, chunk)
        return response

    async def put(self, request: Request) -> web.StreamResponse:
        """``PUT /containers/{name}/archive``."""
        await self._files.extract(
            self._service.find(request.param("name")),
            request.text("path"),
            request.chunks(),
            keep_kind=request.flag("noOverwriteDirNonDir"),
            own=request.flag("copyUIDGID"),
        )
        return empty(200)

    async def changes(self, request: Request) -> web.StreamResponse:
        """``GET /containers/{name}/changes``."""
        found = await self._files.changes(self._service.find(request.param("name")))
        return json_response([{"Path": each.path, "Kind": _KINDS[each.kind]} for each in found] or None)

    async def export(self, request: Request) -> web.StreamResponse:
        """``GET /containers/{name}/export``."""
        async with self._files.open_export(self._service.find(request.param("name"))) as chunks:
            response = await open_stream(request, "application/octet-stream")
            async for chunk in chunks:
                await write(response, chunk)
        return response

    async def commit(self, request: Request) -> web.StreamResponse:
        """``POST /commit``."""
        name, tag = request.text("repo"), request.text("tag")
        if tag and not name:
            raise InvalidArgumentError("a tag needs a repository", hint="give repo too")
        asked = CommitRequest(
            reference=references.parse(f"{name}:{tag}" if tag else name) if name else None,
            comment=request.text("comment"),
            author=request.text("author"),
            pause=request.flag("pause", default=True),
            changes=request.query.getall("changes", []),
            config=await request.json(),
        )
        container = self._service.find(request.text("container"))
        return json_response({"Id": await self._service.commit(container, asked)}, 201)


def add_routes(router: Router, service: ContainerService) -> None:
    """Serve containers' files."""
    routes = FileRoutes(service)
    router.add("HEAD", "/containers/{name}/archive", routes.stat)
    router.add("GET", "/containers/{name}/archive", routes.get)
    router.add("PUT", "/containers/{name}/archive", routes.put)
    router.add("GET", "/containers/{name}/changes", routes.changes)
    router.add("GET", "/containers/{name}/export", routes.export)
    router.add("POST", "/commit", routes.commit)
