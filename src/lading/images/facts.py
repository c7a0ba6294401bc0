"""Facts: what an image's documents say, read once and remembered by digest.

A digest names bytes that never change, so neither do the facts. What changes (which blobs and snapshots are here) is
asked of the stores each time and is never part of a fact.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

from lading.core import content
from lading.errors import LadingError, NotFoundError
from lading.oci import config as oci_config
from lading.oci import manifest as oci_manifest
from lading.oci import mediatypes
from lading.oci.config import ImageConfig
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import ChainID, Digest
from lading.oci.document import CONFIG_LIMIT, MANIFEST_LIMIT

T = TypeVar("T")

INDEX_DEPTH: Final = 8
"""Indexes nested deeper are refused (hostile-input.md D9)."""
DESCRIPTOR_LIMIT: Final = 10_000
_CACHE: Final = 20_000


class Kind(Enum):
    """What an entry of an image is, in the Engine API's words."""

    IMAGE = "image"
    ATTESTATION = "attestation"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFacts:
    """One manifest of an image. Without its document (``document is None``) only the descriptor speaks."""

    descriptor: Descriptor
    kind: Kind
    document: oci_manifest.Manifest | None
    config: ImageConfig | None
    chain: tuple[ChainID, ...] = ()

    @property
    def platform(self) -> Platform:
        """What it runs on: the index's word first, then the config's."""
        if self.descriptor.platform is not None and self.descriptor.platform.architecture:
            return self.descriptor.platform
        return self.config.platform if self.config is not None else Platform()

    @property
    def top(self) -> ChainID | None:
        """The chain ID of all layers; ``None`` for an image without layers or an unreadable one."""
        return self.chain[-1] if self.chain else None

    @property
    def attests(self) -> str:
        """Digest of the manifest that an attestation is for, or empty."""
        return self.descriptor.annotations.get(oci_manifest.ANNOTATION_REFERENCE_DIGEST, "")

    def blobs(self) -> Iterator[Descriptor]:
        """Everything that the manifest needs, itself included."""
        yield self.descriptor
        if self.document is not None:
            yield from oci_manifest.children(self.document)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFacts:
    """An image's target: its manifests in order, and the indexes on the way to them (the target itself may be one)."""

    target: Descriptor
    indexes: tuple[Descriptor, ...]
    manifests: tuple[ManifestFacts, ...]

    def blobs(self) -> dict[Digest, int]:
        """Every blob that the image names, with its size in bytes."""
        found = {index.digest: index.size for index in self.indexes}
        for manifest in self.manifests:
            found.update((blob.digest, blob.size) for blob in manifest.blobs())
        return found


_Read = tuple[oci_manifest.Manifest, ImageConfig | None, tuple[ChainID, ...]]


class FactReader:
    """Reads facts from a content store. Complete facts are remembered; incomplete ones are read again next time."""

    def __init__(self, store: content.Store) -> None:
        self._store = store
        self._targets: OrderedDict[Digest, TargetFacts] = OrderedDict()
        self._manifests: OrderedDict[
            Digest, tuple[oci_manifest.Manifest, ImageConfig | None, tuple[ChainID, ...]]
        ] = OrderedDict()

    async def target(self, target: Descriptor) -> TargetFacts:
        """The facts of an image; parts that are not here appear without their document.

        Raises `InvalidArgumentError` or `DataLossError` for documents that are malformed or damaged.
        """
        known = self._targets.get(target.digest)
        if known is not None:
            self._targets.move_to_end(target.digest)
            return known
        indexes: list[Descriptor] = []
        manifests: list[ManifestFacts] = []
        await self._walk(target, indexes, manifests, depth=0)
        facts = TargetFacts(target=target, indexes=tuple(indexes), manifests=tuple(manifests))
        if all(
            m.document is not None and (m.config is not None or m.kind is not Kind.IMAGE) for m in manifests
        ):
            _remember(self._targets, target.digest, facts)
        return facts

    def forget(self, facts: TargetFacts) -> None:
        """Read these facts again next time, because a part of them is going away."""
        self._targets.pop(facts.target.digest, None)
        for manifest in facts.manifests:
            self._manifests.pop(manifest.descriptor.digest, None)

    async def _walk(
        self, descriptor: Descriptor, indexes: list[Descriptor], manifests: list[ManifestFacts], *, depth: int
    ) -> None:
        if depth > INDEX_DEPTH or len(manifests) >= DESCRIPTOR_LIMIT:
            return
        if not mediatypes.is_index(descriptor.media_type):
            manifests.append(await self._manifest(descriptor))
            return
        if any(seen.digest == descriptor.digest for seen in indexes):
            return
        indexes.append(descriptor)
        try:
            raw = await self._store.read(descriptor.digest, limit=MANIFEST_LIMIT)
        except NotFoundError:
            return
        document = oci_manifest.parse(raw, descriptor.media_type, what=f"index {descriptor.digest}")
        for child in oci_manifest.children(document):
            await self._walk(child, indexes, manifests, depth=depth + 1)

    async def _manifest(self, descriptor: Descriptor) -> ManifestFacts:
        known = self._manifests.get(descriptor.digest)
        if known is None:
            known = await self._read_manifest(descriptor)
        if known is None:
            return ManifestFacts(
                descriptor=descriptor, kind=_kind(descriptor, None), document=None, config=None
            )
        document, config, chain = known
        return ManifestFacts(
            descriptor=descriptor,
            kind=_kind(descriptor, document),
            document=document,
            config=config,
            chain=chain,
        )

    async def _read_manifest(self, descriptor: Descriptor) -> "_Read | None":
        try:
            raw = await self._store.read(descriptor.digest, limit=MANIFEST_LIMIT)
        except NotFoundError:
            return None
        try:
            document = oci_manifest.parse(raw, descriptor.media_type, what=f"manifest {descriptor.digest}")
        except LadingError:
            if mediatypes.is_manifest(descriptor.media_type):
                raise
            return None
        if not isinstance(document, oci_manifest.Manifest):
            return None
        config = await self._read_config(document) if document.is_image else None
        chain = tuple(config.chain) if config is not None else ()
        if config is not None or not document.is_image:
            _remember(self._manifests, descriptor.digest, (document, config, chain))
        return document, config, chain

    async def _read_config(self, document: oci_manifest.Manifest) -> ImageConfig | None:
        try:
            raw = await self._store.read(document.config.digest, limit=CONFIG_LIMIT)
        except NotFoundError:
            return None
        return oci_config.parse(raw, what=f"image config {document.config.digest}")


def _kind(descriptor: Descriptor, document: oci_manifest.Manifest | None) -> Kind:
    if oci_manifest.is_attestation(descriptor):
        return Kind.ATTESTATION
    if document is None:
        return Kind.IMAGE if descriptor.platform is not None else Kind.UNKNOWN
    return Kind.IMAGE if document.is_image else Kind.UNKNOWN


def _remember(cache: "OrderedDict[Digest, T]", key: Digest, value: T) -> None:
    cache[key] = value
    if len(cache) > _CACHE:
        cache.popitem(last=False)
