"""Migration: images of the classic store are copied into the containerd store.

Trees are copied layer by layer, out of the classic tree through its tar stream into the snapshotter, verified against the
diff ID. The config, and so the classic image ID, is always kept. The manifest and the index above it are kept where they can be
known: they were kept here when Lading pulled the image, or a registry still has what the image was pulled as. Of such an image no
layer is packed anew: the blobs are the registry's, and are fetched if that is wished for, or when the image is pulled again.
Where nobody knows the manifest, one is made, with layers in gzip. The classic store is not changed.

A name that means another image here is left alone, and reported. Its image comes without it: under its other names, else under
the digest that a registry knows it by, else dangling.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import structlog

from lading.core import content, images, leases
from lading.core.classic import ClassicImage, ClassicSource
from lading.core.leases import LeaseID, Resource
from lading.core.remotes import Document, Registries
from lading.core.snapshots import SnapshotName, Snapshotter
from lading.errors import AlreadyExistsError, DataLossError, LadingError, NotFoundError
from lading.kit import aio
from lading.oci import config as oci_config
from lading.oci import manifest as oci_manifest
from lading.oci import mediatypes
from lading.oci.config import ImageConfig
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.document import encode
from lading.oci.manifest import Manifest, descriptor_of
from lading.oci.reference import Reference
from lading.transfer.documents import Documents
from lading.transfer.service import TransferService

_log: Final = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A name that means another image here: ``image`` had it, by its classic ID, and is here as ``target`` now."""

    name: str
    image: Digest
    target: Digest


@dataclass(slots=True)
class Report:
    """What a migration did. ``kept`` images have digests that a registry knows them by, ``present`` ones were here already."""

    migrated: int = 0
    kept: int = 0
    present: int = 0
    failed: list[str] = field(default_factory=list[str])
    taken: list[Taken] = field(default_factory=list[Taken])

    def shape(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "Migrated": self.migrated,
            "DigestsKept": self.kept,
            "Present": self.present,
            "Failed": self.failed,
            "NamesTaken": [
                {"Name": each.name, "ClassicID": each.image, "ID": each.target} for each in self.taken
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What a registry knows an image by: its target, and the manifest in it that has the image's config."""

    target: Descriptor
    manifest: Descriptor
    source: Reference


class Migrator:
    """Copies images out of a classic store into a containerd store, which is in use."""

    def __init__(
        self,
        *,
        source: ClassicSource,
        store: content.Store,
        records: images.Store,
        snapshotter: Snapshotter,
        leases: leases.Manager,
        transfer: TransferService,
        registries: Registries,
    ) -> None:
        self._source = source
        self._content = store
        self._records = records
        self._snapshotter = snapshotter
        self._leases = leases
        self._transfer = transfer
        self._documents: Documents = transfer.documents
        self._registries = registries

    async def run(self, *, offline: bool = False, fetch: bool = False) -> AsyncIterator[dict[str, Any]]:
        """Migrate everything; progress objects, the last one with ``result``. One image that fails does not stop the others.

        ``offline`` asks no registry; ``fetch`` downloads the layers' blobs of images whose manifest is known.
        """
        report = Report()
        here = await self._here()
        found = await self._source.images()
        for number, image in enumerate(found):
            shown = image.names[0].familiar if image.names else image.id.short
            yield {"status": f"migrating {shown}", "current": number, "total": len(found)}
            try:
                await self._migrate(
                    image, report, here.get(image.id, frozenset()), offline=offline, fetch=fetch
                )
            except LadingError as exc:
                _log.warning("image_not_migrated", image=image.id, error=str(exc))
                report.failed.append(f"{shown}: {exc}")
        yield {"current": len(found), "total": len(found)}
        yield {"result": report.shape()}

    async def _here(self) -> Mapping[Digest, Collection[Digest]]:
        """The targets in this store that are an image of the classic store too, by its classic ID: the config's digest."""
        found: dict[Digest, set[Digest]] = {}
        for target in {record.target.digest: record.target for record in await self._records.list()}.values():
            try:
                facts = await self._transfer.facts.target(target)
            except LadingError as exc:
                _log.info("image_not_compared", image=target.digest, reason=str(exc))
                continue
            for manifest in facts.manifests:
                if manifest.config is not None:
                    found.setdefault(manifest.config, set()).add(target.digest)
        return found

    async def _migrate(
        self, image: ClassicImage, report: Report, here: Collection[Digest], *, offline: bool, fetch: bool
    ) -> None:
        """Migrate an image that is in the targets ``here`` already."""
        config = oci_config.parse(image.config, what=f"config {image.id}")
        free, taken = await self._names(image)
        if here and not free:
            report.present += 1
            _report_taken(report, image, taken, here)
            return
        async with self._transfer.holding(f"migrate {image.id}") as lease:
            await self._put(_config_descriptor(image), image.config, lease)
            known = await self._known(image, lease, offline=offline)
            for number in range(len(config.chain)):
                await self._copy_layer(config, number, lease)
            if known is None:
                manifest = await self._make_manifest(image, config, lease)
                target = manifest
            else:
                manifest, target = known.manifest, known.target
            await self._transfer.ensure_unpacked(manifest, lease=lease)
            names: Sequence[Reference | None] = free
            if not free and target.digest not in taken.values():
                names = [_digest_name(image, target)]
            for name in names:
                await self._transfer.point(None if name is None else str(name), target)
        _report_taken(report, image, taken, {*here, target.digest})
        if known is not None and fetch:
            await self._transfer.pull(known.source, platforms=[config.platform])
        report.migrated += 1
        report.kept += known is not None

    async def _names(self, image: ClassicImage) -> tuple[Sequence[Reference], Mapping[Reference, Digest]]:
        """The image's tags that mean nothing here, and the others with the target that they mean."""
        free: list[Reference] = []
        taken: dict[Reference, Digest] = {}
        for name in image.names:
            if name.digest is not None:
                continue
            try:
                taken[name] = (await self._records.get(str(name))).target.digest
            except NotFoundError:
                free.append(name)
        return free, taken

    # What a registry knows.

    async def _known(self, image: ClassicImage, lease: LeaseID, *, offline: bool) -> _Known | None:
        for name in image.names:
            if name.digest is None:
                continue
            try:
                found = await self._documented(image, name, lease, offline=offline)
            except LadingError as exc:
                _log.info("manifest_not_known", name=str(name), reason=str(exc))
                continue
            if found is not None:
                return found
        return None

    async def _documented(
        self, image: ClassicImage, name: Reference, lease: LeaseID, *, offline: bool
    ) -> _Known | None:
        top = await self._document(name, None, offline=offline)
        if top is None:
            return None
        parsed = oci_manifest.parse(top.body, top.descriptor.media_type, what=f"manifest {name}")
        documents = [top]
        manifest = top.descriptor if isinstance(parsed, Manifest) else None
        if isinstance(parsed, Manifest) and parsed.config.digest != image.id:
            return None
        for child in () if isinstance(parsed, Manifest) else parsed.manifests:
            below = await self._document(name, child, offline=offline) if _may_be(child) else None
            if below is None:
                continue
            document = oci_manifest.parse(below.body, child.media_type, what=f"manifest {child.digest}")
            if isinstance(document, Manifest) and document.config.digest == image.id:
                documents.append(below)
                manifest = child
                break
        if manifest is None:
            return None
        for document in documents:
            await self._documents.keep(document, lease=lease, repository=name)
        return _Known(target=top.descriptor, manifest=manifest, source=name)

    async def _document(self, name: Reference, child: Descriptor | None, *, offline: bool) -> Document | None:
        """A manifest or index: kept here, else the registry's."""
        digest = child.digest if child is not None else name.digest
        assert digest is not None
        body = await self._source.manifest(digest)
        if body is not None:
            kind = child.media_type if child is not None else _kind(body)
            return Document(descriptor=Descriptor(media_type=kind, digest=digest, size=len(body)), body=body)
        if offline:
            return None
        resolver = self._registries.resolver()
        if child is None:
            return await resolver.resolve(name)
        return await resolver.fetcher(name).document(child)

    # Layers.

    async def _copy_layer(self, config: ImageConfig, number: int, lease: LeaseID) -> None:
        """Unpack one layer out of the classic tree, unless its snapshot is here."""
        chain = config.chain
        name = chain[number]
        await self._leases.add(lease, Resource(kind="snapshot", id=name, snapshotter=self._snapshotter.name))
        try:
            await self._snapshotter.stat(name)
        except NotFoundError:
            pass
        else:
            return
        parent = SnapshotName(chain[number - 1]) if number else None
        try:
            async with self._snapshotter.open_layer(
                SnapshotName(name), parent, diff_id=config.rootfs.diff_ids[number], lease=lease
            ) as writer:
                async with aclosing(aio.each(aio.DATA, self._source.layer(name))) as pieces:
                    async for piece in pieces:
                        await aio.run(aio.DATA, writer.write, piece)
                found = await aio.run(aio.DATA, writer.finish)
                if found != config.rootfs.diff_ids[number]:
                    raise DataLossError(f"the classic layer {name} does not give its bytes", subject=name)
                await writer.commit()
        except AlreadyExistsError:
            return

    async def _make_manifest(self, image: ClassicImage, config: ImageConfig, lease: LeaseID) -> Descriptor:
        """A manifest for an image that no registry knows, with its layers in gzip."""
        packed = [await self._source.pack(chain, self._content, lease=lease) for chain in config.chain]
        layers = [
            Descriptor(media_type=mediatypes.OCI_LAYER_GZIP, digest=info.digest, size=info.size)
            for info in packed
        ]
        manifest = Manifest(
            schema_version=2,
            media_type=mediatypes.OCI_MANIFEST,
            config=_config_descriptor(image),
            layers=tuple(layers),
        )
        body = encode(manifest)
        descriptor = descriptor_of(body, mediatypes.OCI_MANIFEST)
        await self._documents.keep(Document(descriptor=descriptor, body=body), lease=lease)
        return descriptor

    async def _put(self, descriptor: Descriptor, body: bytes, lease: LeaseID) -> None:
        await self._documents.put(descriptor, body, lease=lease)


def _config_descriptor(image: ClassicImage) -> Descriptor:
    return Descriptor(media_type=mediatypes.OCI_CONFIG, digest=image.id, size=len(image.config))


def _digest_name(image: ClassicImage, target: Descriptor) -> Reference | None:
    """What a registry calls the target, if it is known to have it."""
    return next((name for name in image.names if name.digest == target.digest), None)


def _report_taken(
    report: Report, image: ClassicImage, taken: Mapping[Reference, Digest], own: Collection[Digest]
) -> None:
    """Note which names mean something else than ``own``, the targets that the image is."""
    for name, means in taken.items():
        if means not in own:
            report.taken.append(Taken(name=name.familiar, image=image.id, target=min(own)))
            _log.warning("name_taken", name=str(name), image=image.id, target=min(own), means=means)


def _may_be(child: Descriptor) -> bool:
    return mediatypes.is_manifest(child.media_type) and not oci_manifest.is_attestation(child)


def _kind(body: bytes) -> str:
    """The media type of a manifest or index that was kept without its descriptor; OCI lets documents leave it out."""
    envelope = msgspec.json.decode(body, type=_Envelope)
    return envelope.media_type or (
        mediatypes.OCI_INDEX if envelope.manifests is not None else mediatypes.OCI_MANIFEST
    )


class _Envelope(msgspec.Struct, rename="camel"):
    media_type: str = ""
    manifests: list[msgspec.Raw] | None = None
