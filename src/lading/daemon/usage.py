"""What is there and what it costs: the figures of ``info`` and ``system/df``, and which images containers use."""

from typing import TYPE_CHECKING

from lading.api.engine import image_shapes
from lading.api.engine.system import ContainerCounts, DiskUsage
from lading.api.engine.version import ApiVersion
from lading.core import images
from lading.images.removal import Use
from lading.images.service import ImageService

if TYPE_CHECKING:  # loaded later; see `daemon.container_rooms`
    from lading.containers.service import ContainerService


def container_uses(service: "ContainerService") -> list[Use]:
    """Which images containers use."""
    return [
        Use(
            container=each.id,
            target=each.record.target,
            manifest=each.record.image,
            running=each.state.running,
            reference=each.config.image,
        )
        for each in service.all()
    ]


async def count_images(records: images.Store) -> int:
    """Distinct targets, as ``docker images`` shows rows."""
    return len({record.target.digest for record in await records.list()})


async def count_containers(service: "ContainerService") -> ContainerCounts:
    """Containers by state."""
    states = [each.state for each in service.all()]
    paused = sum(state.paused for state in states)
    running = sum(state.running for state in states) - paused
    return ContainerCounts(running=running, paused=paused, stopped=len(states) - running - paused)


async def image_usage(service: ImageService, version: ApiVersion) -> DiskUsage:
    """Images for ``system/df``: every blob and every snapshot counts once."""
    rows = await service.list({}, shared_size=True, manifests=False)
    size = await service.total()
    # What usage tells of containers makes RECLAIMABLE.
    items = [image_shapes.list_row(row, version, usage=True) for row in rows]
    unused = [row.target.digest for row in rows if not row.containers]
    return DiskUsage(
        items=items,
        size=size,
        active=len(rows) - len(unused),
        reclaimable=await service.freed_by(unused)
        if version >= (1, 52)
        else 0,  # older clients add it up themselves
    )


async def container_usage(service: "ContainerService", version: ApiVersion) -> DiskUsage:  # noqa: ARG001 - a source
    """Containers for ``system/df``."""
    rows = await service.list({}, all=True, size=True)
    stopped = [row for row in rows if row.get("State") not in ("running", "paused", "restarting")]
    return DiskUsage(
        items=rows,
        size=sum(int(row.get("SizeRw") or 0) for row in rows),
        active=len(rows) - len(stopped),
        reclaimable=sum(int(row.get("SizeRw") or 0) for row in stopped),
    )


async def volume_usage(service: "ContainerService", version: ApiVersion) -> DiskUsage:  # noqa: ARG001 - a source
    """Volumes for ``system/df``."""
    rows = await service.volumes.usage()
    sizes = [max(0, int(row["UsageData"]["Size"])) for row in rows]
    used = [int(row["UsageData"]["RefCount"]) > 0 for row in rows]
    return DiskUsage(
        items=rows,
        size=sum(sizes),
        active=sum(used),
        reclaimable=sum(size for size, kept in zip(sizes, used, strict=True) if not kept),
    )
