"""``--mount type=image``: the file tree of another image, read-only, at a path of a container."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lading.containers import binds
from lading.containers.binds import Bind
from lading.containers.environment import Environment
from lading.containers.hostmounts import HostMounts
from lading.containers.remapping import Remapping
from lading.containers.request import HostConfig
from lading.core.leases import LeaseID
from lading.core.snapshots import SnapshotKey
from lading.errors import InvalidArgumentError, NotFoundError
from lading.kit import aio
from lading.oci.descriptor import Descriptor

TYPE: Final = "image"
_LEASE: Final = "mounts-"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageMount:
    """One request. ``subpath`` is a path in the image, empty for all of it."""

    image: str
    target: str
    subpath: str = ""


def parse(host: HostConfig) -> list[ImageMount]:
    """The image mounts of a host configuration. Raises `InvalidArgumentError`."""
    found: list[ImageMount] = []
    for request in host.mounts or ():
        if request.type != TYPE:
            continue
        if not request.source:
            raise InvalidArgumentError(
                'invalid mount config for type "image": field Source must not be empty'
            )
        options = request.image_options
        subpath = (options and options.subpath) or ""
        if subpath.startswith("/") or ".." in subpath.split("/"):
            raise InvalidArgumentError(
                f'invalid mount config for type "image": subpath must be a relative path within the image: {subpath}'
            )
        target = binds.clean_target(request.target, request.target)
        found.append(ImageMount(image=request.source, target=target, subpath=subpath))
    return found


def lease_of(container: str) -> LeaseID:
    """The lease that holds a container's mounted images."""
    return LeaseID(f"{_LEASE}{container}")


def key_of(container: str, number: int) -> SnapshotKey:
    """The view of one mounted image."""
    return SnapshotKey(f"{container}-image-{number}")


async def hold(
    environment: Environment, container: str, asked: Sequence[ImageMount]
) -> dict[str, Descriptor]:
    """Find and unpack the images, and hold them until `release`; target to manifest. Raises `NotFoundError`."""
    if not asked:
        return {}
    lease = lease_of(container)
    await environment.leases.create(lease)
    try:
        found: dict[str, Descriptor] = {}
        for number, each in enumerate(asked):
            image = await environment.images.open(each.image, None)
            await _view(environment, key_of(container, number), image.manifest, lease)
            found[each.target] = image.manifest
    except BaseException:
        await release(environment, container, asked)
        raise
    return found


async def _view(environment: Environment, key: SnapshotKey, manifest: Descriptor, lease: LeaseID) -> None:
    parent = await environment.images.unpack(manifest, lease=lease)
    await environment.snapshotter.view(key, parent, lease=lease)


async def release(environment: Environment, container: str, asked: Sequence[ImageMount]) -> None:
    """Let go of the images; idempotent."""
    if not asked:
        return
    for number in range(len(asked)):
        try:
            await environment.snapshotter.remove(key_of(container, number))
        except NotFoundError:
            continue
    try:
        await environment.leases.delete(lease_of(container))
    except NotFoundError:
        return


async def sweep(environment: Environment, keep: Collection[str]) -> None:
    """Let go of what containers that there are not any more have held; their views go with the next collection."""
    for lease in await environment.leases.list():
        if lease.id.startswith(_LEASE) and lease.id.removeprefix(_LEASE) not in keep:
            await environment.leases.delete(lease.id)


async def mount(
    environment: Environment,
    host_mounts: HostMounts,
    container: str,
    asked: Sequence[ImageMount],
    manifests: Mapping[str, Descriptor],
    remapping: Remapping | None = None,
) -> list[Bind]:
    """Mount the images on the host; the bind mounts that bring them into the container."""
    made: list[Bind] = []
    for number, each in enumerate(asked):
        key = key_of(container, number)
        try:
            mounts = await environment.snapshotter.mounts(key)
        except NotFoundError:  # lost to an unclean boot
            await _view(environment, key, manifests[each.target], lease_of(container))
            mounts = await environment.snapshotter.mounts(key)
        source = await aio.run(
            aio.DISK, host_mounts.make_tree, container, f"image-{number}", mounts, each.subpath, remapping
        )
        made.append(Bind(source=source, target=each.target, read_only=True))
    return made
