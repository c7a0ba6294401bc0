"""A cache that somebody else made, looked into while a build runs; its layers are fetched when one of its results is used."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from lading.builder.ops.trees import Tree
from lading.builder.solver.keys import ForeignCache, Found, Link, Way
from lading.core.buildcache import BuildCache, LayerBlob
from lading.core.leases import LeaseID
from lading.core.progress import Progress
from lading.core.remotes import Fetcher
from lading.core.snapshots import SnapshotName
from lading.errors import LadingError, ResourceExhaustedError
from lading.formats import cacheconfig
from lading.formats.cacheconfig import Config
from lading.oci.descriptor import Descriptor
from lading.oci.digest import DiffID, Digest, chain_ids
from lading.oci.reference import Reference
from lading.transfer.pull import Puller
from lading.unpack.unpacker import Layer

STACK_LIMIT: Final = 1000
"""Layers of one result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the blobs of a cache are, and what brings them."""

    reference: Reference
    fetcher: Fetcher
    puller: Puller
    cache: BuildCache
    snapshotter: str
    lease: LeaseID


class ImportedCache(ForeignCache[Tree]):
    """`Cache` over a config. Keys are the numbers of its records; those without inputs are known by their digest too."""

    def __init__(self, config: Config, blobs: Mapping[str, Descriptor], origin: Origin) -> None:
        self._config = config
        self._blobs = blobs
        self._origin = origin
        self._roots: dict[str, set[str]] = {}
        self._links: dict[tuple[str, str, int, str], set[str]] = {}
        self._lost: set[str] = set()
        self._whole = _whole(config, blobs)
        self._name = Digest.of(cacheconfig.encode(config)).hex[:16]
        for number, record in enumerate(config.records):
            if not record.inputs:
                self._roots.setdefault(record.digest, set()).add(str(number))
            for place, steps in enumerate(record.inputs):
                for step in steps:
                    for source in self._names(step.link):
                        way = (source, record.digest, place, step.selector)
                        self._links.setdefault(way, set()).add(str(number))

    def _names(self, number: int) -> tuple[str, ...]:
        """The keys of a record."""
        record = self._config.records[number]
        return (str(number),) if record.inputs else (str(number), record.digest)

    @override
    async def find(self, output: Digest, inputs: Sequence[Sequence[Link]]) -> Found:
        keys: set[str] | None = None if inputs else self._roots.get(output, set())
        for number, links in enumerate(inputs):
            reached: set[str] = set()
            for link in links:
                reached |= self._links.get((link.key, output, number, link.selector), set())
            keys = reached if keys is None else keys & reached
        found = frozenset(keys or ())
        hits = (int(key) for key in found if key not in self._lost and self._has(key))
        first = min(hits, default=None)
        return Found(keys=found, record=None if first is None else str(first))

    def _has(self, key: str) -> bool:
        """Whether a record has a result whose layers are all known."""
        record = self._config.records[int(key)]
        return any(one.layer in self._whole for one in record.results) or any(
            one.layers and all(map(self._known, one.layers)) for one in record.chains
        )

    def _known(self, layer: int) -> bool:
        return _is_known(self._config.layers[layer].blob, self._blobs)

    def _stack(self, key: str) -> Sequence[int]:
        """The layers of such a record's result, bottom first."""
        record = self._config.records[int(key)]
        for result in record.results:
            if result.layer in self._whole:
                return cacheconfig.layers_below(self._config, result.layer)
        return next(one.layers for one in record.chains if one.layers and all(map(self._known, one.layers)))

    @override
    async def load(self, record: str) -> Tree | None:
        """The result, fetched and unpacked; ``None``, and never offered again, if that fails: a cache need not be whole."""
        origin = self._origin
        try:
            stack = [self._blobs[self._config.layers[one].blob] for one in self._stack(record)]
            if len(stack) > STACK_LIMIT:
                raise ResourceExhaustedError(f"a result of the cache has over {STACK_LIMIT} layers")
            diff_ids = [DiffID(blob.annotations[cacheconfig.DIFF_ID]) for blob in stack]
            chain = chain_ids(diff_ids)
            layers = [
                Layer(
                    descriptor=Descriptor(media_type=blob.media_type, digest=blob.digest, size=blob.size),
                    diff_id=diff_id,
                    chain_id=chain_id,
                    parent=chain[number - 1] if number else None,
                )
                for number, (blob, diff_id, chain_id) in enumerate(zip(stack, diff_ids, chain, strict=True))
            ]
            await origin.puller.bring_layers(
                layers,
                reference=origin.reference,
                fetcher=origin.fetcher,
                lease=origin.lease,
                progress=Progress(),
            )
            for layer in layers:
                blob = LayerBlob(descriptor=layer.descriptor, diff_id=layer.diff_id)
                await origin.cache.put_layer(origin.snapshotter, layer.chain_id, "", blob)
        except LadingError:
            self._lost.add(record)
            return None
        names = tuple(SnapshotName(one) for one in chain)
        return Tree(layers=names, top=names[-1], own=names[-1:])

    @override
    async def ways(self, record: str) -> list[Way]:
        found: dict[int, Way] = {}
        pending = [int(record)]
        while pending:
            number = pending.pop()
            one = self._config.records[number]
            if number in found or not one.inputs:
                continue
            inputs = tuple(
                tuple(Link(self._elsewhere(step.link), step.selector) for step in steps)
                for steps in one.inputs
            )
            found[number] = Way(output=Digest(one.digest), inputs=inputs, key=self._elsewhere(number))
            pending += [step.link for steps in one.inputs for step in steps]
        own = found.pop(int(record), None)
        return [*found.values(), *([own] if own is not None else [self._root(int(record))])]

    def _root(self, number: int) -> Way:
        digest = Digest(self._config.records[number].digest)
        return Way(output=digest, inputs=(), key=digest)

    def _elsewhere(self, number: int) -> str:
        """A key as it is called outside of this cache."""
        record = self._config.records[number]
        return f"{self._name}-{number}" if record.inputs else record.digest


def _is_known(blob: str, blobs: Mapping[str, Descriptor]) -> bool:
    descriptor = blobs.get(blob)
    return descriptor is not None and cacheconfig.DIFF_ID in descriptor.annotations


def _whole(config: Config, blobs: Mapping[str, Descriptor]) -> set[int]:
    """The layers that are known down to the bottom. Found from there, once: what stands on itself is not reached."""
    above: dict[int, list[int]] = {}
    for number, layer in enumerate(config.layers):
        if _is_known(layer.blob, blobs):
            above.setdefault(layer.parent, []).append(number)
    found: set[int] = set()
    pending = [cacheconfig.NOTHING]
    while pending:
        upper = above.get(pending.pop(), [])
        found.update(upper)
        pending += upper
    return found
