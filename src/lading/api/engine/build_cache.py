"""The build cache over Docker's API: ``/build/prune``, and its part of ``/system/df``."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from lading.api.engine import web
from lading.api.engine.routing import Request, Router
from lading.api.engine.streams import json_response
from lading.api.engine.system import DiskUsage
from lading.api.engine.version import ApiVersion
from lading.builder.model import PruneWish, Solver, UsageRecord
from lading.errors import InvalidArgumentError
from lading.kit import times

_FILTERS: Final = ("until", "id", "parent", "type", "description", "inuse", "shared", "private")
_FLAGS: Final = frozenset({"inuse", "shared", "private"})
_SECOND: Final = 10**9


def add_routes(router: Router, solver: Solver) -> None:
    """Serve what is there besides building."""

    async def prune(request: Request) -> web.StreamResponse:
        wish = _wish(request)
        pruned = [record async for record in solver.prune(wish)]
        return json_response(
            {
                "CachesDeleted": [record.id for record in pruned] or None,
                "SpaceReclaimed": sum(record.size for record in pruned),
            }
        )

    router.add("POST", "/build/prune", prune)


def _wish(request: Request) -> PruneWish:
    reserved = request.integer("reserved-space", request.integer("keep-storage", minimum=0), minimum=0)
    filters = request.filters(_FILTERS)
    until = filters.pop("until", [])
    if len(until) > 1:
        raise InvalidArgumentError("until is given more than once", hint="give one")
    return PruneWish(
        filters=_expression(filters),
        all=request.flag("all"),
        keep_seconds=times.parse_duration(until[0]) / _SECOND if until else 0,
        reserved=reserved,
        max_used=request.integer("max-used-space", minimum=0),
        min_free=request.integer("min-free-space", minimum=0),
    )


def _expression(filters: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Docker's filters as one of containerd's."""
    conditions: list[str] = []
    for key, values in filters.items():
        if key in _FLAGS:
            conditions.append(key)
        elif len(values) == 1:
            conditions.append(f'{key}{"~=" if key == "id" else "=="}"{_escaped(values[0])}"')
        else:
            raise InvalidArgumentError(f"filter {key} is given more than once", hint="give one value")
    return (",".join(conditions),) if conditions else ()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


async def disk_usage(solver: Solver, version: ApiVersion) -> DiskUsage:
    """The build cache for ``/system/df``."""
    records = await solver.disk_usage()
    items = [_item(record, version) for record in records]
    return DiskUsage(items=items, size=sum(record.size for record in records if not record.shared))


def _item(record: UsageRecord, version: ApiVersion) -> dict[str, Any]:
    item: dict[str, Any] = {
        "ID": record.id,
        "Type": record.record_type,
        "Description": record.description,
        "InUse": record.in_use,
        "Shared": record.shared,
        "Size": record.size,
        "CreatedAt": times.format_nano(record.created_at),
        "LastUsedAt": times.format_nano(record.last_used_at) if record.last_used_at else None,
        "UsageCount": record.usage_count,
    }
    if version >= (1, 42):
        item["Parents"] = list(record.parents) or None
    else:
        item["Parent"] = record.parents[0] if record.parents else ""
    return item
