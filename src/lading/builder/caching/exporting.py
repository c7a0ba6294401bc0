"""From the rows of the build cache to a config and its layers: the keys that lead to a build's results, and results of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from lading.builder.ops.layers import Layers
from lading.builder.ops.trees import Tree
from lading.builder.results import Layer, LayerForm
from lading.builder.solver.live import Solved
from lading.core.buildcache import BuildCache, LinkRow
from lading.core.leases import LeaseID
from lading.core.snapshots import SnapshotName
from lading.errors import NotFoundError
from lading.formats import cacheconfig
from lading.formats.cacheconfig import Config, Input, Record, Result
from lading.kit import times
from lading.oci.descriptor import Descriptor
from lading.oci.digest import DiffID

_EPOCH: Final = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A cache ready to be written: its config, and its layers in the config's order."""

    config: Config
    layers: tuple[Descriptor, ...]
    """With annotations that an import needs."""
    diff_ids: tuple[DiffID, ...]


@dataclass(slots=True)
class _Blobs:
    """Layers by what they stand on, so that each stack stands once."""

    places: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])
    layers: list[Layer] = field(default_factory=list[Layer])
    parents: list[int] = field(default_factory=list[int])

    def add(self, stack: Sequence[Layer]) -> int:
        """The number of a stack's topmost layer."""
        top = cacheconfig.NOTHING
        for layer in stack:
            place = (layer.descriptor.digest, top)
            if place not in self.places:
                self.places[place] = len(self.layers)
                self.layers.append(layer)
                self.parents.append(top)
            top = self.places[place]
        return top


class CacheExporter:
    """Collects caches."""

    def __init__(self, cache: BuildCache, layers: Layers, local: object) -> None:
        """``local`` is the cache that the scheduler knows as its own."""
        self._cache = cache
        self._layers = layers
        self._local = local

    async def collect(
        self, results: Sequence[Solved[Tree]], form: LayerForm, *, everything: bool, lease: LeaseID
    ) -> Exported:
        """The cache of these results. With ``everything`` results of all steps are in it (``mode=max``), else those that the
        final ones are made of. Those of steps without inputs, such as base images, are not: they are as easily made as
        fetched (BuildKit, ``solver/exporter.go``). ``lease`` holds the layers.
        """
        keys = sorted({key for one in results for key in one.keys.of(self._local)})
        links, records = await self._cache.history(keys)
        trees = await self._trees(records)
        made = {link.target for link in links}
        final = {name for one in results for name in one.result.layers}
        for one in results:
            for key in one.keys.of(self._local):
                trees.setdefault(key, (one.result, 0))
        chosen = {
            key: tree
            for key, tree in trees.items()
            if tree[0].folder is None and key in made and (everything or final.issuperset(tree[0].layers))
        }
        blobs = _Blobs()
        tops: dict[str, Result] = {}
        for key in sorted(chosen):
            tree, created = chosen[key]
            stack = await self._layers.layers(tree, form, lease)
            if stack:
                when = times.format_nano(created) if created else _EPOCH
                tops[key] = Result(layer=blobs.add(stack), created_at=when)
        return _assemble(keys, links, tops, blobs)

    async def _trees(self, records: Mapping[str, str]) -> dict[str, tuple[Tree, int]]:
        """The tree of each key that has a record, and when it was made."""
        found: dict[str, tuple[Tree, int]] = {}
        for key, record in records.items():
            try:
                row = await self._cache.get(record)
            except NotFoundError:
                continue
            if row.mutable:
                continue
            top = row.extra.get("top")
            tree = Tree(
                layers=tuple(map(SnapshotName, row.layers)),
                top=SnapshotName(top) if top else None,
                blobs=row.blobs,
            )
            found[key] = (tree, row.created_at)
        return found


def _assemble(
    keys: Sequence[str], links: Sequence[LinkRow], tops: Mapping[str, Result], blobs: _Blobs
) -> Exported:
    """Records in an order that follows from what they say alone, so that the same cache gives the same config."""
    outputs: dict[str, str] = {link.target: link.output for link in links}
    every = {*keys, *(link.source for link in links), *outputs}
    names = {key: outputs.get(key, key) for key in every}
    usable = sorted(
        (key for key in every if names[key].startswith("sha256:")), key=lambda key: (names[key], key)
    )
    places = {key: number for number, key in enumerate(usable)}
    inputs: dict[str, dict[int, list[Input]]] = {}
    for link in links:
        if link.source in places and link.target in places:
            steps = inputs.setdefault(link.target, {}).setdefault(link.input, [])
            steps.append(Input(selector=link.selector, link=places[link.source]))
    records = [
        Record(
            digest=names[key],
            results=(tops[key],) if key in tops else (),
            inputs=tuple(
                tuple(sorted(inputs[key].get(number, []), key=lambda one: (one.link, one.selector)))
                for number in range(max(inputs[key]) + 1)
            )
            if key in inputs
            else (),
        )
        for key in usable
    ]
    layers = tuple(
        cacheconfig.Layer(blob=layer.descriptor.digest, parent=parent)
        for layer, parent in zip(blobs.layers, blobs.parents, strict=True)
    )
    return Exported(
        config=Config(layers=layers, records=tuple(records)),
        layers=tuple(_annotated(layer) for layer in blobs.layers),
        diff_ids=tuple(layer.diff_id for layer in blobs.layers),
    )


def _annotated(layer: Layer) -> Descriptor:
    created = times.format_nano(layer.created_at) if layer.created_at else _EPOCH
    annotations = {
        **layer.descriptor.annotations,
        cacheconfig.DIFF_ID: str(layer.diff_id),
        cacheconfig.CREATED_AT: created,
    }
    return msgspec.structs.replace(layer.descriptor, annotations=annotations)


def inline(exported: Exported, layers: Sequence[str]) -> bytes | None:
    """The config as it goes into an image with these layer blobs, bottom first; ``None`` if it has no result in them.

    Layers are numbered as in the image; results that are not in it are dropped, and then records that lead nowhere.
    """
    config = exported.config
    places: dict[int, int] = {}
    for top in range(len(config.layers)):
        stack = cacheconfig.layers_below(config, top)
        if [config.layers[one].blob for one in stack] == list(layers[: len(stack)]):
            places[top] = len(stack) - 1
    records = [
        msgspec.structs.replace(
            record,
            results=tuple(
                Result(layer=places[one.layer], created_at=one.created_at)
                for one in record.results
                if one.layer in places
            ),
        )
        for record in config.records
    ]
    if not any(record.results for record in records):
        return None
    return cacheconfig.encode_inline(Config(layers=cacheconfig.stacked(layers), records=tuple(records)))
