"""Facts: what the documents of an image say and what the image takes on disk, kept as rows so that a list reads nothing else.

A digest names bytes that never change, so neither does what a document says. What changes is which documents, blobs and
snapshots are here. Both are kept in step by the store itself, in the transactions that change them:

* *Facts* are read from documents once, by whoever brings an image in (`Store.put`), and remember which documents were here
  then. A document that arrives or goes makes the facts *stale*: they are no longer told, and whoever needs them reads the
  documents again. So is an image that came in by another door.
* *Sizes* are sums over the parts of an image, each part once: blobs by their length, committed snapshots by what they take, on
  whichever snapshotter. They rise and fall with the rows of blobs and snapshots; nobody adds them up.

Facts live as long as some image record points to their target.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

import msgspec

from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import ChainID, Digest
from lading.oci.manifest import attested


class Kind(Enum):
    """What an entry of an image is, in the Engine API's words."""

    IMAGE = "image"
    ATTESTATION = "attestation"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFacts:
    """One manifest of an image; where its document or config was not here, only the descriptor speaks."""

    descriptor: Descriptor
    kind: Kind
    platform: Platform
    """What it runs on: the index's word first, then the config's."""
    blobs: Mapping[Digest, int]
    """Everything that the manifest is known to need, itself included, with lengths in bytes."""
    chain: tuple[ChainID, ...] = ()
    """Chain IDs, bottom first; empty if the config was not here or there are no layers."""
    document: bool = False
    """Whether the manifest was here, so that ``blobs`` is all of it."""
    config: Digest | None = None
    """The image config, if it was here."""

    @property
    def top(self) -> ChainID | None:
        """The chain ID of all layers; ``None`` for an image without layers or an unreadable one."""
        return self.chain[-1] if self.chain else None

    @property
    def attests(self) -> str:
        """Digest of the manifest that an attestation is for, or empty."""
        return attested(self.descriptor)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFacts:
    """An image's target: its manifests in order, and the indexes on the way to them (the target itself may be one)."""

    target: Descriptor
    indexes: tuple[Descriptor, ...] = ()
    manifests: tuple[ManifestFacts, ...] = ()
    documents: Mapping[Digest, bool] = field(default_factory=dict[Digest, bool])
    """Every document that was looked for, and whether it was here."""
    best: int | None = None
    """Which of the manifests stands for the image on this host; ``None`` if none can be read."""
    created: int = 0
    """When the best one was made, nanoseconds since the epoch; 0 if it does not say."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """The labels of the best one's config."""

    @property
    def shown(self) -> ManifestFacts | None:
        """The manifest that stands for the image on this host."""
        return None if self.best is None else self.manifests[self.best]

    def blobs(self) -> dict[Digest, int]:
        """Every blob that the image is known to need, with its length in bytes."""
        found = {index.digest: index.size for index in self.indexes}
        for manifest in self.manifests:
            found.update(manifest.blobs)
        return found

    def chains(self) -> set[ChainID]:
        """The committed snapshots that its layers become."""
        return {chain for manifest in self.manifests for chain in manifest.chain}


class ListedManifest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What never changes of a manifest in a list."""

    descriptor: Descriptor
    kind: Kind
    platform: Platform

    @property
    def attests(self) -> str:
        """Digest of the manifest that an attestation is for, or empty."""
        return attested(self.descriptor)


class ManifestSummary(NamedTuple):
    """What a list shows of a manifest of the image ``target``; sizes in bytes, of what is here."""

    target: str
    manifest: ListedManifest
    available: bool
    """Whether its document and every blob of it are here."""
    content: int
    """Its blobs."""
    unpacked: int
    """Its layers as snapshots."""


class Summary(NamedTuple):
    """What a list shows of a target; sizes in bytes."""

    digest: str
    readable: bool
    """Whether any manifest of it can be read, which ``created`` and ``labels`` then are of."""
    created: int
    labels: Mapping[str, str]
    size: int
    """All its parts that are here."""
    shared: int
    """Those of them that other images have too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What was here at one moment, in bytes: blobs by digest, committed snapshots by chain ID."""

    blobs: Mapping[str, int]
    snapshots: Mapping[str, int]

    @property
    def total(self) -> int:
        """Bytes of everything, each part once."""
        return sum(self.blobs.values()) + sum(self.snapshots.values())

    def content(self, manifest: ManifestFacts) -> int:
        """Bytes of the manifest's blobs that are here."""
        return sum([self.blobs.get(digest, 0) for digest in manifest.blobs])

    def unpacked(self, manifest: ManifestFacts) -> int:
        """Bytes of the manifest's layers as snapshots, as far as they are here."""
        return sum([self.snapshots.get(chain, 0) for chain in set(manifest.chain)])


class Store(Protocol):
    """The facts of one namespace's images. Every call is one transaction or one consistent read."""

    async def get(self, target: Digest) -> TargetFacts | None:
        """The facts of a target as they were put; ``None`` if there are none or they are stale."""
        ...

    async def put(self, facts: TargetFacts) -> bool:
        """Remember facts; whether they are current.

        They are forgotten at once if no image points to the target, and stale from the start if other documents are here than
        they were read from.
        """
        ...

    async def forget_all(self) -> None:
        """Make all facts stale, e.g. because another host's manifests stand for images now."""
        ...

    async def list(self) -> Sequence[TargetFacts]:
        """All facts that are not stale."""
        ...

    def version(self) -> int:
        """A number that is another one whenever a list of images, made of what is stored, may be another one than before."""
        ...

    async def summaries(self) -> Sequence[Summary]:
        """What lists show, of all targets whose facts are not stale."""
        ...

    async def manifests(self, target: Digest | None = None) -> Sequence[ManifestSummary]:
        """What lists show of the manifests of all targets whose facts are not stale, or of one; each target's in their order."""
        ...

    async def inventory(self, target: Digest | None = None) -> Inventory:
        """Parts that are here, of all images or of one."""
        ...

    async def total(self) -> int:
        """Bytes that all images take together, each part once."""
        ...

    async def exclusive(self, targets: Collection[Digest]) -> Inventory:
        """Parts that are here and that none but these targets have: what removing them all would free."""
        ...
