"""The classic store: images come in from blobs and go out as blobs, and are configs and unpacked layers in between."""

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final

import msgspec
from typing_extensions import override

from lading.classic import assemble, packing
from lading.classic.imagedb import KnownBlobs
from lading.classic.layerdb import SPLIT, LayerDatabase, LayerRecord
from lading.classic.layout import DRIVER, Layout
from lading.classic.records import ClassicRecords, known_lease
from lading.core import content, leases
from lading.core.classic import ClassicStore, SeenBlob
from lading.core.content import IngestRef
from lading.core.images import Image, Pointed
from lading.core.labels import GC_REF_CONTENT, GC_REF_SNAPSHOT
from lading.core.leases import FLAT, LeaseID, Resource
from lading.errors import (
    AlreadyExistsError,
    DataLossError,
    InvalidArgumentError,
    NotFoundError,
)
from lading.kit import aio
from lading.kit.tasks import KeyedLock
from lading.oci import config as oci_config
from lading.oci import manifest as oci_manifest
from lading.oci import mediatypes, reference
from lading.oci.config import ImageConfig
from lading.oci.descriptor import Descriptor
from lading.oci.digest import ChainID, DiffID, Digest
from lading.oci.document import CONFIG_LIMIT, MANIFEST_LIMIT, encode
from lading.oci.manifest import Manifest, descriptor_of
from lading.oci.reference import Reference, dangling_name, is_dangling

_CONTAINER_LIMIT: Final = 4 << 20


class LocalClassicStore(ClassicStore):
    """`ClassicStore` in a data-root.

    Args:
        layout: Where.
        records: The image records over the same place.
        blobs: The namespace's content: what is being pulled, pushed, saved or loaded, and every image's config.
        leases: Keep the manifests that images were pulled as, for a migration.

    """

    def __init__(
        self, layout: Layout, records: ClassicRecords, blobs: content.Store, leases: leases.Manager
    ) -> None:
        self._leases = leases
        self._layout = layout
        self._records = records
        self._content = blobs
        self._images = records.database
        self._foreign: Mapping[str, Digest] | None = None
        self._layers = LayerDatabase(layout)
        self._known = KnownBlobs(layout)
        self._names = KeyedLock()

    # Naming.

    @override
    async def point(
        self,
        name: str | None,
        target: Descriptor,
        *,
        manifest: Descriptor | None = None,
        source: Reference | None = None,
        labels: Mapping[str, str] | None = None,
        keep_displaced: bool = True,
    ) -> Pointed:
        image = target if mediatypes.is_config(target.media_type) else await self._adopt(manifest or target)
        if name is None and (named := await self._records.by_target(image.digest)):
            return Pointed(image=named[0], replaced=named[0])
        if name is None or is_dangling(name):
            name = dangling_name(image.digest)
        async with self._names.hold(name):
            pointed = await self._put_name(name, image, labels=labels, keep_displaced=keep_displaced)
            if name != dangling_name(image.digest):
                await aio.run(aio.DISK, self._images.touch, image.digest)
                await self._forget(dangling_name(image.digest))
        if source is not None:
            await self.note(image, manifest or target, source)
            await self._keep(image.digest, target, manifest or target)
            digest = str(source.with_digest(target.digest))
            # Another platform of the same index was known by this digest: it stays, as after any name that moved.
            await self._put_name(digest, image, keep_displaced=keep_displaced)
        return pointed

    async def _put_name(
        self,
        name: str,
        image: Descriptor,
        *,
        labels: Mapping[str, str] | None = None,
        keep_displaced: bool,
    ) -> Pointed:
        old = await self._current(name)
        displaced = dangling_name(old.target.digest) if old and keep_displaced else None
        return await self._records.put(name, image, labels=labels, displaced=displaced)

    async def _keep(self, image: Digest, *documents: Descriptor) -> None:
        """Keep what an image was pulled as: small, and the only way to its digests without the registry."""
        lease = known_lease(image)
        with contextlib.suppress(AlreadyExistsError):
            await self._leases.create(lease, labels={FLAT: "true"})
        for each in documents:
            await self._leases.add(lease, Resource(kind="content", id=each.digest))

    async def _current(self, name: str) -> Image | None:
        try:
            return await self._records.get(name)
        except NotFoundError:
            return None

    async def _forget(self, name: str) -> None:
        try:
            await self._records.delete(name)
        except NotFoundError:
            return

    async def _adopt(self, manifest: Descriptor) -> Descriptor:
        """Make an image of a stored manifest whose layers are unpacked; its config's descriptor."""
        document = await self._manifest(manifest)
        body = await self._content.read(document.config.digest, limit=CONFIG_LIMIT)
        config = oci_config.parse(body, layers=len(document.layers), what=f"config {document.config.digest}")
        check_history(config)
        top = config.chain[-1] if config.chain else None
        label = f"{GC_REF_SNAPSHOT}{DRIVER}"
        if top is not None:
            await self._content.update(document.config.digest, {label: top})
        await aio.run(aio.DISK, self._images.add, document.config.digest, body)
        return Descriptor(media_type=mediatypes.DOCKER_CONFIG, digest=document.config.digest, size=len(body))

    async def _manifest(self, descriptor: Descriptor) -> Manifest:
        body = await self._content.read(descriptor.digest, limit=MANIFEST_LIMIT)
        document = oci_manifest.parse(body, descriptor.media_type, what=f"manifest {descriptor.digest}")
        if not isinstance(document, Manifest) or document.config.media_type not in mediatypes.CONFIGS:
            raise InvalidArgumentError(
                f"{descriptor.digest} is not the manifest of an image",
                hint="the classic image store keeps images only: lading store use containerd",
                subject=descriptor.digest,
            )
        return document

    # What is known of images.

    @override
    async def parents(self) -> Mapping[Digest, Digest]:
        return await aio.run(aio.DISK, self._images.parents)

    @override
    async def has(self, image: Digest) -> bool:
        return await aio.run(aio.DISK, lambda: image in self._images.ids())

    @override
    async def made_from(self, parent: Digest | None) -> Sequence[Digest]:
        def find() -> list[Digest]:
            if parent is not None:
                return sorted(self._images.children(parent))
            return sorted(set(self._images.ids()) - self._images.parents().keys())

        return await aio.run(aio.DISK, find)

    @override
    async def set_parent(self, image: Digest, parent: Digest) -> None:
        for each in (image, parent):
            if not await self._records.by_target(each):
                raise NotFoundError(f"No such image: {each}", subject=each)
        await aio.run(aio.DISK, self._images.set_parent, image, parent)

    @override
    async def named_at(self, image: Digest) -> int:
        return await aio.run(aio.DISK, self._images.touched, image)

    @override
    async def trees(self, chain: Sequence[ChainID]) -> Mapping[str, str]:
        layers = await aio.run(aio.DISK, lambda: [self._layers.read(each) for each in chain])
        return self._shown([layer.tree for layer in layers if layer is not None])

    @override
    async def trees_of(self, key: str) -> Mapping[str, str]:
        return self._shown(await aio.run(aio.DISK, self._layers.below, key))

    def _shown(self, trees: Sequence[str]) -> Mapping[str, str]:
        """Docker's words for trees, bottom first."""
        if not trees:
            return {}
        *lower, top = [str(self._layout.trees / tree) for tree in trees]
        data = {f"{name}Dir": f"{top}/{part}" for name, part in _PARTS.items()}
        if lower:
            data["LowerDir"] = ":".join(f"{each}/diff" for each in reversed(lower))
        return data

    @override
    async def foreign_uses(self) -> Mapping[str, Digest]:
        if self._foreign is None:
            self._foreign = await aio.run(aio.DISK, foreign_containers, self._layout.root)
        return self._foreign

    @override
    async def check_layers(self) -> AsyncIterator[tuple[ChainID, str]]:
        for record in await aio.run(aio.DISK, self._layers.layers):
            yield record.chain_id, await aio.run(aio.DATA, self._problem, record)

    def _problem(self, record: LayerRecord) -> str:
        hasher = record.diff_id.hasher()
        try:
            for piece in self._stream(record):
                hasher.update(piece)
        except DataLossError as exc:
            return exc.message
        found = DiffID.from_hasher(hasher, record.diff_id.algorithm)
        return "" if found == record.diff_id else f"its tree gives {found} instead of {record.diff_id}"

    @override
    async def seen(self, layer: ChainID) -> tuple[DiffID, Sequence[SeenBlob]]:
        record = await aio.run(aio.DISK, self._layers.read, layer)
        if record is None:
            raise NotFoundError(f"layer {layer} is not here", subject=layer)
        known = await aio.run(aio.DISK, self._known.of_layer, record.diff_id)
        return record.diff_id, [
            SeenBlob(
                repository=reference.parse(each.source_repository),
                blob=Descriptor(
                    media_type=each.media_type or mediatypes.DOCKER_LAYER_GZIP,
                    digest=Digest(each.digest),
                    size=each.size,
                ),
            )
            for each in reversed(known)
        ]

    # Going out.

    @override
    async def known_blobs(
        self, image: Descriptor, repository: Reference
    ) -> Mapping[DiffID, Sequence[Descriptor]]:
        config = await self._config(image)

        def look() -> dict[DiffID, Sequence[Descriptor]]:
            return {each: self._blobs_of(each, repository) for each in config.rootfs.diff_ids}

        return await aio.run(aio.DISK, look)

    def _blobs_of(self, diff_id: DiffID, repository: Reference) -> Sequence[Descriptor]:
        """Those in the repository itself first, then those elsewhere on its registry; of each the ones seen last."""
        found: dict[Digest, Descriptor] = {}
        known = self._known.of_layer(diff_id)[::-1]
        for near in (True, False):
            for each in known:
                same = each.source_repository == repository.name
                if same is near and each.source_repository.partition("/")[0] == repository.domain:
                    kind = each.media_type or mediatypes.DOCKER_LAYER_GZIP
                    blob = Descriptor(media_type=kind, digest=Digest(each.digest), size=each.size)
                    found.setdefault(blob.digest, blob)
        return list(found.values())

    async def _config(self, image: Descriptor) -> ImageConfig:
        body = await self._content.read(image.digest, limit=CONFIG_LIMIT)
        return oci_config.parse(body, what=f"config {image.digest}")

    @override
    async def materialise(
        self,
        image: Descriptor,
        *,
        lease: LeaseID,
        packed: bool,
        present: Mapping[DiffID, Descriptor] | None = None,
    ) -> Descriptor:
        # Who removes the image meanwhile does not take away what is read.
        await self._leases.add(lease, Resource(kind="content", id=image.digest))
        body = await self._content.read(image.digest, limit=CONFIG_LIMIT)
        config = oci_config.parse(body, what=f"config {image.digest}")
        if config.chain:
            top = Resource(kind="snapshot", id=config.chain[-1], snapshotter=DRIVER)
            await self._leases.add(lease, top)
        layers: list[Descriptor] = []
        for diff_id, chain_id in zip(config.rootfs.diff_ids, config.chain, strict=True):
            known = (present or {}).get(diff_id)
            layers.append(known or await self._layer(chain_id, lease, packed=packed))
        # As dockerd: Docker's types to a registry, OCI's into an archive.
        docker = False
        if packed:
            docker, types = mediatypes.one_family(each.media_type for each in layers)
            layers = [
                msgspec.structs.replace(layer, media_type=each)
                for layer, each in zip(layers, types, strict=True)
            ]
        kind, config_type = (
            (mediatypes.DOCKER_MANIFEST, mediatypes.DOCKER_CONFIG)
            if docker
            else (mediatypes.OCI_MANIFEST, mediatypes.OCI_CONFIG)
        )
        manifest = Manifest(
            schema_version=2,
            media_type=kind,
            config=Descriptor(media_type=config_type, digest=image.digest, size=len(body)),
            layers=tuple(layers),
        )
        raw = encode(manifest)
        descriptor = descriptor_of(raw, kind)
        labels = {f"{GC_REF_CONTENT}.config": str(image.digest)}
        labels |= {f"{GC_REF_CONTENT}.l.{n}": str(layer.digest) for n, layer in enumerate(layers)}
        await self._put(descriptor, raw, lease, labels)
        return descriptor

    async def _put(
        self, descriptor: Descriptor, body: bytes, lease: LeaseID, labels: Mapping[str, str]
    ) -> None:
        ref = IngestRef(f"classic-{descriptor.digest}")
        try:
            async with self._content.open_writer(ref, expected=descriptor, lease=lease) as writer:
                if writer.offset:
                    await aio.run(aio.DISK, writer.truncate)
                await aio.run(aio.DISK, writer.write, body)
                await writer.commit(labels=labels)
        except AlreadyExistsError:
            await self._content.update(descriptor.digest, dict(labels))

    async def _layer(self, chain_id: ChainID, lease: LeaseID, *, packed: bool) -> Descriptor:
        """One layer as a blob. That its bytes are what they were is seen before anyone is given them."""
        record = await aio.run(aio.DISK, self._layers.read, chain_id)
        if record is None:
            raise DataLossError(
                f"layer {chain_id} is not here", hint="pull the image again", subject=chain_id
            )
        return await (self._packed if packed else self._plain)(record, lease)

    def _stream(self, record: LayerRecord) -> Iterator[bytes]:
        tree: Path = self._layout.trees / record.tree / "diff"
        return assemble.stream(tree, self._layers.directory(record.chain_id) / SPLIT)

    async def _plain(self, record: LayerRecord, lease: LeaseID) -> Descriptor:
        blob = Digest(record.diff_id)
        try:
            size = (await self._content.info(blob)).size
        except NotFoundError:
            size = 0
        expected = Descriptor(media_type=mediatypes.OCI_LAYER, digest=blob, size=size)
        ref = IngestRef(f"classic-{blob}")
        try:
            async with self._content.open_writer(
                ref, expected=expected if size else None, lease=lease
            ) as writer:
                if writer.offset:
                    await aio.run(aio.DISK, writer.truncate)
                async with aclosing(aio.each(aio.DATA, self._stream(record))) as pieces:
                    async for data in pieces:
                        await aio.run(aio.DATA, writer.write, data)
                size = writer.offset
                await writer.commit(size=size, expected=blob)
        except AlreadyExistsError:
            pass
        return msgspec.structs.replace(expected, size=size)

    async def _packed(self, record: LayerRecord, lease: LeaseID) -> Descriptor:
        """The layer in gzip, so that a second push finds it in the registry."""
        info = await packing.pack(self._layout, record, self._content, lease=lease)
        return Descriptor(media_type=mediatypes.DOCKER_LAYER_GZIP, digest=info.digest, size=info.size)

    @override
    async def note(self, image: Descriptor, manifest: Descriptor, repository: Reference) -> None:
        document = await self._manifest(manifest)
        config = await self._config(image)
        for layer, diff_id in zip(document.layers, config.rootfs.diff_ids, strict=True):
            await aio.run(aio.DISK, self._known.add, diff_id, layer, repository.name)


_PARTS: Final = {"Merged": "merged", "Upper": "diff", "Work": "work"}


class _Foreign(msgspec.Struct, rename="pascal"):
    """The part of dockerd's config.v2.json that says which image a container stands on."""

    image: str = ""
    driver: str = ""


def foreign_containers(root: Path) -> dict[str, Digest]:
    """Containers that dockerd keeps in a data-root on this driver, by ID. Blocking."""
    found: dict[str, Digest] = {}
    for path in sorted((root / "containers").glob("*/config.v2.json")):
        try:
            with path.open("rb") as file:
                document = msgspec.json.decode(file.read(_CONTAINER_LIMIT), type=_Foreign)
            if document.driver == DRIVER:
                found[path.parent.name] = Digest(document.image)
        except (OSError, msgspec.DecodeError, InvalidArgumentError):
            continue
    return found


def check_history(config: ImageConfig) -> None:
    """Dockerd opens no image whose history has more layers than it has. Raises `InvalidArgumentError`."""
    steps = sum(not step.empty_layer for step in config.history or ())
    if steps > len(config.rootfs.diff_ids):
        raise InvalidArgumentError("too many non-empty layers in History section")
