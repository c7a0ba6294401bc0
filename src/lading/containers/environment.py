"""What the container service is built from; the composition root fills it in."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

from lading.containers.remapping import OWN_USERNS, Remapping
from lading.containers.request import HostConfig
from lading.containers.spec import CGROUP_PARENT
from lading.core import containers, content, images, leases
from lading.core.diff import Differ
from lading.core.events import Bus
from lading.core.leases import LeaseID
from lading.core.mounts import Mount
from lading.core.networks import Networks
from lading.core.runtime import Runtime
from lading.core.snapshots import SnapshotKey, SnapshotName, Snapshotter
from lading.core.volumes import Volumes
from lading.errors import InvalidArgumentError, NotFoundError
from lading.oci import config as oci_config
from lading.oci import manifest as oci_manifest
from lading.oci import mediatypes
from lading.oci import platform as platforms
from lading.oci.config import ImageConfig
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import Digest
from lading.oci.document import CONFIG_LIMIT, MANIFEST_LIMIT
from lading.oci.manifest import Index, Manifest
from lading.oci.reference import Reference
from lading.transfer.commit import Changes, CommitOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerImage:
    """An image as a container needs it: what its name points to, the manifest for one platform, and its config."""

    target: Descriptor
    manifest: Descriptor
    config: ImageConfig
    document: Manifest | None = None
    """The manifest as it was read, where there is one."""


class ImageSource(Protocol):
    """Where the images of containers come from."""

    async def open(self, name: str, platform: Platform | None) -> ContainerImage:
        """The image of a name or ID, for ``platform``, else for this machine, else for any that is there.

        Raises `NotFoundError`: ``No such image: …``, or it has no manifest for the platform.
        """
        ...

    async def unpack(
        self, manifest: Descriptor, *, lease: LeaseID | None = None, image: ContainerImage | None = None
    ) -> SnapshotName | None:
        """See to it that the image's snapshots are there; the top one's name, ``None`` for an image without layers.

        ``image``: what `open` has just read of it, which is not read again.
        """
        ...

    async def commit(
        self,
        base: Descriptor,
        changes: Changes,
        options: CommitOptions,
        *,
        reference: Reference | None = None,
        parent: Digest | None = None,
    ) -> Descriptor:
        """Make an image of an image manifest and what was changed on top of it; see `TransferService.commit`."""
        ...


class StoredImages(ImageSource):
    """`ImageSource` on the content store.

    Args:
        store: Where the blobs are.
        find: The image record of a name or ID; raises `NotFoundError`.
        unpack: ``TransferService.ensure_unpacked``.
        commit: ``TransferService.commit``.

    """

    def __init__(
        self,
        store: content.Store,
        *,
        find: Callable[[str], Awaitable[images.Image]],
        unpack: "Unpack",
        commit: "Commit",
    ) -> None:
        self._content = store
        self._offered = _Offered(store)
        self._find = find
        self._unpack = unpack
        self._commit = commit

    async def open(self, name: str, platform: Platform | None) -> ContainerImage:
        """See `ImageSource.open`."""
        target = (await self._find(name)).target
        if mediatypes.is_config(target.media_type):
            return await self._classic(name, target, platform)
        wanted = platform or platforms.host()
        offers = await self._offered.of(target)
        found = platforms.best(
            wanted, offers, key=lambda offer: offer.config.platform, strict=platform is not None
        )
        if found is None and offers and platform is None:
            found = offers[0]
        if found is None:
            shown = platforms.formatted(wanted)
            raise NotFoundError(
                f"image with reference {name} was found but does not provide the specified platform ({shown})",
                subject=name,
            )
        return found

    async def unpack(
        self, manifest: Descriptor, *, lease: LeaseID | None = None, image: ContainerImage | None = None
    ) -> SnapshotName | None:
        """See `ImageSource.unpack`."""
        known = (image.document, image.config) if image is not None and image.document is not None else None
        return await self._unpack(manifest, lease=lease, known=known)

    async def _classic(self, name: str, target: Descriptor, platform: Platform | None) -> ContainerImage:
        """An image of the classic store is its config, for one platform."""
        body = await self._content.read(target.digest, limit=CONFIG_LIMIT)
        config = oci_config.parse(body, what=f"config {target.digest}")
        if platform is not None and platforms.rank(platform, config.platform) is None:
            raise NotFoundError(
                f"image with reference {name} was found but its platform ({platforms.formatted(config.platform)}) "
                f"does not match the specified platform ({platforms.formatted(platform)})",
                subject=name,
            )
        return ContainerImage(target=target, manifest=target, config=config)

    async def commit(
        self,
        base: Descriptor,
        changes: Changes,
        options: CommitOptions,
        *,
        reference: Reference | None = None,
        parent: Digest | None = None,
    ) -> Descriptor:
        """See `ImageSource.commit`."""
        return await self._commit(base, changes, options, reference=reference, parent=parent)


_INDEX_DEPTH: Final = 8
_REMEMBERED: Final = 32
"""Images whose manifests and configs are remembered, the last used."""
_REMEMBERED_BYTES: Final = 1 << 20
"""Most bytes of these documents of one image."""


class _Offered:
    """The image manifests that are stored below targets. What the last ones were read from is remembered.

    A digest says what a blob holds, so that all there is to ask again is which of the blobs are there.
    """

    def __init__(self, store: content.Store) -> None:
        self._content = store
        self._known: dict[tuple[Digest, str], tuple[dict[Digest, int | None], list[ContainerImage]]] = {}

    async def of(self, target: Descriptor) -> list[ContainerImage]:
        """Those below ``target`` that are stored together with their config. Raises what reading and parsing raise."""
        key = (target.digest, target.media_type)
        known = self._known.get(key)
        if known is None or not await self._is_as(known[0]):
            seen: dict[Digest, int | None] = {}
            known = seen, [offer async for offer in self._manifests(target, seen)]
        self._known.pop(key, None)
        if sum(size or 0 for size in known[0].values()) <= _REMEMBERED_BYTES:
            self._known[key] = known
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        return [
            replace(
                offer,
                target=target,
                manifest=target if offer.manifest.digest == target.digest else offer.manifest,
            )
            for offer in known[1]
        ]

    async def _is_as(self, seen: "dict[Digest, int | None]") -> bool:
        here = await self._content.sizes(seen)
        return all(here.get(digest) == size for digest, size in seen.items())

    async def _manifests(
        self, target: Descriptor, seen: "dict[Digest, int | None]", depth: int = 0
    ) -> "AsyncIterator[ContainerImage]":
        """Image manifests below a target that are stored with their config. ``seen``: sizes of what was read, else ``None``."""
        body = await self._read(target.digest, MANIFEST_LIMIT, seen)
        if body is None:
            return
        document = oci_manifest.parse(body, target.media_type, what=f"manifest {target.digest}")
        if isinstance(document, Index):
            for entry in document.manifests if depth < _INDEX_DEPTH else ():
                if not oci_manifest.is_attestation(entry):
                    async for found in self._manifests(entry, seen, depth + 1):
                        yield replace(found, target=target)
        elif document.is_image and (config := await self._config(document, seen)):
            yield ContainerImage(target=target, manifest=target, config=config, document=document)
        elif not document.is_image and depth == 0:
            raise InvalidArgumentError(f"{target.digest} is no image, but {document.config.media_type}")

    async def _config(self, document: Manifest, seen: "dict[Digest, int | None]") -> ImageConfig | None:
        body = await self._read(document.config.digest, CONFIG_LIMIT, seen)
        return None if body is None else oci_config.parse(body, layers=len(document.layers))

    async def _read(self, digest: Digest, limit: int, seen: "dict[Digest, int | None]") -> bytes | None:
        try:
            body = await self._content.read(digest, limit=limit)
        except NotFoundError:
            seen[digest] = None
            return None
        seen[digest] = len(body)
        return body


class Unpack(Protocol):
    """Signature of ``TransferService.ensure_unpacked``."""

    async def __call__(
        self,
        manifest: Descriptor,
        *,
        lease: LeaseID | None = None,
        known: tuple[Manifest, ImageConfig] | None = None,
    ) -> SnapshotName | None:
        """See `ImageSource.unpack`."""
        ...


class Commit(Protocol):
    """Signature of ``TransferService.commit``."""

    async def __call__(
        self,
        base: Descriptor,
        changes: Changes,
        options: CommitOptions,
        *,
        reference: Reference | None = None,
        parent: Digest | None = None,
    ) -> Descriptor:
        """See `ImageSource.commit`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolving:
    """Name servers, search domains and options of the daemon, for containers that name none."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    host_gateway: str = ""
    """What ``host-gateway`` means; empty for the gateway of a container's first network, else the default one's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Ports and places. ``root`` (in the data-root) holds logs and files of containers; ``state`` (in the exec-root) FIFOs
    and journals, which mean nothing after a reboot.
    """

    store: containers.Store
    images: ImageSource
    snapshotter: Snapshotter
    differ: Differ
    leases: leases.Manager
    runtime: Runtime
    bus: Bus
    networks: Networks
    volumes: Volumes
    root: Path
    state: Path
    runtimes: "dict[str, str]"
    """Names that ``--runtime`` may say, to names that the runtime port knows; ``""`` is the default."""
    init_path: str = ""
    """The host's program that ``--init`` makes process 1; empty if there is none."""
    init: bool = False
    """Whether containers that do not say get an init process."""
    log_driver: str = "json-file"
    log_options: "dict[str, str]" = field(default_factory=dict[str, str])
    """Of containers that name no driver, or this one."""
    trees: Callable[[str], Awaitable[Mapping[str, str]]] | None = None
    """Tells Docker's ``GraphDriver.Data`` of a writable layer, given its key; where the image store has such."""
    storage_limit: int = 0
    """Bytes of the writable layer of containers that do not say; 0 for no limit."""
    resolving: Resolving = field(default_factory=Resolving)
    remapping: Remapping | None = None
    """The user namespace of containers that do not ask for the machine's."""
    cgroup_v2: bool = True
    cgroup_parent: str = CGROUP_PARENT
    """Below which containers have their cgroups; empty if there are none to be had."""
    stop_seconds: int = 10

    def remapping_of(self, host: HostConfig) -> Remapping | None:
        """The user namespace of one container, ``None`` for the machine's."""
        return None if host.userns_mode == OWN_USERNS else self.remapping

    def owner_of(self, host: HostConfig) -> tuple[int, int]:
        """User and group of the machine that are root in one container."""
        remapping = self.remapping_of(host)
        return remapping.root if remapping else (0, 0)

    async def root_mounts(self, key: SnapshotKey, manifest: Descriptor) -> list[Mount]:
        """The mounts of one container's root file system; layers lost to an unclean boot are unpacked again first."""
        try:
            return await self.snapshotter.mounts(key)
        except NotFoundError:
            await self.images.unpack(manifest)
            return await self.snapshotter.mounts(key)
