"""Routes of containers: requests in, `ContainerService` calls, Docker's documents out."""

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import anyio
import msgspec

from lading.api.engine import web
from lading.api.engine.hijack import MULTIPLEXED, RAW, HijackedStream, hijack
from lading.api.engine.routing import Request, Router
from lading.api.engine.streams import empty, json_response, open_stream, write
from lading.containers import listing, streams
from lading.containers.attaching import AttachOptions, LogOptions
from lading.containers.journal import Chunk
from lading.containers.service import CONDITIONS, ContainerService
from lading.errors import CancelledError, InvalidArgumentError
from lading.kit import times
from lading.oci import mediatypes
from lading.oci import platform as platforms

_MULTIPLEXED_SINCE: Final = (1, 42)
_EXTENT_MAX: Final = 2**32 - 1


class ContainerRoutes:
    """Handlers for ``/containers``."""

    def __init__(self, service: ContainerService) -> None:
        self._service = service

    async def create(self, request: Request) -> web.StreamResponse:
        """``POST /containers/create``."""
        platform = request.text("platform")
        created = await self._service.create(
            await request.json(),
            name=request.text("name"),
            platform=platforms.parse(platform) if platform else None,
        )
        return json_response({"Id": created.id, "Warnings": list(created.warnings)}, 201)

    async def list(self, request: Request) -> web.StreamResponse:
        """``GET /containers/json``."""
        rows = await self._service.list(
            request.filters(listing.LIST_FILTERS),
            all=request.flag("all"),
            limit=request.integer("limit"),
            size=request.flag("size"),
        )
        for row in rows:
            if not request.at_least(1, 48) or _is_classic(row):
                del row["ImageManifestDescriptor"]
        return json_response(rows)

    async def inspect(self, request: Request) -> web.StreamResponse:
        """``GET /containers/{name}/json``."""
        made = await self._service.inspect(request.param("name"), size=request.flag("size"))
        classic = _is_classic(made)
        if classic or not request.at_least(1, 48):
            del made["ImageManifestDescriptor"]
        if request.at_least(1, 52):
            if not classic:
                made["Storage"] = {"RootFS": {"Snapshot": {"Name": made.pop("GraphDriver")["Name"]}}}
            for name in _OLD_NETWORK_FIELDS:
                made["NetworkSettings"].pop(name, None)
            if not made["Config"].get("OnBuild"):
                made["Config"].pop("OnBuild", None)
        return json_response(made)

    async def start(self, request: Request) -> web.StreamResponse:
        """``POST /containers/{name}/start``."""
        if request.text("checkpoint"):
            raise InvalidArgumentError("checkpoint is not supported")
        await self._service.start(request.param("name"))
        return empty(204)

    async def stop(self, request: Request) -> web.StreamResponse:
        """``POST /containers/{name}/stop``."""
        await self._service.stop(
            request.param("name"), timeout=_timeout(request), signal=request.text("signal")
        )
        return empty(204)

    async def restart(self, request: Request) -> web.StreamResponse:
        """``POST /containers/{name}/restart``."""
        await self._service.restart(
            request.param("name"), timeout=_timeout(request), signal=request.text("signal")
        )
        return empty(204)

    async def kill(self, request: Request) -> web.StreamResponse:
        """``POST /containers/{name}/kill``."""
        await self._service.kill(request.param("name"), request.text("signal"))
        return empty(204)

    async def pause(self, request: Request) -> web.StreamResponse:
        """``POST /containers/{name}/pause``."""
        await self._service.pause(request.param("name"))
        return empty(204)

    async def unpause(self, request: Request) -> web.StreamResponse:
        """``POST /containers/{name}/unpause``."""
        await self._service.unpause(request.param("name"))
        return empty(204)

    async def rename(self, request: Request) -> web.StreamResponse:
        """``POST /containers/{name}/rename``."""
        await self._service.rename(request.param("name"), request.text("name"))
        return empty(204)

    async def update(self, request: Request) -> web.StreamResponse:
        """``POST /containers/{name}/update``."""
        warnings = await self._service.update(request.param("name"), await request.json())
        return json_response({"Warnings": warnings or None})

    async def resize(self, request: Request) -> web.StreamResponse:
        """``POST /containers/{name}/resize``."""
        height, width = size_of(request)
        await self._service.resize(request.param("name"), width=width, height=height)
        return empty(200)

    async def remove(self, request: Request) -> web.StreamResponse:
        """``DELETE /containers/{name}``."""
        if request.flag("link"):
            raise InvalidArgumentError("link is not supported")
        await self._service.remove(
            request.param("name"), force=request.flag("force"), volumes=request.flag("v")
        )
        return empty(204)

    async def prune(self, request: Request) -> web.StreamResponse:
        """``POST /containers/prune``."""
        pruned = await self._service.prune(request.filters(listing.PRUNE_FILTERS))
        return json_response({"ContainersDeleted": list(pruned.ids), "SpaceReclaimed": pruned.reclaimed})

    async def top(self, request: Request) -> web.StreamResponse:
        """``GET /containers/{name}/top``."""
        return json_response(await self._service.top(request.param("name"), request.text("ps_args", "-ef")))

    async def stats(self, request: Request) -> web.StreamResponse:
        """``GET /containers/{name}/stats``: once a second, or once with a second before it, or just once."""
        name = request.param("name")
        if not request.flag("stream", default=True):
            one_shot = request.flag("one-shot")
            return json_response(await self._service.stats(name, with_before=not one_shot))
        if request.flag("one-shot"):
            raise InvalidArgumentError("cannot have stream=true and one-shot=true")
        async with contextlib.aclosing(self._service.stats_stream(name)) as documents:
            response = await open_stream(request)
            async for document in documents:
                await write(response, msgspec.json.encode(document) + b"\n")
        return response

    async def wait(self, request: Request) -> web.StreamResponse:
        """``POST /containers/{name}/wait``: the headers go out at once, since clients wait for them before they start it."""
        condition = request.text("condition") or "not-running"
        if condition not in CONDITIONS:
            raise InvalidArgumentError(f'invalid condition: "{condition[:80]}"')
        container = self._service.find(request.param("name"))
        waiting = self._service.begin_wait(container, condition)
        response = await open_stream(request)
        code = await waiting()
        await write(response, msgspec.json.encode({"StatusCode": code}) + b"\n")
        return response

    async def logs(self, request: Request) -> web.StreamResponse:
        """``GET /containers/{name}/logs``."""
        container = self._service.find(request.param("name"))
        if not (request.flag("stdout") or request.flag("stderr")):
            raise InvalidArgumentError("Bad parameters: you must choose at least one stream")
        options = LogOptions(
            stdout=request.flag("stdout"),
            stderr=request.flag("stderr"),
            follow=request.flag("follow"),
            since=times.parse_query(request.text("since")),
            until=times.parse_query(request.text("until")),
            tail=_tail(request.text("tail")),
            timestamps=request.flag("timestamps"),
            details=request.flag("details"),
        )
        tty = container.config.tty
        messages = self._service.logs(container.id, options)
        kind = MULTIPLEXED if not tty and request.version >= _MULTIPLEXED_SINCE else RAW
        async with contextlib.aclosing(messages):
            first = await anext(messages, None)
            response = await open_stream(request, kind)
            if first is not None:
                await write(response, streams.encode(first, multiplexed=not tty))
                await self._send_messages(response, messages, multiplexed=not tty)
        return response

    async def _send_messages(
        self, response: web.StreamResponse, messages: AsyncIterator[Chunk], *, multiplexed: bool
    ) -> None:
        async for chunk in messages:
            await write(response, streams.encode(chunk, multiplexed=multiplexed))

    async def attach(self, request: Request) -> web.StreamResponse:
        """``POST /containers/{name}/attach``."""
        container = self._service.find(request.param("name"))
        options = self._attach_options(request)
        await request.body()
        attachment = self._service.attach(container, options)
        multiplexed = not container.config.tty and request.version >= _MULTIPLEXED_SINCE
        try:
            async with hijack(request, multiplexed=multiplexed, deadline=streams.STALL_SECONDS) as stream:
                await until_left(
                    stream, lambda: self._service.serve_attachment(container, attachment, stream)
                )
        finally:
            attachment.close()
        return stream.response

    async def attach_websocket(self, request: Request) -> web.StreamResponse:
        """``GET /containers/{name}/attach/ws``: outputs are not multiplexed, as Docker does it."""
        from lading.api.engine import websocket  # noqa: PLC0415 (ADR 0085: only who needs it pays for it)

        container = self._service.find(request.param("name"))
        options = self._attach_options(request)
        if not options.outputs:  # Docker's clients ask for the outputs by asking for nothing
            options = replace(options, stdout=True, stderr=True, stdin=True, stream=True)
        head = websocket.handshake(request)
        attachment = self._service.attach(container, options, multiplexed=False)
        try:
            async with (
                hijack(request, deadline=streams.STALL_SECONDS, head=head) as stream,
                websocket.WebSocketStream(stream) as peer,
            ):
                await until_left(stream, lambda: self._service.serve_attachment(container, attachment, peer))
        finally:
            attachment.close()
        return stream.response

    def _attach_options(self, request: Request) -> AttachOptions:
        return AttachOptions(
            stdin=request.flag("stdin"),
            stdout=request.flag("stdout"),
            stderr=request.flag("stderr"),
            stream=request.flag("stream"),
            logs=request.flag("logs"),
            detach_keys=streams.detach_keys(request.text("detachKeys")),
        )


async def until_left(stream: HijackedStream, serve: Callable[[], Awaitable[None]]) -> None:
    """Serve a hijacked stream until it is done, or until the client has left altogether."""

    async def watch(scope: anyio.CancelScope) -> None:
        await stream.wait_closed()
        scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(watch, group.cancel_scope)
        with contextlib.suppress(CancelledError):
            await serve()
        group.cancel_scope.cancel()


def size_of(request: Request) -> tuple[int, int]:
    """``h`` and ``w`` of a resize, 32 bits each. Raises `InvalidArgumentError`."""
    return _extent(request, "height"), _extent(request, "width")


def _extent(request: Request, which: str) -> int:
    text = request.text(which[0])
    if not re.fullmatch(r"\d{1,10}", text, re.ASCII) or int(text) > _EXTENT_MAX:
        raise InvalidArgumentError(
            f"invalid resize {which} {text[:64]!r}", hint=f"give ?{which[0]}= with a number of characters"
        )
    return int(text)


def _timeout(request: Request) -> int | None:
    return request.integer("t") if request.text("t") else None


def _tail(text: str) -> int:
    """Docker reads whatever is no number as ``all``."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1


_OLD_NETWORK_FIELDS: Final = (
    *("Bridge", "HairpinMode", "LinkLocalIPv6Address", "LinkLocalIPv6PrefixLen", "SecondaryIPAddresses"),
    *(
        "SecondaryIPv6Addresses",
        "EndpointID",
        "Gateway",
        "GlobalIPv6Address",
        "GlobalIPv6PrefixLen",
        "IPAddress",
    ),
    *("IPPrefixLen", "IPv6Gateway", "MacAddress"),
)
"""Of ``NetworkSettings`` itself, until 1.51: each network has its own."""


def _is_classic(document: Mapping[str, Any]) -> bool:
    """Whether a container stands on an image of the classic store, which has no manifest."""
    return mediatypes.is_config(document["ImageManifestDescriptor"]["mediaType"])


def add_routes(router: Router, service: ContainerService) -> None:
    """Serve containers."""
    routes = ContainerRoutes(service)
    router.add("GET", "/containers/json", routes.list)
    router.add("POST", "/containers/create", routes.create)
    router.add("POST", "/containers/prune", routes.prune)
    router.add("GET", "/containers/{name}/json", routes.inspect)
    router.add("DELETE", "/containers/{name}", routes.remove, finishes=True)
    router.add("GET", "/containers/{name}/top", routes.top)
    for action, handler in (
        ("start", routes.start),
        ("stop", routes.stop),
        ("restart", routes.restart),
        ("kill", routes.kill),
        ("pause", routes.pause),
        ("unpause", routes.unpause),
        ("rename", routes.rename),
        ("resize", routes.resize),
        ("update", routes.update),
    ):
        router.add("POST", f"/containers/{{name}}/{action}", handler, finishes=True)
    router.add("GET", "/containers/{name}/stats", routes.stats, endless=True)
    router.add("POST", "/containers/{name}/wait", routes.wait, endless=True)
    router.add("GET", "/containers/{name}/logs", routes.logs, endless=True)
    router.add("POST", "/containers/{name}/attach", routes.attach, endless=True)
    router.add("GET", "/containers/{name}/attach/ws", routes.attach_websocket, endless=True)
