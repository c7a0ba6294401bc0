"""Routes of images."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from lading.api.engine import image_shapes as shapes
from lading.api.engine import web
from lading.api.engine.progress import LOADING, PULLING, PUSHING, SILENT, tell
from lading.api.engine.routing import Request, Router
from lading.api.engine.streams import (
    ProgressStream,
    array_response,
    empty,
    encoded_response,
    json_response,
    open_stream,
    write,
)
from lading.core.progress import Progress
from lading.errors import InvalidArgumentError, NotFoundError, PermissionDeniedError, UnsupportedError
from lading.images.exchange import SEARCH_FILTERS, ImageExchange, Login
from lading.images.listing import FILTERS, ImageRow
from lading.images.pruning import FILTERS as PRUNE_FILTERS
from lading.images.service import ImageService
from lading.oci import platform, reference
from lading.oci.config import RunConfig
from lading.oci.descriptor import Platform
from lading.oci.digest import Digest
from lading.oci.reference import Reference
from lading.transfer.archive_in import LoadedImage
from lading.transfer.import_ import ImportOptions
from lading.transfer.pull import PullResult
from lading.transfer.push import PushResult
from lading.transfer.selection import Platforms

Json = dict[str, Any]
TAR: Final = "application/x-tar"
_NO_BASE: Final = "scratch"
"""What a Dockerfile calls no image at all; no registry is asked for it."""


def add_routes(router: Router, service: ImageService, exchange: ImageExchange, *, driver: str) -> None:
    """Serve images; ``driver`` is the active snapshotter's name, which older clients read."""
    routes = ImageRoutes(service, exchange, driver)
    router.add("GET", "/images/json", routes.list)
    router.add("GET", "/images/get", routes.save_many)
    router.add("GET", "/images/search", routes.search)
    router.add("POST", "/images/create", routes.create)
    router.add("POST", "/images/load", routes.load)
    router.add("POST", "/images/prune", routes.prune)
    router.add("GET", "/images/{name:.*}/json", routes.inspect)
    router.add("GET", "/images/{name:.*}/history", routes.history)
    router.add("GET", "/images/{name:.*}/attestations", routes.attestations)
    router.add("GET", "/images/{name:.*}/get", routes.save_one)
    router.add("POST", "/images/{name:.*}/push", routes.push)
    router.add("POST", "/images/{name:.*}/tag", routes.tag)
    router.add("DELETE", "/images/{name:.*}", routes.remove)
    router.add("GET", "/distribution/{name:.*}/json", routes.distribution)


class _Listed(NamedTuple):
    """The last list that was sent: many ask again before anything has changed."""

    rows: Sequence[ImageRow]
    shape: object
    body: bytes


class ImageRoutes:
    """The handlers."""

    def __init__(self, service: ImageService, exchange: ImageExchange, driver: str) -> None:
        self._service = service
        self._exchange = exchange
        self._driver = driver
        self._listed: _Listed | None = None

    async def list(self, request: Request) -> web.StreamResponse:
        """``GET /images/json``."""
        manifests = request.flag("manifests") and request.at_least(1, 47)
        identity = request.flag("identity") and request.at_least(1, 54)
        if identity and not manifests:
            raise InvalidArgumentError("conflicting options: identity requires manifests=1")
        rows = await self._service.list(
            request.filters(FILTERS),
            shared_size=request.flag("shared-size") and request.at_least(1, 42),
            manifests=manifests,
            all=request.flag("all"),
        )
        known = (
            await self._service.identities(
                [m.facts.descriptor.digest for row in rows for m in row.manifests if m.available]
            )
            if identity
            else shapes.NO_IDENTITIES
        )
        shape = (request.version, manifests)
        listed = self._listed
        if listed is not None and listed.rows is rows and listed.shape == shape and not known:
            return encoded_response(request, listed.body)
        response, body = await array_response(
            request,
            (shapes.list_row(row, request.version, manifests=manifests, identities=known) for row in rows),
        )
        if not known:
            self._listed = _Listed(rows, shape, body)
        return response

    async def inspect(self, request: Request) -> web.StreamResponse:
        """``GET /images/{name}/json``."""
        wanted = request.platform_json("platform") if request.at_least(1, 49) else None
        manifests = request.flag("manifests") and request.at_least(1, 48)
        if wanted is not None and manifests:
            raise InvalidArgumentError(
                "conflicting options: manifests and platform options cannot both be set"
            )
        detail = await self._service.inspect(request.param("name"), platform=wanted)
        shape = shapes.inspect(
            detail, request.version, manifests=manifests, chosen=wanted is not None, driver=self._driver
        )
        if request.at_least(1, 53):
            known = await self._service.identities([detail.target.digest])
            shape |= shapes.identity(known.get(detail.target.digest))
        return json_response(shape)

    async def attestations(self, request: Request) -> web.StreamResponse:
        """``GET /images/{name}/attestations``, since 1.55."""
        if not request.at_least(1, 55):
            raise NotFoundError("page not found")
        bodies = request.flag("statement")
        found = await self._service.attestations(
            request.param("name"),
            platform=request.platform_json("platform"),
            types=request.query.getall("type", []),
            bodies=bodies,
        )
        return json_response([shapes.statement(each) for each in found])

    async def search(self, request: Request) -> web.StreamResponse:
        """``GET /images/search``."""
        found = await self._exchange.search(
            request.text("term"),
            login=_login(request),
            limit=request.integer("limit", minimum=0),
            filters=request.filters(SEARCH_FILTERS),
        )
        return json_response([shapes.search_result(each) for each in found])

    async def history(self, request: Request) -> web.StreamResponse:
        """``GET /images/{name}/history``."""
        wanted = request.platform_json("platform") if request.at_least(1, 48) else None
        rows = await self._service.history(request.param("name"), platform=wanted)
        return json_response([shapes.history_row(row) for row in rows])

    async def tag(self, request: Request) -> web.StreamResponse:
        """``POST /images/{name}/tag``."""
        await self._service.tag(request.param("name"), _reference(request.text("repo"), request.text("tag")))
        return empty(201)

    async def remove(self, request: Request) -> web.StreamResponse:
        """``DELETE /images/{name}``."""
        platforms = request.platforms_json("platforms") if request.at_least(1, 50) else []
        lines = await self._service.remove(
            request.param("name"), force=request.flag("force"), platforms=platforms
        )
        return json_response(shapes.removed(lines))

    async def prune(self, request: Request) -> web.StreamResponse:
        """``POST /images/prune``."""
        done = await self._service.prune(request.filters(PRUNE_FILTERS))
        return json_response(
            {"ImagesDeleted": shapes.removed(done.removed) or None, "SpaceReclaimed": done.reclaimed}
        )

    async def distribution(self, request: Request) -> web.StreamResponse:
        """``GET /distribution/{name}/json``."""
        remote = await self._exchange.distribution(reference.parse(request.param("name")), _login(request))
        return json_response(
            {
                "Descriptor": shapes.descriptor(remote.document.descriptor),
                "Platforms": [shapes.platform(p) for p in remote.platforms],
            }
        )

    async def create(self, request: Request) -> web.StreamResponse:
        """``POST /images/create``: a pull, or an import of a root file system."""
        if request.text("fromImage"):
            return await self._pull(request)
        if request.text("fromSrc"):
            return await self._import(request)
        raise InvalidArgumentError("neither fromImage nor fromSrc is given")

    async def _pull(self, request: Request) -> web.StreamResponse:
        ref = _reference(request.text("fromImage"), request.text("tag"))
        if ref.familiar_name == _NO_BASE:
            raise PermissionDeniedError(f"'{_NO_BASE}' is a reserved name", subject=_NO_BASE)
        wanted = _platforms(request.query.getall("platform", []))
        login = _login(request)
        async with ProgressStream(request) as stream:
            if ref.tag or ref.digest:
                await self._pull_one(stream, ref, wanted, login)
            else:
                for tag in await self._exchange.tags(ref, login):
                    await self._pull_one(stream, ref.with_tag(tag), wanted, login)
        return stream.response

    async def _pull_one(
        self, stream: ProgressStream, ref: Reference, wanted: Platforms, login: Login
    ) -> None:
        async def work(progress: Progress) -> PullResult:
            return await self._exchange.pull(ref, platforms=wanted, login=login, progress=progress)

        heading = {"status": f"Pulling from {ref.path}", "id": ref.tag or str(ref.digest)}
        result = await tell(stream, work, PULLING, heading=heading)
        state = "Downloaded newer image for" if result.updated else "Image is up to date for"
        await stream.send_many(
            [{"status": f"Digest: {result.target.digest}"}, {"status": f"Status: {state} {ref.familiar}"}]
        )

    async def _import(self, request: Request) -> web.StreamResponse:
        if request.text("fromSrc") != "-":
            raise UnsupportedError(
                "importing from a URL is not supported",
                hint="download it and pipe it: curl … | docker import - NAME",
            )
        from lading.transfer import changes  # noqa: PLC0415 - reads Dockerfiles, which most daemons never do

        name = _reference(request.text("repo"), request.text("tag")) if request.text("repo") else None
        if name is not None and name.digest is not None:
            raise InvalidArgumentError("cannot import digest reference", subject=str(name))
        wanted = platform.parse(request.text("platform")) if request.text("platform") else None
        options = ImportOptions(
            platform=wanted or platform.host(),
            config=changes.apply(RunConfig(), request.query.getall("changes", [])),
            message=request.text("message") or "Imported from -",
        )
        async with ProgressStream(request) as stream:
            target = await self._exchange.import_(request.chunks(), options, name=name)
            await stream.send({"status": str(target.digest)})
        return stream.response

    async def push(self, request: Request) -> web.StreamResponse:
        """``POST /images/{name}/push``."""
        wanted = request.platform_json("platform") if request.at_least(1, 46) else None
        login = _login(request)
        name = _reference(request.param("name"), request.text("tag"))
        async with ProgressStream(request) as stream:
            for ref in await self._exchange.to_push(name):
                await self._push_one(stream, ref, wanted, login)
        return stream.response

    async def _push_one(
        self, stream: ProgressStream, ref: Reference, wanted: Platform | None, login: Login
    ) -> None:
        async def work(progress: Progress) -> PushResult:
            return await self._exchange.push(ref, platform=wanted, login=login, progress=progress)

        heading = {"status": f"The push refers to repository [{ref.name}]"}
        result = await tell(stream, work, PUSHING, heading=heading)
        pushed = result.pushed
        said: list[Json] = [{"status": f"{ref.tag}: digest: {pushed.digest} size: {pushed.size}"}]
        said.append(
            {"progressDetail": {}, "aux": {"Tag": ref.tag, "Digest": str(pushed.digest), "Size": pushed.size}}
        )
        if result.repacked:
            note = f"layers were packed anew, since no registry has them any more: {result.target.digest} has a new digest"
            said.insert(0, {"status": note})
        if result.missing:  # so that a manifest was pushed in place of the index
            note = {
                "manifestPushedInsteadOfIndex": True,
                "originalIndex": shapes.descriptor(result.target),
                "selectedManifest": shapes.descriptor(pushed),
            }
            said.append({"aux": note})
        await stream.send_many(said)

    async def save_one(self, request: Request) -> web.StreamResponse:
        """``GET /images/{name}/get``."""
        return await self._save(request, [request.param("name")])

    async def save_many(self, request: Request) -> web.StreamResponse:
        """``GET /images/get``."""
        names = [n for value in request.query.getall("names", []) for n in value.split(",") if n]
        if not names:
            raise InvalidArgumentError("no image to save is named", hint="give names=…")
        return await self._save(request, names)

    async def _save(self, request: Request, names: Sequence[str]) -> web.StreamResponse:
        platforms = _several(request)
        chosen = await self._exchange.to_save(names)
        response: web.StreamResponse | None = None

        async def sink(chunk: bytes) -> None:
            nonlocal response
            response = response or await open_stream(request, TAR)
            await write(response, chunk)

        await self._exchange.save(chosen, sink, platforms=platforms)
        return response or await open_stream(request, TAR)

    async def load(self, request: Request) -> web.StreamResponse:
        """``POST /images/load``."""
        platforms = _several(request)

        async with ProgressStream(request) as stream:

            async def work(progress: Progress) -> Sequence[LoadedImage]:
                return await self._exchange.load(request.chunks(), platforms=platforms, progress=progress)

            loaded = await tell(stream, work, SILENT if request.flag("quiet", default=True) else LOADING)
            await stream.send_many([{"stream": _loaded(image) + "\n"} for image in loaded])
        return stream.response


def _several(request: Request) -> list[Platform]:
    """The platforms of a save or load: one since 1.48, several since 1.52."""
    if not request.at_least(1, 48):
        return []
    found = request.platforms_json("platform")
    if len(found) > 1 and not request.at_least(1, 52):
        raise InvalidArgumentError(
            "multiple platform parameters are not supported in this API version; use API version 1.52 or later"
        )
    return found


def _platforms(values: Sequence[str]) -> Platforms:
    """The platforms of a pull. Ours beyond Docker's: several, by commas or by repeating the field, and ``all``."""
    named = [each.strip() for value in values for each in value.split(",") if each.strip()]
    if "all" in named:
        return "all"
    return [platform.parse(each) for each in named] or None


def _loaded(image: LoadedImage) -> str:
    if image.reference is not None:
        return f"Loaded image: {image.reference.familiar}"
    return f"Loaded image ID: {image.target.digest}"


def _login(request: Request) -> Login:
    return Login(credentials=request.registry_auth(), headers=request.meta_headers())


def _reference(name: str, tag: str) -> Reference:
    """A repository and the ``tag`` field, which may be a tag or a digest; the name may hold either itself."""
    if not name:
        raise InvalidArgumentError("invalid reference format: repository name is missing")
    ref = reference.parse(name)
    if tag:
        ref = ref.with_digest(Digest(tag)) if ":" in tag else ref.with_tag(tag)
    return ref
