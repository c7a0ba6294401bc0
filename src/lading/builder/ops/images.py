"""Base images: found in the store or in a registry, and brought when somebody looks into them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import anyio
from typing_extensions import override

from lading.builder.model import ResolveMode
from lading.builder.ops import contents
from lading.builder.ops.layouts import LayoutFetcher
from lading.builder.ops.trees import Base, Tree
from lading.builder.solver.operation import CacheMap, Context, Operation
from lading.core import content, images
from lading.core.buildcache import BuildCache, LayerBlob
from lading.core.leases import LeaseID, Manager, Resource
from lading.core.progress import Item, Phase
from lading.core.progress import Progress as TransferProgress
from lading.core.remotes import Credentials, Registries
from lading.core.session import Session
from lading.core.snapshots import SnapshotName
from lading.errors import (
    FailedPreconditionError,
    LadingError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from lading.images import lookup
from lading.kit.tasks import KeyedLock, task_group
from lading.oci import config as oci_config
from lading.oci import mediatypes, platform, reference
from lading.oci.config import ImageConfig
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import ChainID, DiffID, Digest
from lading.oci.document import CONFIG_LIMIT, MANIFEST_LIMIT
from lading.oci.manifest import Index, is_attestation, media_type_of
from lading.oci.reference import Reference
from lading.transfer.documents import Documents, ManifestNode
from lading.transfer.pull import Located, Puller

_SHOW_SECONDS: Final = 0.15
_KEPT: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image for one platform: its documents are in the store, its layers may be away.

    In the classic store an image is its config, which is target and manifest, and its layers are there.
    """

    target: Digest
    manifest: Digest
    config: ImageConfig
    body: bytes
    """The config's bytes."""
    located: Located | None
    """Where its layers come from; ``None`` for an image of the classic store."""

    @property
    def chain(self) -> Sequence[ChainID]:
        """The chain IDs of its layers, bottom first."""
        return self.config.chain


class ImageSources:
    """Finds base images. What was found is remembered, so that a build reads it once."""

    def __init__(
        self,
        *,
        store: content.Store,
        records: images.Store,
        documents: Documents,
        puller: Puller,
        registries: Registries,
        leases: Manager,
        cache: BuildCache,
        snapshotter: str,
    ) -> None:
        self._content = store
        self._records = records
        self._documents = documents
        self._puller = puller
        self._registries = registries
        self._leases = leases
        self._cache = cache
        self._snapshotter = snapshotter
        self._found: dict[tuple[Digest, Platform], Image] = {}
        self._locks = KeyedLock()

    async def find(
        self,
        name: str,
        wanted: Platform,
        *,
        mode: ResolveMode,
        sessions: Sequence[Session],
        lease: LeaseID,
    ) -> Image:
        """The image for a platform.

        Raises:
            NotFoundError: There is none, or not for the platform.

        """
        parsed = reference.parse(name).with_default_tag()
        async with self._locks.hold((parsed, wanted)):
            if parsed.digest is not None and (known := self._found.get((parsed.digest, wanted))):
                await self._hold(known, lease)
                return known
            image = await self._locate(parsed, wanted, mode, sessions, lease)
            await self._hold(image, lease)
            self._remember(image, wanted)
            return image

    async def find_in_layout(
        self, name: str, digest: Digest, wanted: Platform, *, session: Session, store: str, lease: LeaseID
    ) -> Image:
        """The image of a digest in an OCI layout of the client. Raises `NotFoundError`."""
        place = Reference(domain="oci-layout.invalid", path=name.lower() or "layout", digest=digest)
        fetcher = LayoutFetcher(session.content(store))
        async with self._locks.hold((digest, wanted)):
            document = await fetcher.target(digest)
            located = await self._puller.locate_in(place, document, wanted, fetcher=fetcher, lease=lease)
            image = await self._opened(located)
            await self._hold(image, lease)
            return image

    def _remember(self, image: Image, wanted: Platform) -> None:
        self._found[(image.target, wanted)] = image
        while len(self._found) > _KEPT:
            del self._found[next(iter(self._found))]

    async def _hold(self, image: Image, lease: LeaseID) -> None:
        for digest in {image.target, image.manifest}:
            await self._leases.add(lease, Resource(kind="content", id=digest))

    async def _locate(
        self,
        name: Reference,
        wanted: Platform,
        mode: ResolveMode,
        sessions: Sequence[Session],
        lease: LeaseID,
    ) -> Image:
        local = None
        if mode is ResolveMode.PREFER_LOCAL or name.digest is not None:
            local = await self._local(name, wanted)
        if local is not None:
            return local
        try:
            return await self._opened(await self._remote(name, wanted, sessions, lease))
        except (NotFoundError, UnavailableError) as exc:
            raise type(exc)(f"{name.familiar}: {exc.message}", hint=exc.hint, subject=str(name)) from exc

    async def _remote(
        self, name: Reference, wanted: Platform, sessions: Sequence[Session], lease: LeaseID
    ) -> Located:
        refused: LadingError | None = None
        for credentials in [*[await credentials_of(session, name) for session in sessions], None]:
            if credentials is None and refused is not None and sessions:
                raise refused
            try:
                return await self._puller.locate(name, wanted, lease=lease, credentials=credentials)
            except UnauthenticatedError as exc:
                refused = exc
        assert refused is not None
        raise refused

    async def _local(self, name: Reference, wanted: Platform) -> Image | None:
        """The image out of the store, if its manifest and config are there."""
        try:
            target = await self._target(name)
            if mediatypes.is_config(target.media_type):
                return await self._classic(target, wanted)
            node = await self._node(target, wanted)
            if node is None:
                return None
            await self._content.info(node.manifest.config.digest)
        except NotFoundError:
            return None
        fetcher = self._registries.resolver().fetcher(name)
        return await self._opened(Located(reference=name, target=target, node=node, fetcher=fetcher))

    async def _classic(self, target: Descriptor, wanted: Platform) -> Image | None:
        """An image of the classic store, if it is for the platform."""
        body = await self._content.read(target.digest, limit=CONFIG_LIMIT)
        config = oci_config.parse(body, what=f"config {target.digest}")
        if platform.rank(wanted, config.platform) is None:
            return None
        return Image(target=target.digest, manifest=target.digest, config=config, body=body, located=None)

    async def _target(self, name: Reference) -> Descriptor:
        if name.digest is None:
            return (await lookup.find(self._records, str(name))).image.target
        for record in await self._records.by_target(name.digest):
            if mediatypes.is_config(record.target.media_type):
                return record.target
        body = await self._content.read(name.digest, limit=MANIFEST_LIMIT)
        return Descriptor(media_type=media_type_of(body), digest=name.digest, size=len(body))

    async def _node(self, target: Descriptor, wanted: Platform) -> ManifestNode | None:
        document = await self._documents.read(target)
        if not isinstance(document, Index):
            return ManifestNode(descriptor=target, manifest=document)
        offers = [one for one in document.manifests if not is_attestation(one)]
        for offer in platform.order(wanted, offers, key=lambda one: one.platform):
            return await self._node(offer, wanted)
        return None

    async def _opened(self, located: Located) -> Image:
        config = await self._documents.config(located.node)
        body = await self._content.read(located.node.manifest.config.digest, limit=CONFIG_LIMIT)
        return Image(
            target=located.target.digest,
            manifest=located.node.descriptor.digest,
            config=config,
            body=body,
            located=located,
        )

    async def bring(self, image: Image, lease: LeaseID, context: Context | None) -> None:
        """Have all layers of an image in the store and unpacked."""
        async with self._locks.hold(("bring", image.manifest)):
            if image.located is None:
                layers = unpacked_layers(image.config.rootfs.diff_ids)
            else:
                await self._complete(image.located, lease, context)
                layers = image.located.node.manifest.layers
            for chain, descriptor, diff_id in zip(
                image.chain, layers, image.config.rootfs.diff_ids, strict=True
            ):
                if await self._cache.layer(self._snapshotter, chain, "") is None:
                    layer = LayerBlob(descriptor=descriptor, diff_id=diff_id)
                    await self._cache.put_layer(self._snapshotter, chain, "", layer)

    async def _complete(self, located: Located, lease: LeaseID, context: Context | None) -> None:
        progress = TransferProgress()
        async with task_group() as group:
            if context is not None:
                group.start_soon(_show, progress, context)
            await self._puller.complete(located, lease=lease, progress=progress)
            group.cancel_scope.cancel()
        if context is not None:
            _show_once(progress, context)


def unpacked_layers(diff_ids: Sequence[DiffID]) -> list[Descriptor]:
    """How layers are named that are unpacked only, as in the classic store: by their diff IDs, without a blob."""
    return [Descriptor(media_type=mediatypes.OCI_LAYER, digest=Digest(each), size=0) for each in diff_ids]


async def credentials_of(session: Session, reference: Reference) -> Credentials | None:
    """The client's credentials for the registry of a reference; Docker Hub has two names."""
    host = "registry-1.docker.io" if reference.domain == "docker.io" else reference.domain
    try:
        return await session.credentials(host)
    except (NotFoundError, UnavailableError):
        return None


async def _show(progress: TransferProgress, context: Context) -> None:
    while True:
        await anyio.sleep(_SHOW_SECONDS)
        _show_once(progress, context)


def _show_once(progress: TransferProgress, context: Context) -> None:
    for item in progress.items.values():
        if item.phase is not Phase.WAITING:
            _show_item(item, context)


def _show_item(item: Item, context: Context) -> None:
    done = item.phase in (Phase.COMPLETE, Phase.EXISTS, Phase.DOWNLOADED)
    name = f"extracting {item.id}" if item.phase is Phase.EXTRACTING else f"sha256:{item.id}"
    context.status(name, current=item.current, total=item.total, completed=time.time_ns() if done else 0)


class _ImageBase(Base):
    """The layers of an image, brought on demand."""

    def __init__(
        self, sources: ImageSources, image: Image, lease: LeaseID, context: Context, layers: int | None
    ) -> None:
        self._sources = sources
        self._image = image
        self._lease = lease
        self._context = context
        self._names = tuple(SnapshotName(chain) for chain in image.chain[:layers])
        self._brought = False

    @property
    @override
    def layers(self) -> tuple[SnapshotName, ...]:
        return self._names

    @override
    async def bring(self) -> None:
        if not self._brought:
            await self._sources.bring(self._image, self._lease, self._context)
            self._brought = True


class ImageOperation(Operation[Tree]):
    """``docker-image://``."""

    def __init__(
        self,
        name: str,
        wanted: Platform,
        sources: ImageSources,
        lease: LeaseID,
        *,
        mode: ResolveMode = ResolveMode.DEFAULT,
        layers: int | None = None,
        checksum: str = "",
        layout: tuple[str, str] | None = None,
    ) -> None:
        """``layout`` is for an image in an OCI layout of the client: its store, and the session's ID or nothing."""
        self._layout = layout
        self._name = name
        self._wanted = wanted
        self._sources = sources
        self._lease = lease
        self._mode = mode
        self._layers = layers
        self._checksum = checksum
        self._image: Image | None = None

    @property
    @override
    def slots(self) -> int:
        return 0

    async def _find(self, context: Context) -> Image:
        if self._image is None:
            shown = f"resolve {self._name}"
            context.status(shown)
            self._image = await self._search(context)
            context.status(shown, completed=time.time_ns())
        return self._image

    async def _search(self, context: Context) -> Image:
        if self._layout is None:
            return await self._sources.find(
                self._name,
                self._wanted,
                mode=self._mode,
                sessions=context.sessions(),
                lease=self._lease,
            )
        store, wanted = self._layout
        name, _, digest = self._name.partition("@")

        async def look(session: Session) -> Image:
            if wanted and session.id != wanted:
                raise NotFoundError(f"session {wanted} is not of this build")
            return await self._sources.find_in_layout(
                name, Digest(digest), self._wanted, session=session, store=store, lease=self._lease
            )

        return await context.with_session(look)

    @override
    async def cache_map(self, context: Context) -> CacheMap[Tree]:
        image = await self._find(context)
        if self._checksum and self._checksum not in (image.manifest, image.target):
            raise FailedPreconditionError(
                f"image digest {image.manifest} for {self._name} does not match expected checksum {self._checksum}"
            )
        chain = image.chain[: self._layers]
        return contents.of_image(image.target, self._wanted, self._layers, chain[-1] if chain else None)

    @override
    async def run(self, inputs: Sequence[Tree], context: Context) -> list[Tree]:
        image = await self._find(context)
        base = _ImageBase(self._sources, image, self._lease, context, self._layers)
        top = base.layers[-1] if base.layers else None
        return [Tree(layers=base.layers, top=top, base=base, blobs=(image.manifest,))]

    @override
    def close(self) -> None:
        return
