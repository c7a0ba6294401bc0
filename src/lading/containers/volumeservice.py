"""What can be asked for about volumes: Docker's requests in, volumes changed, events told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import anyio
import msgspec

from lading.containers import listing, patterns
from lading.containers.volumeholding import VolumeHolding
from lading.containers.volumemounts import ANONYMOUS
from lading.core.events import Bus
from lading.core.volumes import Volume
from lading.errors import ConflictError, InvalidArgumentError, NotFoundError, UnsupportedError
from lading.kit import times

LIST_FILTERS: Final = frozenset({"dangling", "driver", "label", "name"})
PRUNE_FILTERS: Final = frozenset({"all", "label", "label!"})


class _Create(msgspec.Struct, rename="pascal"):
    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    cluster_volume_spec: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunedVolumes:
    """What a prune removed; bytes of their files."""

    names: Sequence[str]
    reclaimed: int


class VolumeService:
    """Volumes of one daemon."""

    def __init__(self, holding: VolumeHolding, bus: Bus) -> None:
        self._holding = holding
        self._volumes = holding.volumes
        self._bus = bus
        self._pruning = anyio.Lock()

    async def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make a volume from Docker's create body; its object. Raises as `Volumes.create`."""
        present = {key: value for key, value in body.items() if value is not None}
        try:
            asked = msgspec.convert(present, _Create)
        except msgspec.ValidationError as exc:
            raise InvalidArgumentError(f"invalid volume configuration: {exc}") from exc
        if asked.cluster_volume_spec:
            raise UnsupportedError("ClusterVolumeSpec is not supported: this engine has no Swarm")
        labels = {**(asked.labels or {}), **({} if asked.name else {ANONYMOUS: ""})}
        volume, new = await self._volumes.create(
            asked.name,
            driver=asked.driver or "local",
            labels=labels,
            options=asked.driver_opts,
            anonymous=not asked.name,
        )
        if new:
            self._tell("create", volume.name)
        return self._view(volume)

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Remove it. Raises `NotFoundError` unless ``force``; `ConflictError` while a container has it."""
        try:
            self._volumes.find(name)
        except NotFoundError:
            if force:
                return
            raise
        if users := self._holding.users(name):
            raise ConflictError(f"remove {name}: volume is in use - [{', '.join(users)}]", subject=name)
        await self._volumes.remove(name)
        self._tell("destroy", name)

    def inspect(self, name: str) -> dict[str, Any]:
        """Docker's volume object."""
        return self._view(self._volumes.find(name))

    def list(self, filters: Mapping[str, Sequence[str]]) -> "list[dict[str, Any]]":
        """Docker's objects of those that pass the filters."""
        listing.check_names(filters)
        dangling = listing.flag(filters, "dangling")
        return [self._view(each) for each in self._volumes.list() if self._matches(each, filters, dangling)]

    def _matches(self, volume: Volume, filters: Mapping[str, Sequence[str]], dangling: bool | None) -> bool:
        names, drivers = filters.get("name", ()), filters.get("driver", ())
        return (
            (dangling is None or dangling == (not self._holding.users(volume.name)))
            and (not names or patterns.finds(names, volume.name))
            and (not drivers or volume.driver in drivers)
            and listing.matches_labels(volume.labels, filters.get("label", ()))
        )

    async def usage(self) -> "list[dict[str, Any]]":
        """All volumes with who uses them and their size, for ``system/df``."""
        made: list[dict[str, Any]] = []
        for each in self._volumes.list():
            size = -1 if each.options else await self._volumes.usage(each.name)
            data = {"RefCount": len(self._holding.users(each.name)), "Size": size}
            made.append(self._view(each) | {"UsageData": data})
        return made

    async def prune(self, filters: Mapping[str, Sequence[str]], *, all: bool) -> PrunedVolumes:
        """Remove volumes that no container has: anonymous ones, or ``all``. Raises `ConflictError` if a prune runs.

        Those with options stay, as in Docker: they are what an administrator wrote down of a share or a directory, and
        to forget it frees no space.
        """
        if self._pruning.locked():
            raise ConflictError("a prune operation is already running")
        removed: list[str] = []
        reclaimed = 0
        everything = all or bool(listing.flag(filters, "all"))
        async with self._pruning:
            for volume in self._volumes.list():
                if self._holding.users(volume.name) or not (everything or volume.anonymous):
                    continue
                if not _prunable(volume, filters):
                    continue
                try:
                    size = await self._volumes.usage(volume.name)
                    await self.remove(volume.name)
                except (ConflictError, NotFoundError):
                    continue
                removed.append(volume.name)
                reclaimed += size
        self._bus.publish("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return PrunedVolumes(names=removed, reclaimed=reclaimed)

    def _tell(self, action: str, name: str) -> None:
        self._bus.publish("volume", action, name, {"driver": "local"})

    def _view(self, volume: Volume) -> dict[str, Any]:
        return {
            "CreatedAt": times.format_nano(volume.created // 10**9 * 10**9),
            "Driver": volume.driver,
            "Labels": dict(volume.labels) or None,
            "Mountpoint": self._volumes.path(volume.name),
            "Name": volume.name,
            "Options": dict(volume.options) or None,
            "Scope": "local",
        }


def _prunable(volume: Volume, filters: Mapping[str, Sequence[str]]) -> bool:
    if volume.options:
        return False
    unwanted = filters.get("label!", ())
    if unwanted and any(listing.matches_labels(volume.labels, [entry]) for entry in unwanted):
        return False
    return listing.matches_labels(volume.labels, filters.get("label", ()))
