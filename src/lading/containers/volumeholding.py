"""Volumes of containers over their lives: made and filled at create, held while one runs, let go and perhaps removed."""

import os
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import structlog

from lading.containers import rootfs, volumecopy, volumemounts
from lading.containers.binds import Bind
from lading.containers.hostmounts import HostMounts
from lading.containers.model import Container
from lading.containers.remapping import Remapping
from lading.containers.volumemounts import ANONYMOUS, Asked, VolumeMount
from lading.core.events import Bus
from lading.core.mounts import Mount
from lading.core.volumes import Volumes
from lading.errors import ConflictError, LadingError, NotFoundError
from lading.kit import aio
from lading.kit.failpoints import failpoint

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("lading.containers")


class VolumeHolding:
    """What containers have of volumes. ``containers`` gives all of them."""

    def __init__(
        self,
        volumes: Volumes,
        bus: Bus,
        host_mounts: HostMounts,
        containers: Callable[[], Sequence[Container]],
    ) -> None:
        self.volumes = volumes
        self._bus = bus
        self.host_mounts = host_mounts
        self._containers = containers
        self._pinned: list[str] = []
        """Volumes of containers that are being created."""

    def users(self, name: str) -> list[str]:
        """IDs of the containers that have a volume."""
        found = [c.id for c in self._containers() if any(v.name == name for v in c.document.volumes)]
        return [*found, *(["a container that is being created"] if name in self._pinned else ())]

    # Creating.

    @asynccontextmanager
    async def making(self, asked: Sequence[Asked]) -> AsyncGenerator["Making"]:
        """Name the volumes of a new container, to be made within the context.

        They stay if it ends well, else the new ones go again. Nobody else removes them before.
        """
        made = Making(self, self._bus, asked)
        names = [mount.name for mount in made.mounts]
        self._pinned += names
        try:
            yield made
        except BaseException:
            with anyio.CancelScope(shield=True):
                await made.unmake()
            raise
        finally:
            for name in names:
                self._pinned.remove(name)

    async def fill(
        self,
        mounts: Sequence[VolumeMount],
        root: Sequence[Mount],
        scratch: Path,
        remapping: Remapping | None = None,
    ) -> None:
        """Copy what the image has into empty volumes. ``root`` shows the container's tree; ``scratch`` is an empty directory;
        ``remapping`` gives the owners.
        """
        show = remapping.mount_here if remapping else None
        for mount in mounts:
            if not mount.copy:
                continue

            def copy(path: str, target: str = mount.target) -> None:
                rootfs.inside(root, scratch, lambda tree: volumecopy.copy(tree, target, path), show)

            await self.volumes.fill(mount.name, copy)

    # Running.

    async def join(self, container: Container) -> list[Bind]:
        """Make the container's volumes usable; bind mounts that bring them into it. Raises as `Volumes.acquire`."""
        made: list[Bind] = []
        try:
            for number, mount in enumerate(container.document.volumes):
                path = await self.volumes.acquire(mount.name, container.id)
                source = path
                if mount.subpath:
                    source = await aio.run(aio.DISK, self._part, container.id, number, path, mount.subpath)
                made.append(_bind(mount, source))
                self._tell("mount", container, mount)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.leave(container, told=False)
            raise
        return made

    def _part(self, container: str, number: int, path: str, subpath: str) -> str:
        fd = volumemounts.inside(path, subpath)
        try:
            return self.host_mounts.make_bind(container, f"volume-{number}", fd)
        finally:
            os.close(fd)

    async def leave(self, container: Container, *, told: bool = True) -> None:
        """Let go of the volumes of a container that ended. Idempotent."""
        for mount in container.document.volumes:
            if container.id not in self.volumes.holders(mount.name):
                continue
            try:
                await self.volumes.release(mount.name, container.id)
            except LadingError as exc:
                _log.warning("volume_not_released", volume=mount.name, reason=str(exc))
            if told:
                self._tell("unmount", container, mount)

    @asynccontextmanager
    async def visiting(self, container: Container) -> AsyncGenerator[list[Bind]]:
        """The volumes of a container that need not run, e.g. to copy files; a subpath is left out."""
        holder = f"{container.id}-visit"
        held: list[VolumeMount] = []
        try:
            made: list[Bind] = []
            for mount in container.document.volumes:
                path = await self.volumes.acquire(mount.name, holder)
                held.append(mount)
                if not mount.subpath:
                    made.append(_bind(mount, path))
            yield made
        finally:
            with anyio.CancelScope(shield=True):
                for mount in held:
                    await self.volumes.release(mount.name, holder)

    async def recover(self, running: Sequence[Container]) -> None:
        """After a start of the daemon: who holds what, and what is mounted for nobody."""
        held: dict[str, list[str]] = {}
        for container in running:
            for mount in container.document.volumes:
                held.setdefault(mount.name, []).append(container.id)
        await self.volumes.recover(held)

    def _tell(self, action: str, container: Container, mount: VolumeMount) -> None:
        attributes = {"container": container.id, "driver": "local"}
        if action == "mount":
            attributes |= {
                "destination": mount.target,
                "propagation": mount.propagation,
                "read/write": "false" if mount.read_only else "true",
            }
        self._bus.publish("volume", action, mount.name, attributes)

    # Removing.

    async def forget(self, container: Container, *, own: bool) -> None:
        """A container is removed; with ``own`` the volumes that were made for it alone go too, unless others have them."""
        for mount in container.document.volumes if own else ():
            if mount.own and not [user for user in self.users(mount.name) if user != container.id]:
                await self.discard(mount.name)

    async def discard(self, name: str) -> None:
        """Remove a volume that nobody is to know any more; one that somebody has stays."""
        try:
            await self.volumes.remove(name)
        except (NotFoundError, ConflictError):
            return
        self._bus.publish("volume", "destroy", name, {"driver": "local"})


class Making:
    """Volumes on the way to a new container. The container's record comes first, so that whoever finds it knows what to remove.

    ``mounts`` are the container's, with names for those that had none.
    """

    def __init__(self, holding: VolumeHolding, bus: Bus, asked: Sequence[Asked]) -> None:
        self._holding = holding
        self._bus = bus
        self._asked = asked
        self.mounts = [_named(each.mount) for each in asked]
        self._made: list[str] = []

    async def make(self) -> None:
        """Find or make them. Raises as `Volumes.create`."""
        for asked, mount in zip(self._asked, self.mounts, strict=True):
            if await self._make(asked, mount):
                self._made.append(mount.name)
                failpoint("volume.made")

    async def unmake(self) -> None:
        """Remove those that `make` made."""
        for name in self._made:
            await self._holding.discard(name)

    async def _make(self, asked: Asked, mount: VolumeMount) -> bool:
        labels = {**asked.labels, **({ANONYMOUS: ""} if mount.own else {})}
        volume, new = await self._holding.volumes.create(
            mount.name,
            driver=asked.driver or "local",
            labels=labels,
            options=asked.options,
            anonymous=mount.own,
        )
        if new:
            self._bus.publish("volume", "create", volume.name, {"driver": volume.driver})
        return new


def _named(mount: VolumeMount) -> VolumeMount:
    return VolumeMount(
        target=mount.target,
        name=mount.name or secrets.token_hex(32),
        read_only=mount.read_only,
        copy=mount.copy,
        subpath=mount.subpath,
        propagation=mount.propagation,
        mode=mount.mode,
        own=not mount.name,
    )


def _bind(mount: VolumeMount, source: str) -> Bind:
    return Bind(
        source=source,
        target=mount.target,
        read_only=mount.read_only,
        propagation=mount.propagation or "rprivate",
    )
