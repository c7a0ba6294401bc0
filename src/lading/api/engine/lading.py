"""Our own routes, for what Docker has no word for, under ``/lading/``. The ``lading`` command and the page use them."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from lading.api.engine import web
from lading.api.engine.routing import Request, Router
from lading.api.engine.streams import ProgressStream, json_response


class Maintenance(Protocol):
    """Care of the store. Answers are plain data, as they stand in the JSON."""

    async def status(self) -> dict[str, Any]:
        """What the store holds: ``{"DataRoot", "Driver", "Images", "Blobs", "BlobBytes", "Snapshots", …}``."""
        ...

    async def why(self, what: str) -> dict[str, Any]:
        """``{"Digest", "Path": [root, …, blob]}``: what keeps a blob, empty if nothing does. Raises `NotFoundError`.

        ``what`` is a digest, or the name or ID of an image, which stands for its target.
        """
        ...

    def collect(self, *, dry_run: bool, without: Sequence[str] = ()) -> AsyncIterator[dict[str, Any]]:
        """Collect garbage; progress objects, the last one with ``result``. A dry run may take images for removed."""
        ...

    def check(self, *, repair: bool) -> AsyncIterator[dict[str, Any]]:
        """Check every blob; progress objects, then findings, the last one with ``result``."""
        ...


class Stores(Protocol):
    """The two image stores of the data-root. Answers are plain data, as they stand in the JSON."""

    async def status(self) -> dict[str, Any]:
        """``{"Store": "containerd" or "classic", "Reason", "HiddenImages", "HiddenContainers"}``."""
        ...

    async def use(self, store: str, *, stop: bool) -> dict[str, Any]:
        """Use a store from now on: ``{"Store", "Restarting"}``; the daemon is away for a moment after the answer.

        Raises `ConflictError` while containers run, unless ``stop``; `FailedPreconditionError` if the configuration decides.
        """
        ...

    def migrate(self, *, offline: bool, fetch: bool) -> AsyncIterator[dict[str, Any]]:
        """Copy the classic store's images into the containerd store; progress objects, the last one with ``result``.

        Raises `FailedPreconditionError` while the classic store is in use.
        """
        ...


def add_routes(router: Router, maintenance: Maintenance, stores: Stores) -> None:
    """Serve Lading's own routes."""

    async def status(request: Request) -> web.StreamResponse:  # noqa: ARG001 - the shape of a handler
        return json_response(await stores.status() | await maintenance.status())

    async def use(request: Request) -> web.StreamResponse:
        return json_response(await stores.use(request.text("store"), stop=request.flag("stop")))

    async def why(request: Request) -> web.StreamResponse:
        return json_response(await maintenance.why(request.param("what")))

    async def collect(request: Request) -> web.StreamResponse:
        return await _stream(
            request,
            maintenance.collect(dry_run=request.flag("dry-run"), without=request.query.getall("without", [])),
        )

    async def check(request: Request) -> web.StreamResponse:
        return await _stream(request, maintenance.check(repair=request.flag("repair")))

    router.add("GET", "/lading/store", status)

    async def migrate(request: Request) -> web.StreamResponse:
        work = stores.migrate(offline=request.flag("offline"), fetch=request.flag("fetch"))
        return await _stream(request, work)

    router.add("POST", "/lading/store/use", use)
    router.add("POST", "/lading/store/migrate", migrate)
    router.add("GET", "/lading/why/{what:.*}", why)
    router.add("POST", "/lading/gc", collect)
    router.add("POST", "/lading/fsck", check)


async def _stream(request: Request, progress: AsyncIterator[dict[str, Any]]) -> web.StreamResponse:
    async with ProgressStream(request) as stream:
        async for each in progress:
            await stream.send(each)
    return stream.response
