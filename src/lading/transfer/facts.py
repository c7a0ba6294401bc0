"""Facts: reading what an image's documents say, once, and keeping it as rows (`lading.core.facts`)."""

from dataclasses import dataclass, field

from lading.core import content, facts
from lading.core.facts import Kind, ManifestFacts, TargetFacts
from lading.errors import LadingError, NotFoundError
from lading.kit import times
from lading.oci import config as oci_config
from lading.oci import manifest as oci_manifest
from lading.oci import mediatypes
from lading.oci import platform as oci_platform
from lading.oci.config import ImageConfig
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import Digest
from lading.oci.document import CONFIG_LIMIT, MANIFEST_LIMIT
from lading.oci.manifest import Manifest
from lading.transfer import limits


@dataclass(slots=True, kw_only=True)
class _Reading:
    """What was read so far of one target."""

    indexes: list[Descriptor] = field(default_factory=list[Descriptor])
    manifests: list[ManifestFacts] = field(default_factory=list[ManifestFacts])
    documents: dict[Digest, bool] = field(default_factory=dict[Digest, bool])
    configs: dict[Digest, ImageConfig] = field(default_factory=dict[Digest, ImageConfig])
    """By the manifest's digest."""


class FactReader:
    """Facts of one store's images, out of rows where they are, else out of the documents and into rows.

    Args:
        store: The blobs.
        rows: Where facts are kept.
        host: What this machine runs: it decides which manifest stands for an image.

    """

    def __init__(self, store: content.Store, rows: facts.Store, host: Platform) -> None:
        self._store = store
        self._rows = rows
        self._host = host

    async def target(self, target: Descriptor) -> TargetFacts:
        """The facts of an image; parts that are not here appear without their document.

        Raises `InvalidArgumentError` or `DataLossError` for documents that are malformed or damaged.
        """
        return await self._rows.get(target.digest) or await self._refresh(target)

    async def remember(self, target: Descriptor) -> None:
        """Keep the facts of an image that was named just now, so that no list has to read them; damage is for others to tell."""
        try:
            await self.target(target)
        except LadingError:
            return

    async def _refresh(self, target: Descriptor) -> TargetFacts:
        known = await self.read(target)
        await self._rows.put(known)
        return known

    async def read(self, target: Descriptor) -> TargetFacts:
        """Facts straight from the documents; raises as `target`."""
        reading = _Reading()
        await self._walk(target, reading, depth=0)
        best = best_manifest(reading.manifests, self._host)
        config = None if best is None else reading.configs[reading.manifests[best].descriptor.digest]
        return TargetFacts(
            target=target,
            indexes=tuple(reading.indexes),
            manifests=tuple(reading.manifests),
            documents=reading.documents,
            best=best,
            created=times.parse_nano(config.created or "") if config else 0,
            labels=(config.run.labels or {}) if config else {},
        )

    async def config(self, manifest: ManifestFacts) -> ImageConfig | None:
        """The config of a manifest; ``None`` if it is not here or the manifest is no image. Raises as `target`."""
        if manifest.config is None:
            return None
        try:
            raw = await self._store.read(manifest.config, limit=CONFIG_LIMIT)
        except NotFoundError:
            return None
        return oci_config.parse(raw, what=f"image config {manifest.config}")

    async def _walk(self, descriptor: Descriptor, reading: _Reading, *, depth: int) -> None:
        if depth > limits.INDEX_DEPTH or len(reading.manifests) >= limits.DESCRIPTORS:
            return
        if not mediatypes.is_index(descriptor.media_type):
            reading.manifests.append(await self._manifest(descriptor, reading))
            return
        if any(seen.digest == descriptor.digest for seen in reading.indexes):
            return
        reading.indexes.append(descriptor)
        raw = await self._document(descriptor, reading, MANIFEST_LIMIT)
        if raw is not None:
            document = oci_manifest.parse(raw, descriptor.media_type, what=f"index {descriptor.digest}")
            for child in oci_manifest.children(document):
                await self._walk(child, reading, depth=depth + 1)

    async def _document(self, descriptor: Descriptor, reading: _Reading, limit: int) -> bytes | None:
        try:
            raw = await self._store.read(descriptor.digest, limit=limit)
        except NotFoundError:
            raw = None
        reading.documents[descriptor.digest] = raw is not None
        return raw

    async def _manifest(self, descriptor: Descriptor, reading: _Reading) -> ManifestFacts:
        if mediatypes.is_config(descriptor.media_type):
            return await self._config(descriptor, reading)
        raw = await self._document(descriptor, reading, MANIFEST_LIMIT)
        document = None if raw is None else _parsed(raw, descriptor)
        config = None
        if document is not None and document.is_image:
            body = await self._document(document.config, reading, CONFIG_LIMIT)
            if body is not None:
                config = oci_config.parse(body, what=f"image config {document.config.digest}")
                reading.configs[descriptor.digest] = config
        blobs = {descriptor.digest: descriptor.size}
        if document is not None:
            blobs.update((child.digest, child.size) for child in oci_manifest.children(document))
        return ManifestFacts(
            descriptor=descriptor,
            kind=_kind(descriptor, document),
            platform=_platform(descriptor, config),
            blobs=blobs,
            chain=tuple(config.chain) if config is not None else (),
            document=document is not None,
            config=document.config.digest if document is not None and config is not None else None,
        )

    async def _config(self, descriptor: Descriptor, reading: _Reading) -> ManifestFacts:
        """An image of the classic store: a config stands for a manifest. It takes what its layers take, as Docker counts."""
        raw = await self._store.read(descriptor.digest, limit=CONFIG_LIMIT)
        config = oci_config.parse(raw, what=f"image config {descriptor.digest}")
        reading.configs[descriptor.digest] = config
        return ManifestFacts(
            descriptor=descriptor,
            kind=Kind.IMAGE,
            platform=config.platform,
            blobs={},
            chain=tuple(config.chain),
            document=True,
            config=descriptor.digest,
        )


def best_manifest(manifests: "list[ManifestFacts]", host: Platform) -> int | None:
    """Which manifest stands for the image: what this host runs best, else the first that is an image here."""
    present = [n for n, m in enumerate(manifests) if m.kind is Kind.IMAGE and m.config is not None]
    if len(present) < 2:
        return present[0] if present else None
    best = oci_platform.best(host, present, key=lambda n: manifests[n].platform)
    return present[0] if best is None else best


def _parsed(raw: bytes, descriptor: Descriptor) -> Manifest | None:
    """A manifest; ``None`` for a document of another kind, which says nothing here."""
    try:
        document = oci_manifest.parse(raw, descriptor.media_type, what=f"manifest {descriptor.digest}")
    except LadingError:
        if mediatypes.is_manifest(descriptor.media_type):
            raise
        return None
    return document if isinstance(document, Manifest) else None


def _platform(descriptor: Descriptor, config: ImageConfig | None) -> Platform:
    if descriptor.platform is not None and descriptor.platform.architecture:
        return descriptor.platform
    return config.platform if config is not None else Platform()


def _kind(descriptor: Descriptor, document: Manifest | None) -> Kind:
    if oci_manifest.is_attestation(descriptor):
        return Kind.ATTESTATION
    if document is None:
        return Kind.IMAGE if descriptor.platform is not None else Kind.UNKNOWN
    return Kind.IMAGE if document.is_image else Kind.UNKNOWN
