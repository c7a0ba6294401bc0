"""``GET /events``: what happened and what happens, filtered, in the shape of the client's version."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio

from lading.api.engine import web
from lading.api.engine.routing import Request, Router
from lading.api.engine.streams import JSON, encode, open_stream, write
from lading.api.engine.version import ApiVersion
from lading.core.events import Bus, Event
from lading.errors import InvalidArgumentError
from lading.kit import times

_OBJECTS: Final = (
    "config",
    "container",
    "daemon",
    "image",
    "network",
    "node",
    "plugin",
    "secret",
    "service",
    "volume",
)
FILTERS: Final = frozenset({*_OBJECTS, "event", "label", "scope", "type"})
JSON_LINES: Final = "application/jsonl"
JSON_SEQUENCE: Final = "application/json-seq"
"""RFC 7464: every object begins with a record separator."""
_STREAMS: Final = {
    JSON_LINES: (1, 53),
    "application/x-ndjson": (1, 52),
    JSON_SEQUENCE: (1, 52),
    JSON: (1, 40),
}
_NANO: Final = 1_000_000_000
_FOREVER: Final = 2**63 - 1


def add_routes(router: Router, bus: Bus) -> None:
    """Serve ``/events``."""

    async def events(request: Request) -> web.StreamResponse:
        since = times.parse_query(request.text("since"))
        end = times.parse_query(request.text("until"))
        if request.text("until") and since > end:
            raise InvalidArgumentError("`since` time cannot be after `until` time")
        filters = request.filters(FILTERS)
        until = end or _FOREVER
        async with bus.subscribe() as coming:
            # As Docker: who names either end of the time asks for what happened too, from the earliest that is known.
            asked = request.text("since") or request.text("until")
            past = bus.history(since, until) if asked else []
            media_type = stream_type(request.raw.headers.get("Accept", ""), request.version)
            before = b"\x1e" if media_type == JSON_SEQUENCE else b""
            response = await open_stream(request, media_type)

            async def tell(event: Event) -> None:
                if matches(event, filters) and visible(event, request.version):
                    await write(response, before + encode(shape(event, request.version)) + b"\n")

            for event in past:
                await tell(event)
            latest = past[-1].time_nano if past else 0
            with anyio.move_on_after((end - time.time_ns()) / _NANO if request.text("until") else None):
                async for event in coming:
                    if latest < event.time_nano <= until:
                        await tell(event)
        return response

    router.add("GET", "/events", events, endless=True)


def stream_type(accept: str, version: ApiVersion) -> str:
    """The media type of the stream: the first that the client names, else what the version has always sent."""
    for each in accept.split(","):
        named = each.partition(";")[0].strip().lower()
        if named in _STREAMS:
            return named
    return JSON_LINES if version >= (1, 52) else JSON


def visible(event: Event, version: ApiVersion) -> bool:
    """Image ``create`` events are new in 1.46."""
    return version >= (1, 46) or (event.type, event.action) != ("image", "create")


def shape(event: Event, version: ApiVersion) -> dict[str, Any]:
    """Docker's event object; before 1.52 with the older keys beside the newer ones."""
    document: dict[str, Any] = {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.actor, "Attributes": dict(event.attributes)},
        "scope": "local",
        "time": event.time_nano // _NANO,
        "timeNano": event.time_nano,
    }
    if version < (1, 52) and event.type in ("container", "image"):
        document |= {"status": event.action, "id": event.actor}
        if event.type == "container":
            document["from"] = event.attributes.get("image", "")
    return document


def matches(event: Event, filters: Mapping[str, Sequence[str]]) -> bool:
    """Whether every filter has a value that fits."""
    return all(any(_fits(event, key, value) for value in values) for key, values in filters.items() if values)


def _fits(event: Event, key: str, value: str) -> bool:
    match key:
        case "type":
            return event.type == value
        case "event":
            return event.action == value or event.action.startswith(value + ":")
        case "scope":
            return value == "local"
        case "label":
            name, equals, wanted = value.partition("=")
            found = event.attributes.get(name)
            return found is not None and (not equals or found == wanted)
        case "image":
            return _fits_image(event, value)
        case _:
            named = event.attributes.get("name", "")
            return event.type == key and (
                event.actor.startswith(value) or named.lstrip("/") == value.lstrip("/")
            )


def _fits_image(event: Event, value: str) -> bool:
    if event.type == "image":
        names = [event.actor, event.attributes.get("name", "")]
    elif event.type == "container":
        names = [event.attributes.get("image", "")]
    else:
        return False
    without_tag = [name.rpartition(":")[0] for name in names if ":" in name.rpartition("/")[2]]
    return value in names or value in without_tag
