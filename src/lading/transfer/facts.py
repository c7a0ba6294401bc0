"""Facts: reading what an image's documents say, once, and keeping it as rows (`lading.core.facts`)."""

from collections.abc import Mapping

from lading.core import facts
from lading.core.facts import Kind, ManifestFacts, TargetFacts
from lading.errors import LadingError, NotFoundError
from lading.kit import times
from lading.oci import manifest as oci_manifest
from lading.oci import mediatypes
from lading.oci import platform as oci_platform
from lading.oci.config import ImageConfig
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import Digest
from lading.oci.manifest import Manifest
from lading.transfer.documents import Documents, Survey, is_document


class FactReader:
    """Facts of one store's images, out of rows where they are, else out of the documents and into rows.

    Args:
        documents: The images' documents.
        rows: Where facts are kept.
        host: What this machine runs: it decides which manifest stands for an image.

    """

    def __init__(self, documents: Documents, rows: facts.Store, host: Platform) -> None:
        self._documents = documents
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

    async def labels(self, target: Descriptor) -> Mapping[str, str]:
        """The labels of the image as it stands for this host; none where they cannot be read."""
        try:
            return (await self.target(target)).labels
        except LadingError:
            return {}

    async def _refresh(self, target: Descriptor) -> TargetFacts:
        known = await self.read(target)
        await self._rows.put(known)
        return known

    async def read(self, target: Descriptor) -> TargetFacts:
        """Facts straight from the documents; raises as `target`."""
        if mediatypes.is_config(target.media_type):
            return classic_facts(target, await self._documents.config_at(target.digest))
        try:
            survey = await self._documents.survey(target)
        except NotFoundError:
            return TargetFacts(target=target, documents={target.digest: False})
        return facts_of(survey, self._host)

    async def config(self, manifest: ManifestFacts) -> ImageConfig | None:
        """The config of a manifest; ``None`` if it is not here or the manifest is no image. Raises as `target`."""
        if manifest.config is None:
            return None
        try:
            return await self._documents.config_at(manifest.config)
        except NotFoundError:
            return None


def facts_of(survey: Survey, host: Platform) -> TargetFacts:
    """What the documents of a survey say, on this host.

    Raises `InvalidArgumentError` for a config that is malformed.
    """
    documents: dict[Digest, bool] = {}
    manifests: list[ManifestFacts] = []
    for descriptor, document in survey.tree.entries:
        if is_document(descriptor):
            documents[descriptor.digest] = document is not None
        if not mediatypes.is_index(descriptor.media_type):
            manifests.append(_manifest(descriptor, document, survey, documents))
    best = best_manifest(manifests, host)
    config = None if best is None else survey.configs[manifests[best].descriptor.digest]
    if isinstance(config, LadingError):
        raise config
    return TargetFacts(
        target=survey.tree.target,
        indexes=tuple(d for d, _ in survey.tree.entries if mediatypes.is_index(d.media_type)),
        manifests=tuple(manifests),
        documents=documents,
        best=best,
        created=times.parse_nano(config.created or "") if config else 0,
        labels=(config.run.labels or {}) if config else {},
    )


def classic_facts(target: Descriptor, config: ImageConfig) -> TargetFacts:
    """An image of the classic store: its config stands for a manifest. It takes what its layers take, as Docker counts."""
    manifest = ManifestFacts(
        descriptor=target,
        kind=Kind.IMAGE,
        platform=config.platform,
        blobs={},
        chain=tuple(config.chain),
        document=True,
        config=target.digest,
    )
    return TargetFacts(
        target=target,
        manifests=(manifest,),
        best=0,
        created=times.parse_nano(config.created or ""),
        labels=config.run.labels or {},
    )


def _manifest(
    descriptor: Descriptor, document: object, survey: Survey, documents: dict[Digest, bool]
) -> ManifestFacts:
    """The facts of one manifest; its config joins ``documents``."""
    if not isinstance(document, Manifest):
        return ManifestFacts(
            descriptor=descriptor,
            kind=_kind(descriptor, None),
            platform=descriptor.platform or Platform(),
            blobs={descriptor.digest: descriptor.size},
        )
    config = survey.configs.get(descriptor.digest)
    if isinstance(config, LadingError):
        raise config
    if document.is_image:
        documents[document.config.digest] = config is not None
    return ManifestFacts(
        descriptor=descriptor,
        kind=_kind(descriptor, document),
        platform=_platform(descriptor, config),
        blobs={
            descriptor.digest: descriptor.size,
            **{child.digest: child.size for child in oci_manifest.children(document)},
        },
        chain=tuple(config.chain) if config is not None else (),
        document=True,
        config=document.config.digest if config is not None else None,
    )


def best_manifest(manifests: "list[ManifestFacts]", host: Platform) -> int | None:
    """Which manifest stands for the image: what this host runs best, else the first that is an image here."""
    present = [n for n, m in enumerate(manifests) if m.kind is Kind.IMAGE and m.config is not None]
    if len(present) < 2:
        return present[0] if present else None
    best = oci_platform.best(host, present, key=lambda n: manifests[n].platform)
    return present[0] if best is None else best


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
