"""Sizes: allocated bytes of blobs and snapshots, from rows alone. Nothing here walks the disk."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lading.core import metadata
from lading.images.facts import ManifestFacts, TargetFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What was here at one moment, in bytes: blobs by digest, committed snapshots by name."""

    blobs: Mapping[str, int]
    snapshots: Mapping[str, int]

    def content(self, manifest: ManifestFacts) -> int:
        """Bytes of the manifest's blobs that are here."""
        return sum({b.digest: self.blobs.get(b.digest, 0) for b in manifest.blobs()}.values())

    def unpacked(self, manifest: ManifestFacts) -> int:
        """Bytes of the manifest's layers as snapshots, as far as they are here."""
        return sum(self.snapshots.get(chain, 0) for chain in set(manifest.chain))

    def complete(self, manifest: ManifestFacts) -> bool:
        """Whether every blob of the manifest is here."""
        return manifest.document is not None and all(b.digest in self.blobs for b in manifest.blobs())

    def size(self, facts: TargetFacts) -> int:
        """Bytes that the image takes here: the sum of `parts`, without naming them."""
        blobs, snapshots = self.blobs, self.snapshots
        chains = {chain for manifest in facts.manifests for chain in manifest.chain}
        return sum([blobs.get(d, 0) for d in facts.blobs()]) + sum([snapshots.get(c, 0) for c in chains])

    def parts(self, facts: TargetFacts) -> dict[str, int]:
        """Everything of an image that takes space here: blobs by digest, snapshots by ``snapshot:`` and chain ID."""
        found = {str(d): self.blobs[d] for d in facts.blobs() if d in self.blobs}
        for manifest in facts.manifests:
            found.update({f"snapshot:{c}": self.snapshots[c] for c in manifest.chain if c in self.snapshots})
        return found


async def take(blobs: metadata.Blobs, snapshots: metadata.Snapshots) -> Inventory:
    """Read the rows of one namespace: two reads, however many images there are."""
    return Inventory(
        blobs=await blobs.sizes(),
        snapshots={row.info.key: row.usage.size for row in await snapshots.list()},
    )


def shared_parts(images: Iterable[Mapping[str, int]]) -> frozenset[str]:
    """The parts that more than one of the images hold."""
    count = Counter(part for parts in images for part in parts)
    return frozenset(part for part, n in count.items() if n > 1)
