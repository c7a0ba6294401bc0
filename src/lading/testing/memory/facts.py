"""`MemoryFacts`: facts in a dictionary, and sizes added up from every row each time: the oracle of the kept sums."""

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from typing_extensions import override

from lading.core import facts
from lading.core.facts import Inventory, ListedManifest, ManifestSummary, Summary, TargetFacts
from lading.core.snapshots import Kind
from lading.oci.digest import Digest
from lading.testing.memory.rows import Space

_Part = tuple[str, str]


class MemoryFacts(facts.Store):
    """`facts.Store` over the rows of one namespace."""

    def __init__(self, space: Callable[[], Space]) -> None:
        self._space = space
        self._versions = itertools.count()

    def _all(self) -> dict[Digest, TargetFacts]:
        """Facts of targets that an image points to; others are forgotten here."""
        space = self._space()
        named = {image.target.digest for image in space.images.values()}
        space.facts = {digest: known for digest, known in space.facts.items() if digest in named}
        return space.facts

    def _current(self) -> list[TargetFacts]:
        blobs = self._space().blobs
        return [
            known
            for known in self._all().values()
            if all(here == (digest in blobs) for digest, here in known.documents.items())
        ]

    @override
    async def get(self, target: Digest) -> TargetFacts | None:
        return next((known for known in self._current() if known.target.digest == target), None)

    @override
    async def put(self, facts: TargetFacts) -> bool:
        self._space().facts[facts.target.digest] = facts
        return await self.get(facts.target.digest) is not None

    @override
    async def forget_all(self) -> None:
        self._space().facts.clear()

    @override
    async def list(self) -> Sequence[TargetFacts]:
        return self._current()

    @override
    def version(self) -> int:
        return next(self._versions)  # nobody keeps anything for us

    @override
    async def summaries(self) -> Sequence[Summary]:
        here = self._here()
        held = {digest: self._held(known) for digest, known in self._all().items()}
        holders = Counter(part for parts in held.values() for part in parts)
        return [
            Summary(
                digest=known.target.digest,
                readable=known.best is not None,
                created=known.created,
                labels=known.labels,
                size=sum(here.get(part, 0) for part in held[known.target.digest]),
                shared=sum(here.get(part, 0) for part in held[known.target.digest] if holders[part] > 1),
            )
            for known in self._current()
        ]

    @override
    async def manifests(self, target: Digest | None = None) -> Sequence[ManifestSummary]:
        here = await self.inventory()
        return [
            ManifestSummary(
                target=known.target.digest,
                manifest=ListedManifest(descriptor=m.descriptor, kind=m.kind, platform=m.platform),
                available=m.document and m.blobs.keys() <= here.blobs.keys(),
                content=here.content(m),
                unpacked=here.unpacked(m),
            )
            for known in self._current()
            for m in known.manifests
            if target in (None, known.target.digest)
        ]

    @override
    async def inventory(self, target: Digest | None = None) -> Inventory:
        chosen = {d: known for d, known in self._all().items() if target in (None, d)}
        return self._inventory({part for known in chosen.values() for part in self._held(known)})

    @override
    async def total(self) -> int:
        return (await self.inventory()).total

    @override
    async def exclusive(self, targets: Collection[Digest]) -> Inventory:
        held = {digest: self._held(known) for digest, known in self._all().items()}
        staying = {part for digest, parts in held.items() if digest not in targets for part in parts}
        going = {part for digest, parts in held.items() if digest in targets for part in parts}
        return self._inventory(going - staying)

    def _inventory(self, parts: Collection[_Part]) -> Inventory:
        here = {part: size for part, size in self._here().items() if part in parts}
        return Inventory(
            blobs={digest: size for (kind, digest), size in here.items() if kind == "blob"},
            snapshots={digest: size for (kind, digest), size in here.items() if kind == "snapshot"},
        )

    def _here(self) -> Mapping[_Part, int]:
        space = self._space()
        sizes: Counter[_Part] = Counter()
        sizes.update({("blob", digest): size for digest, size in space.blob_sizes().items()})
        for row in space.snapshots.values():
            if row.info.kind is Kind.COMMITTED:
                sizes["snapshot", row.info.key] += row.usage.size
        return sizes

    @staticmethod
    def _held(known: TargetFacts) -> set[_Part]:
        blobs = known.blobs().keys() | known.documents.keys()
        return {("blob", str(digest)) for digest in blobs} | {
            ("snapshot", str(chain)) for chain in known.chains()
        }
